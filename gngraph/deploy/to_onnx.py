"""ONNX: a graph becomes one .onnx file with a dynamic batch, checked in onnxruntime against the lowered network.

The exporter is torch's own (`torch.onnx.export(dynamo=True)`), which takes 5 to 20 s even for a small network.
"""

from __future__ import annotations

import keyword
import os
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from gngraph.deploy.parity import Batch, Parity, Run, compared, random_inputs, running
from gngraph.deploy.precision import CALIBRATION, TOLERANCES, Precision, convert
from gngraph.deploy.provenance import provenance, version
from gngraph.deploy.refusals import refusals
from gngraph.errors import GnGraphError, path_text
from gngraph.ir import BATCH, Dim, Graph, TensorType
from gngraph.ir.graph import checked
from gngraph.ir.inputs import over_samples, reads_tokens, with_shared
from gngraph.ir.types import dtype_name
from gngraph.lowering.to_torch import sharing
from gngraph.writing import replacing

BATCH_AXIS, LENGTH_AXIS = "batch", "length"
"""Names of the dynamic axes."""

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
        precision: of its weights and most of its arithmetic.
        parity: how far it is from torch.
        bytes: size of the file.
        run: what it computes.
        dynamic: names of the axes of inputs that may have another size.
    """

    path: Path
    opset: int
    nodes: int
    providers: tuple[str, ...]
    precision: Precision
    parity: Parity
    bytes: int
    run: Run
    dynamic: tuple[str, ...] = (BATCH_AXIS,)


def export_onnx(
    graph: Graph,
    path: str | os.PathLike[str],
    *,
    samples: Tensor | tuple[Tensor, ...] | None = None,
    metadata: Mapping[str, str] | None = None,
    opset: int | None = None,
    precision: Precision = "float32",
) -> OnnxReport:
    """Write `graph`, in eval mode, as the ONNX file `path` and check it in onnxruntime.

    The batch axis of every input that has one is dynamic and called "batch", and so is the "length" of tokens where the network
    takes shorter ones; inputs and outputs are named after the graph's. The file is run by onnxruntime on random batches of 1 and 3,
    on shorter tokens and on `samples`, and compared with torch. It appears at `path` only when all agree; a file that was there
    before stays otherwise.

    Args:
        graph: the network, with values.
        path: the file to write.
        samples: real inputs [N, ...], one for each input of samples.
        metadata: further entries of the file's metadata, beside those of `provenance`.
        opset: version of the ONNX operator set; None: the exporter's own.
        precision: "float32"; "float16", of half the size; or "int8", of a quarter, calibrated on `samples`. Inputs and outputs
            stay float32.

    Raises:
        GnGraphError: a package is missing, the exporter or onnxruntime refuses, the file would exceed 2 GB, or an
            output differs by more than `TOLERANCES` of the precision.
    """
    target = Path(path_text(path))
    module = sharing(_exportable(checked(graph))).cpu()
    size = sum(p.data.numel() * p.data.element_size() for p in graph.params.values())
    if size > _MAX_BYTES:
        raise GnGraphError(
            f"graph '{graph.name}' has {size:,} bytes of values, but one ONNX file holds at most {_MAX_BYTES:,}"
        )
    if samples is not None:
        _check_samples(graph, samples)
    real = [] if samples is None else [with_shared(graph, samples)]
    with replacing(target) as (written,):
        with refusals(f"graph '{graph.name}' cannot be written as ONNX", "write it as source or as an archive instead"):
            shorter = _shorter(graph, module)
            dynamic = _export(graph, module, written, opset, bool(shorter))
            convert(written, precision, [] if samples is None else _pieces(graph, samples))
            found, nodes = _finish(graph, written, {"precision": precision, **(metadata or {})})
            session = _session(written)
        run = _computing(graph, session)
        batches = [*(random_inputs(graph, count) for count in (1, 3)), *real]
        batches += shorter if LENGTH_AXIS in dynamic else []
        parity = compared(graph, "the ONNX file", run, running(module), batches, TOLERANCES[precision])
    providers = tuple(session.get_providers())
    return OnnxReport(target, found, nodes, providers, precision, parity, target.stat().st_size, run, dynamic)


def written_onnx(graph: Graph, path: Path) -> None:
    """Write what `export_onnx` writes, in float32, unchecked and without its metadata: to be timed.

    Args:
        graph: the network, with values.
        path: the file to write.

    Raises:
        GnGraphError: a package is missing, or the exporter refuses.
    """
    with refusals(f"graph '{graph.name}' cannot be written as ONNX", "write it as source or as an archive instead"):
        module = sharing(_exportable(checked(graph))).cpu()
        _export(graph, module, path, None, bool(_shorter(graph, module)))


def opened_onnx(graph: Graph, path: Path) -> tuple[Run, dict[str, str]]:
    """What an ONNX file computes in onnxruntime, and its metadata.

    Args:
        graph: the network that it is taken for, for messages.
        path: of the file.

    Raises:
        GnGraphError: onnxruntime does not take it.
    """
    import onnx

    with refusals(f"graph '{graph.name}' cannot be written as ONNX", "write it as source or as an archive instead"):
        props = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
        return _computing(graph, _session(path)), props


def _exportable(graph: Graph) -> Graph:
    """A graph without modules and parameters whose names are words of Python's, which torch's exporter cannot write as code."""

    def plain(path: str) -> str:
        return ".".join(f"{part}_" if keyword.iskeyword(part) else part for part in path.split("."))

    names = {name: plain(name) for name in graph.params}
    if all(name == new for name, new in names.items()) or len(set(names.values())) < len(names):
        return graph
    nodes = {
        key: replace(
            node,
            params=MappingProxyType({role: names[name] for role, name in node.params.items()}),
            module=None if node.module is None else plain(node.module),
            scope=plain(node.scope),
        )
        for key, node in graph.nodes.items()
    }
    return replace(graph, nodes=nodes, params={names[name]: replace(p, aliases=()) for name, p in graph.params.items()})


def _check_samples(graph: Graph, samples: Tensor | tuple[Tensor, ...]) -> None:
    own = over_samples(graph)
    given = samples if isinstance(samples, tuple) else (samples,)
    if len(own.inputs) != len(given):
        raise GnGraphError(
            f"graph '{graph.name}' has {len(own.inputs)} inputs of samples, but {len(given)} were given: give "
            f"a tuple of them, in order"
        )
    for name, one in zip(own.inputs, given, strict=True):
        taken = own.nodes[name].type
        if not isinstance(one, Tensor) or one.dim() == 0 or len(one) == 0:
            raise GnGraphError(f"samples are a tensor of at least one, of type '{taken}', but '{one!r:.60}' was given")
        found = TensorType(dtype_name(one.dtype), (BATCH, *one.shape[1:]))
        if found != taken:
            raise GnGraphError(f"samples are of type '{found}', but graph '{graph.name}' takes '{taken}'")


def _pieces(graph: Graph, samples: Tensor | tuple[Tensor, ...]) -> list[Batch]:
    """Real inputs in pieces of samples, beside what these share."""
    given = samples if isinstance(samples, tuple) else (samples,)
    starts = range(0, len(given[0]), CALIBRATION)
    return [with_shared(graph, tuple(x[start : start + CALIBRATION] for x in given)) for start in starts]


def _shorter(graph: Graph, module: nn.Module) -> list[Batch]:
    """Samples of tokens that are shorter than those that the network was made with; none where it takes no such."""
    if len(graph.inputs) != 1 or not reads_tokens(graph):
        return []
    (x,) = random_inputs(graph, 2)
    if x.dim() != 2 or x.shape[1] < 2:
        return []
    short = x[:, : max(1, x.shape[1] // 2)]
    try:
        running(module)((short,))
    except Exception:  # whatever a network raises that is made for one length
        return []
    return [(short,)]


def _export(graph: Graph, module: nn.Module, path: Path, opset: int | None, lengths: bool) -> tuple[str, ...]:
    """Write the file; the names of its dynamic axes: lengths may be fixed by what only the exporter sees."""
    try:
        _write(graph, module, path, opset, (BATCH_AXIS, LENGTH_AXIS) if lengths else (BATCH_AXIS,))
    except Exception:  # the exporter has classes of its own
        if not lengths:
            raise
        _write(graph, module, path, opset, (BATCH_AXIS,))
        return (BATCH_AXIS,)
    return (BATCH_AXIS, LENGTH_AXIS) if lengths else (BATCH_AXIS,)


def _write(graph: Graph, module: nn.Module, path: Path, opset: int | None, axes: tuple[str, ...]) -> None:
    import onnx  # noqa: F401  (missing, it is named before the exporter starts)

    _read_signatures_once()
    inputs = random_inputs(graph, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about its own internals
        program: Any = torch.onnx.export(
            module,
            inputs,
            dynamo=True,
            input_names=list(graph.inputs),
            output_names=_output_names(graph),
            dynamic_shapes=tuple(_dynamic(graph.nodes[name].shape, axes) for name in graph.inputs),
            external_data=False,
            opset_version=opset,
            verbose=False,
        )
        _tell_apart(program)
        program.save(path, external_data=False)


def _tell_apart(program: Any) -> None:
    """Give values inside other names where an output has theirs: torch's exporter has names of its own for those."""
    outputs = list(program.model.graph.outputs)
    names = {value.name for value in outputs}
    for node in program.model.graph.all_nodes():
        for value in node.outputs:
            if value.name in names and not any(value is output for output in outputs):
                value.name = f"{value.name}_inside"


