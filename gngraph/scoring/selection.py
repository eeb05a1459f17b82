"""Selection: which candidates to apply together, under a budget.

The joint rule evaluates sets under the Gauss-Newton model: two candidates that repair the same mistakes are worth less
together than apart. The additive rule of the paper adds the gains up. O(samples x candidates) for each one chosen.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget, Cost, CostModel
from gngraph.errors import PassError
from gngraph.rewrite.morphism import Morphism, NewChannel, PruneChannel
from gngraph.scoring.gauss_newton import Moments, Scores

Rule = Literal["joint", "additive"]
CAUTION = 2.0
"""Standard errors by which the joint rule lowers every gain before it compares them; predictions are not lowered."""

RULES: tuple[Rule, ...] = ("joint", "additive")


@dataclass(frozen=True)
class Selection:
    """A chosen set.

    Attributes:
        chosen: candidate numbers in the order of choice.
        predicted: change of the mean loss on the judge split, as the rule predicts it (negative: the loss falls).
        predicted_report: the same on the report split, which nothing was fitted to.
        widths: width of every space with the set applied.
        cost: cost of the network with the set applied.
    """

    chosen: tuple[int, ...]
    predicted: float
    predicted_report: float
    widths: Mapping[str, int]
    cost: Cost

    def morphisms(self, scores: Scores) -> list[Morphism]:
        """The chosen morphisms."""
        return [scores.candidates[i].morphism for i in self.chosen]


def select(
    scores: Scores,
    model: CostModel,
    *,
    budget: Budget | None = None,
    count: int | None = None,
    rule: str = "joint",
    kinds: Iterable[str] = ("split", "prune"),
) -> Selection:
    """Choose candidates greedily by marginal gain per marginal cost until none gains, `count` is reached or the budget is.

    Without a budget the gain alone decides. A channel is used by at most one candidate, and a space keeps at least one.

    Raises:
        PassError: the rule is unknown.
    """
    if rule not in RULES:
        raise PassError(f"selection '{rule}' is unknown; choose one of {', '.join(RULES)}")
    state = _State(scores, model, budget, set(kinds), joint=rule == "joint")
    while count is None or len(state.chosen) < count:
        if not state.choose():
            break
    predicted = scores.judge.change_of(state.chosen) if rule == "joint" else _sum(scores.judge, state.chosen)
    on_report = scores.report.change_of(state.chosen) if rule == "joint" else _sum(scores.report, state.chosen)
    return Selection(tuple(state.chosen), predicted, on_report, state.widths, model.of(state.widths))


def _sum(moments: Moments, chosen: list[int]) -> float:
    return float(moments.changes()[chosen].sum())


class _State:
    def __init__(
        self, scores: Scores, model: CostModel, budget: Budget | None, kinds: set[str], *, joint: bool
    ) -> None:
        self.scores = scores
        self.model = model
        self.budget = budget
        self.joint = joint
        self.widths = dict(model.widths)
        self.cost = model.of(self.widths)
        self.chosen: list[int] = []
        morphisms = [c.morphism for c in scores.candidates]
        self.names = sorted({m.space for m in morphisms})
        place = {name: i for i, name in enumerate(self.names)}
        self.space = torch.tensor([place[m.space] for m in morphisms])
        self.channel = torch.tensor([getattr(m, "channel", -1) for m in morphisms])
        self.prunes = torch.tensor([isinstance(m, PruneChannel) for m in morphisms])
        self.open = torch.tensor([m.kind in kinds for m in morphisms])
        self.slope = scores.judge.s.mean(0)
        if joint:  # the best of thousands of noisy estimates is too good to be true: demand a gain beyond the noise
            self.slope = self.slope + CAUTION * scores.judge.errors()
        rows = scores.judge.q.flatten(0, 1)
        self.rows = rows
        self.samples = scores.judge.s.shape[0]
        self.square = rows.square().sum(0) / self.samples
        self.cross = torch.zeros_like(self.slope)
        self.kept = dict(model.widths)

    def choose(self) -> bool:
        """Take the best candidate; False when none gains within the budget."""
        gain = -(self.slope + self.cross + 0.5 * self.square)
        costs, fits = self._costs()
        usable = self.open & fits
        grow = usable & ~self.prunes & (gain > 0)
        ratio = torch.where(grow, gain / costs.clamp(min=1e-12), torch.full_like(gain, -1.0))
        best = int(ratio.argmax()) if bool(grow.any()) else None
        price = float(ratio[best]) if best is not None else 0.0
        # a prune is worth its loss when the cost it frees buys at least twice that loss elsewhere
        saved = torch.where(usable & self.prunes, gain - 0.5 * price * costs, torch.full_like(gain, -1.0))
        prune = int(saved.argmax())
        if float(saved[prune]) > 0 and (
            best is None or self.budget is not None or float(gain[prune]) > float(gain[best])
        ):
            best = prune
        if best is None:
            return False
        self._take(best)
        return True

    def _costs(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Marginal cost of every candidate as a share of the budget, and whether it fits."""
        if self.budget is None:
            ones = torch.where(self.prunes, -1.0, 1.0)
            fits = {name: self.kept[name] > 1 for name in self.names}
            alive = torch.tensor([fits[name] for name in self.names])[self.space]
            return ones, ~self.prunes | alive
        shares, fitting = [], []
        for delta in (1, -1):
            marginal = [self.model.marginal(name, self.widths, delta) for name in self.names]
            shares.append(torch.tensor([self.budget.share(c) for c in marginal]))
            after = [Cost(self.cost.params + c.params, self.cost.flops + c.flops) for c in marginal]
            fitting.append(torch.tensor([self.budget.allows(c) for c in after]))
        fitting[1] = torch.tensor([self.kept[name] > 1 for name in self.names])
        return (
            torch.where(self.prunes, shares[1][self.space], shares[0][self.space]),
            torch.where(self.prunes, fitting[1][self.space], fitting[0][self.space]),
        )

    def _take(self, index: int) -> None:
        name = self.names[int(self.space[index])]
        delta = -1 if bool(self.prunes[index]) else 1
        self.widths[name] += delta
        self.kept[name] += min(delta, 0)
        self.cost = self.model.of(self.widths)
        self.chosen.append(index)
        same = (self.space == self.space[index]) & (self.channel == self.channel[index])
        self.open &= ~same
        if self.joint:
            self.cross += self.rows.T @ self.rows[:, index] / self.samples


