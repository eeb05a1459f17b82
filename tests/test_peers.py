"""What other tools get wrong, ignore or refuse, each as a network that passes here.

The failures were observed on Torch-Pruning 1.6.1 and gromo 0.1.0, and read in the sources of GradMax, Firefly and MorphNet.
For each network every morphism of every free space keeps its promise in float64, every width that is asked for is the width
that comes out, and what cannot change says why and where.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import CostModel, cost
from gngraph.analysis.equivalence import relative_error
from gngraph.api import grow
from gngraph.errors import FrozenSpaceError
from gngraph.files.archive import load, save
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.lowering.to_torch import to_torch
from gngraph.options import TrainOptions
from gngraph.rewrite.masking import masked
from gngraph.rewrite.morphism import Morphism, NewChannel, PruneChannel, SplitChannel
from tests.morphism_errors import applied, errors_of
from tests.problems import problem, small_vgg
from tests.random_blocks import Block
from tests.small_networks import calibrated, conv_block

BAR = 1e-12


class Net(Block):
    """Modules and parameters by name, and a function of the network and its input."""

    def forward(self, x: torch.Tensor) -> Any:  # type: ignore[override]
        return self.run(self, x)


@dataclass(frozen=True)
class Case:
    """A network, the shape of its input, its free spaces with their widths, and frozen spaces with words of the reason."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    free: Mapping[str, int]
    frozen: Mapping[str, str] = field(default_factory=dict)


def two_flattened_branches() -> nn.Module:
    return Net(
        lambda m, x: m.head(torch.cat([m.a(x).flatten(1), m.b(x).flatten(1)], 1)),
        a=conv_block(3, 4), b=nn.Sequential(nn.MaxPool2d(2), *conv_block(3, 6)), head=nn.Linear(4 * 64 + 6 * 16, 5),
    )  # fmt: skip


