"""Image folders."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torchvision.datasets.folder import default_loader
from torchvision.transforms.functional import pil_to_tensor

from gngraph.data import ArrayDataset, CropFlip, batches, load_data, make_splits
from gngraph.data.sources import folder, pictures
from gngraph.data.sources.folder import FolderDataset
from gngraph.errors import DataError
from tests.data.arrays import numbers_of, save_folder, save_picture, save_pixels


def test_a_folder_of_equal_pictures_keeps_their_size(tmp_path: Path) -> None:
    data = load_data(save_folder(tmp_path / "pets"))
    assert (data.name, data.classes, data.input_shape) == ("pets", ("cat", "dog"), (3, 16, 20))
    assert data.train.labels.tolist() == [0] * 4 + [1] * 4
    assert len(data.test) == 4 and data.augment == CropFlip(padding=2)
    x = data.train.__getitems__(range(8)).x
    assert torch.allclose(x.mean((0, 2, 3)), torch.zeros(3), atol=1e-5)


def test_grey_pictures_stay_grey_unless_asked(tmp_path: Path) -> None:
    path = save_folder(tmp_path, channels=1, held_out="val")
    assert load_data(path).input_shape == (1, 16, 20)
    assert load_data(path, input_shape=(3, 8, 8)).train[0][0].shape == (3, 8, 8)


def test_grey_pictures_stored_in_colour_are_grey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grey = save_folder(tmp_path / "grey", channels=1)
    spread = save_folder(tmp_path / "spread", channels=1)
    for path in (tmp_path / "spread").rglob("*.png"):
        save_pixels(path, pil_to_tensor(default_loader(str(path))))
    for limit in (2**20, 0):
        monkeypatch.setattr(folder, "MEMORY_LIMIT", limit)
        a, b = load_data(grey), load_data(spread)
        assert a.input_shape == b.input_shape == (1, 16, 20)
        assert torch.equal(a.test[0][0], b.test[0][0])


def test_colour_becomes_grey_when_asked(tmp_path: Path) -> None:
    assert load_data(save_folder(tmp_path), input_shape=(1, 16, 20)).train[0][0].shape == (1, 16, 20)


def test_pictures_of_more_than_8_bits_are_refused(tmp_path: Path) -> None:
    path = save_folder(tmp_path, channels=1)
    deep = torch.full((1, 16, 20), 30_000, dtype=torch.int16)
    for name in ("deep.png", "deep.tif"):
        save_pixels(tmp_path / "train" / "cat" / name, deep)
        with pytest.raises(DataError, match=rf"{name}' may have more than 8 bits a channel: convert it"):
            load_data(path)
        (tmp_path / "train" / "cat" / name).unlink()


def test_mixed_sizes_need_an_input_shape(tmp_path: Path) -> None:
    path = save_folder(tmp_path)
    save_picture(tmp_path / "test" / "dog" / "tall.png", 3, 30, 10)
    with pytest.raises(DataError, match=r"tall\.png' is '30x10' but '.*0\.png' is '16x20' .* --input-shape 3x16x20"):
        load_data(path)
    assert load_data(path, input_shape=(3, 12, 12)).test[-1][0].shape == (3, 12, 12)


def test_resizing_keeps_proportions_and_crops_the_centre(tmp_path: Path) -> None:
    path = save_folder(tmp_path, channels=1, height=8, width=24)
    stripes = torch.zeros(1, 8, 24, dtype=torch.uint8)
    stripes[:, :, 8:16] = 255
    save_pixels(tmp_path / "train" / "cat" / "0.png", stripes)
    data = load_data(path, input_shape=(1, 8, 8))
    pixels = data.train[0][0] * numbers_of(data).std[0] + numbers_of(data).mean[0]
    assert torch.allclose(pixels, torch.ones(1, 8, 8), atol=1e-5)


def test_a_large_folder_is_read_on_demand_with_the_same_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_folder(tmp_path)
    held = load_data(path)
    monkeypatch.setattr(folder, "MEMORY_LIMIT", 0)
    read = load_data(path)
    assert isinstance(held.train, ArrayDataset) and isinstance(read.train, FolderDataset)
    assert read.train.workers >= 1
    for part in ("mean", "std"):
        assert getattr(numbers_of(read), part) == pytest.approx(getattr(numbers_of(held), part))
    for a, b in zip(batches(held.train, 3), batches(read.train, 3, workers=1), strict=True):
        assert torch.allclose(a[0], b[0], atol=1e-5) and torch.equal(a[1], b[1])


def test_splits_of_a_folder_read_on_demand_are_iterable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(24):
        save_picture(tmp_path / "train" / f"class {index % 2}" / f"{index}.png", 3, 8, 8)
    save_picture(tmp_path / "test" / "class 1" / "0.png", 3, 8, 8)
    monkeypatch.setattr(folder, "MEMORY_LIMIT", 0)
    data = load_data(str(tmp_path))
    assert data.test.labels.tolist() == [1]  # numbered as in train, although 'class 0' is not tested
    splits = make_splits(data.train, 8, 8, 8, seed=0)
    assert sum(len(x) for x, _ in batches(splits.learn, 4)) == 8


def test_unusable_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a" / "train").mkdir(parents=True)
    with pytest.raises(DataError, match=r"train' has no class folder"):
        load_data(str(tmp_path / "a"))
    (tmp_path / "only" / "test").mkdir(parents=True)
    with pytest.raises(DataError, match="holds 'test' and no 'train': an image folder needs 'train' and 'test'"):
        load_data(str(tmp_path / "only"))
    made = save_folder(tmp_path / "b")
    (tmp_path / "b" / "train" / "bird").mkdir()
    with pytest.raises(DataError, match=r"a class folder without a picture, 'bird'"):
        load_data(made)
    made = save_folder(tmp_path / "c")
    save_picture(tmp_path / "c" / "test" / "emu" / "0.png", 3, 16, 20)
    with pytest.raises(DataError, match=r"has the class folder 'emu', which .*train' lacks"):
        load_data(made)


def test_unreadable_pictures_are_named(tmp_path: Path) -> None:
    path = save_folder(tmp_path)
    for name, content in (("half.png", (tmp_path / "train" / "cat" / "0.png").read_bytes()[:200]), ("a.bmp", b"BM")):
        bad = tmp_path / "train" / "dog" / name
        bad.write_bytes(content)
        with pytest.raises(DataError, match=rf"picture '.*{name}' cannot be read \(.*\): repair or remove it"):
            load_data(path)
        bad.unlink()


@pytest.mark.parametrize("shape", [(2, 8, 8), (64,), (3, 0, 8)])
def test_input_shapes_that_no_picture_has_are_refused(shape: tuple[int, ...], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not fit pictures: give 1xHxW for grey or 3xHxW"):
        load_data(save_folder(tmp_path), input_shape=shape)


def test_class_folders_alone_have_a_part_held_out(tmp_path: Path) -> None:
    whole = Path(save_folder(tmp_path)) / "train"
    data = load_data(str(whole), val_split=0.25)
    assert (len(data.train), len(data.test), data.classes) == (6, 2, ("cat", "dog"))
    assert sorted(data.test.labels.tolist()) == [0, 1]
    assert data.notes == ("no test part: 2 of 8 pictures are held out (see --val-split)",)
    (tmp_path / "test").rename(tmp_path / "elsewhere")
    assert len(load_data(str(tmp_path), val_split=0.25).test) == 2


def test_links_pipes_and_other_files_are_counted_not_read(tmp_path: Path) -> None:
    path = Path(save_folder(tmp_path))
    cat = path / "train" / "cat"
    (cat / "loop").symlink_to(path / "train")
    (cat / "again").symlink_to(path / "train" / "dog")
    (cat / "gone.png").symlink_to(path / "nowhere.png")
    (cat / "labels.txt").write_text("cat")
    (cat / ".DS_Store").write_bytes(b"")
    os.mkfifo(cat / "pipe.png")
    (path / "elsewhere").mkdir()
    save_picture(path / "elsewhere" / "new.png", 3, 16, 20)
    (cat / "linked").symlink_to(path / "elsewhere")
    data = load_data(str(path))
    assert data.train.labels.tolist() == [0] * 5 + [1] * 4
    assert data.notes == (
        f"left out: '{cat / 'again'}' and 1 more, a link to a folder that is read already",
        f"left out: '{cat / 'gone.png'}', a link that leads nowhere",
        f"left out: '{cat / 'labels.txt'}', no picture by its suffix (.png, .jpg, .jpeg, .webp, .bmp)",
        f"left out: '{cat / 'pipe.png'}', neither file nor folder",
    )


def test_the_content_of_a_picture_counts_not_its_suffix(tmp_path: Path) -> None:
    path = save_folder(tmp_path, channels=1)
    bad = tmp_path / "train" / "cat" / "bad.png"
    save_pixels(tmp_path / "deep.png", torch.full((1, 16, 20), 30_000, dtype=torch.int16))
    (tmp_path / "deep.png").rename(bad.with_suffix(".jpg"))
    with pytest.raises(DataError, match=r"bad\.jpg' may have more than 8 bits"):
        load_data(path)
    bad.with_suffix(".jpg").unlink()
    bad.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 20\n%%EOF\n")
    with pytest.raises(DataError, match=r"bad\.png' cannot be read \(cannot identify image file"):
        load_data(path)


def test_a_picture_of_extreme_proportions_costs_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save_folder(tmp_path)
    save_picture(tmp_path / "train" / "cat" / "line.png", 3, 1, 20_000)
    assert load_data(path, input_shape=(3, 224, 224)).train[0][0].shape == (3, 224, 224)
    monkeypatch.setattr(pictures, "_LARGEST", 10_000)
    with pytest.raises(DataError, match=r"line\.png' has 1x20000 pixels, and at most 10,000 are read"):
        load_data(path)
