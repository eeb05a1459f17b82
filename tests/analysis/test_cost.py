"""FLOPs agree with torch's own count on one sample, and the cost model with the cost of the grown graph."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision.ops import deform_conv2d

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget, CostModel, cost
from gngraph.analysis.uncounted import Uncounted, uncounted
from gngraph.errors import BudgetError
from gngraph.growth.schedule import require_room
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.ops import Call, OpSpec, draft_of, register, signature, table
from gngraph.ops.rules import all_axes, emit_simple, same_type
from gngraph.rewrite.morphism import SplitChannel
from tests import op_networks, small_networks
from tests.morphism_errors import applied
from tests.test_user_networks import EinsumMixer, TinyGpt
from tests.width_networks import build


class Attention(nn.Module):
    """The attention module of torch, and scaled dot-product attention by function."""

    def __init__(self) -> None:
        super().__init__()
        self.attend, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, _ = self.attend(x, x, x, need_weights=False)
        z = F.scaled_dot_product_attention(y, y, y)
        return cast(Tensor, self.head(z))


class Run(nn.Module):
    """A function of the input and of the module's parameters and layers."""

    def __init__(self, run: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        self.run = run
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(torch.randn(part)) if isinstance(part, tuple) else part)

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self, x)


class StandardConv(nn.Conv2d):
    """A convolution whose weight is standardised over what each channel reads."""

    def forward(self, x: Tensor) -> Tensor:
        w = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        w = w / w.square().mean((1, 2, 3), keepdim=True).add(1e-5).sqrt()
        return F.conv2d(x, w, self.bias, self.stride, self.padding)


