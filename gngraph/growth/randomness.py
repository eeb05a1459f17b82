"""The random states of a process: nothing of gngraph draws from them, but data and losses of a user's own may."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch


@dataclass(frozen=True, eq=False)
class RandomStates:
    """The states of the generators that a process shares.

    Attributes:
        tensors: of torch on the CPU, of numpy and of Python, the long part of each.
        rest: of numpy and of Python, as JSON.
    """

    tensors: Mapping[str, torch.Tensor]
    rest: Mapping[str, list[Any]]

    @classmethod
    def now(cls) -> RandomStates:
        """As they are."""
        name, keys, *numpys = np.random.get_state()
        version, words, gauss = random.getstate()
        tensors = {
            "torch": torch.get_rng_state(),
            "numpy": torch.from_numpy(np.asarray(keys).astype(np.int64)),
            "python": torch.tensor(words),
        }
        return cls(tensors, {"numpy": [name, *numpys], "python": [version, gauss]})

    def set(self) -> None:
        """Have the generators go on from here."""
        (name, *numpys), (version, gauss) = self.rest["numpy"], self.rest["python"]
        torch.set_rng_state(self.tensors["torch"])
        np.random.set_state((name, self.tensors["numpy"].numpy().astype(np.uint32), *numpys))
        random.setstate((version, tuple(self.tensors["python"].tolist()), gauss))


@contextmanager
def drawing_from(states: RandomStates) -> Iterator[None]:
    """The generators go on from some states inside, and as before afterwards."""
    before = RandomStates.now()
    states.set()
    try:
        yield
    finally:
        before.set()
