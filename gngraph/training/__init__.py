"""Training a graph and measuring it: stretches of training, optimiser state, BatchNorm statistics, loss and accuracy."""

from gngraph.training.options import Stretch, TrainOptions
from gngraph.training.training import Trainer

__all__ = ["Stretch", "TrainOptions", "Trainer"]
