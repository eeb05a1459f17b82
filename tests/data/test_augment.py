"""Random crop and flip."""

from __future__ import annotations

import torch
from torch import Tensor

from gngraph.data import CropFlip


def crop_flip_one_by_one(x: Tensor, padding: int, shifts: Tensor, flipped: Tensor) -> Tensor:
    """The obvious way, for comparison."""
    height, width = x.shape[2:]
    padded = torch.nn.functional.pad(x, (padding,) * 4)
    pictures = []
    for picture, row, column, flip in zip(padded, *shifts.flatten(1).tolist(), flipped.tolist(), strict=True):
        crop = picture[:, row : row + height, column : column + width]
        pictures.append(crop.flip(2) if flip else crop)
    return torch.stack(pictures)


def test_it_equals_cropping_and_flipping_one_by_one() -> None:
    x = torch.randn(50, 3, 6, 9, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(1)
    shifts = torch.randint(5, (2, 50, 1), generator=generator)
    flipped = (torch.rand((50, 1), generator=generator) < 0.5).flatten()
    assert 0 < int(flipped.sum()) < 50
    actual, _ = CropFlip(padding=2)(x, None, torch.Generator().manual_seed(1))
    assert torch.equal(actual, crop_flip_one_by_one(x, 2, shifts, flipped))


def test_it_repeats_and_advances_only_its_own_generator() -> None:
    x = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    before, state = x.clone(), torch.random.get_rng_state()
    generator = torch.Generator().manual_seed(3)
    (first, _), (second, _) = CropFlip(1)(x, None, generator), CropFlip(1)(x, None, generator)
    assert torch.equal(first, CropFlip(1)(x, None, torch.Generator().manual_seed(3))[0])
    assert not torch.equal(first, second)
    assert torch.equal(x, before)
    assert torch.equal(state, torch.random.get_rng_state())
