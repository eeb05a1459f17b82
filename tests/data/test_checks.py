"""`validate`: a data set by itself and against a network."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gngraph.data import ArrayDataset, Data, from_arrays, load_data, validate
from gngraph.data.checks import check_labels
from gngraph.errors import DataError
from tests.data.arrays import Arrays, colour_arrays, table_arrays


def with_train(data: Data, raw: torch.Tensor, labels: torch.Tensor) -> Data:
    return replace(data, train=ArrayDataset(raw, labels, data.preprocess))


def classed_table() -> Arrays:
    table, pictures = table_arrays(), colour_arrays()
    return {**table, "y_train": pictures["y_train"], "y_test": pictures["y_test"]}


def test_good_data_passes() -> None:
    validate(load_data("digits"), outputs=10, input_shape=(1, 8, 8))
    validate(load_data("digits"), outputs=1000)
    validate(from_arrays("table", **table_arrays()), outputs=1, input_shape=(5,))


def test_a_network_with_too_few_outputs_is_named() -> None:
    with pytest.raises(DataError, match=r"label '2' of sample 2 in 'pictures, train' is outside 0\.\.1"):
        validate(from_arrays("pictures", **colour_arrays()), outputs=2)
    with pytest.raises(DataError, match="shape '30x1' but the network has '3' outputs"):
        validate(from_arrays("table", **table_arrays()), outputs=3)


def test_a_network_with_another_input_shape_is_named() -> None:
    with pytest.raises(DataError, match="samples of shape '1x8x8' but the network takes '3x32x32'"):
        validate(load_data("digits"), input_shape=(3, 32, 32))


def test_a_data_set_built_by_hand_is_checked() -> None:
    data = from_arrays("table", **classed_table())
    x, y = torch.zeros(6, 5), torch.zeros(6, dtype=torch.int64)
    validate(with_train(data, x, y))
    with pytest.raises(DataError, match=r"'5' samples but .* has '6' labels"):
        validate(with_train(data, x[:5], y))
    with pytest.raises(DataError, match="'table, train' is empty"):
        validate(with_train(data, x[:0], y[:0]))
    with pytest.raises(DataError, match="holds 'nan' in sample 3"):
        validate(with_train(data, torch.where(torch.arange(6).view(-1, 1) == 3, torch.nan, x), y))
    with pytest.raises(DataError, match=r"are torch\.float32 of shape '6x1': class labels are int64"):
        validate(with_train(data, x, y.float().view(-1, 1)))


def test_labels_that_do_not_count_are_told_of() -> None:
    check_labels("y", torch.tensor([[0, -100], [-100, -100]]), 2, torch.tensor([[True, False], [False, False]]))
    with pytest.raises(DataError, match=r"no label of 'y' counts, for all are -100: .*label at least one position"):
        check_labels("y", torch.full((2, 3), -100), 2, torch.zeros(2, 3, dtype=torch.bool))
    with pytest.raises(
        DataError, match=r"label '-100' of sample 1 in 'y' is outside 0..1, .*leave out samples without a label"
    ):
        check_labels("y", torch.tensor([0, -100]), 2)
