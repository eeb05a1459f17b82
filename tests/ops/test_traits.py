"""What the table claims of its ops, held against numbers: every op, in some network, and every claim of it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves, tree_map
from torchvision.ops import StochasticDepth

from gngraph.analysis.channels import ChannelSpaces
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph, Node, TensorType
from gngraph.ir.inputs import over_samples
from gngraph.lowering.interpreter import Interpreter
from gngraph.lowering.probe import probe_of
from gngraph.lowering.to_torch import lower
from gngraph.ops import OpSpec, lookup, table
from gngraph.ops.rules import all_axes
from gngraph.ops.sizes import factors
from tests import op_networks
from tests.expert_networks import Experts
from tests.small_networks import calibrated


class Steps(nn.Module):
    """Modules and functions of one value in a row, between two layers."""

    def __init__(
        self, first: nn.Module, steps: Sequence[nn.Module | Callable[[Tensor], Tensor]], last: nn.Module
    ) -> None:
        super().__init__()
        self.first, self.last, self.steps = first, last, list(steps)
        self.parts = nn.ModuleList(step for step in steps if isinstance(step, nn.Module))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for step in self.steps:
            x = step(x)
        return cast(Tensor, self.last(x))


def of_rank(rank: int) -> nn.Module:
    """The ops that have a number of spatial axes in their name."""

    def made(name: str, *args: Any, **options: Any) -> nn.Module:
        return cast(nn.Module, getattr(nn, f"{name}{rank}d")(*args, **options))

    steps = [
        made("BatchNorm", 8), made("BatchNorm", 8, affine=False), made("BatchNorm", 8, track_running_stats=False), nn.ReLU6(),
        made("Conv", 8, 8, 3, padding=1, groups=8), made("InstanceNorm", 8), made("Dropout"), made("AvgPool", 2, 1),
        made("LPPool", 2.0, 2, 1), made("MaxPool", 2, 1), made("ConvTranspose", 8, 8, 2), made("AdaptiveAvgPool", 3),
        made("AdaptiveMaxPool", 2),
    ]  # fmt: skip
    return Steps(made("Conv", 3, 8, 3, padding=1), steps, made("Conv", 8, 3, 1))


def images(*steps: nn.Module | Callable[[Tensor], Tensor], behind: int = 8) -> nn.Module:
    return Steps(nn.Conv2d(3, 8, 3, padding=1), steps, nn.Conv2d(behind, 3, 1))


class DropInTraining(nn.Module):
    """Dropout of whole samples, as it is written by hand."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rand_like(x[:, :1, :1, :1]).round() if self.training else x


class Products(nn.Module):
    """Products with raw parameters and of values with values, on tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 3)
        self.weight, self.bias = nn.Parameter(torch.randn(6, 6)), nn.Parameter(torch.randn(6))
        self.attend = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        y = F.linear(x, self.weight.t(), self.bias) + x @ self.weight
        y = y + torch.addmm(self.bias, x.mean(1), self.weight).unsqueeze(1)
        y = y + torch.matmul(torch.matmul(x, y.transpose(1, 2)), x) + torch.einsum("btf,fg->btg", y, self.weight)
        y = y + torch.einsum("bif,bjf,bjg->big", x, y, x) + self.attend(x, y, y)[0]
        y = y + self.attend(x, y, y, attn_mask=torch.ones(4, 4).triu(1) > 0)[0]
        return cast(Tensor, self.last(F.scaled_dot_product_attention(y, x, x) + torch.ones(6, device=y.device)))


class Masked(nn.Module):
    """Attention with masks for the heads of two samples, which stays one op."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 3)
        self.attend = nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return cast(Tensor, self.last(self.attend(x, x, x, attn_mask=torch.zeros(4, 4, 4), need_weights=False)[0]))


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{f"{rank} spatial axes": (lambda rank=rank: of_rank(rank), (3, *(6,) * rank)) for rank in (1, 2, 3)},  # type: ignore[misc]
    "activations": (
        lambda: images(
            nn.LeakyReLU(), nn.ELU(), nn.SELU(), nn.CELU(), nn.GELU(), nn.SiLU(), nn.Mish(), nn.Softplus(), nn.Hardswish(),
            nn.Hardsigmoid(), nn.Hardtanh(), nn.Sigmoid(), nn.ReLU(),
        ),
        (3, 6, 6),
    ),
    "what is the identity in eval mode": (
        lambda: images(nn.Identity(), nn.Dropout(), StochasticDepth(0.1, "row"), lambda y: y.contiguous()),
        (3, 6, 6),
    ),
    "windows": (lambda: images(lambda y: y.unfold(2, 3, 2).flatten(3)), (3, 6, 6)),
    "pieces": (
        lambda: images(
            lambda y: torch.cat(y.chunk(2, 1), 1), lambda y: torch.split(y, [2, 4], 3)[1],
            lambda y: y + y.unbind(3)[1].unsqueeze(3),
            lambda y: y.roll(1, 2).flip(3), lambda y: y.sum((2, 3), keepdim=True).expand(-1, -1, 2, 3),
        ),
        (3, 6, 6),
    ),
    "choices": (
        lambda: images(
            lambda y: torch.maximum(y, y.tanh()) - torch.minimum(y, y * 0.5), lambda y: torch.sqrt(y.abs()) + (y.abs() + 1) ** 0.5,
            lambda y: y * (y == y.relu()) + (y != y.relu()),
            lambda y: torch.std_mean(y, dim=2, keepdim=True)[0] * y.argmin(2, True),
        ),
        (3, 6, 6),
    ),
    "products": (Products, (4, 5)),
    "attention as one op": (Masked, (4, 5)),
    "experts": (Experts, (4, 5)),
    "what only training sees": (
        lambda: images(lambda y: y + y.detach() * 0.5, DropInTraining(), lambda y: y.relu()),
        (3, 6, 6),
    ),
    "synchronised norm": (lambda: images(nn.SyncBatchNorm(8)), (3, 6, 6)),
    **{name: (case.make, case.shape) for name, case in op_networks.CASES.items()},
}  # fmt: skip


