"""Growth: the loop, its history and its folder."""

from gngraph.growth.loop import GrowthResult, grow
from gngraph.growth.observer import Observer

__all__ = ["GrowthResult", "Observer", "grow"]
