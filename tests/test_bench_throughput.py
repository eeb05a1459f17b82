"""The benchmark of training prints its ratios beside the bar."""

from __future__ import annotations

import torch
from click.testing import CliRunner

from tools.bench_throughput import main


def test_the_benchmark_prints_ratios_to_both_plain_loops() -> None:
    threads = str(torch.get_num_threads())
    options = ["--network", "mlp:0.02", "--samples", "60", "--batch-size", "20", "--epochs", "1", "--threads", threads]
    found = CliRunner().invoke(main, options)
    assert found.exit_code == 0, found.output
    assert "(bar 1)" in found.output and "ratio to" in found.output
    (row,) = [line for line in found.output.splitlines() if "mlp:0.02" in line]
    assert all(float(cell) > 0 for cell in row.split("│")[-3:-1])
