"""Selection: which candidates to apply together, under a budget.

The joint rule evaluates sets under the Gauss-Newton model: two candidates that repair the same mistakes are worth less
together than apart. The additive rule of the paper adds the gains up. O(samples x candidates) for each one chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from gngraph.analysis.cost import Budget, Cost, CostModel, sides_of
from gngraph.errors import BudgetError, PassError
from gngraph.rewrite.morphism import InsertLayer, LayerMorphism, MergeChannel, Morphism
from gngraph.scoring.gauss_newton import Moments, Scores

Rule = Literal["joint", "additive"]
RULES: tuple[Rule, ...] = ("joint", "additive")

CAUTION = 2.0
"""Standard errors by which the joint rule lowers every gain before it compares them; predictions are not lowered."""

PROFIT = 2.0
"""How often a removal's loss must be earned back by what the cost that it frees can buy."""

WIDENS = {"split": 1, "new": 1, "prune": -1, "merge": -1, "insert": 0, "low-rank": 0, "separable": 0}
"""Channels that a morphism adds to its space, by kind. What changes no width costs what its candidate says."""


@dataclass(frozen=True)
class Selection:
    """A chosen set.

    Attributes:
        chosen: candidate numbers in the order of choice.
        predicted: change of the mean loss on the judge split, as the rule predicts it (negative: the loss falls).
        predicted_report: the same on the report split, which nothing was fitted to.
        widths: width of every space with the set applied.
        cost: cost of the network with the set applied.
        held: spaces of the values behind which layers are inserted, and of layers that are factorised: what was learned and what it
            costs holds at their widths.
    """

    chosen: tuple[int, ...]
    predicted: float
    predicted_report: float
    widths: Mapping[str, int]
    cost: Cost
    held: frozenset[str]

    def morphisms(self, scores: Scores) -> list[Morphism]:
        """The chosen morphisms."""
        return [scores.candidates[i].morphism for i in self.chosen]


def select(
    scores: Scores,
    model: CostModel,
    *,
    budget: Budget | None = None,
    count: int | None = None,
    widths: Mapping[str, int] | None = None,
    rule: str = "joint",
    kinds: Iterable[str] = ("split", "prune"),
) -> Selection:
    """Choose candidates greedily by marginal gain per marginal cost until none gains, `count` is reached or the budget is.

    Without a budget the gain alone decides. With one, where the best candidate does not fit, removals whose cost buys
    `PROFIT` times what they lose make room for it. A network above the budget first gives up channels, those that lose
    least for the cost they free, and so does a space above its width in `widths`, beyond which none grows (see
    `gngraph.search.widths`; a space that is not named there is free). What is returned is the best of the sets passed
    through within the budget, so no removal stays that nothing was bought for.

    A channel is named by at most one candidate, a space keeps at least one of its channels, no merge rebuilds a channel from
    one that is removed, and a layer is inserted only where no width changes and no other layer is inserted: behind a block
    that adds something a value may be negative, and then a layer with a ReLU would not preserve it. Nor do widths change that a
    factorised layer reads or writes.

    Args:
        scores: what an analysis found.
        model: prices channels, at the widths that were scored.
        budget: on the whole network; None: nothing is bounded.
        count: of candidates, at most.
        widths: space -> width that it comes down to, or grows up to.
        rule: a name of `RULES`: "joint" adds effects up inside the square, "additive" adds gains.
        kinds: of candidates that may be chosen.

    Raises:
        PassError: the rule is unknown.
        BudgetError: the network is above the budget or the widths, and no removal among the first `count` choices brings it
            below.
    """
    if rule not in RULES:
        raise PassError(f"selection '{rule}' is unknown; choose one of {', '.join(RULES)}")
    joint = rule == "joint"
    state = _State(scores, model, budget, widths or {}, set(kinds), joint=joint)
    while (count is None or len(state.chosen) < count) and state.choose():
        pass
    chosen = state.best()
    predicted, on_report = (
        moments.change_of(chosen) if joint else float(moments.changes()[chosen].sum())
        for moments in (scores.judge, scores.report)
    )
    held = (spaces_held(scores.candidates[i].morphism, model) for i in chosen)
    return Selection(tuple(chosen), predicted, on_report, *state.ledger.standing(chosen), frozenset().union(*held))


