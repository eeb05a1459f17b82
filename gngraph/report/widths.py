"""How wide every space was, round by round."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from gngraph.growth.history import Record
from gngraph.report.drawing import Picture, panels


def widths(history: Sequence[Record]) -> Picture:
    """Channels of every space in the seed and after each round; colour is growth since it is there. Fits 1 to 60 spaces."""
    columns: list[tuple[str, Mapping[str, int]]] = [("seed", history[0]["trained"]["widths"])]
    columns += [(str(record["round"]), record["widths"]) for record in history if record["kind"] == "round"]
    spaces = list(dict.fromkeys(space for _, column in columns for space in column))
    table = np.array([[column.get(space, 0) for _, column in columns] for space in spaces], dtype=float)
    first = np.array([next((width for width in row if width), 1) for row in table])[:, None]
    growth = np.ma.masked_where(table == 0, np.log2(np.where(table > 0, table, first) / first))
    reach = max(1.0, float(np.abs(growth).max()))
    small = len(spaces) > 25
    label_width = 0.075 * max(len(space) for space in spaces)
    figure, (axes,) = panels(1.7 + label_width + 0.48 * len(columns), 1.3 + (0.2 if small else 0.27) * len(spaces))
    edges = [np.arange(length + 1) - 0.5 for length in growth.shape[::-1]]
    image = axes.pcolormesh(*edges, growth, cmap="PuOr_r", vmin=-reach, vmax=reach)  # rectangles, which stay sharp
    axes.invert_yaxis()
    for row, column in np.argwhere(table > 0).tolist():
        dark = abs(growth[row, column]) > 0.65 * reach
        text = f"{int(table[row, column])}"
        # not black, which a page turns into its own colour of text: the cells keep theirs
        colour = "white" if dark else "#010101"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=7 if small else 9)
    gone = [(row, column) for row, column in np.argwhere(table == 0).tolist() if table[row, :column].any()]
    if gone:
        y, x = zip(*gone, strict=True)
        axes.plot(x, y, "x", color="#7F7F7F", markersize=5)
    axes.set_xticks(range(len(columns)), [name for name, _ in columns])
    axes.set_yticks(range(len(spaces)), spaces, fontsize=7 if small else 9, parse_math=False)  # names, no formulas
    axes.set_xlabel("round")
    ticks = sorted({-math.floor(reach), 0, math.floor(reach)})
    bar = figure.colorbar(image, ax=axes, ticks=ticks, aspect=30)
    if bar.solids is not None:
        bar.solids.set_rasterized(False)
    bar.ax.set_yticklabels([f"{2.0**tick:g} ×" for tick in ticks])
    bar.set_label("width against the seed")
    return Picture("widths", "Channels of each space", figure, _said(spaces, table))


def _said(spaces: Sequence[str], table: np.ndarray) -> str:
    ratio = table[:, -1] / np.maximum(1, table[:, 0])
    lasting = [i for i in range(len(spaces)) if table[i, 0] and table[i, -1]]
    gone = int(((table[:, 0] > 0) & (table[:, -1] == 0)).sum())
    if not lasting:
        return ""
    most, least = max(lasting, key=lambda i: ratio[i]), min(lasting, key=lambda i: ratio[i])
    more = (
        f" {gone} space{'s' * (gone != 1)} went with {'their layers' if gone != 1 else 'its layer'} (×)."
        if gone
        else ""
    )
    return (
        f"Most: {spaces[most]}, {int(table[most, 0])} to {int(table[most, -1])}; least: {spaces[least]}, "
        f"{int(table[least, 0])} to {int(table[least, -1])}.{more}"
    )
