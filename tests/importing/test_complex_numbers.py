"""Complex buffers and parameters stay complex wherever gngraph takes a network to another precision."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gngraph.analysis.diff import diff
from gngraph.errors import UnsupportedModelError
from gngraph.importing.from_torch import from_torch
from gngraph.inplace.following import difference
from gngraph.lowering.to_torch import to_torch
from tests.training_steps import steps_differ

X = torch.randn(4, 5, 6)


class Turned(nn.Module):
    """Two layers around a product with complex numbers."""

    turn: Tensor

    def __init__(self, turn: Tensor) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)
        if isinstance(turn, nn.Parameter):
            self.turn = turn
        else:
            self.register_buffer("turn", turn)

    def forward(self, x: Tensor) -> Any:
        return self.b(F.dropout((self.a(x) * self.turn).imag, 0.3, self.training))


@pytest.mark.parametrize("kind", [torch.Tensor.clone, nn.Parameter])
def test_it_trains_as_the_module_does(kind: Any) -> None:
    module = Turned(kind(torch.randn(6, dtype=torch.complex64)))
    graph = from_torch(module, X)
    assert steps_differ(module, to_torch(graph), X) == []
    assert difference(module, graph, (X,)) is None
    changed = graph.with_params({"turn": graph.params["turn"].data.conj().resolve_conj()})
    assert difference(module, changed, (X,)) is not None
    assert diff(graph, changed).distances["turn"] > 0.1


class Rotary(nn.Module):
    """Positions that a forward makes, turned by a table of its own, which `to` leaves as it is."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Any:
        angles = torch.arange(x.shape[1])[:, None] * torch.tensor([1.0, 0.1, 0.01])
        turn = torch.polar(torch.ones(x.shape[1], 3), angles)
        y = torch.view_as_complex(self.a(x).unflatten(-1, (3, 2)))
        return self.b(torch.view_as_real(y * turn).flatten(-2))


def test_tables_that_a_forward_makes_keep_their_precision() -> None:
    module = Rotary()
    lowered = to_torch(from_torch(module, X))
    y = torch.randn(3, 7, 6)
    assert torch.equal(lowered(y), module(y))


def test_a_quiet_change_of_complex_numbers_is_refused() -> None:
    class Quiet(Turned):
        def forward(self, x: Tensor) -> Any:
            y = self.a(x) * self.turn
            with torch.no_grad():
                y.mul_(0.5)
            return self.b(y.abs())

    with pytest.raises(UnsupportedModelError, match="'mul_' changes 'mul' in place where no gradient passes"):
        from_torch(Quiet(torch.randn(6, dtype=torch.complex64)), X)


class Spectrum(nn.Module):
    """The kernel of a diagonal state space, with complex numbers that are written in Python."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.rate, self.angle = (
            nn.Linear(6, 4),
            nn.Linear(4, 3),
            *(nn.Parameter(torch.rand(4)) for _ in "ab"),
        )

    def forward(self, x: Tensor) -> Any:
        u = self.a(x).transpose(1, 2)
        power = torch.exp((-self.rate.exp() + 1j * self.angle)[:, None] * torch.arange(x.shape[1]))
        size = 2 * x.shape[1]
        y = torch.fft.irfft(torch.fft.rfft(u, n=size) * torch.fft.rfft(((2 - 1j) * power).real, n=size), n=size)
        return self.b(y[..., : x.shape[1]].transpose(1, 2))


def test_complex_numbers_that_are_written_in_python_are_taken() -> None:
    module = Spectrum()
    lowered = to_torch(from_torch(module, X))
    assert steps_differ(module, lowered, X[:3]) == []
    y = torch.randn(3, 7, 6)
    assert torch.equal(lowered(y), module(y))
