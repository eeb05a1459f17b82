"""Tables as text: what is a class, what a number, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from gngraph.data import TableFile, load_data
from gngraph.data.dataset import ArrayDataset
from gngraph.data.preprocess import normalization
from gngraph.errors import DataError
from tests.command_line import Commands

HEAD = "rooms,area,kind,price,sold\n"


def write(path: Path, count: int = 40, between: str = ",") -> Path:
    generator = np.random.default_rng(0)
    lines = [HEAD]
    for i in range(count):
        rooms, area = int(generator.integers(1, 6)), float(generator.normal(80, 20))
        lines.append(f"{rooms},{area:.2f},{'flat' if i % 3 else 'house'},{1000 * rooms + 10 * area:.1f},{i % 2}\n")
    path.write_text("".join(lines).replace(",", between), "utf-8")
    return path


def targets(path: Path, *target: str, numbers: bool = False) -> tuple[torch.Tensor, tuple[str, ...]]:
    table = TableFile(str(path), target, ("rooms", "area"), numbers)
    data = load_data(table, normalize=normalization("none"))
    assert isinstance(data.train, ArrayDataset) and isinstance(data.test, ArrayDataset)
    assert data.input_shape == (2,) and len(data.train) + len(data.test) == 40 and data.notes
    return data.train.labels, data.classes


def test_text_and_whole_numbers_are_classes_and_other_numbers_a_regression(tmp_path: Path) -> None:
    path = write(tmp_path / "homes.csv")
    labels, classes = targets(path, "kind")
    assert classes == ("flat", "house") and labels.dtype == torch.int64 and {*labels.tolist()} == {0, 1}
    assert targets(path, "sold")[1] == ("0", "1")
    labels, classes = targets(path, "price")
    assert classes == () and labels.dtype == torch.float32 and labels.shape[1:] == (1,) and float(labels.min()) > 1000
    assert targets(path, "sold", numbers=True)[0].dtype == torch.float32
    assert targets(path, "price", "area".replace("area", "sold"))[0].shape[1:] == (2,)


def test_classes_keep_the_names_and_the_order_of_numbers(tmp_path: Path) -> None:
    path = tmp_path / "wine.tsv"
    path.write_text("acid\tquality\n" + "".join(f"{i}.5\t{(10, 3, 8)[i % 3]}\n" for i in range(30)), "utf-8")
    data = load_data(TableFile(str(path), ("quality",)))
    assert data.classes == ("3", "8", "10")


def test_other_separators_and_marks_of_bytes_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "homes.csv", between=";")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert targets(path, "kind")[1] == ("flat", "house")


@pytest.mark.parametrize(
    ("text", "columns", "told"),
    [
        (None, (), "name the column that is to be predicted (--target), one of rooms, area"),
        (None, (("prise",),), "has no column 'prise'; did you mean 'price'?"),
        (None, (("price",),), "column 'kind' of"),
        (
            None,
            (
                ("price",),
                ("price",),
            ),
            "column 'price' is a target and an input",
        ),
        (None, (("sold", "sold2"),), "no column 'sold2'"),
        ("a,b\n1,2\n3\n", (("b",),), "row 3 of"),
        ("a,b\n1,2\n,4\n", (("b",),), "holds nothing in row 3"),
        ("a,b\nnan,2.5\n1,4\n", (("b",),), "holds 'nan' in row 2"),
        ("1,2\n3,4\n", (("b",),), "must name the columns"),
        ("a,b\n", (("b",),), "holds no row"),
        ("a,b,c\n1,0,1\n2,1,0\n3,1,1\n", (("b", "c"),), "all 0 or 1: name the loss"),
        ("a,b\n1,x\n2,3\n", (("b",),), "column 'b' of"),
    ],
)
def test_what_cannot_be_read_is_refused(
    tmp_path: Path, text: str | None, columns: tuple[tuple[str, ...], ...], told: str
) -> None:
    path = write(tmp_path / "homes.csv")
    if text is not None:
        path.write_text(text)
    target, features = (*columns, (), ())[:2]
    with pytest.raises(DataError) as refused:
        load_data(TableFile(str(path), target, features))
    assert told in str(refused.value)


def test_columns_are_those_of_tables() -> None:
    with pytest.raises(DataError, match="'digits' is no table"):
        load_data(TableFile("digits", ("price",)))


def test_the_command_line_trains_a_regression_on_a_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "homes.csv", 120)
    command = Commands(capsys)
    command.ok("seed", "mlp", "--width", "0.03", "--classes", 1, "--input-shape", "2", "-o", "seed.gng")
    on = ("--data", "homes.csv", "--target", "price", "--features", "rooms,area")
    said = command.ok("train", "seed.gng", *on, "--epochs", 20, "--batch-size", 16, "-o", "trained.gng")
    loss = float(said.rsplit("test loss ", 1)[1])
    assert loss < 0.3 * 1_400_000, "far below the variance of prices"
