"""The state of the process around an import: torch as it is when nobody has switched anything, and everything put back."""

from __future__ import annotations

import random
import sys
from collections.abc import Hashable, Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

import torch
from torch.nn.modules import transformer

_AUTOCAST = ("cpu", "cuda")


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
    """Whether code runs that is neither torch's nor gngraph's, or is asking torch whether a value is a tensor.

    Args:
        frame: where it runs.
    """
    if frame.f_code is torch.is_tensor.__code__ and frame.f_back is not None:
        return is_users(frame.f_back)
    name: str = frame.f_globals.get("__name__", "")
    return name.partition(".")[0] not in ("torch", "gngraph")


def random_streams() -> dict[str, Hashable]:
    """Where Python's, NumPy's and torch's global streams of random numbers are, by the names of their modules."""
    streams: dict[str, Hashable] = {"random": random.getstate(), "torch": torch.get_rng_state().numpy().tobytes()}
    if "numpy" in sys.modules:
        name, keys, *rest = sys.modules["numpy"].random.get_state()
        streams["numpy.random"] = (name, keys.tobytes(), *rest)
    return streams
