"""Faults of data, targets, rates, and of code of the user's."""

from __future__ import annotations

import numpy as np

import gngraph.api
from gngraph.options import GrowOptions
from tools.fault_table import fault, grow, network, scaled, tensors, told, train, trained, write


@fault(1, r"'x_train' holds 'nan' in sample 7 ")
def nan_in_training() -> int:
    """Nan in a training sample."""
    write(x_train=((7, 2), np.nan))
    return train()


@fault(1, r"'x_test' holds 'inf' in sample 9 ")
def inf_in_test() -> int:
    """Inf in a test sample."""
    write(x_test=((9, 0), np.inf))
    return grow()


@fault(1, r"'y_train' holds 'nan' in sample 3 ")
def nan_in_targets() -> int:
    """Nan in the targets of a regression."""
    write("number", y_train=((3, 0), np.nan))
    return train("nets:number")


@fault(1, r"label '-1' of sample 5 in 'y_train' is outside")
def bad_label() -> int:
    """A label out of range."""
    write(y_train=((5,), -1))
    return train()


@fault(1, r"refused: 'x' holds 'nan' in sample 11 ")
def nan_from_python() -> int:
    """Nan in a tensor, from Python."""
    x, y = tensors()
    x[11, 1] = float("nan")
    return told(lambda: gngraph.api.grow(network(), (x, y), GrowOptions(max_params=600, rounds=1)))


@fault(1, r"refused: sample 13 of the training data holds 'nan' in its inputs")
def nan_in_own() -> int:
    """Nan in a data set of the user's own."""
    x, y = tensors()
    x[13, 4] = float("nan")
    return trained(x, y)


@fault(1, r"refused: sample 13 of the training data .*reach 3e\+38")
def extreme_in_training() -> int:
    """3e38 in a training sample, from Python."""
    x, y = tensors()
    x[13, 4] = 3e38
    return trained(x, y)


@fault(0, r"1 of 100 test samples are not counted.*sample 9 of the test data")
def extreme_in_test() -> int:
    """3e38 in a test sample."""
    write(x_test=((9, 0), 3e38))
    return grow()


@fault(1, r"100 of 100 test samples are not counted")
def extreme_in_all() -> int:
    """3e38 in every test sample."""
    write(x_test=((slice(None), 0), 3e38))
    return grow()


@fault(1, r"sample 13 of the training data .*reach 1e\+30")
def extreme_target() -> int:
    """1e30 among the targets of a regression."""
    x, _ = tensors()
    y = x[:, :1].clone()
    y[13] = 1e30
    return trained(x, y, loss="mse")


@fault(0, r"stay in the units of the data")
def prices() -> int:
    """Targets of 10,000 +- 3,000 at the default rate."""
    scaled(1e4, 3e3)
    return grow("nets:number")


@fault(0, r"stay in the units of the data")
def tiny_targets() -> int:
    """Targets of 1e-6 at the default rate."""
    scaled(0, 1e-6)
    return train("nets:number")


@fault(1, r"and the targets have the size 1.*: scale them")
def prices_softened() -> int:
    """Targets in other units, and a last layer that is not affine."""
    scaled(1e4, 3e3)
    return train("nets:softened")


@fault(1, r"training diverged: after \d epochs? the loss is|the training loss became")
def large_rate() -> int:
    """A rate of 30."""
    write()
    return train("nets:net", "--lr", "30")


@fault(1, r"training diverged: after 1 epoch the loss is inf|the training loss became '(nan|inf)'")
def absurd_rate() -> int:
    """A rate of 1e12."""
    write()
    return train("nets:net", "--lr", "1e12")


@fault(1, r"could not be called: SystemExit: 3")
def ending() -> int:
    """Sys.exit in a factory."""
    write()
    return train("nets:ending")


@fault(1, r"could not be called: ZeroDivisionError: division by zero")
def failing() -> int:
    """A factory that fails."""
    write()
    return train("nets:failing")


@fault(1, r"returned a int, but it must return a torch.nn.Module")
def nothing() -> int:
    """A factory that gives no module."""
    write()
    return train("nets:nothing")


@fault(1, r"cannot be trained on a batch of 1: .*raise the batch size")
def batches_of_one() -> int:
    """Batches of one and a BatchNorm."""
    write()
    return train("nets:normed", "--batch-size", "1")


@fault(1, r"refused: loss '<lambda>' is not finite for any of")
def nan_of_a_loss() -> int:
    """A loss of the user's own that is nan."""
    x, y = tensors()
    return trained(x, y, loss=lambda outputs, targets: outputs.sum(1) * float("nan"))
