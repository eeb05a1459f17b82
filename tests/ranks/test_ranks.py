"""Several processes do what one does: they train and choose the same, keep it once, and go on with it."""

from __future__ import annotations

import os
import shutil
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch.multiprocessing.spawn import spawn

import gngraph
from gngraph.analysis.manager import AnalysisManager
from gngraph.cli import gngraph as command
from gngraph.environment import Environment
from gngraph.errors import GnGraphError, PassError
from gngraph.growth.checkpoints import newest
from gngraph.growth.history import read_history, without_seconds
from gngraph.growth.jobs import JOBS
from gngraph.growth.keeping import Keeper
from gngraph.growth.loop import go_on, grow_by
from gngraph.growth.result import GrowthResult
from gngraph.growth.run_folder import checkpoint_of
from gngraph.growth.run_lock import claimed
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.ranks import LostRankError, Ranks, here, joined, tells
from gngraph.running.problem import Problem
from gngraph.scoring.collect import Collected
from gngraph.scoring.gauss_newton import GaussNewton

PROCESSES = 2


def samples() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(73, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    return x, (x.mean((2, 3)) @ torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64) > 0).long() + (x[:, 0, 0, 0] > 0)


def network() -> Graph:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 5), nn.ReLU()]
    return from_torch(nn.Sequential(*layers, nn.Linear(5, 3)).double(), torch.zeros(2, 3, 4, 4, dtype=torch.float64))


def grown(out: Path | None = None) -> GrowthResult:
    given = {"rounds": 1, "epochs": 1, "final_epochs": 1, "max_params": 300, "depth": "keep", "perturb": 0.3}
    given |= {"kinds": ["split", "prune", "new", "merge"]}
    given |= {"checkpoint_every": 0, "train": {"batch_size": 16, "lr": 0.02, "accumulate": 2}}
    job, graph = JOBS["grow"], network()
    return grow_by(job.task(job.options.of(given), graph), graph, problem(), out=out)


def problem() -> Problem:
    return Problem(samples(), device="cpu", batch_size=25)


class Stopped(Exception):
    """The run ends here."""


def interrupted(out: Path, after: int) -> None:
    """A run that ends in the midst of an epoch."""
    keep, kept = Keeper.keep, [0]

    def counted(self: Keeper, *arguments: Any) -> None:
        keep(self, *arguments)
        kept[0] += 1
        if kept[0] == after:
            raise Stopped

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Keeper, "keep", counted)
        with claimed(out), pytest.raises(Stopped):
            grown(out)


def work(rank: int, root: str, port: int) -> None:
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    own = {"WORLD_SIZE": PROCESSES, "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in own.items()})
    folder = Path(root)
    with joined() as ranks:
        with claimed(folder / "whole"):
            whole = grown(folder / "whole")
        interrupted(folder / "stopped", 3)
        if rank == 0:
            shutil.copytree(folder / "stopped", folder / "left")
            (folder / "left" / ".lock").unlink(missing_ok=True)
        torch.manual_seed(rank)
        kept = ranks.by_first(lambda: checkpoint_of(folder / "stopped"))
        with claimed(folder / "stopped"):
            again = go_on(kept, problem(), folder / "stopped")
        weights = [{name: p.data for name, p in result.graph.params.items()} for result in (whole, again)]
        told = ranks.gathered((weights, without_seconds(whole.history), without_seconds(again.history)))
        if rank == 0:
            torch.save(told, folder / "told.pt")
        with pytest.MonkeyPatch.context() as patched:  # as of a proposer that knows nothing of other processes
            patched.setattr(Collected, "total", lambda self, *sums: sums)
            with pytest.raises(PassError, match="learned something else in each of 2 processes"):
                GaussNewton(kinds=("split",)).run(network(), AnalysisManager(problem()))
        with pytest.raises(ZeroDivisionError):
            ranks.by_first(lambda: 1 / 0)
        with pytest.raises(ValueError, match="of the second"):
            ranks.joined(failing(rank))
        if rank == 0:
            (folder / f"tells {tells()}").touch()
        ranks.gathered(0)
        assert tells() is (rank == 0)
        if rank == PROCESSES - 1:
            os._exit(0)
        with pytest.raises(LostRankError, match="another process of the job ended"):
            ranks.total(torch.ones(1))
        os._exit(0)  # a group that has lost one cannot be taken down in order


def failing(rank: int) -> Any:
    yield rank
    if rank == 1:
        raise ValueError("of the second")


@pytest.mark.filterwarnings("ignore")
def test_processes_do_together_what_one_does(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(work, (str(tmp_path), port), PROCESSES)  # type: ignore[no-untyped-call]
    told = torch.load(tmp_path / "told.pt", weights_only=False)
    (weights, _), history, after = told[0]
    for others in told:
        for own in others[0]:  # of the run that went through, and of that which was interrupted
            assert own.keys() == weights.keys() and all(torch.equal(own[name], weights[name]) for name in own)
        assert others[1:] == (history, after)
    assert history == after == without_seconds(read_history(tmp_path / "stopped" / "history.jsonl"))
    assert history[0]["environment"]["ranks"] == PROCESSES

    torch.set_default_dtype(torch.float64)
    try:
        alone = grown()
    finally:
        torch.set_default_dtype(torch.float32)
    assert [record.get("morphisms") for record in alone.history] == [record.get("morphisms") for record in history]
    assert any("new" in str(record.get("morphisms")) or "split" in str(record.get("morphisms")) for record in history)
    for name, p in alone.graph.params.items():
        assert torch.allclose(p.data.double(), weights[name].double(), rtol=0, atol=1e-9), name
    with pytest.raises(GnGraphError, match=r"number of processes \(ranks\) is '1', but was '2' when it began"):
        gngraph.resume(tmp_path / "left", problem())
    assert newest(tmp_path / "left") is not None


def test_a_share_of_few_rows() -> None:
    for count in range(9):
        rows = [row for rank in range(4) for row in range(count)[Ranks(rank, 4).share(count)]]
        assert rows == [*range(count)]
    assert Ranks(1, 4).of(3).size == 1 and Ranks(1, 4).of(4).size == 4 and here().size == 1


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (
            {"WORLD_SIZE": "4"},
            "WORLD_SIZE=4, but no RANK, LOCAL_RANK, MASTER_ADDR, MASTER_PORT: start the processes by",
        ),
        ({"WORLD_SIZE": "2", "RANK": "5", "LOCAL_RANK": "0"}, "but no MASTER_ADDR, MASTER_PORT"),
        (
            {"WORLD_SIZE": "2", "RANK": "5", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
            "which name no process of a job",
        ),
        (
            {"WORLD_SIZE": "two", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "a", "MASTER_PORT": "1"},
            "which name no process of a job",
        ),
    ],
)
def test_an_environment_that_names_no_job_is_refused(variables: dict[str, str], message: str) -> None:
    with pytest.raises(GnGraphError, match=message):
        Environment.read(variables)


def test_variables_that_were_left_over_are_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(GnGraphError, match="unset WORLD_SIZE"):
        gngraph.grow(network(), samples(), max_params=400)
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    result = CliRunner().invoke(command, ["seed", "mlp", "-o", "never.gng"])
    assert "gngraph seed is the work of one process, but torchrun started 4" in str(result.exception)
    monkeypatch.setattr("gngraph.ranks.joining.STARTING", timedelta(seconds=1))
    with pytest.raises(GnGraphError, match="do not find each other"):
        gngraph.grow(network(), samples(), max_params=400)
