"""`Problem`: what a network is for, the data and the loss."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol, cast, runtime_checkable

import torch

from gngraph.curvature import Heads, Loss, LossLike, as_loss, leaves
from gngraph.data import Augment, Data, HeldDataset, MapDataset, Splits, make_splits
from gngraph.errors import DataError
from gngraph.running.runner import Runner


@runtime_checkable
class TrainAndTest(Protocol):
    """What a problem needs of a data set, `gngraph.data.Data` for one."""

    @property
    def train(self) -> MapDataset:
        """Training samples (x, y)."""
        ...

    @property
    def test(self) -> MapDataset:
        """Held-out samples (x, y)."""
        ...


@dataclass(frozen=True)
class _Sets:
    """Data sets that belong together."""

    train: MapDataset
    test: MapDataset
    augment: Augment | None = None


@dataclass(frozen=True, eq=False)
class Problem:
    """What a network is for: data, a loss, and where and with which seed to compute.

    Attributes:
        data: a `gngraph.data.Data`, anything with `train` and `test` data sets of (x, y), or such a pair for all samples,
            which then serve for both. x is a tensor; y a tensor, or a tuple or dictionary of them. They are read once where
            they fit into memory, and must not change.
        loss: the name of one: "cross-entropy", "mse", "bce-with-logits"; a `Loss` of `gngraph.curvature`, such as `Heads`
            for a sum over several outputs; or a function that maps (what the network returns, y) to the loss of each
            sample [N], which a `CustomLoss` can give a sampler.
        output: where the network returns several tensors, the name or position of the one that the loss reads.
        device: a torch device; "auto" is the GPU where there is one, else the CPU.
        seed: of the splits and of everything random in an analysis.
        learn, judge, report: samples of the three splits of the training set (`gngraph.data.make_splits`); a small
            training set is shared in this proportion.
        batch_size: samples a batch in analyses.

    Raises:
        DataError: the data has no training set, or the tensors of a pair differ in length.
        GnGraphError: there is no such loss.

    >>> problem = Problem((torch.zeros(60, 4), torch.arange(60) % 3), device="cpu")
    >>> [len(split) for split in problem.splits], problem.loss_fn
    ([20, 20, 20], CrossEntropy(ignore_index=None))
    """

    data: Any
    loss: LossLike = "cross-entropy"
    output: str | int | None = None
    device: str | torch.device = "auto"
    seed: int = 0
    learn: int = 2048
    judge: int = 2048
    report: int = 2048
    batch_size: int = 128

    def __post_init__(self) -> None:
        object.__setattr__(self, "data", _normalised(self.data))
        as_loss(self.loss)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        object.__setattr__(self, "device", torch.device(device if self.device == "auto" else self.device))

    @property
    def train(self) -> MapDataset:
        """Training samples."""
        return cast(TrainAndTest, self.data).train

    @property
    def test(self) -> MapDataset:
        """Held-out samples."""
        return cast(TrainAndTest, self.data).test

    @cached_property
    def loss_fn(self) -> Loss:
        """The loss itself, which reads what the network returns."""
        return as_loss(self.loss) if self.output is None else Heads({self.output: self.loss})

    @cached_property
    def splits(self) -> Splits:
        """The learn, judge and report splits of the training set, drawn once."""
        return make_splits(self.train, self.learn, self.judge, self.report, self.seed)

    @cached_property
    def runner(self) -> Runner:
        """What runs networks over the data of the problem: whatever does shares it."""
        return Runner(torch.device(self.device), self.batch_size)

    @property
    def augment(self) -> Augment | None:
        """Random change of the batches that networks are trained on."""
        return getattr(self.data, "augment", None)

    def stream(self, device: str | torch.device = "cpu") -> torch.Generator:
        """A new stream of random numbers on a device, always the same one."""
        return torch.Generator(device).manual_seed(self.seed)

    def trained_on(self, samples: MapDataset) -> Problem:
        """The problem with other training samples, as a part of its own; networks and samples are kept in one place for both."""
        part = replace(self, data=_Sets(samples, self.test, self.augment))
        part.__dict__["runner"] = self.runner  # as `cached_property` keeps it
        return part


def _normalised(data: Any) -> TrainAndTest:
    if isinstance(data, (tuple, list)) and len(data) == 2 and isinstance(data[0], torch.Tensor) and leaves(data[1]):
        x, y = data
        for tensor in leaves(y).values():
            if len(x) != len(tensor):
                raise DataError(
                    f"the data has '{len(x)}' samples but '{len(tensor)}' targets: give one target a sample"
                )
        both = HeldDataset(x, y)
        return _Sets(both, both)
    if isinstance(data, TrainAndTest):
        return data
    raise DataError(
        f"data of type '{type(data).__name__}' has no 'train' and 'test' data sets: "
        f"pass a gngraph.data.Data, an object with both, or a pair of tensors (x, y)"
    )


def inputs_of(problem: Problem) -> dict[str, Any] | None:
    """How the problem's samples become inputs, as JSON; None where its data does not say."""
    return problem.data.inputs_record() if isinstance(problem.data, Data) else None
