"""Data as people have it in Python: arrays, torch data sets, pairs and dictionaries of them, loaders, and tables of rows."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, SequentialSampler, default_collate

from gngraph.data.batches import MapDataset
from gngraph.data.dataset import LoadedDataset, Sample
from gngraph.data.inputs import TARGETS, parted
from gngraph.errors import DataError, GnGraphNote

USES = {"train": "train", "test": "test", "validation": "validation", "val": "validation"}
"""Names of parts in a dictionary of data sets, and what they are for."""


@dataclass(frozen=True, eq=False)
class Given:
    """Data sets of a user's own.

    Attributes:
        train: training samples (x, y).
        test: held-out samples; None: there are none.
        validation: samples for decisions alone; None: there are none.
        batch_size: samples a batch of the loader that was given; None: it was none.
    """

    train: MapDataset
    test: MapDataset | None = None
    validation: MapDataset | None = None
    batch_size: int | None = None


def given(data: Any) -> Given | None:
    """The data sets in what a user gives; None where that is nothing known here.

    A loader stands for its data set, with its transforms, workers and batch size; the order of samples is gngraph's own. Rows of a
    table, such as those of Hugging Face's `datasets`, are dictionaries: one column is the target, the others are the inputs by
    their names, or where each is one number the numbers of one input.

    Args:
        data: a data set, a list of samples, a `DataLoader`, a pair (train, test) of such, or a dictionary with "train" and "test".

    Raises:
        DataError: it has no length, a loader joins samples in a way of its own, or a table has no column of targets.

    >>> from torch.utils.data import TensorDataset
    >>> samples = TensorDataset(torch.zeros(6, 2), torch.zeros(6))
    >>> found = given((DataLoader(samples, batch_size=3), samples))
    >>> len(found.train), len(found.test), found.batch_size
    (6, 6, 3)
    """
    if isinstance(data, Mapping) and "train" in data:
        found = {use: _samples(data[name]) for name, use in USES.items() if name in data}
        return Given(**found, batch_size=_batch_size(data["train"]))
    if isinstance(data, tuple | list) and len(data) == 2 and all(map(_is_data_set, data)):
        return Given(_samples(data[0]), _samples(data[1]), batch_size=_batch_size(data[0]))
    return Given(_samples(data), batch_size=_batch_size(data)) if _is_data_set(data) else None


def tensors_of(data: Any) -> tuple[Any, Any] | None:
    """Inputs and targets of all samples as tensors, float64 arrays as float32; None where data are no tensors and arrays alone.

    Args:
        data: (x, y), (x, x, y) or a dictionary, see `gngraph.data.inputs.parted`.

    Raises:
        DataError: an array holds no numbers, or a dictionary has no target.
    """
    found = tree_leaves(data)
    if isinstance(data, Tensor | np.ndarray) or not all(isinstance(leaf, Tensor | np.ndarray) for leaf in found):
        return None
    if not found or (isinstance(data, Mapping) and "train" in data) or any(map(_are_samples, (data, *data))):
        return None
    x, y = parted(tree_map_only(np.ndarray, _tensor, data))
    return x, y


def _tensor(array: Any) -> torch.Tensor:
    if array.dtype.kind not in "biuf":
        raise DataError(f"the data has an array of dtype '{array.dtype}': samples and targets are numbers")
    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32 if array.dtype == np.float64 else array.dtype))


def _is_data_set(data: Any) -> bool:
    return isinstance(data, DataLoader | Dataset) or _is_table(data) or _are_samples(data)


def _are_samples(data: Any) -> bool:
    """Whether data are a list of samples, and not of a training and a test set, or of the tensors of all samples."""
    return isinstance(data, list) and len(data) > 2 and all(isinstance(item, tuple | list | dict) for item in data)


def _is_table(data: Any) -> bool:
    """Whether data are rows with names, as those of Hugging Face's `datasets`."""
    return hasattr(data, "column_names") and hasattr(data, "__getitem__")


def _batch_size(data: Any) -> int | None:
    return data.batch_size if isinstance(data, DataLoader) else None


def _samples(data: Any) -> MapDataset:
    if isinstance(data, DataLoader):
        return _of_loader(data)
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        raise DataError(
            f"a '{type(data).__name__}' has no length or cannot be indexed: samples are read in an order of gngraph's own, so "
            f"give a map-style data set of (x, y)"
        )
    return _Rows(data) if _is_table(data) else cast(MapDataset, data)


def _of_loader(loader: DataLoader[Any]) -> MapDataset:
    samples = _samples(loader.dataset)
    if loader.collate_fn is not default_collate and not _is_table(loader.dataset):
        name = getattr(loader.collate_fn, "__name__", type(loader.collate_fn).__name__)
        raise DataError(
            f"the loader joins samples by a function of its own, '{name}': give a data set whose samples are (x, y) of one shape"
        )
    sampler = loader.sampler
    batched = loader.batch_sampler
    if type(sampler) not in (RandomSampler, SequentialSampler) or type(batched) not in (BatchSampler, type(None)):
        own = sampler if type(batched) is BatchSampler else batched
        warnings.warn(
            GnGraphNote(
                f"the loader's '{type(own).__name__}' is not used: every sample comes once an epoch, in an order of gngraph's own"
            ),
            stacklevel=2,
        )
    return LoadedDataset(samples, loader.num_workers) if loader.num_workers else samples


class _Rows(Dataset[Sample]):
    """Rows of a table as samples."""

    def __init__(self, table: Any) -> None:
        self.table = table
        names: Sequence[str] = table.column_names
        if isinstance(names, Mapping):
            raise DataError(
                f"the data has the parts {', '.join(names)}, but none is called 'train': name the data set itself"
            )
        self.target = next((name for name in TARGETS if name in names), "")
        if not self.target:
            raise DataError(
                f"the data has the columns {', '.join(names)}, of which none is called {', '.join(TARGETS)}: rename the column of "
                f"targets to one of these"
            )
        self.inputs = [name for name in names if name != self.target]
        if not self.inputs:
            raise DataError(f"the data has no column beside '{self.target}': there is nothing to learn from")

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < len(self):
            raise IndexError(f"sample {index} of a data set of {len(self)}")
        row = self.table[index]
        parts = {name: self._number(name, row[name]) for name in self.inputs}
        y = self._number(self.target, row[self.target])
        if len(parts) == 1:
            return parts[self.inputs[0]], y
        numbers = all(part.numel() == 1 for part in parts.values())
        return torch.stack([part.float().reshape(()) for part in parts.values()]) if numbers else parts, y

    def _number(self, name: str, value: Any) -> torch.Tensor:
        if isinstance(value, Image.Image):
            picture = torch.from_numpy(np.array(value))
            return (picture.permute(2, 0, 1) if picture.dim() == 3 else picture.unsqueeze(0)).float() / 255
        try:
            found = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                f"column '{name}' of the data holds a '{type(value).__name__}': turn it into numbers first, by `map` or "
                f"`with_transform`, or remove the column"
            ) from error
        return found.float() if found.dtype == torch.float64 else found
