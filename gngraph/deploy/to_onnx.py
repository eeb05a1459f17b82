"""ONNX: a graph becomes one .onnx file with a dynamic batch, checked in onnxruntime against the lowered network.

The exporter is torch's own (`torch.onnx.export(dynamo=True)`), which takes 5 to 20 s even for a small network.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gngraph.errors import GnGraphError
from gngraph.ir import Graph, TensorType
from gngraph.ir.types import dtype_of
from gngraph.lowering.to_torch import to_torch
from gngraph.writing import replacing

ONNX_TOLERANCE = 1e-4
"""Largest accepted difference of an output, divided by the largest absolute output of the same batch.

Different kernels and folded BatchNorm give 1e-6 or less in float32; convolutions in TF32 on a GPU stay below 1e-3, so
TF32 is switched off for the comparison.
"""

BATCH_AXIS = "batch"
"""Name of the dynamic axis."""

_MAX_BYTES = 2**31 - 1
"""A protobuf message, hence a .onnx file, cannot be larger."""


@dataclass(frozen=True)
class OnnxReport:
    """What was written and how it was checked.

    Attributes:
        path: the file.
        opset: version of the ONNX operator set.
        nodes: number of ONNX nodes.
        providers: what onnxruntime really ran on, best first.
        max_abs_difference: largest absolute difference of an output to torch, over all batches.
        max_abs_output: largest absolute output of torch, over all batches.
        batches: batch sizes that were compared.
        bytes: size of the file.
    """

    path: Path
    opset: int
    nodes: int
    providers: tuple[str, ...]
    max_abs_difference: float
    max_abs_output: float
    batches: tuple[int, ...]
    bytes: int


def export_onnx(
    graph: Graph,
    path: str | os.PathLike[str],
    *,
    samples: Tensor | None = None,
    metadata: Mapping[str, str] | None = None,
) -> OnnxReport:
    """Write `graph`, in eval mode, as the ONNX file `path` and check it in onnxruntime.

    The batch axis of every input is dynamic and called "batch"; inputs and outputs are named after the graph's. The
    file is run by onnxruntime on random batches of 1 and 3, and on `samples`, and compared with torch. It appears at
    `path` only when all agree; a file that was there before stays otherwise.

    Args:
        graph: the network, with values.
        path: the file to write.
        samples: real inputs, f32 [N, ...], for a network with one input.
        metadata: further entries of the file's metadata, beside gngraph's version and the number of parameters.

    Raises:
        GnGraphError: a package is missing, the exporter or onnxruntime refuses, the file would exceed 2 GB, or an
            output differs by more than `ONNX_TOLERANCE`.
    """
    module = to_torch(graph).cpu()
    size = sum(p.data.numel() * p.data.element_size() for p in graph.params.values())
    if size > _MAX_BYTES:
        raise GnGraphError(
            f"graph '{graph.name}' has {size:,} bytes of values, but one ONNX file holds at most {_MAX_BYTES:,}"
        )
    if samples is not None and len(graph.inputs) != 1:
        raise GnGraphError(
            f"graph '{graph.name}' has {len(graph.inputs)} inputs, so real samples cannot be given as one tensor"
        )
    target = Path(path)
    with replacing(target) as (written,):
        with _refusals(graph):
            _export(graph, module, written)
            opset, nodes = _finish(graph, written, metadata or {})
            session = _session(written)
        batches = [_random_inputs(graph, count) for count in (1, 3)]
        batches += [] if samples is None else [(samples.detach().cpu(),)]
        difference, largest = _compare(graph, module, session, batches)
    sizes = tuple(len(inputs[0]) for inputs in batches)
    providers = tuple(session.get_providers())
    return OnnxReport(target, opset, nodes, providers, difference, largest, sizes, target.stat().st_size)


def metadata_of(inputs: Mapping[str, Any] | None) -> dict[str, str]:
    """Entries of a file's metadata that say how samples become inputs and what the outputs mean, each as JSON.

    >>> metadata_of({"classes": ["cat", "dog"]})
    {'classes': '["cat", "dog"]'}
    """
    return {name: json.dumps(value) for name, value in (inputs or {}).items()}


@contextmanager
def _refusals(graph: Graph) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise GnGraphError(
            f"ONNX export needs the package '{error.name}'; install it (pip install onnx onnxscript)"
        ) from error
    except GnGraphError:
        raise
    except Exception as error:  # the exporter, onnx and onnxruntime each have their own classes
        reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        raise GnGraphError(
            f"graph '{graph.name}' cannot be written as ONNX: {type(error).__name__}: {reason}; write it as source "
            f"or as an archive instead"
        ) from error


def _export(graph: Graph, module: nn.Module, path: Path) -> None:
    import onnx  # noqa: F401  (missing, it is named before the exporter starts)
    import onnxscript  # noqa: F401

    inputs = _random_inputs(graph, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about its own internals
        torch.onnx.export(
            module,
            inputs,
            path,
            dynamo=True,
            input_names=list(graph.inputs),
            output_names=_output_names(graph),
            dynamic_shapes=tuple({0: BATCH_AXIS} for _ in inputs),
            external_data=False,
            verbose=False,
        )


def _output_names(graph: Graph) -> list[str]:
    """Names of the outputs, each once: a value that is returned twice or that is an input gets a number."""
    names: list[str] = []
    for name in graph.outputs:
        names.append(name if name not in (*names, *graph.inputs) else f"{name}_output{len(names)}")
    return names


def _finish(graph: Graph, path: Path, metadata: Mapping[str, str]) -> tuple[int, int]:
    """Check the file and write provenance into it; opset and number of nodes."""
    import onnx

    model = onnx.load(path)
    model.producer_name, model.producer_version = "gngraph", _version()
    own = {"gngraph_version": _version(), "parameters": str(graph.num_params()), "network": graph.name}
    onnx.helper.set_model_props(model, own | dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    return opsets[""], len(model.graph.node)


def _version() -> str:
    try:
        return importlib.metadata.version("gngraph")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        return "unknown"


def _session(path: Path) -> Any:
    """An onnxruntime session, on the GPU where torch sees one.

    onnxruntime lists its CUDA provider even on machines without a GPU and logs errors when it is asked for there, so
    torch is asked; torch, imported first, also has loaded the CUDA libraries that the provider needs.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    providers: list[Any] = ["CPUExecutionProvider"]
    if torch.cuda.is_available() and "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        providers.insert(0, ("CUDAExecutionProvider", {"use_tf32": "0"}))
    return onnxruntime.InferenceSession(str(path), options, providers=providers)


