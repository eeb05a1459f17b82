"""What a `Grower` is given: data as a problem, and samples of it as what the user's module takes."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from gngraph.analysis.fit import first_samples, problem_for
from gngraph.curvature import LossLike
from gngraph.data.inputs import each
from gngraph.errors import DataError, OptionError
from gngraph.running.problem import Problem

_EXAMPLES = 2
"""Samples that a module is imported with, and compared with its graph on."""


def example(given: Sequence[torch.Tensor] | None) -> tuple[torch.Tensor, ...]:
    """Example inputs of a user's on the CPU; none where there are none.

    Args:
        given: what forward takes.

    Raises:
        OptionError: one is no tensor.
    """
    found = () if given is None else tuple(given)
    for x in found:
        if not isinstance(x, torch.Tensor):
            raise OptionError(
                f"example inputs of a Grower are the tensors that forward takes, in order, but there is a '{type(x).__name__}'"
            )
    return tuple(x.detach().cpu() for x in found)


def sampled(model: nn.Module, problem: Problem) -> tuple[torch.Tensor, ...]:
    """Some samples of the data as the positional arguments of a model's forward.

    Args:
        model: the network.
        problem: its data.

    Raises:
        DataError: forward does not take what the data has.
    """
    x, _ = first_samples(problem.train, _EXAMPLES)
    if not isinstance(x, dict):
        return each(x)
    try:
        call = inspect.signature(model.forward).bind(**x)
    except TypeError as error:
        raise DataError(
            f"the data has inputs that forward of '{type(model).__name__}' does not take: {error}; name them as it does"
        ) from error
    if call.kwargs:
        raise DataError(
            f"the data has the inputs {', '.join(x)}, of which {', '.join(call.kwargs)} do not stand among the first arguments of "
            f"forward of '{type(model).__name__}': wrap the model in a module whose forward takes these alone"
        )
    return call.args


def problem_of(data: Any, loss: LossLike | None, output: str | int | None, device: torch.device) -> Problem:
    """Data as a problem on a device; a problem that is given is that.

    Args:
        data: what `Problem` takes, or a `Problem`.
        loss, output: see `Problem`; for data that is none.
        device: what to compute on.

    Raises:
        OptionError: a problem is given, and a loss or output beside it.
    """
    if isinstance(data, Problem):
        if loss is not None or output is not None:
            raise OptionError("a Problem names its loss and output itself; give them there, or give its data instead")
        return data if data.device == device else replace(data, device=device)
    named = {"loss": loss} if loss is not None else {}
    return problem_for(data, output=output, device=device, **named)
