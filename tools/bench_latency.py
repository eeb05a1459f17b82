"""Predicted against measured milliseconds of torchvision's networks at random widths; budgets of them, measured in a new process.

python tools/bench_latency.py --networks resnet18,mobilenet_v2 --rewrites 4
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import click
import torch

import gngraph
from gngraph.analysis.channels import ChannelSpaces
from gngraph.data import Data, load_data
from gngraph.data.dataset import ArrayDataset
from gngraph.files.archive import load
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.latency import LatencyClock, LatencySetting
from gngraph.latency.stopwatch import WholeNetwork, network_seconds
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import Morphism, NewChannel, PruneChannel
from gngraph.running.problem import Problem
from gngraph.zoo import build_seed

NARROWEST, WIDEST = 0.5, 1.25
"""Widths at random, as shares of those of the network."""


def rewritten(graph: Graph, draw: random.Random, multiple: int) -> Graph:
    """The network at widths at random.

    Args:
        graph: the network.
        draw: what they are drawn from.
        multiple: that they are of.
    """
    spaces, morphisms = ChannelSpaces.of(graph), list[Morphism]()
    for space in spaces.free:
        width = max(1, round(space.size * draw.uniform(NARROWEST, WIDEST) / multiple)) * multiple
        morphisms += [PruneChannel(space.name, c) for c in range(width, space.size)]
        morphisms += [NewChannel(space.name)] * max(0, width - space.size)
    return morph(graph, spaces, morphisms).graph


def compare(name: str, setting: LatencySetting, size: int, rewrites: int, multiple: int) -> list[float]:
    """Relative errors of a network's predictions; each is printed.

    Args:
        name: of a torchvision network.
        setting: where it runs.
        size: of its pictures.
        rewrites: how many.
        multiple: see `rewritten`.
    """
    import torchvision

    module = torchvision.models.get_model(name, num_classes=10).eval()
    graph = from_torch(module, torch.zeros(2, 3, size, size), train_only="drop")
    clock, draw, errors = LatencyClock(setting), random.Random(0), list[float]()
    first = clock.anchor(graph)
    click.echo(
        f"{name}: {first.milliseconds:.2f} ± {first.noise:.2f} ms as it is, {clock.overhead / 1e6:.2f} beyond its units"
    )
    for _ in range(rewrites):
        other = rewritten(graph, draw, multiple)
        predicted, found = clock.predicted(other), clock.measured(other)
        errors.append(predicted / found.milliseconds - 1)
        click.echo(
            f"{name}: {predicted:.2f} ms predicted, {found.milliseconds:.2f} ± {found.noise:.2f} measured, {errors[-1]:+.1%}"
        )
    return errors


def digits() -> Problem:
    """A few handwritten digits."""
    whole = load_data("digits")
    assert isinstance(whole.train, ArrayDataset) and isinstance(whole.test, ArrayDataset)
    parts = [
        ArrayDataset(part.raw[:count], part.labels[:count], part.preprocess)
        for part, count in ((whole.train, 240), (whole.test, 60))
    ]
    return Problem(Data("digits", parts[0], parts[1], whole.classes, whole.preprocess), device="cpu")


def keep(setting: LatencySetting, number: int, folder: Path) -> bool:
    """Whether a run keeps to a budget, as a new process measures it; both are printed.

    Args:
        setting: where the network is to be fast.
        number: of the run, and its seed.
        folder: for its network.
    """
    problem = digits()
    module = build_seed("vgg11", width=0.1, classes=10, input_shape=(1, 8, 8), seed=number)
    graph = from_torch(module, torch.zeros(2, 1, 8, 8))
    seed, _ = network_seconds(WholeNetwork(graph, setting))
    asked = 1000 * seed * random.Random(number).uniform(1.3, 2.5)
    result = gngraph.grow(
        graph, problem, max_latency=asked, on=setting.runtime, latency_batch=setting.batch,
        latency_threads=setting.threads, rounds=1, epochs=0, final_epochs=0, depth="keep", perturb=0,
    )  # fmt: skip
    timed, path = result.history[0]["latency"], folder / f"{number}.gng"
    gngraph.save(result.graph, path)
    words = [sys.executable, __file__, "--measure", str(path), "--on", setting.runtime]
    words += ["--batch", str(setting.batch), "--threads", str(setting.threads)]
    again, noise = map(float, subprocess.run(words, check=True, capture_output=True, text=True).stdout.split())
    kept = bool(again <= asked + max(noise, timed["noise"]))
    click.echo(
        f"{asked:.3f} ms asked: {timed['predicted']:.3f} predicted, {timed['measured']:.3f} ± {timed['noise']:.3f} measured, "
        f"{again:.3f} ± {noise:.3f} in a new process{'' if kept else ': exceeded'}; {timed['tries']} tries"
    )
    return kept


@click.command()
@click.option("--networks", default="", help="Networks of torchvision, with commas.")
@click.option("--rewrites", default=4, help="Of each.")
@click.option("--multiple", default=1, help="That every width is of.")
@click.option("--size", default=64, help="Of their pictures.")
@click.option("--on", "runtime", default="onnxruntime-cpu", help="Runtime.")
@click.option("--batch", default=1, help="Samples at a time.")
@click.option("--threads", default=1, help="That it computes with.")
@click.option("--budgets", default=0, help="Runs of growth with a budget.")
@click.option("--measure", type=click.Path(path_type=Path), help="Archive to time, and nothing else.")
def main(
    networks: str, rewrites: int, multiple: int, size: int, runtime: str, batch: int, threads: int, budgets: int,
    measure: Path | None,
) -> None:  # fmt: skip
    """Compare predicted and measured milliseconds, and hold runs to budgets of them."""
    setting = LatencySetting(runtime, batch, threads)
    if measure is not None:
        click.echo(
            " ".join(f"{1000 * seconds:.6f}" for seconds in network_seconds(WholeNetwork(load(measure), setting)))
        )
        return
    errors = [e for name in filter(None, networks.split(",")) for e in compare(name, setting, size, rewrites, multiple)]
    if errors:
        sizes = sorted(map(abs, errors))
        p95 = sizes[min(len(sizes) - 1, round(0.95 * (len(sizes) - 1)))]
        click.echo(
            f"{len(errors)} rewrites, {setting.text}: error {statistics.median(sizes):.1%} in the median, {p95:.1%} at p95"
        )
    if budgets:
        with tempfile.TemporaryDirectory() as folder:
            kept = sum(keep(setting, number, Path(folder)) for number in range(budgets))
        click.echo(f"budget kept in {kept} of {budgets} runs, {setting.text}")


if __name__ == "__main__":
    main()
