"""From any data set to tensors on a device, so that samples are read and moved once, however often networks run over them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.data import Subset, TensorDataset

from gngraph.data.batches import MapDataset, batches
from gngraph.data.dataset import ArrayDataset, HeldDataset, Sample, SampleBatch, SampleDataset
from gngraph.data.inputs import parted
from gngraph.data.preprocess import Preprocess
from gngraph.data.several import SeveralDataset
from gngraph.errors import DataError

_READ = 256  # samples at a time while a data set is read whole


def unwound(dataset: MapDataset) -> tuple[MapDataset, Sequence[int] | None]:
    """The data set that a subset of a subset of ... is taken from, and which of its samples; None: it is no subset.

    >>> a = Subset(Subset([10, 11, 12, 13], [3, 1, 0]), [2, 1])
    >>> unwound(a)
    ([10, 11, 12, 13], [0, 1])
    """
    rows: Sequence[int] | None = None
    while type(dataset) is Subset:
        own = dataset.indices
        rows = own if rows is None else [own[row] for row in rows]
        dataset = cast(MapDataset, dataset.dataset)
    return dataset, rows


def as_tensors(dataset: MapDataset, device: torch.device) -> HeldDataset | None:
    """A data set that lies in memory as it can be held on a device, where it lies; None: it does not, or must be read to be held.

    What a function of the user's own prepares may not run on another device than the CPU.
    """
    if isinstance(dataset, HeldDataset):
        return dataset
    if type(dataset) is TensorDataset and len(dataset.tensors) > 1:
        return HeldDataset(*parted(dataset.tensors))
    if isinstance(dataset, SeveralDataset):
        return HeldDataset(dataset.inputs, dataset.labels)
    if isinstance(dataset, ArrayDataset) and (device.type == "cpu" or repeats(dataset)):
        return HeldDataset(dataset.raw, dataset.labels, dataset.preprocess)
    return None


def repeats(dataset: MapDataset) -> bool:
    """Whether a data set is known to give the same samples whenever it is read.

    One of the user's own may draw them anew, as one does that augments.
    """
    known = isinstance(dataset, HeldDataset | SeveralDataset) or type(dataset) is TensorDataset
    return known or (isinstance(dataset, SampleDataset) and isinstance(dataset.preprocess, Preprocess))


def read_whole(dataset: MapDataset, device: torch.device, most: int) -> HeldDataset | None:
    """All samples of a data set, read once; None where they would take more than `most` bytes, or are not all of one shape.

    They are held as they are stored where that is known, which for bytes takes a quarter of the memory.

    Args:
        dataset: of any sort, or a part of one.
        device: where the tensors lie.
        most: bytes, of samples and targets together.
    """
    root, rows = unwound(dataset)
    prepare = None
    if isinstance(root, SampleDataset) and repeats(root):
        prepare, root = root.preprocess, _Unprepared(root)
        dataset = root if rows is None else Subset(root, rows)
    try:
        tensors = _joined(dataset, device, most)
    except DataError:  # what cannot be read will be told of where it is used
        return None
    return None if tensors is None else HeldDataset(*tensors, prepare)


def _joined(dataset: MapDataset, device: torch.device, most: int) -> Sample | None:
    """x and y of all samples, written in place: batches put together at the end would need twice the memory."""
    held: list[Tensor] = []
    kinds, done = set[object](), 0
    for batch in batches(dataset, _READ):
        parts, tree = tree_flatten(batch)
        if not held:
            if sum(part.nbytes for part in parts) * len(dataset) > most * len(parts[0]):
                return None
            held = [part.new_empty((len(dataset), *part.shape[1:]), device=device) for part in parts]
        kinds.add((tree, *((part.shape[1:], part.dtype) for part in parts)))
        if len(kinds) > 1:
            return None
        for part, whole in zip(parts, held, strict=True):
            whole[done : done + len(part)] = part
        done += len(parts[0])
    x, y = tree_unflatten(held, tree)
    return x, y


class _Unprepared(SampleDataset):
    """A data set whose samples are handed out as they are stored."""

    def __init__(self, dataset: SampleDataset) -> None:
        self.dataset = dataset
        self.workers = dataset.workers

    @property
    def labels(self) -> Tensor:
        return self.dataset.labels

    def stored(self, indices: Sequence[int]) -> Tensor:
        return self.dataset.stored(indices)

    def __getitems__(self, indices: Sequence[int]) -> SampleBatch:
        return SampleBatch(self.stored(indices), self.labels[torch.as_tensor(indices, dtype=torch.int64)])
