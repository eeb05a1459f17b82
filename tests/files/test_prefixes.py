"""Keys of checkpoints as wrappers and training frameworks write them: what stands before them is taken off, and that is said."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import gngraph
from gngraph.errors import GnGraphNote, ModelFileError
from gngraph.zoo import build_seed

State = Mapping[str, Tensor]


def state() -> State:
    torch.manual_seed(0)
    return build_seed("resnet20", width=0.0625, classes=5, input_shape=(1, 8, 8)).state_dict()


def under(prefix: str, tensors: State) -> dict[str, Tensor]:
    return {prefix + key: tensor for key, tensor in tensors.items()}


WRITTEN: dict[str, tuple[Callable[[State], Any], str | None]] = {
    "plain": (lambda own: own, None),
    "DataParallel": (lambda own: {"state_dict": under("module.", own)}, '"module." is taken off the keys'),
    "Lightning": (lambda own: {"state_dict": under("model.", own), "epoch": 3}, '"model." is taken off'),
    "another attribute": (lambda own: under("net.backbone.", own), '"net.backbone." is taken off'),
    "compiled": (lambda own: under("_orig_mod.", own), None),
    "compiled in Lightning": (lambda own: {"state_dict": under("model._orig_mod.", own)}, '"model." is taken off'),
    "compiled in part": (lambda own: {k.replace("conv1.", "conv1._orig_mod."): v for k, v in own.items()}, None),
    "averaged": (
        lambda own: {**under("module.", own), "n_averaged": torch.tensor(3)},
        '"module." is taken off the keys, and "n_averaged" left out',
    ),
    "buffers of a loss": (
        lambda own: {"state_dict": {**under("model.", own), "criterion.weight": torch.ones(7)}},
        '"model." is taken off the keys, and "criterion.weight" left out',
    ),
    "averaged weights": (lambda own: {"model_ema": own, "optimizer": {}}, None),
    "dictionaries in each other": (lambda own: {"checkpoint": {"state_dict": under("ema_model.", own)}}, '"ema_model."'),
}  # fmt: skip


def load(path: Path, content: Any, classes: int | None = 5) -> gngraph.Graph:
    torch.save(content, path)
    return gngraph.load(path, arch="resnet20", width=0.0625, classes=classes, input_shape=(1, 8, 8))


@pytest.mark.parametrize("how", WRITTEN)
def test_it_is_read(how: str, tmp_path: Path) -> None:
    write, note = WRITTEN[how]
    own = state()
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        graph = load(tmp_path / "c.pt", write(own))
    assert all(torch.equal(tensor, graph.params[key].data) for key, tensor in own.items())
    notes = [str(warning.message) for warning in told if issubclass(warning.category, GnGraphNote)]
    assert notes == [] if note is None else len(notes) == 1 and note in notes[0]


def test_classes_are_counted_by_the_network_not_by_what_lies_beside_it(tmp_path: Path) -> None:
    content = {"state_dict": {**under("model.", state()), "loss.weight": torch.ones(7)}}
    with pytest.warns(GnGraphNote):
        assert load(tmp_path / "c.pt", content, classes=None).params["head.weight"].data.shape[0] == 5


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda own: {**under("student.", own), **under("teacher.", own)}, 'keys under "student." and "teacher." fit it'),
        (lambda own: {k: v for k, v in under("model.", own).items() if "head" not in k}, 'missing "head.weight"'),
        (lambda own: under("model.", {**own, "more": torch.ones(2)}), 'unexpected "more"'),
        (lambda own: {**own, "criterion.weight": torch.ones(7)}, 'unexpected "criterion.weight"'),
        (lambda own: under("model.", {k: v[:3] if k == "head.weight" else v for k, v in own.items()}), 'is 3x'),
        (lambda own: {"a.b": torch.ones(2)}, "missing"),
        (lambda own: {"state_dict": {}}, "neither a module nor a state dict"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(write: Callable[[State], Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=message):
        load(tmp_path / "c.pt", write(state()))


def test_the_command_line_says_what_was_taken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": under("model.", state())}, "c.pt")
    arguments = ("--arch", "resnet20", "--width", "0.0625", "--classes", "5", "--input-shape", "1x8x8")
    with pytest.raises(SystemExit) as done:
        from gngraph.cli import main

        main(["inspect", "c.pt", *arguments])
    assert done.value.code == 0
    assert 'gngraph: note: "c.pt": "model." is taken off the keys\n' in capsys.readouterr().err
