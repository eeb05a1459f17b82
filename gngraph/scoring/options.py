"""`ScoringOptions`: what is scored, and how proposers learn."""

from __future__ import annotations

from dataclasses import dataclass

from gngraph.errors import PassError


@dataclass(frozen=True)
class ScoringOptions:
    """Options of a Gauss-Newton analysis.

    The two copies of a split move in opposite directions, d1 = -d2 = d: a common move would be a step of training, which
    training does better, and whose gain on unseen samples is mostly noise.

    Attributes:
        curvature: "mc", "mc{draws=4}", "exact" or "rank1".
        epochs: passes over the learn split.
        rate: Adam's step on d, as a share of the root-mean-square entry of the channel's own weights.
        decay: weight of the mean square of d (relative to the channel's) in the objective.
        start: spread of the first d, in the same unit.
        trust: largest root mean square of a channel's d, in the same unit: what lies behind the tap is linearised, so that
            predictions of large changes do not come true.
        looks: how many candidates' actual change is looked at, those with the greatest predicted second-order change: a
            forward pass over 512 judge samples each, which takes as long as training on about 200. Their predictions become
            about as good as those of small changes.
        new: new channels proposed for each layer that writes a space, learned in the first epoch alone.
        kinds: kinds of candidates to score, of `gngraph.scoring.registry.PROPOSERS`.

    Raises:
        PassError: an option is below the least that it can be.
    """

    curvature: str = "mc"
    epochs: int = 1
    rate: float = 0.03
    decay: float = 1e-3
    start: float = 0.1
    trust: float = 0.15
    looks: int = 0
    new: int = 4
    kinds: tuple[str, ...] = ("split", "prune")

    def __post_init__(self) -> None:
        if self.new < 1:
            raise PassError(f"'{self.new}' new channels cannot be proposed for a layer: new must be at least 1")
        if self.looks < 0:
            raise PassError(f"'{self.looks}' candidates cannot be looked at: looks must be at least 0")
