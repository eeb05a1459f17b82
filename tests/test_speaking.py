"""How commands speak: JSON of every command and of errors, silence, no codes, whole numbers; what is there stays there."""

from __future__ import annotations

import importlib
import json
from io import StringIO
from pathlib import Path

import pytest
from click.shell_completion import ShellComplete
from rich.console import Console
from rich.table import Table

from gngraph.cli import COMPLETING
from gngraph.cli import gngraph as group
from gngraph.cli.names import AUGMENT_NAMES, PASS_NAMES, SEED_NAMES
from gngraph.cli.tables import console, print_whole
from gngraph.data.augmentations import AUGMENTATIONS, NONE
from gngraph.data.sources import SOURCES
from gngraph.rewrite.pass_manuals import manuals
from gngraph.zoo.registry import SEEDS
from tests.command_line import COMMANDS, MLP, Commands

ON_BARS = ("--data", "bars.npz")


def test_every_command_takes_json_and_quiet() -> None:
    for name in COMMANDS:
        words = [word for param in group.commands[name].params for word in param.opts]
        assert {"--json", "-q", "--quiet"} <= {*words}, name
        assert len(words) == len({*words}), name


def test_commands_answer_in_one_document(command: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gngraph.report.page.tell", lambda result, folder: (folder / "report.html", ()))
    told = json.loads(command.ok(*MLP, "-o", "other.gng", "--json"))
    assert told["output"] == "other.gng" and told["params"] > 0
    layers = json.loads(command.ok("show", "seed.gng", "--json"))
    assert [layer["width"] for layer in layers if layer["op"] == "linear"] == [8, 8, 3]
    assert "linear" in json.loads(command.ok("inspect", "seed.gng", "--text", "--json"))["text"]
    told = json.loads(command.ok("apply", "new-channels", "seed.gng", "-o", "wide.gng", "--json"))
    assert told["diff"]["is_empty"] is False and told["output"] == "wide.gng"
    done = command("train", "seed.gng", *ON_BARS, "--epochs", 1, "-o", "trained.gng", "--json")
    assert [epoch["epoch"] for epoch in json.loads(done.out)["epochs"]] == [1]
    assert "training samples" in done.err and "epoch 1: training loss" in done.err, "what goes on is told beside it"
    words = ("reshape", "seed.gng", *ON_BARS, "--epochs", 0, "-o", "run", "--json", "-q")
    done = command(*words)
    assert json.loads(done.out)["output"] == "run" and done.err == ""
    files = json.loads(command.ok("export", "seed.gng", "--onnx", "seed.onnx", "--source", "code", "--json"))["files"]
    assert [file["format"] for file in files] == ["onnx", "source"]
    assert [speed["batch"] for speed in files[0]["milliseconds"]["torch"]] == [1, 32]


def test_errors_are_json_with_the_status_that_they_have(command: Commands) -> None:
    for words, status, told in (
        (("inspect", "absent.gng", "--json"), 1, "absent.gng"),
        (("diff", "seed.gng", "absent.gng", "--json"), 2, "absent.gng"),
        (
            ("shrink", "seed.gng", *ON_BARS, "--to", 3, "-o", "run", "--json"),
            2,
            "'3' is not a number above 0 and below 1",
        ),
    ):
        done = command(*words)
        assert done.status == status and told in json.loads(done.out)["error"] and done.err == ""


def test_quiet_commands_tell_the_result_alone(command: Commands) -> None:
    done = command("train", "seed.gng", *ON_BARS, "--epochs", 1, "-o", "trained.gng", "-q")
    assert done.err == "" and len(done.out.splitlines()) == 1 and done.out.startswith("trained.gng: test loss")
    Path("gngraph.toml").write_text("[data]\ndata = 'bars.npz'\n")
    assert command("evaluate", "trained.gng", "-q").err == ""
    assert "note" in command("evaluate", "trained.gng").err


def test_what_is_there_stays_there_unless_forced(command: Commands) -> None:
    for name in ("page.html", "net.svg", "seed.onnx", "seed.pt2"):
        Path(name).write_text("mine")
    Path("code").mkdir()
    Path("code/model.py").write_text("mine")
    before = Path("seed.gng").read_bytes()
    for words in (
        (*MLP, "--seed", 5, "-o", "seed.gng"),
        ("train", "seed.gng", *ON_BARS, "-o", "seed.gng"),
        ("apply", "new-channels", "seed.gng", "-o", "seed.gng"),
        ("diff", "seed.gng", "seed.gng", "--html", "page.html"),
        ("show", "seed.gng", "-o", "net.svg"),
        ("report", ".", "-o", "page.html"),
        *(("export", "seed.gng", f"--{what}", name) for what, name in
          (("onnx", "seed.onnx"), ("pt2", "seed.pt2"), ("source", "code"))),
    ):  # fmt: skip
        told = command.refused(*words, status=2 if words[0] == "diff" else 1)
        assert "is there already: name another one, or pass --force to replace it" in told
    assert Path("seed.gng").read_bytes() == before and Path("code/model.py").read_text() == "mine"
    command.ok("show", "seed.gng", "-o", "net.svg", "--force")
    assert Path("net.svg").read_text().startswith("<?xml")


def test_no_color_leaves_no_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert console().is_terminal and console().color_system
    monkeypatch.setenv("NO_COLOR", "1")
    out = console()
    with out.capture() as found:
        out.print("[bold]one[/bold] [red]two[/red]")
    assert found.get() == "one two\n"


def test_numbers_are_whole_on_narrow_terminals() -> None:
    table = Table()
    for title in ("space", "FLOPs each", "params each"):
        table.add_column(title, no_wrap=True)
    table.add_column("frozen because", min_width=20)
    table.add_row("stages.0.0.conv1.weight", "123,456,789", "987,654,321", "it is the network's output, and more")
    out = Console(width=60, file=StringIO(), force_terminal=True)
    print_whole(out, table)
    text = out.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text and all(part in text for part in ("stages.0.0.conv1.weight", "123,456,789", "987,654,321"))
    assert out.width == 60


def completions(*words: str) -> list[str]:
    *before, incomplete = words
    found = ShellComplete(group, {}, "gngraph", "_GNGRAPH_COMPLETE").get_completions(before, incomplete)
    return [item.value for item in found if item.type == "plain"]


def test_shells_complete_names_of_data_seeds_and_passes() -> None:
    importlib.import_module("gngraph.passes")
    registered = {manual.name for manual in manuals()} - {
        "widen-first"
    }  # which docs/extending.md registers where it is run
    assert {*SEED_NAMES} == {*SEEDS} and {*PASS_NAMES} == registered
    assert {*AUGMENT_NAMES} == {*AUGMENTATIONS.known, NONE}
    assert completions("seed", "resnet") == ["resnet20", "resnet32", "resnet56"]
    assert completions("train", "seed.gng", "--data", "") == [*SOURCES]
    assert completions("train", "seed.gng", "--augment", "flip,mi") == ["flip,mixup"]
    assert completions("apply", "cleanup,new") == ["cleanup,new-channels"] and completions("passes", "me") == [
        "merge-channels"
    ]
    assert completions("grow", "seed.gng", "--kinds", "split,p") == ["split,prune"]
    assert completions("grow", "seed.gng", "--final", "") == ["continue", "cycle", "retrain", "auto"]


def test_a_shell_that_asks_is_answered(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv(COMPLETING, "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "gngraph seed vgg1")
    monkeypatch.setenv("COMP_CWORD", "2")
    done = Commands(capsys)()
    assert (
        done.status == 0
        and done.out.splitlines() == ["plain,vgg11", "plain,vgg13", "plain,vgg16", "plain,vgg19"]
        and not done.err
    )
