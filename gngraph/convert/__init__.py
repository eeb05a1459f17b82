"""torch in, torch out: import, lowering, readable source, ONNX, archives, model files."""

from gngraph.convert.archive import load, load_history, save
from gngraph.convert.to_torch import Lowered, lower, run

__all__ = [
    "Lowered",
    "load",
    "load_history",
    "lower",
    "run",
    "save",
]
