"""Reports: a page and pictures of runs."""

from gngraph.report.figures import draw
from gngraph.report.page import write_report
from gngraph.report.runs import Run, read_run

__all__ = ["Run", "draw", "read_run", "write_report"]
