"""What a run cannot do is said before anything is trained or written: the folder is free for the run that is put right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import gngraph
from gngraph.errors import GnGraphError, OptionError, PassError, TrainingError


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))


def still() -> nn.Module:
    return network().requires_grad_(False)


def narrow() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 1), nn.ReLU(), nn.Linear(1, 3))


CASES: dict[str, tuple[nn.Module, dict[str, Any], type[GnGraphError], str]] = {
    "train": (network(), {"train": lambda *samples: 1}, OptionError, "TrainOptions or a table, not of type 'function'"),
    "curvature": (network(), {"curvature": "foo"}, GnGraphError, "no curvature 'foo'"),
    "kinds": (network(), {"kinds": ()}, PassError, "no kind of candidates is named"),
    "observer": (
        network(),
        {"observer": "x"},
        OptionError,
        "a 'str' is no observer: give an object",
    ),
    "nothing learns": (still(), {}, TrainingError, "no trainable parameter"),
    "nothing free": (nn.Linear(4, 3), {"depth": "keep", "perturb": 0}, PassError, "no free channel space"),
    "no place": (narrow(), {"kinds": ("merge",)}, PassError, "no place for merge"),
}


@pytest.mark.parametrize("what", CASES)
def test_nothing_is_trained_or_written(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, given, kind, text = CASES[what]

    def trained(*arguments: object) -> None:
        raise AssertionError("it was trained")

    monkeypatch.setattr("gngraph.training.training.Trainer.train", trained)
    out, data = tmp_path / "run", (torch.randn(60, 4), torch.arange(60) % 3)
    options: dict[str, Any] = {"max_params": 200, "rounds": 1, "epochs": 4, "final_epochs": 1, "out": out, **given}
    with pytest.raises(kind, match=text):
        gngraph.grow(module, data, **options)
    assert not out.exists()


def test_a_folder_is_a_path() -> None:
    with pytest.raises(OptionError, match="'out' is of type 'int'"):
        gngraph.grow(network(), (torch.randn(60, 4), torch.arange(60) % 3), max_params=200, out=3)  # type: ignore[arg-type]
