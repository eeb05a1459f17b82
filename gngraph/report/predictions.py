"""How good predictions were, and what the selection made of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from gngraph.growth.history import Record
from gngraph.report.architecture import INTERVAL
from gngraph.report.drawing import BLUE, GREY, ORANGE, Picture, legend_below, panels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEW = 6
"""Points of which no correlation is told: of three, r is above 0.9 by luck in one of seven cases."""

TICKS = 6
"""Most numbers along an axis of x that is logarithmic on either side of 0: more would run into each other."""


def predicted_vs_actual(rounds: Sequence[Record], channels: Sequence[Record] = ()) -> Picture:
    """Predicted against actual change of the mean loss on the report split: of each round's learned morphisms, and of single ones.

    Args:
        rounds: records of rounds, at least one.
        channels: channel records, of which the candidates that were tried are read.
    """
    tried = [entry for record in channels for entry in record.get("tried", ())]
    figure, (axes,) = panels(4.8, 4.4)
    _points(axes, tried, "single change", ".", GREY, GREY)
    for refused, face, label in ((False, BLUE, "round, applied"), (True, "none", "round, refused")):
        _points(axes, [r for r in rounds if bool(r["refused"]) is refused], label, "o", BLUE, face)
    for record in rounds:
        where = (record["predicted"], record["actual"])
        axes.annotate(f"{record['round']}", where, xytext=(5, 5), textcoords="offset points")
    _symmetric_log(axes, [entry[key] for entry in (*rounds, *tried) for key in ("predicted", "actual")])
    axes.set_xlabel(f"predicted change of the loss (bar: ±{INTERVAL:g} standard errors)")
    axes.set_ylabel("actual change of the loss")
    legend_below(figure)
    return Picture("predicted_vs_actual", "Predicted against actual", figure, reading(rounds, tried))


def reading(rounds: Sequence[Record], tried: Sequence[Record]) -> str:
    """What became of the predictions, in plain words.

    >>> reading([{"round": 1, "predicted": -0.2, "predicted_error": 0.01, "actual": -0.21}], [])
    'The one round came within 2 standard errors of what was predicted.'
    """
    said: list[str] = []
    failed = [record for record in rounds if not _within(record)]
    if not failed:
        which = "The one round" if len(rounds) == 1 else f"All {len(rounds)} rounds"
        said.append(f"{which} came within {INTERVAL:g} standard errors of what was predicted.")
    for record in failed:
        said.append(
            f"The prediction of round {record['round']} failed: {record['predicted']:+.4g} ± "
            f"{INTERVAL * record['predicted_error']:.2g} was predicted, {record['actual']:+.4g} came."
        )
    if tried:
        held = sum(map(_within, tried))
        said.append(f"{held} of {len(tried)} single changes that were tried came within {INTERVAL:g} standard errors.")
        said.append(f"Over these, {agreement([(t['predicted'], t['actual']) for t in tried], 'changes')}.")
    return " ".join(said)


def agreement(points: Sequence[tuple[float, float]], noun: str, error: float = 0.0) -> str:
    """Pearson's r, the slope of actual on predicted, and the number of (predicted, actual) points, in words.

    Points that lie no further apart than the usual `error` of a prediction have a correlation that says nothing.

    Args:
        points: (predicted, actual) changes of the loss.
        noun: what a point is, in the plural.
        error: standard error that a prediction usually has; 0: none is known.

    >>> agreement([(-1.0, -2.0), (-2.0, -4.0), (0.0, 0.0), (1.0, 2.0), (2.0, 4.0), (3.0, 6.0)], "rounds")
    'r = 1.00, slope 2.00, 6 rounds'
    """
    number = f"{len(points)} {noun if len(points) != 1 else noun.removesuffix('s')}"
    x, y = np.asarray(points, dtype=float).reshape(-1, 2).T
    if len(points) < FEW or x.std() == 0 or y.std() == 0:
        return f"{number} (too few for a correlation)"
    if x.std() <= error:
        return f"{number} (alike within their errors: no correlation is told)"
    slope = float(np.polyfit(x, y, 1)[0])
    return f"r = {float(np.corrcoef(x, y)[0, 1]):.2f}, slope {slope:.2f}, {number}"


def gain_curves(channels: Sequence[Record]) -> Picture | None:
    """How the predicted gain of each round's set went up as one change after the other was chosen; None where none was."""
    chosen = [record for record in channels if len(record.get("selection", {}).get("judge", ())) > 1]
    if not chosen:
        return None
    import matplotlib

    figure, (axes,) = panels(4.8, 4.0)
    shades = matplotlib.colormaps["viridis"](np.linspace(0.0, 0.85, len(chosen)))
    for record, shade in zip(chosen, shades, strict=True):
        for split, style in (("report", ":"), ("judge", "-")):
            gain = -np.asarray(record["selection"][split][1:])
            axes.plot(np.arange(1, len(gain) + 1), np.where(gain > 0, gain, np.nan), style, color=shade, linewidth=1.2)
        axes.plot(len(gain), max(gain[-1], 1e-12), "o", color=shade, markersize=4)
        axes.annotate(f"{record['round']}", (len(gain), gain[-1]), xytext=(4, -3), textcoords="offset points")
    axes.set_yscale("log")
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("changes chosen, one after the other")
    axes.set_ylabel("predicted decrease of the loss")
    axes.grid(linewidth=0.3)
    axes.plot([], [], "-", color=GREY, label="where it was chosen (judge split)")
    axes.plot([], [], ":", color=GREY, label="on samples unseen (report split)")
    axes.plot([], [], "o", color=GREY, markersize=4, label="where the selection stopped")
    legend_below(figure)
    shown = chosen if len(chosen) <= FEW else [chosen[0], chosen[-1]]
    stops = ", ".join(
        f"{len(record['selection']['judge']) - 1:,} of {record['selection']['candidates']:,} in round {record['round']}"
        for record in shown
    )
    text = (
        f"Chosen together: {stops}. It stops where no further change gains beyond its noise, or where the budget or the widths "
        "of the round are reached. Effects add up inside the square, so that changes which repair the same mistakes count once."
    )
    return Picture("selection", "Gain of the joint selection", figure, text)


