"""`ChannelMap`: the one primitive of weight surgery.

New channel j is a copy of old channel source[j] (or new, where source[j] is -1), and whoever reads the copies scales what
it reads by weight[j]. Three channels with the middle one split: source (0, 1, 2, 1), weight (1, 1/2, 1, 1/2).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gngraph.errors import IRError

NEW = -1
"""Source of a channel that is a copy of none."""


@dataclass(frozen=True)
class ChannelMap:
    """How the channels of a space after a rewrite come from those before.

    Attributes:
        size: number of channels before.
        source: for each channel after, the channel before that it copies, or `NEW`.
        weight: for each channel after, the factor on the weights that read it.

    >>> ChannelMap.identity(3).split([1])
    ChannelMap(size=3, source=(0, 1, 2, 1), weight=(1.0, 0.5, 1.0, 0.5))
    """

    size: int
    source: tuple[int, ...]
    weight: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.source) != len(self.weight):
            raise IRError(f"a channel map has {len(self.source)} sources but {len(self.weight)} weights")
        if not self.source:
            raise IRError("a channel map must leave at least one channel")
        for source in self.source:
            if source != NEW and not 0 <= source < self.size:
                raise IRError(f"a channel map of {self.size} channels names the source {source}")

    @classmethod
    def identity(cls, size: int) -> ChannelMap:
        """The map that changes nothing."""
        return cls(size, tuple(range(size)), (1.0,) * size)

    @classmethod
    def fresh(cls, size: int) -> ChannelMap:
        """The map from nothing to new channels."""
        return cls(0, (NEW,) * size, (1.0,) * size)

    def split(self, channels: Iterable[int]) -> ChannelMap:
        """Split channels (numbered as after this map) in two; the copies are appended in the given order."""
        source, weight = list(self.source), list(self.weight)
        for channel in channels:
            weight[channel] /= 2
            source.append(source[channel])
            weight.append(weight[channel])
        return ChannelMap(self.size, tuple(source), tuple(weight))

    def grow(self, count: int) -> ChannelMap:
        """Append `count` new channels."""
        return ChannelMap(self.size, self.source + (NEW,) * count, self.weight + (1.0,) * count)

    def prune(self, channels: Iterable[int]) -> ChannelMap:
        """Remove channels (numbered as after this map)."""
        gone = set(channels)
        kept = [i for i in range(len(self.source)) if i not in gone]
        return ChannelMap(self.size, tuple(self.source[i] for i in kept), tuple(self.weight[i] for i in kept))

    def then(self, other: ChannelMap) -> ChannelMap:
        """This map followed by `other`."""
        if other.size != len(self.source):
            raise IRError(f"a channel map of {other.size} channels cannot follow one that leaves {len(self.source)}")
        source = tuple(NEW if s == NEW else self.source[s] for s in other.source)
        weight = tuple(w if s == NEW else w * self.weight[s] for s, w in zip(other.source, other.weight, strict=True))
        return ChannelMap(self.size, source, weight)

    def first(self) -> tuple[int, ...]:
        """For each channel after, the channel before of which it is the first copy, or `NEW`.

        >>> ChannelMap.identity(2).split([0]).grow(1).first()
        (0, 1, -1, -1)
        """
        return tuple(s if s not in self.source[:i] else NEW for i, s in enumerate(self.source))

    def stays(self) -> tuple[int, ...]:
        """The channels after that are first copies of channels before."""
        return tuple(i for i, s in enumerate(self.first()) if s != NEW)

    def shrunken(self) -> float:
        """Channels that stay as a share of all channels after: by how much new ones shrink a variance that they do not add to."""
        return len(self.stays()) / len(self.source)

    def preserves_function(self) -> bool:
        """Whether readers see the same sum: the copies of every channel have weights that add up to 1.

        New channels preserve the function when their readers start at zero, as `rewrite` makes them.
        """
        totals = [0.0] * self.size
        for s, w in zip(self.source, self.weight, strict=True):
            if s != NEW:
                totals[s] += w
        return all(abs(total - 1.0) < 1e-12 for total in totals)