def _dynamic(shape: tuple[Dim, ...], axes: tuple[str, ...]) -> dict[int, str]:
    """The dynamic axes of an input, which have names: that of the samples, and where they are in front the further ones."""
    if shape[:1] == (BATCH,):
        return dict(enumerate(axes))
    return {axis: BATCH_AXIS for axis, size in enumerate(shape) if size == BATCH}


@cache
def _read_signatures_once() -> None:
    """Have onnxscript parse the sources of its functions once, not at every export, of which that is a third of the time."""
    from onnxscript import values

    with suppress(AttributeError):  # in a version that keeps them elsewhere
        kind: Any = values.TracedOnnxFunction
        kind.function_ir = property(cache(kind.function_ir.fget))


def _output_names(graph: Graph) -> list[str]:
    """Names of the outputs, each once: a value that is returned twice or that is an input gets a number."""
    names: list[str] = []
    for name in graph.outputs:
        names.append(name if name not in (*names, *graph.inputs) else f"{name}_output{len(names)}")
    return names


def _finish(graph: Graph, path: Path, metadata: Mapping[str, str]) -> tuple[int, int]:
    """Check the file and write provenance into it; opset and number of nodes."""
    import onnx

    # what is appended to a message is merged into it, so that its weights need not be read and written again
    said = onnx.ModelProto(producer_name="gngraph", producer_version=version())
    onnx.helper.set_model_props(said, provenance(graph, metadata))
    with path.open("ab") as file:
        file.write(said.SerializeToString())
    onnx.checker.check_model(str(path), full_check=True)
    model = onnx.load(path)
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    return opsets[""], len(model.graph.node)


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


def _computing(graph: Graph, session: Any) -> Run:
    """What a file computes in a session."""
    names = [entry.name for entry in session.get_inputs()]

    def run(batch: Batch) -> list[Tensor]:
        with refusals(f"graph '{graph.name}' cannot be written as ONNX", "write it as source or as an archive instead"):
            found = session.run(None, {name: x.numpy() for name, x in zip(names, batch, strict=True)})
        return [torch.from_numpy(value) for value in found]

    return run
