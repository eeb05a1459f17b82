"""Layouts, labels and class names that `from_arrays` accepts and refuses."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
import torch

from gngraph.data import CropFlip, from_arrays
from gngraph.errors import DataError
from tests.data.arrays import Arrays, colour_arrays, numbers_of, table_arrays


def test_byte_pictures_are_read_as_nhwc() -> None:
    arrays = colour_arrays()
    data = from_arrays("pictures", **arrays, classes=["a", "b", "c"])
    assert (data.input_shape, data.classes) == ((3, 16, 16), ("a", "b", "c"))
    x, y = data.train[1]
    assert (x.dtype, y.dtype, int(y)) == (torch.float32, torch.int64, 1)
    restored = (
        x * torch.tensor(numbers_of(data).std).view(3, 1, 1) + torch.tensor(numbers_of(data).mean).view(3, 1, 1)
    ) * 255
    assert np.array_equal(restored.round().numpy().transpose(1, 2, 0), arrays["x_train"][1])


def test_grey_bytes_float_pictures_and_tables() -> None:
    grey = colour_arrays()
    grey["x_train"], grey["x_test"] = grey["x_train"][..., 0], grey["x_test"][..., 0]
    assert from_arrays("grey", **grey).input_shape == (1, 16, 16)
    floats = colour_arrays()
    floats["x_train"] = floats["x_train"].transpose(0, 3, 1, 2) / 255
    floats["x_test"] = floats["x_test"].transpose(0, 3, 1, 2) / 255
    data = from_arrays("floats", **floats)
    assert (data.input_shape, numbers_of(data).scale) == ((3, 16, 16), 1.0)
    table = from_arrays("table", **table_arrays())
    assert (table.input_shape, table.classes, table.augment) == ((5,), (), None)
    assert table.train[0][1].shape == (1,)
    assert table.train[0][1].dtype == torch.float32


def test_only_natural_colour_pictures_are_augmented() -> None:
    assert from_arrays("pictures", **colour_arrays()).augment == CropFlip(padding=2)
    assert from_arrays("small", **colour_arrays(side=8)).augment is None


def test_the_class_count_follows_the_training_labels() -> None:
    arrays = colour_arrays()
    arrays["y_test"] = arrays["y_test"].reshape(-1, 1)
    assert from_arrays("pictures", **arrays).classes == ("0", "1", "2")
    arrays["y_test"][4] = 7
    with pytest.raises(DataError, match=r"label '7' of sample 4 in 'y_test' is outside 0\.\.2.*1 such label in all"):
        from_arrays("pictures", **arrays)


def test_a_negative_label_is_refused() -> None:
    arrays = colour_arrays()
    arrays["y_train"][[3, 5]] = -1
    with pytest.raises(DataError, match=r"label '-1' of sample 3 in 'y_train' is outside 0\.\.2.*2 such labels"):
        from_arrays("pictures", **arrays)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("y_train", np.zeros(29, dtype=int), "'x_train' has '30' samples but 'y_train' has '29' labels"),
        ("x_test", np.zeros((0, 16, 16, 3), dtype=np.uint8), "'x_test' has '0' samples but 'y_test' has '10'"),
        ("x_train", np.zeros((30, 16, 16, 3), dtype=np.int64), "'int64', which is none of the layouts"),
        ("x_train", np.zeros((30, 3, 16, 16), dtype=np.uint8), "looks like N,C,H,W"),
        (
            "x_train",
            np.zeros((30, 16, 16, 3), dtype=np.float32),
            "floats of shape '30x16x16x3', which looks like N,H,W,C",
        ),
        ("x_train", np.zeros((30, 28, 28, 1)), "transpose them \\(0, 3, 1, 2\\), or say that a sample is '28x28x1'"),
        (
            "x_train",
            np.zeros((30, 16, 16), dtype=np.float32),
            "'30x16x16', which looks like N,H,W: .*N,1,H,W, or say that a sample is '16x16'",
        ),
        ("x_train", np.zeros((30, 0)), "a sample needs at least one number"),
        ("x_train", np.float32(3.0), "single number"),
        (
            "x_test",
            np.zeros((10, 8, 8, 3), dtype=np.uint8),
            "uint8 of shape 'Nx3x16x16' but 'x_test' as uint8 of shape",
        ),
        ("x_test", np.zeros((10, 3, 16, 16)), "but 'x_test' as float32"),
        ("y_train", np.full((30, 3), 2), "labels are integers of shape N"),
        ("y_train", np.full((30, 3, 3), 2), "masks of pictures come in a folder"),
        ("y_train", np.ones((30, 3), dtype=int), "several yes-or-no answers a sample: store them as floats"),
        ("y_train", np.array(["cat"] * 30), "'y_train' has dtype '<U3'"),
        ("y_train", np.arange(30) * 1000, "label '29000' with only '30' samples and no 'classes'"),
        ("y_test", np.zeros(10), "'y_train' was read as int64"),
    ],
)
def test_unusable_arrays_are_refused(name: str, array: npt.NDArray[Any], message: str) -> None:
    arrays = cast(Arrays, {**colour_arrays(), name: array})
    with pytest.raises(DataError, match=message):
        from_arrays("pictures", **arrays)


@pytest.mark.parametrize(
    "shape", [(3, 16, 16), (1, 28, 28), (9, 128, 1), (64, 4, 4), (64, 3, 3), (3, 3, 3), (4, 20), (4, 4), (2, 6, 6, 6)]
)
def test_floats_are_read_with_their_channels_first(shape: tuple[int, ...]) -> None:
    x, y = np.random.default_rng(0).normal(size=(30, *shape)), np.arange(30) % 3
    assert from_arrays("maps", x, y, x, y).input_shape == shape


@pytest.mark.parametrize("shape", [(16, 16, 3), (16, 16)])
def test_floats_that_look_like_pictures_are_taken_where_their_shape_is_confirmed(shape: tuple[int, ...]) -> None:
    x, y = np.random.default_rng(0).normal(size=(30, *shape)), np.arange(30) % 3
    assert from_arrays("maps", x, y, x, y, input_shape=shape).input_shape == shape


def test_empty_sets_are_refused() -> None:
    with pytest.raises(DataError, match="'x_test' is empty"):
        from_arrays("pictures", **colour_arrays(test=0))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_numbers_that_are_not_finite_are_refused(value: float) -> None:
    for name, array in table_arrays().items():
        broken = np.copy(cast(npt.NDArray[np.float64], array))
        broken[6] = value
        arrays = cast(Arrays, {**table_arrays(), name: broken})
        with pytest.raises(DataError, match=f"'{name}' holds '(nan|inf)' in sample 6"):
            from_arrays("table", **arrays)


def test_class_names_must_fit_the_labels() -> None:
    with pytest.raises(DataError, match=r"label '2' of sample 2 .*, the range of 2 classes"):
        from_arrays("pictures", **colour_arrays(), classes=["a", "b"])
    with pytest.raises(DataError, match="'classes' is empty"):
        from_arrays("pictures", **colour_arrays(), classes=[])
    with pytest.raises(DataError, match="'y_train' holds floats although '1' classes are named"):
        from_arrays("table", **table_arrays(), classes=["a"])


def test_shapes_that_cannot_be_fitted_are_refused() -> None:
    for wanted in [(1, 16, 16), (768,), (3, 0, 16)]:
        with pytest.raises(DataError, match="'3x16x16', which cannot become"):
            from_arrays("pictures", **colour_arrays(), input_shape=wanted)
    assert from_arrays("pictures", **colour_arrays(), input_shape=(3, 20, 24)).train[0][0].shape == (3, 20, 24)


def test_one_hot_labels_are_classes() -> None:
    arrays = colour_arrays()
    labels = arrays["y_train"]
    hot = {
        **arrays,
        "y_train": np.eye(5, dtype=np.uint8)[labels % 5],
        "y_test": np.eye(5, dtype=np.uint8)[arrays["y_test"] % 5],
    }
    data = from_arrays("hot", **cast(Arrays, hot))
    assert data.train.labels.tolist() == (labels % 5).tolist()
