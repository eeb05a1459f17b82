"""Networks from files of other formats, ONNX and torch.export, as modules; no code of a file runs."""

from __future__ import annotations

from gngraph.exchange.foreign import Foreign
from gngraph.exchange.onnx_file import read_onnx
from gngraph.exchange.pt2 import read_pt2

__all__ = ["Foreign", "read_onnx", "read_pt2"]
