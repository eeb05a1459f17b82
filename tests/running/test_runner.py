"""Networks are lowered once and samples read once, nobody changes what is kept, and what does not fit is read as it comes."""

from __future__ import annotations

import gc
import pickle
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Subset

from gngraph import from_torch, to_torch
from gngraph.data import HeldDataset, MapDataset, Preprocess, SampleDataset, batches
from gngraph.data.held import read_whole
from gngraph.ir import Graph
from gngraph.lowering import Lowered, lower
from gngraph.options import TrainOptions
from gngraph.running.batchnorm import reestimate
from gngraph.running.evaluation import evaluate, mean_loss
from gngraph.running.problem import Problem
from gngraph.running.runner import Runner
from gngraph.search.trials import with_few
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer

CPU = torch.device("cpu")


def network() -> Graph:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    return from_torch(net, torch.zeros(2, 1, 4, 4))


class Counting(Dataset[Any]):
    """Samples of a user's own, each drawn anew at every reading where `noise` is not 0."""

    def __init__(self, count: int, noise: float = 0.0) -> None:
        self.reads = 0
        self.noise = noise
        self.x = torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(1))

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.reads += 1
        return self.x[index] + self.noise * torch.randn(1, 4, 4), index % 3


class Stored(SampleDataset):
    """Bytes that are read one batch at a time, as pictures are decoded."""

    preprocess = Preprocess(255.0, (0.5,), (0.25,), (1, 4, 4))

    def __init__(self, count: int) -> None:
        self.reads = 0
        self.raw = torch.randint(256, (count, 1, 4, 4), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)

    @property
    def labels(self) -> Tensor:
        return torch.arange(len(self.raw)) % 3

    def stored(self, indices: Sequence[int]) -> Tensor:
        self.reads += len(indices)
        return self.raw[torch.as_tensor(indices)]


@dataclass
class Own:
    train: Any
    test: Any


def problem(train: Any, test: Any = None) -> Problem:
    return Problem(Own(train, train if test is None else test), batch_size=16, device="cpu")


def test_a_graph_is_lowered_once_and_let_go_of(monkeypatch: pytest.MonkeyPatch) -> None:
    lowered: list[Graph] = []

    def counting(graph: Graph) -> Lowered:
        lowered.append(graph)
        return lower(graph)

    monkeypatch.setattr("gngraph.running.runner.lower", counting)
    task, graph = problem(Counting(60)), network()
    losses = {mean_loss(graph, task, task.splits.judge) for _ in range(3)}
    evaluate(graph, task, task.test)
    evaluate(graph, task.trained_on(task.splits.learn), task.test)
    assert len(lowered) == 1 and len(losses) == 1
    gone = weakref.ref(graph)
    del graph
    gc.collect()
    assert gone() is None, "the runner holds a graph that nobody else does"
    assert not task.runner._lowered


def test_outputs_are_those_of_the_module() -> None:
    task, graph = problem(Counting(60)), network()
    x = torch.randn(5, 1, 4, 4)
    found = task.runner.outputs(graph, x)
    assert torch.equal(found, to_torch(graph)(x)) and not found.requires_grad


def test_training_and_new_statistics_leave_what_is_kept_as_it_was() -> None:
    task, graph = problem(Counting(60)), network()
    x = torch.randn(5, 1, 4, 4)
    before = task.runner.outputs(graph, x)
    kept = {name: p.data.clone() for name, p in graph.params.items()}
    measured = reestimate(graph, task)
    trained = Trainer(task, TrainOptions(lr=0.1, batch_size=16)).train(graph, Stretch(1)).graph
    assert torch.equal(task.runner.outputs(graph, x), before)
    assert all(torch.equal(p.data, kept[name]) for name, p in graph.params.items())
    for other in (measured, trained):
        assert not torch.equal(task.runner.outputs(other, x), before)


def test_every_value_is_seen_where_it_is_computed() -> None:
    task, graph = problem(Counting(60)), network()
    x, seen = torch.randn(5, 1, 4, 4), dict[str, Any]()
    task.runner.watch(graph, x, seen.__setitem__)
    assert list(seen) == list(graph.nodes)
    assert torch.equal(seen[graph.outputs[0]], task.runner.outputs(graph, x))


