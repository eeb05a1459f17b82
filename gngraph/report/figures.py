"""Pictures of a growth run, drawn from its history with matplotlib, without a display."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gngraph.growth.history import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours of Okabe and Ito, "Color universal design", 2008: distinct for every kind of colour vision.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#7F7F7F"

PREDICTED_FILE = "predicted_vs_actual.png"
WIDTHS_FILE = "widths.png"
TRAINING_FILE = "training.png"

DOTS_PER_INCH = 150
INTERVAL = 2.0  # standard errors on either side, as far as an error bar reaches


def draw_history(history: Sequence[Record], folder: Path) -> list[Path]:
    """Draw every picture of a run into `folder` and give the paths of the PNG files; O(1 s).

    Args:
        history: records as `gngraph.growth.loop.grow` gives them; nothing is drawn of an empty one.
        folder: made if need be.
    """
    if not history:
        return []
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {WIDTHS_FILE: widths(history), TRAINING_FILE: training(history)}
    if any(record["kind"] == "round" for record in history):
        pictures[PREDICTED_FILE] = predicted_vs_actual(history)
    paths = []
    for name, figure in pictures.items():
        paths.append(folder / name)
        figure.savefig(paths[-1], dpi=DOTS_PER_INCH)
    return paths


def predicted_vs_actual(history: Sequence[Record], candidates: Sequence[tuple[float, float]] = ()) -> Figure:
    """Predicted against actual change of the mean loss on the report split, a point for each round's learned morphisms.

    Args:
        history: records with at least one round.
        candidates: further (predicted, actual) pairs of single morphisms, drawn small; the title then speaks of them.
    """
    rounds = [record for record in history if record["kind"] == "round"]
    points = [(record["predicted"], record["actual"]) for record in rounds]
    figure, (axes,) = _figure(6.4, 5.2)
    if candidates:
        x, y = zip(*candidates, strict=True)
        axes.plot(x, y, ".", color=GREY, markersize=4, alpha=0.6, label="single morphism")
    for refused, face, label in ((False, BLUE, "round, applied"), (True, "white", "round, refused")):
        some = [record for record in rounds if bool(record["refused"]) is refused]
        if some:
            axes.errorbar(
                [record["predicted"] for record in some],
                [record["actual"] for record in some],
                xerr=[INTERVAL * record["predicted_error"] for record in some],
                fmt="o",
                color=BLUE,
                ecolor=GREY,
                elinewidth=1,
                markerfacecolor=face,
                label=f"{label} (bar: ±{INTERVAL:g} standard errors)",
            )
    for record in rounds:
        axes.annotate(
            f"{record['round']}", (record["predicted"], record["actual"]), xytext=(5, 5), textcoords="offset points"
        )
    bars = [r["predicted"] + side * r["predicted_error"] for r in rounds for side in (-INTERVAL, INTERVAL)]
    _identity(axes, [*bars, *(value for pair in (*points, *candidates) for value in pair)])
    axes.locator_params(axis="x", nbins=5)  # small changes have long numbers
    axes.set_xlabel("predicted change of the mean loss, report split")
    axes.set_ylabel("actual change of the mean loss, report split")
    noun = "morphisms" if candidates else "rounds"
    error = 0.0 if candidates else float(np.median([record["predicted_error"] for record in rounds]))
    axes.set_title(f"Predicted against actual: {agreement(candidates or points, noun, error)}", fontsize=11)
    _legend(figure)
    return figure


def agreement(points: Sequence[tuple[float, float]], noun: str, error: float = 0.0) -> str:
    """Pearson's r, the slope of actual on predicted, and the number of (predicted, actual) points, in words.

    Points that lie no further apart than the usual `error` of a prediction have a correlation that says nothing.

    Args:
        points: (predicted, actual) changes of the loss.
        noun: what a point is, in the plural.
        error: standard error that a prediction usually has; 0: none is known.

    >>> agreement([(-1.0, -2.0), (-2.0, -4.0), (0.0, 0.0)], "rounds")
    'r = 1.00, slope 2.00, 3 rounds'
    """
    count = f"{len(points)} {noun if len(points) != 1 else noun.removesuffix('s')}"
    x, y = np.asarray(points, dtype=float).reshape(-1, 2).T
    if len(points) < 3 or x.std() == 0 or y.std() == 0:
        return f"{count} (too few for a correlation)"
    if x.std() <= error:
        return f"{count} (alike within their errors: no correlation is told)"
    slope = float(np.polyfit(x, y, 1)[0])
    return f"r = {float(np.corrcoef(x, y)[0, 1]):.2f}, slope {slope:.2f}, {count}"


def widths(history: Sequence[Record]) -> Figure:
    """Channels of every space in the seed and after each round; colour is growth since it is there. Fits 1 to 60 spaces."""
    columns: list[tuple[str, Mapping[str, int]]] = [("seed", history[0]["trained"]["widths"])]
    columns += [(str(record["round"]), record["widths"]) for record in history if record["kind"] == "round"]
    spaces = list(dict.fromkeys(space for _, column in columns for space in column))
    table = np.array([[column.get(space, 0) for _, column in columns] for space in spaces], dtype=float)
    first = np.array([next((width for width in row if width), 1) for row in table])[:, None]
    growth = np.log2(np.where(table > 0, table, first) / first)
    reach = max(1.0, float(np.abs(growth).max()))
    small = len(spaces) > 25
    label_width = 0.075 * max(len(space) for space in spaces)
    figure, (axes,) = _figure(2.4 + label_width + 0.55 * len(columns), 1.5 + (0.2 if small else 0.3) * len(spaces))
    image = axes.imshow(growth, cmap="PuOr_r", vmin=-reach, vmax=reach, aspect="auto")
    for row, column in np.argwhere(table > 0).tolist():
        dark = abs(growth[row, column]) > 0.65 * reach
        colour = "white" if dark else "black"
        axes.text(
            column,
            row,
            f"{int(table[row, column])}",
            ha="center",
            va="center",
            color=colour,
            fontsize=7 if small else 9,
        )
    axes.set_xticks(range(len(columns)), [name for name, _ in columns])
    axes.set_yticks(range(len(spaces)), spaces, fontsize=7 if small else 9)
    axes.set_xlabel("round")
    axes.set_title("Channels of each space", fontsize=11)
    ticks = sorted({-math.floor(reach), 0, math.floor(reach)})
    bar = figure.colorbar(image, ax=axes, ticks=ticks, aspect=30)
    bar.ax.set_yticklabels([f"{2.0**tick:g} ×" for tick in ticks])
    bar.set_label("width against the seed")
    return figure


def training(history: Sequence[Record]) -> Figure:
    """Accuracy (the loss for a regression), parameters and FLOPs over the epochs, with a line at every rewrite."""
    classifies = history[0]["accuracy"] is not None
    key, label = ("accuracy", "accuracy") if classifies else ("loss", "loss")
    figure, (upper, middle, lower) = _figure(7.2, 6.6, rows=3, ratios=(3, 1.2, 1.2))
    epochs = [epoch for record in history for epoch in record["epochs"]]
    upper.plot([e["epoch"] for e in epochs], [e[key] for e in epochs], color=GREY, label="training, during the epoch")
    ends = _ends(history)
    upper.plot(ends, [record["trained"][key] for record in history], "o-", color=BLUE, label="held-out, after training")
    rounds = [(end, record) for end, record in zip(ends, history, strict=True) if record["kind"] == "round"]
    if rounds:
        x = [end for end, _ in rounds]
        y = [record[key] for _, record in rounds]
        upper.plot(x, y, "s", color=ORANGE, markerfacecolor="none", label="held-out, after the rewrite")
    upper.set_ylabel(label)
    _cost_panel(middle, history, ends, "params", "parameters", BLUE)
    _cost_panel(lower, history, ends, "flops", "FLOPs a sample\n(2 a multiply-add)", GREEN)
    for axes in (upper, middle, lower):
        for end, _ in rounds:
            axes.axvline(end, color=GREY, linewidth=0.5, linestyle=":", zorder=0)
        axes.set_xlim(0, max(1, ends[-1]) * 1.02)
        axes.grid(axis="y", linewidth=0.3)
    lower.set_xlabel("epoch (dotted: a rewrite)")
    last = history[-1]
    result = f"{last[key]:.2%}" if classifies else f"{last[key]:.4g}"
    upper.set_title(f"Held-out {label} {result} with {_count(last['params'])} parameters", fontsize=11)
    _legend(figure)
    return figure


def _cost_panel(axes: Axes, history: Sequence[Record], ends: Sequence[int], key: str, label: str, colour: str) -> None:
    """A step line of a cost: each record's size holds while it trained, the rewrite at its end changes it."""
    x, y = [0], [history[0]["trained"][key]]
    for end, record in zip(ends, history, strict=True):
        x += [end, end]
        y += [record["trained"][key], record[key]]
    axes.plot(x, y, color=colour)
    limit = history[0]["budget"][key]
    if limit is not None:
        axes.axhline(limit, color=ORANGE, linestyle="--", linewidth=1)
        axes.annotate(
            f"budget {_count(limit)}",
            (0, limit),
            xytext=(3, -3),
            textcoords="offset points",
            color=ORANGE,
            va="top",
            fontsize=9,
        )
    axes.set_ylabel(label)
    axes.set_ylim(0, 1.1 * max([*y, limit or 0]))
    axes.yaxis.set_major_formatter(lambda value, _: _count(value))


