"""Faults injected into training, each in a process of its own: how each ends, and how many end as said.

Data with numbers that are none or extreme, targets and rates of any size, gradients that become NaN at a step, memory and disks
that run out, folders that cannot be written, signals, and code of the user's that fails. Each fault has a status and words that it
must end with; none may end in a traceback or as an unexpected error, and what is left of a run must load. Exits non-zero when one
ends otherwise.

    python tools/check_faults.py            all of them
    python tools/check_faults.py nan disk   those whose names contain one of these words
"""

from __future__ import annotations

import os
import re
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import tools.faults_of_data
import tools.faults_of_machines  # noqa: F401  what a command imports is there before the processes divide
from gngraph.errors import GnGraphError
from gngraph.files.archive import load
from tools.fault_table import FACTORIES, FAULTS, Fault

LIMIT = 60.0
"""Seconds after which a process is taken to hang."""


def run(chosen: Fault) -> tuple[bool, int, str]:
    """Whether a fault ended as said, its exit status, and the last line of what it printed."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "nets.py").write_text(FACTORIES)
        child = os.fork()
        if not child:
            _in_child(chosen, Path(folder))
        status = _waited(child)
        text = Path(folder, "printed").read_text()
        lines = text.strip().splitlines() or [""]
        honest = not re.search(r"Traceback|unexpected \w+", text)
        found = re.search(chosen.says, " ".join(text.split())) is not None
        whole = all(_loads(path) for path in Path(folder).rglob("*.gng"))
        torn = [path for path in Path(folder).rglob(".*.tmp") if status >= 0]
        ended = status == chosen.status and honest and found and whole and not torn
        return ended, status, text if not ended else lines[-1]


def _in_child(chosen: Fault, folder: Path) -> NoReturn:
    """Let a fault happen, and end the process with its status."""
    os.chdir(folder)
    printed = os.open("printed", os.O_WRONLY | os.O_CREAT)
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    sys.stdout = os.fdopen(1, "w", closefd=False)
    sys.stderr = os.fdopen(2, "w", closefd=False)
    status = 99
    try:
        status = chosen.act()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _waited(child: int) -> int:
    """The exit status of a process; minus a signal that ended it."""
    until = time.monotonic() + LIMIT
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.02)


def _loads(path: Path) -> bool:
    try:
        load(path)
    except GnGraphError:
        return False
    return True


def check(words: Sequence[str]) -> int:
    """Print how faults end, a line each; the number of those that end otherwise than they must.

    Args:
        words: parts of names; none: all faults.
    """
    chosen = [one for one in FAULTS if not words or any(word in one.name for word in words)]
    wrong = 0
    for one in chosen:
        started = time.perf_counter()
        ended, status, text = run(one)
        wrong += not ended
        seconds = time.perf_counter() - started
        print(
            f"{'as said' if ended else 'WRONG'}  {one.name} (status {status}, {seconds:.1f} s): {text.strip()}",
            flush=True,
        )
    print(f"{len(chosen) - wrong} of {len(chosen)} faults end as said")
    return wrong


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(1 if check(sys.argv[1:]) else 0)
