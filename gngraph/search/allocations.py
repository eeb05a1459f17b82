"""Where a round's budget goes that no learned morphism uses: the rules by name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import torch

from gngraph.analysis.channels import ChannelSpaces, Role
from gngraph.analysis.cost import Budget, Cost, CostModel
from gngraph.ir import Graph
from gngraph.rewrite.morphism import Morphism, NewChannel, SplitChannel
from gngraph.scoring.sites import SplitSite, split_sites
from gngraph.scoring.split_learning import LearnOptions
from gngraph.search.widths import allocated, worths


@dataclass(frozen=True, eq=False)
class Room:
    """What is left of a round's budget when the learned morphisms are chosen.

    Attributes:
        graph, spaces, model: the network before the round.
        widths, cost: the network with the learned morphisms applied.
        target: what the round may use.
        budget: of the whole run.
        capacity: space -> what its width is worth, where that was measured.
        removable: spaces whose channels may be removed.
        held: spaces that keep their widths.
        named: (space, channel) of the channels that a learned morphism already changes.
        generator: for whatever is random, on the CPU.
    """

    graph: Graph
    spaces: ChannelSpaces
    model: CostModel
    widths: Mapping[str, int]
    cost: Cost
    target: Budget
    budget: Budget
    capacity: Mapping[str, float]
    removable: Collection[str]
    held: Collection[str]
    named: Collection[tuple[str, int]]
    generator: torch.Generator

    def open(self) -> list[str]:
        """Names of the spaces whose widths may change, in the order of the network."""
        return [space.name for space in self.spaces.free if space.name not in self.held]


class Allocation(Protocol):
    """What becomes of a round's budget.

    Attributes:
        measures: whether it asks what widths are worth, which costs an analysis of its own.
    """

    measures: ClassVar[bool]

    def widths(self, room: Room) -> Mapping[str, int] | None:
        """Widths that the round is to reach; None where the rule names none, and whatever is learned fits."""
        ...

    def fill(self, room: Room) -> Iterable[Morphism]:
        """Function-preserving morphisms (or nearly so) that use up the room, and never more."""
        ...


@dataclass(frozen=True)
class Nothing:
    """The network keeps to what was learned, and may end far below its budget."""

    measures: ClassVar[bool] = False

    def widths(self, room: Room) -> None:
        """None: every candidate may be chosen."""

    def fill(self, room: Room) -> Iterable[Morphism]:
        """Nothing."""
        return ()


TOLERANCE = 1.25
"""Factor by which a space may be wider than the budget wants it before channels are removed: worths are measured, and noisy."""


@dataclass(frozen=True)
class Capacity:
    """The widths that the worths of the spaces ask for; see `gngraph.search.widths`."""

    measures: ClassVar[bool] = True

    def widths(self, room: Room) -> Mapping[str, int]:
        """The best widths for the round.

        In the round that is to reach the budget, a space whose channels the analysis can remove becomes as narrow as the
        budget wants it, where it is much wider. Earlier than that, wants are small and worths uncertain.
        """
        names = room.open()
        worth = self._worths(room, names)
        least = dict(room.widths)
        if room.target == room.budget:
            best = allocated(room.model, {**least, **dict.fromkeys(names, 1)}, worth, room.budget)
            fits = room.budget.allows(room.cost)
            wide = {n for n in room.removable if n in worth and least[n] > best[n] * (TOLERANCE if fits else 1)}
            least |= {name: best[name] for name in wide}
        return allocated(room.model, least, worth, room.target)

    def fill(self, room: Room) -> Iterable[Morphism]:
        """New channels; they preserve the function."""
        names = room.open()
        return _widened(room, allocated(room.model, room.widths, self._worths(room, names), room.target, room.cost))

    def _worths(self, room: Room, names: list[str]) -> dict[str, float]:
        writers = {name: max(1, len(room.spaces[name].nodes(Role.PRODUCE))) for name in names}
        return worths(room.capacity, writers)


@dataclass(frozen=True)
class EqualWorths(Capacity):
    """The widths that are best where the width of every layer is worth the same, whatever was measured."""

    measures: ClassVar[bool] = False

    def _worths(self, room: Room, names: list[str]) -> dict[str, float]:
        return super()._worths(replace(room, capacity={}), names)


@dataclass(frozen=True)
class Proportions:
    """New channels, each for the space that is narrowest in units of a shape among those in which one fits."""

    shape: Callable[[int], float]
    measures: ClassVar[bool] = False

    def widths(self, room: Room) -> Mapping[str, int]:
        """The widths that are reached; none is below what it is."""
        shape = {name: self.shape(room.model.widths[name]) for name in room.open()}
        now, cost, growing = dict(room.widths), room.cost, list(shape)
        while growing:
            name = min(growing, key=lambda n: now[n] / shape[n])  # the first of equals, in the order of the network
            marginal = room.model.marginal(name, now)
            if room.target.allows(cost + marginal):
                now[name] += 1
                cost += marginal
            else:
                growing.remove(name)
        return now

    def fill(self, room: Room) -> Iterable[Morphism]:
        """New channels; they preserve the function."""
        return _widened(room, self.widths(room))


def _widened(room: Room, wanted: Mapping[str, int]) -> list[Morphism]:
    return [NewChannel(name) for name in wanted for _ in range(wanted[name] - room.widths[name])]


@dataclass(frozen=True)
class RandomTwins:
    """Splits of random channels, each at most once, whose copies are moved apart by a random direction.

    Attributes:
        share: size of the move relative to the trust region of learned splits. A hundredth is the noise of Net2Net (Chen,
            Goodfellow, Shlens, ICLR 2016), which breaks the symmetry alone.
    """

    share: float
    measures: ClassVar[bool] = False

    def widths(self, room: Room) -> None:
        """None: every candidate may be chosen."""

    def fill(self, room: Room) -> Iterable[Morphism]:
        """Splits in random order, as long as they fit; twins of a space that no known layer writes stay equal."""
        sites = {site.space: site for site in reversed(list(split_sites(room.graph, room.spaces)))}
        channels = [
            (space.name, channel)
            for space in room.spaces.free
            if space.name not in room.held
            for channel in range(space.size)
            if (space.name, channel) not in room.named
        ]
        now, cost = dict(room.widths), room.cost
        for i in torch.randperm(len(channels), generator=room.generator).tolist():
            name, channel = channels[i]
            marginal = room.model.marginal(name, now)
            if room.target.allows(cost + marginal):
                now[name] += 1
                cost += marginal
                yield self._split(room, name, channel, sites.get(name))

    def _split(self, room: Room, name: str, channel: int, site: SplitSite | None) -> SplitChannel:
        if site is None:
            return SplitChannel(name, channel)
        rows = room.graph.params[site.slot.param].data[site.rows(channel)].cpu()
        d = torch.randn(rows.shape, generator=room.generator).to(rows)
        level = rows.square().mean().sqrt() / d.square().mean().sqrt().clamp(min=1e-30)
        d = d * level * self.share * LearnOptions.trust
        return SplitChannel(name, channel, site.slot.param, d, -d)


ALLOCATIONS: Mapping[str, Allocation] = {
    "capacity": Capacity(),
    "none": Nothing(),
    "equal-worths": EqualWorths(),
    "uniform": Proportions(lambda width: 1.0),
    "proportional": Proportions(float),
    "random-twins": RandomTwins(1.0),
    "near-copies": RandomTwins(0.01),
}
"""Rules by name; "equal-worths" looks at costs alone, "uniform" aims at equal widths, "proportional" at those that the network has;
"random-twins" and "near-copies" are what other methods do, for comparison."""
