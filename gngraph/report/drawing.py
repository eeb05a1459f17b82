"""What figures have in common: colours, axes without a box, legends below them; drawn by matplotlib without a display."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colours of Okabe and Ito, "Color universal design", 2008: distinct for every kind of colour vision.
BLUE, ORANGE, GREEN, GREY, PURPLE = "#0072B2", "#D55E00", "#009E73", "#7F7F7F", "#CC79A7"

DOTS_PER_INCH = 150

LETTERS = "DejaVu Sans, Verdana, sans-serif"
"""Verdana is as wide as the letters that matplotlib measures, where a browser has not got these."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure with what is said of it.

    Attributes:
        name: of its files, without suffix.
        title: what it shows.
        figure: without its title, which a page sets above it.
        reading: a sentence or two about what can be seen.
    """

    name: str
    title: str
    figure: Figure
    reading: str = ""

    def svg(self) -> str:
        """The figure as an element of a page, in the page's colour of text, and safe there: matplotlib escapes all text.

        Returns:
            markup that templates take as it is.
        """
        import matplotlib
        from markupsafe import Markup, escape

        file = io.StringIO()
        # names that the elements of two figures on a page do not share, and no date: the same run gives the same page
        with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": self.name}):
            self.figure.savefig(file, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
        text = file.getvalue()
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
        text = re.sub(r"#000000|(?<=[ :])black(?=[;\"])", "currentColor", text)
        text = re.sub(r'\bid="([^"]+)"', rf'id="{self.name}-\1"', text)
        text = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{self.name}-", text)
        return Markup(text.replace("<svg ", f'<svg role="img" aria-label="{escape(self.title)}" ', 1))

    def save(self, folder: Path) -> list[Path]:
        """Write it as PNG and as SVG, with its title."""
        paths = [folder / f"{self.name}.{suffix}" for suffix in ("png", "svg")]
        for path in paths:
            self.write(path, path.suffix[1:])
        return paths

    def write(self, path: Path, form: str) -> None:
        """Write it as one file, with its title.

        Args:
            path: of the file, whatever its name ends in.
            form: "png", "svg" or "pdf".
        """
        heading = self.figure.suptitle(self.title, fontsize=11)
        self.figure.savefig(path, format=form, dpi=DOTS_PER_INCH, metadata={"Date": None} if form == "svg" else None)
        heading.remove()
        self.figure._suptitle = None  # type: ignore[attr-defined]  # which `remove` leaves


def panels(
    width: float, height: float, rows: int = 1, ratios: Sequence[float] = (1,), *, sharex: bool = True
) -> tuple[Figure, Sequence[Axes]]:
    """A figure of panels one above the other.

    Args:
        width, height: in inches.
        rows: number of panels.
        ratios: of their heights.
        sharex: whether they have one axis of x.
    """
    from matplotlib.figure import Figure

    # A bare Figure draws by Agg and leaves pyplot's global state alone.
    figure = Figure(figsize=(width, height), layout="constrained")
    grid: Any = figure.subplots(rows, 1, squeeze=False, sharex=sharex, height_ratios=list(ratios))
    for axes in grid[:, 0]:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, list(grid[:, 0])


def legend_below(figure: Figure) -> None:
    """A legend below the axes, where it covers no data."""
    handles, labels = [], []
    for axes in figure.axes:
        found = axes.get_legend_handles_labels()
        handles += found[0]
        labels += found[1]
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, fontsize=9)
