"""The search for the structure: what is proposed, what is taken of it, and that the run goes on with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gngraph
from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget, cost
from gngraph.analysis.manager import AnalysisManager
from gngraph.analysis.scope import Scope
from gngraph.api import grow
from gngraph.errors import OptionError, PassError
from gngraph.growth.history import without_seconds
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph, same_structure, verify
from gngraph.options import TrainOptions
from gngraph.report.words import round_told
from gngraph.search import depth, structure
from gngraph.search.depth import UNSEARCHED, TrialTraining
from gngraph.search.proposals import PROPOSALS, register_proposal
from tests.problems import problem, seed_graph

TRAIN = TrainOptions(batch_size=32, lr=0.05)
BUDGET = Budget(max_params=20_000, max_flops=400_000)


def vgg() -> Graph:
    """Five stages, the last three of two convolutions each."""
    return seed_graph("vgg11", 1 / 32)


def count(graph: Graph, word: str) -> int:
    """Parameters of which the name has a word in it."""
    return sum(word in name for name in graph.params)


def searched(graph: Graph, found: depth.Found = UNSEARCHED, epochs: int = 10_000) -> structure.FoundStructure:
    return structure.searched(graph, AnalysisManager(problem()), BUDGET, TRAIN, epochs, found)


FAMILIES = {
    "vgg11": {"early-pool", "skips", "separable", "seen-kernels", "low-rank", "squeeze-excite"},
    "resnet20": {
        *("pools", "early-pool", "coarser", "separable", "low-rank", "squeeze-excite", "full-kernels", "no-skips"),
        "deeper",
    },
    "mobilenet": {
        *("pools", "early-pool", "coarser", "dense", "skips", "seen-kernels", "wide-kernels", "squeeze-excite"),
        *("full-kernels", "no-skips", "deeper"),
    },
    "mlp": {"skips", "norms"},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_proposed_gives_a_network_that_can_grow(family: str) -> None:
    graph, analyses = seed_graph(family, 1 / 16), AnalysisManager(problem())
    proposed = {name: proposal(graph, analyses) for name, proposal in PROPOSALS.items()}
    assert {name for name, passes in proposed.items() if passes} == FAMILIES[family]
    for name in FAMILIES[family]:
        made = structure.restructured(graph, analyses, name)[-1].graph
        verify(made)
        assert ChannelSpaces.of(made).free and not same_structure(made, graph), name


def test_what_the_user_holds_is_not_proposed() -> None:
    graph, scope = vgg(), Scope(exclude=("features.8", "features.11"))
    held = PROPOSALS["separable"](graph, AnalysisManager(problem(), scope=scope))
    free = PROPOSALS["separable"](graph, AnalysisManager(problem()))
    assert {str(entry) for entry in free} - {str(entry) for entry in held} == {
        "separable{at=features_8}",
        "separable{at=features_11}",
    }
    early, scope = PROPOSALS["early-pool"], Scope(exclude=("features.0",))
    assert [str(entry) for entry in early(graph, AnalysisManager(problem()))] == [
        "move-pool{at=features_14,to=features_0}"
    ]
    assert not early(graph, AnalysisManager(problem(), scope=scope))
    resnet, scope = seed_graph("resnet20", 1 / 16), Scope(exclude=("stages.1.2.conv1",))
    deeper = PROPOSALS["deeper"]
    assert [str(entry) for entry in deeper(resnet, AnalysisManager(problem()))] == ["repeat-blocks{at=*}"]
    assert not deeper(resnet, AnalysisManager(problem(), scope=scope))


def test_changes_that_help_together_are_found_and_one_that_does_not_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure, "ENOUGH", 0)
    sizes = list[int]()

    def loss(training: TrialTraining, graph: Graph) -> float:
        sizes.append(training.samples * cost(graph).flops)
        return (
            2.0
            - 0.2 * bool(count(graph, "skip"))
            - 0.1 * bool(count(graph, "depthwise"))
            + 0.1 * count(graph, "reduce")
        )

    monkeypatch.setattr(TrialTraining, "loss", loss)
    graph = vgg()
    found = searched(graph)
    assert found.changes == ("skips", "separable") and found.removed == ()
    made = found.steps[-1].graph
    assert count(made, "skip") and count(made, "depthwise") and not count(made, "reduce")
    assert found.flops == sum(sizes) and BUDGET.allows(cost(made))
    record = found.record(graph)
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    tried = [tuple(trial["changes"]) for trial in record["tried"]]
    assert len(set(tried)) == len(tried) and ("low-rank", "skips") not in tried, "what did not help is not tried again"
    (told,) = round_told({"morphisms": {}, "structure": record})[1:]
    assert told == f"structure: skips, then separable, the best of {len(tried)} designs that were tried"


def test_a_change_that_helps_is_taken_at_once_and_depth_before_what_seldom_helps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(structure, "ENOUGH", 0)

    def loss(training: TrialTraining, graph: Graph) -> float:
        return 2.0 - 0.2 * bool(count(graph, "skip")) + 0.1 * sum(node.op == "conv2d" for node in graph.nodes.values())

    monkeypatch.setattr(TrialTraining, "loss", loss)
    graph, analyses = vgg(), AnalysisManager(problem())
    order = depth.kinds_kept(graph, depth.least_missed(graph, analyses, BUDGET))
    found = searched(graph, depth.Found(tuple(order), (), (), 0))
    assert found.changes == ("skips",) and found.removed
    tried = [(trial.design.removed, trial.design.changes) for trial in found.trials]
    at = tried.index((0, ("skips",)))
    assert tried[at + 1] == (1, ("skips",)), "no more than one step was tried between"
    assert all("skips" in changes for _, changes in tried[at:])


def test_luck_is_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure, "ENOUGH", 0)

    def lucky(training: TrialTraining, graph: Graph) -> float:
        return 2.0 if training.draw or not count(graph, "skip") else 1.5

    monkeypatch.setattr(TrialTraining, "loss", lucky)
    found = searched(vgg())
    assert found.changes == () and found.steps == ()
    assert {tuple(trial.design.changes): trial.losses for trial in found.trials}["skips",] == [1.5, 2.0]


@pytest.mark.parametrize(("epochs", "tried"), [(100, 0), (300, 3), (400, 5)])
def test_trials_cost_no_more_than_their_share(epochs: int, tried: int, monkeypatch: pytest.MonkeyPatch) -> None:
    most, spent = 0, 0

    def loss(training: TrialTraining, graph: Graph) -> float:
        nonlocal most, spent
        most = max(most, cost(graph).flops * epochs * len(training.problem.train))
        spent += cost(graph).flops * training.samples
        return 1.0 / (2 + len(graph.nodes))

    monkeypatch.setattr(TrialTraining, "loss", loss)
    found = searched(vgg(), epochs=epochs)
    assert spent == found.flops <= structure.AFFORDED * most
    assert len(found.trials) == tried and bool(found.changes) is (tried > 1)


def strides(graph: Graph) -> int:
    """By how much the first convolution over 8 x 8 makes its map coarser."""
    return 8 // int(next(node for node in graph.nodes.values() if node.op == "conv2d").shape[2])


def coarsened(monkeypatch: pytest.MonkeyPatch, gain: float) -> structure.FoundStructure:
    """The search over a chain of two convolutions of which trials say that every stride gains as much."""
    monkeypatch.setattr(TrialTraining, "loss", lambda _, graph: 2.0 - gain * strides(graph))
    layers = (nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
    graph = from_torch(
        nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)), torch.zeros(2, 1, 8, 8)
    )
    return structure.searched(graph, AnalysisManager(problem()), Budget(max_params=900), TRAIN, 400, UNSEARCHED)


def test_what_makes_networks_cheaper_is_tried_again_and_may_be_made_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    found = coarsened(monkeypatch, 0.2)
    assert {*found.changes} == {"coarser"} and strides(found.steps[-1].graph) == 2 ** len(found.changes) > 2
    assert len({trial.flops for trial in found.trials}) > 1


def test_coarser_maps_must_gain_more_than_other_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure, "ENOUGH", 1000)
    found = coarsened(monkeypatch, 0.1)
    fine, coarse = (next(t for t in found.trials if t.design.changes == changes) for changes in ((), ("coarser",)))
    assert coarse.coarseness - fine.coarseness > 1 and coarse.losses[0] < 0.95 * fine.losses[0] and not found.changes


def test_finer_maps_than_are_enough_need_not_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure, "ENOUGH", 20)
    assert coarsened(monkeypatch, 0.1).changes


def test_another_depth_is_found_that_only_the_longer_trials_prefer(monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(training: TrialTraining, graph: Graph) -> float:
        layers = sum(node.op == "conv2d" for node in graph.nodes.values())
        return 2.0 + (0.1 if training.draw else -0.001) * layers

    monkeypatch.setattr(TrialTraining, "loss", loss)
    monkeypatch.setattr(structure, "PROPOSALS", {})
    graph, analyses = vgg(), AnalysisManager(problem())
    order = depth.kinds_kept(graph, depth.least_missed(graph, analyses, BUDGET))
    found = searched(graph, depth.Found(tuple(order), (), (), 0))
    assert [(len(trial.losses), trial.design.removed) for trial in found.trials] == [(2, 0), (2, 1)]
    assert len(found.removed) == 1


def test_a_seed_of_too_few_blocks_gets_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure, "PROPOSALS", {"deeper": PROPOSALS["deeper"]})
    monkeypatch.setattr(TrialTraining, "loss", lambda _, graph: 2.0 - 0.3 * (count(graph, "conv1") == 16))
    graph = seed_graph("resnet20", 1 / 16)
    found = searched(graph)
    assert found.changes == ("deeper",), "9 blocks, of which the first of two stages cannot be repeated"
    assert count(graph, "conv1") == 9 and count(found.steps[-1].graph, "stages.2.4.conv1") == 1


class Deep(nn.Module):
    """So many narrow layers that next to nothing passes through all of them."""

    def __init__(self) -> None:
        super().__init__()
        inner = [part for _ in range(8) for part in (nn.Linear(6, 6), nn.ReLU())]
        self.chain = nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), *inner, nn.Linear(6, 10))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.chain(x)  # type: ignore[no-any-return]


def test_a_chain_that_is_too_deep_to_learn_is_changed_until_it_does() -> None:
    torch.manual_seed(0)
    graph = from_torch(Deep(), torch.zeros(2, 1, 8, 8))
    found = structure.searched(graph, AnalysisManager(problem()), Budget(max_params=2_000), TRAIN, 400, UNSEARCHED)
    losses = {trial.design.changes: trial.losses for trial in found.trials}
    assert {"skips", "norms"} & {*found.changes} and losses[found.changes][1] < 0.8 * losses[()][1]


def test_a_run_goes_on_with_what_was_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(structure, "AFFORDED", 100.0)
    monkeypatch.setattr(structure, "ENOUGH", 0)
    monkeypatch.setattr(
        TrialTraining,
        "loss",
        lambda _, graph: 2.0 - 0.2 * bool(count(graph, "skip")) - 0.1 * bool(count(graph, "depthwise")),
    )
    graph = vgg()
    told: dict[str, Any] = {"max_params": 12_000, "rounds": 1, "epochs": 1, "final_epochs": 1}
    first, again = (
        grow(graph, problem(), depth="keep", structure="search", train=TRAIN, out=tmp_path / name, **told)
        for name in "ab"
    )
    record = first.history[0]
    assert without_seconds(first.history) == without_seconds(again.history)
    assert record["structure"]["changes"] == ["skips", "separable"] and record["seconds"]["structure"] > 0
    assert record["morphisms"]["features_11"]["separable"] == 1
    assert any("skip" in entry for entry in record["morphisms"].values())
    assert cost(first.graph).params <= 12_000 and count(first.graph, "depthwise")
    assert record["depth"]["recovery"]["epochs"] == 1, "it is trained before anything is read off it"
    module = gngraph.to_torch(gngraph.load(tmp_path / "a" / "model.gng"))
    x = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(module.eval()(x), gngraph.to_torch(first.graph).eval()(x))


def test_what_is_asked_wrongly_is_told() -> None:
    with pytest.raises(OptionError, match="option 'structure' is 'all', but must be search or keep"):
        grow(vgg(), problem(), max_params=50_000, structure="all")
    with pytest.raises(PassError, match="two proposals of structure are called 'skips'"):
        register_proposal("skips", lambda graph, analyses: [])
