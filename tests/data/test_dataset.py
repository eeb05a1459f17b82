"""Preprocessing, statistics, and data sets in memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset

from gngraph.data import ArrayDataset, Preprocess, batches, from_arrays, load_data
from gngraph.data.preprocess import measured
from tests.data.arrays import colour_arrays, numbers_of, table_arrays


def test_training_samples_have_mean_0_and_standard_deviation_1_per_channel() -> None:
    data = from_arrays("pictures", **colour_arrays())
    x = torch.cat([x for x, _ in batches(data.train, 7)])
    assert torch.allclose(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(x.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-5)


def test_recorded_preprocessing_reproduces_the_batches() -> None:
    arrays = colour_arrays()
    data = from_arrays("pictures", **arrays)
    pixels = arrays["x_test"].transpose(0, 3, 1, 2) / numbers_of(data).scale
    mean, std = (np.array(values).reshape(3, 1, 1) for values in (numbers_of(data).mean, numbers_of(data).std))
    ((x, _),) = batches(data.test, 10)
    assert np.allclose((pixels - mean) / std, x.numpy(), atol=1e-5)


def test_statistics_in_chunks_equal_those_of_the_whole() -> None:
    raw = torch.rand(2500, 2, 3, 3, generator=torch.Generator().manual_seed(0)) * 5 + 100
    found = measured(raw, 1.0, (2, 3, 3))
    exact = raw.double()
    assert np.allclose(found.mean, exact.mean((0, 2, 3)), rtol=1e-12)
    assert np.allclose(found.std, exact.std((0, 2, 3), correction=0), rtol=1e-12)


def test_a_constant_feature_becomes_0_and_not_noise() -> None:
    table = table_arrays()
    table["x_train"][:, 2] = table["x_test"][:, 2] = 0.1
    data = from_arrays("table", **table)
    assert numbers_of(data).std[2] == 1.0
    x = torch.cat([x for x, _ in batches(data.train, 8)])
    assert float(x[:, 2].abs().max()) < 1e-6


def test_grey_pictures_are_resized_and_spread_over_channels() -> None:
    data = load_data("digits", input_shape=(3, 32, 32))
    x, _ = data.train[0]
    assert x.shape == (3, 32, 32)
    assert len(numbers_of(data).mean) == len(numbers_of(data).std) == 3
    assert torch.equal(x[0], x[1]) and torch.equal(x[1], x[2])


def test_one_sample_and_a_batch_agree() -> None:
    data = from_arrays("pictures", **colour_arrays())
    batch = data.train.__getitems__([4, 2])
    assert torch.equal(batch[1][0], data.train[2][0])
    assert torch.equal(batch.x[1:], batch[1:].x)
    assert int(data.train[-1][1]) == int(data.train.labels[-1])
    with pytest.raises(IndexError):
        data.train[30]


def test_a_plain_dataloader_reads_it_too() -> None:
    data = from_arrays("pictures", **colour_arrays())
    part = Subset(data.train, [5, 7, 9])
    ((x, y),) = DataLoader(part, batch_size=3)
    assert torch.equal(x, data.train.__getitems__([5, 7, 9]).x)
    assert y.tolist() == [2, 1, 0]


def test_outputs_count_classes_or_targets() -> None:
    assert from_arrays("pictures", **colour_arrays()).outputs == 3
    table = table_arrays()
    table["y_train"] = np.stack([table["y_train"]] * 4, axis=1)
    table["y_test"] = np.stack([table["y_test"]] * 4, axis=1)
    assert from_arrays("table", **table).outputs == 4


def test_batches_are_read_whole_and_not_sample_by_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = torch.zeros(2_000, 3, 8, 8, dtype=torch.uint8)
    dataset = ArrayDataset(
        raw, torch.zeros(2_000, dtype=torch.int64), Preprocess(255.0, (0.5,) * 3, (0.25,) * 3, (3, 8, 8))
    )
    monkeypatch.setattr(ArrayDataset, "__getitem__", None)
    calls = [len(x) for x, _ in batches(dataset, 256, generator=torch.Generator().manual_seed(0))]
    assert calls == [256] * 7 + [208]
