"""Shrink and perturb between the rounds of a run."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gngraph.analysis.cost import cost
from gngraph.api import grow
from gngraph.errors import OptionError
from gngraph.importing.from_torch import from_torch
from gngraph.training.perturbation import perturbed
from gngraph.training.restart import restarted
from tests.problems import problem, small_vgg


def test_weights_move_towards_new_ones_of_their_own_size_and_scales_stay() -> None:
    graph = small_vgg()  # every layer is followed by a BatchNorm, or is the last
    graph = graph.with_params({n: 3 * p.data + 0.1 for n, p in graph.params.items() if p.kind == "parameter"})
    half, new = perturbed(graph, 0.5, 3), restarted(graph, 3)
    for name, param in graph.params.items():
        expected = param.data
        if param.kind == "parameter" and param.data.dim() > 1:
            fresh = new.params[name].data
            expected = (param.data + fresh * (param.data.norm() / fresh.norm())) / 2
        torch.testing.assert_close(half.params[name].data, expected)
    assert perturbed(graph, 0.0, 3).params["head.weight"].data.equal(graph.params["head.weight"].data)


def test_weights_keep_their_size_unless_a_batch_norm_or_nothing_reads_what_they_give() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Linear(4, 40), nn.ReLU(), nn.Linear(40, 50), nn.BatchNorm1d(50), nn.ReLU(), nn.Linear(50, 30)
    )
    graph = from_torch(plain, torch.zeros(2, 4))
    mixed = perturbed(graph, 0.5, 3)
    shrunk = {
        n: float(mixed.params[n].data.norm() / p.data.norm()) for n, p in graph.params.items() if n.endswith("weight")
    }
    assert shrunk["0.weight"] == pytest.approx(1.0, rel=1e-5) and shrunk["3.weight"] == 1.0
    assert not mixed.params["0.weight"].data.allclose(graph.params["0.weight"].data)
    assert shrunk["2.weight"] == pytest.approx(0.5**0.5, rel=0.1)  # half of two independent matrices of one size
    assert shrunk["5.weight"] == pytest.approx(0.5**0.5, rel=0.1)


class FixedStatistics(nn.Module):
    """A norm whose statistics stay as they are in training too."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(4, 6), nn.BatchNorm1d(6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        held = self.norm
        return nn.functional.batch_norm(self.layer(x), held.running_mean, held.running_var, held.weight, training=False)


def test_weights_keep_their_size_before_a_norm_of_fixed_statistics() -> None:
    graph = from_torch(FixedStatistics(), torch.zeros(2, 4))
    weight = perturbed(graph, 0.5, 3).params["layer.weight"].data
    assert float(weight.norm() / graph.params["layer.weight"].data.norm()) == pytest.approx(1.0, rel=1e-5)


def test_what_training_holds_is_neither_perturbed_nor_restarted() -> None:
    held = nn.Linear(4, 6).requires_grad_(False)
    graph = from_torch(nn.Sequential(held, nn.ReLU(), nn.Linear(6, 2)), torch.zeros(2, 4))
    for made in (perturbed(graph, 0.5, 3), restarted(graph, 3)):
        assert made.params["0.weight"].data.equal(graph.params["0.weight"].data)
        assert not made.params["2.weight"].data.equal(graph.params["2.weight"].data)


def test_a_run_is_perturbed_before_training_goes_on_and_not_before_it_starts() -> None:
    seed = small_vgg()
    limit = 2 * cost(seed).params
    result = grow(seed, problem(), max_params=limit, rounds=2, epochs=1, final_epochs=1, perturb=0.3, depth="keep")
    assert [record["perturbed"] for record in result.history] == [0.0, 0.3, 0.3]
    still = grow(seed, problem(), max_params=limit, rounds=2, epochs=1, final_epochs=0, perturb=0.3, depth="keep")
    shares = [record["perturbed"] for record in still.history]
    assert shares == [0.0, 0.3, 0.0]  # nothing is lost that no training follows
    with pytest.raises(
        OptionError, match=r"option 'perturb' is '1\.5', but must be a number of at least 0 and at most 1"
    ):
        grow(seed, problem(), max_params=limit, perturb=1.5)
