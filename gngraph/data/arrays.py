"""From arrays as people store them to a `Data`: layouts, labels, class names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gngraph.data.augment import natural_augment
from gngraph.data.checks import check_finite, check_labels, check_lengths, shape_text
from gngraph.data.dataset import ArrayDataset, Data
from gngraph.data.preprocess import Normalization, measured
from gngraph.data.splits import held_out
from gngraph.errors import DataError

Array = npt.NDArray[Any]

LARGEST_BYTE = 255.0
"""What bytes are divided by before they are normalised; floats are used as they are."""

_LAYOUTS = (
    "bytes N,H,W,C or N,H,W for pictures, floats N,C,H,W for pictures, N,C,L for sequences or N,C,D,H,W for volumes, numbers N,F "
    "for a table"
)
# With unnamed classes the largest label decides how many there are; beyond this it is an identifier, not a class.
_UNNAMED_CLASSES = 1000


def from_arrays(
    name: str,
    x_train: Array,
    y_train: Array,
    x_test: Array,
    y_test: Array,
    *,
    classes: Sequence[str] | None = None,
    input_shape: tuple[int, ...] | None = None,
    normalize: Normalization = measured,
) -> Data:
    """Builds a data set from arrays in memory.

    Args:
        name: for messages and records.
        x_train: uint8 [N, H, W, C] or [N, H, W], floats [N, C, H, W], [N, C, L] or [N, C, D, H, W], or numbers [N, F].
        y_train: integers [N] (class indices) or [N, K] (one-hot), or floats [N] or [N, K] (targets of a regression).
        x_test: like `x_train`, the same sample shape and dtype kind.
        y_test: like `y_train`.
        classes: class names; without them the classes are numbered up to the largest training label.
        input_shape: what the network shall see; pictures are resized to it, and grey ones spread over its channels. Floats of
            such samples are read as N,C,H,W or N,C,L even where they look like N,H,W,C or N,H,W.
        normalize: how stored numbers become inputs; by default each channel is standardised over the training samples.

    Raises:
        DataError: if a layout, a label, a length or a value breaks the rules above.

    Example:
        >>> x, y = np.zeros((4, 8, 8), dtype=np.uint8), np.array([0, 1, 0, 1])
        >>> data = from_arrays("bars", x, y, x[:2], y[:2])
        >>> data.input_shape, data.classes, len(data.train)
        ((1, 8, 8), ('0', '1'), 4)
    """
    check_lengths("x_train", _count("x_train", x_train), "y_train", _count("y_train", y_train))
    check_lengths("x_test", _count("x_test", x_test), "y_test", _count("y_test", y_test))
    raw_train, raw_test = _samples("x_train", x_train, input_shape), _samples("x_test", x_test, input_shape)
    _require_alike("x_train", raw_train, "x_test", raw_test)
    labels_train, labels_test = _labels("y_train", y_train), _labels("y_test", y_test)
    _require_alike("y_train", labels_train, "y_test", labels_test)
    names = _class_names(labels_train, classes)
    for where, labels in (("y_train", labels_train), ("y_test", labels_test)):
        if names:
            check_labels(where, labels, len(names))
        else:
            check_finite(where, labels)
    check_finite("x_train", raw_train)
    check_finite("x_test", raw_test)
    raw_shape = tuple(raw_train.shape[1:])
    shape = fitted_shape(name, raw_shape, input_shape)
    preprocess = normalize(raw_train, LARGEST_BYTE if raw_train.dtype == torch.uint8 else 1.0, shape)
    return Data(
        name=name,
        train=ArrayDataset(raw_train, labels_train, preprocess),
        test=ArrayDataset(raw_test, labels_test, preprocess),
        classes=names,
        preprocess=preprocess,
        augment=natural_augment(raw_shape, shape),
    )


def further(data: Data, part: str, x: Array, y: Array) -> ArrayDataset:
    """More samples of a data set in memory, such as a validation part.

    Args:
        data: from `from_arrays`.
        part: their name, for messages.
        x: samples like its training samples.
        y: labels or targets like its own.

    Raises:
        DataError: they are not alike, or break the rules of `from_arrays`.
    """
    train = data.train
    assert isinstance(train, ArrayDataset)
    inputs, targets = f"x_{part}", f"y_{part}"
    check_lengths(inputs, _count(inputs, x), targets, _count(targets, y))
    raw, labels = _samples(inputs, x, tuple(train.raw.shape[1:])), _labels(targets, y)
    _require_alike("x_train", train.raw, inputs, raw)
    _require_alike("y_train", train.labels, targets, labels)
    if data.classes:
        check_labels(targets, labels, len(data.classes))
    else:
        check_finite(targets, labels)
    check_finite(inputs, raw)
    return ArrayDataset(raw, labels, train.preprocess)


def divided(x: Array, y: Array, share: float) -> list[Array]:
    """Holds samples out where there is no test part, of each class in proportion; the same labels give the same draw.

    Args:
        x: samples [N, ...], as `from_arrays` takes them.
        y: labels or targets [N] or [N, K].
        share: of the samples, above 0 and below 1.

    Returns:
        x_train, y_train, x_test, y_test.

    Raises:
        DataError: the lengths differ, or there is one sample.
    """
    check_lengths("x_train", _count("x_train", x), "y_train", _count("y_train", y))
    kept, out = held_out(_labels("y_train", y), share)
    return [x[kept], y[kept], x[out], y[out]]


def fitted_shape(name: str, raw_shape: tuple[int, ...], wanted: tuple[int, ...] | None) -> tuple[int, ...]:
    """Decides what the network sees of samples stored in `raw_shape` when `wanted` was asked for.

    Args:
        name: of the data set, for messages.
        raw_shape: of one stored sample, channels first.
        wanted: None for the stored shape itself.

    Raises:
        DataError: if no resizing and no spreading of grey leads from one to the other.

    Example:
        >>> fitted_shape("digits", (1, 8, 8), (3, 32, 32))
        (3, 32, 32)
    """
    if wanted is None or tuple(wanted) == raw_shape:
        return raw_shape
    both_pictures = len(raw_shape) == 3 and len(wanted) == 3
    if both_pictures and min(wanted) > 0 and raw_shape[0] in (1, wanted[0]):
        return tuple(wanted)
    raise DataError(
        f"data set '{name}' has samples of shape '{shape_text(raw_shape)}', which cannot become "
        f"'{shape_text(tuple(wanted))}': pictures can be resized and grey ones spread over more channels, nothing else"
    )


def _count(where: str, array: Array) -> int:
    if array.dtype.kind not in "biuf":
        raise DataError(f"'{where}' has dtype '{array.dtype}': samples and labels are stored as numbers")
    if array.ndim == 0:
        raise DataError(f"'{where}' is a single number: its first axis counts the samples")
    return len(array)


def _samples(where: str, array: Array, wanted: tuple[int, ...] | None) -> Tensor:
    """Converts to uint8 [N, C, H, W], or float32 [N, C, ...] or [N, F]; refuses what could be read in two ways."""
    if 0 in array.shape:
        raise DataError(f"'{where}' has shape '{shape_text(array.shape)}': a sample needs at least one number")
    is_bytes = array.dtype == np.uint8
    if array.ndim == 2:
        return _float32(array)
    if is_bytes and array.ndim == 3:
        return torch.from_numpy(np.ascontiguousarray(array)).unsqueeze(1)
    if is_bytes and array.ndim == 4:
        if array.shape[3] > 4 >= array.shape[1]:
            raise DataError(
                f"'{where}' holds bytes of shape '{shape_text(array.shape)}', which looks like N,C,H,W: "
                f"bytes are read as N,H,W,C, so transpose them (0, 2, 3, 1)"
            )
        return torch.from_numpy(np.ascontiguousarray(array.transpose(0, 3, 1, 2)))
    if array.dtype.kind == "f" and array.ndim in (3, 4, 5):
        if array.shape[1:] != wanted:
            _require_channels_first(where, array.shape)
        return _float32(array)
    raise DataError(
        f"'{where}' has shape '{shape_text(array.shape)}' and dtype '{array.dtype}', which is none of the layouts "
        f"{_LAYOUTS}: convert it to one of them"
    )


def _require_channels_first(where: str, shape: tuple[int, ...]) -> None:
    """Refuse floats that look like pictures whose channels come last, or are left out."""
    least, sides, channels = min(shape[1:3]), shape[1:3], shape[3:]
    if least > 4 and (channels == (3,) or (channels in ((1,), ()) and sides[0] == sides[1])):
        looks = "N,H,W,C: floats are read as N,C,H,W, so transpose them (0, 3, 1, 2)"
        if not channels:
            looks = "N,H,W: floats are read as N,C,L, so give pictures an axis of channels, N,1,H,W"
        raise DataError(
            f"'{where}' holds floats of shape '{shape_text(shape)}', which looks like {looks}, or say that a sample is "
            f"'{shape_text(shape[1:])}' (input_shape)"
        )


def _float32(array: Array) -> Tensor:
    with np.errstate(over="ignore"):  # what overflows becomes inf, and check_finite says where
        return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _labels(where: str, array: Array) -> Tensor:
    """Converts to int64 [N] or float32 [N, K]; a lone target becomes K = 1, so that it cannot broadcast in a loss."""
    if array.dtype.kind == "f" and array.ndim in (1, 2) and 0 not in array.shape:
        return _float32(array.reshape(len(array), -1))
    if array.dtype.kind in "biu" and array.size == len(array):
        if array.dtype == np.uint64 and int(array.max()) > np.iinfo(np.int64).max:
            raise DataError(
                f"'{where}' holds the label '{array.max()}': labels are class indices from 0, so renumber them"
            )
        return torch.from_numpy(array.reshape(-1).astype(np.int64))
    if (
        array.dtype.kind in "biu"
        and array.ndim == 2
        and array.shape[1] > 1
        and bool(((array == 0) | (array == 1)).all())
    ):
        if bool((array.sum(1) == 1).all()):  # one-hot
            return torch.from_numpy(array.argmax(1).astype(np.int64))
        raise DataError(
            f"'{where}' holds several yes-or-no answers a sample: store them as floats, and name the loss "
            f"'bce-with-logits' (--loss)"
        )
    masks = (
        "; masks of pictures come in a folder (--task segmentation), or in Python as tensors (Problem, 'segmentation')"
    )
    raise DataError(
        f"'{where}' has shape '{shape_text(array.shape)}' and dtype '{array.dtype}': labels are integers of shape N or one-hot "
        f"N,K, targets of a regression are floats of shape N or N,K{masks if array.ndim == 3 else ''}"
    )


def _require_alike(first: str, a: Tensor, second: str, b: Tensor) -> None:
    if a.shape[1:] != b.shape[1:] or a.dtype != b.dtype:
        described = [f"{t.dtype} of shape '{shape_text(('N', *t.shape[1:]))}'".replace("torch.", "") for t in (a, b)]
        raise DataError(
            f"'{first}' was read as {described[0]} but '{second}' as {described[1]}: "
            f"training and test set must have the same kind of samples and labels"
        )


def _class_names(labels: Tensor, classes: Sequence[str] | None) -> tuple[str, ...]:
    if labels.is_floating_point():
        if classes is not None:
            raise DataError(
                f"'y_train' holds floats although '{len(classes)}' classes are named: "
                f"store labels as integers, or leave out 'classes' for a regression"
            )
        return ()
    if classes is not None:
        if len(classes) == 0:
            raise DataError("'classes' is empty: name every class, or leave it out")
        return tuple(str(name) for name in classes)
    largest = int(labels.max())
    if largest < 0:
        raise DataError(
            f"'y_train' holds no label above '{largest}': labels are class indices from 0, so renumber them"
        )
    if largest >= max(_UNNAMED_CLASSES, len(labels)):
        raise DataError(
            f"'y_train' holds the label '{largest}' with only '{len(labels)}' samples and no 'classes': "
            f"labels are class indices from 0, so renumber them, store floats for a regression, or add 'classes'"
        )
    return tuple(str(index) for index in range(largest + 1))
