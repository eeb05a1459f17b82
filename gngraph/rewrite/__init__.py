"""Rewriting: channel maps, weight surgery on channel spaces, morphisms, the pass manager."""

from gngraph.rewrite.channel_map import ChannelMap
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import (
    InsertLayer,
    MergeChannel,
    Morphism,
    NewChannel,
    PruneChannel,
    RemoveLayer,
    SplitChannel,
    edits_of,
)
from gngraph.rewrite.structure import (
    Collapse,
    Factorise,
    InsertNorm,
    InsertPool,
    InsertSkip,
    InsertSqueezeExcite,
    JoinPair,
    MovePool,
    RemovePool,
    RemoveSkip,
    RepeatBlocks,
    ResizeKernel,
    StrideToPool,
)
from gngraph.rewrite.surgery import Gather, Rewritten, SpaceEdit, carry, rewrite

__all__ = [
    "ChannelMap",
    "Collapse",
    "Factorise",
    "Gather",
    "InsertLayer",
    "InsertNorm",
    "InsertPool",
    "InsertSkip",
    "InsertSqueezeExcite",
    "JoinPair",
    "MergeChannel",
    "Morphism",
    "MovePool",
    "NewChannel",
    "PruneChannel",
    "RemoveLayer",
    "RemovePool",
    "RemoveSkip",
    "RepeatBlocks",
    "ResizeKernel",
    "Rewritten",
    "SpaceEdit",
    "SplitChannel",
    "StrideToPool",
    "carry",
    "edits_of",
    "morph",
    "rewrite",
]