def shuffled(channels: int) -> nn.Module:
    def run(m: Any, x: torch.Tensor) -> Any:
        x = torch.relu(m.first(m.stem(x)))
        n, c, h, w = x.size()
        x = x.view(n, 3, c // 3, h, w).transpose(1, 2).contiguous().view(n, c, h, w)
        return m.head(torch.relu(m.second(x)))

    return Net(
        run, stem=nn.Conv2d(3, channels, 1), first=nn.Conv2d(channels, channels, 1, groups=3),
        second=nn.Conv2d(channels, 6, 3, groups=3), head=nn.Conv2d(6, 2, 1),
    )  # fmt: skip


def grouped() -> nn.Module:
    return nn.Sequential(
        *conv_block(3, 12), nn.Conv2d(12, 18, 3, groups=2), nn.BatchNorm2d(18), nn.ReLU(), nn.Conv2d(18, 2, 1)
    )


def gated_by_chunk() -> nn.Module:
    def run(m: Any, x: torch.Tensor) -> Any:
        a, b = m.wide(x).chunk(2, dim=1)
        return m.head(a * torch.sigmoid(b))

    return Net(run, wide=nn.Conv2d(3, 64, 3), head=nn.Conv2d(32, 3, 1))


def split_in_8_and_16() -> nn.Module:
    def run(m: Any, x: torch.Tensor) -> Any:
        a, b = m.stem(x).split([8, 16], dim=1)
        return torch.cat([m.left(a), m.right(b)], 1)

    return Net(run, stem=conv_block(3, 24), left=nn.Conv2d(8, 2, 1), right=nn.Conv2d(16, 3, 1))


def first_8_channels() -> nn.Module:
    def run(m: Any, x: torch.Tensor) -> Any:
        h = m.stem(x)
        return m.head(torch.relu(h[:, :8])) + m.other(h[:, 8:])

    return Net(run, stem=conv_block(3, 20), head=nn.Conv2d(8, 3, 1), other=nn.Conv2d(12, 3, 1))


def viewed_as_2048() -> nn.Module:
    return Net(lambda m, x: m.head(m.stem(x).view(-1, 2048)), stem=conv_block(3, 32), head=nn.Linear(2048, 4))


def pixel_shuffled() -> nn.Module:
    return Net(
        lambda m, x: m.head(torch.relu(F.pixel_shuffle(m.up(m.stem(x)), 2))),
        stem=conv_block(3, 5), up=nn.Conv2d(5, 12, 3, padding=1), head=nn.Conv2d(3, 2, 3),
    )  # fmt: skip


def depthwise_twice_as_wide() -> nn.Module:
    return nn.Sequential(*conv_block(3, 4), *conv_block(4, 8, groups=4), nn.Conv2d(8, 3, 1))


def einsum_layers() -> nn.Module:
    def run(m: Any, x: torch.Tensor) -> Any:
        return m.head(torch.einsum("bth,hc->btc", F.gelu(torch.einsum("btc,ch->bth", m.embed(x), m.up)), m.down))

    up, down = (nn.Parameter(torch.randn(shape) * 0.3) for shape in ((6, 9), (9, 6)))
    return Net(run, embed=nn.Linear(5, 6), up=up, down=down, head=nn.Linear(6, 3))


def raw_convolution() -> nn.Module:
    weight, bias = nn.Parameter(torch.randn(6, 4, 3, 3) * 0.2), nn.Parameter(torch.randn(6))
    return Net(
        lambda m, x: m.head(torch.relu(F.conv2d(m.stem(x), m.weight, m.bias, padding=1))),
        stem=conv_block(3, 4), weight=weight, bias=bias, head=nn.Conv2d(6, 2, 1),
    )  # fmt: skip


def attention_map() -> nn.Module:
    return Net(
        lambda m, x: m.head(m.stem(x) * torch.sigmoid(m.map(x))),
        stem=conv_block(3, 6), map=nn.Conv2d(3, 1, 3, padding=1), head=nn.Conv2d(6, 2, 1),
    )  # fmt: skip


def heads_given() -> nn.Module:
    def run(m: Any, x: torch.Tensor) -> Any:
        x = m.embed(x)
        x = x + m.attention(x, x, x, need_weights=False)[0]
        return m.head(x + m.down(F.gelu(m.up(x))))

    return Net(
        run, embed=nn.Linear(5, 8), attention=nn.MultiheadAttention(8, 4, batch_first=True), up=nn.Linear(8, 12),
        down=nn.Linear(12, 8), head=nn.Linear(8, 3),
    )  # fmt: skip


def frozen_parameters() -> nn.Module:
    network = nn.Sequential(*conv_block(3, 5), *conv_block(5, 6), nn.Conv2d(6, 2, 1))
    for layer in network[:4]:
        layer.requires_grad_(False)
    return network


def unknown_op() -> nn.Module:
    """An op that mixes channels and is in no table."""
    return Net(
        lambda m, x: m.head(torch.relu(m.read(torch.renorm(m.stem(x), 2, 1, 1.0)))),
        stem=conv_block(3, 5), read=nn.Conv2d(5, 6, 3), head=nn.Conv2d(6, 2, 1),
    )  # fmt: skip


def residual_stages() -> nn.Module:
    def run(m: Any, x: torch.Tensor) -> Any:
        x = m.stem(x)
        x = torch.relu(x + m.out1(m.in1(x)))
        x = torch.relu(m.short(x) + m.out2(m.in2(x)))
        return m.head(x.mean((2, 3)))

    return Net(
        run, stem=conv_block(3, 4), in1=conv_block(4, 5), out1=nn.Conv2d(5, 4, 3, padding=1), short=nn.Conv2d(4, 6, 1, stride=2),
        in2=conv_block(4, 7, stride=2), out2=nn.Conv2d(7, 6, 3, padding=1), head=nn.Linear(6, 3),
    )  # fmt: skip


def convolution_pool_convolution() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 5, 3), nn.ReLU(), nn.Conv2d(5, 2, 1)
    )


