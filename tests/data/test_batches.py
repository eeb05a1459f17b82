"""Order, repeatability and sizes of batches."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from torch.utils.data import TensorDataset

from gngraph.data import CropFlip, batches, from_arrays
from gngraph.errors import DataError
from tests.data.arrays import colour_arrays


def numbers(count: int) -> TensorDataset:
    return TensorDataset(torch.arange(float(count)).reshape(-1, 1), torch.arange(count))


def labels(count: int, batch_size: int, seed: int | None = None) -> list[list[int]]:
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    return [y.tolist() for _, y in batches(numbers(count), batch_size, generator=generator)]


@pytest.mark.parametrize(
    ("count", "batch_size", "sizes"),
    [(10, 4, [4, 4, 2]), (9, 4, [4, 5]), (8, 4, [4, 4]), (1, 4, [1]), (3, 1, [1, 1, 1]), (5, 4, [5]), (3, 9, [3])],
)
def test_a_lone_last_sample_joins_the_batch_before(count: int, batch_size: int, sizes: list[int]) -> None:
    groups = labels(count, batch_size)
    assert [len(group) for group in groups] == sizes
    assert list(chain(*groups)) == list(range(count))


def test_shuffling_repeats_covers_all_and_goes_on() -> None:
    first = list(chain(*labels(50, 8, seed=1)))
    assert first == list(chain(*labels(50, 8, seed=1)))
    assert first != list(range(50)) and sorted(first) == list(range(50))
    generator = torch.Generator().manual_seed(1)
    epochs = [torch.cat([y for _, y in batches(numbers(50), 8, generator=generator)]).tolist() for _ in range(2)]
    assert epochs[0] == first and epochs[1] != first


def test_the_global_random_state_is_neither_read_nor_changed() -> None:
    data = from_arrays("pictures", **colour_arrays())
    torch.manual_seed(5)
    state = torch.random.get_rng_state()
    runs = []
    for seed in (5, 6):
        generator = torch.Generator().manual_seed(0)
        runs.append(torch.cat([x for x, _ in batches(data.train, 8, generator=generator, augment=data.augment)]))
        if seed == 5:
            assert torch.equal(state, torch.random.get_rng_state())
        torch.manual_seed(6)
    assert torch.equal(*runs)


def test_augmented_batches_differ_from_plain_ones() -> None:
    data = from_arrays("pictures", **colour_arrays())
    plain = torch.cat([x for x, _ in batches(data.train, 8, generator=torch.Generator().manual_seed(0))])
    changed = [
        x for x, _ in batches(data.train, 8, generator=torch.Generator().manual_seed(0), augment=CropFlip(padding=2))
    ]
    assert plain.shape == torch.cat(changed).shape
    assert not torch.equal(plain, torch.cat(changed))


def test_worker_processes_give_the_same_batches() -> None:
    data = from_arrays("pictures", **colour_arrays())
    here = [x for x, _ in batches(data.train, 8, workers=0)]
    there = [x for x, _ in batches(data.train, 8, workers=1)]
    assert all(torch.equal(a, b) for a, b in zip(here, there, strict=True))


def test_refusals_come_at_once() -> None:
    with pytest.raises(DataError, match="batch size '0'"):
        batches(numbers(4), 0)
    with pytest.raises(DataError, match="empty"):
        batches(numbers(0), 4)
    with pytest.raises(DataError, match=r"'crop\{padding=1\},flip' has no generator"):
        batches(numbers(4), 4, augment=CropFlip(1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_on_a_gpu_equal_those_on_the_cpu() -> None:
    data = from_arrays("pictures", **colour_arrays())
    runs = [
        torch.cat(
            [
                x.cpu()
                for x, _ in batches(
                    data.train, 8, generator=torch.Generator().manual_seed(0), augment=data.augment, device=device
                )
            ]
        )
        for device in ("cpu", "cuda")
    ]
    assert torch.equal(*runs)
