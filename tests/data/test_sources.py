"""`load_data`: names, archives, torchvision's files."""

from __future__ import annotations

import gzip
import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, MNIST

from gngraph.data import SOURCES, Download, load_data
from gngraph.data.sources import npz
from gngraph.errors import DataError
from tests.data.arrays import colour_arrays, numbers_of, save_npz, table_arrays


def test_digits_need_no_files_and_are_split_the_same_way_each_time() -> None:
    data, again = load_data("digits"), load_data("digits")
    assert (len(data.train), len(data.test), data.augment) == (1437, 360, None)
    assert data.classes == tuple("0123456789")
    assert torch.equal(data.test.labels, again.test.labels)
    assert set(data.test.labels.bincount().tolist()) <= {35, 36, 37}
    pixels = data.train[0][0] * numbers_of(data).std[0] + numbers_of(data).mean[0]
    assert float(pixels.min()) >= -1e-6 and float(pixels.max()) <= 1 + 1e-6


def test_unknown_names_get_a_hint() -> None:
    with pytest.raises(DataError, match="no data set 'cifar1O': did you mean 'cifar10'; known are 'digits', 'cifar10'"):
        load_data("cifar1O")
    with pytest.raises(DataError, match=r"'no/such/file\.npz': check the spelling"):
        load_data("no/such/file.npz")


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("cifar10", "cifar-10-batches-py"),
        ("cifar100", "cifar-100-python"),
        ("mnist", "MNIST/raw"),
        ("fashion-mnist", "FashionMNIST/raw"),
    ],
)
def test_missing_sets_are_not_downloaded_unasked(name: str, folder: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"'{name}' is missing or damaged in '{tmp_path / folder}': pass --download"):
        load_data(name, root=tmp_path)
    assert name in SOURCES
    assert not list(tmp_path.iterdir())


def test_a_failed_download_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: MNIST) -> None:
        raise RuntimeError("Error downloading train-images:\nno route\n")

    monkeypatch.setattr(MNIST, "download", refuse)
    with pytest.raises(DataError, match=r"could not be fetched into .* \(Error downloading train-images: no route\)"):
        load_data("mnist", root=tmp_path, download=Download.IF_MISSING)


def test_mnist_is_read_from_its_files(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 20), ("t10k", 10)):
        pixels = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        header = np.array([0x803, count, 28, 28], dtype=">i4").tobytes()
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + pixels.tobytes())
        labels = (np.arange(count) % 10).astype(np.uint8)
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(np.array([0x801, count], ">i4").tobytes() + labels.tobytes())
    data = load_data("mnist", root=tmp_path, input_shape=(1, 32, 32))
    assert (len(data.train), len(data.test), data.input_shape) == (20, 10, (1, 32, 32))
    assert len(data.classes) == 10 and data.augment is None
    assert data.test.labels.tolist() == list(range(10))


