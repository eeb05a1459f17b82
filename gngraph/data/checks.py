"""What a data set must satisfy before a network sees it; each refusal is one sentence with the offending value."""

from __future__ import annotations

import torch
from torch import Tensor

from gngraph.data.dataset import ArrayDataset, Data, SampleDataset
from gngraph.errors import DataError

IGNORED = {"segmentation": 255, "next-token": -100}
"""Label of a position that does not count, by the loss."""


def shape_text(shape: tuple[int | str, ...]) -> str:
    """Writes a sample shape as the command line reads it.

    Example:
        >>> shape_text((3, 32, 32))
        '3x32x32'
    """
    return "x".join(str(size) for size in shape)


def check_lengths(inputs: str, x_count: int, targets: str, y_count: int) -> None:
    """Requires as many labels as samples, and at least one.

    Args:
        inputs, targets: names of the two arrays, for messages.
        x_count, y_count: their lengths.

    Raises:
        DataError: naming both arrays and their lengths.
    """
    if x_count != y_count:
        raise DataError(
            f"'{inputs}' has '{x_count}' samples but '{targets}' has '{y_count}' labels: each sample needs one label"
        )
    if x_count == 0:
        raise DataError(f"'{inputs}' is empty: training and test set need at least one sample each")


def check_labels(where: str, labels: Tensor, count: int, counted: Tensor | None = None) -> None:
    """Requires every class index to lie in 0..count-1, and one at least that counts.

    Args:
        where: the array or set that holds the labels, for the message.
        labels: int64 [N], or [N, ...] with a label for each position.
        count: number of classes.
        counted: bool, of the shape of `labels`: those that matter; None: all do.

    Raises:
        DataError: naming the first offending label, its sample and the allowed range, or none counts.

    Example:
        >>> check_labels("y_train", torch.tensor([0, 3, 1]), 3)
        Traceback (most recent call last):
        ...
        gngraph.errors.DataError: label '3' of sample 1 in 'y_train' is outside 0..2, the range of 3 classes \
(1 such label in all): number the classes from 0, or use a network with more outputs
    """
    if counted is not None and not bool(counted.any()):
        raise DataError(
            f"no label of '{where}' counts, for all are {int(labels.flatten()[0])}: no loss can be told of such samples; label at "
            f"least one position"
        )
    outside = (labels < 0) | (labels >= count)
    wrong = (outside if counted is None else outside & counted).nonzero()
    if len(wrong) == 0:
        return
    first = tuple(wrong[0].tolist())
    value, plural = int(labels[first]), "label" if len(wrong) == 1 else "labels"
    ignored = labels.dim() == 1 and value == IGNORED["next-token"]
    remedy = (
        "it leaves out positions of samples that have several; leave out samples without a label"
        if ignored
        else "number the classes from 0, or use a network with more outputs"
    )
    raise DataError(
        f"label '{value}' of sample {first[0]} in '{where}' is outside 0..{count - 1}, the range of {count} "
        f"classes ({len(wrong)} such {plural} in all): {remedy}"
    )


def check_finite(where: str, values: Tensor) -> None:
    """Requires every number to be finite in float32.

    Args:
        where: the array or set that holds the numbers, for the message.
        values: [N, ...]; integers pass.

    Raises:
        DataError: naming the first offending value and its sample.
    """
    if not values.is_floating_point() or bool(torch.isfinite(values).all()):
        return
    # Looking for the culprit again costs a second pass, but only over data that is refused.
    rows = values.reshape(len(values), -1)
    finite = torch.isfinite(rows)
    bad = (~finite.all(1)).nonzero().flatten()
    first = int(bad[0])
    value = float(rows[first][~finite[first]][0])
    raise DataError(
        f"'{where}' holds '{value}' in sample {first} ({len(bad)} of {len(values)} samples have a value that is not "
        f"finite in float32): repair or drop them"
    )


def validate(data: Data, *, outputs: int | None = None, input_shape: tuple[int, ...] | None = None) -> None:
    """Checks a data set by itself, and against a network where its sizes are given.

    Args:
        data: the data set; pictures that are read on demand are not opened.
        outputs: number of outputs of the network, if it is known; class labels must be below it, and a regression
            must have as many targets.
        input_shape: what the network takes, if it is known: (C, H, W) or (F,).

    Raises:
        DataError: on the first violation, in one sentence.
    """
    if input_shape is not None and tuple(input_shape) != data.input_shape:
        raise DataError(
            f"data set '{data.name}' has samples of shape '{shape_text(data.input_shape)}' but the network takes "
            f"'{shape_text(tuple(input_shape))}': load the data with that input shape, or use another network"
        )
    for part, samples in (("train", data.train), ("test", data.test)):
        _validate_part(f"{data.name}, {part}", samples, data, data.outputs if outputs is None else outputs)


def _validate_part(where: str, samples: SampleDataset, data: Data, outputs: int) -> None:
    labels = samples.labels
    if isinstance(samples, ArrayDataset):
        check_lengths(where, len(samples.raw), where, len(labels))
        check_finite(where, samples.raw)
    check_lengths(where, len(samples), where, len(labels))
    if data.classes:
        shapes = {"next-token": ((), data.input_shape), "segmentation": (data.input_shape[1:],)}.get(
            data.loss or "", ((),)
        )
        if data.loss == "next-token" and not data.input_shape:  # of several inputs
            shapes = (tuple(labels.shape[1:]),)
        masks = data.loss == "segmentation"
        if labels.dtype != (torch.uint8 if masks else torch.int64) or tuple(labels.shape[1:]) not in shapes:
            raise DataError(
                f"labels of '{where}' are {labels.dtype} of shape '{shape_text(tuple(labels.shape))}': class labels "
                f"are int64, one a sample"
            )
        ignored = IGNORED.get(data.loss or "")
        counted = None if ignored is None else labels != ignored
        check_labels(where, labels, min(outputs, len(data.classes)), counted)
        return
    if labels.ndim != 2 or labels.shape[1] != outputs:
        raise DataError(
            f"targets of '{where}' have shape '{shape_text(tuple(labels.shape))}' but the network has '{outputs}' "
            f"outputs: a regression needs one output for each target"
        )
    check_finite(where, labels)
