"""Data sets, the form in which they keep samples, and the record that joins train and test."""

from __future__ import annotations

import operator
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.data import Dataset

from gngraph.data.augment import Augment
from gngraph.data.inputs import SampleInputs, count_of, each
from gngraph.data.preprocess import Preparation
from gngraph.errors import DataError

Targets = Any
"""A tensor, or tuples, lists and dictionaries of tensors."""

Sample = tuple[SampleInputs, Targets]


def moved(targets: Targets, device: torch.device) -> Targets:
    """Targets on a device, in plain dictionaries and tuples.

    Raises:
        DataError: they hold something else than tensors.
    """
    if isinstance(targets, Tensor):
        return targets.to(device, non_blocking=True)
    if isinstance(targets, Mapping):
        return {key: moved(item, device) for key, item in targets.items()}
    if isinstance(targets, (tuple, list)):
        return tuple(moved(item, device) for item in targets)
    raise DataError(f"targets hold a '{type(targets).__name__}': give tensors and numbers alone")


class SampleBatch(Sequence[Sample]):
    """Many samples as tensors, which also reads as a sequence of (x, y) pairs.

    torch's fetcher hands the result of `__getitems__` to a collate function. `gngraph.data.batches` takes `x` and `y`
    as they are; torch's default collate iterates, so a plain DataLoader works as well.

    Attributes:
        x: float32 [B, C, H, W] or [B, F]; or several inputs.
        y: int64 [B] or float32 [B, K]; or a tree of tensors, each with the samples along its first axis.
    """

    def __init__(self, x: SampleInputs, y: Targets) -> None:
        self.x = x
        self.y = y

    def __len__(self) -> int:
        return count_of(self.x)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> SampleBatch: ...
    def __getitem__(self, index: int | slice) -> Sample | SampleBatch:
        x, y = tree_map_only(Tensor, operator.itemgetter(index), (self.x, self.y))
        return SampleBatch(x, y) if isinstance(index, slice) else (x, y)


class SampleDataset(Dataset[Sample]):
    """A map-style data set of (x, y) that keeps samples in another form than networks read, and knows all labels.

    Attributes:
        preprocess: from the stored form to network inputs, applied to each batch on the way out.
        workers: processes worth starting to read it; 0 where reading costs next to nothing.
    """

    preprocess: Preparation
    workers: int = 0

    @property
    @abstractmethod
    def labels(self) -> Tensor:
        """All labels: int64 [N] class indices, uint8 [N, H, W] those of pixels, or float32 [N, K] targets of a regression."""

    @abstractmethod
    def stored(self, indices: Sequence[int]) -> Tensor:
        """Samples as they are kept, uint8 or float32 [B, ...], in the order of `indices`."""

    def __getitems__(self, indices: Sequence[int]) -> SampleBatch:
        """Many samples at once, in the order of `indices`."""
        labels = self.labels[torch.as_tensor(indices, dtype=torch.int64)]
        return SampleBatch(self.preprocess(self.stored(indices)), labels)

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of a data set of {len(self)}")  # iteration over a data set ends by it
        return self.__getitems__([index])[0]

    def __len__(self) -> int:
        return len(self.labels)


class ArrayDataset(SampleDataset):
    """Samples held in memory as they were stored; a batch is gathered, converted and normalised in one go.

    Attributes:
        raw: uint8 or float32 [N, C', H', W'] or [N, F].
        preprocess: applied to each batch on the way out.

    Args:
        labels: [N, ...], one row a sample: int64 for classes.
    """

    def __init__(self, raw: Tensor, labels: Tensor, preprocess: Preparation) -> None:
        self.raw = raw
        self.preprocess = preprocess
        self._labels = labels

    @property
    def labels(self) -> Tensor:
        """As they were given."""
        return self._labels

    def stored(self, indices: Sequence[int]) -> Tensor:
        """Rows of the array."""
        return self.raw[torch.as_tensor(indices, dtype=torch.int64)]


class LoadedDataset(Dataset[Sample]):
    """A data set of a user's own, read by as many processes as its loader would have.

    Attributes:
        samples: the data set.
        workers: processes that read it.
    """

    def __init__(self, samples: Any, workers: int) -> None:
        self.samples, self.workers = samples, workers

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        sample: Sample = self.samples[index]
        return sample


class HeldDataset(Dataset[Sample]):
    """Samples as tensors on one device.

    Attributes:
        x: [N, ...], as networks read them or, with `prepare`, as they were stored; or several inputs.
        y: targets [N, ...] beside them, or tuples and dictionaries of such.
        prepare: from stored samples to network inputs, applied to each batch on the way out.
    """

    def __init__(self, x: SampleInputs, y: Targets, prepare: Preparation | None = None) -> None:
        self.x, self.y, self.prepare = x, moved(y, each(x)[0].device), prepare

    def __len__(self) -> int:
        return count_of(self.x)

    @property
    def device(self) -> torch.device:
        """Where the tensors lie."""
        return each(self.x)[0].device

    def __getitem__(self, index: int) -> Sample:
        if not -len(self) <= index < len(self):
            raise IndexError(f"sample {index} of a data set of {len(self)}")  # iteration over a data set ends by it
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> SampleBatch:
        """Many samples at once, in the order of `indices`, in memory of their own."""
        rows = torch.as_tensor(indices, dtype=torch.int64)

        def gathered(tensor: Tensor) -> Tensor:
            return tensor[rows.to(tensor.device)].contiguous()

        x, y = tree_map_only(Tensor, gathered, (self.x, self.y))
        return SampleBatch(x if self.prepare is None else self.prepare(x), y)

    @property
    def nbytes(self) -> int:
        """Memory that the tensors take."""
        return sum(tensor.nbytes for tensor in tree_leaves((self.x, self.y)))

    def to(self, device: torch.device) -> HeldDataset:
        """The same samples on a device; nothing is copied that lies there."""
        return HeldDataset(moved(self.x, device), self.y, self.prepare)


@dataclass(frozen=True, eq=False)
class Data:
    """A data set ready for training: samples, class names, and how raw samples were prepared.

    Attributes:
        name: what the user asked for.
        train: training samples; the learn split is drawn from it, and without validation samples the judge and the report split,
            which are withheld from training (`make_splits`).
        test: held-out samples, for reporting only.
        classes: name of each class; empty for a regression.
        preprocess: what stands between a stored sample and a network input.
        augment: random change applied to training batches; None where none is known to be harmless.
        notes: what a user should know of how it was read, a sentence each.
        validation: samples that are for decisions alone, where the data has such beside test samples: nothing is trained on them.
        loss: what its targets are made for; None: "cross-entropy" for classes, else "mse".
    """

    name: str
    train: SampleDataset
    test: SampleDataset
    classes: tuple[str, ...]
    preprocess: Preparation
    augment: Augment | None = None
    notes: tuple[str, ...] = ()
    validation: SampleDataset | None = None
    loss: str | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one network input: (C, H, W), (F,), or (L,) for tokens."""
        return self.preprocess.shape

    def inputs_record(self) -> dict[str, Any]:
        """How samples become inputs, and what the outputs mean, as JSON: kept beside a network that was trained on them."""
        return {"preprocess": self.preprocess.record(), "classes": list(self.classes)}

    @property
    def outputs(self) -> int:
        """Number of outputs that a network for this data has: classes, or targets of a regression."""
        return len(self.classes) or int(self.train.labels.shape[1])