def _windows(x: Tensor, size: int) -> Tensor:
    """Windows of an image as so many samples: [N * windows, size * size, C]."""
    n, c, h, w = x.shape
    x = x.view(n, c, h // size, size, w // size, size).permute(0, 2, 4, 3, 5, 1)
    return x.reshape(-1, size * size, c)


class Counted(NamedTuple):
    """A network, the shape of one input, and the multiply-adds that torch's counter knows nothing of."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    unknown: int = 0


COUNTED = {
    "gpt": Counted(TinyGpt, (7, 5)),
    "einsum": Counted(EinsumMixer, (4, 5)),
    "attention": Counted(Attention, (6, 8)),
    "heads": Counted(lambda: build("attention heads")[0], (4, 6)),
    "standardised": Counted(
        lambda: nn.Sequential(StandardConv(1, 8, 3), nn.ReLU(), StandardConv(8, 6, 3, stride=2)), (1, 8, 8)
    ),
    "depthwise with a computed weight": Counted(
        lambda: Run(lambda m, x: F.conv2d(x, m.w * 2, groups=4), w=(8, 1, 3, 3)), (4, 8, 8)
    ),
    "transposed with a computed weight": Counted(
        lambda: Run(lambda m, x: F.conv_transpose2d(x, m.w * 2, stride=2), w=(4, 3, 3, 3)), (4, 5, 5)
    ),
    "scaled": Counted(lambda: Run(lambda m, x: F.linear(x.flatten(1), m.w * 0.1), w=(3, 64)), (1, 8, 8)),
    "bounded": Counted(lambda: Run(lambda m, x: F.linear(x.flatten(1), m.w.tanh()), w=(3, 64)), (1, 8, 8)),
    "low rank": Counted(lambda: Run(lambda m, x: F.linear(x, m.u @ m.v), u=(7, 2), v=(2, 5)), (4, 5)),
    "baddbmm": Counted(lambda: Run(lambda m, x: torch.baddbmm(x, x, x.transpose(1, 2))), (6, 6)),
    "tensordot": Counted(lambda: Run(lambda m, x: torch.tensordot(x, m.w * 2, 1), w=(5, 3)), (4, 5)),
    "windows": Counted(
        lambda: Run(lambda m, x: m.attend(*3 * [m.project(_windows(x, 4))])[0], project=nn.Linear(3, 8),
                    attend=nn.MultiheadAttention(8, 2, batch_first=True)), (3, 8, 8),
    ),
    "attention in windows": Counted(
        lambda: Run(lambda m, x: F.scaled_dot_product_attention(*m.project(_windows(x, 4)).chunk(3, -1)),
                    project=nn.Linear(3, 24)), (3, 8, 8),
    ),
    "frames": Counted(
        lambda: Run(lambda m, x: m.up(m.down(x.flatten(0, 1))), down=nn.Conv2d(3, 4, 2, 2),
                    up=nn.ConvTranspose2d(4, 2, 2, 2)), (5, 3, 8, 8),
    ),
    "frames one by one": Counted(
        lambda: Run(lambda m, x: m.layer(x.flatten(0, 1))[0], layer=nn.LSTM(4, 5, 2, batch_first=True)), (3, 6, 4)
    ),
    "time first": Counted(lambda: Run(lambda m, x: m.layer(x.transpose(0, 1))[0], layer=nn.GRU(4, 5)), (6, 4)),
    "queries first": Counted(
        lambda: Run(lambda m, x: m.attend(*3 * [x.transpose(0, 1)])[0], attend=nn.MultiheadAttention(8, 2)), (6, 8)
    ),
    "one more key": Counted(
        lambda: Run(lambda m, x: m.attend(x, x, x)[0],
                    attend=nn.MultiheadAttention(8, 2, batch_first=True, add_bias_kv=True, add_zero_attn=True)), (6, 8),
    ),
    "einsum of three": Counted(
        lambda: Run(lambda m, x: torch.einsum("nti,nsi,nsj->ntj", x, x, m.a(x)), a=nn.Linear(5, 3)), (4, 5)
    ),
    "einsum that sums before": Counted(
        lambda: Run(lambda m, x: torch.einsum("nti,nsj->nj", x, m.a(x)), a=nn.Linear(5, 3)), (4, 5)
    ),
    "einsum without a sum": Counted(lambda: Run(lambda m, x: torch.einsum("nti,i->nti", x, m.w), w=(5,)), (4, 5)),
    "outer product": Counted(
        lambda: Run(lambda m, x: torch.einsum("ni,nj->nij", x, m.a(x)), a=nn.Linear(5, 3)), (5,)
    ),
    "product with a vector": Counted(lambda: Run(lambda m, x: m.a(x) @ m.w, a=nn.Linear(5, 3), w=(3,)), (4, 5), 4 * 3),
    "addbmm": Counted(
        lambda: Run(lambda m, x: x + torch.addbmm(m.w, m.a, m.b), w=(4, 5), a=(2, 4, 3), b=(2, 3, 5)), (4, 5), 2 * 4 * 3 * 5
    ),
    "bilinear": Counted(
        lambda: Run(lambda m, x: m.a(x, x[..., :3]), a=nn.Bilinear(5, 3, 7)), (4, 5), 4 * 5 * 3 * 7
    ),
    "distances": Counted(lambda: Run(lambda m, x: torch.cdist(x, m.w), w=(6, 5)), (4, 5), 4 * 6 * 5),
    "many distances": Counted(lambda: Run(lambda m, x: torch.cdist(x, m.w), w=(40, 5)), (30, 5), 30 * 40 * 5),
}  # fmt: skip
"""Networks with products of every kind: of values, by weights, by what is computed of weights."""


@pytest.mark.parametrize("name", COUNTED)
def test_flops_agree_with_torch(name: str) -> None:
    network, shape = COUNTED[name].make().eval(), COUNTED[name].shape
    graph = from_torch(network, torch.randn(2, *shape))
    assert uncounted(graph) == ()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.to("meta")(torch.randn(1, *shape, device="meta"))
    assert cost(graph).flops == counter.get_total_flops() + 2 * COUNTED[name].unknown
    spaces = ChannelSpaces.of(graph)
    model = CostModel(graph, spaces)
    assert model.of(model.widths) == cost(graph)


def test_what_cannot_run_without_data_is_counted_on_values() -> None:
    def masked(m: Any, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x[:, x[0, :, 0].nonzero().flatten()], x * m.w, x, enable_gqa=False)

    network, x = Run(masked, w=(4,)), torch.randn(2, 6, 4)
    graph = from_torch(network, x)
    assert cost(graph).flops == 2 * 2 * 6 * 6 * 4  # two products of six queries and six keys of width four
    assert uncounted(graph) == ()


@pytest.mark.parametrize("name", [*op_networks.CASES, *small_networks.NETWORKS])
def test_no_op_without_a_rule_multiplies(name: str) -> None:
    table: Any = op_networks if name in op_networks.CASES else small_networks
    assert uncounted(from_torch(*table.build(name))) == ()


def _forgotten(graph: Graph) -> Graph:
    """The graph without what import recorded of its foreign ops."""
    draft = draft_of(graph)
    for node in graph.nodes.values():
        if node.op == "foreign":
            draft.set_attrs(node.name, **{k: v for k, v in node.attrs.items() if k != "multiply_adds"}, multiply_adds=0)
    return draft.commit()


def test_a_budget_on_flops_that_leave_out_a_part_is_refused() -> None:
    network = COUNTED["bounded"].make()  # no rule forms its weight
    graph = from_torch(network, torch.randn(2, 1, 8, 8))
    require_room(graph, Budget(max_flops=384))
    forgotten = _forgotten(graph)
    assert uncounted(forgotten) == (Uncounted("linear", 0, 192),)
    require_room(forgotten, Budget(max_params=1000))
    with pytest.raises(
        BudgetError, match=r"leave out a part of node 'linear' \(foreign\): it takes 384 a sample, of which 0"
    ):
        require_room(forgotten, Budget(max_flops=384))


def gram(x: Tensor) -> Tensor:
    """A user's function that multiplies: [N, 5, 5] by itself."""
    return x @ x


def deform(x: Tensor) -> Tensor:
    """A user's function that convolves [N, 5, 5] with itself in torchvision's kernel: 3x3 positions, a kernel of 3x3."""
    return F.pad(deform_conv2d(x[:, None], x.new_zeros(len(x), 18, 3, 3), x.new_ones(1, 1, 3, 3))[:, 0], (1, 1, 1, 1))


@pytest.mark.parametrize(("function", "takes"), [(gram, 2 * 5 * 5 * 5), (deform, 2 * 9 * 9)])
def test_a_registered_op_has_to_say_what_it_multiplies(
    monkeypatch: pytest.MonkeyPatch, function: Callable[[Tensor], Tensor], takes: int
) -> None:
    monkeypatch.setattr(table, "_TABLE", dict(table._TABLE))
    monkeypatch.setattr(table, "_FUNCTIONS", dict(table._FUNCTIONS))
    call = Call(signature("x"), operands=("x",))
    own = OpSpec("own", same_type, all_axes, emit_simple(None, function), functions={function: call})
    register(own)
    called: dict[Any, Callable[[Any, Tensor], Tensor]]
    called = {gram: lambda m, x: gram(x), deform: lambda m, x: deform(x)}  # tracing stops at names
    graph = from_torch(Run(called[function]), torch.randn(2, 5, 5))
    assert [node.op for node in graph.nodes.values()] == ["input", "own"]
    with pytest.raises(BudgetError, match=rf"leave out a part of node '\w+' \(own\): it takes {takes} a sample"):
        require_room(graph, Budget(max_flops=takes))
    table._TABLE["own"] = replace(own, products=lambda operands: ((takes // 2,),))
    require_room(graph, Budget(max_flops=takes))


def test_the_model_follows_heads() -> None:
    graph = from_torch(*build("attention heads"))
    spaces = ChannelSpaces.of(graph)
    model = CostModel(graph, spaces)
    assert model.of(model.widths) == cost(graph)
    grown = applied(graph, spaces, [SplitChannel("qkv", 0), SplitChannel("project", 1), SplitChannel("project", 2)])
    assert model.of({**model.widths, "qkv": 3, "project": 7}) == cost(grown)


class Mixer(nn.Module):
    """A linear layer over tokens that a space makes: its positions grow with another space."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.mix, self.head = nn.Linear(5, 7), nn.Linear(4, 6), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.mix(torch.relu(self.up(x)).transpose(1, 2)))
        return cast(Tensor, self.head(y.transpose(1, 2)).mean(1))


def test_the_model_follows_positions() -> None:
    graph = from_torch(Mixer(), torch.randn(2, 4, 5))
    spaces = ChannelSpaces.of(graph)
    model = CostModel(graph, spaces)
    assert model.of(model.widths) == cost(graph)
    grown = applied(graph, spaces, [SplitChannel("up", 0), SplitChannel("up", 1)])
    assert model.of({**model.widths, "up": 9}) == cost(grown)
