"""The state of the process around an import: torch as it is when nobody has switched anything, and everything put back."""

from __future__ import annotations

import random
import sys
from collections.abc import Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import islice
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import torch

_AUTOCAST = ("cpu", "cuda")
_LOOKED_AT = 10_000
"""Objects among which generators of random numbers are looked for."""


@contextmanager
def plain_torch() -> Iterator[None]:
    """Gradients on, autocast and torch's fused transformer layers off, and every random stream as it was afterwards.

    The fast path of torch's transformer layers has the arithmetic of a whole layer at once.
    """
    autocast = {device: torch.is_autocast_enabled(device) for device in _AUTOCAST}
    fast = torch.backends.mha.get_fastpath_enabled()
    with ExitStack() as stack:
        stack.callback(torch.backends.mha.set_fastpath_enabled, fast)
        torch.backends.mha.set_fastpath_enabled(False)
        for device, enabled in autocast.items():
            stack.callback(torch.set_autocast_enabled, device, enabled)
            torch.set_autocast_enabled(device, False)
        stack.enter_context(torch.random.fork_rng(devices=[]))
        stack.callback(random.setstate, random.getstate())
        if "numpy" in sys.modules:
            stack.callback(sys.modules["numpy"].random.set_state, sys.modules["numpy"].random.get_state())
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        yield


def under_autocast() -> bool:
    """Whether torch casts what it computes now."""
    return any(torch.is_autocast_enabled(device) for device in _AUTOCAST)


def random_streams() -> dict[str, Hashable]:
    """Where Python's, NumPy's and torch's global streams of random numbers are, by the names of their modules."""
    streams: dict[str, Hashable] = {"random": random.getstate(), "torch": torch.get_rng_state().numpy().tobytes()}
    if "numpy" in sys.modules:
        name, keys, *rest = sys.modules["numpy"].random.get_state()
        streams["numpy.random"] = (name, keys.tobytes(), *rest)
    return streams


def own_streams(roots: Mapping[str, Any]) -> dict[str, Hashable]:
    """Where the generators of random numbers are that some objects hold, by the name of the object and their kind.

    They are looked for in containers, in bound methods, and in what functions refer to: in closures and among their globals.

    Args:
        roots: the objects, by name.
    """
    found: dict[str, Hashable] = {}
    seen: set[int] = set()
    waiting = [(name, value) for name, value in roots.items()]
    for name, value in waiting:  # which grows on the way
        if id(value) in seen or len(seen) > _LOOKED_AT:
            continue
        seen.add(id(value))
        state = _state_of(value)
        if state is not None:
            found[f"{name} ({type(value).__module__}.{type(value).__name__})"] = state
        else:
            waiting += [(name, item) for item in _held_by(value)]
    return found


def _state_of(value: Any) -> Hashable:
    """The state of a generator of random numbers; None of anything else."""
    kind = f"{type(value).__module__}.{type(value).__name__}"
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    if kind == "numpy.random._generator.Generator":
        return repr(value.bit_generator.state)
    return repr(value.get_state()) if kind == "numpy.random.mtrand.RandomState" else None


def _held_by(value: Any) -> Iterator[Any]:
    if isinstance(value, (dict, list, tuple, set)):
        yield from islice(value.values() if isinstance(value, dict) else value, _LOOKED_AT)
    elif isinstance(value, partial):
        yield from (value.func, value.args, value.keywords)
    elif isinstance(value, (MethodType, BuiltinFunctionType)) and not isinstance(value.__self__, torch.nn.Module):
        yield value.__self__
        yield getattr(value, "__func__", None)
    elif isinstance(value, FunctionType) and not (value.__module__ or "torch.").startswith("torch."):
        yield from (cell.cell_contents for cell in value.__closure__ or () if _is_filled(cell))
        yield from (value.__globals__[name] for name in value.__code__.co_names if name in value.__globals__)


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False
