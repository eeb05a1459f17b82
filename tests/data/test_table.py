"""Tables as text: what is a class, what a number, and what is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from gngraph.data import TableFile, load_data
from gngraph.data.dataset import ArrayDataset
from gngraph.data.preprocess import normalization
from gngraph.errors import DataError
from tests.command_line import Commands

WORDS = (("fine", "good"), ("poor", "bad"))
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


def write_reviews(path: Path, count: int = 40) -> Path:
    rows = [
        f'"{word} room, {"very " * (i % 3)}{word}",{verdict}' for i in range(count) for word, verdict in [WORDS[i % 2]]
    ]
    path.write_text("\n".join(["review,verdict", *rows]), "utf-8")
    return path


def test_a_column_of_text_is_read_as_tokens_of_one_length(tmp_path: Path) -> None:
    table = TableFile(str(write_reviews(tmp_path / "reviews.csv")), ("verdict",))
    data = load_data(table, input_shape=(16,))
    assert (data.classes, data.loss, data.outputs, data.preprocess.record()["of"]) == (
        ("bad", "good"),
        None,
        2,
        "bytes",
    )
    assert isinstance(data.train, ArrayDataset) and len(data.train) == 32 and len(data.test) == 8
    x, y = data.train[0]
    word, verdict = WORDS[0]
    assert x.dtype == torch.int64 and bytes(x.tolist()) == f"{word} room, {word}".encode()[:16].ljust(16, b"\0")
    assert data.classes[int(y)] == verdict
    assert "texts are cut to 16 tokens, the shorter ones filled up with 0" in data.notes[-1]
    with pytest.raises(DataError, match="is text, but the network takes samples of shape 1x8x8"):
        load_data(table, input_shape=(1, 8, 8))
    with pytest.raises(DataError, match="which no tokenizer reads: leave the tokenizer out"):
        load_data(TableFile(str(write(tmp_path / "homes.csv")), ("price",), ("rooms",)), tokenizer=Path("a.json"))


def test_a_tokenizer_reads_a_column_of_text(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    known = {"[UNK]": 0, "fine": 1, "poor": 2, "room,": 3, "very": 4, "[PAD]": 5}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(known, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.save(str(tmp_path / "words.json"))
    table = TableFile(str(write_reviews(tmp_path / "reviews.csv")), ("verdict",))
    x, _ = load_data(table, input_shape=(6,), tokenizer=tmp_path / "words.json").train[0]
    assert x.tolist() == [1, 3, 1, 5, 5, 5]


class Frame(dict[str, list[object]]):
    """Stands for a frame of polars."""

    columns = property(lambda self: list(self))

    def __getitem__(self, name: str) -> Frame:  # type: ignore[override]
        return Frame(list=dict.__getitem__(self, name))

    def to_list(self) -> list[object]:
        return dict.__getitem__(self, "list")


def test_parquet_is_read_where_a_package_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = Frame(a=[0.5, 1.5, float("nan")] * 4, b=[True, False, True] * 4, kind=["x", "y", "x"] * 4)
    module = ModuleType("polars")
    module.read_parquet = lambda path: frame  # type: ignore[attr-defined]
    (path := tmp_path / "homes.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "polars", module)
    data = load_data(TableFile(str(path), ("kind",), ("b",)), normalize=normalization("none"))
    assert data.classes == ("x", "y") and {float(data.train[row][0]) for row in range(len(data.train))} == {0.0, 1.0}
    with pytest.raises(DataError, match=r"column 'a' of .*homes\.parquet' holds nothing in row 3"):
        load_data(TableFile(str(path), ("kind",)))
    for name in ("polars", "pandas"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(DataError, match="needs the package 'polars', or 'pandas' with 'pyarrow': install one"):
        load_data(TableFile(str(path), ("kind",)))


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
