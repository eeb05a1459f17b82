"""The search for the depth: it finds what it should where the answer is known, and the run goes on from it."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import gngraph
from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget, cost
from gngraph.analysis.manager import AnalysisManager
from gngraph.api import grow
from gngraph.errors import OptionError, TrainingError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.options import TrainOptions
from gngraph.rewrite.layer_removal import removable_layers
from gngraph.search import depth
from gngraph.search.depth import searched, without
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer
from gngraph.zoo import build_seed
from tests.problems import problem, seed_graph, small_vgg

TRAIN = TrainOptions(batch_size=32, lr=0.05)


def deep_chain(layers: int = 12) -> Graph:
    """So many narrow layers that next to nothing passes through all of them."""
    torch.manual_seed(0)
    inner: list[nn.Module] = [part for _ in range(layers) for part in (nn.Linear(4, 4), nn.ReLU())]
    return from_torch(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.ReLU(), *inner, nn.Linear(4, 10)), torch.zeros(2, 1, 8, 8)
    )


def linears(graph: Graph) -> int:
    return sum(node.op == "linear" for node in graph.nodes.values())


@pytest.mark.parametrize("most", [0, 1, 2, 3, 4, 7, 12, 33])
def test_the_search_finds_about_where_the_loss_is_least(most: int) -> None:
    for least in range(most + 1):
        asked: list[int] = []

        def loss(count: int, least: int = least, asked: list[int] = asked) -> float:
            asked.append(count)
            return 1.0 + 0.1 * abs(count - least)

        assert abs(depth._least(loss, most) - least) <= max(0, most - 1) // 6
        assert len(set(asked)) == len(asked) <= 7


def test_of_depths_about_as_good_the_deepest_is_taken() -> None:
    assert depth._least(lambda count: 1.0, 9) == 0
    assert depth._least(lambda count: [1.5, 1.005, 1.0, 1.2][count], 3) == 1


def test_trials_are_a_share_of_the_run_and_longer_where_an_epoch_has_few_steps() -> None:
    runs = ((60, 10_000), (400, 10_000), (28, 50_000), (90, 1_000_000), (60, 512), (5, 512))
    assert [depth.trial_length(*run, 128) for run in runs] == [4096, 20_000, 7000, 450_000, 1536, 512]


def test_a_chain_that_is_too_deep_loses_layers_and_learns() -> None:
    graph, limit = deep_chain(), 2_000
    runs = {
        kind: grow(
            graph, problem(), max_params=limit, rounds=2, epochs=10, final_epochs=40, depth=kind, allocation="equal-worths",
            train=TRAIN,
        )
        for kind in ("search", "keep")
    }  # fmt: skip
    assert linears(runs["keep"].graph) == linears(graph) == 14
    assert linears(runs["search"].graph) < 10
    assert "depth" not in runs["keep"].history[0]
    record = runs["search"].history[0]["depth"]
    assert json.loads(json.dumps(record)) == record
    tried = {entry["removed"]: entry["loss"] for entry in record["tried"]}
    assert tried[len(record["removed"])] < tried[min(tried)] and record["samples"] == 3 * len(problem().train)
    assert cost(runs["search"].graph).params <= limit
    accuracy = {kind: run.history[-1]["accuracy"] for kind, run in runs.items()}
    assert accuracy["search"] > accuracy["keep"] + 0.1, accuracy


def test_the_layer_that_does_nothing_goes_first() -> None:
    task = problem()
    seed = Trainer(task, TRAIN).train(seed_graph("mlp", 0.1), Stretch(5)).graph
    deeper = gngraph.PassManager("insert-layer{block=layer,count=1}").run(seed).graph
    (idle,) = [layer.value for layer in removable_layers(deeper, ChannelSpaces.of(deeper)) if "inserted" in layer.value]
    assert depth.least_missed(deeper, AnalysisManager(task), Budget(max_params=5_000))[0].value == idle


def test_every_resolution_keeps_a_layer() -> None:
    def conv(wide: int, *pool: nn.Module) -> list[nn.Module]:
        return [nn.Conv2d(wide, 3, 3, padding=1), nn.ReLU(), *pool]

    half = nn.MaxPool2d(2)
    layers = [*conv(1), *conv(3, half), *conv(3), *conv(3, half), *conv(3, half), *conv(3)]
    graph = from_torch(nn.Sequential(*layers, nn.Flatten(), nn.Linear(3, 10)), torch.zeros(2, 1, 8, 8))
    first, a, b, c, d = removable_layers(graph, ChannelSpaces.of(graph))
    assert depth.kinds_kept(graph, [a, b, first, c, d]) == [a, first, d]  # the last has the head's resolution
    assert depth.kinds_kept(graph, [d, c, b, a]) == [d, b]


def test_tokens_keep_an_attention() -> None:
    gpt = build_seed("gpt", width=0.125, classes=5, input_shape=(4,))
    graph = from_torch(gpt, torch.zeros(2, 4, dtype=torch.long))
    layers = removable_layers(graph, ChannelSpaces.of(graph))
    attentions = [layer for layer in layers if any(graph.nodes[name].op == "attention" for name in layer.nodes)]
    assert 1 < len(attentions) < len(layers)
    assert depth.kinds_kept(graph, attentions) == attentions[:-1]
    assert depth.kinds_kept(graph, [*attentions, *layers])[: len(attentions) - 1] == attentions[:-1]


def test_a_layer_that_can_go_at_the_widths_of_the_seed_alone_is_ranked_by_its_share_there() -> None:
    task = problem()
    net = nn.Sequential(build_seed("unet", width=0.13, input_shape=(1, 8, 8)), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    graph, analyses, budget = from_torch(net, torch.zeros(2, 1, 8, 8)), AnalysisManager(task), Budget(max_params=15_000)
    spaces = ChannelSpaces.of(wide := depth.at_budget(graph, budget, analyses))
    ranked = [layer.value for layer in depth.least_missed(graph, analyses, budget)]
    assert {*ranked} > {layer.value for layer in removable_layers(wide, spaces)}, "one reads a skip of another width"


def test_nothing_is_trained_where_no_layer_can_go() -> None:
    graph = from_torch(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 10)), torch.zeros(2, 1, 8, 8)
    )
    found = searched(graph, AnalysisManager(problem()), Budget(max_params=1000), TRAIN, 20)
    assert found.removed == () and found.record(graph) == {"removed": [], "tried": [], "samples": 0}


def test_trials_use_up_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    class Told(Trainer):
        def train(self, graph, *args, **kwargs):  # type: ignore[no-untyped-def]
            sizes.append(cost(graph).params)
            return super().train(graph, *args, **kwargs)

    monkeypatch.setattr(depth, "Trainer", Told)
    graph = small_vgg()
    budget = Budget(max_params=20 * cost(graph).params)
    searched(graph, AnalysisManager(problem()), budget, TRAIN, 20)
    assert len(sizes) >= 3
    assert all(0.5 < size / (budget.max_params or 1) <= 1 for size in sizes)


class Normed(nn.Module):
    """Residual blocks on a stream that softmax freezes: channels are free inside of them alone."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head, self.norm = nn.Linear(64, 6), nn.Linear(6, 10), nn.Softmax(-1)
        self.wide = nn.ModuleList(nn.Linear(6, 4) for _ in range(3))
        self.back = nn.ModuleList(nn.Linear(4, 6) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.stem(x.flatten(1)))
        for wide, back in zip(self.wide, self.back, strict=True):
            x = x + back(torch.relu(wide(x)))
        y: torch.Tensor = self.head(x)
        return y


