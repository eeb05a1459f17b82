"""Samples that no loss can be told of: they are named, and of test samples left out, so that one does not decide about a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from gngraph.curvature import leaves
from gngraph.data import MapDataset
from gngraph.data.held import unwound
from gngraph.data.inputs import SampleInputs, count_of, each
from gngraph.errors import DataError
from gngraph.ir import Graph
from gngraph.running.evaluation import Answers, Counts, correct
from gngraph.running.overlap import mean_overlap, overlaps
from gngraph.running.problem import Problem, part_of
from gngraph.running.sparing import sparing


@dataclass(frozen=True)
class Standing:
    """What a network gives on test samples.

    Attributes:
        loss: mean over those of which it is finite; infinite where there is none.
        accuracy: see `evaluate`.
        note: which were left out, and why; None: none was.
        overlap: mean intersection over union, where positions have classes; see `gngraph.running.overlap`.
    """

    loss: float
    accuracy: float | None
    note: str | None
    overlap: float | None = None

    def record(self) -> dict[str, float | None]:
        """Loss, accuracy and, where there is one, overlap, under the names that histories have."""
        overlap: dict[str, float | None] = {} if self.overlap is None else {"iou": self.overlap}
        return {"loss": self.loss, "accuracy": self.accuracy, **overlap}


@sparing("an evaluation")
@torch.no_grad()
def standing(graph: Graph, problem: Problem) -> Standing:
    """Loss and accuracy on the test samples of a problem, without those that no loss can be told of.

    Cost: a forward pass over them.

    Args:
        graph: the network.
        problem: with the samples.
    """
    runner, samples = problem.runner, problem.test

    def measured(x: SampleInputs, y: Any) -> tuple[float, Counts, torch.Tensor | None, list[int], int]:
        outputs = runner.outputs(graph, x)
        losses, hits = problem.loss_fn.per_sample(outputs, y), correct(problem.loss_fn, outputs, y)
        usable = losses.isfinite() & moderate(x)
        counts = Answers.counted(hits if hits is None else hits[usable])
        shared = overlaps(problem.loss_fn, outputs, y, usable)
        return float(losses[usable].double().sum()), counts, shared, (~usable).nonzero().flatten().tolist(), count_of(x)

    loss, answers, overlap, bad, done = 0.0, Answers(), list[torch.Tensor](), list[int](), 0
    for own, counts, shared, unusable, count in runner.over(samples, graph, measured):
        loss += own
        answers.add(counts)
        overlap += [] if shared is None else [shared]
        bad += [done + row for row in unusable]
        done += count
    mean = mean_overlap(torch.stack(overlap).sum(0) if overlap else None)
    if not bad:
        return Standing(loss / done, answers.accuracy, None, mean)
    which = _described(problem, samples, bad[0], graph)
    note = f"{len(bad)} of {done} {problem.tested} samples are not counted, for no loss can be told of them: {which}"
    return Standing(loss / (done - len(bad)) if len(bad) < done else math.inf, answers.accuracy, note, mean)


def require_finite(graph: Graph, problem: Problem, samples: MapDataset) -> None:
    """Refuse samples of which a network gives no finite loss, or which hold numbers that are not, or that have no square.

    Cost: a forward pass over them, in eval mode.

    Args:
        graph: the network.
        problem: with the loss.
        samples: for training, or a split of these.

    Raises:
        DataError: the first of them is named.
    """
    bad = _unusable(graph, problem, samples)
    if len(bad) == len(samples) > 1:
        raise DataError(
            f"loss '{problem.loss_fn.name}' is not finite for any of {len(bad)} samples in network '{graph.name}': look at the "
            f"loss, and at the size of inputs and targets"
        )
    if bad:
        others = f" ({len(bad)} such samples in all)" if len(bad) > 1 else ""
        raise DataError(
            f"{_described(problem, samples, bad[0], graph)}{others}: repair or drop it, or scale what it is stored in"
        )


@sparing("an evaluation")
@torch.no_grad()
def _unusable(graph: Graph, problem: Problem, samples: MapDataset) -> list[int]:
    """Rows of the samples that no loss can be told of."""

    def measured(x: SampleInputs, y: Any) -> tuple[list[int], int]:
        usable = problem.loss_fn.per_sample(problem.runner.outputs(graph, x), y).isfinite() & moderate(x)
        return (~usable).nonzero().flatten().tolist(), count_of(x)

    rows, done = list[int](), 0
    for unusable, count in problem.runner.over(samples, graph, measured):
        rows += [done + row for row in unusable]
        done += count
    return rows


def moderate(x: SampleInputs) -> torch.Tensor:
    """Which samples hold numbers alone whose squares are finite: of others no gradient can be told."""
    return torch.stack([_moderate(tensor) for tensor in each(x)]).all(0)


def _moderate(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.square().isfinite().reshape(len(tensor), -1).all(1) if tensor.is_floating_point() else _all(tensor)


def _all(tensor: torch.Tensor) -> torch.Tensor:
    return torch.ones(len(tensor), dtype=torch.bool, device=tensor.device)


def _described(problem: Problem, samples: MapDataset, row: int, graph: Graph) -> str:
    """A sample, by its place in the data set that the user gave, and what is wrong with it."""
    root, rows = unwound(samples)
    own = getattr(problem.data, "test", None)
    whose = "test" if root is own and root is not problem.samples else "training"
    name = f"sample {row if rows is None else rows[row]} of the {whose} data"
    x, y = next(problem.runner.read(part_of(samples, [row]), graph))
    sides = {"inputs": x, "targets": y}
    parts = {".".join((side, *map(str, p))): t for side, tree in sides.items() for p, t in leaves(tree).items()}
    for part, tensor in parts.items():
        if not bool(tensor.isfinite().all()):
            return f"{name} holds '{float(tensor[~tensor.isfinite()].flatten()[0])}' in its {part}"
    largest = {part: float(tensor.double().abs().max()) for part, tensor in parts.items() if tensor.numel()}
    part = max(largest, key=largest.__getitem__)
    return f"{name} has no finite loss in network '{graph.name}' (its {part} reach {largest[part]:.3g})"
