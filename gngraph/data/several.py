"""Data sets of several inputs a sample, from arrays in memory: each input is taken as it is stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from gngraph.data.checks import IGNORED, check_finite, check_labels, check_lengths, shape_text
from gngraph.data.dataset import Data, SampleDataset
from gngraph.data.inputs import TARGETS, SampleInputs
from gngraph.data.splits import held_out
from gngraph.data.tokens import NEXT_TOKEN
from gngraph.errors import DataError

PART_NAMES = ("train", "test", "val")
"""Behind the names of arrays, as in src_train and labels_train; without, all are for training."""


@dataclass(frozen=True)
class AsStored:
    """Several inputs are read as they are stored.

    Attributes:
        shapes: of each input, by its name, or by its place where it has none.
    """

    shapes: Mapping[str, tuple[int, ...]]

    @property
    def shape(self) -> tuple[int, ...]:
        """(), for there is no single one."""
        return ()

    def __call__(self, raw: SampleInputs) -> SampleInputs:
        """The inputs themselves."""
        return raw

    def record(self) -> dict[str, Any]:
        """Shapes by name, as JSON."""
        return {"inputs": {name: list(shape) for name, shape in self.shapes.items()}}

    @property
    def text(self) -> str:
        """What is done, in a few words."""
        return "as stored"


class SeveralDataset(SampleDataset):
    """Samples of several inputs, held in memory.

    Attributes:
        inputs: a tuple or dictionary of tensors [N, ...].
        preprocess: `AsStored`.

    Args:
        labels: [N, ...], one row a sample.
    """

    def __init__(self, inputs: SampleInputs, labels: Tensor) -> None:
        self.inputs = inputs
        self.preprocess = AsStored({name: tuple(x.shape[1:]) for name, x in _named(inputs).items()})
        self._labels = labels

    @property
    def labels(self) -> Tensor:
        """As they were given."""
        return self._labels

    def stored(self, indices: Sequence[int]) -> Any:
        """Rows of each input."""
        rows = torch.as_tensor(indices, dtype=torch.int64)
        return tree_map_only(Tensor, lambda x: x[rows], self.inputs)


def parts_of_several(names: Sequence[str]) -> dict[str, dict[str, str]]:
    """Which of some arrays are the inputs and targets of which part; nothing where they are not several inputs with a target.

    Args:
        names: of arrays, such as src, tgt and labels, or src_train, tgt_train, labels_train, src_test, ...

    Returns:
        Part -> name of an input or a target -> name of the array.

    >>> parts_of_several(["src", "tgt", "labels"])
    {'train': {'src': 'src', 'tgt': 'tgt', 'labels': 'labels'}}
    >>> parts_of_several(["x_train", "y_train"])
    {}
    """
    parts = {part: {n.removesuffix(f"_{part}"): n for n in names if n.endswith(f"_{part}")} for part in PART_NAMES}
    found = {part: own for part, own in parts.items() if own} or {"train": {name: name for name in names}}
    targets = [name for name in TARGETS if name in found.get("train", ())]
    return found if targets and len(found["train"]) > 2 else {}


def from_several(
    name: str,
    parts: Mapping[str, tuple[SampleInputs, Any]],
    *,
    classes: Sequence[str] | None = None,
    val_split: float = 0.2,
) -> Data:
    """A data set of several inputs a sample.

    Whole numbers are int64, others float32; nothing is scaled.

    Args:
        name: for messages and records.
        parts: "train", and "test" and "val" where there are such: inputs, a tuple or dictionary of arrays [N, ...], and targets:
            labels [N], or [N, ...] of positions, of which -100 does not count, or floats [N] or [N, K] of a regression.
        classes: names of the labels; without them these are numbered up to the largest.
        val_split: share of the samples that is held out without a test part.

    Raises:
        DataError: lengths differ, something is no number or not finite, or parts have other inputs.
    """
    made = {part: _part(part, *given) for part, given in parts.items()}
    kind = made["train"].preprocess.record()
    for part, own in made.items():
        if own.preprocess.record() != kind or own.labels.shape[1:] != made["train"].labels.shape[1:]:
            raise DataError(
                f"the {part} part has not the inputs and targets of the training part: give it these, of their shapes"
            )
    notes: tuple[str, ...] = ()
    train, test = made["train"], made.get("test")
    if test is None:
        kept, out = held_out(train.labels, val_split)
        notes = (f"no test part: {len(out)} of {len(train)} samples are held out (see --val-split)",)
        train, test = (SeveralDataset(train.stored(rows), train.labels[rows]) for rows in (kept, out))
    labels = train.labels
    names: tuple[str, ...] = ()
    if not labels.is_floating_point():
        largest = max(int(own.labels.max()) for own in made.values())
        names = tuple(classes or map(str, range(largest + 1)))
        for part, own in made.items():
            check_labels(f"the targets of the {part} part", own.labels, len(names), own.labels != IGNORED[NEXT_TOKEN])
    loss = NEXT_TOKEN if names and labels.dim() > 1 else None
    return Data(name, train, test, names, train.preprocess, None, notes, made.get("val"), loss)


def _part(part: str, inputs: SampleInputs, targets: Any) -> SeveralDataset:
    x = {name: _tensor(f"'{name}' of the {part} part", array) for name, array in _named(inputs).items()}
    y = _tensor(f"the target of the {part} part", targets)
    for name, tensor in x.items():
        check_lengths(f"{name} ({part})", len(tensor), f"targets ({part})", len(y))
    if y.is_floating_point() and y.dim() > 2:
        raise DataError(
            f"the targets of the {part} part are '{shape_text(tuple(y.shape))}': those of a regression are N or N,K"
        )
    y = y.reshape(len(y), -1) if y.is_floating_point() else y.squeeze(1) if y.dim() > 1 and y.shape[1] == 1 else y
    return SeveralDataset(x if isinstance(inputs, Mapping) else tuple(x.values()), y)


def _named(inputs: SampleInputs) -> dict[str, Any]:
    return dict(inputs) if isinstance(inputs, Mapping) else {str(i): x for i, x in enumerate(inputs)}


def _tensor(where: str, array: Any) -> Tensor:
    """An array as a tensor: int64, bool or float32."""
    array = array.numpy(force=True) if isinstance(array, Tensor) else np.asarray(array)
    if array.dtype.kind not in "biuf" or array.ndim == 0 or 0 in array.shape:
        raise DataError(
            f"{where} is '{array.dtype}' of shape '{shape_text(array.shape)}': give numbers, a row a sample"
        )
    kind = {"b": np.bool_, "f": np.float32}.get(array.dtype.kind, np.int64)
    found = torch.from_numpy(np.ascontiguousarray(array, dtype=kind))
    check_finite(where, found)
    return found
