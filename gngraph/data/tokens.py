"""Samples of tokens: whole numbers that a network looks up, with a label a sample or the next token of every position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gngraph.data.arrays import Array
from gngraph.data.checks import IGNORED, check_labels, check_lengths, shape_text
from gngraph.data.dataset import ArrayDataset, Data
from gngraph.data.splits import held_out
from gngraph.errors import DataError

NEXT_TOKEN = "next-token"
"""Name of the loss of data with a label for every position."""


@dataclass(frozen=True)
class Tokens:
    """Stored whole numbers become int64; nothing is scaled.

    Attributes:
        count: how many tokens there are.
        shape: (L,), of one sample.
        of: what they stand for: "bytes", "numbers", or the name and digest of a tokenizer's file.
    """

    count: int
    shape: tuple[int, ...]
    of: str

    def __call__(self, raw: Tensor) -> Tensor:
        """Converts a batch, to int64 [B, L]."""
        return raw.to(torch.int64)

    def record(self) -> dict[str, Any]:
        """What the tokens are, as JSON."""
        return {"tokens": self.count, "of": self.of, "shape": list(self.shape)}

    @property
    def text(self) -> str:
        """What the tokens are, in a few words."""
        return f"tokens below {self.count:,} ({self.of})"


def are_positions(x: Array, y: Array) -> bool:
    """Whether arrays are whole numbers with a label for every position, and not one-hot classes of a table."""
    whole = x.dtype.kind in "biu" and y.dtype.kind in "biu"
    same = whole and x.ndim == 2 and x.shape == y.shape and x.shape[1] > 1
    return bool(same) and not bool((((y == 0) | (y == 1)).all(1) & (y.sum(1) == 1)).all())


def from_tokens(
    name: str,
    arrays: Sequence[Array],
    *,
    classes: Sequence[str] | None = None,
    input_shape: tuple[int, ...] | None = None,
    val_split: float = 0.2,
) -> Data:
    """A data set of tokens from arrays.

    Args:
        name: for messages and records.
        arrays: x_train, y_train, and where there is a test part x_test, y_test: samples are integers [N, L], labels integers [N],
            or [N, L] where every position has one, of which -100 does not count.
        classes: names of the labels; without them these are numbered up to the largest.
        input_shape: (L,), what the network takes.
        val_split: share that is held out without a test part.

    Raises:
        DataError: the arrays are not as above, or do not fit.
    """
    notes: tuple[str, ...] = ()
    if len(arrays) == 2:
        arrays, notes = _divided(arrays[0], arrays[1], val_split)
    given = {"train": (arrays[0], arrays[1]), "test": (arrays[2], arrays[3])}
    parts = [(_whole(f"x_{part}", x, 2), _labels(f"y_{part}", y)) for part, (x, y) in given.items()]
    for part, (x, y) in zip(("train", "test"), parts, strict=True):
        check_lengths(f"x_{part}", len(x), f"y_{part}", len(y))
        if y.dim() > 1 and x.shape != y.shape:
            raise DataError(f"'x_{part}' and 'y_{part}' have different shapes: each position needs one label")
        if input_shape is not None and tuple(x.shape[1:]) != tuple(input_shape):
            raise DataError(
                f"'x_{part}' has samples of '{shape_text(tuple(x.shape[1:]))}' tokens, but the network takes "
                f"'{shape_text(tuple(input_shape))}': cut them to that length"
            )
    (x, y), _ = parts
    largest = max(int(labels.max()) for _, labels in parts)
    names = tuple(map(str, range(largest + 1))) if classes is None else tuple(classes)
    for part, (_, labels) in zip(("train", "test"), parts, strict=True):
        check_labels(f"y_{part}", labels, len(names), labels != IGNORED[NEXT_TOKEN] if labels.dim() > 1 else None)
    tokens = Tokens(1 + max(int(samples.max()) for samples, _ in parts), tuple(x.shape[1:]), "numbers")
    train, test = (ArrayDataset(samples, labels, tokens) for samples, labels in parts)
    return Data(name, train, test, names, tokens, notes=notes, loss=NEXT_TOKEN if y.dim() > 1 else None)


def _divided(x: Array, y: Array, share: float) -> tuple[list[Array], tuple[str, ...]]:
    check_lengths("x_train", len(x), "y_train", len(y))
    kept, out = held_out(torch.from_numpy(y.astype(np.int64)), share)
    note = f"no test part: {len(out)} of {len(x)} samples are held out (see --val-split)"
    return [x[kept], y[kept], x[out], y[out]], (note,)


def _labels(where: str, array: Array) -> Tensor:
    """Labels of samples, or of their positions."""
    return (
        _whole(where, array, 2, IGNORED[NEXT_TOKEN])
        if array.ndim > 1 and array.size > len(array)
        else _whole(where, array, 1)
    )


def _whole(where: str, array: Array, axes: int, ignored: int | None = None) -> Tensor:
    array = array.reshape(len(array)) if axes == 1 and array.ndim > 1 else array
    if array.dtype.kind not in "biu" or array.ndim != axes or 0 in array.shape:
        raise DataError(
            f"'{where}' has shape '{shape_text(array.shape)}' and dtype '{array.dtype}': a network that reads tokens takes "
            f"integers [N, L], with integers [N] or [N, L] as labels"
        )
    found = torch.from_numpy(np.ascontiguousarray(array, dtype=np.int64))
    wrong = found[found < 0] if ignored is None else found[(found < 0) & (found != ignored)]
    if len(wrong):
        raise DataError(f"'{where}' holds '{int(wrong.min())}': tokens and labels are numbered from 0")
    return found