def convolution_mean_linear() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))


def convolution_flatten_linear() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 3))


IMAGE = (3, 8, 8)
CASES = {
    "two flattened branches": Case(two_flattened_branches, IMAGE, {"a.0": 4, "b.1": 6}),
    "channel shuffle": Case(lambda: shuffled(18), IMAGE, {"stem": 6, "first": 2, "second": 2}),
    "channel shuffle across groups": Case(
        lambda: shuffled(12), IMAGE, {"stem": 4, "second": 2},
        {"first": "its channels are divided among 3 groups, in whose bounds they do not fall (node 'second')"},
    ),
    "grouped convolution": Case(grouped, IMAGE, {"0": 6, "3": 9}),
    "glu by chunk": Case(gated_by_chunk, IMAGE, {"wide": 32}),
    "split([8, 16])": Case(split_in_8_and_16, IMAGE, {"stem.0": 8, "stem.0#2": 16}),
    "h[:, :8]": Case(first_8_channels, IMAGE, {"stem.0": 8, "stem.0#2": 12}),
    "view(-1, 2048)": Case(viewed_as_2048, IMAGE, {"stem.0": 32}),
    "pixel_shuffle": Case(pixel_shuffled, IMAGE, {"stem.0": 5, "up": 3}),
    "depthwise multiplier 2": Case(depthwise_twice_as_wide, IMAGE, {"0": 4}),
    "einsum": Case(einsum_layers, (4, 5), {"embed": 6, "einsum": 9, "einsum_1": 6}),
    "F.conv2d with a parameter": Case(raw_convolution, IMAGE, {"stem.0": 4, "conv2d": 6}),
    "attention map": Case(attention_map, IMAGE, {"stem.0": 6}, {"map": "its single channel is broadcast (node 'mul')"}),
    "MultiheadAttention": Case(heads_given, (4, 5), {"embed": 8, "attention": 4, "up": 12}),
    "frozen parameters": Case(frozen_parameters, IMAGE, {"0": 5, "3": 6}),
    "unknown op": Case(
        unknown_op, IMAGE, {"read": 6},
        {"stem.0": "it is read by 'torch.renorm', which is no op of the table; gngraph.ops.register teaches it one "
                   "(node 'renorm')"},
    ),
    "residual stages": Case(residual_stages, IMAGE, {"stem.0": 4, "in1.0": 5, "short": 6, "in2.0": 7}),
    "conv, pool, conv": Case(convolution_pool_convolution, IMAGE, {"0": 4, "3": 5}),
    "conv, mean, linear": Case(convolution_mean_linear, IMAGE, {"0": 6}),
    "conv, flatten, linear": Case(convolution_flatten_linear, IMAGE, {"0": 6}),
}  # fmt: skip


@cache
def prepared(name: str) -> tuple[nn.Module, torch.Tensor, Graph, ChannelSpaces]:
    case = CASES[name]
    torch.manual_seed(0)
    network, example = calibrated(case.make(), *case.shape), torch.randn(2, *case.shape)
    graph = from_torch(network, example)
    return network, example, graph, ChannelSpaces.of(graph)


@pytest.mark.parametrize("name", CASES)
def test_what_is_free_and_why_the_rest_is_not(name: str) -> None:
    case, (_, _, _, spaces) = CASES[name], prepared(name)
    assert {s.name: s.size for s in spaces.free} == case.free, [(s.name, s.size, s.frozen) for s in spaces]
    for space in spaces:
        assert space.frozen is None or "(node '" in space.frozen
    for space_name, words in case.frozen.items():
        assert words in str(spaces[space_name].frozen)


