"""How stored samples become inputs: by name, by numbers, as a network was trained, by a function of one's own."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from gngraph.data import Preprocess, from_arrays, load_data, normalization
from gngraph.data.preprocess import IMAGENET, NORMALIZATIONS, Fixed, Recorded, own
from gngraph.errors import DataError
from tests.data.arrays import colour_arrays, save_folder, save_npz, table_arrays


def test_none_divides_bytes_and_leaves_floats_as_they_are() -> None:
    arrays = colour_arrays()
    data = from_arrays("pictures", **arrays, normalize=NORMALIZATIONS["none"])
    assert np.allclose(data.train[3][0].numpy(), arrays["x_train"][3].transpose(2, 0, 1) / 255, atol=1e-7)
    table = table_arrays()
    floats = from_arrays("table", **table, normalize=NORMALIZATIONS["none"])
    assert np.array_equal(floats.train[3][0].numpy(), table["x_train"][3].astype(np.float32))


def test_imagenet_is_that_of_torchvision(tmp_path: Path) -> None:
    from torchvision.models import ResNet18_Weights

    weights = ResNet18_Weights.IMAGENET1K_V1.transforms()
    assert (tuple(weights.mean), tuple(weights.std)) == IMAGENET
    data = load_data(save_folder(tmp_path / "pets"), normalize=normalization("imagenet"), input_shape=(3, 16, 20))
    assert data.preprocess == Preprocess(255.0, *IMAGENET, (3, 16, 20))


def test_one_number_serves_all_channels_and_a_wrong_count_is_refused(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "a.npz", colour_arrays())
    assert load_data(path, normalize=normalization("0.5;0.25")).preprocess == Preprocess(
        255.0, (0.5,) * 3, (0.25,) * 3, (3, 16, 16)
    )
    with pytest.raises(DataError, match=re.escape("'3' channels, but the normalisation has '2' means")):
        load_data(path, normalize=normalization("0.5,0.5;0.25"))


@pytest.mark.parametrize("text", ["image net", "0.5", "0.5;0", "0.5;-1", "nan;1", "0;inf", "", ";", "1;2;3"])
def test_what_is_no_normalisation_is_refused(text: str) -> None:
    with pytest.raises(DataError, match=r"normalisation '.*' is unknown: choose one of auto, none, imagenet"):
        normalization(text)


def test_a_recorded_preparation_is_used_whatever_the_data() -> None:
    trained = from_arrays("a", **colour_arrays()).preprocess
    assert isinstance(trained, Preprocess)
    other = colour_arrays()
    other["x_train"] //= 2
    again = from_arrays("b", **other, normalize=Recorded(Preprocess.from_record(trained.record())))
    assert again.preprocess == trained
    with pytest.raises(DataError, match="was trained on samples of shape"):
        from_arrays("c", **other, input_shape=(3, 8, 8), normalize=Recorded(trained))


@pytest.mark.parametrize("record", [{}, {"scale": 0, "mean": [0.0], "std": [1.0], "shape": [1]}, {"transform": "f"}, 3])
def test_a_record_that_is_none_is_refused(record: object) -> None:
    with pytest.raises(DataError, match="is not that of a preprocessing"):
        Preprocess.from_record(record)


def test_a_transform_of_ones_own_makes_the_inputs_and_is_held_to_their_shape() -> None:
    data = from_arrays("a", **colour_arrays(), normalize=own(lambda raw: raw.float() - 7))
    assert torch.equal(data.train[0][0], data.train.raw[0].float() - 7)  # type: ignore[attr-defined]
    assert "transform" in data.preprocess.record()
    wrong = from_arrays("a", **colour_arrays(), normalize=own(lambda raw: raw[:, :1].float()))
    with pytest.raises(DataError, match=r"gives torch.float32 of shape"):
        wrong.train[0]


def test_the_words_say_what_is_done() -> None:
    assert Fixed((0.0,), (1.0,))(torch.zeros(1, 3), 255.0, (3,)).text == "raw / 255"
    assert Preprocess(1.0, (0.0,) * 9, (2.0,) * 9, (9,)).text == "(raw - 0) / 2"
