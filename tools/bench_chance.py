"""What fresh networks and trained ones know of their targets: what `gngraph grow --perturb auto --depth auto` decides by.

Prints for each family the loss of fresh networks on the judge split, as a share of the loss with targets exchanged among
samples, and the same for one of them after an epoch of training (`gngraph.search.chance`).
"""

from __future__ import annotations

import click
import torch

from gngraph.data import load_data
from gngraph.importing.from_torch import from_torch
from gngraph.options import TrainOptions
from gngraph.running.batchnorm import reestimate
from gngraph.running.problem import Problem
from gngraph.search.chance import KNOWS, known
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer
from gngraph.zoo import build_seed


@click.command(help=__doc__)
@click.option("--data", default="digits", show_default=True, help="As for gngraph grow.")
@click.option(
    "--networks", default="vgg11,resnet20,mobilenet,mlp", show_default=True, help="Families, with commas between."
)
@click.option("--width", default=0.25, show_default=True, help="Width multiplier.")
@click.option("--seeds", default=6, show_default=True, help="Fresh networks a family.")
def main(data: str, networks: str, width: float, seeds: int) -> None:
    """Print a line a family."""
    loaded = load_data(data)
    shape = loaded.input_shape
    for name in networks.split(","):
        shares = []
        for seed in range(seeds):
            torch.manual_seed(seed)
            module = build_seed(name, width=width, classes=loaded.outputs, input_shape=shape, seed=seed)
            graph, problem = from_torch(module, torch.zeros(2, *shape)), Problem(loaded, seed=seed)
            found = known(graph, problem)
            shares.append(found.own / found.exchanged)
        trained = reestimate(Trainer(problem, TrainOptions()).train(graph, Stretch(1)).graph, problem)
        after = known(trained, problem)
        fresh = f"{min(shares):.3f} to {max(shares):.3f}"
        print(
            f"{name:12} fresh {fresh}, after an epoch {after.own / after.exchanged:.3f} (trained: below {KNOWS})",
            flush=True,
        )


if __name__ == "__main__":
    main()
