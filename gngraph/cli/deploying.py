"""Commands about files for other runtimes: export, verify."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gngraph.cli.opening import open_both
from gngraph.cli.options import (
    DataOptions,
    ModelOptions,
    model_argument,
    model_options,
    optional_data_options,
)
from gngraph.cli.parameters import GroupedCommand, Model
from gngraph.cli.speaking import answer, force_option, require_free

if TYPE_CHECKING:
    import torch

    from gngraph.deploy.parity import Parity
    from gngraph.deploy.speed import Speed
    from gngraph.deploy.to_onnx import OnnxReport
    from gngraph.ir import Graph
    from gngraph.running.problem import Problem

_SAMPLES = 256  # real ones, for calibration and for comparing
_BATCHES = (1, 32)  # of which the milliseconds are measured


@click.command(cls=GroupedCommand, short_help="Write a network for another runtime, or as Python source.")
@model_argument
@model_options
@optional_data_options
@click.option("--onnx", type=click.Path(path_type=Path, dir_okay=False), help="ONNX file to write.")
@click.option(
    "--opset", type=click.IntRange(18), help="Version of the ONNX operator set; by default the exporter's own."
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "float16", "int8"]),
    default="float32",
    show_default=True,
    help="Of the ONNX file; int8 is calibrated on training samples of --data.",
)
@click.option(
    "--pt2", type=click.Path(path_type=Path, dir_okay=False), help="File of torch.export to write; it ends in .pt2."
)
@click.option("--source", type=click.Path(path_type=Path, file_okay=False), help="Folder for model.py and its weights.")
@force_option
def export(
    model: str,
    how: ModelOptions,
    what: DataOptions,
    onnx: Path | None,
    opset: int | None,
    precision: Any,
    pt2: Path | None,
    source: Path | None,
) -> None:
    """Write MODEL as ONNX, checked in onnxruntime, for torch.export, or as a Python class that needs no gngraph.

    Each file is run and compared with MODEL before it appears, and timed beside it.
    """
    if onnx is None and source is None and pt2 is None:
        raise click.UsageError("name what to write: --onnx FILE, --pt2 FILE, --source FOLDER, or several")
    for file in (onnx, pt2):
        if file is not None and not file.absolute().parent.is_dir():
            raise click.UsageError(f"'{file}' cannot be written: its folder does not exist")
    code = None if source is None else source / "model.py"
    require_free(onnx, pt2, code)
    from gngraph.deploy.provenance import metadata_of
    from gngraph.running.problem import inputs_of

    graph, problem = _opened(model, how, what)
    inputs = known_inputs(model) if problem is None else inputs_of(problem)
    told, lines = list[dict[str, Any]](), list[str]()
    if onnx is not None:
        from gngraph.deploy.to_onnx import export_onnx

        report = export_onnx(
            graph,
            onnx,
            samples=_samples(graph, problem),
            metadata=metadata_of(inputs),
            opset=opset,
            precision=precision,
        )
        speeds = _speeds(graph, report.run, "onnxruntime")
        record = {"format": "onnx", "opset": report.opset, "precision": report.precision}
        told.append(_written(report.path, report.bytes, report.parity) | record | {"milliseconds": _recorded(speeds)})
        lines += [describe_onnx(report), *(f"{name}: {', '.join(map(str, own))}" for name, own in speeds.items())]
        if problem is not None and len(graph.outputs) == 1:
            found, own = _accuracies(graph, problem, report.run)
            told[-1] |= {"samples": len(problem.test), "accuracy": {"onnxruntime": found, "torch": own}}
            lines.append(_compared(found, own, len(problem.test)))
    if pt2 is not None:
        from gngraph.deploy.to_pt2 import export_pt2

        written = export_pt2(graph, pt2, metadata=metadata_of(inputs))
        told.append(_written(written.path, written.bytes, written.parity) | {"format": "torch.export"})
        lines.append(f"{written.path}: torch.export, {written.bytes:,} bytes; {_described(written.parity)}")
    if source is not None:
        from gngraph.source.export import export_source

        files = export_source(graph, source, inputs=inputs)
        told.append({"path": str(files.model), "weights": str(files.weights), "format": "source"})
        lines.append(f"{files.model}: Python source, with {files.weights.name}, proved bit for bit")
    answer({"files": told}, "\n".join(lines))


@click.command(cls=GroupedCommand, short_help="Hold a deployed file against a run.")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option("--against", type=Model(), required=True, help="The folder of a run, or a MODEL.")
@model_options
@optional_data_options
@click.pass_context
def verify(ctx: click.Context, file: Path, against: str, how: ModelOptions, what: DataOptions) -> None:
    """Check that FILE, .onnx or .pt2, was written from a network and computes what it does.

    Exit status: 0 it is and does, 1 it is not, does not, or cannot be opened.
    """
    from gngraph.deploy.verifying import verify as verified

    graph, problem = _opened(against, how, what)
    found = verified(file, graph, _samples(graph, problem))
    lines = [
        f"{file}: SHA-256 {found.file_sha256}",
        f"{against}: network {found.network_sha256}",
        *(["the file does not say from which network it was written"] if found.recorded_sha256 is None else []),
        *([] if found.parity is None else [_described(found.parity)]),
        *([f"FAILED: {problem}" for problem in found.problems] or ["passed"]),
    ]
    answer(found.record(), "\n".join(lines))
    ctx.exit(0 if found.passed else 1)


def _opened(model: str, how: ModelOptions, what: DataOptions) -> tuple[Graph, Problem | None]:
    """The network, and its problem where data is named."""
    return open_both(model, how, what) if what.data else (how.open(model), None)


def _samples(graph: Graph, problem: Problem | None) -> torch.Tensor | tuple[torch.Tensor, ...] | None:
    """Real samples, of the training set: test samples are not for calibration."""
    from gngraph.analysis.fit import spread_samples
    from gngraph.data.inputs import in_order
    from gngraph.ir.inputs import named_by_data

    return None if problem is None else in_order(spread_samples(problem.train, _SAMPLES)[0], named_by_data(graph))


def _accuracies(graph: Graph, problem: Problem, run: Any) -> tuple[float | None, float | None]:
    """Of a file, and of torch, on the test samples; None where the loss has none."""
    from gngraph.running.deployed import accuracy_outside
    from gngraph.running.evaluation import evaluate

    return accuracy_outside(run, graph, problem), evaluate(graph, problem, problem.test)[1]


def _compared(found: float | None, own: float | None, samples: int) -> str:
    from gngraph.report.words import percent

    told = f"{percent('onnxruntime ', found)}, {percent('torch ', own)}"
    return "accuracy: none for this loss" if found is None else f"accuracy on {samples:,} test samples: {told}"


def _written(path: Path, size: int, parity: Parity) -> dict[str, Any]:
    return {"path": str(path), "bytes": size, "parity": asdict(parity)}


def known_inputs(model: str) -> dict[str, Any] | None:
    """How samples become inputs, where MODEL is an archive that says so."""
    from gngraph.files.archive import recorded_inputs
    from gngraph.files.loading import is_archive

    found = recorded_inputs(model) if is_archive(model) else None
    return found if isinstance(found, dict) else None


def describe_onnx(report: OnnxReport) -> str:
    """One line about an exported ONNX file and its check."""
    return (
        f"{report.path}: ONNX opset {report.opset}, {report.precision}, {report.nodes} nodes, {report.bytes:,} bytes, "
        f"any {' and '.join(report.dynamic)}; "
        f"{_described(report.parity)} in {' + '.join(report.providers)}"
    )


def _described(parity: Parity) -> str:
    return (
        f"differs from torch by at most {parity.max_abs_difference:.1e} (largest output {parity.max_abs_output:.3g}) on batches "
        f"of {', '.join(map(str, parity.batches))}"
    )


def _speeds(graph: Graph, run: Any, name: str) -> dict[str, list[Speed]]:
    """What a batch takes, by who computes it."""
    from gngraph.deploy.parity import random_inputs, running
    from gngraph.deploy.speed import speed
    from gngraph.lowering.to_torch import reading_inputs

    own = running(reading_inputs(graph).cpu().eval())
    return {
        label: [speed(what, random_inputs(graph, count), count) for count in _BATCHES]
        for label, what in ((name, run), ("torch", own))
    }


def _recorded(speeds: dict[str, list[Speed]]) -> dict[str, list[dict[str, Any]]]:
    return {name: [asdict(own) for own in several] for name, several in speeds.items()}
