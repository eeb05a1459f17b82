"""`LatencyClock`: predicts how long a network takes at any widths, as a sum over its layers and what a whole network adds."""

from __future__ import annotations

import hashlib
import math
import os
import weakref
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from gngraph.analysis.channels import ChannelSpaces
from gngraph.errors import GnGraphError
from gngraph.ir import Graph
from gngraph.ir.text import format_graph
from gngraph.latency.setting import LatencySetting
from gngraph.latency.stopwatch import layer_seconds, network_seconds
from gngraph.latency.table import TimeTable
from gngraph.latency.units import TimedUnit, timed_units
from gngraph.ranks import here

VECTOR, BLOCK = 4, 8
"""Widths that are multiples of the first are laid out for vectors, and take the time of the next multiple of the second; others are
not, and may take twice as long (docs/results.md#milliseconds)."""

EXACT = 64
"""Width up to which every multiple of `BLOCK` is timed; beyond, `PER_DOUBLING` a doubling are, and others lie between them."""

PER_DOUBLING = 4

_NANO = 10**9


@dataclass(frozen=True)
class Measured:
    """How long a network takes.

    Attributes:
        milliseconds: of a batch.
        noise: half of the interquartile range of repeated measurements, in milliseconds.
    """

    milliseconds: float
    noise: float


class LatencyClock:
    """Times layers when they are asked for, and keeps what it found; of several processes the first does, for all.

    Args:
        setting: runtime, batch and threads.
        folder: where times are kept; None: nowhere.
    """

    def __init__(self, setting: LatencySetting, folder: Path | None = None) -> None:
        self.setting = setting
        self.table = TimeTable(folder, setting.identity())
        self._overhead, self._factor = 0, 1.0
        self._known: weakref.WeakKeyDictionary[Graph, NetworkTime] = weakref.WeakKeyDictionary()

    def of(self, graph: Graph, spaces: ChannelSpaces) -> NetworkTime:
        """The time of a network as a function of its widths.

        Args:
            graph: the network.
            spaces: of it.
        """
        if graph not in self._known:
            self._known[graph] = NetworkTime(graph, spaces, self)
        return self._known[graph]

    @property
    def overhead(self) -> int:
        """Nanoseconds that a network takes beyond its layers, as `anchor` found last."""
        return self._overhead

    @property
    def factor(self) -> float:
        """Share of the layers' times that a network takes for them, 1 or less, as `anchor` found last."""
        return self._factor

    def anchor(self, graph: Graph) -> Measured:
        """Measure a network; what it takes beyond its layers is added to every prediction from now on.

        Where its layers take longer alone than in the network, all are taken for as much shorter.

        Args:
            graph: the network, with values.

        Raises:
            GnGraphError: the runtime does not take it.
        """
        spaces = ChannelSpaces.of(graph)
        found, self._factor = self.measured(graph), 1.0
        alone = max(1, self.of(graph, spaces).layers({s.name: s.size for s in spaces}))
        whole = round(found.milliseconds * _NANO / 1000)
        self._overhead, self._factor = max(0, whole - alone), min(1.0, whole / alone)
        self.table.save()
        return found

    def measured(self, graph: Graph) -> Measured:
        """How long a network really takes, measured once an architecture.

        Args:
            graph: the network, with values.

        Raises:
            GnGraphError: the runtime does not take it.
        """
        kept = here().by_first(lambda: self._network(graph))
        return Measured(1000 * kept[0], 1000 * kept[1])

    def predicted(self, graph: Graph) -> float:
        """Milliseconds that are predicted of a network as it is.

        Args:
            graph: the network.
        """
        spaces = ChannelSpaces.of(graph)
        return 1000 * self.of(graph, spaces).exact({s.name: s.size for s in spaces}) / _NANO

    def unit_seconds(self, unit: TimedUnit, lengths: tuple[int, ...], swept: int) -> float:
        """How long a unit takes, timed once.

        Args:
            unit: of some network.
            lengths: of its extents.
            swept: see `layer_seconds`.
        """
        return here().by_first(lambda: self._unit(unit, lengths, swept))

    def _network(self, graph: Graph) -> list[float]:
        key = f"network {hashlib.sha256(format_graph(graph).encode()).hexdigest()}"
        kept = self.table.get(key)
        if kept is None:
            kept = list(network_seconds(graph, self.setting))
            self.table.add(key, kept)
            self.table.save()
        return kept

    def _unit(self, unit: TimedUnit, lengths: tuple[int, ...], swept: int) -> float:
        key = f"{swept} {unit.key(lengths)}"
        kept = self.table.get(key)
        if kept is None:
            try:
                kept = [layer_seconds(unit.at(lengths), self.setting, swept)]
            except GnGraphError:  # it is counted with what a network adds to its layers
                kept = [math.nan]
            self.table.add(key, kept)
        return kept[0]


