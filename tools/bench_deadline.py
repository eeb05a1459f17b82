"""Networks that were grown to a budget of FLOPs beside ones grown to be so many times faster: accuracy and milliseconds.

A seed of --start of the FLOPs is grown to --flops, and what that takes on this machine is measured. The same seed is grown once
more, with the same data, epochs and seed of random numbers, to be --speedup times as fast, with no bound on FLOPs. Both are
measured in turns in one process. There are two lines a seed, and one of medians; a budget of parameters (--params) holds for both.

    tools/bench_deadline.py --data cifar10.npz --size 16 --train 10000 --network vgg11 --flops 2M --epochs 20 --seeds 3
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

import click
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gngraph
from gngraph.analysis.cost import Budget, cost
from gngraph.data import load_data
from gngraph.ir import Graph
from gngraph.latency import LatencySetting
from gngraph.latency.stopwatch import WholeNetwork, network_seconds
from gngraph.options import TrainOptions
from gngraph.options.values import parse_count
from gngraph.running.evaluation import evaluate
from gngraph.running.problem import Problem
from tools.bench_growth import shrunken
from tools.growth_designs import FAMILY, designed


def told(name: str, graph: Graph, accuracy: float, seconds: float) -> None:
    """A line of the table."""
    size = cost(graph)
    click.echo(f"{name}: {accuracy:.1%}, {1000 * seconds:.3f} ms, {size.params:,} parameters, {size.flops:,} FLOPs")


@click.command()
@click.option("--data", required=True, help="Data set, by name or path.")
@click.option("--size", default=0, help="Side that pictures are averaged to; 0: as they are.")
@click.option("--train", default=0, help="Training samples; 0: all.")
@click.option("--network", default="vgg11", help="Of the zoo.")
@click.option("--flops", default="2M", help="Budget of the first.")
@click.option("--params", help="Budget of both.")
@click.option("--start", default=0.1, help="Size of the seed as a share of the budget.")
@click.option("--epochs", default=20, help="Of each run.")
@click.option("--rounds", default=2, help="Of each run.")
@click.option("--lr", type=float, help="Learning rate.")
@click.option("--seeds", default=1, help="How many, from 0.")
@click.option("--on", "runtime", default="onnxruntime-cpu", help="Runtime.")
@click.option("--batch", default=1, help="Samples at a time.")
@click.option("--speedup", default=1.3, help="By how much the second is to be faster.")
def main(
    data: str, size: int, train: int, network: str, flops: str, params: str | None, start: float, epochs: int, rounds: int,
    lr: float | None, seeds: int, runtime: str, batch: int, speedup: float,
) -> None:  # fmt: skip
    """Grow by FLOPs and by milliseconds, and compare."""
    torch.set_num_threads(1)
    source, setting = shrunken(load_data(data), size, train), LatencySetting(runtime, batch)
    most_flops, most_params = parse_count(flops), None if params is None else parse_count(params)
    gained, faster = list[float](), list[float]()
    growing = max(1, round(0.4 * epochs / rounds))
    for seed in range(seeds):
        small = designed(FAMILY, network, source, Budget(most_params, int(most_flops * start)))

        def grown(seed: int = seed, small: Graph = small, **budget: Any) -> tuple[Graph, float]:
            problem = Problem(source, device="cpu", seed=seed)
            result = gngraph.grow(
                small, problem, max_params=most_params, rounds=rounds, epochs=growing,
                final_epochs=epochs - rounds * growing, train=TrainOptions(lr=lr), **budget,
            )  # fmt: skip
            return result.graph, evaluate(result.graph, problem, problem.test)[1] or 0.0

        by_flops, first = grown(max_flops=most_flops)
        whole = WholeNetwork(by_flops, setting)
        seconds, _ = network_seconds(whole)
        by_time, second = grown(
            max_latency=1000 * seconds / speedup, on=runtime, latency_batch=batch, latency_threads=1
        )
        again, _ = network_seconds(WholeNetwork(by_time, setting), (whole, seconds))
        told(f"{network} seed {seed} by FLOPs", by_flops, first, seconds)
        told(f"{network} seed {seed} by milliseconds", by_time, second, again)
        gained.append(second - first)
        faster.append(seconds / again)
    click.echo(
        f"{network}, {setting.text}, {seeds} seeds: {statistics.median(faster):.2f} times faster, "
        f"{100 * statistics.median(gained):+.1f} points of accuracy in the median "
        f"({100 * min(gained):+.1f} to {100 * max(gained):+.1f})"
    )


if __name__ == "__main__":
    main()
