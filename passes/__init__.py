"""The graph passes: frozen dataclasses that rewrite a graph, composed by ``gngraph.PassManager``.

The folder lies at the top of the repository and is imported as ``gngraph.passes`` only.
"""

from __future__ import annotations

if __name__ == "passes":
    # Imported under this name every pass class would exist twice, and the copies would not be equal.
    raise ImportError("import gngraph.passes, not passes: the folder passes/ belongs to the package gngraph")

from gngraph.passes.change_stride import ChangeStride
from gngraph.passes.cleanup import Cleanup
from gngraph.passes.collapse_layers import CollapseLayers
from gngraph.passes.head_sizes import HeadSizes, WholeHeads
from gngraph.passes.insert_layer import InsertLayers
from gngraph.passes.insert_norm import InsertNorms
from gngraph.passes.insert_pool import InsertPools
from gngraph.passes.insert_skip import InsertSkips, MakeResidual
from gngraph.passes.insert_squeeze_excite import InsertSqueezeExcites
from gngraph.passes.join_layers import JoinLayers
from gngraph.passes.low_rank import LowRank
from gngraph.passes.merge_channels import MergeChannels
from gngraph.passes.narrow_kernel import NarrowKernel
from gngraph.passes.new_channels import NewChannels
from gngraph.passes.prune_channels import PruneChannels
from gngraph.passes.remove_layer import RemoveLayers
from gngraph.passes.remove_pool import MovePools, RemovePools
from gngraph.passes.remove_skip import RemoveSkips
from gngraph.passes.repeat_blocks import RepeatedBlocks
from gngraph.passes.separable import Separable
from gngraph.passes.split_channels import SplitChannels
from gngraph.passes.stride_to_pool import StrideToPools
from gngraph.passes.widen_kernel import WidenKernel
from gngraph.rewrite.graph_pass import Pass
from gngraph.rewrite.pass_manager import PassManager
from gngraph.rewrite.pass_text import format_passes, parse_passes

__all__ = [
    "ChangeStride",
    "Cleanup",
    "CollapseLayers",
    "HeadSizes",
    "InsertLayers",
    "InsertNorms",
    "InsertPools",
    "InsertSkips",
    "InsertSqueezeExcites",
    "JoinLayers",
    "LowRank",
    "MakeResidual",
    "MergeChannels",
    "MovePools",
    "NarrowKernel",
    "NewChannels",
    "Pass",
    "PassManager",
    "PruneChannels",
    "RemoveLayers",
    "RemovePools",
    "RemoveSkips",
    "RepeatedBlocks",
    "Separable",
    "SplitChannels",
    "StrideToPools",
    "WholeHeads",
    "WidenKernel",
    "format_passes",
    "parse_passes",
]
