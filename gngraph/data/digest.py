"""One number for a data set, by which a run that goes on later knows the data it began with."""

from __future__ import annotations

import hashlib
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import Dataset, Subset

from gngraph.data.batches import MapDataset, batches
from gngraph.data.dataset import Sample
from gngraph.data.held import as_tensors, unwound
from gngraph.data.splits import labels_of
from gngraph.errors import DataError

READ = 256
"""Samples that are read, from all over the data, where it does not lie in memory."""


def digest(dataset: MapDataset) -> str:
    """SHA-256 of the samples where they lie in memory; of others of how many there are, their labels, and `READ` samples.

    One that draws its samples anew at every reading has another at every reading. Cost: a second a gigabyte, or what it takes to
    read `READ` samples.
    """
    found = hashlib.sha256(str(len(dataset)).encode())
    root, rows = unwound(dataset)
    held = as_tensors(root, torch.device("cpu"))
    if held is not None:
        _add(found, (held.x, held.y, torch.tensor(list(rows)) if rows is not None else ()))
        return found.hexdigest()
    count = min(READ, len(dataset))
    spread = Subset(cast("Dataset[Sample]", dataset), [n * len(dataset) // count for n in range(count)])
    _add(found, (labels_of(dataset), *batches(cast(MapDataset, spread), READ, workers=0)))
    return found.hexdigest()


def _add(found: Any, values: Any) -> None:
    for value in tree_leaves(values):
        if isinstance(value, Tensor):
            data = value.detach().cpu().contiguous()
            found.update(f"{data.dtype} {tuple(data.shape)}".encode())
            found.update(data.reshape(-1).view(torch.uint8).numpy())
        elif value is not None:
            raise DataError(f"samples hold a '{type(value).__name__}', not tensors alone")
