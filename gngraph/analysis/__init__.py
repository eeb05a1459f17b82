"""Analyses of graphs, cached per snapshot: channel spaces, costs, equivalence."""

from gngraph.analysis.channels import ChannelSpace, ChannelSpaces, Role, Slot
from gngraph.analysis.cost import Budget, Cost, CostModel
from gngraph.analysis.manager import AnalysisManager

__all__ = [
    "AnalysisManager",
    "Budget",
    "ChannelSpace",
    "ChannelSpaces",
    "Cost",
    "CostModel",
    "Role",
    "Slot",
]
