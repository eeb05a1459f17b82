"""A step in place leaves no memory of the old network; its benchmark prints what it costs beside a round of the loop."""

from __future__ import annotations

import torch
from click.testing import CliRunner

from tools.bench_grower import main


def test_the_benchmark_prints_the_ratio_beside_its_bar() -> None:
    threads = str(torch.get_num_threads())
    options = ["--network", "mlp", "--width", "0.05", "--repeats", "1", "--threads", threads]
    found = CliRunner().invoke(main, options)
    assert found.exit_code == 0, found.output
    assert "ratio (bar 1)" in found.output
    left = float(found.output.split("│")[-2])
    assert abs(left) < 0.02