def test_cifar10_is_read_from_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()

    def write(name: str, content: dict[str, object]) -> str:
        (folder / name).write_bytes(pickle.dumps(content))
        return hashlib.md5((folder / name).read_bytes()).hexdigest()

    pixels = np.random.default_rng(0).integers(0, 256, (20, 3 * 32 * 32), dtype=np.uint8)
    batch: dict[str, object] = {"data": pixels, "labels": [index % 10 for index in range(20)]}
    monkeypatch.setattr(CIFAR10, "train_list", [["data_batch_1", write("data_batch_1", batch)]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", write("test_batch", batch)]])
    names = [f"class {index}" for index in range(10)]
    digest = write("batches.meta", {"label_names": names})
    monkeypatch.setattr(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": digest})
    data = load_data("cifar10", root=tmp_path)
    assert data.input_shape == (3, 32, 32) and data.classes == tuple(names) and data.augment is not None
    numbers = numbers_of(data)
    restored = (
        data.train[3][0] * torch.tensor(numbers.std).view(3, 1, 1) + torch.tensor(numbers.mean).view(3, 1, 1)
    ) * 255
    assert np.array_equal(restored.round().numpy().ravel(), pixels[3])


def test_archives_of_pictures_and_tables(tmp_path: Path) -> None:
    arrays = {**colour_arrays(), "classes": np.array(["a", "b", "c"]), "note": np.array(3)}
    data = load_data(save_npz(tmp_path / "pictures.npz", arrays), input_shape=(3, 24, 24))
    assert (data.name, data.input_shape, data.classes) == ("pictures.npz", (3, 24, 24), ("a", "b", "c"))
    assert load_data(save_npz(tmp_path / "table.npz", table_arrays())).outputs == 1
    bytes_classes = {**colour_arrays(), "classes": np.array([b"a", b"b", b"c"])}
    assert load_data(save_npz(tmp_path / "bytes.npz", bytes_classes)).classes == ("a", "b", "c")


def test_an_archive_with_other_names_lists_what_is_there(tmp_path: Path) -> None:
    path = save_npz(tmp_path / "a.npz", {"images": np.zeros(3), "y_train": np.zeros(3)})
    with pytest.raises(DataError) as caught:
        load_data(path)
    text = str(caught.value)
    assert "lacks 'x_train': it holds 'images', 'y_train', and needed are 'x_train', 'y_train' ('x_test'" in text


def test_an_error_inside_an_archive_names_the_file(tmp_path: Path) -> None:
    arrays = colour_arrays()
    arrays["y_train"][1] = -4
    with pytest.raises(DataError, match=r"in '.*a\.npz', label '-4' of sample 1 in 'y_train'"):
        load_data(save_npz(tmp_path / "a.npz", arrays))


def test_objects_in_an_archive_are_never_unpickled(tmp_path: Path) -> None:
    arrays = {**colour_arrays(), "y_test": np.array([Trap()] * 10, dtype=object)}
    with pytest.raises(DataError, match=r"'y_test' in .* holds Python objects, which are never loaded"):
        load_data(save_npz(tmp_path / "a.npz", arrays))
    with pytest.raises(DataError, match=r"'classes' in .* must be a list of text"):
        load_data(save_npz(tmp_path / "b.npz", {**colour_arrays(), "classes": np.arange(3)}))


class Trap:
    """Raises when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return spring, ("unpickled",)


def spring(text: str) -> None:
    raise AssertionError(text)


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    whole = Path(save_npz(tmp_path / "whole.npz", colour_arrays())).read_bytes()
    flipped = bytearray(whole)
    flipped[5000] ^= 0xFF
    damaged = {
        "half.npz": whole[: len(whole) // 2],
        "flipped.npz": bytes(flipped),
        "empty.npz": b"",
        "text.npz": b"hello",
        "gzip.npz": gzip.compress(whole),
        "pickle.npz": pickle.dumps(Trap()),
    }
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=rf"{name}' is (not a readable \.npz archive|damaged)"):
            load_data(str(tmp_path / name))
    np.save(tmp_path / "single.npy", np.zeros(3))
    with pytest.raises(DataError, match="holds a single array"):
        load_data(str(tmp_path / "single.npy"))


def test_an_archive_without_a_test_part_has_a_part_held_out(tmp_path: Path) -> None:
    for arrays in (colour_arrays(), table_arrays()):
        path = save_npz(tmp_path / "a.npz", {name: array for name, array in arrays.items() if "train" in name})
        data, again = load_data(path), load_data(path)
        assert (len(data.train), len(data.test)) == (24, 6) and torch.equal(data.test[0][0], again.test[0][0])
        assert data.notes == ("no test part: 6 of 30 samples are held out (see --val-split)",)
        assert len(load_data(path, val_split=0.5).test) == 15
    assert load_data(path).classes == ()


def test_archives_that_unpack_to_much_more_than_they_hold_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = colour_arrays()
    arrays["x_train"] = np.zeros((30, 64, 64, 3), np.uint8)
    np.savez_compressed(tmp_path / "bomb.npz", allow_pickle=True, **arrays)
    assert "_MOST_PACKED" in vars(npz)
    monkeypatch.setattr(npz, "_MOST_PACKED", 2**10)
    with pytest.raises(DataError, match=r"'x_train' in '.*' unpacks from [0-9,]+ to 368,768 bytes"):
        load_data(str(tmp_path / "bomb.npz"))


def test_encrypted_members_and_labels_that_are_none_are_one_sentence(tmp_path: Path) -> None:
    arrays = colour_arrays()
    path = Path(save_npz(tmp_path / "a.npz", arrays))
    stored = bytearray(path.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = stored.find(signature)
        while at >= 0:
            stored[at + offset] |= 1
            at = stored.find(signature, at + 4)
    path.write_bytes(stored)
    with pytest.raises(DataError, match=r"'x_train' in .* is encrypted"):
        load_data(str(path))
    for labels, said in (
        (np.full(30, -1), "no label above '-1'"),
        (np.full(30, 2**63 + 1, np.uint64), "holds the label '9"),
    ):
        with pytest.raises(DataError, match=said):
            load_data(save_npz(tmp_path / "b.npz", {**arrays, "y_train": labels}))
