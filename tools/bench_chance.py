"""What fresh networks and trained ones know of their targets: what `gngraph grow --perturb auto --depth auto` decides by.

Prints for each family how many of its fresh networks are taken for trained ones, and how many after some training, beside the
median gain by right targets and that of the luckiest network with new weights (`gngraph.search.chance`). "regression" is a
small MLP on a linear map of five numbers, whose fresh networks fit their targets by luck.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

import click
import torch
from torch import nn

from gngraph.data import load_data
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.options import TrainOptions
from gngraph.running.problem import Problem
from gngraph.search.chance import is_trained, known, luck
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer
from gngraph.zoo import build_seed


def regression(seed: int, samples: int) -> tuple[Graph, Problem]:
    """A fresh MLP, and numbers that depend on its inputs."""
    torch.manual_seed(seed)
    x = torch.randn(3 * samples, 5)
    y = (x @ torch.randn(5))[:, None]
    graph = from_torch(nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 1)), x[:2])
    return graph, Problem((x, y), "mse", seed=seed, learn=samples, judge=samples, report=samples)


def cases(data: str, network: str, width: float, seeds: int, samples: int) -> Iterator[tuple[Graph, Problem]]:
    """Fresh networks of a family, each with a problem of its own."""
    for seed in range(seeds):
        if network == "regression":
            yield regression(seed, samples)
        else:
            loaded = load_data(data)
            shape = loaded.input_shape
            module = build_seed(network, width=width, classes=loaded.outputs, input_shape=shape, seed=seed)
            problem = Problem(loaded, seed=seed, learn=samples, judge=samples, report=samples)
            yield from_torch(module, torch.zeros(2, *shape)), problem


@click.command(help=__doc__)
@click.option("--data", default="digits", show_default=True, help="As for gngraph grow.")
@click.option("--networks", default="vgg11,resnet20,mobilenet,mlp,regression", show_default=True,
              help="Families, with commas between.")  # fmt: skip
@click.option("--width", default=0.125, show_default=True, help="Width multiplier.")
@click.option("--seeds", default=20, show_default=True, help="Fresh networks a family.")
@click.option("--epochs", default=2, show_default=True, help="Of training.")
@click.option("--lr", default=0.02, show_default=True, help="Of training.")
@click.option("--samples", default=400, show_default=True, help="Of the judge split.")
def main(data: str, networks: str, width: float, seeds: int, epochs: int, lr: float, samples: int) -> None:
    """Print two lines a family."""
    for name in networks.split(","):
        for length in (0, epochs):
            taken, gains, lucks = 0, list[float](), list[float]()
            for graph, problem in cases(data, name, width, seeds, samples):
                if length:
                    graph = Trainer(problem, TrainOptions(lr=lr)).train(graph, Stretch(length, "cosine")).graph
                found = known(graph, problem)
                taken += is_trained(graph, problem, found)
                gains.append(found.gain)
                lucks.append(luck(graph, problem))
            print(
                f"{name:12} after {length:2} epochs: {taken:2} of {seeds} taken for trained; gain {median(gains):.3f}, from "
                f"{min(gains):.3f} to {max(gains):.3f}, by luck {median(lucks):.3f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