def _ends(history: Sequence[Record]) -> list[int]:
    ends, done = [], 0
    for record in history:
        done += len(record["epochs"])
        ends.append(done)
    return ends


def _count(value: float) -> str:
    """A count for people.

    >>> _count(79762), _count(1.5e6), _count(12)
    ('79.8k', '1.5M', '12')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def _identity(axes: Axes, values: Sequence[float]) -> None:
    """The line on which predictions are exact, through square limits with a margin."""
    low, high = min([0.0, *values]), max([0.0, *values])
    margin = 0.12 * (high - low) or 1e-6
    limits = (low - margin, high + margin)
    axes.plot(limits, limits, color=ORANGE, linewidth=1, zorder=0, label="actual = predicted")
    axes.set_xlim(limits)
    axes.set_ylim(limits)
    axes.grid(linewidth=0.3)


def _figure(
    width: float, height: float, rows: int = 1, ratios: Sequence[float] = (1,)
) -> tuple[Figure, Sequence[Axes]]:
    from matplotlib.figure import Figure

    # A bare Figure draws by Agg and leaves pyplot's global state alone.
    figure = Figure(figsize=(width, height), layout="constrained")
    grid: Any = figure.subplots(rows, 1, squeeze=False, sharex=True, height_ratios=list(ratios))
    for axes in grid[:, 0]:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, list(grid[:, 0])


def _legend(figure: Figure) -> None:
    """A legend below the axes, where it covers no data."""
    handles, labels = [], []
    for axes in figure.axes:
        found = axes.get_legend_handles_labels()
        handles += found[0]
        labels += found[1]
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