@pytest.mark.parametrize("name", CASES)
def test_every_morphism_is_exact(name: str) -> None:
    _, _, graph, spaces = prepared(name)
    for space in spaces.free:
        for channel in {0, space.size // 2, space.size - 1}:
            errors = errors_of(graph, spaces, space.name, channel)
            assert max(errors.split, errors.new, errors.masked, errors.values) <= BAR, (space.name, channel, errors)


@pytest.mark.parametrize("name", CASES)
def test_half_of_every_space_is_what_half_of_it_is(name: str) -> None:
    """What is asked for is done: no rounding, no minimum, nothing left out because of a coupling."""
    network, example, graph, spaces = prepared(name)
    graph = graph.to(torch.float64)
    prunes = [PruneChannel(space.name, c) for space in spaces.free for c in range(0, space.size, 2) if space.size > 1]
    pruned = applied(graph, spaces, prunes)
    assert relative_error(masked(graph, spaces, prunes), pruned) <= BAR
    left = {s.name: s.size // 2 if s.frozen is None and s.size > 1 else s.size for s in spaces}
    assert cost(pruned) == CostModel(graph, spaces).of(left)
    small = to_torch(pruned.to(torch.float32))
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in network.parameters())
    assert small(example).shape == network(example).shape
    before = {name: p.requires_grad for name, p in network.named_parameters()}
    assert {name: p.requires_grad for name, p in small.named_parameters()} == before


@pytest.mark.parametrize("name", CASES)
def test_every_space_grows_twice_and_all_of_them_in_one_round(name: str) -> None:
    """Also layers with a bias that have grown before, and layers that follow each other."""
    _, _, graph, spaces = prepared(name)
    grown = first = graph.to(torch.float64)
    for _ in range(2):
        now = ChannelSpaces.of(grown)
        morphisms: list[Morphism] = [m for s in now.free for m in (SplitChannel(s.name, 0), NewChannel(s.name))]
        grown = applied(grown, now, morphisms)
    assert relative_error(first, grown) <= BAR
    assert {s.name: s.size for s in ChannelSpaces.of(grown).free} == {s.name: s.size + 4 for s in spaces.free}


def test_asking_for_what_is_frozen_says_why() -> None:
    """Where others change nothing and say nothing."""
    _, _, graph, spaces = prepared("attention map")
    with pytest.raises(FrozenSpaceError, match=r"'map' is frozen: its single channel is broadcast \(node 'mul'\)"):
        applied(graph, spaces, [SplitChannel("map", 0)])


def test_a_family_that_others_cannot_run() -> None:
    """ShuffleNet; the other three (Swin, Swin v2, MaxViT) take longer and are rows of `tools/coverage_matrix.py`."""
    torch.manual_seed(0)
    network = calibrated(torchvision.models.shufflenet_v2_x0_5(num_classes=10), 3, 32, 32)
    graph = from_torch(network, torch.randn(2, 3, 32, 32)).to(torch.float64)
    spaces = ChannelSpaces.of(graph)
    assert len(spaces.free) >= 20
    prunes = [PruneChannel(space.name, space.size // 2) for space in spaces.free]
    assert relative_error(masked(graph, spaces, prunes), applied(graph, spaces, prunes)) <= BAR


@pytest.mark.parametrize("epochs", [0, 1])
def test_a_young_network_uses_up_its_budget_and_keeps_to_it(epochs: int) -> None:
    """No absolute threshold holds it back, no penalty or ratio stands for the budget."""
    seed = small_vgg()
    limit = 2 * cost(seed).params
    options = TrainOptions(batch_size=32)
    result = grow(seed, problem(), max_params=limit, rounds=2, epochs=epochs, final_epochs=0, train=options)
    assert 0.97 * limit < cost(result.graph).params <= limit


def test_a_saved_network_holds_no_pickle(tmp_path: Path) -> None:
    _, _, graph, spaces = prepared("glu by chunk")
    path = tmp_path / "network.gng"
    save(applied(graph, spaces, [SplitChannel("wide", 3)]), path)
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["graph.json", "weights.safetensors", "history.json"]
    assert ChannelSpaces.of(load(path))["wide"].size == 33
