"""The benchmark of exports prints a row a way, beside torch.export's."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from tools import bench_export


def test_the_benchmark_prints_every_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a small network, and in this process."""
    small = nn.Sequential(nn.Conv2d(3, 4, 16, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    monkeypatch.setattr(bench_export, "module_of", lambda network: small)
    monkeypatch.setattr(bench_export, "apart", bench_export.measured)
    found = CliRunner().invoke(bench_export.main, ["--network", "small", "--threads", str(torch.get_num_threads())])
    assert found.exit_code == 0, found.output
    rows = [line.split("│")[1:-1] for line in found.output.splitlines() if "small" in line]
    assert [row[2].strip() for row in rows] == [bench_export.WITH, "import", *bench_export.WAYS]
    assert float(rows[0][4]) == 1 and all(float(row[3]) >= 0 for row in rows)