def _random_inputs(graph: Graph, count: int) -> tuple[Tensor, ...]:
    """Inputs with `count` samples: numbers from a normal distribution, 0 and 1 where they are integers."""
    generator = torch.Generator().manual_seed(count)
    inputs = []
    for name in graph.inputs:
        type_ = graph.nodes[name].type
        assert isinstance(type_, TensorType)
        shape = [size if isinstance(size, int) else count for size in type_.shape]
        dtype = dtype_of(type_.dtype)
        is_real = dtype.is_floating_point
        random = torch.randn(shape, generator=generator) if is_real else torch.randint(0, 2, shape, generator=generator)
        inputs.append(random.to(dtype))
    return tuple(inputs)


def _compare(
    graph: Graph, module: nn.Module, session: Any, batches: Sequence[tuple[Tensor, ...]]
) -> tuple[float, float]:
    """Largest absolute difference and largest absolute output."""
    worst = largest = 0.0
    for inputs in batches:
        with torch.no_grad():
            expected = _tensors(module(*inputs))
        with _refusals(graph):
            feeds = {entry.name: x.numpy() for entry, x in zip(session.get_inputs(), inputs, strict=True)}
            found = [torch.from_numpy(value) for value in session.run(None, feeds)]
        if [tuple(t.shape) for t in found] != [tuple(t.shape) for t in expected]:
            raise GnGraphError(
                f"the ONNX file of graph '{graph.name}' gives other shapes for a batch of {len(inputs[0])}"
            )
        for a, b in zip(found, expected, strict=True):
            difference, size = _largest(a.double() - b.double()), _largest(b.double())
            if not difference <= ONNX_TOLERANCE * size:
                raise GnGraphError(
                    f"the ONNX file of graph '{graph.name}' differs from it by {difference:.3g} for a batch of "
                    f"{len(inputs[0])}, which is more than {ONNX_TOLERANCE:g} of its largest output {size:.3g}; nothing was "
                    f"written"
                )
            worst, largest = max(worst, difference), max(largest, size)
    return worst, largest


def _largest(tensor: Tensor) -> float:
    return float(tensor.abs().max()) if tensor.numel() else 0.0


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return [tensor for item in items for tensor in _tensors(item)]