TRUST = 1.5
"""Factor by which exact filling widens a space in one round before every other space had its share: capacity values were
measured at the widths of the round's start and say little about widths far from them."""


def fill(
    spaces: ChannelSpaces, model: CostModel, widths: Mapping[str, int], budget: Budget, capacity: Mapping[str, float]
) -> list[NewChannel]:
    """Exact new channels that use up a budget, where capacity value says that the network should be wider.

    Each goes to the space with the greatest value per share of budget, the value discounted by (n0 / n)^2 as the space
    grows from n0 to n channels, first within the trust region, then without, until no space's next channel fits.
    """
    now = dict(widths)
    added: list[NewChannel] = []
    floor = max(capacity.values(), default=0.0) * 1e-3 or 1.0
    for limit in (TRUST, float("inf")):
        open_names = {s.name for s in spaces.free}
        while open_names:
            cost = model.of(now)
            best: tuple[float, str] | None = None
            for name in sorted(open_names):
                marginal = model.marginal(name, now)
                after = Cost(cost.params + marginal.params, cost.flops + marginal.flops)
                # a channel only gets dearer as its neighbours grow, so what does not fit now never will
                if now[name] >= limit * model.widths[name] or not budget.allows(after):
                    open_names.discard(name)
                else:
                    value = max(capacity.get(name, 0.0), floor) * (model.widths[name] / now[name]) ** 2
                    rank = (value / max(budget.share(marginal), 1e-12), name)
                    best = max(best, rank) if best else rank
            if best is not None:
                now[best[1]] += 1
                added.append(NewChannel(best[1]))
    return added
