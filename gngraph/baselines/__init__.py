"""What other methods do, behind the interfaces of gngraph's own and judged by the same model; for comparison alone.

Importing the package makes its kinds of candidates known, and its rules for the rest of a round's budget. All its splits move the
two copies in opposite directions.
"""

from functools import partial

from gngraph.baselines.firefly import FireflySplit
from gngraph.baselines.gradmax import GradMax
from gngraph.baselines.random_channels import RandomChannels
from gngraph.baselines.random_splits import NearCopy, RandomSplit
from gngraph.baselines.random_twins import RandomTwins
from gngraph.baselines.steepest_descent import SteepestSplit
from gngraph.baselines.tiny import Tiny
from gngraph.scoring.proposers.channel_finder import propose_channels
from gngraph.scoring.proposers.splits import propose_splits
from gngraph.scoring.registry import register_proposer
from gngraph.search.allocations import register_allocation

__all__ = [
    "FireflySplit",
    "GradMax",
    "NearCopy",
    "RandomChannels",
    "RandomSplit",
    "RandomTwins",
    "SteepestSplit",
    "Tiny",
]

register_proposer("split-random", partial(propose_splits, learner=RandomSplit))
register_proposer("split-near-copy", partial(propose_splits, learner=NearCopy))
register_proposer("split-firefly", partial(propose_splits, learner=FireflySplit))
register_proposer("split-steepest", partial(propose_splits, learner=SteepestSplit))
register_proposer("new-random", partial(propose_channels, finder=RandomChannels))
register_proposer("new-gradmax", partial(propose_channels, finder=GradMax))
register_proposer("new-tiny", partial(propose_channels, finder=Tiny))

register_allocation("random-twins", RandomTwins(1.0))
register_allocation("near-copies", RandomTwins(0.01))
