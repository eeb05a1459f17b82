"""`Problem`: what a network is for, the data and the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, Protocol, cast, runtime_checkable

import torch
from torch.utils.data import Dataset, Subset

from gngraph.curvature import Heads, Loss, LossLike, MeanSquaredError, as_loss, leaves
from gngraph.data import Augment, Data, HeldDataset, MapDataset, Sample, Splits, make_splits
from gngraph.data.augmentations import parsed
from gngraph.data.checks import check_finite
from gngraph.data.given import given, tensors_of
from gngraph.data.inputs import count_of
from gngraph.data.splits import MOST_JUDGED, SMALLEST_SPLIT, by_size
from gngraph.errors import DataError
from gngraph.ranks import local_device
from gngraph.running.augmenting import augmentation_for
from gngraph.running.runner import Runner

WITHHELD: Literal["withheld"] = "withheld"
"""What `Problem.unseen` is where a network was not trained on the samples that are withheld."""


@runtime_checkable
class Trainable(Protocol):
    """What a problem needs of a data set, `gngraph.data.Data` for one.

    It may have more: `test`, held-out samples (x, y); `validation`, samples that are for decisions alone, see `Problem.unseen`; and
    `augment`, a random change of the batches that networks are trained on.
    """

    @property
    def train(self) -> MapDataset:
        """Training samples (x, y)."""
        ...


@dataclass(frozen=True)
class _Pair:
    """Training samples alone."""

    train: MapDataset


@dataclass(frozen=True, eq=False)
class Problem:
    """What a network is for: data, a loss, and where and with which seed to compute.

    Attributes:
        data: a `gngraph.data.Data`; what `gngraph.data.given` knows, a torch data set, a `DataLoader`, a pair (train, test) of
            these, a dictionary with "train" and "test", or rows of Hugging Face's `datasets`; anything with a `train` data set of
            (x, y), and `test` where it has one; or a pair of tensors or arrays (x, y) for all samples. x is a tensor, or, of a
            network with several inputs, a tuple of tensors in their order or a dictionary by their names; y a tensor, or a tuple
            or dictionary of them. Samples may also be (x, x, y), or dictionaries of inputs and a target by the name "label",
            "labels", "target", "targets" or "y". They are read once where they fit into memory, and must not change.
        loss: the name of one: "cross-entropy", "segmentation", "mse", "bce-with-logits"; a `Loss` of `gngraph.curvature`, such as
            `Heads` for a sum over several outputs; or a function that maps (what the network returns, y) to the loss of each
            sample [N], which a `CustomLoss` can give a sampler.
        output: where the network returns several tensors, the name or position of the one that the loss reads.
        device: a torch device; "auto" is the GPU where there is one, else the CPU.
        seed: of the splits and of everything random in an analysis.
        learn, judge, report: samples of the three splits (`gngraph.data.make_splits`); a small training set is shared in this
            proportion. Networks are not trained on the judge and the report split. None: these by the size of the training set
            (`gngraph.data.by_size`), and the learn split at most 2,048 of the rest.
        batch_size: samples a batch in analyses.
        unseen: samples that the network was never trained on, a data set or a pair as above, of which the judge and the report
            split are drawn; networks are then trained on the whole training set. None: the data's own `validation`, and where it
            has none, the two splits are withheld from the training set. A network that comes trained may know these, and what is
            said of it says so; unless this is "withheld", by which it was trained without them.
        augment: random changes of the batches that networks are trained on: a text of names, such as "flip,mixup{alpha=0.2}" (see
            `gngraph.data.augmentations`); a transform of `torchvision.transforms.v2`, which is applied to each picture, in bytes
            where these are stored, or to the batch and its targets, as MixUp; a function of x, or x and y, a batch as networks
            read it; or a list of such. "auto" is the data's own, None none.

    Raises:
        DataError: the data has no training set, or the tensors of a pair differ in length or hold what is not finite.
        OptionError: there is no such augmentation.
        GnGraphError: there is no such loss.

    >>> problem = Problem((torch.zeros(60, 4), torch.arange(60) % 3), device="cpu")
    >>> [len(split) for split in problem.splits], len(problem.train), problem.loss_fn
    ([40, 10, 10], 40, CrossEntropy(ignore_index=None))
    """

    data: Any
    loss: LossLike = "cross-entropy"
    output: str | int | None = None
    device: str | torch.device = "auto"
    seed: int = 0
    learn: int | None = None
    judge: int | None = None
    report: int | None = None
    batch_size: int = 128
    unseen: Any = None
    augment: Any = "auto"

    def __post_init__(self) -> None:
        parsed(self.augment)
        object.__setattr__(self, "data", _normalised(self.data))
        object.__setattr__(self, "unseen", _named_unseen(self.unseen, self.data))
        if isinstance(as_loss(self.loss), MeanSquaredError) and isinstance(self.data, _Pair):
            check_finite("y", cast(HeldDataset, self.data.train).y)
        for name in ("learn", "judge", "report", "batch_size"):
            given = getattr(self, name)
            if type(given) is not int and (given is not None or name == "batch_size"):
                raise DataError(f"'{name}' is {given!r}, but must be a number of samples")
        if type(self.seed) is not int or not -(2**63) <= self.seed < 2**63:
            raise DataError(f"the seed is {self.seed!r}, but must be a whole number of at most 63 bits")
        object.__setattr__(self, "device", _device(self.device))

    @property
    def samples(self) -> MapDataset:
        """All training samples of the data."""
        return cast(Trainable, self.data).train

    @property
    def withholds(self) -> bool:
        """Whether the judge and the report split are withheld from the training samples of the data."""
        return self.unseen is None or self.unseen == WITHHELD

    @property
    def divisible(self) -> bool:
        """Whether there are samples enough for three splits."""
        return not self.withholds or len(self.samples) >= 3 * SMALLEST_SPLIT

    @property
    def withheld(self) -> int:
        """Training samples of the data that networks are not trained on."""
        return len(self.samples) - len(self.train)

    @property
    def undivided(self) -> Problem:
        """The problem for training that nothing is judged after: on all training samples, if others are left to test on."""
        return self.trained_on(self.samples) if self.withheld and self.tested == "test" else self

    @cached_property
    def train(self) -> MapDataset:
        """The samples that networks are trained on; of too few to be split all."""
        if not self.withholds or not self.divisible:
            return self.samples
        apart = {*self.splits.judge.indices, *self.splits.report.indices}
        return part_of(self.samples, [row for row in range(len(self.samples)) if row not in apart])

    @property
    def test(self) -> MapDataset:
        """Samples that networks are tested on: the data's own, or where it has none the report split."""
        return self.splits.report if self._own_test is None else self._own_test

    @property
    def tested(self) -> Literal["test", "held-out"]:
        """What a figure on `test` is of: the data's test samples, or others that no network is trained on."""
        return "held-out" if self._own_test is None else "test"

    @property
    def _own_test(self) -> MapDataset | None:
        """The test samples of the data, which are not its training samples."""
        own: MapDataset | None = getattr(self.data, "test", None)
        return None if own is self.samples else own

    @cached_property
    def loss_fn(self) -> Loss:
        """The loss itself, which reads what the network returns."""
        return as_loss(self.loss) if self.output is None else Heads({self.output: self.loss})

    @cached_property
    def splits(self) -> Splits:
        """The learn, judge and report splits, drawn once."""
        unseen = None if self.withholds else cast(MapDataset, self.unseen)
        size = by_size(len(self.samples)) if unseen is None else MOST_JUDGED
        judge, report = (size if asked is None else asked for asked in (self.judge, self.report))
        left = len(self.samples) - (judge + report if unseen is None else 0)
        learn = max(SMALLEST_SPLIT, min(MOST_JUDGED, left)) if self.learn is None else self.learn
        return make_splits(self.samples, learn, judge, report, self.seed, unseen)

    @cached_property
    def runner(self) -> Runner:
        """What runs networks over the data of the problem: whatever does shares it."""
        return Runner(torch.device(self.device), self.batch_size)

    @cached_property
    def augmentation(self) -> Augment | None:
        """What changes the batches that networks are trained on.

        Raises:
            DataError: what is asked for is nothing for this data or loss.
        """
        return augmentation_for(parsed(self.augment), self.data, self.samples, self.loss_fn)

    def stream(self, device: str | torch.device = "cpu") -> torch.Generator:
        """A new stream of random numbers on a device, always the same one."""
        return torch.Generator(device).manual_seed(self.seed)

    def trained_on(self, samples: MapDataset) -> Problem:
        """The problem with other samples to train on, as a part of its own; networks and samples are kept in one place for both."""
        part = replace(self)
        kept = {"splits": self.splits, "runner": self.runner, "train": samples}
        part.__dict__.update(kept)  # as `cached_property` keeps them
        return part


