"""The check of files from strangers finds what does harm, and a sample of its files does none."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tools.check_files import KINDS, File, Watched, check
from tools.hostile_files import MARKER


@pytest.mark.parametrize(("kind", "count"), [("archives", 48), ("checkpoints", 36)])
def test_mutated_files_do_no_harm(kind: str, count: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert check(kind, count) == 0, capsys.readouterr().out
    assert " 0 do harm" in capsys.readouterr().out


def test_files_that_were_made_to_do_harm_do_none() -> None:
    some = list(KINDS["hostile"](1400))[::25]
    watched = Watched(some)
    assert {
        file.name: verdict for i, file in enumerate(some) if (verdict := watched.verdict(i)) not in ("refused", "taken")
    } == {}


def test_harm_is_seen() -> None:
    def touch(path: Path) -> str:
        Path(MARKER).touch()
        return "same"

    def end(path: Path) -> str:
        os.kill(os.getpid(), signal.SIGSEGV)
        return "same"

    def fail(path: Path) -> str:
        raise KeyError(path.read_bytes())

    def take(path: Path) -> str:
        return "same" if b"1" * (5 << 28) else "changed"

    readers = {
        "code ran": touch,
        "crash: the process ended with -11": end,
        "escape: KeyError: b'1'": fail,
        "memory": take,
    }
    watched = Watched([File(name, "file", lambda: b"1", read) for name, read in readers.items()])
    found = [watched.verdict(i) for i in (1, 2, 3, 0)]
    assert found[:2] == [*readers][1:3] and found[2].startswith("memory: ") and found[3] == "code ran"
