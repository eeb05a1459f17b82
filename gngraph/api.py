"""The public functions that run: `grow`, `extend`, `reshape`, `shrink`, and the folder that a run leaves."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gngraph.analysis.fit import check_fit, first_samples, problem_for
from gngraph.data import Data
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.running.problem import Problem

if TYPE_CHECKING:
    from gngraph.growth.observer import Observer
    from gngraph.growth.result import GrowthResult
    from gngraph.growth.run_folder import RunFiles
    from gngraph.training.options import Depth, Final, TrainOptions

ONNX_SAMPLES = 64
"""Real samples on which an exported ONNX file is compared with torch."""


def grow(
    network: Graph | nn.Module,
    data: Problem | Data | str | tuple[torch.Tensor, torch.Tensor],
    *,
    max_params: int | None = None,
    max_flops: int | None = None,
    rounds: int = 3,
    epochs: int = 4,
    final_epochs: int = 18,
    final: Final = "cycle",
    perturb: float = 0.3,
    depth: Depth = "search",
    curvature: str = "mc",
    kinds: tuple[str, ...] = ("split", "prune"),
    selection: str = "joint",
    allocation: str = "capacity",
    out: str | os.PathLike[str] | None = None,
    observer: Observer | None = None,
    train: TrainOptions | None = None,
) -> GrowthResult:
    """Grow `network` on `data` in rounds until it uses up a budget, and train the result.

    Args:
        network: a graph, or a module, which is traced on samples of the data and stays as it is.
        data: a data set or its name, a pair of tensors (x, y), or a `Problem`, which also names the loss, the device and
            the seed.
        max_params, max_flops: the budget; at least one of them. It is never exceeded. FLOPs are those of one sample, of which a
            multiply-add is two (see `gngraph.analysis.cost.cost`).
        rounds, epochs, final_epochs, final, perturb, depth, curvature, kinds, selection, allocation, observer, train: see
            `gngraph.growth.loop.grow`.
        out: a folder for the network in every format, the history and its pictures.

    Raises:
        DataError: the network does not fit the data.
        BudgetError: the budget is missing or below the network's size.
        TrainingError: the loss became non-finite.
    """
    from gngraph.growth import loop

    graph, problem = _matched(network, data)
    folder = None if out is None else Path(out)
    result = loop.grow(
        graph,
        problem,
        max_params=max_params,
        max_flops=max_flops,
        rounds=rounds,
        epochs=epochs,
        final_epochs=final_epochs,
        final=final,
        perturb=perturb,
        depth=depth,
        curvature=curvature,
        kinds=kinds,
        selection=selection,
        allocation=allocation,
        out=folder,
        observer=observer,
        train=train,
    )
    return _written(result, problem, folder)


def extend(
    network: Graph | nn.Module,
    data: Problem | Data | str | tuple[torch.Tensor, torch.Tensor],
    *,
    by: float = 0.5,
    epochs: int = 15,
    perturb: float = 0.0,
    out: str | os.PathLike[str] | None = None,
    observer: Observer | None = None,
    train: TrainOptions | None = None,
) -> GrowthResult:
    """Make a trained network larger, by what keeps its function or is predicted to lower the loss, and train it on.

    Args:
        network, data, out: see `grow`.
        by: parameters and FLOPs that may be added, as a share of what it has.
        epochs, perturb, observer, train: see `gngraph.growth.jobs.rework`, which says what is raised.
    """
    return _reworked(
        "extend", network, data, out, share=by, epochs=epochs, perturb=perturb, observer=observer, train=train
    )


def reshape(
    network: Graph | nn.Module,
    data: Problem | Data | str | tuple[torch.Tensor, torch.Tensor],
    *,
    epochs: int = 15,
    perturb: float = 0.0,
    out: str | os.PathLike[str] | None = None,
    observer: Observer | None = None,
    train: TrainOptions | None = None,
) -> GrowthResult:
    """Move channels of a trained network from where they are worth little to where they are worth much, and train it on.

    Parameters and FLOPs are at most what they were. Arguments as in `extend`.
    """
    return _reworked("reshape", network, data, out, epochs=epochs, perturb=perturb, observer=observer, train=train)


def shrink(
    network: Graph | nn.Module,
    data: Problem | Data | str | tuple[torch.Tensor, torch.Tensor],
    *,
    to: float = 0.5,
    epochs: int = 15,
    perturb: float = 0.0,
    out: str | os.PathLike[str] | None = None,
    observer: Observer | None = None,
    train: TrainOptions | None = None,
) -> GrowthResult:
    """Make a trained network smaller, rebuilding what is removed from what stays, and train it on.

    `to` is the share of the FLOPs that it keeps; its parameters become no more. Other arguments as in `extend`.
    """
    return _reworked(
        "shrink", network, data, out, share=to, epochs=epochs, perturb=perturb, observer=observer, train=train
    )


def _reworked(
    job: str,
    network: Graph | nn.Module,
    data: Problem | Data | str | tuple[torch.Tensor, torch.Tensor],
    out: str | os.PathLike[str] | None,
    **options: Any,
) -> GrowthResult:
    from gngraph.growth.jobs import rework

    graph, problem = _matched(network, data)
    folder = None if out is None else Path(out)
    return _written(rework(job, graph, problem, out=folder, **options), problem, folder)


def _matched(
    network: Graph | nn.Module, data: Problem | Data | str | tuple[torch.Tensor, torch.Tensor]
) -> tuple[Graph, Problem]:
    """The graph of a network, and the problem, which fit each other."""
    problem = problem_for(data)
    graph = network if isinstance(network, Graph) else from_torch(network, first_samples(problem.train, 2)[0])
    check_fit(graph, problem)
    return graph, problem


def _written(result: GrowthResult, problem: Problem, folder: Path | None) -> GrowthResult:
    if folder is not None:
        write_run(result, problem, folder)
    return result


def write_run(result: GrowthResult, problem: Problem, folder: Path) -> RunFiles:
    """Complete the folder of a finished run: source, ONNX (compared with torch on test samples), pictures.

    Raises:
        GnGraphError: an export is refused; what was written before stays.
    """
    from gngraph.growth.run_folder import write_run_folder
    from gngraph.report.figures import draw_history

    return write_run_folder(
        result, folder, draw=draw_history, samples=held_out_samples(problem), preprocessing=preprocessing_of(problem)
    )


def held_out_samples(problem: Problem) -> torch.Tensor:
    """The first test samples, f32 [at most 64, ...], on the CPU."""
    return first_samples(problem.test, ONNX_SAMPLES)[0]


def preprocessing_of(problem: Problem) -> dict[str, Any] | None:
    """How the data's samples become network inputs, for `model.py`; None where it is not known."""
    return problem.data.preprocess.record() if isinstance(problem.data, Data) else None
