"""Channel spaces: which axes are coupled, what is frozen and why, and that every free space can really be changed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gngraph.analysis.channels import ChannelSpaces, Role
from gngraph.analysis.equivalence import outputs64, relative_error
from gngraph.errors import FrozenSpaceError, IRError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph, TensorType
from gngraph.lowering.probe import probe_of
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import NewChannel, SplitChannel
from tests.morphism_errors import difference, errors_of, value_masked
from tests.small_networks import NETWORKS, imported


def graph_of(name: str) -> Graph:
    return imported(name)


def spaces_of(module: nn.Module, *shape: int) -> ChannelSpaces:
    return ChannelSpaces.of(from_torch(module.eval(), torch.randn(2, *shape)))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_channel_of_every_free_space_can_be_split_added_and_pruned(name: str) -> None:
    graph = graph_of(name)
    spaces = ChannelSpaces.of(graph)
    for space in spaces.free:
        for channel in range(space.size):
            errors = errors_of(graph, spaces, space.name, channel)
            assert max(errors.split, errors.new) <= 1e-12, (space.name, channel, errors)
            assert max(errors.masked, errors.values) <= 1e-10, (space.name, channel, errors)


def test_the_masks_that_prunes_are_compared_with_do_change_the_outputs() -> None:
    for name in NETWORKS:
        graph = graph_of(name)
        spaces = ChannelSpaces.of(graph)
        for space in spaces.free:
            plain = outputs64(graph, probe_of(graph))
            assert difference(plain, value_masked(graph, spaces, space.name, 0)) > 1e-6, (name, space.name)


@pytest.mark.parametrize(
    ("name", "free"),
    [
        ("plain", {"0": 5, "2": 6}),
        ("residual", {"stem.0": 6, "inner.0": 5}),
        ("dense", {"stem.0": 4, "grow1.0": 3, "grow2": 2}),
        ("cat then add", {"a": 2, "b": 4}),
        ("cat with itself", {"a.0": 4}),
        ("cat with nothing", {"write": 6}),
        ("depthwise", {"0": 4, "6": 6}),
        ("depthwise multiplier 2", {"0": 4}),
        ("squeeze-excite", {"stem.0": 6, "down": 3, "last.0": 5}),
        ("batch norm after flatten", {"0": 4, "4": 7}),
        ("shared module", {"stem.0": 5}),
        ("shared reader", {"a.0": 4, "shared": 5}),
        ("tied weights", {"first": 8}),
        ("layer scale", {"stem.0": 6}),
        ("attention map", {"stem.0": 5}),
        ("token mlp", {"embed": 6, "up": 9}),
        ("two outputs", {"stem.0": 5}),
    ],
)
def test_free_spaces(name: str, free: dict[str, int]) -> None:
    assert {space.name: space.size for space in ChannelSpaces.of(graph_of(name)).free} == free


@pytest.mark.parametrize(
    ("name", "space", "reason"),
    [
        ("plain", "6", "it is the network's output (node '6')"),
        ("attention map", "map", "its single channel is broadcast (node 'mul')"),
    ],
)
def test_frozen_spaces_say_why_and_where(name: str, space: str, reason: str) -> None:
    spaces = ChannelSpaces.of(graph_of(name))
    assert spaces[space].frozen == reason
    with pytest.raises(FrozenSpaceError, match="is frozen: ") as caught:
        spaces.require_free(space)
    assert reason in str(caught.value)


class AddedToInput(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x + self.conv(x))  # type: ignore[no-any-return]


class CutChannels(nn.Module):
    """A shortcut without parameters that leaves the first and the last channel out, by a padding below zero."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.narrow, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        return self.head(nn.functional.pad(x, (0, 0, 0, 0, -1, -1)) + self.narrow(x))  # type: ignore[no-any-return]


class TransposedTie(nn.Module):
    """An autoencoder whose decoder is its encoder's weight, transposed."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.encoder(x)) @ self.encoder.weight


class ScaledBySize(nn.Module):
    """A width that leaves the graph as a number and comes back behind the layer that reads the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.conv(x))
        return self.head(x) * x.shape[1]  # type: ignore[no-any-return]


