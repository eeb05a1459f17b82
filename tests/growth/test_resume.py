"""A run that is interrupted anywhere goes on to the same history and weights, bit for bit."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import gngraph
from gngraph.analysis.cost import cost
from gngraph.errors import GnGraphError
from gngraph.growth import identity
from gngraph.growth.checkpoints import Checkpoints, newest
from gngraph.growth.history import read_history, without_seconds
from gngraph.growth.jobs import JOBS
from gngraph.growth.loop import go_on, grow_by
from gngraph.growth.result import GrowthResult
from gngraph.growth.rounds import Rounds
from gngraph.ir import Graph
from gngraph.running.problem import Problem
from gngraph.search import ending, structure
from gngraph.search.depth import TrialTraining
from gngraph.training.divergence import DivergedError
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trained, Trainer
from tests.problems import digits, dropping, problem, seed_graph, small_vgg


def begun(graph: Graph, out: Path, job: str = "grow", **changes: Any) -> GrowthResult:
    """A run in which every step and stage is kept."""
    given = {"checkpoint_every": 0, "train": {"batch_size": 64}} | changes
    if job == "grow":
        given = {"rounds": 2, "epochs": 1, "final_epochs": 1, "max_params": 2 * cost(graph).params} | given
    kind = JOBS[job]
    return grow_by(kind.task(kind.options.of(given), graph), graph, problem(), out=out)


def assert_same(a: GrowthResult, b: GrowthResult, first: Path, second: Path) -> None:
    assert without_seconds(a.history) == without_seconds(b.history)
    assert a.channels == b.channels and a.lineage == b.lineage and a.doubted == b.doubted
    assert all(torch.equal(p.data, b.graph.params[name].data) for name, p in a.graph.params.items())
    for name in ("model.gng", "seed.gng", "channels.jsonl"):
        assert (first / name).read_bytes() == (second / name).read_bytes(), name
    histories = (without_seconds(read_history(folder / "history.jsonl")) for folder in (first, second))
    assert next(histories) == next(histories)


@pytest.fixture(autouse=True)
def _few_steps_are_forecast_by(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending, "STEPS", 1)
    monkeypatch.setattr(ending, "STILL_SHORT", 1.0)


RUNS: dict[str, Callable[[Path], GrowthResult]] = {
    "dropout and BatchNorm": lambda out: begun(dropping(), out),
    "layers that go, and recovery": lambda out: begun(small_vgg(), out, depth="search", rounds=1),
    "layers that change": lambda out: begun(
        seed_graph("vgg11", 1 / 32), out, depth="keep", structure="search", rounds=1
    ),
    "lookahead, AdamW, retrained": lambda out: begun(
        dropping(),
        out,
        allocation="lookahead",
        final="retrain",
        rounds=1,
        train={"optimizer": "adamw", "batch_size": 64},
    ),
    "an ending that is forecast": lambda out: begun(
        small_vgg(), out, final="auto", depth="keep", rounds=1, final_epochs=2
    ),
    "an average, and an early end": lambda out: begun(
        dropping(),
        out,
        rounds=1,
        depth="keep",
        final_epochs=3,
        train={"ema": 0.9, "patience": 1, "batch_size": 64, "precision": "fp16"},
    ),
    "shrink": lambda out: begun(small_vgg(), out, "shrink", epochs=2, to=0.6),
}


def copied(run: Callable[[Path], GrowthResult], root: Path) -> tuple[GrowthResult, list[Path]]:
    """A run, and copies of its folder after each of its checkpoints."""
    keep, copies = Checkpoints.keep, list[Path]()

    def kept(self: Checkpoints, *arguments: Any) -> None:
        keep(self, *arguments)
        copies.append(shutil.copytree(root / "whole", root / str(len(copies) + 1)))

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Checkpoints, "keep", kept)
        return run(root / "whole"), copies


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_goes_on_from_its_checkpoints(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "layers that change":
        monkeypatch.setattr(structure, "AFFORDED", 5.0)  # the run is too short to pay for trials
        monkeypatch.setattr(TrialTraining, "loss", lambda _, graph: 1 / len(graph.nodes))
    expected, copies = copied(RUNS[kind], tmp_path)
    assert kind != "layers that change" or expected.history[0]["structure"]["changes"]
    for folder in copies[2 :: max(3, len(copies) // 3)]:
        kept = newest(folder)
        assert kept is not None
        torch.manual_seed(len(copies))  # another process has other random states
        assert_same(expected, go_on(kept, problem(), folder), tmp_path / "whole", folder)


def test_training_that_diverged_once_goes_on_at_half_the_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest, shares = Trainer.train, list[float]()

    def train(self: Trainer, graph: Graph, stretch: Stretch, *others: Any, **named: Any) -> Trained:
        shares.append(stretch.share)
        if len(shares) == 2:
            raise DivergedError("training diverged")
        return honest(self, graph, stretch, *others, **named)

    with monkeypatch.context() as diverging:
        diverging.setattr(Trainer, "train", train)
        expected, copies = copied(lambda out: begun(dropping(), out, depth="keep", rounds=1), tmp_path)
    assert shares == [1.0, 1.0, 0.5] and "half the rate" in expected.history[-1]["notes"][0]
    for folder in copies:
        kept = newest(folder)
        assert kept is not None
        if kept.record["state"]["slowed"]:
            assert_same(expected, go_on(kept, problem(), folder), tmp_path / "whole", folder)
            return
    pytest.fail("nothing was kept while it was trained at half the rate")


class Stopped(Exception):
    """The run ends here."""


def stopped_after(count: int, monkeypatch: pytest.MonkeyPatch, error: Exception | None = None) -> None:
    """From now on a run ends right after `count` checkpoints."""
    keep, written = Checkpoints.keep, [0]

    def counted(self: Checkpoints, *arguments: Any) -> None:
        keep(self, *arguments)
        written[0] += 1
        if written[0] == count:
            raise error or Stopped

    monkeypatch.setattr(Checkpoints, "keep", counted)


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that was interrupted after its fourth checkpoint."""
    with monkeypatch.context() as own, pytest.raises(Stopped):
        stopped_after(4, own)
        RUNS["dropout and BatchNorm"](tmp_path / "run")
    return tmp_path / "run"


