"""Networks over data: what a network is for, and everything that runs one over samples."""

from gngraph.running.batchnorm import reestimate, settled
from gngraph.running.evaluation import evaluate, mean_loss, mean_losses
from gngraph.running.problem import Problem

__all__ = ["Problem", "evaluate", "mean_loss", "mean_losses", "reestimate", "settled"]
