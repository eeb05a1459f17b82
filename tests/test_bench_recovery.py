"""The benchmark of the training after layers went: both runs take the same epochs, and say what became of the loss."""

from __future__ import annotations

import torch
from click.testing import CliRunner

from tools import bench_recovery


def test_runs_with_and_without_it_are_compared() -> None:
    threads = torch.get_num_threads()
    arguments = "--data digits --network mlp --width 0.1 --seeds 1 --epochs 1 --final-epochs 1 --samples 100,100,100 --threads 1"
    result = CliRunner().invoke(bench_recovery.main, arguments.split())
    torch.set_num_threads(threads)
    assert result.exit_code == 0, result.output
    assert result.output.count("'share'") == 2 and "judge loss when the round is decided" in result.output
