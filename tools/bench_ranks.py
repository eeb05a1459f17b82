"""Several processes against one: what they decide, what they train, how long they take, and what is left when one is killed.

    python tools/bench_ranks.py --runs 20
    python tools/bench_ranks.py --scoring
    python tools/bench_ranks.py --kills 10

`--runs`: growths of small networks on digits in float64, each by 1, 2 and 4 processes (gloo): whether they choose the same
morphisms, and the largest difference of the weights after an epoch and at the end. `--scoring`: seconds of an analysis by 1 and
by 2 processes, of one thread each. `--kills`: jobs of two processes of which one gets SIGKILL at a random moment: seconds until the
job has ended, and whether it goes on to its end.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, NoReturn

import torch
import torch._dynamo  # which an optimiser's first step imports, in every process anew
from torch import nn
from torch.multiprocessing.spawn import spawn
from torch.utils.data import TensorDataset

from gngraph.analysis.cost import cost
from gngraph.analysis.manager import AnalysisManager
from gngraph.data import load_data
from gngraph.errors import GnGraphError
from gngraph.files.archive import load
from gngraph.growth.checkpoints import newest
from gngraph.growth.jobs import JOBS
from gngraph.growth.loop import go_on, grow_by
from gngraph.growth.run_lock import claimed
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.ir.fingerprint import fingerprint
from gngraph.options import TrainOptions
from gngraph.ranks import here, joined
from gngraph.running.problem import Problem
from gngraph.scoring.gauss_newton import GaussNewton
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer

KINDS = ("split,prune", "split,new", "prune,merge", "split,prune,insert")
"""Kinds of candidates of the runs, in turn."""


def digits(count: int = 160) -> dict[str, TensorDataset]:
    """Digits as double precision numbers."""
    data = load_data("digits")
    parts = {"train": (data.train, count), "test": (data.test, 90)}
    found = {}
    for name, (part, most) in parts.items():
        samples = [part[i] for i in range(most)]
        x, y = torch.stack([x for x, _ in samples]).double(), torch.tensor([int(y) for _, y in samples])
        found[name] = TensorDataset(x, y)
    return found


def network(number: int, width: int = 6) -> Graph:
    """A small network in double precision: a chain of layers, or of convolutions with BatchNorm."""
    torch.manual_seed(number)
    if number % 2:
        module: nn.Module = nn.Sequential(
            nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
        )
    else:
        module = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(width, 10),
        )
    return from_torch(module.double(), torch.zeros(2, 1, 8, 8, dtype=torch.float64))


def one_run(number: int, data: Any) -> dict[str, Any]:
    """The weights after an epoch, and what a growth chose and gave."""
    graph, problem = network(number), Problem(data, device="cpu", seed=number)
    trained = Trainer(problem, TrainOptions(lr=0.02, batch_size=50)).train(graph, Stretch(1)).graph
    job = JOBS["grow"]
    options = job.options.of(
        {
            "rounds": 2,
            "epochs": 1,
            "final_epochs": 0,
            "depth": "keep",
            "max_params": 2 * cost(graph).params,
            "kinds": KINDS[number % len(KINDS)].split(","),
            "curvature": ("mc", "exact", "rank1")[number % 3],
            "train": {"batch_size": 50, "lr": 0.02},
        }
    )
    result = grow_by(job.task(options, graph), graph, problem)
    return {
        "epoch": {name: p.data for name, p in trained.params.items()},
        "weights": {name: p.data for name, p in result.graph.params.items()},
        "morphisms": [record.get("morphisms") for record in result.history],
        "refused": [record.get("refused") is not None for record in result.history],
    }


def scoring(number: int, data: Any) -> float:
    """Seconds of an analysis of a larger network."""
    graph, problem = network(0, 64), Problem(data, device="cpu")
    GaussNewton().run(network(0), AnalysisManager(Problem(data, device="cpu")))
    started = time.perf_counter()
    GaussNewton().run(graph, AnalysisManager(problem))
    return time.perf_counter() - started


def set_up(rank: int, size: int, port: int) -> None:
    """Make this process one of a job, as torchrun does."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    own = {"WORLD_SIZE": size, "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in own.items()})


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _rank(rank: int, size: int, port: int, work: Callable[[int, Any], Any], count: int, path: str) -> None:
    set_up(rank, size, port)
    data = digits()
    with joined():
        found = [work(number, data) for number in range(count)]
        if here().first:
            torch.save(found, path)


