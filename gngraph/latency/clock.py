"""`LatencyClock`: predicts how long a network takes at any widths, as a sum over its units and what the whole adds."""

from __future__ import annotations

import hashlib
import os
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gngraph.analysis.channels import ChannelSpaces
from gngraph.ir import Graph
from gngraph.ir.text import format_graph
from gngraph.latency.fitting import UnitTimes
from gngraph.latency.networks import at_widths, sampled_widths
from gngraph.latency.setting import LatencySetting
from gngraph.latency.stopwatch import WholeNetwork, network_seconds, unit_seconds
from gngraph.latency.table import TimeTable
from gngraph.latency.units import TimedUnit, timed_units
from gngraph.ranks import here

NETWORKS = 24
"""Networks that are timed, at as many sets of widths, before others like them are predicted."""

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
    """Times networks when it meets the first of a kind, and keeps what it found; of several processes the first does, for all.

    Args:
        setting: runtime, batch and threads.
        folder: where times are kept; None: nowhere.
    """

    def __init__(self, setting: LatencySetting, folder: Path | None = None) -> None:
        self.setting, self.block = setting, setting.block
        self.table = TimeTable(folder, setting.identity())
        self._overhead = 0
        self._first: tuple[WholeNetwork, float] | None = None
        self._units: dict[str, UnitTimes] = {}
        self._known: weakref.WeakKeyDictionary[Graph, NetworkTime] = weakref.WeakKeyDictionary()

    def of(self, graph: Graph, spaces: ChannelSpaces) -> NetworkTime:
        """The time of a network as a function of its widths.

        Where a unit of it has not been timed yet, at any widths, networks like it are timed first.

        Args:
            graph: the network.
            spaces: of it.

        Raises:
            GnGraphError: the runtime does not take it.
        """
        if graph not in self._known:
            units = timed_units(graph, spaces)
            if any(unit.key not in self._units for unit in units):
                self._learn(graph, spaces, units)
            self._known[graph] = NetworkTime(units, spaces, self)
        return self._known[graph]

    @property
    def overhead(self) -> int:
        """Nanoseconds that a network takes beyond its units, as `anchor` found last; fewer than 0 where timing units takes time."""
        return self._overhead

    def anchor(self, graph: Graph) -> Measured:
        """Measure a network; what it takes beyond its units is added to every prediction from now on.

        It is a sum, for what timing a unit takes does not depend on its widths. Where the network is narrower or wider than what
        was timed, networks like it are timed first.

        Args:
            graph: the network, with values.

        Raises:
            GnGraphError: the runtime does not take it.
        """
        spaces = ChannelSpaces.of(graph)
        found = self.measured(graph)
        units, widths = timed_units(graph, spaces), _widths(spaces)
        if not all(self._units[u.key].reach(u.lengths(widths)) for u in units if u.key in self._units):
            self._learn(graph, spaces, units)
            self._known.clear()
        self._overhead = round(found.milliseconds * _NANO / 1000) - self.of(graph, spaces).units(widths)
        return found

    def measured(self, graph: Graph) -> Measured:
        """How long a network really takes, measured once an architecture.

        All others run in turns with the first, so that milliseconds stay those of the machine as it was then.

        Args:
            graph: the network, with values.

        Raises:
            GnGraphError: the runtime does not take it.
        """
        kept = here().by_first(lambda: self._measure(graph))
        self._first = self._first or (WholeNetwork(graph, self.setting), kept[0])
        return Measured(1000 * kept[0], 1000 * kept[1])

    def predicted(self, graph: Graph) -> float:
        """Milliseconds that are predicted of a network as it is.

        Args:
            graph: the network.
        """
        spaces = ChannelSpaces.of(graph)
        return 1000 * self.of(graph, spaces).exact(_widths(spaces)) / _NANO

    def unit_seconds(self, unit: TimedUnit, lengths: tuple[int, ...]) -> float:
        """How long a unit takes within a network.

        Args:
            unit: of a network that `of` knows.
            lengths: of its extents.
        """
        return self._units[unit.key].at(lengths)

    def _measure(self, graph: Graph) -> list[float]:
        key = f"network {_digest(graph)}"
        kept = self.table.get(key)
        if kept is None:
            kept = list(network_seconds(WholeNetwork(graph, self.setting), self._first))
            self.table.add(key, kept)
            self.table.save()
        return kept

    def _learn(self, graph: Graph, spaces: ChannelSpaces, units: Sequence[TimedUnit]) -> None:
        samples = sampled_widths(spaces, NETWORKS, self.block)
        times = here().by_first(lambda: list(self._timed(graph, spaces, units, samples)))
        for widths, seconds in zip(samples, times, strict=True):
            for unit, found in zip(units, seconds, strict=True):
                known = self._units.setdefault(unit.key, UnitTimes(unit.sizes, self.block))
                known.add(unit.lengths(widths), found)

    def _timed(
        self, graph: Graph, spaces: ChannelSpaces, units: Sequence[TimedUnit], samples: Sequence[Mapping[str, int]]
    ) -> Iterator[list[float]]:
        keys = [f"units {_digest(graph)} {number}" for number in range(len(samples))]
        left = [number for number, key in enumerate(keys) if self.table.get(key) is None]
        networks = (at_widths(graph, spaces, samples[number]) for number in left)
        times: Iterable[list[float]] = unit_seconds(graph, networks, units, self.setting) if left else ()
        for number, seconds in zip(left, times, strict=True):
            self.table.add(keys[number], seconds)
            self.table.save()
        yield from (self.table.get(key) or [] for key in keys)