def test_of_two_checkpoints_the_one_before_stands_in_for_a_damaged_one(stopped: Path) -> None:
    files = sorted(path.name for path in (stopped / "checkpoints").iterdir())
    assert files == [f"{number:06}.{kind}" for number in (3, 4) for kind in ("json", "safetensors")]
    tensors, rest = (stopped / "checkpoints" / f"000004.{kind}" for kind in ("safetensors", "json"))
    whole = tensors.read_bytes()
    tensors.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    found = newest(stopped)
    assert found is not None and found.number == 3
    tensors.write_bytes(whole)
    found = newest(stopped)
    assert found is not None and found.number == 4
    rest.write_bytes(rest.read_bytes()[:500])
    (stopped / "checkpoints" / "000003.json").unlink()
    with pytest.raises(GnGraphError, match="no checkpoint that is whole: begin it anew"):
        gngraph.resume(stopped, problem())


def test_what_is_different_is_named(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(GnGraphError, match=r"training samples is '240 with SHA-256 .*' when it began"):
        data = digits()
        data.train.raw[7] += 1  # type: ignore[attr-defined]
        gngraph.resume(stopped, Problem(data, device="cpu", batch_size=32))
    with pytest.raises(GnGraphError, match="seed is '1', but was '0' when it began"):
        gngraph.resume(stopped, problem(seed=1))
    with pytest.raises(GnGraphError, match="do this on the command line if it began there, else give the data again"):
        gngraph.resume(stopped)
    with monkeypatch.context() as own, pytest.raises(GnGraphError, match=r"gngraph is '.*abc\)', but was"):
        own.setattr(identity, "_code", lambda: "abc")
        gngraph.resume(stopped, problem())
    seed = (stopped / "seed.gng").read_bytes()
    gngraph.save(small_vgg(), stopped / "seed.gng")
    with pytest.raises(GnGraphError, match="is not the network that the run in"):
        gngraph.resume(stopped, problem())
    (stopped / "seed.gng").write_bytes(seed)


def test_a_run_goes_on_with_its_own_threads_and_random_states(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, own = newest(stopped), torch.get_num_threads()
    assert kept is not None
    seen = list[int]()
    monkeypatch.setattr(Rounds, "to_end", lambda run: seen.append(torch.get_num_threads()))
    torch.set_num_threads(own + 1)
    before = torch.get_rng_state()
    go_on(kept, problem(), stopped)
    assert seen == [own] and torch.get_num_threads() == own + 1 and torch.equal(torch.get_rng_state(), before)
    torch.set_num_threads(own)


def test_a_full_disk_leaves_the_checkpoint_before(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = Path.write_bytes

    def full(self: Path, content: bytes) -> int:
        write(self, content[: len(content) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    kept = newest(stopped)
    assert kept is not None
    with monkeypatch.context() as own, pytest.raises(GnGraphError, match="cannot be written: No space left on device"):
        own.setattr(Path, "write_bytes", full)
        go_on(kept, problem(), stopped)
    again = newest(stopped)
    assert again is not None and again.number == kept.number


def test_where_no_run_was_interrupted(tmp_path: Path) -> None:
    with pytest.raises(GnGraphError, match="there is no folder"):
        gngraph.resume(tmp_path / "none")
    with pytest.raises(GnGraphError, match="holds no run to go on with"):
        gngraph.resume(tmp_path)
