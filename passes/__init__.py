"""The graph passes: frozen dataclasses that rewrite a graph, composed by ``gngraph.PassManager``.

The folder lies at the top of the repository and is imported as ``gngraph.passes`` only.
"""

from __future__ import annotations

if __name__ == "passes":
    # Imported under this name every pass class would exist twice, and the copies would not be equal.
    raise ImportError("import gngraph.passes, not passes: the folder passes/ belongs to the package gngraph")

from gngraph.passes.cleanup import Cleanup
from gngraph.passes.insert_layer import InsertLayers
from gngraph.passes.merge_channels import MergeChannels
from gngraph.passes.new_channels import NewChannels
from gngraph.passes.prune_channels import PruneChannels
from gngraph.passes.remove_layer import RemoveLayers
from gngraph.passes.split_channels import SplitChannels
from gngraph.rewrite.graph_pass import Pass
from gngraph.rewrite.pass_manager import PassManager
from gngraph.rewrite.pass_text import format_passes, parse_passes

__all__ = [
    "Cleanup",
    "InsertLayers",
    "MergeChannels",
    "NewChannels",
    "Pass",
    "PassManager",
    "PruneChannels",
    "RemoveLayers",
    "SplitChannels",
    "format_passes",
    "parse_passes",
]
