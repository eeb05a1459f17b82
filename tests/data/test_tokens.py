"""Texts and whole numbers as samples of language models, from files and on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gngraph.analysis.fit import check_fit, problem_for
from gngraph.curvature import CrossEntropy, NextToken
from gngraph.data import Reads, load_data
from gngraph.data.tokens import Tokens, are_positions, from_tokens
from gngraph.deploy.to_onnx import export_onnx
from gngraph.errors import DataError
from gngraph.files.archive import load, save
from gngraph.importing.examples import example_for
from gngraph.importing.from_torch import from_torch
from gngraph.lowering.to_torch import to_torch
from gngraph.running.problem import Problem
from gngraph.zoo import build_seed
from tests.command_line import Commands

TEXT = "the quick brown fox jumps over the lazy dog, and so on. " * 20


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text(TEXT)
    return path


def test_windows_of_bytes_have_the_next_bytes_as_labels(corpus: Path) -> None:
    data = load_data(str(corpus), input_shape=(8,), val_split=0.25)
    text = torch.tensor(list(TEXT.encode()))
    assert (data.loss, data.outputs, data.input_shape, len(data.classes)) == ("next-token", 256, (8,), 256)
    assert data.preprocess.record() == {"tokens": 256, "of": "bytes", "shape": [8]}
    samples = data.train.__getitems__(range(len(data.train)))
    x, y = samples.x, samples.y
    assert x.dtype == y.dtype == torch.int64
    assert torch.equal(x.flatten(), text[: x.numel()]) and torch.equal(y.flatten(), text[1 : y.numel() + 1])
    held = text[len(text) - round(0.25 * len(text)) :]
    assert torch.equal(data.test[0][0], held[:8])  # the end of the text, of which nothing is trained on
    assert x.numel() <= len(text) - len(held)


def test_a_tokenizer_reads_a_text(corpus: Path, tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    words = sorted({*TEXT.split(), "[UNK]"})
    made = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.save(str(tmp_path / "words.json"))
    data = load_data(str(corpus), input_shape=(4,), tokenizer=tmp_path / "words.json")
    assert data.classes == tuple(words)
    assert [words[i] for i in data.train[0][0].tolist()] == TEXT.split()[:4]
    assert "words.json" in data.preprocess.text


@pytest.mark.parametrize(
    ("text", "options", "told"),
    [
        ("", {}, "has 0 tokens to train or to test on, too few for a window of 64"),
        ("short", {"input_shape": (8,)}, "take a longer text, or a network with a shorter context"),
        (TEXT, {"input_shape": (3, 8, 8)}, "is a text, but the network takes samples of shape 3x8x8"),
        (TEXT, {"tokenizer": Path("none.json")}, "is no file of the package tokenizers"),
    ],
)
def test_what_is_wrong_with_a_text_is_told(tmp_path: Path, text: str, options: dict[str, Any], told: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    with pytest.raises(DataError, match=told):
        load_data(str(tmp_path / "a.txt"), **options)


def test_a_tokenizer_is_for_texts() -> None:
    with pytest.raises(DataError, match="'digits' is no text, so that no tokenizer reads it"):
        load_data("digits", tokenizer=Path("words.json"))


def arrays(tmp_path: Path, **parts: Any) -> str:
    np.savez(tmp_path / "tokens.npz", **parts)
    return str(tmp_path / "tokens.npz")


def test_archives_of_whole_numbers_are_tokens(tmp_path: Path) -> None:
    x = np.arange(60).reshape(20, 3) % 7
    data = load_data(arrays(tmp_path, x_train=x, y_train=(x + 1) % 7))
    assert (data.loss, data.outputs, len(data.test)) == ("next-token", 7, 4)
    assert data.train[0][0].dtype == torch.int64
    one = load_data(arrays(tmp_path, x_train=x, y_train=np.arange(20) % 2), reads=Reads.TOKENS)
    assert (one.loss, one.classes, one.preprocess.text) == (None, ("0", "1"), "tokens below 7 (numbers)")
    table = load_data(arrays(tmp_path, x_train=x, y_train=np.arange(20) % 2))
    assert table.train[0][0].dtype == torch.float32  # as measurements are
    assert not are_positions(x, np.eye(3, dtype=int)[np.arange(20) % 3])
    with pytest.raises(DataError, match="'x_train' holds '-1': tokens and labels are numbered from 0"):
        load_data(arrays(tmp_path, x_train=x - 1, y_train=x))
    with pytest.raises(DataError, match="samples of '3' tokens, but the network takes '5'"):
        load_data(arrays(tmp_path, x_train=x, y_train=x), input_shape=(5,))


def test_positions_whose_label_is_left_out_do_not_count() -> None:
    x = np.arange(24).reshape(6, 4) % 5
    y = np.where(np.arange(4) < 2, -100, x)
    data = from_tokens("words", [x, y, x[:2], y[:2]])
    assert (data.loss, len(data.classes), int(data.train.labels.min())) == ("next-token", 5, -100)
    with pytest.raises(DataError, match="no label of 'y_test' counts"):
        from_tokens("words", [x, y, x[:2], np.full((2, 4), -100)])
    with pytest.raises(DataError, match="'y_train' holds '-1'"):
        from_tokens("words", [x, y + (y < 0) * 99, x[:2], y[:2]])


def test_the_loss_is_the_cross_entropy_with_classes_last() -> None:
    logits, labels = torch.randn(4, 5, 7, dtype=torch.float64), torch.randint(7, (4, 5))
    last, second = NextToken(), CrossEntropy()
    torch.testing.assert_close(last.per_sample(logits, labels), second.per_sample(logits.movedim(2, 1), labels))
    factors = last.hessian_factors(logits[:1, :2], labels[:1, :2]).flatten(1)
    reference = second.hessian_factors(logits[:1, :2].movedim(2, 1), labels[:1, :2]).movedim(2, 3).flatten(1)
    torch.testing.assert_close(factors.T @ factors, reference.T @ reference)
    drawn = last.sample_factor(logits, labels, torch.Generator().manual_seed(0))
    assert drawn.shape == logits.shape and float(drawn.sum(2).abs().max()) < 1e-12
    with pytest.raises(DataError, match=r"needs outputs .*, but they have shape 4x7"):
        last.per_sample(logits[:, 0], labels[:, 0])
    with pytest.raises(DataError, match='label "7" of sample 0'):
        last.check_targets(logits, labels + 7)


def test_a_gpt_is_a_job_like_others(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Seeded, trained and measured on a text, from the command line."""
    gngraph = Commands(capsys)
    seed, trained = (str(tmp_path / name) for name in ("seed.gng", "trained.gng"))
    kind = "gpt{norm=rms,positions=rotary,queries=2}"
    assert gngraph("seed", kind, "--width", "0.0625", "--input-shape", "8", "--classes", "256", "-o", seed).status == 0
    assert to_torch(load(seed))(torch.randint(256, (2, 5))).shape == (2, 5, 256)  # shorter windows, too
    told = gngraph("train", seed, "--data", corpus, "--epochs", 1, "--optimizer", "adamw", "-o", trained).out
    assert "tokens below 256 (bytes)" in told and "(perplexity " in told
    assert '"perplexity": ' in gngraph("evaluate", trained, "--data", corpus, "--json").out
    np.savez(tmp_path / "other.npz", x_train=np.ones((30, 8), dtype=int), y_train=np.ones((30, 8), dtype=int))
    assert "trained on tokens of 'bytes'" in gngraph("evaluate", trained, "--data", tmp_path / "other.npz").err


