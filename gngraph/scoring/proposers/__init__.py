"""gngraph's own proposers: a kind of candidate a file, made known by its line here."""

from functools import partial

from gngraph.scoring.proposers.channel_finder import propose_channels
from gngraph.scoring.proposers.factorisations import propose_low_ranks, propose_separable
from gngraph.scoring.proposers.insertions import propose_insertions
from gngraph.scoring.proposers.merges import propose_merges
from gngraph.scoring.proposers.new_channels import NewChannelFinder
from gngraph.scoring.proposers.prunes import propose_prunes
from gngraph.scoring.proposers.splits import SplitLearner, propose_splits
from gngraph.scoring.registry import register_proposer

__all__ = [
    "NewChannelFinder",
    "SplitLearner",
    "propose_channels",
    "propose_insertions",
    "propose_low_ranks",
    "propose_merges",
    "propose_prunes",
    "propose_separable",
    "propose_splits",
]

register_proposer("split", partial(propose_splits, learner=SplitLearner))
register_proposer("prune", propose_prunes)
register_proposer("new", partial(propose_channels, finder=NewChannelFinder))
register_proposer("merge", propose_merges)
register_proposer("insert", propose_insertions)
register_proposer("low-rank", propose_low_ranks)
register_proposer("separable", propose_separable)
