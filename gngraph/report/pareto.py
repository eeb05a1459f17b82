"""Several runs beside each other: what they cost, and how good they are."""

from __future__ import annotations

from collections.abc import Sequence

from gngraph.growth.history import Record
from gngraph.report.drawing import BLUE, GREY, Picture, legend_below, panels
from gngraph.report.runs import ReportedRun
from gngraph.report.words import count


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The points that no other one beats, numbered as given: none costs less and is as good, or costs as much and is better.

    Args:
        points: (cost, loss), the less of either the better.

    >>> front([(1, 3), (2, 1), (3, 2)])
    [0, 1]
    """
    return [
        i
        for i, (cost, loss) in enumerate(points)
        if not any(c <= cost and bad <= loss and (c, bad) != (cost, loss) for c, bad in points)
    ]


def pareto(runs: Sequence[ReportedRun]) -> Picture:
    """Quality over parameters and over FLOPs, the runs that no other one beats joined by a line.

    There is no such line where runs were measured on different samples.

    Args:
        runs: at least one; where one has no accuracy, losses are compared.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator

    alike = len({run.tested for run in runs if run.tested is not None}) < 2
    last = [run.history[-1] for run in runs]
    key = "loss" if any(record["accuracy"] is None for record in last) else "accuracy"
    figure, panel = panels(4.8, 5.4, rows=2, ratios=(1, 1), sharex=False)
    kept: dict[str, list[str]] = {}
    for axes, (side, label) in zip(panel, (("params", "parameters"), ("flops", "FLOPs")), strict=True):
        own = [(float(record[side]), _badness(record, key)) for record in last]
        best = sorted(front(own), key=lambda i: own[i]) if alike else []
        kept[label] = [runs[i].name for i in best]
        x, y = [record[side] for record in last], [record[key] for record in last]
        axes.plot(x, y, "o", color=GREY, label="a run" if side == "params" else None)
        if alike:
            line = ([x[i] for i in best], [y[i] for i in best])
            axes.plot(*line, "o-", color=BLUE, label="no other run beats it" if side == "params" else None)
        for run, across, up in zip(runs, x, y, strict=True):
            axes.annotate(
                run.name, (across, up), xytext=(5, 4), textcoords="offset points", fontsize=8, parse_math=False
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator() if max(x) >= 10 * min(x) else MaxNLocator(4))
        axes.xaxis.set_major_formatter(lambda value, _: count(value))
        axes.xaxis.set_minor_formatter(lambda value, _: "")
        axes.set_xlabel(label)
        axes.set_ylabel(f"held-out {key}")
        axes.margins(x=0.2)
        axes.grid(linewidth=0.3)
    legend_below(figure)
    if not alike:
        differ = f"The runs were measured on different samples, so that their {key} does not compare."
        return Picture("pareto", "Quality and size", figure, differ)
    said = "; ".join(f"by {label}: {', '.join(names)}" for label, names in kept.items())
    return Picture("pareto", "Pareto front", figure, f"No other run is as good for less, {said}.")


def _badness(record: Record, key: str) -> float:
    return float(record[key]) if key == "loss" else -float(record[key])
