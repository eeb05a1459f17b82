"""A network, or two on one layout, as a column of layers in data-flow order: their widths as bars, what they read as arcs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gngraph.analysis.outline import Layer, outline
from gngraph.ir import Graph
from gngraph.report.drawing import BLUE, GREEN, GREY, ORANGE, PURPLE, Picture
from gngraph.report.words import count
from gngraph.writing import replacing

PICTURES = (".svg", ".png", ".pdf")
"""What a picture's file may be called."""
_INCHES = 0.23
"""Of a row."""
_BLOCKS = 32
"""Characters of the longest bar in text."""


@dataclass(frozen=True)
class Row:
    """A layer of one network or of both.

    Attributes:
        before: the layer in the first network; None where it is not there.
        after: in the second.
    """

    before: Layer | None
    after: Layer | None

    @property
    def layer(self) -> Layer:
        """The layer as it is, or was."""
        found = self.after or self.before
        assert found is not None
        return found

    @property
    def widths(self) -> tuple[int, int]:
        """Before and after; 0 where it is not there."""
        return (self.before.width if self.before else 0, self.after.width if self.after else 0)

    @property
    def change(self) -> str:
        """One of "added", "removed", "wider" and "narrower", or "" for the same width."""
        if self.before is None or self.after is None:
            return "added" if self.before is None else "removed"
        old, new = self.widths
        return "wider" if new > old else "narrower" if new < old else ""

    @property
    def told(self) -> str:
        """The width in words, such as "16 -> 24"."""
        old, new = self.widths
        return {"": f"{new}", "added": f"+ {new}", "removed": f"- {old}"}.get(self.change, f"{old} -> {new}")


def rows_of(after: Graph, before: Graph | None = None) -> list[Row]:
    """The layers of a network, or of two matched by the names of their nodes, in the order of the second.

    Args:
        after: the network, or the second.
        before: the first.
    """
    new = {layer.name: layer for layer in outline(after)}
    old = new if before is None else {layer.name: layer for layer in outline(before)}
    return [Row(old.get(name), new.get(name)) for name in _merged(list(old), list(new))]


def _merged(old: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    """The names of both, those of `old` alone behind what they stand behind there."""
    waiting: dict[str | None, list[str]] = {}
    last = None
    for name in old:
        if name in new:
            last = name
        else:
            waiting.setdefault(last, []).append(name)
    yield from waiting.get(None, ())
    for name in new:
        yield name
        yield from waiting.get(name, ())


def as_text(rows: Sequence[Row]) -> str:
    """The rows as lines: name, op, a bar, the width, and what is read where that is not the row above alone.

    Args:
        rows: at least one.
    """
    widest = max(max(row.widths) for row in rows) or 1
    names, ops = (max(len(getattr(row.layer, what)) for row in rows) for what in ("name", "op"))
    lines = []
    for place, row in enumerate(rows):
        layer = row.layer
        above = (rows[place - 1].layer.name,) if place else ()
        reads = "" if layer.reads in (above, ()) else f"  reads {', '.join(layer.reads)}"
        size = f"  {layer.params:,} parameters" if layer.params else ""
        frozen = f"  frozen: {layer.frozen}" if layer.frozen else ""
        lines.append(
            f"{layer.name:<{names}}  {layer.op:<{ops}}  {_bar(row, widest)} {row.told}  {layer.shape}{size}{reads}{frozen}"
        )
    return "\n".join(lines)


def _bar(row: Row, widest: int) -> str:
    """Filled as far as the narrower, then + or - as far as the wider of both."""
    old, new = (-(-_BLOCKS * width // widest) for width in row.widths)
    sign = "+" if row.change in ("wider", "added") else "-"
    return ("#" * min(old, new) + sign * abs(new - old)).ljust(_BLOCKS)


def diagram(rows: Sequence[Row], title: str) -> Picture:
    """The rows drawn: bars of widths, and an arc for each value that is read past the next row.

    Args:
        rows: at least one.
        title: of the picture.
    """
    from matplotlib.figure import Figure
    from matplotlib.patches import Arc

    figure = Figure(figsize=(10, 0.8 + _INCHES * len(rows)), layout="constrained")
    bars, arcs = figure.subplots(1, 2, sharey=True, width_ratios=[5, 1])
    for axes in (bars, arcs):
        axes.spines[["top", "right", "bottom", "left"]].set_visible(False)
        axes.tick_params(length=0)
        axes.set_xticks([])
    colours = {"": GREY, "wider": ORANGE, "narrower": BLUE, "added": GREEN, "removed": PURPLE}
    compared = any(row.change for row in rows)
    for place, row in enumerate(rows):
        old, new = row.widths
        colour = colours[row.change] if compared else GREY if row.layer.frozen else BLUE
        bars.barh(
            place, min(old, new) or max(old, new), color=GREY if min(old, new) and row.change else colour, height=0.7
        )
        if row.change and min(old, new):
            bars.barh(
                place, abs(new - old), left=min(old, new), color=colour, height=0.7, hatch="" if new > old else "///"
            )
        label = f" {row.told}   {row.layer.op}" + (
            f", {count(row.layer.params)} parameters" if row.layer.params else ""
        )
        bars.text(
            max(old, new),
            place,
            label,
            va="center",
            fontsize=7,
            parse_math=False,
            weight="bold" if row.change else "normal",
        )
    bars.set_yticks(range(len(rows)), [row.layer.name for row in rows], fontsize=7, parse_math=False)
    bars.set_ylim(len(rows) - 0.4, -0.6)
    bars.set_xlim(0, 1.6 * max(max(row.widths) for row in rows) or 1)
    at = {row.layer.name: place for place, row in enumerate(rows)}
    longest = 1
    for name, place in at.items():
        for source in rows[place].layer.reads:
            span = place - at.get(source, place)
            if span > 1:
                longest = max(longest, span)
                arcs.add_patch(
                    Arc(
                        (0, place - span / 2),
                        span,
                        span,
                        theta1=-90,
                        theta2=90,
                        color=GREY,
                        linewidth=0.8,
                        gid=f"{source}:{name}",
                    )
                )
    arcs.set_xlim(-0.02 * longest, 0.55 * longest)
    return Picture("layers", title, figure, _reading(rows, compared))


def draw_network(graph: Graph, path: Path) -> Path:
    """Draw one network into a file, in place of one that is there.

    Args:
        graph: the network.
        path: of the file; its name ends in one of `PICTURES`.
    """
    picture = diagram(rows_of(graph), f"{graph.name}, {graph.num_params():,} parameters")
    with replacing(path) as (written,):
        picture.write(written, path.suffix[1:].lower())
    return path


def _reading(rows: Sequence[Row], compared: bool) -> str:
    if not compared:
        frozen = sum(row.layer.frozen is not None for row in rows)
        return f"{len(rows)} layers, inputs and joins; grey: {frozen} whose width is frozen. Arcs: what is read past the next row."
    parts = {"wider": 0, "narrower": 0, "added": 0, "removed": 0}
    for row in rows:
        if row.change:
            parts[row.change] += 1
    told = ", ".join(f"{number} {change}" for change, number in parts.items() if number)
    return f"Of {len(rows)} layers, inputs and joins: {told}. Arcs: what is read past the next row."
