"""The learn, judge and report splits."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Subset, TensorDataset

from gngraph.data import labels_of, load_data, make_splits
from gngraph.errors import DataError


def classed(count: int, classes: int = 5) -> TensorDataset:
    return TensorDataset(torch.zeros(count, 1), torch.arange(count) % classes)


@settings(max_examples=60, deadline=None)
@given(st.integers(24, 300), st.tuples(*[st.integers(8, 400)] * 3), st.integers(0, 5))
def test_splits_are_disjoint_large_enough_and_never_larger_than_asked(
    count: int, sizes: tuple[int, int, int], seed: int
) -> None:
    splits = make_splits(classed(count), *sizes, seed=seed)
    drawn = [index for split in splits for index in split.indices]
    assert len(set(drawn)) == len(drawn) <= count
    assert all(0 <= index < count for index in drawn)
    assert all(8 <= len(split) <= size for split, size in zip(splits, sizes, strict=True))
    if sum(sizes) <= count:
        assert tuple(len(split) for split in splits) == sizes
    else:
        assert len(drawn) > count - 3  # rounding down leaves at most two out


def test_the_seed_decides() -> None:
    same = [make_splits(classed(100), 40, 20, 20, seed).learn.indices for seed in (1, 1, 2)]
    assert same[0] == same[1] != same[2]


def test_every_class_has_its_share_in_every_split() -> None:
    labels = torch.cat([torch.full((80,), 0), torch.full((20,), 1)])
    for split in make_splits(TensorDataset(torch.zeros(100, 1), labels), 50, 25, 25, seed=0):
        rare = Counter(labels[list(split.indices)].tolist())[1]
        assert abs(rare - len(split) / 5) <= 2


def test_digits_splits_read_in_order_of_their_indices() -> None:
    train = load_data("digits").train
    splits = make_splits(train, 64, 32, 32, seed=0)
    labels = labels_of(splits.judge)
    assert labels is not None
    assert labels.tolist() == [int(splits.judge[index][1]) for index in range(32)]
    assert Counter(labels.tolist()).keys() == set(range(10))


def test_regressions_and_unknown_labels_are_split_at_random() -> None:
    floats = TensorDataset(torch.zeros(40, 1), torch.randn(40, 1))
    assert len(make_splits(floats, 8, 8, 8, seed=0).learn) == 8
    pairs = [(torch.zeros(1), torch.tensor(0)) for _ in range(40)]
    splits = make_splits(pairs, 8, 8, 8, seed=0)
    assert labels_of(splits.learn) is None
    assert labels_of(Subset(classed(10), [3, 9])).tolist() == [3, 4]  # type: ignore[union-attr]


def test_too_small_sizes_and_sets_are_refused() -> None:
    with pytest.raises(DataError, match="'judge' split of '7' samples"):
        make_splits(classed(100), 8, 7, 8, seed=0)
    with pytest.raises(DataError, match="training set of '23' samples"):
        make_splits(classed(23), 8, 8, 8, seed=0)
