"""`Scope`: what of a network its user lets change, by patterns of names, and in which steps."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any, Protocol

from gngraph.errors import PassError
from gngraph.ir import Graph

_WRITES = "produce"
"""Value of the role of what writes a space: `gngraph.analysis.channels` has it, and imports this file."""


class SlotSeen(Protocol):
    """What is asked of a slot of a space, see `gngraph.analysis.channels.Slot`."""

    @property
    def param(self) -> str:
        """Name of the parameter."""
        ...

    @property
    def inner(self) -> int:
        """Entries a channel."""
        ...

    @property
    def role(self) -> Any:
        """What it does with the channels."""
        ...


class SpaceSeen(Protocol):
    """What is asked of a channel space, see `gngraph.analysis.channels.ChannelSpace`."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def slots(self) -> Sequence[SlotSeen]:
        """Stretches of parameters that hold its channels."""
        ...


@dataclass(frozen=True)
class Scope:
    """What may change.

    Patterns are those of file names (`*`, `?`, `[abc]`); one that names a module is about all that is in it.

    Attributes:
        only: patterns of channel spaces, or of layers that write them: no others change; empty: all may.
        exclude: patterns of channel spaces and layers: the spaces stay as they are, and so do the shapes of the layers' weights.
        multiple: widths that change become multiples of it, counted in entries of the weights that write them.

    >>> Scope(exclude=("body.*",)).names("body.0.conv"), Scope(only=("head",)).names("body.0.conv")
    (False, False)
    """

    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    multiple: int = 1

    def names(self, path: str) -> bool:
        """Whether a layer or a space of a name may change."""
        return (not self.only or _named(path, self.only)) and not _named(path, self.exclude)

    def held(self, spaces: Iterable[SpaceSeen]) -> dict[str, str]:
        """The names of the spaces that must not change, with the reason."""
        found = {}
        for space in spaces:
            layers = {_layer(slot.param): slot.role.value for slot in space.slots}
            writers = [layer for layer, role in layers.items() if role == _WRITES]
            named = next((name for name in (space.name, *layers) if _named(name, self.exclude)), None)
            if named is not None:
                found[space.name] = f"'{named}' is excluded (exclude)"
            elif self.only and not any(_named(name, self.only) for name in (space.name, *writers)):
                found[space.name] = "it is not among those that may change (only)"
        return found

    def lets_go(self, params: Iterable[str], read: Iterable[str]) -> bool:
        """Whether a layer may be removed.

        Args:
            params: its parameters.
            read: parameters that are rebuilt then.
        """
        rebuilt = any(_named(_layer(param), self.exclude) for param in read)
        return all(self.names(_layer(param)) for param in params) and not rebuilt

    def step(self, space: SpaceSeen) -> int:
        """Channels by which the width of a space changes.

        Where a channel has several entries of all weights that write it, as a head of attention has, its width is counted in these.
        """
        entries = [slot.inner for slot in space.slots if slot.role.value == _WRITES]
        return self.multiple // math.gcd(self.multiple, *entries) if entries else self.multiple

    def check(self, graph: Graph, spaces: Iterable[SpaceSeen]) -> None:
        """Refuse patterns that name nothing.

        Args:
            graph: a network.
            spaces: its channel spaces.

        Raises:
            PassError: there is one.
        """
        known = {path for name in graph.params for path in _above(_layer(name))} | {space.name for space in spaces}
        for option, patterns in (("only", self.only), ("exclude", self.exclude)):
            for pattern in patterns:
                if not any(fnmatchcase(path, pattern) for path in known):
                    close = get_close_matches(pattern, known, 1)
                    hint = f"; did you mean '{close[0]}'?" if close else "; gngraph inspect lists the spaces"
                    raise PassError(
                        f"'{pattern}' ({option}) names no channel space and no layer of network '{graph.name}'{hint}"
                    )


EVERYTHING = Scope()
"""All may change, one channel at a time."""


def _layer(param: str) -> str:
    """The module that holds a parameter, or itself where that is the network."""
    return param.rpartition(".")[0] or param


def _above(path: str) -> Iterable[str]:
    """The path, and those of the modules around it."""
    parts = path.split(".")
    return (".".join(parts[:count]) for count in range(1, len(parts) + 1))


def _named(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(part, pattern) for pattern in patterns for part in _above(path))
