"""What is a parameter, or a number, though it does not look so: a kernel that was squeezed, and options that are sizes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gngraph.analysis.channels import ChannelSpaces
from gngraph.importing.from_torch import from_torch
from gngraph.lowering.to_torch import to_torch
from tests.local_errors import KeptValues
from tests.training_steps import Trial


class Short(nn.Module):
    """A short causal convolution of every channel by itself, as Mamba runs it past its own module."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.head = nn.Linear(5, 6), nn.Conv1d(6, 6, 4, groups=6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).transpose(1, 2)
        weight = self.conv.weight.squeeze(1)
        _, channels, length = x.shape
        y = F.conv1d(
            x.to(weight.dtype), weight.unsqueeze(1), self.conv.bias, padding=weight.shape[-1] - 1, groups=channels
        )
        z: Tensor = self.head(F.silu(y[:, :, :length]).transpose(1, 2))
        return z


class Kinds(nn.Module):
    """Layers whose weights are asked for their kind and size beside."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.up, self.head = nn.Linear(5, 6), nn.Linear(6, 7), nn.Linear(7, 3)
        self.scale = nn.Parameter(torch.rand(6))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.stem(x.to(self.stem.weight.dtype))) * self.scale
        y = torch.relu(self.up(x.to(self.up.weight.T.dtype)))
        return self.head(y.view(-1, self.up.weight.shape[0])).view(*x.shape[:2], -1)  # type: ignore[no-any-return]


class Halves(nn.Module):
    """A convolution of groups of one channel that write two each, and one whose groups are a size that is no width."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv1d(5, 6, 1), nn.Conv1d(12, 3, 1)
        self.weight = nn.Parameter(torch.randn(12, 1, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y: Tensor = self.head(F.conv1d(x, self.weight, padding=self.weight.size(2) // 2, groups=x.size(1)))
        return y


@pytest.mark.parametrize(
    ("make", "shape", "widths"),
    [(Short, (7, 5), [6]), (Kinds, (4, 5), [6, 7]), (Halves, (5, 7), [6])],
)
def test_it_is_taken_free_and_changed_exactly(make: type[nn.Module], shape: tuple[int, ...], widths: list[int]) -> None:
    torch.manual_seed(0)
    network, x = make(), torch.randn(2, *shape)
    graph = from_torch(network, x)
    spaces = ChannelSpaces.of(graph)
    assert sorted(space.size for space in spaces.free) == widths, [(s.name, s.frozen) for s in spaces]
    kept = KeptValues(graph, spaces)
    for space in spaces.free:
        errors = kept.errors(space.name, 0)
        assert all(found.error <= 1e-10 for found in (errors.split, errors.new, errors.prune) if found), space.name
    assert list(Trial([[x], [torch.cat([x, x[:1]])]]).differences(network, to_torch(graph))) == []
