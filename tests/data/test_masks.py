"""Folders of pictures with masks: what a pixel's class is, what is refused, and what the command line says of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from gngraph.curvature import CrossEntropy, Segmentation
from gngraph.data import ArrayDataset, MaskFolder, load_data
from gngraph.errors import DataError
from gngraph.running.finite import standing
from gngraph.running.overlap import mean_overlap, overlaps
from gngraph.running.problem import Problem
from gngraph.zoo import build_seed
from tests.command_line import Commands

Numbers = npt.NDArray[np.uint8]


def write(root: Path, count: int = 30, side: int = 8, values: tuple[int, ...] = (0, 1), end: str = "") -> Path:
    """Pictures whose bright pixels are of the last class, and dark ones of the others in turn."""
    generator = np.random.default_rng(0)
    for name in ("images", "masks"):
        (root / name).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        bright = generator.random((side, side)) < 0.4
        pixels = (50 + 150 * bright).astype(np.uint8)
        labels = np.where(bright, values[-1], values[number % (len(values) - 1)]).astype(np.uint8)
        Image.fromarray(np.stack([pixels] * 3, 2)).save(root / "images" / f"{number:02}.png")
        Image.fromarray(labels).save(root / "masks" / f"{number:02}{end}.png")
    return root


def labels_of(part: object) -> torch.Tensor:
    assert isinstance(part, ArrayDataset)
    return part.labels


def test_masks_are_labels_of_pixels_with_their_names(tmp_path: Path) -> None:
    root = write(tmp_path / "cells", values=(0, 255, 1), end="_mask")
    (root / "classes.txt").write_text("ground\ncell\n")
    data = load_data(MaskFolder(str(root)), val_split=0.2)
    assert (data.classes, data.loss, data.input_shape, data.augment) == (
        ("ground", "cell"),
        "segmentation",
        (1, 8, 8),
        None,
    )
    train, test = labels_of(data.train), labels_of(data.test)
    assert (train.dtype, train.shape, len(test)) == (torch.uint8, (24, 8, 8), 6) and {*train.flatten().tolist()} == {
        0,
        1,
        255,
    }
    for x, y in (data.train[0], data.test[3]):
        assert torch.equal(x[0] > 0, y == 1), "a mask belongs to its picture"
    assert data.notes[0].startswith("pixels of masks that are 255 do not count (")


def test_pictures_and_masks_are_resized_alike_and_parts_are_read(tmp_path: Path) -> None:
    for part, count in (("train", 4), ("test", 2), ("val", 3)):
        write(tmp_path / part, count, side=16)
    for path in (tmp_path / "train").rglob("*.png"):
        Image.open(path).crop((0, 0, 16, 10)).save(path)
    data = load_data(MaskFolder(str(tmp_path)), input_shape=(1, 8, 8))
    assert (len(data.train), len(data.test), data.validation and len(data.validation)) == (4, 2, 3)
    assert {*labels_of(data.train).flatten().tolist()} == {0, 1}, "no mean of two classes"
    stripe = np.zeros((10, 16, 3), np.uint8)
    stripe[:, 5:11] = 200  # of a square of 10 from the middle, columns 2 to 7
    Image.fromarray(stripe).save(tmp_path / "train" / "images" / "00.png")
    Image.fromarray(stripe[:, :, 0] // 200).save(tmp_path / "train" / "masks" / "00.png")
    x, y = load_data(MaskFolder(str(tmp_path)), input_shape=(1, 5, 5)).train[0]
    assert torch.equal(x[0, 2] > x.mean(), y[2] == 1)


def test_black_and_white_masks_have_two_classes(tmp_path: Path) -> None:
    data = load_data(MaskFolder(str(write(tmp_path, values=(0, 255)))))
    assert data.classes == ("0", "1") and {*labels_of(data.train).flatten().tolist()} == {0, 1}
    assert "255 is taken for class 1" in data.notes[0]


def spoil(root: Path, what: str) -> None:
    mask = root / "masks" / "03.png"
    if what == "missing":
        mask.unlink()
    elif what == "size":
        Image.new("L", (8, 9)).save(mask)
    elif what == "colours":
        Image.new("RGB", (8, 8), (9, 0, 0)).save(mask)
    elif what == "lossy":
        Image.new("L", (8, 8)).save(mask, "JPEG")
    elif what == "number":
        Image.new("L", (8, 8), 77).save(mask)
    elif what == "unnamed":
        (root / "classes.txt").write_text("a\nb\n")
        Image.new("L", (8, 8), 2).save(mask)
    elif what == "names":
        (root / "classes.txt").write_text("a\n")


@pytest.mark.parametrize(
    ("what", "told"),
    [
        ("missing", "03.png' has no mask"),
        ("size", "is '9x8' but its picture"),
        ("colours", "holds colours (RGB): store the number"),
        ("lossy", "is a JPEG, which changes numbers"),
        ("number", "number 2 classes or more from 0 on, or name them"),
        ("unnamed", "03.png' holds the class '2', but"),
        ("names", "names 1 classes: name 2 to 255"),
    ],
)
def test_what_is_no_mask_is_refused(tmp_path: Path, what: str, told: str) -> None:
    spoil(write(tmp_path, 8), what)
    with pytest.raises(DataError) as refused:
        load_data(MaskFolder(str(tmp_path)))
    assert told in str(refused.value)


def test_other_folders_say_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"holds pictures with masks: say so \(--task segmentation\)"):
        load_data(str(write(tmp_path / "cells", 2)))
    with pytest.raises(DataError, match="has no folder 'images'"):
        load_data(MaskFolder(str(tmp_path)))
    with pytest.raises(DataError, match="'digits' is no folder"):
        load_data(MaskFolder("digits"))


def test_overlaps_are_intersections_and_unions_of_what_counts() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = torch.randn(3, 4, 5, 5, generator=generator)
    labels = torch.randint(4, (3, 5, 5), generator=generator)
    labels[0, 0] = 255
    rows = torch.tensor([True, True, False])
    found = overlaps(Segmentation(), outputs, labels.to(torch.uint8), rows)
    said, there, known = outputs.argmax(1)[:2], labels[:2], labels[:2] != 255
    both = [int(((said == k) & (there == k)).sum()) for k in range(4)]
    either = [int((((said == k) & known) | (there == k)).sum()) for k in range(4)]
    assert found is not None and found.tolist() == [both, either]
    assert mean_overlap(found) == pytest.approx(sum(a / b for a, b in zip(both, either, strict=True)) / 4)
    assert overlaps(CrossEntropy(), outputs[:, :, 0, 0], labels[:, 1, 1]) is None


def test_a_data_set_of_pictures_and_masks_is_a_problem_in_python() -> None:
    from gngraph.importing.from_torch import from_torch

    x = torch.randn(30, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    samples = torch.utils.data.TensorDataset(x, (x[:, 0] > 0).to(torch.uint8))
    problem = Problem((samples, samples), loss="segmentation")
    net = build_seed("unet", width=0.1, classes=2, input_shape=(1, 8, 8))
    found = standing(from_torch(net, x[:2]), problem)
    assert found.overlap is not None and 0 <= found.overlap <= 1 and found.accuracy is not None


def test_the_command_line_trains_on_masks_and_tells_the_overlap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "cells", 40)
    command = Commands(capsys)
    command.ok("seed", "unet", "--width", "0.25", "--classes", 2, "--input-shape", "1x8x8", "-o", "seed.gng")
    on = ("--data", "cells", "--task", "segmentation")
    said = command.ok(
        "train",
        "seed.gng",
        *on,
        *("--optimizer", "adamw", "--lr", "0.02", "--epochs", 8, "--batch-size", 4),
        "-o",
        "trained.gng",
    )
    assert float(said.rsplit("mean IoU ", 1)[1].split()[0]) > 45, "a third is that of one class for all pixels"
