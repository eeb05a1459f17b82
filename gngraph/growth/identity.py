"""What a run depends on beside its options: it goes on only where all of that is the same, or the result would be another."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path
from typing import Any

import torch

from gngraph.data import Data
from gngraph.data.digest import digest
from gngraph.deploy.provenance import version
from gngraph.environment import Environment
from gngraph.errors import GnGraphError
from gngraph.growth.history import Record
from gngraph.growth.randomness import RandomStates, drawing_from
from gngraph.running.problem import Problem

RANKS = "number of processes (ranks)"
"""Entry of an identity: how many share the work, on which the order of sums depends."""

THREADS = "threads"
"""Entry of an identity that a run that goes on is given, where others must be the same."""


def identity_of(problem: Problem, ranks: int) -> Record:
    """Code, machine, data and what it is for, by what each is called in messages.

    Args:
        problem: of the run.
        ranks: processes that share the work.

    Cost: see `digest`.
    """
    device = torch.device(problem.device)
    cuda = device.type == "cuda"
    with drawing_from(RandomStates.now()):  # what data of a user's own draws while it is read, is put back
        parts = {"training samples": problem.samples, "test samples": problem.test}
        samples = {name: f"{len(part):,} with SHA-256 {digest(part)}" for name, part in parts.items()}
        unseen = problem.unseen if isinstance(problem.unseen, str | None) else digest(problem.unseen)
    return {
        "gngraph": f"{version()} (code {_code()})",
        "torch": str(torch.__version__),
        "Python": platform.python_version(),
        "processor": f"{platform.machine()} with {torch.backends.cpu.get_cpu_capability()}",
        "device": f"{device}, {torch.cuda.get_device_name(device)}" if cuda else str(device),
        THREADS: torch.get_num_threads(),
        RANKS: ranks,
        "environment": Environment.read().arithmetic,
        "seed": problem.seed,
        "loss": _named(problem.loss),
        "output of the loss": problem.output,
        "sizes of the splits": [problem.learn, problem.judge, problem.report],
        "batch size of analyses": problem.batch_size,
        "unseen samples": unseen,
        **samples,
        "preprocessing": problem.data.inputs_record() if isinstance(problem.data, Data) else None,
        "augmentation": _named(problem.augmentation),
    }


def require_same(kept: Record, problem: Problem, ranks: int, folder: Path) -> None:
    """Refuse to go on with a run, or to repeat it, where something that it depends on is another.

    Args:
        kept: what `identity_of` gave when it began.
        problem: that it is to go on with.
        ranks: processes that share the work.
        folder: of the run.

    Raises:
        GnGraphError: with the first difference.
    """
    for name, now in identity_of(problem, ranks).items():
        if name != THREADS and kept.get(name) != now:
            raise GnGraphError(
                f"run '{folder}' cannot go on or be repeated, for its result would be another: {name} is {_short(now)}, but was "
                f"{_short(kept.get(name))} when it began"
            )


def _code() -> str:
    """A number for the source of gngraph itself: its version says too little where it is developed."""
    found, root = hashlib.sha256(), Path(__file__).parent.parent
    for path in sorted({*root.rglob("*.py"), *(root / "passes").glob("*.py")}):  # which is a link in a source tree
        found.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return found.hexdigest()[:12]


def _named(given: Any) -> str | None:
    """A loss or an augmentation by its name, without its place in memory."""
    if given is None or isinstance(given, str):
        return given
    name = getattr(given, "__qualname__", None)
    return f"{given.__module__}.{name}" if name else str(given).partition(" at 0x")[0]


def _short(value: Any) -> str:
    text = str(value)
    return f"'{text}'" if len(text) <= 120 else f"'{text[:120]}...'"
