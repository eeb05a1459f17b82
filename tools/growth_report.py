"""What the growth benchmark shows: a table, a CSV of all runs, and accuracy against params, FLOPs and training FLOPs."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from rich.table import Table

Line = Mapping[str, Any]

COSTS = (("params", "parameters"), ("flops", "FLOPs"), ("training_flops", "training FLOPs, search included"))
COLUMNS = (
    "method", "seed", "budget", "params", "flops", "accuracy", "loss", "training_flops", "search_flops", "seconds",
    "search_seconds", "epochs", "loss_before", "loss_rewritten", "accuracy_rewritten", "widths",
)  # fmt: skip


def groups(lines: Sequence[Line]) -> dict[tuple[str, str], list[Line]]:
    """Lines by budget and method, in order of appearance."""
    found: dict[tuple[str, str], list[Line]] = {}
    for line in lines:
        found.setdefault((line["budget"], line["method"]), []).append(line)
    return found


def front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points that no other beats in cost and accuracy at once, by rising cost.

    >>> front([(3.0, 0.7), (1.0, 0.5), (2.0, 0.4), (4.0, 0.7)])
    [(1.0, 0.5), (3.0, 0.7)]
    """
    best: list[tuple[float, float]] = []
    for cost, accuracy in sorted(points, key=lambda point: (point[0], -point[1])):
        if not best or accuracy > best[-1][1]:
            best.append((cost, accuracy))
    return best


def table(lines: Sequence[Line], title: str) -> Table:
    """Median and range over the seeds, a row a budget and method, the most accurate first."""
    shown = Table(title=title, title_justify="left")
    for heading in ("budget", "method", "seeds", "accuracy", "range", "params", "MFLOPs", "training TFLOPs", "search",
                    "seconds", "search s", "widths of the first seed"):  # fmt: skip
        shown.add_column(heading, justify="left" if heading in ("budget", "method") else "right", overflow="fold")
    by_budget: dict[str, list[tuple[str, list[Line]]]] = {}
    for (budget, method), own in groups(lines).items():
        by_budget.setdefault(budget, []).append((method, own))
    for budget, rows in by_budget.items():
        rows.sort(key=lambda row: -_median(row[1], "accuracy"))
        for method, own in rows:
            right = [line["accuracy"] for line in own]
            total = _median(own, "training_flops")
            shown.add_row(
                budget, method, str(len(own)), f"{median(right):.4f}", f"{min(right):.4f}–{max(right):.4f}",
                f"{_median(own, 'params'):,.0f}", f"{_median(own, 'flops') / 1e6:.3g}", f"{total / 1e12:.3g}",
                f"{_median(own, 'search_flops') / max(total, 1):.0%}", f"{_median(own, 'seconds'):.0f}",
                f"{_median(own, 'search_seconds'):.0f}", " ".join(map(str, own[0]["widths"].values())),
            )  # fmt: skip
        shown.add_section()
    return shown


def write_csv(lines: Sequence[Line], path: Path) -> None:
    """Every run, a row each."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, extrasaction="ignore", restval="")
        writer.writeheader()
        writer.writerows({**line, "widths": json.dumps(line["widths"])} for line in lines)


def draw(lines: Sequence[Line], title: str) -> Figure:
    """One panel for each cost: every run a small dot, the median of a method a mark, and the Pareto front of the medians."""
    methods = list(dict.fromkeys(line["method"] for line in lines))
    colours, marks = matplotlib.colormaps["tab20"], "osD^vPX*<>hp"
    figure = Figure(figsize=(16, 5.2), layout="constrained")
    figure.suptitle(title, fontsize=10)
    axes_of: Any = figure.subplots(1, len(COSTS), sharey=True)
    for axes, (cost, label) in zip(axes_of, COSTS, strict=True):
        medians = []
        for (_, method), own in groups(lines).items():
            place = methods.index(method)
            colour, mark = colours(place % 20), marks[place % len(marks)]
            axes.scatter([line[cost] for line in own], [line["accuracy"] for line in own], s=8, color=colour, alpha=0.5)
            point = (_median(own, cost), _median(own, "accuracy"))
            medians.append(point)
            axes.scatter(*point, s=55, color=colour, marker=mark, edgecolors="black", linewidths=0.5, label=method)
        best = front(medians)
        axes.plot(*zip(*best, strict=True), color="#D55E00", linewidth=1.2, zorder=0, drawstyle="steps-post")
        axes.set_xscale("log")
        axes.set_xlabel(label, fontsize=9)
        axes.grid(linewidth=0.3, which="both")
        axes.tick_params(labelsize=8, which="both")
        low, high = min(line[cost] for line in lines), max(line[cost] for line in lines)
        axes.set_xlim(low / 1.3, high * 1.3)
    axes_of[0].set_ylabel("accuracy on the test samples", fontsize=9)
    handles = dict(zip(*reversed(axes_of[0].get_legend_handles_labels()), strict=True))
    figure.legend(
        handles.values(), handles.keys(), loc="outside right upper", fontsize=8, frameon=False,
        title="median over seeds\n(line: Pareto front)", title_fontsize=8,
    )  # fmt: skip
    return figure


def _median(lines: Sequence[Line], name: str) -> float:
    return float(median(line[name] for line in lines))
