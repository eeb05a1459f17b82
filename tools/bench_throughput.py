"""Seconds of an epoch of gngraph's own training beside those of a plain PyTorch loop with the same settings.

Both train the same network of the zoo from the same weights, with the same optimiser, rate and batch size, on the same random
images in memory. Their epochs take turns in one process, so that whatever else the machine does meets both. Of the plain loops one
takes its batches from a `DataLoader`, as most people write it; the other, which the bar is about, indexes the tensors by a
permutation, and does nothing but forward, backward and step: no loss is read, no accuracy counted, nothing checked.

On a CPU seconds are those of the processor, which other work hardly lengthens; on a GPU those of the clock, with the device waited
for.

    tools/bench_throughput.py --network resnet20:1 --network vgg11:0.5
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gngraph.importing.from_torch import from_torch
from gngraph.options import TrainOptions
from gngraph.running.problem import Problem
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer
from gngraph.zoo import build_seed
from tools.bench_cost import named

console = Console(width=150)

BAR = 1.0
"""Seconds of an epoch of gngraph as a multiple of those of the plain loop, at most."""

CLASSES = 10


def permuted(x: Tensor, y: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of tensors in a random order."""
    for rows in torch.split(torch.randperm(len(x), device=x.device), size):
        yield x[rows], y[rows]


def loaded(x: Tensor, y: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The same by a `DataLoader`."""
    return iter(DataLoader(TensorDataset(x, y), size, shuffle=True))


Batches = Callable[[Tensor, Tensor, int], Iterator[tuple[Tensor, Tensor]]]
LOOPS: dict[str, Batches] = {"indexed": permuted, "DataLoader": loaded}


class Plain:
    """A plain loop over epochs.

    Args:
        model: trained in place.
        batches: of an epoch.
        options: of gngraph's training, whose settings it has.
    """

    def __init__(self, model: nn.Module, batches: Batches, options: TrainOptions, x: Tensor, y: Tensor) -> None:
        self.model, self.batches, self.x, self.y = model.to(x.device).train(), batches, x, y
        self.optimizer = torch.optim.SGD(
            model.parameters(), options.rate, options.momentum, weight_decay=options.weight_decay, nesterov=True
        )

    def epoch(self, size: int) -> None:
        """Train it for an epoch, in batches of `size`."""
        for x, y in self.batches(self.x, self.y, size):
            self.optimizer.zero_grad()
            nn.functional.cross_entropy(self.model(x), y).backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()


@dataclass(frozen=True)
class Timed:
    """Median seconds of an epoch, and the median of the ratios of two that followed each other.

    Attributes:
        own: of gngraph's loop.
        plain: of the plain loop, by its name.
        ratios: gngraph's as a multiple of the plain loop's.
    """

    own: float
    plain: dict[str, float]
    ratios: dict[str, float]


def now(device: torch.device) -> float:
    """Seconds, see above."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return time.perf_counter()
    return time.process_time()


def timed(network: str, width: float, samples: int, size: int, epochs: int, device: torch.device) -> Timed:
    """Train a network by all loops, an epoch of each after the other; the first of each is left out.

    Args:
        network, width: of the zoo.
        samples: random images of 3 x 32 x 32.
        size: samples a batch.
        epochs: that are timed.
        device: that trains.
    """
    model = build_seed(network, width=width, classes=CLASSES, input_shape=(3, 32, 32), seed=0)
    stream = torch.Generator().manual_seed(0)
    x, y = torch.randn(samples, 3, 32, 32, generator=stream), torch.randint(CLASSES, (samples,), generator=stream)
    graph = from_torch(model, x[:1])
    problem = Problem((x, y), device=device)
    # a low rate, so that random labels lead none of them away
    options = TrainOptions(lr=1e-3, batch_size=size)
    held = problem.trained_on(problem.samples)
    at = x.to(device), y.to(device)
    loops = {}
    for name, batches in LOOPS.items():
        model = build_seed(network, width=width, classes=CLASSES, input_shape=(3, 32, 32), seed=0)
        loops[name] = Plain(model, batches, options, *at)
    own, plain = list[float](), {name: list[float]() for name in loops}
    started = now(device)

    def take_turns(record: object) -> None:
        nonlocal started
        own.append(now(device) - started)
        for name, loop in loops.items():
            started = now(device)
            loop.epoch(size)
            plain[name].append(now(device) - started)
        started = now(device)

    Trainer(held, options).train(graph, Stretch(epochs + 1), None, take_turns)
    ratios = {name: statistics.median(a / b for a, b in zip(own[1:], plain[name][1:], strict=True)) for name in plain}
    return Timed(
        statistics.median(own[1:]), {name: statistics.median(found[1:]) for name, found in plain.items()}, ratios
    )


@click.command()
@click.option("--network", "networks", multiple=True, default=("resnet20:1", "vgg11:0.5"), show_default=True,
              help="NAME:WIDTH of the zoo.")  # fmt: skip
@click.option("--samples", default=2048, show_default=True, help="Images of an epoch.")
@click.option("--batch-size", default=128, show_default=True, help="Samples a step.")
@click.option("--epochs", default=5, show_default=True, help="Epochs that are timed.")
@click.option("--device", default="cpu", show_default=True, help="A torch device.")
@click.option("--threads", default=1, show_default=True, help="Threads of torch.")
def main(networks: tuple[str, ...], samples: int, batch_size: int, epochs: int, device: str, threads: int) -> None:
    """Print seconds of an epoch by gngraph and by plain loops, and their ratio beside its bar."""
    torch.set_num_threads(threads)
    columns = ("network", "gngraph s", *(f"{name} s" for name in LOOPS), *(f"ratio to {name}" for name in LOOPS))
    table = Table(*columns, title=f"an epoch of {samples} images on {device}, medians of {epochs} (bar {BAR:g})")
    for text in networks:
        found = timed(*named(text), samples, batch_size, epochs, torch.device(device))
        seconds = [f"{value:.2f}" for value in (found.own, *found.plain.values())]
        table.add_row(text, *seconds, *(f"{value:.2f}" for value in found.ratios.values()))
    console.print(table)


if __name__ == "__main__":
    main()
