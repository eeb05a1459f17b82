"""Bad input: each is one clear sentence and a non-zero exit status, never a traceback."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.command_line import Commands

SEED = ("seed", "mlp", "--width", "0.03", "--classes", "3", "--input-shape", "1x8x8", "-o", "seed.gng")
ON_BARS = ("--data", "bars.npz")


class Exploit:
    """Makes a file when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("exploited"),)


def test_truncated_files(command: Commands) -> None:
    torch.save(nn.Linear(4, 4), "model.pt")
    for name in ("model.pt", "seed.gng"):
        whole = Path(name).read_bytes()
        Path("cut" + name).write_bytes(whole[: len(whole) * 2 // 3])
        line = command.refused("inspect", "cut" + name, "--input-shape", "4")
        assert "cut off or damaged" in line


def test_malicious_pickle(command: Commands) -> None:
    torch.save({"model": Exploit()}, "zipped.pt")
    Path("plain.pt").write_bytes(pickle.dumps(Exploit()))
    for name in ("zipped.pt", "plain.pt"):
        assert "--trust" in command.refused("inspect", name, "--input-shape", "4")
    assert not Path("exploited").exists()


def test_text_file_named_model(command: Commands) -> None:
    Path("model.pt").write_text("accuracy 93.1 %\n")
    assert "is a text file" in command.refused("inspect", "model.pt", "--input-shape", "4")


def test_missing_files(command: Commands) -> None:
    assert 'there is no file "absent.pt"' in command.refused("inspect", "absent.pt")
    assert "there is no data set 'digit'" in command.refused("score", "seed.gng", "--data", "digit")


def test_state_dict_without_architecture(command: Commands) -> None:
    torch.save(nn.Linear(4, 4).state_dict(), "state.pt")
    assert "--arch" in command.refused("inspect", "state.pt", "--input-shape", "4")


def test_missing_input_shape(command: Commands) -> None:
    torch.save(nn.Linear(4, 4), "model.pt")
    assert "--input-shape" in command.refused("inspect", "model.pt")


def test_data_dependent_control_flow(command: Commands) -> None:
    Path("branching.py").write_text(
        "import torch\n"
        "class Branching(torch.nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.a = torch.nn.Linear(4, 4)\n"
        "    def forward(self, x):\n"
        "        return self.a(x) if x.sum() > 0 else x\n"
    )
    line = command.refused("inspect", "branching:Branching", "--input-shape", "4")
    assert "Branching" in line
    assert "control flow" in line


@pytest.mark.parametrize("shape", ["7", "3x8x8", "1x9x9"])
def test_wrong_input_shape(command: Commands, shape: str) -> None:
    assert "takes inputs of shape '1x8x8'" in command.refused("inspect", "seed.gng", "--input-shape", shape)
    torch.save(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), "model.pt")
    assert "does not run on an input of shape" in command.refused("inspect", "model.pt", "--input-shape", shape)


def test_network_and_data_that_do_not_fit(command: Commands) -> None:
    command.ok("seed", "mlp", "--width", "0.03", "--classes", "3", "--input-shape", "5", "-o", "table.gng")
    assert "'1x8x8'" in command.refused("score", "table.gng", *ON_BARS)
    command.ok("seed", "mlp", "--width", "0.03", "--classes", "2", "--input-shape", "1x8x8", "-o", "two.gng")
    for words in (("score", "two.gng"), ("train", "two.gng", "-o", "x.gng"), ("grow", "two.gng", "-o", "run")):
        budget = ("--max-params", "5k") if words[0] == "grow" else ()
        line = command.refused(*words, *ON_BARS, *budget)
        assert "has '2' outputs, but data set" in line
        assert "'3' classes" in line
    assert not Path("run").exists()


def test_loss_that_does_not_fit(command: Commands) -> None:
    for loss in ("mse", "bce-with-logits"):
        line = command.refused("score", "seed.gng", *ON_BARS, "--loss", loss)
        assert f"loss '{loss}' cannot compare" in line
    arrays = dict(np.load("bars.npz"))
    for name in ("y_train", "y_test"):
        arrays[name] = np.eye(3, dtype="float32")[arrays[name]]
    np.savez("regression.npz", **arrays)
    command.ok("score", "seed.gng", "--data", "regression.npz", "--loss", "bce-with-logits")
    command.ok("score", "seed.gng", "--data", "regression.npz")


def test_no_command_shows_the_help(command: Commands) -> None:
    done = command()
    assert done.status == 2
    assert "Commands:" in done.err
    assert "error:" not in done.err


def test_labels_out_of_range(command: Commands) -> None:
    arrays = dict(np.load("bars.npz"))
    arrays["y_test"][5] = 7
    np.savez("wrong.npz", **arrays)
    line = command.refused("train", "seed.gng", "--data", "wrong.npz", "-o", "x.gng")
    assert "label '7' of sample 5" in line
    arrays["y_test"][5] = -1
    np.savez("wrong.npz", **arrays)
    assert "label '-1'" in command.refused("train", "seed.gng", "--data", "wrong.npz", "-o", "x.gng")


def test_values_that_are_not_finite(command: Commands) -> None:
    arrays = dict(np.load("bars.npz"))
    arrays["x_train"][3] = float("nan")
    np.savez("wrong.npz", **arrays)
    assert "'nan' in sample 3" in command.refused("score", "seed.gng", "--data", "wrong.npz")


def test_loss_that_is_not_finite(command: Commands) -> None:
    for words in (("train", "seed.gng", "-o", "x.gng"), ("grow", "seed.gng", "--max-params", "5k", "-o", "run")):
        line = command.refused(*words, *ON_BARS, "--lr", "1e30", "--epochs", "3")
        assert "the training loss became" in line
        assert "learning rate" in line
    assert not Path("x.gng").exists()


def test_budgets(command: Commands) -> None:
    grow = ("grow", "seed.gng", *ON_BARS, "-o", "run")
    assert "more than the budget of 100" in command.refused(*grow, "--max-params", "100")
    assert "more than the budget of 100" in command.refused(*grow, "--max-flops", "100")
    assert "'many' is not a count" in command.refused(*grow, "--max-params", "many", status=2)
    assert "growth needs a budget: give max_params" in command.refused(*grow, status=2)
    assert not Path("run").exists()


def test_unknown_passes_and_options(command: Commands) -> None:
    assert "did you mean 'split-channels'" in command.refused("apply", "spilt-channels", "seed.gng", "-o", "x.gng")
    assert "'cuont'" in command.refused("apply", "split-channels{cuont=2}", "seed.gng", "-o", "x.gng")
    assert "'many'" in command.refused("apply", "split-channels{count=many}", "seed.gng", "-o", "x.gng")
    assert "--max-parms" in command.refused("grow", "seed.gng", "--max-parms", "1k", status=2)
    assert "No such command 'grwo'" in command.refused("grwo", "seed.gng", status=2)
    assert "--data" in command.refused("score", "seed.gng", status=2)
    assert "curvature" in command.refused("score", "seed.gng", *ON_BARS, "--curvature", "hessian")
    assert not Path("x.gng").exists()


def test_frozen_space(command: Commands) -> None:
    line = command.refused("apply", "split-channels{space=head}", "seed.gng", "-o", "x.gng")
    assert "head" in line
    assert "output" in line


def test_places_that_cannot_be_written(command: Commands) -> None:
    assert "its folder must exist" in command.refused(*SEED[:-1], "absent/x.gng", status=2)
    assert "must end in .gng" in command.refused(*SEED[:-1], "x.pt", status=2)
    Path("file").touch()
    assert "is a file" in command.refused("grow", "seed.gng", *ON_BARS, "--max-params", "5k", "-o", "file", status=2)


def test_folder_that_is_not_empty(command: Commands) -> None:
    Path("run").mkdir()
    Path("run/notes.txt").write_text("mine")
    line = command.refused("grow", "seed.gng", *ON_BARS, "--max-params", "5k", "-o", "run")
    assert "folder 'run' is not empty" in line
    assert [path.name for path in Path("run").iterdir()] == ["notes.txt"]


def test_seeds_that_do_not_exist(command: Commands) -> None:
    assert 'there is no seed "vgg12"' in command.refused("seed", "vgg12", "-o", "x.gng")
    assert "--width" in command.refused("seed", "vgg11", "--width", "wide", "-o", "x.gng", status=2)
    assert "not a shape" in command.refused("seed", "vgg11", "--input-shape", "3,32,32", "-o", "x.gng", status=2)
    assert "width multiplier" in command.refused("seed", "vgg11", "--width", "-1", "-o", "x.gng")


def test_device_that_is_not_there(command: Commands) -> None:
    line = command.refused("score", "seed.gng", *ON_BARS, "--device", "gpu9", status=2)
    assert "'gpu9' is not a torch device that works here: " in line


def test_interrupt_is_one_line(command: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*words: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gngraph.files.loading.load", interrupt)
    assert "interrupted" in command.refused("inspect", "seed.gng")


def test_defect_is_reported_as_one(command: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*words: object, **options: object) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("gngraph.files.loading.load", fail)
    assert "unexpected ZeroDivisionError" in command.refused("inspect", "seed.gng")
    monkeypatch.undo()


def test_code_of_the_user_that_ends_the_program(command: Commands) -> None:
    Path("ending.py").write_text("import sys\ndef made():\n    sys.exit(3)\n")
    assert "could not be called: SystemExit: 3" in command.refused("inspect", "ending:made", "--input-shape", "4")


def test_a_budget_beyond_the_machine(command: Commands) -> None:
    text = command.refused("grow", "seed.gng", *ON_BARS, "--max-params", "1000000G", "-o", "run")
    assert "ask for fewer" in text and not Path("run/history.jsonl").exists()
