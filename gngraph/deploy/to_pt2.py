"""torch.export: a graph becomes one .pt2 file that needs torch alone, with a dynamic batch, equal bit for bit."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from gngraph.deploy.parity import Parity, compared, random_inputs, running
from gngraph.deploy.provenance import provenance
from gngraph.errors import GnGraphError
from gngraph.ir import BATCH, Graph
from gngraph.lowering.to_torch import sharing
from gngraph.writing import replacing

PROVENANCE = "gngraph.json"
"""Extra file of the archive: see `provenance`. `torch.export.load(path, extra_files={PROVENANCE: ""})` reads it."""


@dataclass(frozen=True)
class Pt2Report:
    """What was written and how it was checked.

    Attributes:
        path: the file.
        parity: of the file, loaded again.
        bytes: size of the file.
    """

    path: Path
    parity: Parity
    bytes: int


def export_pt2(graph: Graph, path: str | os.PathLike[str], *, metadata: Mapping[str, str] | None = None) -> Pt2Report:
    """Writes `graph`, in eval mode, by torch.export, and compares the file, loaded again, with it: equal bit for bit.

    Args:
        graph: the network, with values.
        path: the file to write; it ends in .pt2.
        metadata: see `export_onnx`.

    Raises:
        GnGraphError: torch.export refuses, or an output differs.
    """
    target = Path(path)
    if target.suffix != ".pt2":
        raise GnGraphError(f"'{target}' is no name for what torch.export writes: end it in .pt2")
    module = sharing(graph).cpu().eval()
    inputs = random_inputs(graph, 2)
    with replacing(target) as (written,):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the exporter about its own internals
                shapes = (graph.nodes[name].shape for name in graph.inputs)
                axes = (
                    {i: torch.export.Dim.DYNAMIC for i, dim in enumerate(shape) if dim == BATCH} for shape in shapes
                )
                program = torch.export.export(module, inputs, dynamic_shapes=tuple(axes))
                extra = {PROVENANCE: json.dumps(provenance(graph, metadata or {}))}
                with written.open("wb") as file:
                    torch.export.save(program, file, extra_files=extra)
                with written.open("rb") as file:
                    loaded = torch.export.load(file).module()
        except Exception as error:  # the exporter has dozens of classes of its own
            reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
            raise GnGraphError(
                f"graph '{graph.name}' cannot be written by torch.export: {type(error).__name__}: {reason}; write it as ONNX, as "
                f"source or as an archive instead"
            ) from error
        batches = [random_inputs(graph, count) for count in (1, 3)]
        parity = compared(graph, "the torch.export file", running(loaded), running(module), batches, 0.0)
    return Pt2Report(target, parity, target.stat().st_size)
