"""The options of the benchmarks of predictions, and what they run on."""

from __future__ import annotations

import click
import torch
from click.testing import CliRunner

from tools.experiment import Experiment, experiment_options


def test_a_benchmark_has_the_options_it_names_and_runs_every_network_under_every_seed() -> None:
    found: list[Experiment] = []

    @click.command()
    @experiment_options(networks=("mlp",), seeds=2, samples="30,20,10")
    @click.option("--batch-size", "batch", default=16)
    @click.option("--own", default=1)
    def main(experiment: Experiment, own: int) -> None:
        found.append(experiment)

    threads = torch.get_num_threads()
    arguments = f"--data digits --network a --network b --batch-size 8 --threads {threads}".split()
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert found == [Experiment("digits", ("a", "b"), 2, (30, 20, 10), threads, batch=8)]
    seen = [(name, problem.seed, torch.initial_seed()) for name, problem in found[0].problems()]
    assert seen == [("a", 0, 0), ("a", 1, 1), ("b", 0, 0), ("b", 1, 1)]
    problem = found[0].problem(3, (10, 9, 8))
    assert (problem.seed, [len(split) for split in problem.splits], problem.batch_size) == (3, [10, 9, 8], 8)
    for unknown in (["--width", "1"], ["--samples", "3,x,4"]):
        assert CliRunner().invoke(main, [*arguments, *unknown]).exit_code == 2
