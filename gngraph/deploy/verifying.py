"""Whether a deployed file is the network that it is said to be, and computes what it does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from gngraph.deploy.parity import Batch, Parity, Run, compared, random_inputs, running
from gngraph.deploy.precision import TOLERANCES
from gngraph.deploy.provenance import FINGERPRINT
from gngraph.deploy.to_onnx import opened_onnx
from gngraph.deploy.to_pt2 import PROVENANCE
from gngraph.errors import GnGraphError
from gngraph.ir import Graph
from gngraph.ir.fingerprint import fingerprint
from gngraph.ir.inputs import with_shared
from gngraph.lowering.to_torch import sharing


@dataclass(frozen=True)
class Certificate:
    """What was found of a file.

    Attributes:
        file: its path.
        file_sha256: of its bytes.
        network_sha256: fingerprint of the network that it is held against, see `gngraph.ir.fingerprint`.
        recorded_sha256: the fingerprint that the file says it was written from; None: it does not say.
        precision: of the file, as it says.
        tolerance: largest accepted difference of an output, divided by the largest absolute output of the batch.
        parity: how far it is from the network; None: it differs by more.
        problems: a sentence for each reason not to pass it; empty: it passes.
    """

    file: str
    file_sha256: str
    network_sha256: str
    recorded_sha256: str | None
    precision: str
    tolerance: float
    parity: Parity | None
    problems: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the file is the network's."""
        return not self.problems

    def record(self) -> dict[str, Any]:
        """All of it, as JSON."""
        return {"passed": self.passed, **asdict(self)}


def verify(file: Path, graph: Graph, samples: torch.Tensor | tuple[torch.Tensor, ...] | None = None) -> Certificate:
    """Holds an exported file against a network: its fingerprint, and what it computes on random and on real samples.

    Args:
        file: .onnx or .pt2, as `export_onnx` and `export_pt2` write them, or another program.
        graph: the network, with values.
        samples: real inputs [N, ...], one for each input of samples.

    Raises:
        GnGraphError: the file is of another kind, or cannot be opened.
    """
    if not file.is_file():
        raise GnGraphError(f"there is no file '{file}'")
    if file.suffix not in _OPENERS:
        raise GnGraphError(f"'{file}' is neither .onnx nor .pt2: name a file that gngraph export wrote")
    run, recorded = _OPENERS[file.suffix](graph, file)
    precision = recorded.get("precision", "float32")
    if precision not in TOLERANCES:
        raise GnGraphError(
            f"'{file}' says that its precision is '{precision}', which is none of {', '.join(TOLERANCES)}"
        )
    tolerance = 0.0 if file.suffix == ".pt2" else TOLERANCES[precision]
    batches: list[Batch] = [random_inputs(graph, count) for count in (1, 3)]
    batches += [] if samples is None else [with_shared(graph, samples)]
    own, said = fingerprint(graph), recorded.get(FINGERPRINT)
    problems, parity = [], None
    if said is not None and said != own:
        problems.append(f"it says that it was written from the network {said[:12]}, and this one is {own[:12]}")
    try:
        parity = compared(graph, f"'{file.name}'", run, running(sharing(graph).cpu().eval()), batches, tolerance)
    except GnGraphError as error:
        problems.append(str(error))
    return Certificate(str(file), _hash(file), own, said, precision, tolerance, parity, tuple(problems))


def _pt2(graph: Graph, file: Path) -> tuple[Run, dict[str, str]]:
    extra = {PROVENANCE: ""}
    try:
        module = torch.export.load(file, extra_files=extra).module()
        recorded = json.loads(extra[PROVENANCE] or "{}")
    except Exception as error:  # the loader has dozens of classes of its own
        raise GnGraphError(f"'{file}' cannot be opened by torch.export: {error}") from error
    return running(module), recorded


_OPENERS: dict[str, Callable[[Graph, Path], tuple[Run, dict[str, str]]]] = {".onnx": opened_onnx, ".pt2": _pt2}


def _hash(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
