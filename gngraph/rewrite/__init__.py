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
    InsertSkip,
    InsertSqueezeExcite,
    RemoveSkip,
    ResizeKernel,
)
from gngraph.rewrite.surgery import Gather, Rewritten, SpaceEdit, carry, rewrite

__all__ = [
    "ChannelMap",
    "Collapse",
    "Factorise",
    "Gather",
    "InsertLayer",
    "InsertNorm",
    "InsertSkip",
    "InsertSqueezeExcite",
    "MergeChannel",
    "Morphism",
    "NewChannel",
    "PruneChannel",
    "RemoveLayer",
    "RemoveSkip",
    "ResizeKernel",
    "Rewritten",
    "SpaceEdit",
    "SplitChannel",
    "carry",
    "edits_of",
    "morph",
    "rewrite",
]
