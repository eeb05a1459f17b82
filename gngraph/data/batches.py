"""Batches of any data set, in order or shuffled, repeatable to the bit for a given generator."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader, Dataset, Subset, default_collate

from gngraph.data.augment import Augment
from gngraph.data.dataset import HeldDataset, LoadedDataset, Sample, SampleBatch, SampleDataset, moved
from gngraph.data.inputs import parted
from gngraph.errors import DataError


class MapDataset(Protocol):
    """A data set with a length, indexed from 0: every torch map-style data set of samples (`gngraph.data.inputs.parted`)."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def batches(
    dataset: MapDataset,
    batch_size: int,
    *,
    generator: torch.Generator | None = None,
    augment: Augment | None = None,
    device: str | torch.device = "cpu",
    layout: torch.memory_format = torch.preserve_format,
    workers: int | None = None,
    own: slice = slice(None),
) -> Iterator[Sample]:
    """Iterates once over a data set.

    Every sample comes exactly once. A last batch of a single sample is joined to the batch before it, because
    BatchNorm cannot train on one sample: the last batch has 2 to batch_size + 1 samples. Torch's global random state is
    neither read nor changed.

    Args:
        dataset: yields (x, y): x a tensor, or a tuple or dictionary of several inputs; y a tensor or a number, or tuples, lists
            and dictionaries of these. (x, x, y) and dictionaries with a target are taken too, see `gngraph.data.inputs.parted`.
        batch_size: samples a batch, at least 1.
        generator: None: in order; else shuffled by it, and its state advances.
        augment: applied to x and y on `device`, with numbers from `generator`, which must then be given.
        device: where the batches shall lie.
        layout: how x shall lie in memory there; channels_last is for four axes alone.
        workers: processes that read; None: what the data set asks for (`SampleDataset.workers`).
        own: which of the batches, the others being left out; `generator` then is where the order left it.

    Returns:
        Iterator of (x, y): x float32 [B, C, H, W] or [B, F], or several inputs; y int64 [B] or float32 [B, K]; where a
        sample's targets are several, y has their structure, with the samples stacked in each tensor.

    Raises:
        DataError: at once, if the data set is empty, the batch size is below 1, or there is no generator to augment by;
            later, if samples are no (x, y) of tensors, or differ in shape.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> numbers = TensorDataset(torch.arange(5.0), torch.arange(5))
        >>> [y.tolist() for x, y in batches(numbers, 2)]
        [[0, 1], [2, 3, 4]]
    """
    if batch_size < 1:
        raise DataError(f"batch size '{batch_size}' is too small: a batch needs at least one sample")
    if len(dataset) == 0:
        raise DataError("the data set is empty: there is no sample to make a batch of")
    if augment is not None and generator is None:
        raise DataError(f"augmentation '{augment}' has no generator: pass one, so that the run can be repeated")
    target = torch.device(device)
    loader = DataLoader(
        cast("Dataset[Sample]", dataset),
        batch_sampler=_index_batches(_order(len(dataset), generator), batch_size)[own],
        collate_fn=_collate,
        num_workers=_wanted_workers(dataset) if workers is None else workers,
        pin_memory=target.type == "cuda" and not _on_device(dataset),
        generator=torch.Generator(),  # DataLoader would otherwise draw a seed from the global state
    )
    return _deliver(loader, target, layout, augment, generator)


def _deliver(
    loader: DataLoader[Sample],
    device: torch.device,
    layout: torch.memory_format,
    augment: Augment | None,
    generator: torch.Generator | None,
) -> Iterator[Sample]:
    for x, y in loader:
        there, targets = moved(x, device), moved(y, device)
        if augment is not None and generator is not None:
            there, targets = augment(there, targets, generator)
        yield tree_map(lambda tensor: tensor.to(memory_format=layout), there), targets


def _order(count: int, generator: torch.Generator | None) -> list[int]:
    if generator is None:
        return list(range(count))
    order: list[int] = torch.randperm(count, generator=generator, device=generator.device).tolist()
    return order


def _index_batches(order: Sequence[int], batch_size: int) -> list[list[int]]:
    groups = [list(order[start : start + batch_size]) for start in range(0, len(order), batch_size)]
    if batch_size > 1 and len(groups) > 1 and len(groups[-1]) == 1:
        lone = groups.pop()
        groups[-1] += lone
    return groups


def _collate(samples: Sequence[Sample]) -> Sample:
    if isinstance(samples, SampleBatch):
        return samples.x, samples.y
    try:
        x, y = parted(default_collate(list(samples)))
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        raise DataError(
            f"samples cannot be joined into a batch ({error}): each must be (x, y), with tensors of the same shapes in all"
        ) from error
    _require_tensors(x)
    return x, y


def _require_tensors(x: Any) -> None:
    """Refuse inputs that are no tensors, or hold others than tensors."""
    parts = x if isinstance(x, dict) else dict(enumerate(x)) if isinstance(x, tuple) else {0: x}
    for name, part in parts.items():
        if not isinstance(part, Tensor):
            raise DataError(
                f"samples cannot be joined into a batch (input '{name}' becomes a '{type(part).__name__}'): give tensors of "
                f"the same shapes in all samples, and leave out what is none"
            )


def _on_device(dataset: object) -> bool:
    """Whether samples come from a GPU's own memory."""
    if isinstance(dataset, Subset):
        return _on_device(dataset.dataset)
    return isinstance(dataset, HeldDataset) and dataset.device.type == "cuda"


def _wanted_workers(dataset: object) -> int:
    if isinstance(dataset, Subset):
        return _wanted_workers(dataset.dataset)
    return dataset.workers if isinstance(dataset, SampleDataset | LoadedDataset) else 0
