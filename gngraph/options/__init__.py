"""What a user may choose for a run: one record an activity, whose fields are its options everywhere. Needs no torch."""

from gngraph.options.definition import Entry, Options, option, taking
from gngraph.options.runs import (
    ExtendOptions,
    FrontOptions,
    GrowerOptions,
    GrowOptions,
    ReshapeOptions,
    ReworkOptions,
    RunOptions,
    ScopeOptions,
    ScoreOptions,
    ShrinkOptions,
)
from gngraph.options.training import TrainOptions

__all__ = [
    "Entry",
    "ExtendOptions",
    "FrontOptions",
    "GrowOptions",
    "GrowerOptions",
    "Options",
    "ReshapeOptions",
    "ReworkOptions",
    "RunOptions",
    "ScopeOptions",
    "ScoreOptions",
    "ShrinkOptions",
    "TrainOptions",
    "option",
    "taking",
]
