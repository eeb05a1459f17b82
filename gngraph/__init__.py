"""gngraph grows and shrinks PyTorch networks: graph rewrites, chosen by a Gauss-Newton model of the loss.

    graph = gngraph.from_torch(module, example_inputs)
    result = gngraph.grow(graph, data, max_params=500_000)
    module = gngraph.to_torch(result.graph)

Names are imported when they are first used, so that `import gngraph` itself costs next to nothing. The passes are in
`gngraph.passes`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gngraph import passes as passes
    from gngraph.analysis.channels import ChannelSpaces
    from gngraph.analysis.cost import Budget
    from gngraph.analysis.diff import diff
    from gngraph.analysis.manager import AnalysisManager
    from gngraph.analysis.outline import to_networkx
    from gngraph.api import extend, grow, grow_front, reshape, shrink
    from gngraph.deploy.to_onnx import export_onnx
    from gngraph.files.archive import save
    from gngraph.files.loading import load
    from gngraph.growth.grower import Grower
    from gngraph.importing.from_torch import from_torch
    from gngraph.ir.graph import Graph
    from gngraph.ir.text import parse
    from gngraph.lowering.to_torch import to_torch
    from gngraph.options import (
        ExtendOptions,
        FrontOptions,
        GrowerOptions,
        GrowOptions,
        ReshapeOptions,
        ShrinkOptions,
        TrainOptions,
    )
    from gngraph.passes import PassManager
    from gngraph.repeating import replay, resume
    from gngraph.running.problem import Problem
    from gngraph.scoring.gauss_newton import GaussNewton

__version__ = "0.1.0"

__all__ = [
    "AnalysisManager",
    "Budget",
    "ChannelSpaces",
    "ExtendOptions",
    "FrontOptions",
    "GaussNewton",
    "Graph",
    "GrowOptions",
    "Grower",
    "GrowerOptions",
    "PassManager",
    "Problem",
    "ReshapeOptions",
    "ShrinkOptions",
    "TrainOptions",
    "__version__",
    "diff",
    "export_onnx",
    "extend",
    "from_torch",
    "grow",
    "grow_front",
    "load",
    "parse",
    "passes",
    "replay",
    "reshape",
    "resume",
    "save",
    "shrink",
    "to_networkx",
    "to_torch",
]

_HOMES = {
    "AnalysisManager": "gngraph.analysis.manager",
    "Budget": "gngraph.analysis.cost",
    "ChannelSpaces": "gngraph.analysis.channels",
    "ExtendOptions": "gngraph.options",
    "FrontOptions": "gngraph.options",
    "GaussNewton": "gngraph.scoring.gauss_newton",
    "Graph": "gngraph.ir.graph",
    "GrowOptions": "gngraph.options",
    "Grower": "gngraph.growth.grower",
    "GrowerOptions": "gngraph.options",
    "PassManager": "gngraph.passes",  # so that pass texts are known wherever there is a pass manager
    "Problem": "gngraph.running.problem",
    "ReshapeOptions": "gngraph.options",
    "ShrinkOptions": "gngraph.options",
    "TrainOptions": "gngraph.options",
    "diff": "gngraph.analysis.diff",
    "export_onnx": "gngraph.deploy.to_onnx",
    "extend": "gngraph.api",
    "from_torch": "gngraph.importing.from_torch",
    "grow": "gngraph.api",
    "grow_front": "gngraph.api",
    "load": "gngraph.files.loading",
    "parse": "gngraph.ir.text",
    "replay": "gngraph.repeating",
    "reshape": "gngraph.api",
    "resume": "gngraph.repeating",
    "save": "gngraph.files.archive",
    "shrink": "gngraph.api",
    "to_networkx": "gngraph.analysis.outline",
    "to_torch": "gngraph.lowering.to_torch",
}


def __getattr__(name: str) -> Any:
    """Import the public name `name` from its home, once: it is then an attribute of the module (PEP 562)."""
    if name == "passes":
        return importlib.import_module("gngraph.passes")
    if name not in _HOMES:
        raise AttributeError(f"module 'gngraph' has no attribute '{name}'")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
