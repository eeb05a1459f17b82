"""Augmentations by name, of torchvision, and of the user's own."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.transforms import v2

from gngraph.curvature import LossLike
from gngraph.data import Augment, Data, from_arrays
from gngraph.data.augment import UNKNOWN
from gngraph.data.augmentations import parsed
from gngraph.errors import DataError, OptionError
from gngraph.running.problem import Problem

NAMES = ["flip", "crop", "resized-crop", "randaugment", "trivialaugment", "autoaugment", "erasing", "mixup", "cutmix"]


def colours(side: int = 16, count: int = 24) -> Data:
    """Pictures stored as bytes, of three classes."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3)).astype(np.uint8)
    labels = np.arange(count) % 3
    return from_arrays("colours", pixels, labels, pixels[:6], labels[:6])


def augmentation(augment: Any, data: Any = None, loss: LossLike = "cross-entropy") -> Augment:
    made = Problem(data or colours(), loss, augment=augment, device="cpu").augmentation
    assert made is not None
    return made


def changed(augment: Augment, x: Tensor, y: Any, seed: int = 0) -> tuple[Tensor, Any]:
    return augment(x, y, torch.Generator().manual_seed(seed))


def of(data: Data) -> tuple[Tensor, Tensor]:
    batch = data.train.__getitems__(range(12))
    return batch.x, batch.y


@pytest.mark.parametrize("name", NAMES)
def test_every_name_changes_samples_and_repeats_and_leaves_other_generators_alone(name: str) -> None:
    (x, y), augment = of(colours()), augmentation(name)
    state, python = torch.get_rng_state(), random.getstate()
    a, targets = changed(augment, x, y)
    torch.rand(3), random.random()
    b, again = changed(augment, x, y)
    assert torch.equal(a, b) and torch.equal(targets, again) and not torch.equal(a, changed(augment, x, y, 1)[0])
    assert (a.shape, a.dtype) == (x.shape, x.dtype) and not torch.equal(a, x)
    torch.set_rng_state(state)
    random.setstate(python)
    changed(augment, x, y)
    assert torch.equal(torch.get_rng_state(), state) and random.getstate() == python


def test_pictures_of_a_batch_are_changed_apart() -> None:
    x = colours().train[0][0].expand(16, -1, -1, -1)
    made, _ = changed(augmentation("trivialaugment"), x, torch.zeros(16, dtype=torch.int64))
    assert len({tuple(picture.flatten()[:40].tolist()) for picture in made}) > 4


def test_colours_are_changed_in_the_bytes_that_are_stored() -> None:
    data = colours()
    x, y = of(data)
    seen: list[Tensor] = []

    class Keeping(v2.Transform):  # type: ignore[misc]
        def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
            seen.append(inpt)
            return inpt

    made, _ = changed(augmentation(Keeping(), data), x, y)
    assert torch.equal(torch.stack(seen), data.train.stored(range(12)))
    torch.testing.assert_close(made, x)


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        ("cross-entropy", torch.tensor([0, 2, 1, 1])),
        ("cross-entropy", torch.eye(3)[[0, 2, 1, 1]]),
        ("bce-with-logits", torch.tensor([[1, 0], [0, 0], [1, 1], [0, 1]])),
        ("mse", torch.tensor([1.0, 2.0, 4.0, 8.0])),
    ],
)
def test_mixup_mixes_targets_by_the_share_of_the_samples(loss: LossLike, targets: Tensor) -> None:
    x = torch.eye(4)
    data = (x.repeat(8, 1), targets.repeat(8, *[1] * (targets.dim() - 1)))
    made, mixed = changed(augmentation("mixup{alpha=5}", data, loss), x, targets)
    shares = made.diagonal()
    assert 0 < float(shares[0]) < 1
    whole = torch.eye(3)[targets] if targets.dim() == 1 and not targets.is_floating_point() else targets.float()
    expected = made.reshape(4, 4) @ whole.reshape(4, -1)
    torch.testing.assert_close(mixed.reshape(4, -1), expected)
    assert mixed.shape == (whole.shape if loss == "cross-entropy" else targets.shape)


def test_masks_move_with_their_pictures() -> None:
    labels = torch.randint(0, 3, (8, 16, 16), generator=torch.Generator().manual_seed(0))
    x = labels.float().unsqueeze(1).expand(-1, 3, -1, -1).contiguous()
    for name in ("flip", "crop{padding=3}", "crop,flip", "resized-crop{scale=1;1,ratio=1;1}"):
        made, masks = changed(augmentation(name, (x, labels), "segmentation"), x, labels)
        known = masks != UNKNOWN
        assert (masks.shape, masks.dtype) == (labels.shape, labels.dtype)
        assert torch.equal(made[:, 0][known].round().long(), masks[known]) and bool(known.any())
        assert known.all() or "crop" in name


