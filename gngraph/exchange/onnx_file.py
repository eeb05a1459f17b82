"""ONNX files: their nodes become calls of torch's functions, held against what onnxruntime computes."""

from __future__ import annotations

import onnx
import onnxruntime
import torch
from torch import Tensor

from gngraph.errors import ModelFileError
from gngraph.exchange.foreign import OPEN, Foreign, require_same
from gngraph.exchange.onnx_ops import ONNX
from gngraph.exchange.onnx_reader import OnnxReader, reason_of


def read_onnx(path: str, shape: tuple[int, ...] | None = None) -> Foreign:
    """The network in an ONNX file, held against onnxruntime.

    Args:
        path: of the file.
        shape: of a sample, where the file leaves it open.

    Raises:
        ModelFileError: it is damaged, has an op that is not known, or is not understood.
    """
    try:
        model = onnx.load(path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"], sess_options=_quiet())
    except Exception as error:  # of protobuf, of files beside it, and of onnxruntime
        raise ModelFileError(f"'{path}' cannot be read as ONNX: {reason_of(error)}") from error
    reader = OnnxReader(path, model, shape)
    module = reader.module(ONNX)
    names = [own.name for own in reader.inputs]

    def run(*x: Tensor) -> list[Tensor]:
        fed = {name: value.numpy() for name, value in zip(names, x, strict=True)}
        return [torch.from_numpy(made) for made in session.run(None, fed)]

    require_same(module, reader.examples[0], reader.batch or OPEN, run, path)
    return Foreign(module, reader.examples[0])


def _quiet() -> onnxruntime.SessionOptions:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return options
