"""What may change: patterns of spaces and layers, multiples of widths, and layers that are frozen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import gngraph
from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget, cost
from gngraph.analysis.manager import AnalysisManager
from gngraph.analysis.scope import Scope
from gngraph.errors import OptionError, PassError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.options import TrainOptions
from gngraph.scoring.gauss_newton import GaussNewton
from gngraph.search.depth import least_missed
from tests.problems import problem, small_vgg

TRAIN = TrainOptions(batch_size=32)
KEPT: dict[str, Any] = {"rounds": 1, "epochs": 0, "final_epochs": 0, "depth": "keep", "perturb": 0.0, "train": TRAIN}


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Flatten(), nn.Linear(64, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(6, 10))


def widths(graph: Graph) -> dict[str, int]:
    return {space.name: space.size for space in ChannelSpaces.of(graph)}


def test_what_is_excluded_keeps_its_shape_and_only_what_is_named_changes() -> None:
    grown = gngraph.grow(chain(), problem(), max_params=1_500, exclude=["3"], **KEPT)
    assert widths(grown.graph) | {"5": 6} == {"1": 6, "3": 6, "5": 6, "7": 10}, "what layer 3 reads and writes stays"
    assert widths(grown.graph)["5"] > 6
    grown = gngraph.grow(chain(), problem(), max_params=1_500, only=["3"], **KEPT)
    assert widths(grown.graph)["3"] > 6 and widths(grown.graph) | {"3": 6} == {"1": 6, "3": 6, "5": 6, "7": 10}


def test_excluded_layers_do_not_go_and_none_are_inserted_beside_them() -> None:
    graph = from_torch(chain(), torch.zeros(2, 1, 8, 8))
    analyses = AnalysisManager(problem(), scope=Scope(exclude=("3",)))
    layers = [layer.title(graph) for layer in least_missed(graph, AnalysisManager(problem()), Budget(2_000))]
    assert {"3", "5"} <= {*layers}
    assert "3" not in [layer.title(graph) for layer in least_missed(graph, analyses, Budget(2_000))]
    found = analyses.get(GaussNewton(kinds=("insert", "prune", "merge", "new", "split")), graph).candidates
    assert {c.morphism.space for c in found if c.morphism.kind != "insert"} == {"5"}
    assert all(c.site not in ("1", "2", "3", "4") for c in found if c.morphism.kind == "insert")


def test_patterns_name_modules_and_all_in_them() -> None:
    scope = Scope(only=("body.?",), exclude=("body.1.*.weights",))
    assert scope.names("body.1.conv") and not scope.names("body.10.conv") and not scope.names("body.1.a.weights.b")


@pytest.mark.parametrize("option", ["only", "exclude"])
def test_patterns_that_name_nothing_are_refused(option: str) -> None:
    with pytest.raises(PassError, match=rf"'4\*' \({option}\) names no channel space and no layer"):
        gngraph.grow(chain(), problem(), {"max_params": 2_000, option: ["4*"]})
    with pytest.raises(PassError, match="no free channel space to score"):
        gngraph.grow(chain(), problem(), max_params=2_000, exclude=["*"])


def test_a_grower_keeps_to_it_too() -> None:
    grower = gngraph.Grower(chain(), problem(), max_params=2_000, rounds=1, exclude=["7"], round_to=4)
    change = grower.step()
    assert "5" not in change.widths and change.widths and all(new % 4 == 0 for _, new in change.widths.values())


@pytest.mark.parametrize("allocation", ["worth", "uniform"])
def test_widths_that_change_become_multiples(allocation: str) -> None:
    seed = small_vgg()
    grown = gngraph.grow(seed, problem(), max_params=9_000, round_to=8, allocation=allocation, **KEPT)
    before, after = widths(seed), widths(grown.graph)
    assert cost(grown.graph).params <= 9_000 and before != after
    assert all(after[name] % 8 == 0 for name in before if after[name] != before[name])
    less = gngraph.shrink(grown.graph, problem(), to=0.6, round_to=4, epochs=0)
    assert all(size % 4 == 0 for name, size in widths(less.graph).items() if size != after[name])
    assert widths(less.graph) != after


def test_a_width_of_heads_is_counted_in_their_entries() -> None:
    net = nn.TransformerEncoderLayer(16, 4, 8, batch_first=True)
    spaces = ChannelSpaces.of(from_torch(net.eval(), torch.zeros(2, 5, 16)))
    (heads,) = (space for space in spaces if space.size == 4)
    assert [Scope(multiple=count).step(heads) for count in (1, 4, 8)] == [1, 1, 2]


def test_multiples_that_cannot_be_kept_are_refused() -> None:
    for own in ({"allocation": "none"}, {"kinds": ("split", "insert")}):
        with pytest.raises(OptionError, match="widths can be multiples"):
            gngraph.GrowOptions.of(own, max_params=9_000, round_to=8)


def test_frozen_layers_are_rewritten_and_never_trained() -> None:
    net = chain()
    net.get_submodule("3").requires_grad_(False)
    kept = net.get_parameter("3.weight").detach().clone()
    options = KEPT | {"epochs": 1, "final_epochs": 1, "perturb": 0.3}
    grown = gngraph.grow(net, problem(), max_params=1_500, kinds=["prune"], **options)
    assert not grown.graph.params["3.weight"].trainable and not grown.graph.params["3.bias"].trainable
    module = gngraph.to_torch(grown.graph)
    own = dict(module.named_parameters())
    assert not own["3.weight"].requires_grad and own["5.weight"].requires_grad
    assert widths(grown.graph)["3"] > 6, "it may be rewritten"
    rows, columns = grown.lineage["3"], grown.lineage["1"]
    old = [(i, j) for i in range(len(rows)) for j in range(len(columns)) if min(rows[i], columns[j]) >= 0]
    assert len(old) == 36, "nothing went"
    for i, j in old:
        assert own["3.weight"][i, j] == kept[rows[i], columns[j]]
