"""Kills runs and has them go on: each must end in the weights and the history of the run that nobody killed.

    python tools/bench_kills.py --kills 200 --operations
    python tools/bench_kills.py --cost

A run of seconds (digits; a network with dropout and BatchNorm, and one that loses layers and recovers) keeps itself every 20
milliseconds. It is killed by SIGKILL at random moments, one in four a second time while it goes on. Moments are seconds of its CPU
time, so that they spread over all of it on busy machines too (on Linux). With `--operations` it is also killed before each of its
file operations in turn, those of the exports included. Compared are SHA-256 of the weights, `model.gng`
and `channels.jsonl` as bytes, and the history without its seconds. Runs are forked from one process, which saves the imports.
`--cost`: the share of a run's seconds that checkpoints take at the default settings.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # which an optimiser's first step imports, in every process anew

import gngraph
from gngraph.analysis.cost import cost
from gngraph.api import write_run
from gngraph.files.archive import load
from gngraph.growth.checkpoints import Checkpoints, newest
from gngraph.growth.history import read_history, without_seconds
from gngraph.growth.jobs import JOBS
from gngraph.growth.loop import go_on, grow_by
from gngraph.growth.run_lock import claimed
from gngraph.ir.fingerprint import fingerprint
from gngraph.running.problem import Problem
from tests.problems import digits, dropping, seed_graph

OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir"}
"""Audit events of what changes a folder; that a file is opened to be read is left out."""

Step = Callable[[Path, int], None]
"""What a process does to the folder of a run; a number is of the pipe into which it tells its stages."""


class Told:
    """Tells the stages to whoever outlives the process."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def stage_started(self, number: int, stage: str) -> None:
        """Tell it."""
        os.write(self._pipe, f"{stage}\n".encode())

    def stage_finished(self, number: int, stage: str, seconds: float) -> None:
        """Tell it."""
        os.write(self._pipe, b"between stages\n")


@cache
def problem() -> Problem:
    """The first digits; read before the first process is forked, for all of them."""
    return Problem(digits(120, 24), device="cpu", batch_size=32)


def begin(folder: Path, pipe: int, every: float = 0.02) -> None:
    """A run from its beginning, without its exports, with a checkpoint every so many seconds."""
    graph = seed_graph("mlp", 0.05) if folder.name.startswith("mlp") else dropping()
    options: dict[str, Any] = {
        "rounds": 2,
        "epochs": 1,
        "final_epochs": 2,
        "checkpoint_every": every,
        "depth": "search",
    }
    job = JOBS["grow"]
    given = job.options.of(options, max_params=2 * cost(graph).params, train={"batch_size": 16})
    with claimed(folder):
        grow_by(job.task(given, graph), graph, problem(), out=folder, observer=Told(pipe))


def resumed(folder: Path, pipe: int) -> None:
    """The rest of it; all of it where it was killed before its first checkpoint."""
    with claimed(folder):
        kept = newest(folder)
        if kept is not None:
            go_on(kept, problem(), folder, Told(pipe))
    if kept is None:
        shutil.rmtree(folder, ignore_errors=True)
        begin(folder, pipe)


def exported(folder: Path, pipe: int) -> None:
    """The exports of a run that is otherwise at its end."""
    with claimed(folder):
        kept = newest(folder)
        if kept is not None:
            write_run(go_on(kept, problem(), folder), problem(), folder)


@dataclass(frozen=True)
class Ended:
    """How a process ended: whether by itself, after how many seconds of its CPUs, and in which stage it was."""

    alone: bool
    seconds: float
    stage: str


