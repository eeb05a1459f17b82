"""Reports: a page and pictures of runs."""

from gngraph.report.figures import draw
from gngraph.report.page import write_report
from gngraph.report.runs import ReportedRun, read_run

__all__ = ["ReportedRun", "draw", "read_run", "write_report"]