def _within(entry: Record) -> bool:
    return bool(abs(entry["actual"] - entry["predicted"]) <= INTERVAL * _error(entry))


def _error(entry: Record) -> float:
    """Of a round, or of a single change."""
    return float(entry["predicted_error"] if "predicted_error" in entry else entry["error"])


def _points(axes: Axes, entries: Sequence[Record], label: str, marker: str, colour: str, face: str) -> None:
    if entries:
        axes.errorbar(
            [entry["predicted"] for entry in entries],
            [entry["actual"] for entry in entries],
            xerr=[INTERVAL * _error(entry) for entry in entries],
            fmt=marker,
            color=colour,
            ecolor=GREY,
            elinewidth=0.8,
            markersize=4 if marker == "." else 6,
            markerfacecolor=face,
            label=label,
        )


def _symmetric_log(axes: Axes, values: Sequence[float]) -> None:
    """Axes that are logarithmic on either side of 0, on which small rounds are seen beside large ones, and the line of truth."""
    from matplotlib.ticker import SymmetricalLogLocator

    sizes = np.abs([value for value in values if value])
    high = float(sizes.max(initial=1e-6))
    low = 10 ** np.floor(np.log10(max(float(np.quantile(sizes, 0.1)) if len(sizes) else high, 1e-3 * high)))
    for axis in ("x", "y"):
        getattr(axes, f"set_{axis}scale")("symlog", linthresh=low, linscale=1)
    ticks = SymmetricalLogLocator(base=10, linthresh=low)
    ticks.set_params(numticks=TICKS)
    axes.xaxis.set_major_locator(ticks)
    reach = 1.6 * high
    limits = (-reach if min(values) < 0 else -low, reach if max(values) > 0 else low)
    axes.plot([-reach, reach], [-reach, reach], color=ORANGE, linewidth=1, zorder=0, label="actual = predicted")
    axes.set_xlim(limits)
    axes.set_ylim(limits)
    for line in (axes.axhline, axes.axvline):
        line(0, color=GREY, linewidth=0.5, zorder=0)
    axes.grid(linewidth=0.3)
