"""ONNX files of fewer bits: half precision, and 8-bit integers calibrated on real samples."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from gngraph.deploy.parity import Batch
from gngraph.errors import GnGraphError

Precision = Literal["float32", "float16", "int8"]

TOLERANCES: dict[str, float] = {"float32": 1e-4, "float16": 0.05, "int8": 1.0}
"""Largest accepted difference of an output, divided by the largest absolute output of the same batch.

float32: different kernels and folded BatchNorm give 1e-6 or less; convolutions in TF32 on a GPU stay below 1e-3, so TF32 is
switched off for the comparison. float16 has 11 bits, and rounds at every layer. int8 is wrong where it is off by as much as the
outputs are large; how good it is, accuracy says.
"""

CALIBRATION = 32
"""Samples of a piece that is read to calibrate."""


def convert(path: Path, precision: Precision, samples: Sequence[Batch]) -> None:
    """Rewrites the ONNX file at `path`; its inputs and outputs stay float32.

    Args:
        path: of a float32 file; it is replaced in place.
        precision: which.
        samples: real inputs, `CALIBRATION` samples a piece, of which int8 takes the ranges of every value.

    Raises:
        GnGraphError: int8 was asked for without samples.
    """
    if precision == "float16":
        _to_float16(path)
    elif precision == "int8":
        if not samples:
            raise GnGraphError("8-bit integers are calibrated on real samples: name the data (--data)")
        _to_int8(path, samples)


def _to_float16(path: Path) -> None:
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    halved = OnnxModel(convert_float_to_float16(onnx.load(path), keep_io_types=True))
    halved.topological_sort()  # the casts of inputs stand at the end
    onnx.save(halved.model, path)


def _to_int8(path: Path, samples: Sequence[Batch]) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    names = [entry.name for entry in onnx.load(path, load_external_data=False).graph.input]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """The samples, in pieces."""

        def __init__(self) -> None:
            self.pieces = iter(samples)

        def get_next(self) -> dict[str, Any] | None:
            piece = next(self.pieces, None)
            return None if piece is None else {name: x.numpy() for name, x in zip(names, piece, strict=True)}

    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # onnxruntime advises on the root logger to do what is done here
    try:
        with tempfile.TemporaryDirectory() as folder:
            prepared = Path(folder) / "prepared.onnx"
            quant_pre_process(path, prepared, skip_symbolic_shape=True)
            quantize_static(
                prepared,
                path,
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
    finally:
        logger.setLevel(level)
