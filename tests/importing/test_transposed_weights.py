"""Raw weights that a forward transposes: read as layers, free, and exact under every morphism."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.equivalence import relative_error
from gngraph.importing.from_torch import from_torch
from gngraph.ir import format_graph, parse, same_structure
from gngraph.lowering.to_torch import to_torch
from gngraph.ops.vet import vet
from gngraph.rewrite.morphism import NewChannel, PruneChannel, SplitChannel
from tests.morphism_errors import applied, errors_of

Run = Callable[["Raw", Tensor], Tensor]


class Raw(nn.Module):
    """A layer to 6 channels, of whose raw weight a transpose is taken, tanh, and a linear layer."""

    def __init__(self, run: Run, *shape: int) -> None:
        super().__init__()
        self.run = run
        self.w, self.b = nn.Parameter(torch.randn(*shape)), nn.Parameter(torch.randn(6))
        self.out = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.out(torch.tanh(self.run(self, x)))
        return y


# what is run, shape of the weight, shape of an input, op
CASES: dict[str, tuple[Run, tuple[int, ...], tuple[int, ...], str]] = {
    "x @ w.t()": (lambda m, x: x @ m.w.t(), (6, 3), (3,), "linear"),
    "tokens @ w.T": (lambda m, x: x @ m.w.T, (6, 3), (4, 3), "linear"),
    "maps @ w.mT": (lambda m, x: torch.matmul(x, m.w.mT), (6, 3), (2, 4, 3), "linear"),
    "matmul by name": (lambda m, x: x.matmul(m.w.transpose(0, 1)), (6, 3), (3,), "linear"),
    "mm": (lambda m, x: torch.mm(x, torch.t(m.w)), (6, 3), (3,), "linear"),
    "mm by name": (lambda m, x: x.mm(m.w.permute(1, 0)) + m.b, (6, 3), (3,), "linear"),
    "addmm": (lambda m, x: torch.addmm(m.b, x, m.w.transpose(-2, -1)), (6, 3), (3,), "linear"),
    "linear": (lambda m, x: F.linear(x, m.w.t()), (3, 6), (3,), "transposed_linear"),
    "linear with a bias": (lambda m, x: F.linear(x, m.w.T, m.b), (3, 6), (3,), "transposed_linear"),
    "linear on tokens": (lambda m, x: F.linear(x, m.w.swapaxes(1, 0), bias=m.b), (3, 6), (4, 3), "transposed_linear"),
    "from the left": (lambda m, x: (m.w.t() @ x).transpose(1, 2), (3, 6), (3, 4), "matmul"),
    "twice": (lambda m, x: F.linear(x, m.w.t(), m.b) * torch.sigmoid(x @ m.w), (3, 6), (4, 3), "transposed_linear"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_the_width_is_free_and_every_morphism_is_exact(name: str) -> None:
    run, weight, shape, op = CASES[name]
    graph = from_torch(Raw(run, *weight), torch.randn(2, *shape)).to(torch.float64)
    assert op in {node.op for node in graph.nodes.values()} and "foreign" not in {n.op for n in graph.nodes.values()}
    spaces = ChannelSpaces.of(graph)
    (space,) = spaces.free
    assert space.size == 6
    for channel in (0, 5):
        errors = errors_of(graph, spaces, space.name, channel)
        assert max(errors.split, errors.new, errors.masked, errors.values) < 1e-12, errors


@pytest.mark.parametrize("name", CASES)
def test_what_was_changed_is_written_and_read_again(name: str) -> None:
    run, weight, shape, _ = CASES[name]
    graph = from_torch(Raw(run, *weight), torch.randn(2, *shape))
    spaces = ChannelSpaces.of(graph)
    (space,) = spaces.free
    wider = applied(graph, spaces, [SplitChannel(space.name, 1), NewChannel(space.name)])
    assert relative_error(graph, wider) < 1e-12
    spaces = ChannelSpaces.of(wider)
    changed = applied(wider, spaces, [PruneChannel(spaces.free[0].name, 0)])
    vet(changed)
    assert same_structure(parse(format_graph(changed)), changed)
    again = from_torch(to_torch(changed), torch.randn(2, *shape))
    assert [s.size for s in ChannelSpaces.of(again).free] == [7]


def test_a_transpose_that_is_read_as_a_value_too_is_one() -> None:
    network = Raw(lambda m, x: x @ m.w.t() + m.w.t().mean(0), 6, 3)
    graph = from_torch(network, torch.randn(2, 3))
    assert {node.op for node in graph.nodes.values()} >= {"parameter", "transpose", "mean"}
    spaces = ChannelSpaces.of(graph)
    for space in spaces.free:
        errors = errors_of(graph, spaces, space.name)
        assert max(errors.split, errors.new, errors.masked, errors.values) < 1e-12, (space, errors)


def test_an_autoencoder_with_one_weight_is_held_by_both_ends() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.randn(6, 3))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(torch.tanh(F.linear(x, self.w)), self.w.t())

    graph = from_torch(Tied(), torch.randn(2, 3))
    spaces = ChannelSpaces.of(graph)
    for space in spaces.free:
        errors = errors_of(graph, spaces, space.name)
        assert max(errors.split, errors.new, errors.masked) < 1e-12, (space, errors)


def test_transposes_of_values_by_every_spelling() -> None:
    class Mixer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv1d(2, 5, 1), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.b(torch.relu(self.a(x)).mT)
            return y + y.sum((1, 2)).unsqueeze(1).t().T.unsqueeze(2)

    graph = from_torch(Mixer(), torch.randn(2, 2, 4))
    assert "foreign" not in {node.op for node in graph.nodes.values()}
    spaces = ChannelSpaces.of(graph)
    assert [(s.name, s.size) for s in spaces.free] == [("a", 5)]
    errors = errors_of(graph, spaces, "a")
    assert max(errors.split, errors.new, errors.masked, errors.values) < 1e-12
