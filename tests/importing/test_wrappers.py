"""What wraps a module for a training loop is taken off, wherever it stands; what cannot be read is refused with the way out."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import gngraph
from gngraph.errors import UnsupportedModelError

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))


def plain() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))


def compiled(module: nn.Module) -> nn.Module:
    return torch.compile(module, backend="eager")  # type: ignore[return-value]


def compiled_in_place(module: nn.Module) -> nn.Module:
    module.compile(backend="eager")
    return module


def distributed(module: nn.Module) -> nn.Module:
    made = copy.copy(module)
    wrapper = nn.parallel.DistributedDataParallel.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(wrapper)
    wrapper.module = made  # what its constructor does besides needs a group of processes
    return wrapper


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DataParallel": nn.DataParallel,
    "DistributedDataParallel": distributed,
    "torch.compile": compiled,
    "compile in place": compiled_in_place,
    "AveragedModel": AveragedModel,
    "one in another": lambda module: compiled(nn.DataParallel(module)),
}


class Body(nn.Module):
    """A module with another, wrapped, inside."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.head = inner, nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.inner(x)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_wrapper_is_taken_off(kind: str) -> None:
    net = plain()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    lowered = gngraph.to_torch(gngraph.from_torch(WRAPPERS[kind](net), X))
    assert list(lowered.state_dict()) == list(before)
    assert torch.equal(lowered(X), plain().eval()(X))
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())


@pytest.mark.parametrize("kind", WRAPPERS)
def test_a_wrapper_deeper_in_a_network_is_taken_off(kind: str) -> None:
    torch.manual_seed(1)
    net = Body(plain())
    expected, keys = copy.deepcopy(net).eval()(X), list(net.state_dict())
    net.inner = WRAPPERS[kind](net.inner)
    lowered = gngraph.to_torch(gngraph.from_torch(net, X))
    assert list(lowered.state_dict()) == keys
    assert torch.equal(lowered(X), expected)
    lowered.load_state_dict(copy.deepcopy(lowered.state_dict()))


class Scaled(nn.DataParallel):  # type: ignore[type-arg]
    """A wrapper that computes something itself."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.module(x)  # type: ignore[no-any-return]


def test_a_wrapper_with_a_forward_of_its_own_is_no_wrapper() -> None:
    net = Scaled(plain())
    assert torch.equal(gngraph.to_torch(gngraph.from_torch(net, X))(X), 2 * plain().eval()(X))


def lazy() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.LazyBatchNorm1d())


def on_meta() -> nn.Module:
    return plain().to("meta")


def sparse() -> nn.Module:
    net = plain()
    net.register_buffer("mask", torch.eye(3).to_sparse())
    return net


def test_float_functionals_of_networks_to_be_quantised_are_their_arithmetic() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.sum = nn.Linear(6, 6), torch.ao.nn.quantized.FloatFunctional()

        def forward(self, x: torch.Tensor) -> Any:
            return self.sum.add_relu(x, self.inner(x))

    net, x = Residual(), torch.randn(4, 6)
    graph = gngraph.from_torch(net, x)
    assert {"add", "relu"} <= {node.op for node in graph.nodes.values()}
    assert torch.equal(gngraph.to_torch(graph)(x), net.eval()(x))


def quantised() -> nn.Module:
    layer: Any = torch.ao.nn.quantized.dynamic.Linear
    return nn.Sequential(layer(6, 5), nn.ReLU())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lazy, "uninitialised .* run the model once first"),
        (on_meta, "'0.weight' is on the meta device .* load weights"),
        (sparse, "'mask' is a sparse"),
        (quantised, r"module '0' \(Linear\) is a quantised module"),
        (lambda: torch.jit.script(plain()), "TorchScript"),
        (lambda: nn.Linear, "an nn.Module, but the class 'Linear' was given"),
        (lambda: torch.relu, "an nn.Module, but a 'builtin_function_or_method' was given"),
        (lambda: plain().state_dict(), "an nn.Module, but a 'OrderedDict' was given"),
        (lambda: None, "an nn.Module, but a 'NoneType' was given"),
    ],
)
def test_what_cannot_be_read_is_refused(make: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        gngraph.from_torch(make(), X)
