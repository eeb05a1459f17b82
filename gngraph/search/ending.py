"""Whether what growth found is trained on as it is, or from new initial weights, for the rest of a run.

What was learned while the network was small is a head start, and may hold it back. Which of the two ends lower is forecast from
short trainings of both (`gngraph.search.forecast`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gngraph.ir import Graph
from gngraph.options import TrainOptions
from gngraph.running.problem import Problem
from gngraph.search.depth import STEPS, TrialTraining
from gngraph.search.forecast import Forecast, forecasts
from gngraph.training.training import batch_of

ENDING = "ending"
"""Name of the choice, of its stage, and of its entry in the record of the final training."""

CONTINUED, RETRAINED = "continued", "retrained"
"""The two ways: as the network is, and from new initial weights."""

SHORT, STILL_SHORT = 1 / 32, 1 / 16
"""Length of the shorter of two short trainings as a share of the final one, and what it may be where that is few steps
(`gngraph.search.depth.STEPS`). The other is twice as long: of two networks they cost 3 / 16 of the final training, up to 3 / 8."""


@dataclass(frozen=True)
class Ending:
    """What was found.

    Attributes:
        curves: way -> samples of a short training -> loss on the judge split after it; none where the final training is too
            short to be forecast.
        forecasts: way -> what the final training is expected to end at; none of a way whose trainings diverged.
        chosen: the way that is forecast to end lower.
        samples: that the final training sees, every one as often as it does.
    """

    curves: Mapping[str, Mapping[int, float]]
    forecasts: Mapping[str, Forecast]
    chosen: str
    samples: int

    def record(self) -> dict[str, Any]:
        """As JSON, a loss that is not finite as None."""
        ways = dict[str, Any]()
        for way, curve in self.curves.items():
            losses = {str(samples): loss if math.isfinite(loss) else None for samples, loss in curve.items()}
            found = self.forecasts.get(way)
            forecast = found and {"loss": found.loss, "interval": list(found.interval())}
            ways[way] = {"losses": losses, "forecast": forecast}
        return {"chosen": self.chosen, "samples": self.samples, "ways": ways}


def ended(ways: Mapping[str, Graph], problem: Problem, options: TrainOptions, epochs: int) -> Ending:
    """Which of several networks to train to the end; of equal forecasts the first, and so where that is too short to forecast.

    Cost: 3 `SHORT` of the final training for each, up to 3 `STILL_SHORT`.

    Args:
        ways: the networks by name, with the weights that they are trained from.
        problem: data and loss, with a judge split that the short trainings do not see.
        options: how the run trains.
        epochs: of the final training.
    """
    whole = epochs * len(problem.train)
    shortest = max(round(SHORT * whole), STEPS * batch_of(options, problem))
    if shortest > STILL_SHORT * whole:
        return Ending({}, {}, next(iter(ways)), whole)
    lengths = [TrialTraining(problem, options, length) for length in (shortest, 2 * shortest)]
    curves = {way: {trial.samples: trial.after(graph) for trial in lengths} for way, graph in ways.items()}
    sound = [way for way, curve in curves.items() if all(map(math.isfinite, curve.values()))]
    found = dict(zip(sound, forecasts([curves[way] for way in sound], whole), strict=True)) if sound else {}
    chosen = min(sound, key=lambda way: found[way].loss, default=next(iter(ways)))
    return Ending(curves, found, chosen, whole)
