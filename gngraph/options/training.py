"""How networks are trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from gngraph.errors import OptionError
from gngraph.options.definition import Options, option
from gngraph.options.values import OwnFunction, Positive, Within

OptimizerName = Literal["sgd", "adamw"]

TrainPrecision = Literal["auto", "float32", "bf16", "fp16"]

RATES: Mapping[str, float] = {"sgd": 0.1, "adamw": 2e-3}
"""Learning rate of each optimiser where none is given; they suit small networks with BatchNorm."""

STEP_SAMPLES = 128
"""Samples a step where nothing else is asked for."""


@dataclass(frozen=True)
class TrainOptions(Options):
    """How every stretch of a run is trained.

    Raises:
        OptionError: a value is out of range.

    >>> TrainOptions(optimizer="adamw").rate
    0.002
    """

    title: ClassVar[str] = "training"

    optimizer: OptimizerName | OwnFunction = option(
        "sgd",
        "SGD with Nesterov momentum, AdamW, or one of your own: pkg.module:function, called with parameters and lr=, for which "
        "--lr is needed.",
    )
    lr: Annotated[float, Within(above=0)] | None = option(
        None, "Learning rate; where none is given, 0.1 for sgd and 0.002 for adamw."
    )
    momentum: Annotated[float, Within(least=0, below=1)] = option(
        0.9, "Momentum of SGD; AdamW keeps torch's own coefficients."
    )
    weight_decay: Annotated[float, Within(least=0)] = option(5e-4, "L2 penalty of SGD, decoupled decay of AdamW.")
    batch_size: Positive | None = option(
        None, "Samples a step; by default 128, or those of a DataLoader that is given."
    )
    warmup: Annotated[float, Within(least=0)] = option(
        0.0, "Epochs over which the rate rises from 0, at the start and after a restart."
    )
    clip: Annotated[float, Within(above=0)] | None = option(
        None, "Largest norm of the gradients of a step; they are scaled down to it."
    )
    accumulate: Positive = option(
        1,
        "Pieces of a batch that are computed one after the other, each in a part of the memory; their gradients add up.",
    )
    precision: TrainPrecision = option(
        "auto",
        "What layers are trained in: float32; bf16 or fp16 by autocast, where weights, gradients and the loss stay in float32 "
        "(fp16 scales the loss); auto is bf16 on a GPU that computes in it, else float32.",
    )
    ema: Annotated[float, Within(above=0, below=1)] | None = option(
        None,
        "Decay a step, such as 0.999, of an average of the weights: what a stretch of training gives, to be rewritten, measured "
        "and saved, is the average.",
    )
    patience: Positive | None = option(
        None,
        "Epochs of the last stretch of training without a lower loss on withheld samples, which stay withheld, after which it "
        "ends; what it gives is the network of the lowest.",
    )
    train_step: OwnFunction | None = option(
        None,
        "A step of your own: pkg.module:function, called with the network and a batch (x, y), which returns the mean loss over "
        "its samples. What candidates do is predicted, and networks are judged, by --loss all the same.",
    )
    scheduler: OwnFunction | None = option(
        None,
        "A schedule of your own: pkg.module:function, called with the optimizer and the number of steps of each stretch of "
        "training, which makes a scheduler of torch that is stepped after every step.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scheduler is not None and self.warmup:
            raise OptionError("a scheduler of your own decides the rate from the first step on: leave out the warm-up")
        if self.optimizer not in RATES and self.lr is None:
            raise OptionError(
                f"the optimizer '{self.optimizer}' has no rate of its own here: give the learning rate (lr)"
            )

    @property
    def rate(self) -> float:
        """The learning rate in force: `lr`, or the default of the optimiser."""
        return RATES[self.optimizer] if self.lr is None else self.lr