def test_a_module_that_reads_words_has_them_unscaled_with_one_label_a_sample(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing but the module says that whole numbers are no measurements."""
    x = np.random.default_rng(0).integers(9, size=(60, 5))
    words = arrays(tmp_path, x_train=x, y_train=x[:, 0] % 3, x_test=x, y_test=x[:, 0] % 3)
    module, trained = (str(tmp_path / name) for name in ("module.pt", "trained.gng"))
    torch.save(nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(20, 3)), module)
    told = Commands(capsys)("train", module, "--trust", "--data", words, "--epochs", 1, "-o", trained)
    assert told.status == 0 and "tokens below 9 (numbers)" in told.out
    torch.save(nn.Sequential(nn.Embedding(8, 4), nn.Flatten(), nn.Linear(20, 3)), module)
    told = Commands(capsys)("evaluate", module, "--trust", "--data", words)
    assert "reads fewer tokens than the '9' of data set" in told.err


def test_a_function_that_gives_words_is_called_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("words_of_mine.py").write_text(
        "import pathlib, numpy as np\n"
        "def words():\n"
        "    with pathlib.Path('calls').open('a') as calls:\n"
        "        calls.write('called ')\n"
        "    x = np.random.default_rng(0).integers(9, size=(60, 5))\n"
        "    return x, x[:, 0] % 3\n"
    )
    torch.save(nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(20, 3)), "module.pt")
    told = Commands(capsys)("evaluate", "module.pt", "--trust", "--data", "words_of_mine:words", "--json")
    assert told.status == 0, told.err
    assert Path("calls").read_text() == "called "


def test_the_length_of_tokens_is_dynamic_in_onnx(tmp_path: Path) -> None:
    torch.manual_seed(0)
    words = nn.Sequential(nn.Embedding(11, 4), nn.ReLU(), nn.Linear(4, 11))
    graph = from_torch(words, torch.randint(11, (2, 6)))
    report = export_onnx(graph, tmp_path / "gpt.onnx")
    assert report.dynamic == ("batch", "length") and report.parity.batches == (1, 3, 2)
    x = torch.randint(11, (4, 5))
    torch.testing.assert_close(report.run((x,))[0], to_torch(graph).eval()(x).detach(), rtol=1e-4, atol=1e-5)


def test_tokens_that_a_network_has_no_row_for_are_told(corpus: Path) -> None:
    module = build_seed("gpt", width=0.0625, classes=200, input_shape=(8,))
    graph = from_torch(module, example_for(module, (8,)))
    with pytest.raises(
        DataError, match=r"reads fewer tokens than the '256' of data set 'corpus\.txt'; .* --classes 256"
    ):
        check_fit(graph, problem_for(load_data(str(corpus), input_shape=(8,))))
    assert isinstance(problem_for(load_data(str(corpus))).loss_fn, NextToken)


def test_classes_along_the_last_axis_are_told_of_next_token() -> None:
    module, x = build_seed("gpt", width=0.0625, classes=11, input_shape=(6,)), torch.randint(11, (60, 7))
    graph, own = from_torch(module, example_for(module, (6,))), (x[:, :-1], x[:, 1:])
    with pytest.raises(DataError, match=r"outputs of shape '6x11'.* labels of shape '6'.* name the loss next-token"):
        check_fit(graph, Problem(own))
    check_fit(graph, Problem(own, loss="next-token"))


def test_the_shape_of_tokens_is_kept(tmp_path: Path) -> None:
    module = build_seed("gpt", width=0.0625, classes=11, input_shape=(6,))
    graph = from_torch(module, example_for(module, (6,)))
    save(graph, tmp_path / "gpt.gng")
    assert load(tmp_path / "gpt.gng").nodes["x"].type == graph.nodes["x"].type
    assert Tokens(11, (6,), "numbers")(torch.zeros(1, 6, dtype=torch.uint8)).dtype == torch.int64
    assert isinstance(
        Problem((torch.randint(11, (60, 6)), torch.randint(11, (60, 6))), loss="next-token").loss_fn, NextToken
    )