@pytest.mark.parametrize("make", [Counting, Stored])
def test_what_is_measured_on_is_read_once_and_as_it_would_be_streamed(make: Any) -> None:
    data = make(60)
    task, graph = problem(data), network()
    judge = task.splits.judge
    streamed = list(batches(judge, 16))
    data.reads = 0
    for _ in range(3):
        for (x, y), (same_x, same_y) in zip(task.runner.read(judge, graph), streamed, strict=True):
            assert torch.equal(x, same_x) and torch.equal(y, same_y)
            x.zero_()  # whoever reads may write: it is the reader's own
    assert data.reads == len(judge)


def test_bytes_are_held_as_bytes() -> None:
    held = read_whole(Subset(Stored(60), range(20)), CPU, 10**6)
    assert held is not None and held.x.dtype == torch.uint8 and held.nbytes == 20 * 16 + 20 * 8


def test_what_does_not_fit_is_read_every_time() -> None:
    data, graph = Counting(60), network()
    runner = Runner(CPU, 16, memory=60 * (16 * 4 + 8) + 100)
    part = Subset(data, range(10))
    for reads, samples in ((60, data), (60, data), (70, part), (80, part)):
        list(runner.read(samples, graph))
        # the first batch tells how large it is, once
        assert data.reads == reads + (10 if samples is part else 0)


def test_memory_is_free_again_when_a_data_set_goes() -> None:
    data, graph = Counting(60), network()
    runner = Runner(CPU, 16, memory=10 * (16 * 4 + 8))
    for start in (0, 10, 20):
        part = Subset(data, range(start, start + 10))
        data.reads = 0
        for _ in range(3):
            list(runner.read(part, graph))
        assert data.reads == 10
        del part
        gc.collect()


def test_samples_that_are_drawn_anew_are_trained_on_as_they_come_and_measured_on_once() -> None:
    data = Counting(60, noise=1.0)
    task, graph = problem(data), network()
    epochs = [
        torch.cat([x for x, _ in task.runner.read_to_train(data, graph, task.stream(), augment=None)]) for _ in "ab"
    ]
    assert not torch.equal(*epochs)
    assert len({mean_loss(graph, task, task.train) for _ in range(3)}) == 1
    again = torch.cat([x for x, _ in task.runner.read_to_train(data, graph, task.stream(), augment=None)])
    assert not torch.equal(again, epochs[0]) and not torch.equal(again, epochs[1])


def test_a_part_of_a_problem_shares_its_samples() -> None:
    data = Stored(60)
    task, graph = problem(data), network()
    apart = with_few(task, 20)
    data.reads = 0
    for _ in range(2):
        list(apart.runner.read_to_train(apart.train, graph, apart.stream(), augment=None))
        mean_loss(graph, apart, task.splits.judge)
        mean_loss(graph, task, task.splits.judge)
    assert data.reads == 20 + len(task.splits.judge)


def test_samples_of_several_shapes_are_streamed() -> None:
    samples = [(torch.zeros(2, side), 0) for side in (3, 4) for _ in range(300)]

    class Several(Dataset[Any]):
        def __len__(self) -> int:
            return len(samples)

        def __getitem__(self, index: int) -> Any:
            return samples[index]

    assert read_whole(Several(), CPU, 10**6) is None


def test_a_list_is_a_data_set_too() -> None:
    samples: MapDataset = [(torch.zeros(1, 4, 4), 0)] * 20
    found = list(Runner(CPU, 16).read(samples, network()))
    assert [len(x) for x, _ in found] == [16, 4]


def test_tensors_of_a_user_are_not_copied() -> None:
    x, y = torch.randn(60, 1, 4, 4), {"a": torch.arange(60), "b": (torch.zeros(60),)}
    task = Problem((x, y), device="cpu", loss=lambda output, target: output.sum(1))
    assert isinstance(task.samples, HeldDataset) and task.samples.x is x
    first, targets = task.samples[3]
    assert torch.equal(first, x[3]) and targets == {"a": torch.tensor(3), "b": (torch.tensor(0.0),)}
    list(task.runner.read(task.splits.judge, network()))
    assert not task.runner._copied


def test_a_problem_goes_to_another_process_without_what_its_runner_holds() -> None:
    graph, task = network(), problem(Stored(40))
    expected = mean_loss(graph, task, task.train)
    sent = pickle.loads(pickle.dumps(task))
    assert sent.runner is not task.runner and sent.runner.batch_size == 16
    assert mean_loss(graph, sent, sent.train) == expected
