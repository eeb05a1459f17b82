"""Random numbers that repeat: one seed for each (seed, number), and torch's global state put back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def mixed(seed: int, number: int) -> int:
    """One 63-bit seed for the pair; neighbouring pairs give unrelated seeds (two rounds of SplitMix64).

    >>> mixed(0, 1) != mixed(1, 0)
    True
    """
    value = (seed * 0x9E3779B97F4A7C15 + number * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) % 2**64
    for multiplier in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB):
        value = ((value ^ (value >> 29)) * multiplier) % 2**64
    return value >> 1


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Torch's global random state, which dropout draws from, seeded inside and as before afterwards."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[torch.cuda.current_device()] if cuda else []):
        # Not torch.manual_seed: that would also reseed the other GPUs, which fork_rng does not restore here.
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.manual_seed(seed)
        yield