def _device(given: Any) -> torch.device:
    there = torch.cuda.is_available()
    try:
        device = torch.device(("cuda" if there else "cpu") if given == "auto" else given)
        if device.type == "cuda" and device.index is None:
            device = local_device() or device
    except (RuntimeError, TypeError):
        raise DataError(f"{given!r} is no device of torch; give auto, cpu, cuda or cuda:0") from None
    if device.type == "cuda" and not (there and (device.index or 0) < torch.cuda.device_count()):
        raise DataError(f"device '{device}' is not there; torch finds {torch.cuda.device_count() if there else 0} GPUs")
    return device


def part_of(samples: MapDataset, rows: Sequence[int]) -> MapDataset:
    """Some of the samples of a data set."""
    return cast(MapDataset, Subset(cast("Dataset[Sample]", samples), rows))


def _normalised(data: Any) -> Trainable:
    held = _held(data)
    if held is not None:
        return _Pair(held)
    found = given(data)
    if found is not None:
        return found
    if isinstance(data, Trainable):
        return data
    raise DataError(
        f"data of type '{type(data).__name__}' has no 'train' and 'test' data sets: pass a gngraph.data.Data, an object with "
        f"'train' and, where there are any, 'test' samples, a torch data set or a DataLoader, a pair of these, or of tensors (x, y)"
    )