class ViewedByAnotherSize(nn.Module):
    """The width of one value shapes another."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 3, 3), nn.Conv2d(3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.conv(x))
        return self.head(y) + x.view(x.size(0), y.size(1), -1).mean()  # type: ignore[no-any-return]


def test_a_number_that_is_read_off_a_width_stays_what_it_is() -> None:
    x = torch.randn(2, 3, 8, 8)
    graph = from_torch(ScaledBySize(), x).to(torch.float64)
    new = morph(graph, ChannelSpaces.of(graph), [NewChannel("conv"), SplitChannel("conv", 0)]).graph
    assert relative_error(graph, new) < 1e-12


def test_a_shape_that_is_read_off_another_width_is_held() -> None:
    x = torch.randn(2, 3, 8, 8)
    graph = from_torch(ViewedByAnotherSize(), x).to(torch.float64)
    spaces = ChannelSpaces.of(graph)
    assert spaces["conv"].frozen is None
    new = morph(graph, spaces, [NewChannel("conv"), NewChannel("conv")]).graph
    torch.testing.assert_close(outputs64(new, (x.double(),)), outputs64(graph, (x.double(),)))
    assert new.nodes["view"].attrs["shape"][1] == 3 and "size" in {node.op for node in new.nodes.values()}


class WidthOfTheImage(nn.Module):
    """A linear layer along the image's width, whose outputs are positions to the convolution behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.along, self.head = nn.Linear(8, 7), nn.Conv2d(3, 2, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.along(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("module", "shape", "space", "words"),
    [
        (AddedToInput(), (3, 8, 8), "conv", "combined with a value of fixed size (node 'add')"),
        (CutChannels(), (3, 8, 8), "conv", "(node 'pad')"),
        (TransposedTie(), (6,), "encoder", "(node "),
        (WidthOfTheImage(), (3, 8, 8), "along", "it is convolved over, which mixes neighbours (node 'head')"),
    ],
)
def test_what_is_not_understood_is_frozen(module: nn.Module, shape: tuple[int, ...], space: str, words: str) -> None:
    frozen = spaces_of(module, *shape)[space].frozen
    assert frozen is not None and words in frozen


def test_roles_and_slots_of_a_residual_stream() -> None:
    space = ChannelSpaces.of(graph_of("residual"))["stem.0"]
    roles = {(slot.param, slot.axis): slot.role for slot in space.slots}
    assert roles["stem.0.weight", 0] is roles["back.weight", 0] is Role.PRODUCE
    assert roles["norm.running_var", 0] is roles["back.bias", 0] is Role.FOLLOW
    assert roles["inner.0.weight", 1] is roles["head.weight", 1] is Role.CONSUME


def test_a_channel_owns_several_entries_behind_a_flatten() -> None:
    spaces = ChannelSpaces.of(graph_of("batch norm after flatten"))
    inner = {(slot.param, slot.axis): slot.inner for slot in spaces["0"].slots}
    assert inner["0.weight", 0] == 1
    assert inner["3.weight", 0] == inner["4.weight", 1] == 9


def test_a_concatenation_holds_stretches_of_several_spaces() -> None:
    spaces = ChannelSpaces.of(graph_of("dense"))
    assert [(name, slot.offset) for name, slot in spaces.axes["head.weight", 1]] == [
        ("stem.0", 0),
        ("grow1.0", 4),
        ("grow2", 7),
    ]


class PooledAcross(nn.Module):
    """Pools over an axis that carries channels, and puts what is left of them between others."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.a, self.b, self.head = nn.Linear(5, 8), nn.Linear(2, 4), nn.Linear(2, 6), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.adaptive_avg_pool2d(self.wide(x).relu().unflatten(1, (2, 2, 2)), 1).flatten(1)
        out: Tensor = self.head(torch.cat([self.a(y), y, self.b(y)], 1))
        return out


@pytest.mark.parametrize("make", [*NETWORKS, PooledAcross])
def test_what_lies_along_an_axis_is_as_long_as_the_axis(make: str | type[nn.Module]) -> None:
    graph = graph_of(make) if isinstance(make, str) else from_torch(make().eval(), torch.randn(2, 5))
    for (name, axis), segments in ChannelSpaces.of(graph).layouts.items():
        type_ = graph.nodes[name].type
        assert isinstance(type_, TensorType)
        size = type_.shape[axis]
        assert isinstance(size, str) or sum(channels * inner for _, channels, inner in segments) == size, (name, axis)


def test_an_unknown_space_is_refused_with_the_names() -> None:
    with pytest.raises(IRError, match=r"no channel space 'stem'; the spaces are .*stem\.0"):
        ChannelSpaces.of(graph_of("residual"))["stem"]
