"""Reports: pictures of a growth run."""

from gngraph.report.figures import draw_history

__all__ = ["draw_history"]
