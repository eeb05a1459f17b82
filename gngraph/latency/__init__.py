"""How long a network takes on this machine, at any widths of its channel spaces: units are timed, sums predicted."""

from gngraph.latency.clock import LatencyClock, clock_of
from gngraph.latency.setting import LatencySetting

__all__ = ["LatencyClock", "LatencySetting", "clock_of"]
