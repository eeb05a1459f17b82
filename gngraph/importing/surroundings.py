"""The state of the process around an import: torch as it is when nobody has switched anything, and everything put back."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any

import torch
from torch import fx
from torch.nn.modules import transformer
from torch.utils._pytree import tree_leaves

_AUTOCAST = ("cpu", "cuda")
_SEEDS = {
    "torch": ("manual_seed", "seed", "set_rng_state"),
    "torch.random": ("fork_rng", "manual_seed", "seed", "set_rng_state"),
    "random": ("seed", "setstate"),
    "numpy.random": ("seed", "set_state"),
}
"""Functions that set the state of a stream of random numbers, by module."""
_HANDING_OVER = "torch.nn.utils._named_member_accessor"
"""What puts values in the place of a module's parameters for one call, and asks if they are tensors."""


@contextmanager
def plain_torch() -> Iterator[None]:
    """Gradients on, autocast and torch's fused transformer layers off, and every random stream as it was afterwards.

    The fast path of torch's transformer layers has the arithmetic of a whole layer at once.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.callback(random.setstate, random.getstate())
        if "numpy" in sys.modules:
            stack.callback(sys.modules["numpy"].random.set_state, sys.modules["numpy"].random.get_state())
        stack.enter_context(with_gradients())
        yield


@contextmanager
def with_gradients() -> Iterator[None]:
    """Gradients on and autocast off, whatever stands around a call, as around a validation in a loop of the user's own."""
    with ExitStack() as stack:
        for device in _AUTOCAST:
            stack.callback(torch.set_autocast_enabled, device, torch.is_autocast_enabled(device))
            torch.set_autocast_enabled(device, False)
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        yield


@contextmanager
def masks_as_given() -> Iterator[None]:
    """Torch's transformers add the mask that they are given, where they would look if it is the causal one.

    What they then compute is the same up to the last bits; a graph that held the answer would pass by any other mask.
    """
    original = transformer._detect_is_causal_mask
    try:
        transformer._detect_is_causal_mask = lambda mask, is_causal=None, size=None: is_causal is True
        yield
    finally:
        transformer._detect_is_causal_mask = original


def under_autocast() -> bool:
    """Whether torch casts what it computes now."""
    return any(torch.is_autocast_enabled(device) for device in _AUTOCAST)


def is_users(frame: FrameType) -> bool:
    """Whether code runs that is neither torch's nor gngraph's, or is asking these for the class of a value, or handing it over.

    Args:
        frame: where it runs.
    """
    if frame.f_code.co_name in ("is_tensor", "__instancecheck__") and frame.f_back is not None:
        return is_users(frame.f_back)
    name: str = frame.f_globals.get("__name__", "")
    return name.partition(".")[0] not in ("torch", "gngraph") or name == _HANDING_OVER


def random_streams() -> dict[str, Hashable]:
    """Where Python's, NumPy's and torch's global streams of random numbers are, by the names of their modules."""
    streams: dict[str, Hashable] = {"random": random.getstate(), "torch": torch.get_rng_state().numpy().tobytes()}
    if "numpy" in sys.modules:
        name, keys, *rest = sys.modules["numpy"].random.get_state()
        streams["numpy.random"] = (name, keys.tobytes(), *rest)
    return streams


@contextmanager
def refused_seeds(refuse: Callable[[str], None]) -> Iterator[None]:
    """While tracing, what sets the state of random numbers is told of where a forward calls it.

    Args:
        refuse: takes its name.
    """

    def told(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if is_users(sys._getframe(1)):
                refuse(name)
            return function(*args, **kwargs)

        return call

    with ExitStack() as stack:
        for place, names in _SEEDS.items():
            for name in names if place in sys.modules else ():
                module = sys.modules[place]
                stack.enter_context(replaced(module, name, told(f"{place}.{name}", getattr(module, name))))
        yield


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Something else under a name of an object, for as long as this is entered.

    Args:
        owner: a class or module.
        name: that it has itself.
        value: what is there meanwhile.
    """
    original = vars(owner)[name]
    try:
        setattr(owner, name, value)
        yield
    finally:
        setattr(owner, name, original)


@contextmanager
def plain_functions() -> Iterator[None]:
    """While tracing, functions that torch has scripted or compiled are what they were made of."""
    script, called = torch.jit.ScriptFunction, vars(torch.jit.ScriptFunction)["__call__"]

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        plain = getattr(self, "_torchdynamo_inline", None)
        return called.__get__(self)(*args, **kwargs) if plain is None else plain(*args, **kwargs)

    with ExitStack() as stack:
        stack.enter_context(replaced(script, "__call__", call))
        dynamo = sys.modules.get("torch._dynamo")
        if dynamo is not None:
            stack.enter_context(dynamo.config.patch(error_on_nested_fx_trace=False))
        yield


@contextmanager
def sampled_distributions() -> Iterator[None]:
    """While tracing, distributions ask no value whether it is allowed, and draw as many as the sizes of values say."""
    kind = torch.distributions.Distribution
    extended = vars(kind)["_extended_shape"]

    def shape(self: Any, sample_shape: Any = ()) -> Any:
        parts = (sample_shape, self._batch_shape, self._event_shape)
        plain = not any(isinstance(leaf, fx.Proxy) for leaf in tree_leaves(parts))
        return extended(self, torch.Size(sample_shape)) if plain else tuple(size for part in parts for size in part)

    with replaced(kind, "_validate_args", False), replaced(kind, "_extended_shape", shape):
        yield
