"""What the benchmarks of predictions share: a trained network, candidates, and the actual change of the loss, sample by sample."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Subset

from gngraph.analysis.channels import ChannelSpaces
from gngraph.data import MapDataset
from gngraph.files.loading import load
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.options import TrainOptions
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import Morphism
from gngraph.running.evaluation import sample_losses
from gngraph.running.problem import Problem
from gngraph.running.together import Together
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer
from gngraph.zoo import build_seed

SEED = "{seed}"
"""Stands for the problem's seed in the name of a saved network: there is one for each."""


def untrained(network: str, width: float, problem: Problem) -> Graph:
    """A network of the zoo as it starts, or a saved one.

    Args:
        network: a name of the zoo, or a file that `gngraph.load` reads, with `SEED` for the problem's seed.
        width: width multiplier of a network of the zoo.
        problem: the data, and the seed of the weights.
    """
    data, file = problem.data, network.replace(SEED, str(problem.seed))
    if Path(file).exists():
        return load(file, input_shape=None if file.endswith(".gng") else data.input_shape)
    module = build_seed(network, width=width, classes=data.outputs, input_shape=data.input_shape, seed=problem.seed)
    return from_torch(module, torch.zeros(1, *data.input_shape))


def trained(network: str, width: float, problem: Problem, epochs: int, lr: float | None = None) -> Graph:
    """A network of the zoo, trained for some epochs with the default options; a saved network is taken as it is.

    Args:
        network, width: as for `untrained`.
        problem: the data, and the seed of the weights and of the order of samples.
        epochs: of training; a saved network has none.
        lr: learning rate; None: the default.
    """
    graph = untrained(network, width, problem)
    if Path(network.replace(SEED, str(problem.seed))).exists():
        return graph
    return Trainer(problem, TrainOptions(lr=lr)).train(graph, Stretch(epochs, "cosine")).graph


def apply(graph: Graph, morphisms: Sequence[Morphism]) -> Graph:
    """The graph with morphisms of any kind applied."""
    return morph(graph, ChannelSpaces.of(graph), morphisms).graph


def unanalysed(problem: Problem, count: int) -> MapDataset:
    """At most `count` random samples that neither an analysis nor a network saw: test samples.

    Where the data has none, samples for training that none of the three splits has.
    """
    seen = {index for split in problem.splits for index in split.indices} if problem.tested != "test" else set()
    samples = problem.test if problem.tested == "test" else problem.samples
    rest = [i for i in np.random.default_rng(problem.seed).permutation(len(samples)).tolist() if i not in seen]
    return Subset(samples, rest[:count])  # type: ignore[arg-type]


@dataclass(frozen=True)
class Change:
    """The actual change of the mean loss over some samples, and its standard error over them."""

    mean: float
    error: float


@dataclass(frozen=True, eq=False)
class Samples:
    """Samples for many networks to be measured on."""

    problem: Problem
    dataset: MapDataset

    def losses(self, graph: Graph, others: Sequence[Graph] = ()) -> torch.Tensor:
        """The loss of every sample in eval mode under `graph` and each of `others`, [1 + len(others), N] in float64.

        Cost: one forward pass of `graph`, and of each other one what lies behind its first node that differs.
        """
        networks = Together([graph, *others], self.problem.runner.function)
        return sample_losses(networks, self.problem, self.dataset)


TOGETHER = 16
"""Networks that are measured at once: they share the forward pass of the one that they differ from."""


def changes(graph: Graph, others: Iterable[Graph], held: Mapping[str, Samples]) -> Iterator[dict[str, Change]]:
    """For each of `others`, how its mean loss differs from that of `graph`, on each of the named samples."""
    left = iter(others)
    while group := list(itertools.islice(left, TOGETHER)):
        found = {name: samples.losses(graph, group) for name, samples in held.items()}
        for i in range(1, 1 + len(group)):
            differences = {name: rows[i] - rows[0] for name, rows in found.items()}
            yield {name: Change(float(d.mean()), float(d.std()) / math.sqrt(len(d))) for name, d in differences.items()}


def sample(problem: Problem, index: Sequence[int], count: int) -> list[int]:
    """At most `count` of `index`, drawn at random by the problem's seed."""
    drawn: list[int] = np.random.default_rng(problem.seed).permutation(np.asarray(index, dtype=int))[:count].tolist()
    return drawn


@dataclass(frozen=True)
class Agreement:
    """How well predictions are met: correlations, and the slope of actual on predicted (nan for fewer than 3 points)."""

    pearson: float
    spearman: float
    slope: float
    points: int

    @classmethod
    def of(cls, predicted: Sequence[float], actual: Sequence[float]) -> Agreement:
        """Of pairs of predicted and actual changes."""
        x, y = np.asarray(predicted, dtype=float), np.asarray(actual, dtype=float)
        if len(x) < 3 or x.std() == 0.0 or y.std() == 0.0:
            return cls(math.nan, math.nan, math.nan, len(x))
        spearman = np.corrcoef(_ranks(x), _ranks(y))[0, 1]
        return cls(float(np.corrcoef(x, y)[0, 1]), float(spearman), float(np.polyfit(x, y, 1)[0]), len(x))

    def __str__(self) -> str:
        return f"r {self.pearson:.3f}, ρ {self.spearman:.3f}, slope {self.slope:.2f}, n {self.points}"


def _ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 0; equal values share the mean of theirs."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: np.ndarray = (np.cumsum(counts) - (counts + 1) / 2)[place]
    return ranks


def write_csv(rows: Sequence[Any], path: Path) -> None:
    """Write dataclasses of one kind, at least one, a line each under the names of their fields."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(rows[0])])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)
