"""Configuration files: what a run records repeats it, the command line wins, and nothing unknown is taken."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from gngraph.options import GrowOptions
from tests.command_line import Commands


def test_a_run_is_repeated_by_what_it_recorded(command: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gngraph.report.page.tell", lambda result, folder: (folder / "report.html", ()))
    own = (
        "--max-params",
        "900",
        "--rounds",
        1,
        "--epochs",
        0,
        "--final-epochs",
        1,
        "--kinds",
        "split,new",
        "--lr",
        0.05,
    )
    command.ok("grow", "seed.gng", "--data", "bars.npz", "--seed", 3, *own, "-o", "run")
    recorded = tomllib.loads(Path("run/config.toml").read_text("utf-8"))
    assert recorded["model"]["model"] == "seed.gng" and recorded["data"]["seed"] == 3
    options = GrowOptions.of(recorded["grow"])
    assert (options.kinds, options.train.lr) == (("split", "new"), 0.05)
    command.ok("grow", "--config", "run/config.toml", "-o", "again")
    for name in ("model.gng", "config.toml"):
        assert Path("run", name).read_bytes() == Path("again", name).read_bytes()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[grow]\nround = 2\n", "[grow] of 'own.toml' has an unknown option 'round'; did you mean 'rounds'?"),
        ("[grow.train]\nlearning = 2\n", "[grow.train] of 'own.toml' has an unknown option 'learning'"),
        ("[gro]\n", "'own.toml' has an unknown table 'gro'; did you mean 'grow'?"),
        ("[shrink]\nto = 3\n", "[shrink] of 'own.toml': option 'to' is '3', but must be a number above 0 and below 1"),
        ("[grow]\nrounds = '2'\n", "[grow] of 'own.toml': option 'rounds' is '2', but must be a whole number"),
        ("[model]\ntrust = 1\n", "[model] of 'own.toml': option 'trust' is '1', but must be true or false"),
        ("[train]\nepochs = [1]\n", "[train] of 'own.toml': option 'epochs' is '[1]', but must be a text or a number"),
        ("data = 'digits'\n", "'data' in 'own.toml' must be a table, [data]"),
        ("[grow]\nforce = true\n", "unknown option 'force'"),
        ("grow", "'own.toml' is no TOML file"),
    ],
)
def test_what_is_unknown_or_wrong_is_refused(command: Commands, text: str, told: str) -> None:
    Path("own.toml").write_text(text)
    words = ("grow", "seed.gng", "--data", "bars.npz", "--max-params", "900", "--config", "own.toml", "-o", "run")
    assert told in command.refused(*words, status=2) and not Path("run").exists()


@pytest.mark.parametrize(("name", "prefix"), [("gngraph.toml", ""), ("pyproject.toml", "tool.gngraph.")])
def test_a_file_of_the_working_directory_is_read_and_told(command: Commands, name: str, prefix: str) -> None:
    Path(name).write_text(f"[{prefix}data]\ndata = 'bars.npz'\n[{prefix}score]\ntop = 2\nkinds = ['prune']\n")
    done = command("score", "seed.gng")
    assert done.status == 0 and "2 of 16 candidates" in done.out
    assert f"note: options are taken from '{name}'" in done.err
    assert "1 of 16 candidates" in command.ok("score", "seed.gng", "--top", 1), "the command line wins"
    assert "note" not in command("inspect", "seed.gng").err
    Path(name).write_text(f"[{prefix}model]\ntrust = true\n")
    assert "was not named, so that it cannot let a model file run code" in command.refused(
        "inspect", "seed.gng", status=2
    )
    command.ok("inspect", "seed.gng", "--config", name)


def test_files_that_are_not_there(command: Commands) -> None:
    told = command.refused("inspect", "seed.gng", "--config", "absent.toml", status=2)
    assert "configuration file 'absent.toml' cannot be read: No such file" in told
    Path("pyproject.toml").write_text("[tool]\ngngraph = 3\n")
    assert "must be a table" in command.refused("inspect", "seed.gng", status=2)
