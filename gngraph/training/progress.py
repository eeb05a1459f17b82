"""Where training is, between two steps: all that a stretch takes to go on as if nobody had interrupted it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from gngraph.ir import Graph
from gngraph.ranks import here
from gngraph.training.optimizer_state import OptimizerState


@dataclass(frozen=True)
class EpochRecord:
    """One pass over the training set.

    Attributes:
        epoch: number of the epoch in the run, from 1.
        loss: mean of the training loss over the samples, each measured before its own step, augmentation included.
        accuracy: share of right answers among them, as `correct` counts them; None where it does not.
        lr: learning rate of the last step.
        seconds: wall-clock time.
        judged: loss on the judge split of what training would give after the epoch, where it may end early by that; None where it
            may not, or the loss is not finite.
    """

    epoch: int
    loss: float
    accuracy: float | None
    lr: float
    seconds: float
    judged: float | None = None


@dataclass(frozen=True, eq=False)
class PartEpoch:
    """An epoch of which some steps are done.

    Attributes:
        steps, samples: done.
        total: sum of the losses that were checked.
        sums: of the batches: "losses" of those since the last check, "right" answers and how many were "answered".
        rate: learning rate of the last step.
        seconds: of wall time so far.
        random: states of the generators: "order", which also augments, "torch", and "cuda" where it computes.
    """

    steps: int
    samples: int
    total: float
    sums: Mapping[str, torch.Tensor]
    rate: float
    seconds: float
    random: Mapping[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class Progress:
    """A stretch of training of which a part is done.

    Attributes:
        graph: the network as it is now, of a regression in standard units (`gngraph.training.units`); its statistics are as
            training leaves them.
        state: what the optimiser remembers.
        epochs: those that ended.
        part: the epoch that began; None at the end of one.
        average: of the parameters, by name, where it is taken.
        best: parameters and statistics, by name, of the network of the lowest loss, where training may end early.
        scaling: of the loss, in fp16.
    """

    graph: Graph
    state: OptimizerState
    epochs: tuple[EpochRecord, ...]
    part: PartEpoch | None
    average: Mapping[str, torch.Tensor] = field(default_factory=dict)
    best: Mapping[str, torch.Tensor] = field(default_factory=dict)
    scaling: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Watch:
    """Who looks on while a network is trained, and keeps where that is.

    Attributes:
        due: whether it is to be kept now; asked after every step, and with True at the end of an epoch.
        keep: takes it; what it holds changes with the next step.
    """

    due: Callable[[bool], bool]
    keep: Callable[[Progress], None]


UNWATCHED = Watch(lambda epoch_ended: False, lambda progress: None)


def random_states(order: torch.Generator, device: torch.device) -> dict[str, torch.Tensor]:
    """The states of the generators that an epoch draws from; those of torch are each process's own, a row of them."""
    own = {"torch": torch.get_rng_state()}
    if device.type == "cuda":
        own["cuda"] = torch.cuda.get_rng_state(device)
    return {"order": order.get_state(), **{name: here().rows(state.unsqueeze(0)) for name, state in own.items()}}


def put_back(random: Mapping[str, torch.Tensor], order: torch.Generator, device: torch.device) -> None:
    """Have the generators of an epoch go on from where they were.

    Args:
        random: as `random_states` gave it.
        order: the generator that orders and augments.
        device: of the training.
    """
    rank = here().rank  # a state of its own is read where it begins
    order.set_state(random["order"])
    torch.set_rng_state(random["torch"][rank].clone())
    if device.type == "cuda":
        torch.cuda.set_rng_state(random["cuda"][rank].clone(), device)
