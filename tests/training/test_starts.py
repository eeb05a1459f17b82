"""New initial weights are new: whatever reads a parameter, nothing that was trained is left of it but its size."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gngraph.analysis.cost import cost
from gngraph.api import grow
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.running.problem import Problem
from gngraph.training.perturbation import perturbed
from gngraph.training.restart import guessed, restarted


class Tokens(nn.Module):
    """Attention, positions, a class token, LayerScale, and a temperature."""

    kind: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(8, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.positions = nn.Parameter(torch.randn(1, 5, 16))
        self.first = nn.Parameter(torch.randn(1, 1, 16))
        self.kinds = nn.Parameter(torch.randn(3, 16))
        self.register_buffer("kind", torch.tensor([0, 1, 1, 2, 2]))
        self.norm = nn.LayerNorm(16)
        self.gamma = nn.Parameter(torch.full((16,), 1e-2))
        self.temperature = nn.Parameter(torch.tensor(2.0))
        self.head = nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.cat(
            [self.first.expand(x.shape[0], -1, -1), self.embed(x) + self.positions + self.kinds[self.kind]], 1
        )
        a, _ = self.attention(h, h, h, need_weights=False)
        out: torch.Tensor = self.head(self.norm(h + a * self.gamma).mean(1)) * self.temperature.exp()
        return out


class Raw(nn.Module):
    """Every layer by a function, on parameters of the network itself; weights that are standardised first."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.mixing = nn.Parameter(torch.randn(6, 2, 3, 3)), nn.Parameter(torch.randn(6, 7))
        self.scale, self.shift = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(6))
        self.rows, self.bias = nn.Parameter(torch.randn(5, 7)), nn.Parameter(torch.randn(5))
        self.standardised, self.product = nn.Parameter(torch.randn(4, 5)), nn.Parameter(torch.randn(4, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = F.conv2d(x, self.kernel, padding=1).relu()
        h = F.group_norm(h, 2, self.scale, self.shift).mean((2, 3))
        h = F.linear(torch.matmul(h, self.mixing), self.rows, self.bias)
        own = self.standardised - self.standardised.mean(1, keepdim=True)
        return torch.einsum("nc,cd->nd", F.linear(h, own / own.norm()), self.product)


class Gated(nn.Module):
    """An embedding, an LSTM with projections, a GRU and a cell."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4, padding_idx=0)
        self.lstm = nn.LSTM(4, 6, num_layers=2, batch_first=True, proj_size=5)
        self.gru = nn.GRU(5, 6, batch_first=True, bidirectional=True)
        self.cell = nn.GRUCell(12, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h, _ = self.lstm(self.table(x))
        h, _ = self.gru(h)
        out: torch.Tensor = self.head(self.cell(h[:, -1]))
        return out


class Residual(nn.Module):
    """Convolutions, BatchNorm, PReLU, and a scale and shift of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.act = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.PReLU(6)
        self.scale, self.shift = nn.Parameter(torch.ones(6, 1, 1)), nn.Parameter(torch.zeros(6, 1, 1))
        self.up, self.head = nn.ConvTranspose2d(6, 4, 2), nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.act(self.norm(self.first(x))) * self.scale + self.shift
        out: torch.Tensor = self.head(self.up(h).mean((2, 3)))
        return out


IMAGES, NUMBERS = torch.randn(3, 2, 6, 6), torch.randint(1, 7, (3, 4))
CASES: dict[str, tuple[Callable[[], nn.Module], torch.Tensor]] = {
    "tokens": (Tokens, torch.randn(2, 5, 8)),
    "raw": (Raw, IMAGES),
    "gated": (Gated, NUMBERS),
    "residual": (Residual, IMAGES),
}


def trained(name: str) -> Graph:
    """A network whose every parameter has moved from where it started."""
    torch.manual_seed(0)
    build, x = CASES[name]
    net = build()
    for parameter in net.parameters():
        parameter.data.mul_(1.3).add_(0.2 * torch.randn_like(parameter))
    return from_torch(net.eval(), x)


@pytest.mark.parametrize("name", CASES)
def test_no_trained_parameter_keeps_its_values(name: str) -> None:
    graph = trained(name)
    new, again = restarted(graph, 1), restarted(graph, 1)
    for param, before in graph.params.items():
        if before.kind == "parameter" and param != "temperature":
            assert not torch.equal(new.params[param].data, before.data), param
        assert torch.equal(new.params[param].data, again.params[param].data)
        assert bool(new.params[param].data.isfinite().all())
    matrices = [n for n, p in graph.params.items() if sum(size > 1 for size in p.data.shape) > 1]
    mixed = perturbed(graph, 1.0, 1)
    for param in matrices:
        own = torch.stack([graph.params[param].data.flatten(), mixed.params[param].data.flatten()])
        assert abs(float(torch.corrcoef(own)[0, 1])) < 0.6, param


def test_what_reads_a_raw_parameter_says_how_it_starts() -> None:
    raw, tokens, residual = (restarted(trained(name), 1).params for name in ("raw", "tokens", "residual"))
    assert raw["scale"].data.eq(1).all() and raw["shift"].data.eq(0).all()
    for name, bound in (("mixing", 6**-0.5), ("rows", 7**-0.5), ("bias", 7**-0.5), ("product", 4**-0.5)):
        assert 0.5 * bound < float(raw[name].data.abs().max()) <= bound
    assert float(raw["kernel"].data.std()) == pytest.approx((2 / (6 * 9)) ** 0.5, rel=0.2)
    before = trained("tokens").params
    gamma = tokens["gamma"].data
    assert gamma.eq(gamma[0]).all() and abs(float(gamma[0])) == pytest.approx(float(before["gamma"].data.abs().mean()))
    positions = tokens["positions"].data
    assert float(positions.std()) == pytest.approx(float(before["positions"].data.std()), rel=0.2)
    scale = residual["scale"].data
    assert scale.eq(scale[0]).all() and residual["shift"].data.eq(0).all()
    gated = restarted(trained("gated"), 1).params
    assert gated["table.weight"].data[0].eq(0).all()


def test_what_cannot_be_known_is_said() -> None:
    (note,) = guessed(trained("tokens"))
    assert note.startswith("how 'first', 'temperature' started cannot be known")
    (note,) = guessed(trained("raw"))
    assert "'standardised'" in note and "'mixing'" not in note
    assert guessed(trained("residual")) == []


def test_a_run_says_which_starts_it_guesses_where_it_draws_any() -> None:
    graph, x = trained("raw"), torch.randn(90, 2, 6, 6)
    given = Problem((x, torch.randint(3, (90,))), device="cpu", learn=30, judge=30, report=30)
    told = {}
    for perturb in (0.0, 0.3):
        limit = 2 * cost(graph).params
        result = grow(graph, given, max_params=limit, rounds=2, epochs=0, final_epochs=0, depth="keep", perturb=perturb)
        told[perturb] = [[n for n in r["notes"] if "cannot be known" in n] for r in result.history if "notes" in r]
    assert told[0.0] == [[], []] and told[0.3] == [guessed(graph), []]
