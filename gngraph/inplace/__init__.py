"""Rewrites in place: a module that somebody else holds and trains follows a rewrite of its graph, and so do its optimisers."""

from gngraph.inplace.following import Followed, difference, follow, followed, outputs_differ
from gngraph.inplace.hosts import tensors_of, twin_of, unwrapped
from gngraph.inplace.numbers import NumberAt
from gngraph.inplace.optimizers import carry_into, check_optimizer
from gngraph.inplace.processes import agreed
from gngraph.inplace.saved import Saved
from gngraph.inplace.stacking import Stacked, remember

__all__ = [
    "Followed",
    "NumberAt",
    "Saved",
    "Stacked",
    "agreed",
    "carry_into",
    "check_optimizer",
    "difference",
    "follow",
    "followed",
    "outputs_differ",
    "remember",
    "tensors_of",
    "twin_of",
    "unwrapped",
]
