"""The command line, as a person uses it: every command once on a small network, and its promises."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import torch
from torch import nn

import gngraph
import gngraph.passes
from gngraph.cli import gngraph as group
from gngraph.cli import main
from gngraph.cli.names import PASS_NAMES
from gngraph.files.archive import load
from gngraph.growth.checkpoints import Checkpoints
from gngraph.zoo import build_seed
from tests.command_line import COMMANDS, Commands


def test_help_is_fast_to_import_and_lists_every_command() -> None:
    code = "import sys\nfrom gngraph.cli import main\ntry: main(['--help'])\nexcept SystemExit: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False", "gngraph --help must not import torch"
    assert all(f"\n  {name} " in done.stdout for name in COMMANDS)


def unexplained(command: click.Command) -> list[str]:
    """Options whose help is not whole sentences: from a capital or a digit to a full stop, with every bracket closed."""
    found = []
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            text = parameter.help or ""
            sentences = re.fullmatch(r"[A-Z0-9].*\w[)\"]*\.", text) and not re.search(r"[\s,;]{2,}\s|  |,\.", text)
            if not sentences or text.count("(") != text.count(")") or text.count('"') % 2:
                found.append(f"{parameter.opts[0]}: {text}")
    return found


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_explained_in_whole_sentences(name: str) -> None:
    assert unexplained(group.commands[name]) == []


@pytest.mark.parametrize(
    "text",
    [
        None, "", "Kinds to score: split, prune, and for comparison split-random, ", "Kinds to score", "kinds to score.",
        "Kinds to score (split.", "Kinds to score, .", 'Model of the loss: "mc.', "Kinds to score and for  comparison.",
    ],
)  # fmt: skip
def test_an_option_that_is_not_explained_is_seen(text: str | None) -> None:
    command = click.Command(
        "any", params=[click.Option(["--kinds"], help=text), click.Option(["--top"], help="Shown.")]
    )
    assert len(unexplained(command)) == 1


def test_passes_that_learn_take_data(command: Commands) -> None:
    command.ok("apply", "remove-layer{at=*},merge-channels", "seed.gng", "--data", "bars.npz", "-o", "less.gng")
    before, after = load(Path("seed.gng")), load(Path("less.gng"))
    count = [sum(node.op == "linear" for node in graph.nodes.values()) for graph in (before, after)]
    assert count[1] == 2 < count[0] and after.num_params() < before.num_params()
    told = command.refused("apply", "merge-channels", "seed.gng", "-o", "no.gng")
    assert "learns from data" in told and "name it by --data" in told and not Path("no.gng").exists()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("gngraph 0.")


def test_inspect_prints_spaces_text_and_json(command: Commands) -> None:
    table = command.ok("inspect", "seed.gng")
    assert "2 of 3 channel spaces are free" in table
    assert "it is the network's output" in table
    assert "100% of the weights between input and output are free along both axes" in " ".join(table.split())
    told = json.loads(command.ok("inspect", "seed.gng", "--json"))
    assert told["params"] == load("seed.gng").num_params()
    assert [space["size"] for space in told["spaces"]] == [8, 8, 3]
    assert told["spaces"][0]["params_per_channel"] == 64 + 1 + 8
    assert "linear" in command.ok("inspect", "seed.gng", "--text")


def test_train_learns(command: Commands) -> None:
    said = command.ok(
        "train", "seed.gng", "--data", "bars.npz", "--epochs", 30, "--batch-size", 16, "-o", "trained.gng"
    )
    assert said.count("epoch ") == 30
    accuracy = float(said.rsplit("test accuracy ", 1)[1].removesuffix(" %\n"))
    assert accuracy > 90
    assert command("diff", "seed.gng", "trained.gng").status == 1, "values differ"


def test_evaluate_measures_and_writes_nothing(command: Commands) -> None:
    command.ok("train", "seed.gng", "--data", "bars.npz", "--epochs", 5, "-o", "trained.gng")
    before = sorted(Path().iterdir())
    told = json.loads(command.ok("evaluate", "trained.gng", "--data", "bars.npz", "--json"))
    assert told["on"] == "test" and told["accuracy"] > 0.5 and told["samples"] > 0
    assert f"test loss {told['loss']:.4f}" in command.ok("evaluate", "trained.gng", "--data", "bars.npz")
    assert sorted(Path().iterdir()) == before


def test_passes_are_listed_with_what_they_promise(command: Commands) -> None:
    told = command.ok("passes")
    for name in gngraph.passes.__all__:
        cls = getattr(gngraph.passes, name)
        if isinstance(cls, type) and issubclass(cls, gngraph.passes.Pass) and cls is not gngraph.passes.Pass:
            assert f"{cls.name}\n  " in told
    assert "count: new channels of each space (a whole number; 1 by default)" in " ".join(told.split())
    assert [manual["name"] for manual in json.loads(command.ok("passes", "cleanup", "--json"))] == ["cleanup"]
    assert "did you mean 'cleanup'" in command("passes", "clenup").err
    manuals = json.loads(command.ok("passes", "--json"))
    own = [manual for manual in manuals if manual["name"] in PASS_NAMES]  # a page of docs/ registers one more
    assert len(own) == len(PASS_NAMES) and all(option["help"] for manual in own for option in manual["options"])


def test_help_has_options_in_groups(command: Commands) -> None:
    told = command.ok("shrink", "--help")
    places = [told.index(f"Options{of}:") for of in ("", " of the model", " of the data", " of shrink", " of training")]
    assert places == sorted(places) and "--epochs" in told[places[3] : places[4]]


def test_score_prints_a_table_and_json(command: Commands) -> None:
    table = command.ok("score", "seed.gng", "--data", "bars.npz", "--top", 3)
    assert "3 of 32 candidates" in table
    told = json.loads(command.ok("score", "seed.gng", "--data", "bars.npz", "--curvature", "exact", "--all", "--json"))
    gains = [row["gain"] for row in told["candidates"]]
    assert len(gains) == told["of"] == 32
    assert gains == sorted(gains, reverse=True)
    assert {row["kind"] for row in told["candidates"]} == {"split", "prune"}


def test_apply_and_diff(command: Commands) -> None:
    said = command.ok("apply", "split-channels{count=2},new-channels", "seed.gng", "-o", "wide.gng", "--diff")
    assert "split-channels{count=2}: " in said
    assert "hidden.0: 8 -> 11" in said
    assert load("wide.gng").params["hidden.0.weight"].data.shape[0] == 11
    same = command("diff", "wide.gng", "wide.gng")
    assert (same.status, same.out) == (0, "no differences\n")
    different = command("diff", "seed.gng", "wide.gng")
    assert different.status == 1
    assert "hidden.0: 8 -> 11" in different.out
    assert json.loads(command("diff", "seed.gng", "wide.gng", "--json").out)["is_empty"] is False
    drawn = command("diff", "seed.gng", "wide.gng", "--stat", "--html", "diff.html")
    assert drawn.status == 1 and re.search(r"^hidden\.0 +8 -> 11 +\+{32}$", drawn.out, re.MULTILINE)
    assert "<td>8</td><td>11</td><td>+3</td>" in Path("diff.html").read_text("utf-8")
    assert command("diff", "seed.gng", "absent.gng").status == 2


def test_a_network_is_drawn_as_text_and_as_a_picture(command: Commands) -> None:
    assert re.search(r"^hidden_0 +linear +#+ +8 ", command.ok("show", "seed.gng"), re.MULTILINE)
    for name, start in (("net.svg", b"<?xml"), ("net.png", b"\x89PNG"), ("net.pdf", b"%PDF")):
        assert name in command.ok("show", "seed.gng", "-o", name)
        assert Path(name).read_bytes().startswith(start)
    refused = command("show", "seed.gng", "-o", "net.jpg")
    assert refused.status == 2 and "must end in .svg, .png, .pdf" in refused.err


def test_export_source_and_onnx(command: Commands) -> None:
    said = command.ok("export", "seed.gng", "--source", "out", "--onnx", "seed.onnx")
    assert "seed.onnx: ONNX opset" in said
    assert Path("out/model.py").is_file()
    assert Path("out/weights.safetensors").is_file()


def test_grow_fills_a_folder_and_diff_knows_where_channels_come_from(command: Commands) -> None:
    words = ("grow", "seed.gng", "--data", "bars.npz", "--max-params", "1.2k", "--rounds", 2, "--epochs", 1)
    said = command.ok(*words, "--final-epochs", 1, "-o", "run")
    assert "round 2/2: " in said
    assert " of 1,200 parameters" in said
    assert {path.name for path in Path("run").iterdir()} >= {
        "seed.gng",
        "model.gng",
        "model.py",
        "weights.safetensors",
        "model.onnx",
        "history.jsonl",
    }
    assert list(Path("run").glob("*.png"))
    assert 600 < load("run/model.gng").num_params() <= 1200
    assert " new" in command("diff", "run/seed.gng", "run/model.gng").out
    assert " new" in command("diff", "run@0", "run@1").out
    assert "has no network of round 7" in command.refused("inspect", "run@7")
    assert "is not empty" in command.refused(*words, "-o", "run")
    before = Path("run/history.jsonl").read_text()
    command.ok(*words, "--final-epochs", 0, "-o", "run", "--force")
    assert Path("run/history.jsonl.old").read_text() == before


def without_pictures(result: object, folder: Path) -> tuple[Path, tuple[Path, ...]]:
    """A report that is there, and took no time."""
    (folder / "report.html").write_text("")
    return folder / "report.html", ()


def test_a_run_that_is_terminated_says_how_to_go_on_and_ends_the_same(
    command: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gngraph.report.page.tell", without_pictures)
    words = ("shrink", "seed.gng", "--data", "bars.npz", "--epochs", 2, "--checkpoint-every", 0)
    command.ok(*words, "-o", "whole", "--resume")  # which begins it
    keep, written = Checkpoints.keep, list[int]()

    def terminated(self: Checkpoints, *arguments: Any) -> None:
        keep(self, *arguments)
        written.append(1)
        if len(written) == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as own:
        own.setattr(Checkpoints, "keep", terminated)
        assert "interrupted; go on with it by gngraph resume run" in command.refused(*words, "-o", "run")
    assert "holds a run that was interrupted; go on with it by" in command.refused(*words, "-o", "run")
    shutil.copytree("run", "same")
    assert "but was 2; go on with it as it began" in command.refused(*words, "--epochs", 3, "-o", "same", "--resume")
    shutil.copy("bars.npz", "others.npz")
    others = command.refused("shrink", "seed.gng", "--data", "others.npz", "-o", "same", "--resume")
    assert 'data is "others.npz", but was "bars.npz"' in others
    assert "choose one" in command.refused(*words, "-o", "same", "--resume", "--force", status=2)
    going_on = "going on in the final training, after epoch "
    for run, told in (("run", command.ok("resume", "run")), ("same", command.ok(*words, "-o", "same", "--resume"))):
        assert going_on in told
        assert Path(run, "model.gng").read_bytes() == Path("whole/model.gng").read_bytes()
        assert {path.name for path in Path(run).iterdir()} == {path.name for path in Path("whole").iterdir()}
    assert "has ended: there is nothing to go on with" in command.refused(*words, "-o", "same", "--resume")
    assert "has ended: there is nothing to go on with" in command.refused("resume", "run")

    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    assert "2 rounds and the network came out as they stand there, to the bit" in command.ok("replay", "run")
    assert {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()} == before
    history = Path("run/history.jsonl")
    history.write_text(re.sub(r'"kind": "final"(.*?)"lr": [^,]+,', r'"kind": "final"\1"lr": 0.5,', history.read_text()))
    assert "the final training of the run in 'run' came out otherwise than it is recorded: epochs" in command.refused(
        "replay", "run"
    )
    history.write_text(before[history].decode().replace('"kind"', '"latency": {}, "kind"'))
    assert "decided by milliseconds that were measured" in command.refused("replay", "run")
    history.write_bytes(before[history])
    Path("run/model.gng").write_bytes(before[Path("run/seed.gng")])
    assert "'run/model.gng' is not what they gave" in command.refused("replay", "run")
    Path("run/begun.json").unlink()
    assert "has no begun.json" in command.refused("replay", "run")


def test_a_trained_network_is_extended_reshaped_and_shrunk(command: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gngraph.report.page.tell", without_pictures)
    command.ok("train", "seed.gng", "--data", "bars.npz", "--epochs", 3, "-o", "trained.gng")
    size = load("trained.gng").num_params()
    words = ("--data", "bars.npz", "--epochs", 1)
    command.ok("extend", "trained.gng", *words, "--by", 0.6, "-o", "larger")
    assert 1.4 * size < load("larger/model.gng").num_params() <= 1.6 * size
    command.ok("reshape", "trained.gng", *words, "-o", "other")
    assert load("other/model.gng").num_params() <= size
    said = command.ok("shrink", "trained.gng", *words, "--to", 0.6, "-o", "smaller")
    assert "smaller/model.onnx: ONNX opset" in said and load("smaller/model.gng").num_params() < 0.8 * size
    told = command.refused("shrink", "trained.gng", *words, "--to", 1.5, "-o", "none", status=2)
    assert "Invalid value for '--to': '1.5' is not a number above 0 and below 1" in told


def test_models_as_people_have_them(command: Commands) -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 3))
    torch.save(net, "whole.pt")
    assert "1 of 2 channel spaces" in command.ok("inspect", "whole.pt", "--input-shape", "1x8x8")
    command.ok("score", "whole.pt", "--data", "bars.npz")
    Path("mynets.py").write_text(
        "from torch import nn\n\ndef small():\n    return nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 2))\n"
    )
    assert "6" in command.ok("inspect", "mynets:small", "--input-shape", "4")
    torch.save(build_seed("mlp", width=0.03, classes=3, input_shape=(1, 8, 8)).state_dict(), "state.pt")
    named = ("--arch", "mlp", "--width", "0.03", "--input-shape", "1x8x8")
    assert "2 of 3 channel spaces" in command.ok("inspect", "state.pt", *named)
    assert "no differences" in command.ok("diff", "state.pt", "seed.gng", *named)