def test_layers_are_left_that_have_channels_to_grow_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(depth.TrialTraining, "loss", lambda _, graph: float(linears(graph)))  # the shallower the better
    graph = from_torch(Normed(), torch.zeros(2, 1, 8, 8))
    blocks = [layer.value for layer in removable_layers(graph, ChannelSpaces.of(graph))]
    assert len(blocks) == 3 and not ChannelSpaces.of(without(graph, blocks)).free
    found = searched(graph, AnalysisManager(problem()), Budget(900), TRAIN, 2)
    left = without(graph, [layer.value for layer in found.removed])
    assert len(found.removed) == 2 and len(ChannelSpaces.of(left).free) == 1


def test_a_trial_that_diverges_is_no_end_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Diverging(Trainer):
        def train(self, graph, *args, **kwargs):  # type: ignore[no-untyped-def]
            if linears(graph) > 4:
                raise TrainingError("the loss became non-finite")
            return super().train(graph, *args, **kwargs)

    monkeypatch.setattr(depth, "Trainer", Diverging)
    graph = deep_chain(6)
    found = searched(graph, AnalysisManager(problem()), Budget(max_params=2_000), TRAIN, 60)
    assert linears(without(graph, [layer.value for layer in found.removed])) <= 4
    tried = {entry["removed"]: entry["loss"] for entry in found.record(graph)["tried"]}
    assert None in tried.values() and tried[len(found.removed)] < 10


def test_an_architecture_without_layers_is_what_is_left_of_it() -> None:
    graph = deep_chain(3)
    values = [layer.value for layer in removable_layers(graph, ChannelSpaces.of(graph))]
    assert len(values) == 3 and linears(without(graph, values[1:])) == 3


def test_an_unknown_depth_is_told() -> None:
    with pytest.raises(OptionError, match="option 'depth' is 'deep', but must be auto or search or keep"):
        grow(small_vgg(), problem(), max_params=5000, depth="deep")
