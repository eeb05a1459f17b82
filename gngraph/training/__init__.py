"""Training a graph and measuring it: stretches of training, optimiser state, BatchNorm statistics, loss and accuracy."""

from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer

__all__ = ["Stretch", "Trainer"]
