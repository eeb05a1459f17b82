"""Growth: training, the state that survives a rewrite, and the loop that grows a network within a budget."""

from gngraph.growth.loop import GrowthResult, grow
from gngraph.growth.observer import Observer
from gngraph.growth.options import Stretch, TrainOptions
from gngraph.growth.training import Trainer

__all__ = ["GrowthResult", "Observer", "Stretch", "TrainOptions", "Trainer", "grow"]
