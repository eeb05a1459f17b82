"""What perturbation is worth in networks with and without norms: the same growth with several shares of new initial weights.

Three networks that no family of the zoo stands for: "plain", four convolutions without norms; "normed", the same with BatchNorms;
"mixer", linear layers over positions and over channels, behind LayerNorms, around residual streams. Each is grown in 4 rounds to 4
times its parameters and FLOPs, and its accuracy on the test samples printed, medians and ranges over the seeds.

    tools/bench_perturbation.py --data cifar10.npz --seeds 3
    tools/bench_perturbation.py --data cifar10 --network plain --shares 0,0.15,0.3,0.5 --epochs 90 --device cuda
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gngraph.analysis.cost import cost
from gngraph.api import grow
from gngraph.importing.from_torch import from_torch
from gngraph.options import TrainOptions
from gngraph.options.runs import PERTURB
from gngraph.running.evaluation import evaluate
from tools.experiment import Experiment, experiment_options

console = Console(width=120)
ROUNDS = 4
GROWTH = 4


def convolutions(channels: int, classes: int, norm: Callable[[int], nn.Module]) -> nn.Module:
    """Four convolutions of 3x3 with two poolings between them, a norm behind each."""
    layers: list[nn.Module] = []
    for width, pooled in ((8, False), (8, True), (12, True), (16, False)):
        layers += [nn.Conv2d(channels, width, 3, padding=1), norm(width), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if pooled else []
        channels = width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class _Residual(nn.Module):
    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        self.norm, self.enter, self.leave = nn.LayerNorm(size), nn.Linear(size, hidden), nn.Linear(hidden, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x + MLP(norm(x)), [..., size]."""
        y: torch.Tensor = self.leave(nn.functional.gelu(self.enter(self.norm(x))))
        return x + y


class Mixer(nn.Module):
    """Three blocks over 16 patches of an image: first over the patches of each channel, then over the channels of each patch."""

    def __init__(self, channels: int, side: int, classes: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, 24, side // 4, stride=side // 4)
        self.over_patches = nn.ModuleList([_Residual(16, 8) for _ in range(3)])
        self.over_channels = nn.ModuleList([_Residual(24, 12) for _ in range(3)])
        self.head = nn.Linear(24, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of images [N, channels, side, side]."""
        x = self.patches(x).flatten(2)
        for patches, channels in zip(self.over_patches, self.over_channels, strict=True):
            x = channels(patches(x).transpose(1, 2)).transpose(1, 2)
        logits: torch.Tensor = self.head(x.mean(2))
        return logits


NETWORKS: Mapping[str, tuple[Literal["sgd", "adamw"], Callable[[int, int, int], nn.Module]]] = {
    "plain": ("sgd", lambda channels, side, classes: convolutions(channels, classes, lambda width: nn.Identity())),
    "normed": ("sgd", lambda channels, side, classes: convolutions(channels, classes, nn.BatchNorm2d)),
    "mixer": ("adamw", Mixer),
}
"""Network -> its optimiser, and how it is made from channels and side of the images and the number of classes."""


@click.command()
@experiment_options(
    download=False,
    epochs=30,
    lr=None,
    seeds=3,
    samples="512,512,512",
    batch=128,
    networks=tuple(NETWORKS),
    device="auto",
)
@click.option("--shares", default=f"0,{PERTURB}", show_default=True, help="shares of new initial weights")
def main(experiment: Experiment, shares: str) -> None:
    """Grow each network with each share under each seed, and print accuracies."""
    for name in experiment.networks:
        if name not in NETWORKS:
            raise click.UsageError(f"there is no network '{name}': choose among {', '.join(NETWORKS)}")
    found: dict[tuple[str, float], list[float]] = {}
    epochs = max(1, experiment.epochs // (2 * ROUNDS))
    final_epochs = max(1, experiment.epochs - ROUNDS * epochs)
    for name, problem in experiment.problems():
        optimizer, make = NETWORKS[name]
        data = experiment.source
        network = make(data.input_shape[0], data.input_shape[-1], data.outputs)
        graph = from_torch(network, torch.zeros(1, *data.input_shape))
        size = cost(graph)
        for share in map(float, shares.split(",")):
            grown = grow(
                graph,
                problem,
                max_params=GROWTH * size.params,
                max_flops=GROWTH * size.flops,
                rounds=ROUNDS,
                epochs=epochs,
                final_epochs=final_epochs,
                perturb=share,
                depth="search",
                train=TrainOptions(optimizer=optimizer, lr=experiment.lr),
            ).graph
            accuracy = evaluate(grown, problem, problem.test)[1]
            if accuracy is None:
                raise click.UsageError(
                    f"'{experiment.data}' has no classes to be right about: name a data set that has"
                )
            found.setdefault((name, share), []).append(accuracy)
            console.print(f"{name}, seed {problem.seed}, share {share:g}: {accuracy:.4f}", style="dim")
    table = Table("network", "share", "accuracy", "range", title=f"grown in {ROUNDS * epochs + final_epochs} epochs")
    for (name, share), values in found.items():
        table.add_row(name, f"{share:g}", f"{statistics.median(values):.4f}", f"{min(values):.4f}-{max(values):.4f}")
    console.print(table)


if __name__ == "__main__":
    main()