def by(size: int, work: Callable[[int, Any], Any], count: int) -> list[Any]:
    """What several processes give together.

    Args:
        size: how many.
        work: called with a number and the data.
        count: of numbers.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/found.pt"
        spawn(_rank, (size, free_port(), work, count, path), size)  # type: ignore[no-untyped-call]
        found: list[Any] = torch.load(path, weights_only=False)
        return found


def compared(count: int) -> bool:
    """Whether 2 and 4 processes do what one does."""
    alone, good = by(1, one_run, count), True
    for size in (2, 4):
        found = by(size, one_run, count)
        same = [
            a["morphisms"] == b["morphisms"] and a["refused"] == b["refused"] for a, b in zip(alone, found, strict=True)
        ]
        off = {
            key: max(
                (a[key][n] - b[key][n]).abs().max().item()
                for a, b, s in zip(alone, found, same, strict=True)
                if s or key == "epoch"
                for n in a[key]
                if a[key][n].is_floating_point()
            )
            for key in ("epoch", "weights")
        }
        print(
            f"{size} processes against 1: same morphisms in {sum(same)} of {count} runs; weights differ by at most "
            f"{off['epoch']:.1e} after an epoch, by {off['weights']:.1e} at the end of those runs",
            flush=True,
        )
        good &= all(same) and off["epoch"] <= 1e-6
    return good


def faster() -> None:
    """Print the seconds of an analysis by one process and by two."""
    alone, both = (min(by(size, scoring, 3)) for size in (1, 2))
    print(f"scoring: {alone:.2f} s by 1 process, {both:.2f} s by 2, of {os.cpu_count()} cores", flush=True)


class Job:
    """Two processes that do something together, forked from this one, which saves the imports.

    Args:
        step: what each of them does.
    """

    def __init__(self, step: Callable[[], object]) -> None:
        port = free_port()
        self.started = time.perf_counter()
        self.processes = [os.fork() or self._child(step, rank, port) for rank in range(2)]

    @staticmethod
    def _child(step: Callable[[], object], rank: int, port: int) -> NoReturn:
        status = 1
        try:
            with open(os.devnull, "w", encoding="utf-8") as nowhere, contextlib.redirect_stderr(nowhere):
                set_up(rank, 2, port)
                with joined():
                    step()
            status = 0
        except GnGraphError as error:
            status = 3
            print(f"  rank {rank}: {error}", flush=True)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)

    def ended(self) -> list[int]:
        """How the processes ended, once all have."""
        return [os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) for process in self.processes]


def begin(folder: Path) -> None:
    """A run of seconds that is kept 50 times a second."""
    graph = network(0)
    options = {"rounds": 1, "epochs": 2, "final_epochs": 3, "max_params": 2 * cost(graph).params, "depth": "keep"}
    options |= {"checkpoint_every": 0.02, "train": {"batch_size": 50, "lr": 0.02}}
    job = JOBS["grow"]
    with claimed(folder):
        grow_by(job.task(job.options.of(options), graph), graph, problem_of_kills(), out=folder)


def resumed(folder: Path) -> None:
    """The rest of it; all of it where it was killed before its first checkpoint."""
    with claimed(folder):
        kept = here().by_first(lambda: newest(folder))
        if kept is not None:
            go_on(kept, problem_of_kills(), folder)
    if kept is None:
        here().by_first(lambda: shutil.rmtree(folder, ignore_errors=True))
        begin(folder)


@cache
def problem_of_kills() -> Problem:
    """Read before the first process is forked, for all of them."""
    return Problem(digits(), device="cpu")


def killed(count: int, draw: random.Random) -> bool:
    """Whether jobs of which one process is killed end, and go on to the end that they would have had."""
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    problem_of_kills()
    slowest, same, number = 0.0, 0, 0
    with tempfile.TemporaryDirectory() as root:
        whole = Job(partial(begin, Path(root) / "whole"))
        whole.ended()
        seconds = time.perf_counter() - whole.started
        expected = fingerprint(load(Path(root) / "whole" / "model.gng"))
        while number < count:
            folder, victim = Path(root) / str(number), draw.randrange(2)
            job = Job(partial(begin, folder))
            time.sleep(draw.uniform(0.1, 0.8) * seconds)
            os.kill(job.processes[victim], signal.SIGKILL)
            at = time.perf_counter()
            statuses = job.ended()
            if statuses[victim] != -signal.SIGKILL:  # the job was over before
                shutil.rmtree(folder)
                continue
            number += 1
            slowest = max(slowest, time.perf_counter() - at)
            good = Job(partial(resumed, folder)).ended() == [0, 0]
            equal = good and statuses[1 - victim] == 3 and fingerprint(load(folder / "model.gng")) == expected
            same += equal
            if not equal:
                print(
                    f"  job {number}: the processes ended with {statuses}, going on {'well' if good else 'badly'}",
                    flush=True,
                )
    print(
        f"{same} of {count} jobs of {seconds:.1f} s, of which one of two processes was killed, ended with a sentence, the slowest "
        f"{slowest:.1f} s later, and went on to the weights of the job that nobody killed",
        flush=True,
    )
    return same == count and slowest < 60


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=0, help="growths that are compared")
    parser.add_argument("--scoring", action="store_true", help="seconds of an analysis")
    parser.add_argument("--kills", type=int, default=0, help="jobs of which one process is killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which they are")
    given = parser.parse_args()
    good = [killed(given.kills, random.Random(given.seed))] if given.kills else []
    good += [compared(given.runs)] if given.runs else []
    if given.scoring:
        faster()
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
