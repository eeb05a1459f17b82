"""Rewrites in place: a module that somebody else holds and trains follows a rewrite of its graph, and so do its optimisers."""

from gngraph.inplace.following import Followed, difference, follow, followed
from gngraph.inplace.hosts import tensors_of, twin_of, unwrapped
from gngraph.inplace.optimizers import carry_into, check_optimizer
from gngraph.inplace.saved import Saved

__all__ = [
    "Followed",
    "Saved",
    "carry_into",
    "check_optimizer",
    "difference",
    "follow",
    "followed",
    "tensors_of",
    "twin_of",
    "unwrapped",
]