def spaces_held(morphism: Morphism, model: CostModel) -> frozenset[str]:
    """The spaces whose widths must stay for what a morphism learned to hold, and for what it costs."""
    if isinstance(morphism, InsertLayer):
        return model.within(morphism.at)
    return model.around(morphism.at) if isinstance(morphism, LayerMorphism) else frozenset()


class _Products:
    """Columns of Q = mean_i q_i q_i^T, which say how the gain of every candidate changes when one is chosen.

    A column alone costs as much as reading all of q; a block of them costs little more. So with a column that is asked for
    come those of the candidates that rank next, and are held. What is guessed is when to compute a column, not what it is.
    """

    BLOCK = 32
    HELD = 512

    def __init__(self, moments: Moments) -> None:
        self.rows = moments.q.flatten(0, 1)
        self.samples = moments.s.shape[0]
        self.held: dict[int, torch.Tensor] = {}

    def column(self, index: int, rank: torch.Tensor) -> torch.Tensor:
        """Column `index`, [C]; `rank` says which are wanted next, minus infinity never."""
        if index not in self.held:
            self._compute(index, rank)
        return self.held.pop(index)

    def _compute(self, index: int, rank: torch.Tensor) -> None:
        first = rank.topk(min(len(rank), self.BLOCK + len(self.held)))
        ranked = zip(first.indices.tolist(), first.values.isfinite().tolist(), strict=True)
        block = [index, *(i for i, wanted in ranked if wanted and i != index and i not in self.held)][: self.BLOCK]
        by_rank = sorted(self.held, key=rank.tolist().__getitem__, reverse=True)
        self.held = {i: self.held[i] for i in by_rank[: self.HELD - len(block)]}
        products = self.rows[:, block].T @ self.rows / self.samples
        self.held |= {i: column.clone() for i, column in zip(block, products, strict=True)}  # a view would hold all


class _Ledger:
    """What candidates cost at the widths of the set chosen so far, and how much room the budget leaves.

    Candidates that change the width of one space alike cost the same: they share a row of the price list.

    Attributes:
        row: each candidate's row of the price list, [C].
        prices: marginal cost, parameters, FLOPs and nanoseconds, int64 [rows, 3].
        delta: change of width, [rows].
        spares: whether a space keeps one of the channels that it had, [rows].
        slack: channels by which the space lies below the width that it may have, [rows].
    """

    UNLIMITED = 2**62

    def __init__(self, scores: Scores, model: CostModel, budget: Budget | None, limits: Mapping[str, int]) -> None:
        self.model = model
        self.limits = limits
        rows: dict[tuple[str | int, int], int] = {}
        own: list[tuple[int, int, int]] = []
        row: list[int] = []
        for i, candidate in enumerate(scores.candidates):
            delta = WIDENS[candidate.morphism.kind]
            row.append(rows.setdefault((candidate.morphism.space, delta) if delta else (i, 0), len(rows)))
            if len(own) < len(rows):
                own.append(sides_of(candidate.cost))
        self.moves = [(str(name), delta) for name, delta in rows]
        self.row = torch.tensor(row, dtype=torch.long)
        self.delta = torch.tensor([delta for _, delta in self.moves], dtype=torch.long)
        self.prices = torch.tensor(own, dtype=torch.long).reshape(-1, 3)
        self.spares = torch.ones(len(rows), dtype=torch.bool)
        self.slack = torch.full((len(rows),), self.UNLIMITED)
        self.kept = dict(model.widths)
        self.widths = dict(model.widths)
        self._price(frozenset(self.widths))
        start = model.of(self.widths)
        limit = torch.tensor([self.UNLIMITED if side is None else side for side in (budget or Budget()).sides])
        self.room = limit - torch.tensor(sides_of(start))
        unit = [budget.share(one) if budget else 0.0 for one in (Cost(1, 0), Cost(0, 1), Cost(0, 0, 1))]
        self.unit = torch.tensor(unit, dtype=torch.float64)

    def _price(self, names: frozenset[str]) -> None:
        for row, (name, delta) in enumerate(self.moves):
            if delta and name in names:
                self.prices[row] = torch.tensor(sides_of(self.model.marginal(name, self.widths, delta)))
                self.spares[row] = delta > 0 or self.kept[name] > 1
                if name in self.limits:
                    self.slack[row] = self.limits[name] - self.widths[name]

    def take(self, index: int) -> None:
        """Apply candidate `index`."""
        row = int(self.row[index])
        self.room = self.room - self.prices[row]
        name, delta = self.moves[row]
        if delta:
            self.widths[name] += delta
            self.kept[name] += min(delta, 0)
            self._price(self.model.neighbours(name))

    def standing(self, chosen: list[int]) -> tuple[dict[str, int], Cost]:
        """Widths and cost of the network with a set applied."""
        widths, own = dict(self.model.widths), Cost(0, 0)
        for row in self.row[chosen].tolist():
            name, delta = self.moves[row]
            if delta:
                widths[name] += delta
            else:
                own += Cost(*self.prices[row].tolist())
        return widths, self.model.of(widths) + own