def both(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    return x + torch.rand(1) + random.random() + np.random.rand(), y.flip(0)


def test_functions_of_ones_own_get_a_batch_or_a_batch_with_its_targets() -> None:
    x, y = of(colours())
    made, targets = changed(augmentation(both), x, y)
    assert torch.equal(targets, y.flip(0)) and torch.equal(made, changed(augmentation(both), x, y)[0])
    assert torch.equal(changed(augmentation([lambda x: -x, "none"]), x, y)[0], -x)
    by_name = augmentation("tests.data.test_augmentations:both")
    assert torch.equal(changed(by_name, x, y)[0], made) and str(by_name) == "tests.data.test_augmentations:both"


def test_transforms_of_torchvision_are_taken_as_they_are_meant() -> None:
    x, y = of(colours())
    either = v2.RandomChoice([v2.MixUp(num_classes=3), v2.CutMix(num_classes=3)])
    made, targets = changed(augmentation([v2.RandomHorizontalFlip(1.0), either]), x, y)
    assert targets.shape == (12, 3) and made.shape == x.shape
    with pytest.raises(DataError, match="give the two apart"):
        augmentation(v2.Compose([v2.RandomHorizontalFlip(), v2.MixUp(num_classes=3)]))


def nothing(x: Tensor) -> Tensor:
    return x[:, :1]


def failing(x: Tensor) -> Tensor:
    raise KeyError("palette")


REFUSED: dict[str, tuple[Any, Callable[[], Any], LossLike, str]] = {
    "colours of floats": ("randaugment", lambda: (torch.rand(30, 3, 16, 16), torch.arange(30) % 3), "cross-entropy", "stored as"),
    "a table that is flipped": ("flip", lambda: (torch.rand(30, 4), torch.arange(30) % 3), "cross-entropy", "for pictures C,H,W"),
    "a table that is cut": ("cutmix", lambda: (torch.rand(30, 4), torch.arange(30) % 3), "cross-entropy", "for pictures"),
    "a regression that is cut": ("cutmix", lambda: (torch.rand(30, 3, 8, 8), torch.rand(30)), "mse", "not known for 'mse'"),
    "pixels with targets": ("mixup", lambda: (torch.rand(30, 3, 8, 8), torch.ones(30, 8, 8)), "segmentation", "'segmentation'"),
    "a loss of one's own": ("mixup", lambda: (torch.rand(30, 4), torch.rand(30, 1)), nn.L1Loss(reduction="none"), "not known for"),
    "masks that are sheared": ("randaugment", lambda: (torch.rand(30, 3, 8, 8), torch.ones(30, 8, 8)), "segmentation", "stay as"),
    "one that takes neither": (lambda: 0, colours, "cross-entropy", "takes neither"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_has_no_meaning_is_refused(kind: str) -> None:
    augment, data, loss, message = REFUSED[kind]
    with pytest.raises(DataError, match=message):
        augmentation(augment, data(), loss)


@pytest.mark.parametrize(
    ("augment", "message"),
    [
        (nothing, "but shape and type must stay"),
        (failing, "failed on a batch: KeyError: 'palette'"),
        (lambda x, y: x, "returned a 'Tensor', but must return x and y"),
        (lambda x, y: (x, y[:2]), "no tensors of 12 samples"),
        (v2.ToDtype(torch.float32), "leave what normalises or converts"),
    ],
)
def test_what_gives_something_else_is_refused(augment: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        changed(augmentation(augment), *of(colours()))


def test_targets_of_every_pixel_do_not_stay_behind() -> None:
    x = torch.rand(30, 3, 8, 8)
    with pytest.raises(DataError, match="a target for every pixel"):
        changed(augmentation("flip", (x, x), "mse"), x, x)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flop", "there is no augmentation 'flop'; did you mean 'flip'"),
        ("flip{p=2}", "must be a number of at least 0 and at most 1"),
        ("mixup{beta=1}", "has no option 'beta'"),
        ("resized-crop{scale=0.5}", "two numbers, the smaller first"),
        ("nowhere.to:be", "could not be found: ModuleNotFoundError"),
        (3, "not of type 'int'"),
    ],
)
def test_unknown_texts_are_refused_before_anything_is_read(text: Any, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Problem((torch.rand(30, 4), torch.zeros(30)), augment=text)


def test_none_and_auto() -> None:
    data = colours()
    assert Problem(data, augment="none").augmentation is None is Problem(data, augment=None).augmentation
    assert Problem(data).augmentation is data.augment
    assert str(augmentation("auto,mixup{alpha=0.2,p=0.5}")) == "crop{padding=2},flip,mixup{alpha=0.2,p=0.5}"
    assert Problem(replace(data, augment=None)).augmentation is None and parsed("none") == ()
