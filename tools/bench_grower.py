"""What a step of `Grower` costs beside a round of the loop that does the same, and what memory is left of the old network.

A network is grown once by `gngraph.grow` without training, and once in place by a `Grower` with the optimiser of a plain script.
Both are timed in seconds of the processor, which other work on the machine hardly lengthens: a round from its batch statistics to
its measured losses, and a step with its score. Memory is counted over every tensor that Python holds.

    tools/bench_grower.py --network resnet20 --width 0.25
"""

from __future__ import annotations

import gc
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gngraph
from gngraph.analysis.fit import first_samples
from gngraph.running.problem import Problem
from gngraph.zoo import build_seed

console = Console(width=150)

SAMPLES = 3 * 2048
"""Random samples: the splits of an analysis as large as they are by default."""

BAR = 1.0
"""Seconds of a step as a multiple of those of a round, at most."""


class Clock:
    """Adds up seconds of the processor over the stages of a run."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._started = 0.0

    def stage_started(self, number: int, stage: str) -> None:
        """It counts from here."""
        self._started = time.process_time()

    def stage_finished(self, number: int, stage: str, seconds: float) -> None:
        """It counts up to here, in the first round alone."""
        self.seconds += time.process_time() - self._started if number == 1 else 0.0


@dataclass(frozen=True)
class Compared:
    """A round and a step.

    Attributes:
        round, made, step: seconds of a round of the loop, of making a Grower (once), and of a step.
        old, new, left: bytes of the network and its optimiser before and after the step, and of what is alive afterwards beyond
            what was alive before and what the network grew by.
    """

    round: float
    made: float
    step: float
    old: int
    new: int
    left: int

    @property
    def ratio(self) -> float:
        """Seconds of the step for each of the round."""
        return self.step / self.round


def alive() -> int:
    """Bytes of every tensor that Python holds, each storage counted once."""
    gc.collect()
    kinds = (torch.Tensor, torch.nn.Parameter)  # tensors that pretend, as compilers keep them, hold nothing
    tensors = [thing for thing in gc.get_objects() if type(thing) in kinds and not thing.is_meta]
    tensors = [tensor for tensor in tensors if tensor.layout == torch.strided]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def held(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Bytes of a network and of what its optimiser remembers."""
    state = [value for entries in optimizer.state.values() for value in entries.values()]
    tensors = [*model.parameters(), *model.buffers(), *(value for value in state if isinstance(value, torch.Tensor))]
    return sum(tensor.nbytes for tensor in tensors)


def compared(model: nn.Module, problem: Problem, larger: float) -> Compared:
    """Grow a network by the loop, and in place.

    Args:
        model: which is changed in place.
        problem: to grow it for.
        larger: the budget, as a multiple of its parameters.
    """
    budget = int(larger * sum(p.numel() for p in model.parameters()))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    model.train()
    x, y = first_samples(problem.train, 64)
    torch.autograd.backward(nn.functional.cross_entropy(model(x), y))
    optimizer.step()
    optimizer.zero_grad()

    options = {"max_params": budget, "rounds": 1, "epochs": 0, "final_epochs": 0, "depth": "keep", "perturb": 0.0}
    clock = Clock()
    gngraph.grow(model, problem, options, observer=clock)
    before, old = alive(), held(model, optimizer)
    started = time.process_time()
    grower = gngraph.Grower(model, problem, max_params=budget, rounds=1)
    made, started = time.process_time() - started, time.process_time()
    grower.step(optimizer)
    step = time.process_time() - started
    grower.forget()
    new = held(model, optimizer)
    return Compared(clock.seconds, made, step, old, new, alive() - before - (new - old))


@click.command()
@click.option("--network", default="resnet20", show_default=True, help="A seed network.")
@click.option("--width", default=0.25, show_default=True, help="Its width multiplier.")
@click.option("--size", default=8, show_default=True, help="Height and width of an image.")
@click.option("--larger", default=2.0, show_default=True, help="Budget, as a multiple of its parameters.")
@click.option("--repeats", default=3, show_default=True, help="Comparisons, of which the one of median ratio counts.")
@click.option("--threads", default=1, show_default=True, help="Threads of torch.")
def main(network: str, width: float, size: int, larger: float, repeats: int, threads: int) -> None:
    """Compare a step of Grower with a round of the loop, on random images."""
    torch.set_num_threads(threads)
    found = []
    for seed in range(repeats):
        model = build_seed(network, width=width, classes=10, input_shape=(3, size, size), seed=seed)
        stream = torch.Generator().manual_seed(seed)
        x = torch.randn(SAMPLES, 3, size, size, generator=stream)
        y = torch.randint(10, (SAMPLES,), generator=stream)
        found.append(compared(model, Problem((x, y), device="cpu", seed=seed), larger))
    middle = sorted(found, key=lambda one: one.ratio)[len(found) // 2]
    table = Table(title=f"{network} of width {width:g} on {SAMPLES} samples, grown to {larger:g} times its parameters")
    columns = "round s", "step s", f"ratio (bar {BAR:g})", "making a Grower s", "network MB", "grown MB", "left MB"
    for column in columns:
        table.add_column(column, justify="right")
    sizes = (f"{size / 1e6:.3f}" for size in (middle.old, middle.new, middle.left))
    table.add_row(f"{middle.round:.2f}", f"{middle.step:.2f}", f"{middle.ratio:.2f}", f"{middle.made:.2f}", *sizes)
    console.print(table)


if __name__ == "__main__":
    main()