class _Conflicts:
    """Which candidates exclude each other: it is the same seen from either."""

    def __init__(self, morphisms: list[Morphism], model: CostModel) -> None:
        spaces = {name: i for i, name in enumerate(model.widths)}
        values: dict[str, int] = {}
        named: list[tuple[int, int]] = []  # space and channel; no space and value; space and none
        for m in morphisms:
            if isinstance(m, LayerMorphism):
                named.append((-1, values.setdefault(m.at, len(values))))
            else:
                named.append((spaces[m.space], getattr(m, "channel", -1)))
        self.space, self.channel = torch.tensor(named, dtype=torch.long).reshape(-1, 2).unbind(1)
        self.removes = torch.tensor([WIDENS[m.kind] < 0 for m in morphisms], dtype=torch.bool)
        merges = {i: m for i, m in enumerate(morphisms) if isinstance(m, MergeChannel)}
        self.merges = torch.tensor(list(merges), dtype=torch.long)
        self.sources = torch.zeros(len(merges), max(model.widths.values(), default=0), dtype=torch.bool)
        for row, merge in zip(self.sources, merges.values(), strict=True):
            row[list(merge.sources)] = True
        insertions = {i: m for i, m in enumerate(morphisms) if isinstance(m, LayerMorphism)}
        self.insertions = torch.tensor(list(insertions), dtype=torch.long)
        self.within = torch.zeros(len(insertions), len(spaces), dtype=torch.bool)
        for row, insertion in zip(self.within, insertions.values(), strict=True):
            row[[spaces[name] for name in spaces_held(insertion, model)]] = True
        self.blocks = torch.tensor([isinstance(m, InsertLayer) for m in insertions.values()], dtype=torch.bool)

    def of(self, index: int) -> torch.Tensor:
        """What can be in no set with candidate `index`, itself among it, [C]."""
        space, channel = self.space[index], self.channel[index]
        here = self.space == space
        excluded = here & (self.channel == channel) & (channel >= 0)
        excluded[index] = True
        if self.removes[index]:
            excluded[self.merges] |= here[self.merges] & self.sources[:, channel]
        for sources in self.sources[self.merges == index]:
            excluded |= here & self.removes & sources[self.channel]
        if space >= 0:
            excluded[self.insertions] |= self.within[:, space]
        for within, block in zip(*(t[self.insertions == index] for t in (self.within, self.blocks)), strict=True):
            excluded |= (self.space >= 0) & within[self.space]
            excluded[self.insertions] |= (self.within & within).any(1) & self.blocks & block
        return excluded


