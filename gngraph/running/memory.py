"""Memory that runs out: how torch and Python say so, and work that is begun again with less at a time."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Callable
from typing import TypeVar

import torch

from gngraph.errors import GnGraphError, GnGraphNote
from gngraph.ranks import here

Done = TypeVar("Done")

SIGNS = ("DefaultCPUAllocator", "not enough memory", "out of memory", "std::bad_alloc")
"""What a RuntimeError of torch has in its text where memory ran out; on GPUs that is a type of its own."""


class MemoryShortError(GnGraphError):
    """Something does not fit into the memory of the device, also in the smallest pieces."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out.

    >>> out_of_memory(MemoryError()), out_of_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)


def release() -> None:
    """Give back what is held without need, after memory ran out."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def total_memory(device: torch.device) -> int:
    """Bytes of memory that a device has.

    >>> total_memory(torch.device("cpu")) > 2**28
    True
    """
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def require_fitting(what: str, needed: int, device: torch.device) -> None:
    """Refuse what a device has not the memory for: a CPU lends more than it has, and ends the process that uses it.

    Args:
        what: takes it, for the message.
        needed: bytes.
        device: where they are to be.

    Raises:
        MemoryShortError: the device has less.
    """
    there = total_memory(device)
    if needed > there:
        raise MemoryShortError(
            f"{what} takes {needed / 1e9:,.1f} GB of memory, but {device} has {there / 1e9:,.1f} GB: take a curvature of fewer "
            f"factors (mc has one), fewer or smaller samples, or a machine with more memory"
        )


def in_halves(what: str, size: int, work: Callable[[int], Done], least: int = 1) -> tuple[Done, int]:
    """The result of `work` at a number of samples at a time, which is halved whenever memory runs out.

    Args:
        what: is done, for messages, such as "the analysis".
        size: samples at a time, to begin with.
        work: given that number; it can be begun again.
        least: number of samples at a time that is not halved any more.

    Returns:
        The result, and the number that it was found with.

    Raises:
        MemoryShortError: memory runs out with the least number too.
    """
    while True:
        try:
            return work(size), size
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            if size // 2 < least or here().size > 1:  # the others wait where this one was
                too = " too" if size // 2 < least else ""
                raise MemoryShortError(
                    f"memory ran out in {what}, with {size} samples at a time{too}: take a smaller network or smaller samples, or "
                    f"a device with more memory"
                ) from error
        release()  # here, for the error holds what was computed
        size //= 2
        warnings.warn(GnGraphNote(f"memory ran out in {what}: it goes on with {size} samples at a time"), stacklevel=2)
