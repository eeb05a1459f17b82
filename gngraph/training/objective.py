"""What a step of training minimises: the loss of the problem, or what a step of the user's own computes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from gngraph.calling import CallError, resolved
from gngraph.curvature import Loss
from gngraph.data.inputs import SampleInputs, count_of, each
from gngraph.errors import OptionError, TrainingError
from gngraph.ir import Graph
from gngraph.ir.inputs import over_samples
from gngraph.lowering.to_torch import reading_inputs
from gngraph.options import TrainOptions
from gngraph.running.evaluation import correct
from gngraph.running.memory import out_of_memory
from gngraph.running.problem import Problem
from gngraph.running.seeding import seeded

LayerPrecision = Literal["float32", "bf16", "fp16"]
"""A precision that is no longer to be chosen."""

_TYPES = {"float32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class Objective(Protocol):
    """Computes what is minimised of some samples.

    Attributes:
        repeats: whether a forward and backward pass does the same at every call, so that a GPU may replay it.
    """

    repeats: ClassVar[bool]

    def __call__(self, module: nn.Module, x: SampleInputs, y: Any) -> tuple[Tensor, Tensor | None]:
        """The loss of each sample [N], whose mean has the gradients of a step, and right answers as `correct` gives them.

        Args:
            module: in training mode.
            x, y: samples and targets.
        """
        ...


@dataclass(frozen=True)
class OfLoss:
    """The mean of a loss over samples.

    Attributes:
        loss: of each sample, which is taken in float32 at least.
        precision: what layers compute in.
    """

    repeats: ClassVar[bool] = True

    loss: Loss
    precision: LayerPrecision = "float32"

    def __call__(self, module: nn.Module, x: SampleInputs, y: Any) -> tuple[Tensor, Tensor | None]:
        """See `Objective`."""
        with _computing_in(self.precision, each(x)[0].device):
            outputs = module(*each(x))
        if self.precision != "float32":
            outputs = tree_map_only(Tensor, lambda t: t.float() if t.dtype == _TYPES[self.precision] else t, outputs)
        return self.loss.per_sample(outputs, y), correct(self.loss, outputs, y)


@dataclass(frozen=True)
class OfOwnStep:
    """What a function of the user's own returns for the network and a batch (x, y).

    Attributes:
        name: of the function.
        step: it.
        precision: what layers compute in.
    """

    repeats: ClassVar[bool] = False  # it may draw, count or log

    name: str
    step: Callable[..., Any]
    precision: LayerPrecision = "float32"

    def __call__(self, module: nn.Module, x: SampleInputs, y: Any) -> tuple[Tensor, Tensor | None]:
        """See `Objective`; the mean stands for each sample.

        Raises:
            TrainingError: the function fails, or returns no loss.
        """
        try:
            with _computing_in(self.precision, each(x)[0].device):
                loss = self.step(module, (x, y))
        except Exception as error:
            if out_of_memory(error):
                raise
            reason = (str(error).splitlines() or [""])[0].rstrip(".")
            raise TrainingError(
                f"the train step '{self.name}' failed on a batch of {count_of(x)}: {type(error).__name__}: {reason}"
            ) from error
        if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.requires_grad:
            shape = (
                f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a '{type(loss).__name__}'"
            )
            without = " without a gradient" if isinstance(loss, Tensor) and not loss.requires_grad else ""
            raise TrainingError(
                f"the train step '{self.name}' returned {shape}{without}, but must return the mean loss of the batch, one number "
                f"of torch that depends on the network; gradients and the step of the optimizer are taken from there"
            )
        return loss.reshape(1).float().expand(count_of(x)), None


def objective_of(options: TrainOptions, problem: Problem) -> Objective:
    """What training minimises.

    Args:
        options: of the training.
        problem: names the loss.

    Raises:
        OptionError: the function of the user's own is not there, or cannot be called with a network and a batch.
    """
    if options.train_step is None:
        return OfLoss(problem.loss_fn, precision_of(options, problem))
    try:
        step = resolved(options.train_step)
    except CallError as error:
        raise OptionError(f"the train step '{options.train_step}' could not be found: {error}") from error
    try:
        inspect.signature(step).bind(None, None)
    except (TypeError, ValueError) as error:
        raise OptionError(
            f"the train step '{options.train_step}' is called as train_step(model, batch), which it does not take: {error}"
        ) from error
    return OfOwnStep(options.train_step, step, precision_of(options, problem))


def precision_of(options: TrainOptions, problem: Problem) -> LayerPrecision:
    """What layers are trained in. A step of the user's own is left to decide, unless it is asked for.

    Args:
        options: of the training.
        problem: names the device.
    """
    if options.precision != "auto":
        return options.precision
    able = torch.device(problem.device).type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return "bf16" if able and options.train_step is None else "float32"


def scaler_of(options: TrainOptions, problem: Problem, kept: Mapping[str, Tensor]) -> torch.amp.GradScaler:
    """What scales the loss, so that gradients in fp16 do not vanish; it does nothing in other precisions.

    Args:
        options: of the training.
        problem: names the device.
        kept: what `scaling` gave, to go on from there; empty at the beginning.
    """
    device = torch.device(problem.device)
    scaler = torch.amp.GradScaler(device.type, enabled=precision_of(options, problem) == "fp16")
    if kept:
        scaler.load_state_dict({name: value.item() for name, value in kept.items()})
    scaler.scale(torch.zeros((), device=device))  # its scale is there before a GPU captures a pass
    return scaler


def scaling(scaler: torch.amp.GradScaler) -> dict[str, Tensor]:
    """Where the scale of the loss is, as a checkpoint keeps it."""
    kinds = {float: torch.float64, int: torch.int64}
    return {name: torch.tensor(value, dtype=kinds[type(value)]) for name, value in scaler.state_dict().items()}


def _computing_in(precision: LayerPrecision, device: torch.device) -> AbstractContextManager[Any]:
    """What layers run within to compute so."""
    if precision == "float32":
        return nullcontext()
    # weights that were cast before a GPU captures a pass would be missing from what it replays
    return torch.autocast(device.type, _TYPES[precision], cache_enabled=device.type != "cuda")


def require_objective(options: TrainOptions, graph: Graph, problem: Problem) -> None:
    """Refuse a step of the user's own that does not work, before anything is trained: it is tried on a copy of the network.

    Args:
        options: of the training.
        graph: the network.
        problem: has the samples.

    Raises:
        OptionError: it cannot be called so.
        TrainingError: it fails, or returns no loss.
    """
    objective = objective_of(options, problem)
    if isinstance(objective, OfOwnStep):
        device = torch.device(problem.device)
        samples = problem.splits.learn if problem.divisible else problem.train
        order = torch.Generator().manual_seed(problem.seed)
        x, y = next(problem.runner.read_to_train(samples, graph, order, augment=None))  # it may differentiate weights
        with seeded(problem.seed, device):
            objective(reading_inputs(over_samples(graph)).to(device).train(), x, y)


def objective_told(options: TrainOptions, problem: Problem) -> str | None:
    """What to say of a precision below float32, or of a step of the user's own, by which nothing is predicted; else None.

    Args:
        options: of the training.
        problem: names the loss.
    """
    if options.train_step is None:
        found = precision_of(options, problem)
        return None if found == "float32" else f"layers are trained in {found} by autocast (see --precision)"
    return (
        f"training minimises what '{options.train_step}' returns; what candidates do is predicted, and networks are judged and "
        f"tested, by the loss '{problem.loss_fn.name}' of what the network returns, as a mean over independent samples"
    )
