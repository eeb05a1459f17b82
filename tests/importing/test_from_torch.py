"""Import and lowering: what tracing loses is found again, or refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import StochasticDepth, stochastic_depth

from gngraph.errors import IRError, UnsupportedModelError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph, format_graph, parse
from gngraph.lowering.to_torch import to_torch


def round_trip(module: nn.Module, *inputs: Tensor) -> nn.Module:
    """Import and lower; outputs in both modes and the state_dict's keys must agree exactly."""
    lowered = to_torch(from_torch(module, tuple(x[:1] for x in inputs)))
    assert list(lowered.state_dict()) == list(module.state_dict())
    for mode in (False, True):
        module.train(mode)
        lowered.train(mode)
        torch.manual_seed(3)
        expected = module(*inputs)
        torch.manual_seed(3)
        assert torch.equal(lowered(*inputs), expected), f"training={mode}"
    for key, value in module.state_dict().items():
        assert torch.equal(lowered.state_dict()[key], value), key
    return lowered


class Flags(nn.Module):
    """Every way in which a training flag enters a forward."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)
        self.drop = nn.Dropout(0.5)
        self.depth = StochasticDepth(0.5, "row")

    def forward(self, x: Tensor) -> Tensor:
        x = self.depth(self.drop(self.fc(x)))
        x = F.dropout(x, 0.3, training=self.training)
        x = F.dropout(x, 0.3, self.training)
        out: Tensor = stochastic_depth(x, 0.4, "row", self.training)
        return out


class Aliased(nn.Module):
    """Tied weights whose second name stands in the middle of the state_dict."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.again = self.first
        self.norm = nn.BatchNorm1d(4)
        self.last = nn.Linear(4, 4)
        self.last.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.norm(self.again(self.first(x))))
        return out


class InPlace(nn.Module):
    """In-place ops change what is read later under the old name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3, padding=1)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = self.act(y)
        y.add_(1)
        w = F.relu(y - 2, inplace=True)
        return torch.cat([y, z, w], 1)


class Functional(nn.Module):
    """Layers from raw parameters, a buffer outside the state_dict, a scalar on either side."""

    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(4, 2, 3, 3))
        self.scale = nn.Parameter(torch.rand(4, 1, 1))
        self.register_buffer("shift", torch.rand(1, 4, 1, 1), persistent=False)
        self.register_buffer("table", torch.rand(3))

    def forward(self, x: Tensor) -> Tensor:
        y = F.max_pool2d(F.conv2d(x, self.kernel, padding=1), 2)
        return (1.0 - y * self.scale + self.shift).flatten(1)


@pytest.mark.parametrize("make", [Flags, Aliased])
def test_vectors(make: type[nn.Module]) -> None:
    width = 6 if make is Flags else 4
    round_trip(make(), torch.randn(5, width))


@pytest.mark.parametrize("make", [InPlace, Functional])
def test_images(make: type[nn.Module]) -> None:
    round_trip(make(), torch.randn(4, 2, 6, 6))


def test_tied_weights_stay_tied() -> None:
    lowered = to_torch(from_torch(Aliased(), torch.randn(1, 4)))
    assert lowered.get_parameter("first.weight") is lowered.get_parameter("last.weight")


def test_frozen_parameters_stay_frozen_and_the_graph_has_its_own_copy() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    module[0].weight.requires_grad_(False)
    graph = from_torch(module, torch.randn(1, 3))
    with torch.no_grad():
        module.get_parameter("1.weight").zero_()
    lowered = to_torch(graph)
    flags = {name: p.requires_grad for name, p in lowered.named_parameters()}
    assert flags == {"0.weight": False, "0.bias": True, "1.weight": True, "1.bias": True}
    assert bool(lowered.get_parameter("1.weight").any())
    with torch.no_grad():
        lowered.get_parameter("1.weight").zero_()
    assert bool(graph.params["1.weight"].data.any())


def test_a_lowered_module_is_plain(tmp_path: Any) -> None:
    """It can be copied, and its state_dict keeps its order."""
    lowered = to_torch(from_torch(Aliased(), torch.randn(1, 4)))
    twin = copy.deepcopy(lowered)
    assert list(twin.state_dict()) == list(lowered.state_dict())


def test_several_inputs_and_defaults() -> None:
    class Two(nn.Module):
        def forward(self, a: Tensor, b: Tensor, scale: float = 2.0) -> Tensor:
            return a * scale + b

    round_trip(Two(), torch.randn(3, 4), torch.randn(3, 4))


def test_unknown_ops_are_carried_through() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.fc(x)
            out: Tensor = torch.special.erfcx(y).unsqueeze(2) * x.unsqueeze(1)
            return out.i0()

    graph = from_torch(Odd(), torch.randn(1, 4))
    assert [str(n.type) for n in graph.nodes.values() if n.op == "foreign"] == ["f32[N,4]", "f32[N,4,4]"]
    round_trip(Odd(), torch.randn(3, 4))


class Branch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if bool(x.sum() > 0) else -x


class Heads(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Any:
        return (self.a(x), self.b(x)) if self.training else self.a(x)


def with_hook() -> nn.Module:
    module = nn.Sequential(nn.Linear(3, 3))
    module[0].register_forward_hook(lambda m, args, out: out * 2)
    return module


REFUSED = {
    "data-dependent control flow": (Branch(), "cannot be traced.*must not depend on tensor values"),
    "train-only parts": (Heads(), "train_only='drop'"),
    "hooks": (with_hook(), "module '0' .Linear. has hooks"),
    "wrong input": (nn.Linear(5, 2), r"does not run on an input of shape \(1, 3\)"),
    "untraceable module": (nn.Sequential(nn.Linear(3, 3), Branch()), "module '1' .Branch. cannot be traced"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_refusals_say_what_to_do(name: str) -> None:
    module, message = REFUSED[name]
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        from_torch(module, torch.randn(1, 3))
    assert "\n" not in str(caught.value)


def test_train_only_parts_can_be_dropped() -> None:
    module = Heads()
    graph = from_torch(module, torch.randn(1, 3), train_only="drop")
    assert list(to_torch(graph).state_dict()) == list(module.state_dict())


def test_modes_are_restored() -> None:
    module = nn.Sequential(nn.Linear(3, 3), nn.Dropout())
    module[1].eval()
    from_torch(module, torch.randn(1, 3))
    assert [m.training for m in module.modules()] == [True, True, False]


def test_a_graph_from_text_has_no_values() -> None:
    graph: Graph = parse(format_graph(from_torch(nn.Linear(3, 2), torch.randn(1, 3))))
    with pytest.raises(IRError, match="'weight' has no values"):
        to_torch(graph)


class ScaledTwice(nn.Module):
    """The same numbers, written out in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x) * torch.tensor([1.0, 2.0, 3.0, 4.0])
        y: Tensor = self.second(x) * torch.tensor([1.0, 2.0, 3.0, 4.0])
        return y


def test_equal_constants_are_one_in_both_modes() -> None:
    x = torch.rand(3, 4)
    graph = from_torch(ScaledTwice(), x)
    assert "by_mode" not in {node.op for node in graph.nodes.values()}
    assert format_graph(from_torch(to_torch(graph), x)).splitlines()[1:] == format_graph(graph).splitlines()[1:]
    round_trip(ScaledTwice(), x)