class NetworkTime:
    """The time of a network, in nanoseconds, as a function of its widths.

    Two are told. `exact` is what is predicted. Prices, `of` and `change`, are those of the next multiple of `BLOCK` of every width,
    where that is faster: so a channel more costs nothing until a block is full, and a network fills its blocks.

    Args:
        graph: the network.
        spaces: of it.
        clock: times its layers.

    Attributes:
        untimed: nodes that the runtime did not take alone, so far; their time is in what the whole network adds.
    """

    def __init__(self, graph: Graph, spaces: ChannelSpaces, clock: LatencyClock) -> None:
        self._clock = clock
        self._units, left = timed_units(graph, spaces)
        self.untimed = set(left)
        self._swept = _swept(sum(p.data.numel() * p.data.element_size() for p in graph.params.values()))
        self._of_space: dict[str, list[TimedUnit]] = {space.name: [] for space in spaces}
        for unit in self._units:
            for name in unit.spaces:
                self._of_space[name].append(unit)
        self._found: dict[tuple[int, tuple[int, ...]], int] = {}
        self._numbers = {id(unit): number for number, unit in enumerate(self._units)}

    def exact(self, widths: Mapping[str, int]) -> int:
        """What is predicted at some widths.

        Args:
            widths: of every space, by name.
        """
        return self.layers(widths) + self._clock.overhead

    def layers(self, widths: Mapping[str, int]) -> int:
        """The same without what the whole network adds.

        Args:
            widths: of every space, by name.
        """
        return sum(self._time(unit, unit.lengths(widths)) for unit in self._units)

    def of(self, widths: Mapping[str, int]) -> int:
        """The price of some widths.

        Args:
            widths: of every space, by name.
        """
        return sum(self._price(unit, widths) for unit in self._units) + self._clock.overhead

    def change(self, space: str, widths: Mapping[str, int], delta: int) -> int:
        """The price of more channels.

        Args:
            space: that gets them.
            widths: before, of every space, by name.
            delta: channels more; fewer where negative.
        """
        after = {**widths, space: widths[space] + delta}
        return sum(self._price(unit, after) - self._price(unit, widths) for unit in self._of_space[space])

    def neighbours(self, space: str) -> frozenset[str]:
        """The spaces whose prices depend on the width of one.

        Args:
            space: its name.
        """
        return frozenset(name for unit in self._of_space[space] for name in unit.spaces)

    def _price(self, unit: TimedUnit, widths: Mapping[str, int]) -> int:
        lengths = unit.lengths(widths)
        return min(
            self._time(unit, lengths), self._time(unit, tuple(-(-length // BLOCK) * BLOCK for length in lengths))
        )

    def _time(self, unit: TimedUnit, lengths: tuple[int, ...]) -> int:
        key = (self._numbers[id(unit)], lengths)
        if key not in self._found:
            self._found[key] = round(_NANO * self._seconds(unit, lengths))
        return round(self._found[key] * self._clock.factor)

    def _seconds(self, unit: TimedUnit, lengths: tuple[int, ...]) -> float:
        """Between the lengths that are timed, in proportion along each."""
        corners = [_between(length) for length in lengths]
        if len(lengths) > 2:  # a concatenation, of which no length matters much
            corners = [((1.0, max(around)[1]),) for around in corners]
        total = 0.0
        for chosen in product(*corners):
            seconds = self._clock.unit_seconds(unit, tuple(length for _, length in chosen), self._swept)
            if math.isnan(seconds):
                self.untimed.update(unit.nodes)
                return 0.0
            total += math.prod(share for share, _ in chosen) * seconds
        return total


def _between(length: int) -> tuple[tuple[float, int], ...]:
    """The lengths that are timed around one, each with its share.

    >>> _between(12), _between(10), _between(72)
    (((1.0, 16),), ((1.0, 10),), ((0.5, 64), (0.5, 80)))
    """
    if length % VECTOR == 0:
        return _around(-(-length // BLOCK) * BLOCK, 0)
    return ((1.0, length),) if length < 2 * BLOCK else _around(length, -1)


def _around(length: int, offset: int) -> tuple[tuple[float, int], ...]:
    points = _points(length + BLOCK, offset)
    place = bisect_left(points, length)
    if place == 0 or points[place] == length:
        return ((1.0, points[place]),)
    low, high = points[place - 1], points[place]
    share = (length - low) / (high - low)
    return ((1 - share, low), (share, high))


def _points(most: int, offset: int) -> list[int]:
    points = list(range(BLOCK, EXACT + 1, BLOCK))
    while points[-1] < most:
        doubling = EXACT * 2 ** ((points[-1] // EXACT).bit_length() - 1)
        points.append(points[-1] + doubling // PER_DOUBLING)
    return [point + offset for point in points]


def _swept(weights: int) -> int:
    """Bytes that are read before a layer is timed: of a few sizes, so that times are found again when a network grows.

    >>> [_swept(size) for size in (10_000, 300_000, 50_000_000)]
    [0, 262144, 47453132]
    """
    return 0 if weights < 2**16 else int(2 ** min(26.0, math.floor(2 * math.log2(weights)) / 2))


def clock_of(setting: LatencySetting) -> LatencyClock:
    """A clock that keeps its times in the user's folder for such things.

    Args:
        setting: runtime, batch and threads.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return LatencyClock(setting, Path(cache) / "gngraph" / "latency")
