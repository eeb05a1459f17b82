"""What the benchmarks of predictions run on: data, networks and seeds, by the same options in every one of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property, partial
from typing import Any

import click
import torch

from gngraph.data import Data, Download, load_data
from gngraph.ir import Graph
from gngraph.running.problem import Problem
from tools.measuring import trained


@dataclass(frozen=True)
class Experiment:
    """Every network under every seed.

    Attributes:
        data: the data set, by name or path; `download` fetches it if it is missing.
        networks: names of the zoo, or files; see `tools.measuring.untrained`.
        seeds: how many, from 0.
        samples: learn, judge and report samples.
        width, epochs, lr: width multiplier and training of networks of the zoo; see `tools.measuring.trained`.
        batch: samples a batch of the analysis.
        device: what to compute on, with so many `threads` of the CPU.
    """

    data: str
    networks: tuple[str, ...]
    seeds: int
    samples: tuple[int, ...]
    threads: int
    download: bool = False
    width: float = 1.0
    epochs: int = 0
    lr: float | None = None
    batch: int = Problem.batch_size
    device: str = "auto"

    @cached_property
    def source(self) -> Data:
        """The data set, loaded once."""
        return load_data(self.data, download=Download.IF_MISSING if self.download else Download.NEVER)

    def problem(self, seed: int, samples: tuple[int, ...]) -> Problem:
        """The problem of a seed, with so many learn, judge and report samples."""
        learn, judge, report = samples
        return Problem(
            self.source, seed=seed, learn=learn, judge=judge, report=report, batch_size=self.batch, device=self.device
        )

    def problems(self) -> Iterator[tuple[str, Problem]]:
        """Each network with the problem of each seed, which is torch's seed as well from there on."""
        for network in self.networks:
            for seed in range(self.seeds):
                torch.manual_seed(seed)
                yield network, self.problem(seed, self.samples)

    def trained(self, network: str, problem: Problem) -> Graph:
        """One of the networks, trained on one of the problems."""
        return trained(network, self.width, problem, self.epochs, self.lr)


def numbers(text: str) -> tuple[int, ...]:
    """Whole numbers with commas between them.

    >>> numbers("8,16")
    (8, 16)
    """
    return tuple(int(n) for n in text.split(","))


OPTIONS: dict[str, Callable[..., Callable[[Any], Any]]] = {
    "download": partial(click.option, "--download", is_flag=True, help="fetch the data set if it is missing"),
    "networks": partial(click.option, "--network", "networks", multiple=True,
                        help="of the zoo, or a saved network, which is not trained"),
    "width": partial(click.option, "--width", help="width multiplier of networks of the zoo"),
    "epochs": partial(click.option, "--epochs", help="of training, of networks of the zoo"),
    "lr": partial(click.option, "--lr", type=float, help="learning rate of training; default: the library's"),
    "seeds": partial(click.option, "--seeds"),
    "samples": partial(click.option, "--samples", type=numbers, help="learn, judge and report samples"),
    "batch": partial(click.option, "--batch", help="samples a batch of the analysis"),
    "device": partial(click.option, "--device"),
}  # fmt: skip
"""Field of an `Experiment` -> its option, but for the default."""


def experiment_options(**defaults: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """A decorator for a command that runs on an `Experiment`: it is handed one, and torch has as many threads as that says.

    Args:
        defaults: the fields that get an option here, beside `data` and `threads`, and its default. A field may have an
            option of the command's own instead, which passes it on under the field's name.
    """

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def wrapper(**given: Any) -> Any:
            experiment = Experiment(**{f.name: given.pop(f.name) for f in fields(Experiment) if f.name in given})
            torch.set_num_threads(experiment.threads)
            return command(experiment=experiment, **given)

        options = [OPTIONS[name](default=default, show_default=True) for name, default in defaults.items()]
        options.insert(0, click.option("--data", required=True, help="data set by name or path"))
        options.append(click.option("--threads", default=2, show_default=True, help="CPU threads"))
        return functools.reduce(lambda done, option: option(done), reversed(options), wrapper)

    return decorate