def built(name: str) -> Graph:
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    return from_torch(calibrated(make(), *shape), torch.randn(2, *shape)).to(torch.float64)


imported = cache(built)


@cache
def with_a_shared_input() -> Graph:
    """What runs over samples of a network that is called with a scale for all of them."""

    class Scaled(nn.Linear):
        def forward(self, x: Tensor, scale: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(x) * scale

    return over_samples(from_torch(Scaled(5, 3).eval(), (torch.randn(2, 5), torch.randn(3)))).to(torch.float64)


def test_every_op_is_held_to_its_claims() -> None:
    graphs = [*map(imported, NETWORKS), with_a_shared_input()]
    seen = {node.op for graph in graphs for node in graph.nodes.values()}
    assert set(table._TABLE) - seen == set()


class Runner:
    """Single nodes of a graph in eval mode, on values of one's own.

    Attributes:
        values: of every node, on a random input.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph, self.lowered = graph, lower(graph)
        self.interpreter = Interpreter(self.lowered.module, garbage_collect_values=False)
        with torch.no_grad():
            self.interpreter.run(*probe_of(graph))
        self.values = {name: self.interpreter.env[step] for name, step in self.lowered.values.items()}

    def run(self, name: str, changed: Mapping[str, Any]) -> Any:
        """The value of a node with other values of its inputs."""
        env = self.interpreter.env = {}
        for source in self.graph.nodes[name].inputs:
            value = changed.get(source, self.values[source])
            env[self.lowered.values[source]] = value.clamp(0, 1) if self.graph.nodes[name].op == "bernoulli" else value
        torch.manual_seed(0)  # for what draws
        with torch.no_grad():
            for step in self.lowered.steps[name]:
                env[step] = self.interpreter.run_node(step)
        return env[self.lowered.values[name]]


@pytest.mark.parametrize("name", NETWORKS)
def test_claims_hold(name: str) -> None:
    hold_claims(imported(name))


def test_claims_hold_with_a_shared_input() -> None:
    hold_claims(with_a_shared_input())


def hold_claims(graph: Graph) -> None:
    """Refuse a graph of which the table claims what its numbers deny."""
    runner, spaces = Runner(graph), ChannelSpaces.of(graph)
    for node in graph.nodes.values():
        if node.op not in ("input", "foreign"):
            _check_type(node, runner)
            for changed in subsets([i for i in dict.fromkeys(node.inputs) if floating(runner.values[i])]):
                _check_linear(node, changed, runner)
                _check_sign(node, changed, runner)
            _check_entries(node, runner)
            _check_channels(node, spaces, runner)
            _check_layer(node, runner)
            _check_statistics(node, runner)


def floating(value: Any) -> bool:
    """Whether a value is made of numbers that can be changed a little."""
    leaves = tree_leaves(value)
    return bool(leaves) and all(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in leaves)


def subsets(names: Sequence[str]) -> Iterator[tuple[str, ...]]:
    for count in range(len(names) + 1):
        yield from combinations(names, count)


def _check_type(node: Node, runner: Runner) -> None:
    if isinstance(node.type, TensorType):
        sizes = [factors(dim) for dim in node.type.shape]
        assert runner.values[node.name].shape == tuple(number * 2 ** len(names) for number, names in sizes), node


def _check_linear(node: Node, changed: Collection[str], runner: Runner) -> None:
    """Between two points of what changes, a linear value lies between those at the points."""
    if not changed or not lookup(node.op).is_linear(node, changed):
        return
    points = [{i: tree_map(torch.randn_like, runner.values[i]) for i in changed} for _ in range(2)]
    middle = {i: tree_map(lambda a, b: 0.3 * a + 0.7 * b, points[0][i], points[1][i]) for i in changed}
    first, second, found = (tree_leaves(runner.run(node.name, point)) for point in (*points, middle))
    for a, b, c in zip(first, second, found, strict=True):
        assert torch.allclose(c, 0.3 * a + 0.7 * b, atol=1e-10), f"{node.op} is not linear in {changed}"


def _check_sign(node: Node, known: Collection[str], runner: Runner) -> None:
    if not lookup(node.op).is_nonnegative(node, known):
        return
    values = {i: tree_map(torch.randn_like, runner.values[i]) for i in node.inputs if floating(runner.values[i])}
    values |= {i: tree_map(F.relu, values[i]) for i in known}
    for leaf in tree_leaves(runner.run(node.name, values)):
        assert not (leaf < 0).any(), f"{node.op} gives what is below 0, though {known or 'none of its inputs'} is not"


def _check_entries(node: Node, runner: Runner) -> None:
    traits = lookup(node.op)
    if traits.rearranges:
        entries = [
            tensor.flatten().sort().values for tensor in (runner.values[node.inputs[0]], runner.values[node.name])
        ]
        assert torch.equal(*entries), f"{node.op} does not have the entries of its input"
    if traits.of_sizes:
        others = {i: torch.randn_like(v) for i, v in runner.values.items() if i in node.inputs and floating(v)}
        first, value, again = (runner.run(node.name, entries) for entries in ({}, {}, others))
        if isinstance(value, Tensor):  # what is left unfilled is another one each time
            assert torch.equal(again, value) or not torch.equal(first, value), f"{node.op} depends on entries"
        else:
            assert again == value, f"{node.op} depends on entries"


def _check_channels(node: Node, spaces: ChannelSpaces, runner: Runner) -> None:
    """Other numbers in channel 0 of what is read change channel 0 alone."""
    if not lookup(node.op).channelwise:
        return
    for space in spaces.free:
        laid = {axis: segments for (name, axis), segments in spaces.layouts.items() if name == node.name}
        if any(own == space.name for segments in laid.values() for own, _, _ in segments):
            inputs = [
                i
                for i in dict.fromkeys(node.inputs)
                if isinstance(runner.values[i], Tensor) and floating(runner.values[i])
            ]
            before = _parts(runner.run(node.name, {}))
            found = runner.run(node.name, {i: _changed(spaces, i, space.name, runner.values[i]) for i in inputs})
            others = _changed(spaces, node.name, space.name, torch.zeros_like(before)) == 0
            assert float((_parts(found) - before)[others].abs().max()) < 1e-10, (
                f"{node.op} mixes the channels of '{space.name}'"
            )


def _parts(value: Tensor) -> Tensor:
    """A value as real numbers, of which a complex one has two along a last axis of their own."""
    return (torch.view_as_real(value) if value.is_complex() else value).detach().double()


def _changed(spaces: ChannelSpaces, value: str, space: str, tensor: Tensor) -> Tensor:
    """`tensor` with other numbers in the entries of channel 0 of a space."""
    tensor = tensor.clone()
    for (name, axis), segments in spaces.layouts.items():
        start = 0
        for own, size, inner in segments:
            if (name, own) == (value, space):
                part = tensor.narrow(axis, start, inner)
                part.add_(torch.rand_like(part) + 0.5)
            start += size * inner
    return tensor


def _check_layer(node: Node, runner: Runner) -> None:
    """`apply` is the layer without its bias; a row of the weight is a channel, and a dense layer reads every input for each."""
    traits = lookup(node.op)
    if traits.apply is None:
        return
    weight, x, axis = (
        runner.graph.params[node.params["weight"]].data,
        runner.values[node.inputs[0]],
        traits.channel_axis,
    )
    if traits.computed is not None:
        weight = traits.computed.weight(node, {role: runner.graph.params[p].data for role, p in node.params.items()})
        value = traits.apply(node, x, weight)
        if "bias" in node.params:
            value = value + runner.graph.params[node.params["bias"]].data.view(-1, *[1] * (weight.dim() - 2))
        torch.testing.assert_close(value, runner.values[node.name])
    value = traits.apply(node, x, weight)
    if "bias" not in node.params and len(node.inputs) == 1 and traits.computed is None:
        assert torch.equal(value, runner.values[node.name]), f"{node.op} is applied otherwise than it runs"
    other = weight.clone()
    other[0] += 1.0
    moved = (traits.apply(node, x, other) - value).movedim(axis, 0)
    assert moved[0].any() and not moved[1:].any(), f"the channels of {node.op} do not lie on axis {axis}"
    for channel in range(x.shape[axis]):
        perturbed = x.clone()
        perturbed.select(axis, channel).add_(torch.rand_like(perturbed.select(axis, channel)) + 0.5)
        reached = (traits.apply(node, perturbed, weight) - value).movedim(axis, 0).flatten(1).any(1)
        assert traits.is_dense(node) == (bool(reached.all()) and traits.computed is None), (
            f"whether {node.op} is dense is told wrong"
        )


def _check_statistics(node: Node, runner: Runner) -> None:
    """A norm is its formula: with running statistics in eval mode, with those of the batch in train mode."""
    traits = lookup(node.op)
    roles = traits.statistics
    if roles is None:
        return
    held = {role: runner.graph.params[param].data for role, param in node.params.items()}
    x = runner.values[node.inputs[0]].movedim(traits.channel_axis, -1)
    axes = tuple(range(x.dim() - 1))
    batch = {roles.mean: x.mean(axes), roles.variance: x.var(axes, correction=0)}

    def formula(statistics: Mapping[str, Tensor]) -> Tensor:
        y = (x - statistics[roles.mean]) / (statistics[roles.variance] + node.attrs[roles.eps]).sqrt()
        y = y * held[roles.scale] + held[roles.shift] if roles.scale in held else y
        moved: Tensor = y.movedim(-1, traits.channel_axis)
        return moved

    expected = formula(held if roles.run(node) else batch)
    torch.testing.assert_close(runner.values[node.name], expected, msg=f"{node.op} is not its formula in eval mode")
    if node.module is not None and node.op != "batch_norm_synchronised":  # which trains on a GPU alone
        with torch.no_grad():
            trained = runner.lowered.module.get_submodule(node.module).train()(runner.values[node.inputs[0]])
        torch.testing.assert_close(trained, formula(batch), msg=f"{node.op} is not its formula in train mode")


@pytest.mark.parametrize(
    ("case", "op", "claim", "message"),
    [
        ("reciprocals", "div", {"linear": True}, "div is not linear"),
        ("products", "matmul", {"linear": True}, "matmul is not linear"),
        ("2 spatial axes", "batch_norm2d", {"linear": True}, "batch_norm2d is not linear"),
        ("prelu", "prelu", {"linear": True}, "prelu is not linear"),
        ("pieces", "chunk", {"nonnegative": True}, "chunk gives what is below 0"),
        ("activations", "leaky_relu", {"nonnegative": True}, "leaky_relu gives what is below 0"),
        ("statistics", "sub", {"nonnegative": lambda node, positions: len(positions) == 2}, "sub gives what is below 0"),
        ("pieces", "sum", {"rearranges": True}, "sum does not have the entries"),
        ("local response norm", "local_response_norm", {"channels": all_axes}, "mixes the channels of 'first'"),
        ("2 spatial axes", "conv2d", {"channel_axis": -1}, "the channels of conv2d do not lie on axis -1"),
        ("2 spatial axes", "depthwise_conv2d", {"channelwise": False}, "whether depthwise_conv2d is dense is told wrong"),
        ("2 spatial axes", "instance_norm2d", {"statistics": lookup("batch_norm2d").statistics}, "is not its formula"),
    ],
)  # fmt: skip
def test_a_false_claim_is_seen(
    case: str, op: str, claim: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = built(case)
    changed: OpSpec = replace(lookup(op), **claim)
    monkeypatch.setitem(table._TABLE, op, changed)
    with pytest.raises(AssertionError, match=message):
        hold_claims(graph)
