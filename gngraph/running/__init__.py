"""Networks over data: what a network is for, and everything that runs one over samples."""

from gngraph.running.batchnorm import reestimate
from gngraph.running.evaluation import evaluate, mean_loss
from gngraph.running.problem import Problem

__all__ = ["Problem", "evaluate", "mean_loss", "reestimate"]