def _named_unseen(unseen: Any, data: Trainable) -> MapDataset | str | None:
    found = getattr(data, "validation", None) if unseen is None else _held(unseen) or unseen
    if found is None or found == WITHHELD:
        return found
    if isinstance(found, str) or not hasattr(found, "__len__"):
        raise DataError(
            f"what the network has not seen is '{found if isinstance(found, str) else type(found).__name__}': give a data set, a "
            f"pair of tensors (x, y), or '{WITHHELD}'"
        )
    if found is data.train or found is getattr(data, "test", None):
        part = "training" if found is data.train else "test"
        raise DataError(
            f"the {part} samples are named as unseen, to judge changes by: give samples that are for nothing else"
        )
    return cast(MapDataset, found)


def _held(data: Any) -> HeldDataset | None:
    """Tensors or arrays, inputs and targets of all samples, as a data set; None for anything else.

    Raises:
        DataError: they are of other lengths, hold what is not finite, or are no tensors with a row a sample.
    """
    found = tensors_of(data)
    if found is None:
        return None
    x, y = found
    inputs = leaves(x)
    for tensor in (*inputs.values(), *leaves(y).values()):
        if tensor.dim() == 0 or tensor.layout is not torch.strided or tensor.is_meta:
            raise DataError(
                f"the data has a tensor of shape {tuple(tensor.shape)}, {tensor.layout} on {tensor.device}: samples and "
                f"targets are dense tensors with values, a row a sample"
            )
    count = count_of(x)
    for tensor in inputs.values():
        if len(tensor) != count:
            raise DataError(
                f"the data has inputs of '{count}' samples and of '{len(tensor)}': give each a row a sample"
            )
    for tensor in leaves(y).values():
        if count != len(tensor):
            raise DataError(f"the data has '{count}' samples but '{len(tensor)}' targets: give one target a sample")
    for path, tensor in inputs.items():
        check_finite(".".join(map(str, ("x", *path))), tensor)
    return HeldDataset(x, y)


TRAINED = "trained"
"""Entry of an archive's record of inputs: the data that a network was trained on, and how many of its samples were withheld."""


def inputs_of(problem: Problem, apart: bool = False) -> dict[str, Any] | None:
    """How the problem's samples become inputs, as JSON; None where its data does not say.

    Args:
        problem: with the data.
        apart: whether the network that this is kept with was trained without the samples that are withheld, if it was; it is said
            to be where `Problem.unseen` is "withheld".
    """
    if not isinstance(problem.data, Data):
        return None
    known = (apart and problem.unseen is None) or problem.unseen == WITHHELD
    return problem.data.inputs_record() | ({TRAINED: _without(problem)} if known else {})


def knows_withheld(problem: Problem, inputs: Any) -> bool:
    """Whether a network may have been trained on samples that a problem withholds, as far as its archive tells.

    Args:
        problem: without samples that are named as unseen.
        inputs: what the archive keeps of the inputs of its network, if anything.
    """
    trained, own = inputs.get(TRAINED) if isinstance(inputs, dict) else None, _without(problem)
    if not isinstance(trained, dict) or any(trained.get(key) != own[key] for key in ("data", "samples")):
        return True
    withheld = trained.get("withheld")  # of two draws that are not as large one holds the other
    return not isinstance(withheld, int) or withheld < own["withheld"]


def _without(problem: Problem) -> dict[str, Any]:
    return {"data": problem.data.name, "samples": len(problem.samples), "withheld": problem.withheld}
