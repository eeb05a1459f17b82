"""Where memory runs out, less is done at a time, and that is said; what cannot fit is refused before it is tried."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from gngraph.analysis.manager import AnalysisManager
from gngraph.api import grow
from gngraph.errors import BudgetError, GnGraphNote
from gngraph.options import GrowOptions, TrainOptions
from gngraph.running.evaluation import mean_loss
from gngraph.running.memory import MemoryShortError, in_halves
from gngraph.running.problem import Problem
from gngraph.running.runner import Runner
from gngraph.scoring.collect import Collector
from gngraph.scoring.gauss_newton import GaussNewton
from gngraph.training.gradients import Gradients
from gngraph.training.objective import OfLoss
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer
from tests.problems import digits, problem, seed_graph

KINDS = {
    "gpu": torch.OutOfMemoryError("CUDA out of memory"),
    "python": MemoryError(),
    "cpu": RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory"),
}


def limited(function: Callable[..., Any], most: int, error: Exception = KINDS["gpu"]) -> Callable[..., Any]:
    """A method of samples x in which memory runs out where there are more than `most`."""

    def run(self: Any, x: Any, *others: Any) -> Any:
        samples = next(a for a in (x, *others) if isinstance(a, torch.Tensor))
        if len(samples) > most:
            raise error
        return function(self, x, *others)

    return run


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_that_does_not_fit_is_computed_in_pieces_and_stays_the_same_step(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, options, graph = problem(), TrainOptions(batch_size=32), seed_graph()
    whole = Trainer(task, options).train(graph, Stretch(2))
    monkeypatch.setattr(Gradients, "_passes", limited(Gradients._passes, 8, KINDS[kind]))
    trainer = Trainer(task, options)
    with pytest.warns(GnGraphNote, match="memory ran out in a step of training: it goes on with 8 samples at a time"):
        pieces = trainer.train(graph, Stretch(2))
    assert trainer.piece == 8
    assert [e.loss for e in pieces.epochs] == pytest.approx([e.loss for e in whole.epochs], rel=1e-4)
    for name, parameter in whole.graph.params.items():
        torch.testing.assert_close(pieces.graph.params[name].data, parameter.data, rtol=1e-3, atol=1e-4)


def test_no_piece_has_a_single_sample() -> None:
    seen: list[int] = []

    class Seen(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(len(x))
            return x * self.weight

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

    module = Seen()
    loss = Problem((torch.zeros(3, 2), torch.zeros(3, 2)), loss="mse", device="cpu").loss_fn
    optimizer = torch.optim.SGD(module.parameters())
    sums = Gradients(module, OfLoss(loss), optimizer, torch.device("cpu"), piece=4)(torch.ones(9, 2), torch.zeros(9, 2))
    assert seen == [4, 5] and float(sums.loss) == 9.0


def test_what_does_not_fit_in_the_smallest_pieces_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Gradients, "_passes", limited(Gradients._passes, 1))
    with (
        pytest.warns(GnGraphNote),
        pytest.raises(MemoryShortError, match="in a step of training, with 2 samples at a time too"),
    ):
        Trainer(problem(), TrainOptions(batch_size=8)).train(seed_graph(), Stretch(1))


def test_an_analysis_and_an_evaluation_take_fewer_samples_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = seed_graph()
    loss = mean_loss(graph, problem(), problem().test)
    monkeypatch.setattr(Collector, "collect", limited(Collector.collect, 16))
    monkeypatch.setattr(Runner, "_run", limited(Runner._run, 16))
    task = Problem(digits(), device="cpu", batch_size=64)
    with pytest.warns(GnGraphNote, match="memory ran out in an analysis: it goes on with 16 samples at a time"):
        scores = AnalysisManager(task).get(GaussNewton(), graph)
    assert scores.candidates and task.runner.batch_size == 16
    task = Problem(digits(), device="cpu", batch_size=64)
    with pytest.warns(GnGraphNote, match="memory ran out in an evaluation"):
        assert mean_loss(graph, task, task.test) == pytest.approx(loss)


def test_other_errors_are_not_taken_for_it() -> None:
    def work(size: int) -> int:
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        in_halves("a test", 8, work)


@pytest.mark.parametrize("budget", [{"max_params": "1000000G"}, {"max_flops": "1000000000G"}])
def test_a_budget_beyond_the_machine_is_refused_before_anything_is_tried(budget: dict[str, Any]) -> None:
    with pytest.raises(BudgetError, match=r"to train these takes [\d,]+ GiB, where 'cpu' has \d+; ask for fewer"):
        grow(seed_graph(), problem(), GrowOptions(**budget))
