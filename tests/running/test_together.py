"""Networks run together give what each gives alone, to the bit, and compute once what they share."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gngraph import from_torch
from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.topology import cut_points
from gngraph.ir import Graph
from gngraph.lowering.layout import layout_of
from gngraph.rewrite.layer_removal import removable_layers
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import InsertLayer, Morphism, NewChannel, PruneChannel, RemoveLayer, SplitChannel
from gngraph.running.batchnorm import reestimate, settled
from gngraph.running.evaluation import mean_loss, mean_losses, sample_losses
from gngraph.running.problem import Problem
from gngraph.running.together import Together, alike
from tests.problems import dropping, problem, seed_graph


class Written(nn.Module):
    """Writes into what it reads, by an op that gngraph does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(64, 6), nn.Linear(6, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x.flatten(1))
        h.index_fill_(1, torch.tensor([0]), 1.0)
        y: Tensor = self.b(h)
        return y


class Viewed(nn.Module):
    """Flattens as it can only where every sample lies in order in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 4, 3), nn.Linear(144, 10)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.a(x))
        y: Tensor = self.b(h.view(h.shape[0], -1))
        return y


def changed(graph: Graph) -> list[Graph]:
    """The graph after changes of several kinds, each at another place."""
    spaces = ChannelSpaces.of(graph)
    first, *_, last = (space.name for space in spaces.free)
    morphisms: list[Morphism] = [
        PruneChannel(first, 0), SplitChannel(last, 0), NewChannel(first),
        InsertLayer(cut_points(graph, spaces)[0].value),
        *(RemoveLayer(layer.value) for layer in removable_layers(graph, spaces) if not layer.reads),
    ]  # fmt: skip
    return [morph(graph, spaces, [morphism]).graph for morphism in morphisms]


def test_alike_ends_where_two_networks_first_differ() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(80, 10)
    )
    graph = from_torch(net.eval(), torch.zeros(1, 1, 8, 8))
    first, second = (space.name for space in ChannelSpaces.of(graph).free)
    others = [
        morph(graph, ChannelSpaces.of(graph), [m]).graph
        for m in (PruneChannel(first, 1), SplitChannel(second, 2), PruneChannel(second, 0))
    ]
    assert [len(alike(graph, other)) for other in others] == [1, 4, 4]
    assert alike(graph, replace(graph)) == list(graph.nodes)


@pytest.mark.parametrize("name", ["resnet20", "mobilenet", "vgg11"])
def test_losses_are_those_of_each_network_alone(name: str) -> None:
    graph, task = seed_graph(name, 1 / 8), problem()
    graphs, judge = [graph, *changed(graph)], task.splits.judge
    together = Together(graphs, task.runner.function)
    assert mean_losses(together, task, judge) == [mean_loss(one, task, judge) for one in graphs]
    means = sample_losses(together, task, judge).mean(1)
    assert means.tolist() == pytest.approx(mean_losses(together, task, judge), rel=1e-12)


def test_statistics_measured_together_are_those_of_each_network_alone() -> None:
    graph, task = seed_graph("resnet20", 1 / 8), problem()
    graphs, judge = [graph, *changed(graph)], task.splits.judge
    found = mean_losses(settled(graphs, task, batches_read=3), task, judge)
    assert found == [mean_loss(reestimate(one, task, batches_read=3), task, judge) for one in graphs]
    assert len({round(loss, 6) for loss in found}) > 3


def test_what_is_shared_is_computed_once() -> None:
    graph, task = seed_graph("resnet20", 1 / 8), problem()
    others = changed(graph)[-6:]
    ran: list[int] = []

    def counted(part: Graph) -> Any:
        function = task.runner.function(part)

        def run(*inputs: Any) -> Any:
            ran.append(len(part.nodes))
            return function(*inputs)

        return run

    for x, _ in task.runner.read(task.splits.judge, graph):
        for _ in Together([graph, *others], counted).outputs(x):
            pass
        break
    assert len(ran) == 7 and sum(ran) < 0.75 * sum(len(one.nodes) for one in (graph, *others))


def test_a_module_that_is_called_twice_is_not_split_from_itself() -> None:
    graph, task = dropping(), problem()
    space = ChannelSpaces.of(graph).free[-1].name
    other = morph(graph, ChannelSpaces.of(graph), [PruneChannel(space, 0)]).graph
    graphs = [graph, other]
    assert mean_losses(settled(graphs, task), task, task.splits.judge) == [
        mean_loss(reestimate(one, task), task, task.splits.judge) for one in graphs
    ]


def test_a_foreign_op_may_write_so_nothing_is_shared() -> None:
    torch.manual_seed(0)
    graph, task = from_torch(Written(), torch.zeros(2, 1, 8, 8)), problem()
    assert "foreign" in {node.op for node in graph.nodes.values()}
    weight = graph.params["b.weight"].data
    other = graph.with_params({"b.weight": 2 * weight})
    assert alike(graph, other) == list(graph.inputs)
    together = Together([graph, other, other], task.runner.function)
    judge = task.splits.judge
    assert mean_losses(together, task, judge) == [mean_loss(one, task, judge) for one in (graph, other, other)]


def test_networks_that_want_samples_laid_out_otherwise_run_on_them_as_they_want_them() -> None:
    torch.manual_seed(0)
    images = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    graphs = [from_torch(net, torch.zeros(2, 1, 8, 8)) for net in (images, Viewed())]
    assert layout_of(graphs[0]) is not layout_of(graphs[1])
    task: Problem = problem()
    for order in (graphs, graphs[::-1]):
        found = mean_losses(Together(order, task.runner.function), task, task.splits.judge)
        assert found == pytest.approx([mean_loss(one, task, task.splits.judge) for one in order], rel=1e-6)