class _State:
    """The set chosen so far, and what every candidate would gain on top of it."""

    def __init__(
        self,
        scores: Scores,
        model: CostModel,
        budget: Budget | None,
        limits: Mapping[str, int],
        kinds: set[str],
        *,
        joint: bool,
    ) -> None:
        self.budget = budget
        self.ledger = _Ledger(scores, model, budget, limits)
        morphisms = [c.morphism for c in scores.candidates]
        self.open = torch.tensor([m.kind in kinds for m in morphisms], dtype=torch.bool)
        self.conflicts = _Conflicts(morphisms, model)
        self.alone = scores.judge.changes()
        if joint:  # the best of thousands of noisy estimates is too good to be true: demand a gain beyond the noise
            self.alone = self.alone + CAUTION * scores.judge.errors()
        self.cross = torch.zeros_like(self.alone)
        self.products = _Products(scores.judge) if joint else None
        self.chosen: list[int] = []
        self.value = 0.0
        self.best_value, self.best_length = float("-inf"), -1
        self._compare()

    def choose(self) -> bool:
        """Take the best candidate; False when there is none."""
        gain = -(self.alone + self.cross)
        fits = self.ledger.spares & (self.ledger.delta <= self.ledger.slack.clamp(min=0))
        usable = self.open & gain.isfinite() & fits[self.ledger.row]
        if not bool(usable.any()):
            return False
        above, wide = self.ledger.room < 0, (self.ledger.slack < 0)[self.ledger.row]
        if bool(wide.any()):
            rank = _where(usable & wide & self.conflicts.removes, gain)
        elif bool(above.any()):
            rank = self._relief(gain, usable, above)
        else:
            rank = self._profit(gain, usable)
        if not bool(rank.isfinite().any()):
            return False
        index = int(rank.argmax())
        self.value += float(gain[index])
        self._take(index, rank)
        self._compare()
        return True

    def best(self) -> list[int]:
        """The best set within the budget that was passed through."""
        if self.best_length < 0:
            (_, start), (widths, end) = self.ledger.standing([]), self.ledger.standing(self.chosen)
            wide = [f"space '{n}' to {widths[n]} channels of {most}" for n, most in self.ledger.limits.items()
                    if widths[n] > most]  # fmt: skip
            beyond = (self.budget or Budget()).text + (" or of widths" if wide else "")
            raise BudgetError(
                f"the network has {start.params:,} parameters and {start.flops:,} FLOPs, beyond the budget of {beyond}, and "
                f"{len(self.chosen)} removals, all that the selection may choose, only bring it down to "
                f"{', '.join([f'{end.params:,} and {end.flops:,}', *wide])}; raise the budget, or allow more removals"
            )
        return self.chosen[: self.best_length]

    def _compare(self) -> None:
        ledger = self.ledger
        narrow = all(ledger.widths[name] <= most for name, most in ledger.limits.items())
        if self.value > self.best_value and narrow and bool((ledger.room >= 0).all()):
            self.best_value, self.best_length = self.value, len(self.chosen)

    def _relief(self, gain: torch.Tensor, usable: torch.Tensor, above: torch.Tensor) -> torch.Tensor:
        """Rank of the candidates that lower a cost that is above its limit: gain per share of it."""
        freed = (-(self.ledger.prices * above).double() @ self.ledger.unit)[self.ledger.row]
        return _where(usable & (freed > 0), gain / freed)

    def _profit(self, gain: torch.Tensor, usable: torch.Tensor) -> torch.Tensor:
        """Rank of the candidates that gain: gain per share; or of removals that make room for the first of them."""
        row, prices, room = self.ledger.row, self.ledger.prices, self.ledger.room
        share = (prices.double() @ self.ledger.unit)[row]
        rank = _where(usable & (gain > 0), gain / share.abs().clamp(min=1e-12))
        while True:
            top = int(rank.argmax())
            if not bool(rank[top].isfinite()) or bool((prices[row[top]] <= room).all()):
                return rank
            profit = gain - float(rank[top]) / PROFIT * share
            pays = usable & self.conflicts.removes & (profit > 0) & ~self.conflicts.of(top)
            freed = -(prices * row[pays].bincount(minlength=len(prices)).unsqueeze(1)).sum(0)
            within = (prices <= room + freed).all(1)[row]
            if bool(within[top]):
                return _where(pays, profit)
            rank = _where(within, rank)

    def _take(self, index: int, rank: torch.Tensor) -> None:
        self.ledger.take(index)
        self.chosen.append(index)
        self.open &= ~self.conflicts.of(index)
        if self.products is not None:
            self.cross += self.products.column(index, rank)


def _where(mask: torch.Tensor, rank: torch.Tensor) -> torch.Tensor:
    return rank.masked_fill(~mask, float("-inf"))
