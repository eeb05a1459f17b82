"""Growth: the loop, its history and its folder."""

from gngraph.growth.grower import Grower
from gngraph.growth.growth_step import GrowthStep
from gngraph.growth.loop import grow_by
from gngraph.growth.observer import Observer
from gngraph.growth.result import GrowthResult

__all__ = ["Grower", "GrowthResult", "GrowthStep", "Observer", "grow_by"]
