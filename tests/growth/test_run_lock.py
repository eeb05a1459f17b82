"""One run, one folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import gngraph
from gngraph.errors import GnGraphError
from gngraph.growth.run_lock import claimed, require_free_folder
from tests.problems import problem, seed_graph

_HOLD = """
import sys, pathlib
from gngraph.growth.run_lock import claimed
with claimed(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_run_is_refused_and_a_killed_one_frees_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        (folder / ".model.gng.0123456789abcdef.tmp").write_text("half")
        with pytest.raises(GnGraphError, match=r"run' is in use by another run"), claimed(folder):
            pytest.fail("two runs in one folder")
        other.kill()
    with claimed(folder):
        require_free_folder(folder)
        assert [path.name for path in folder.iterdir()] == [".lock"]


def test_a_refused_run_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(GnGraphError, match="budget"):
        gngraph.grow(seed_graph(), problem(), max_params=1, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(GnGraphError, match="is a file, not a folder"), claimed(tmp_path / "file"):
        pytest.fail("a file is no folder")
