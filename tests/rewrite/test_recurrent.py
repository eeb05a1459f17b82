"""Units of recurrent layers come and go exactly, with what an optimiser remembers of them; removals are scored step by step."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gngraph
from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.equivalence import outputs64, relative_error
from gngraph.analysis.manager import AnalysisManager
from gngraph.files.archive import load, save
from gngraph.ir import Graph
from gngraph.lowering.probe import probe_of
from gngraph.lowering.to_torch import run, to_torch
from gngraph.ops import lookup
from gngraph.rewrite.masking import masked
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import Morphism, NewChannel, PruneChannel, SplitChannel, edits_of
from gngraph.rewrite.surgery import rewrite
from gngraph.running.problem import Problem
from gngraph.scoring.gauss_newton import GaussNewton
from gngraph.scoring.sites import not_followed, reads_by_space
from gngraph.source.export import to_source
from gngraph.training.optimizer_state import carry_state, extract
from tests.morphism_errors import applied, difference
from tests.recurrent_networks import NETWORKS, SHAPE, Cells, Layers, TupleOfStates

BAR = 1e-12


def network(name: str) -> Graph:
    torch.manual_seed(0)
    return gngraph.from_torch(NETWORKS[name][0](), torch.randn(SHAPE)).to(torch.float64)


@pytest.mark.parametrize("name", NETWORKS)
def test_units_are_split_added_and_removed_exactly(name: str, tmp_path: Path) -> None:
    graph = network(name)
    spaces = ChannelSpaces.of(graph)
    assert {space.name: space.size for space in spaces.free} == NETWORKS[name][1]
    grown: list[Morphism] = []
    for space in spaces.free:
        own: list[Morphism] = [SplitChannel(space.name, 1), NewChannel(space.name), NewChannel(space.name)]
        assert relative_error(graph, applied(graph, spaces, own)) < BAR
        prunes = [PruneChannel(space.name, channel) for channel in (1, 3)]
        smaller, reference = applied(graph, spaces, prunes), masked(graph, spaces, prunes)
        probe = probe_of(graph)
        assert difference(outputs64(reference, probe), outputs64(smaller, probe)) < BAR
        assert difference(outputs64(graph, probe), outputs64(smaller, probe)) > BAR
        grown += own
    larger = applied(graph, spaces, grown)
    assert relative_error(graph, larger) < BAR
    if name not in ("first states", "cells"):
        return
    save(larger, tmp_path / "model.gng")
    assert relative_error(larger, load(tmp_path / "model.gng")) == 0
    assert "nn.Module" in to_source(larger.to(torch.float32))  # which is run and compared before it is given


def test_a_projected_state_stays() -> None:
    layer = nn.Sequential(nn.LSTM(5, 6, batch_first=True, proj_size=3))
    graph = gngraph.from_torch(layer, torch.randn(SHAPE))
    assert not ChannelSpaces.of(graph).free
    assert any("the state is projected" in (space.frozen or "") for space in ChannelSpaces.of(graph))


def test_a_fill_that_nothing_learns_is_no_space() -> None:
    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(5, 4), nn.Linear(7, 2)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.last(torch.cat([torch.relu(self.first(x)), x.new_zeros(x.shape[0], 3)], 1))
            return y

    graph = gngraph.from_torch(Padded(), torch.randn(2, 5))
    spaces = ChannelSpaces.of(graph)
    assert [space.name for space in spaces.free] == ["first"]
    grown = applied(graph, spaces, [SplitChannel("first", 0), NewChannel("first")])
    assert relative_error(graph.to(torch.float64), grown.to(torch.float64)) < BAR
    assert grown.params["last.weight"].data.shape == (2, 9)


def trained(graph: Graph, optimizer: Any, steps: int) -> tuple[nn.Module, Any]:
    module = to_torch(graph).train()
    state = optimizer(module.parameters())
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        x = torch.randn(SHAPE, generator=generator, dtype=torch.float64)
        state.zero_grad()
        module(x).square().sum().backward()
        state.step()
    return module, state


def test_momentum_of_twins_is_what_training_them_leaves() -> None:
    """Copies of a unit receive half of its gradient each in their gates, and all of it where they are read."""
    graph = network("lstm")
    module, state = trained(graph, lambda p: torch.optim.SGD(p, 0.0, momentum=0.5), 3)
    spaces = ChannelSpaces.of(graph)
    result = rewrite(graph, spaces, edits_of(graph, spaces, [SplitChannel("layer", 2)]))
    carried = carry_state(extract(state, dict(module.named_parameters()), 3), graph, result)
    again, other = trained(result.graph, lambda p: torch.optim.SGD(p, 0.0, momentum=0.5), 3)
    for name, parameter in again.named_parameters():
        torch.testing.assert_close(carried.entries[name]["momentum_buffer"], other.state[parameter]["momentum_buffer"])


@pytest.mark.parametrize("name", ["lstm", "gru, two layers, both ways", "rnn without biases"])
def test_steps_are_torchs_arithmetic(name: str) -> None:
    graph = network(name)
    node = graph.nodes["layer"]
    steps = lookup(node.op).stepwise
    assert steps is not None
    x = torch.randn(2, 3, 4, dtype=torch.float64)
    module = to_torch(graph).get_submodule("layer")
    params = {role: graph.params[param].data for role, param in node.params.items()}
    expected, last = module(x)
    y, states = steps(node, params, x, None, lambda role, state, step: state)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(states, last)
    torch.testing.assert_close(steps(node, params, x, last, lambda role, state, step: state)[0], module(x, last)[0])


@pytest.mark.parametrize("name", ["lstm", "gru, two layers, both ways", "rnn without biases", "cells"])
def test_small_removals_are_predicted_by_what_reads_a_state_at_every_step(name: str) -> None:
    """Of units that are hardly read the first order is all there is."""
    graph, weak = network(name).to(torch.float32), 1e-3
    spaces = ChannelSpaces.of(graph)
    space = "cell" if name == "cells" else "layer"
    data = dict[str, Tensor]()
    for slot in spaces[space].slots:
        if slot.role.value == "consume":
            weight = data.get(slot.param, graph.params[slot.param].data).clone()
            weight.narrow(slot.axis, slot.offset, 2).mul_(weak)
            data[slot.param] = weight
    graph = graph.with_params(data)
    x, y = torch.randn(60, *SHAPE[1:]), torch.arange(60) % 3
    problem = Problem((x, y), learn=20, judge=20, report=20, device="cpu")
    scores = GaussNewton(kinds=("prune",), curvature="exact").run(graph, AnalysisManager(problem))
    predicted = scores.report.changes()
    rows = torch.utils.data.default_collate([problem.splits.report[i] for i in range(20)])
    for channel in (0, 1):
        at = next(i for i, c in enumerate(scores.candidates) if c.morphism == _prune_of(scores, space, channel))
        after = morph(graph, spaces, [scores.candidates[at].morphism]).graph
        before, less = (
            nn.functional.cross_entropy(run(g.to(torch.float64), rows[0].double()), rows[1]) for g in (graph, after)
        )
        assert float(predicted[at]) == pytest.approx(float(less - before), rel=0.02, abs=2e-8)


def _prune_of(scores: Any, space: str, channel: int) -> Any:
    return next(c.morphism for c in scores.candidates if (c.morphism.space, c.morphism.channel) == (space, channel))


@pytest.mark.parametrize(
    ("make", "told"), [(TupleOfStates, "'cell' are not .* tuple of states"), (Cells, "'gate' are not .* hands on")]
)
def test_what_no_gradient_tells_apart_is_not_scored_and_said(make: Callable[[], nn.Module], told: str) -> None:
    graph = gngraph.from_torch(make(), torch.randn(SHAPE))
    spaces = ChannelSpaces.of(graph)
    assert any(re.search(told, note) for note in not_followed(graph, spaces))
    assert not {"gate"} & set(reads_by_space(graph, spaces))


def test_an_lstm_is_shrunk() -> None:
    torch.manual_seed(0)
    graph = gngraph.from_torch(Layers(), torch.randn(SHAPE))
    data = (torch.randn(120, *SHAPE[1:]), torch.arange(120) % 3)
    shrunk = gngraph.shrink(graph, data, to=0.6, epochs=1).graph
    assert shrunk.params["layer.weight_hh_l0"].data.shape[1] < 6
