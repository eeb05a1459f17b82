"""Faults that are injected into training end as said: the quickest of those that `tools/check_faults.py` has."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

QUICK = ("nan in a tensor", "a label", "sys.exit", "1e15", "nan at step", "whatever is done")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="faults happen in processes that divide")
def test_the_quickest_faults_end_as_said() -> None:
    command = [sys.executable, str(ROOT / "tools" / "check_faults.py"), *QUICK]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=240, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip().endswith(f"{len(QUICK)} of {len(QUICK)} faults end as said")