def process(step: Step, folder: Path, *, after: float | None = None, before: int | None = None) -> Ended:
    """A process that does a step.

    Args:
        step: what it does.
        folder: of the run.
        after: it is killed after so many seconds of its CPUs.
        before: it kills itself before so manyth file operation in the folder, from 1.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(reading)
            torch.set_num_threads(1)
            if before is not None:
                _count_operations(folder, before)
            step(folder, writing)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writing)
    if after is not None:
        while not os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            if _cpu_seconds(child) >= after:
                os.kill(child, signal.SIGKILL)
                break
            time.sleep(0.002)
    _, status, used = os.wait4(child, 0)
    seconds = used.ru_utime + used.ru_stime
    with os.fdopen(reading) as pipe:
        stages = pipe.read().split("\n")
    if status and os.waitstatus_to_exitcode(status) != -signal.SIGKILL:
        raise SystemExit(f"a process ended with status {os.waitstatus_to_exitcode(status)}")
    return Ended(not status, seconds, stages[-2] if len(stages) > 1 else "before the first stage")


def _cpu_seconds(child: int) -> float:
    """Of another process, all of its threads; the number of its clock is that of `clock_getcpuclockid`, which Python leaves out."""
    return time.clock_gettime((~child << 3) | 2)


def _count_operations(folder: Path, last: int) -> None:
    seen = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal seen
        if event not in OPERATIONS or not str(arguments[0]).startswith(str(folder)):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        seen += 1
        if seen == last:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def summary(folder: Path) -> dict[str, Any]:
    """What must be equal, of a run that has ended."""
    files = {name: _sha256(folder / name) for name in ("model.gng", "seed.gng", "channels.jsonl")}
    history = without_seconds(read_history(folder / "history.jsonl"))
    return {"weights": fingerprint(load(folder / "model.gng")), "history": history, **files}


def everything(folder: Path) -> dict[str, Any]:
    """The same, and what the exports leave."""
    written = {path.name for path in folder.rglob("*")}
    exports = {name: _sha256(folder / name) for name in ("model.onnx", "model.py", "weights.safetensors")}
    return summary(folder) | {"files": written, **exports}


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass
class Tally:
    """Kills, by the stage that they met, and runs that ended otherwise than they should have."""

    kills: Counter[str]
    runs: int = 0
    twice: int = 0
    writing: int = 0
    early: int = 0
    different: int = 0

    def killed(self, folder: Path, stage: str) -> None:
        """Count a kill."""
        self.kills[stage] += 1
        self.writing += any(folder.rglob(".*.tmp"))
        self.early += newest(folder) is None

    def ended(self, found: dict[str, Any], expected: dict[str, Any], what: str) -> None:
        """Compare a run that went on to its end."""
        self.runs += 1
        wrong = [name for name in expected if found[name] != expected[name]]
        if wrong:
            self.different += 1
            print(f"DIFFERENT in {', '.join(wrong)}: killed {what}", flush=True)

    def tell(self, what: str) -> None:
        """Print the counts."""
        stages = ", ".join(f"{count} in '{stage}'" for stage, count in self.kills.most_common())
        print(
            f"{what}: {sum(self.kills.values())} kills of {self.runs} runs ({self.twice} of them twice); {self.writing} left a "
            f"file half written, {self.early} came before the first checkpoint; stages: {stages}; {self.runs - self.different} of "
            f"{self.runs} ended the same",
            flush=True,
        )


def random_kills(count: int, root: Path, draw: random.Random) -> bool:
    """Whether runs that are killed at random moments end as they would have."""
    tally, expected, lasts = Tally(Counter()), dict[str, dict[str, Any]](), dict[str, float]()
    while sum(tally.kills.values()) < count:
        kind = draw.choice(("dropping", "dropping", "mlp"))
        if kind not in lasts:
            whole = root / f"{kind} whole"
            lasts[kind] = process(begin, whole).seconds
            expected[kind] = summary(whole)
            print(f"{kind}: a run of {lasts[kind]:.1f} s", flush=True)
        folder, times, moments = root / f"{kind} killed", 1 + (draw.random() < 0.25), list[float]()
        step: Step = begin
        shutil.rmtree(folder, ignore_errors=True)
        while len(moments) < times:
            ended = process(step, folder, after=draw.uniform(0.0, lasts[kind] / len([*moments, 0])))
            if ended.alone:
                break
            moments.append(ended.seconds)
            tally.killed(folder, ended.stage)
            step = resumed
        if not moments:
            continue
        tally.twice += len(moments) > 1
        process(resumed, folder)
        tally.ended(
            summary(folder), expected[kind], f"after {', '.join(f'{moment:.2f}' for moment in moments)} s ({kind})"
        )
        if tally.runs % 20 == 0:
            tally.tell("so far")
    tally.tell("random moments")
    return not tally.different


def kills_before_operations(root: Path) -> bool:
    """Whether runs that are killed before each file operation end as they would have; then the same with exports alone."""
    good, seldom = True, partial(begin, every=0.5)
    for name, step, expect in (("of a run", seldom, summary), ("of its exports", exported, everything)):
        whole, tally, number = root / "dropping", Tally(Counter()), 0
        shutil.rmtree(whole, ignore_errors=True)
        process(begin, whole)
        start = shutil.copytree(whole, root / "at the end", dirs_exist_ok=True)
        if step is exported:
            process(exported, whole)
        expected = expect(whole)
        while True:
            number += 1
            shutil.rmtree(whole)
            if step is exported:
                shutil.copytree(start, whole)
            ended = process(step, whole, before=number)
            if ended.alone:
                break
            tally.killed(whole, ended.stage)
            process(resumed if step is seldom else exported, whole)
            tally.ended(expect(whole), expected, f"before operation {number} {name}")
            if tally.runs % 20 == 0:
                tally.tell("so far")
        tally.tell(f"before each file operation {name}")
        good &= not tally.different
    return good


def checkpoint_cost() -> None:
    """What checkpoints take of runs at the default settings."""
    spent, keep = [0.0, 0.0], Checkpoints.keep

    def timed(self: Checkpoints, *arguments: Any) -> None:
        started = time.perf_counter()
        keep(self, *arguments)
        spent[:] = spent[0] + 1, spent[1] + time.perf_counter() - started

    Checkpoints.keep = timed  # type: ignore[method-assign,assignment]
    for name, width, most in (("mlp", 0.05, 20_000), ("vgg11", 0.0625, 100_000), ("resnet20", 0.125, 30_000)):
        spent[:] = 0.0, 0.0
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            gngraph.grow(seed_graph(name, width), "digits", max_params=most, out=Path(folder) / "run")
            seconds = time.perf_counter() - started
        print(
            f"{name} to {most:,} parameters on digits: {spent[0]:.0f} checkpoints took {spent[1]:.2f} of {seconds:.1f} s "
            f"({spent[1] / seconds:.2%})",
            flush=True,
        )


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200, help="at random moments; 0: none")
    parser.add_argument("--operations", action="store_true", help="kill before each file operation as well")
    parser.add_argument("--cost", action="store_true", help="what checkpoints cost at the defaults, and nothing else")
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    given = parser.parse_args()
    if given.cost:
        checkpoint_cost()
        return
    problem()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        good = [random_kills(given.kills, root, random.Random(given.seed))] if given.kills else []
        good += [kills_before_operations(root)] if given.operations else []
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
