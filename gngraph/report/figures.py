"""Every picture of a run, and what a run leaves for people to look at."""

from __future__ import annotations

from pathlib import Path

from gngraph.report.drawing import Picture
from gngraph.report.predictions import gain_curves, predicted_vs_actual
from gngraph.report.runs import ReportedRun
from gngraph.report.training import training, trials
from gngraph.report.widths import widths


def pictures(run: ReportedRun) -> list[Picture]:
    """The pictures of a run, in the order in which a page shows them."""
    found = [training(run.history), widths(run.history)]
    if run.rounds:
        found.append(predicted_vs_actual(run.rounds, run.channels))
    curves = gain_curves(run.channels)
    return [*found, *([curves] if curves is not None else ()), *trials(run.history)]


def draw(run: ReportedRun, folder: Path) -> list[Path]:
    """Write every picture of a run as PNG and SVG into a folder, which is made if need be; O(1 s)."""
    folder.mkdir(parents=True, exist_ok=True)
    return [path for picture in pictures(run) for path in picture.save(folder)]