class NetworkTime:
    """The time of a network, in nanoseconds, as a function of its widths.

    Two are told. `exact` is what is predicted. Prices, `of` and `change`, are those of the next full blocks of every width that is
    not the network's own: so a channel more costs nothing until a block is full, and a network fills its blocks.

    Args:
        units: of the network.
        spaces: of it.
        clock: knows how long they take.
    """

    def __init__(self, units: Sequence[TimedUnit], spaces: ChannelSpaces, clock: LatencyClock) -> None:
        self._clock, self._units, self._own = clock, units, _widths(spaces)
        self._of_space: dict[str, list[TimedUnit]] = {space.name: [] for space in spaces}
        for unit in units:
            for name in unit.spaces:
                self._of_space[name].append(unit)
        self._found: dict[tuple[str, tuple[int, ...]], int] = {}

    def exact(self, widths: Mapping[str, int]) -> int:
        """What is predicted at some widths.

        Args:
            widths: of every space, by name.
        """
        return max(1, self.units(widths) + self._clock.overhead)

    def units(self, widths: Mapping[str, int]) -> int:
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
        return max(1, sum(self._price(unit, widths) for unit in self._units) + self._clock.overhead)

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
        lengths, block = unit.lengths(widths), self._clock.block
        if lengths == unit.lengths(self._own):
            return self._time(unit, lengths)
        return self._time(unit, tuple(-(-length // block) * block for length in lengths))

    def _time(self, unit: TimedUnit, lengths: tuple[int, ...]) -> int:
        key = (unit.key, lengths)
        if key not in self._found:
            self._found[key] = round(_NANO * self._clock.unit_seconds(unit, lengths))
        return self._found[key]


def _widths(spaces: ChannelSpaces) -> dict[str, int]:
    return {space.name: space.size for space in spaces}


def _digest(graph: Graph) -> str:
    return hashlib.sha256(format_graph(graph).encode()).hexdigest()


def clock_of(setting: LatencySetting) -> LatencyClock:
    """A clock that keeps its times in the user's folder for such things.

    Args:
        setting: runtime, batch and threads.
    """
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return LatencyClock(setting, Path(cache) / "gngraph" / "latency")
