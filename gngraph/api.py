"""The public functions that join several layers: `load`, `diff`, `grow`, and what they need of data."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from torch.utils.data import Dataset, Subset

from gngraph.analysis.channels import ChannelSpaces, Role
from gngraph.analysis.manager import Problem
from gngraph.curvature import CrossEntropy, Loss, Outputs, leaves, parts_of
from gngraph.data import Data, MapDataset, Sample, batches, labels_of, load_data
from gngraph.data.checks import check_labels, shape_text
from gngraph.errors import DataError, GnGraphError, ModelFileError
from gngraph.files import archive
from gngraph.files.checkpoint import FileFormat, Trust, load_module, sniff
from gngraph.importing.from_torch import Heads, from_torch
from gngraph.ir import Graph, GraphDiff, TensorType
from gngraph.ir import diff as structural_diff
from gngraph.lowering.to_torch import run

if TYPE_CHECKING:
    from gngraph.growth.loop import GrowthResult
    from gngraph.growth.observer import Observer
    from gngraph.growth.run_folder import RunFiles
    from gngraph.training.options import Depth, Final, TrainOptions

Shape = tuple[int, ...]

ONNX_SAMPLES = 64
"""Real samples on which an exported ONNX file is compared with torch."""


def load(
    source: str | os.PathLike[str],
    *,
    input_shape: Shape | None = None,
    arch: str | None = None,
    width: float = 1.0,
    classes: int | None = None,
    trust: Trust = Trust.ALLOW_LIST,
    train_only: Heads = "refuse",
) -> Graph:
    """The network in `source` as a graph, on the CPU.

    Args:
        source: a gngraph archive; a whole pickled module or a state dict (with `arch`); or `pkg.module:factory`.
        input_shape: shape of one sample, such as (3, 32, 32); an archive knows its own.
        arch, width, classes: what a state dict belongs to, see `gngraph.files.checkpoint.load_module`.
        trust: whether the file may run code while it is loaded.
        train_only: see `from_torch`.

    Raises:
        ModelFileError: the file cannot be read, would run code, or the input shape is missing.
        ArchiveError: an archive is damaged.
        UnsupportedModelError: the network cannot be traced, or does not run on that input shape.
    """
    if is_archive(source):
        graph = archive.load(source)
        own = input_shape_of(graph)
        if input_shape is not None and input_shape != own:
            raise ModelFileError(
                f"'{source}' takes inputs of shape '{shape_text(own)}', not '{shape_text(input_shape)}'; leave out the "
                f"input shape"
            )
        return graph
    module = load_module(
        os.fspath(source), arch=arch, width=width, classes=classes, input_shape=input_shape, trust=trust
    )
    if input_shape is None:
        raise ModelFileError(f"'{source}' does not say what its inputs look like; pass --input-shape, such as 3x32x32")
    return from_torch(module, example(input_shape), train_only=train_only)


def is_archive(source: str | os.PathLike[str]) -> bool:
    """Whether `source` is a file in gngraph's own format, told by its content."""
    return Path(source).is_file() and sniff(os.fspath(source)) is FileFormat.GNG_ARCHIVE


def example(input_shape: Shape) -> torch.Tensor:
    """Two random samples to trace with, f32 [2, *input_shape]; always the same ones."""
    return torch.randn(2, *input_shape, generator=torch.Generator().manual_seed(0))


def input_shape_of(graph: Graph) -> Shape:
    """Shape of one sample of the only input.

    Raises:
        DataError: there are several inputs, or sizes that are not fixed.
    """
    types = [graph.nodes[name].type for name in graph.inputs]
    if len(types) == 1 and isinstance(types[0], TensorType):
        sizes = types[0].shape[1:]
        if all(isinstance(size, int) for size in sizes):
            return tuple(int(size) for size in sizes)
    raise DataError(f"network '{graph.name}' has the inputs {types}; data sets are for networks with one tensor input")


def diff(a: Graph, b: Graph, *, lineage: Mapping[str, Sequence[int]] | None = None) -> GraphDiff:
    """What differs from `a` to `b`, grouped by the channel spaces of `a`.

    Args:
        a: the graph before.
        b: the graph after.
        lineage: space -> for each channel in `b` its source channel in `a`, or -1 for a new one, as in
            `GrowthResult.lineage`; then the account says which channels were split, new and pruned.

    Raises:
        IRError: `lineage` does not fit.
    """
    spaces = _axes_by_space(a)
    known = {name: sources for name, sources in (lineage or {}).items() if name in spaces}
    return structural_diff(a, b, spaces=spaces, lineage=known)


def recorded_lineage(seed: Graph, grown: str | os.PathLike[str]) -> dict[str, list[int]] | None:
    """The lineage in the archive `grown`, if it is of a run that started from a network as wide as `seed`."""
    if not is_archive(grown):
        return None
    history = archive.load_history(grown)
    rounds = history.get("rounds") if isinstance(history, dict) else None
    if not isinstance(rounds, list) or not rounds or not isinstance(rounds[0], dict):
        return None
    started = rounds[0].get("trained", {}).get("widths")
    lineage: dict[str, list[int]] | None = history.get("lineage")
    return lineage if started == {space.name: space.size for space in ChannelSpaces.of(seed).free} else None


def _axes_by_space(graph: Graph) -> dict[str, list[tuple[str, int]]]:
    """For each space its parameter axes, first one that the space fills alone, so that its size is the space's."""
    table: dict[str, list[tuple[str, int]]] = {}
    for space in ChannelSpaces.of(graph):
        whole = [
            slot
            for slot in space.slots
            if slot.inner == 1 and graph.params[slot.param].data.shape[slot.axis] == space.size
        ]
        if whole:
            first = next((slot for slot in whole if slot.role is Role.PRODUCE), whole[0])
            axes = [(first.param, first.axis), *((slot.param, slot.axis) for slot in space.slots)]
            table[space.name] = list(dict.fromkeys(axes))
    return table


def problem_for(data: Problem | Data | str | tuple[torch.Tensor, torch.Tensor], **options: Any) -> Problem:
    """A `Problem` about `data`; a data set without classes gets the loss "mse" where none is named.

    Args:
        data: a problem (returned as it is), a data set or its name, or a pair of tensors (x, y).
        options: further fields of `Problem`.
    """
    if isinstance(data, Problem):
        return data
    loaded = load_data(data) if isinstance(data, str) else data
    if isinstance(loaded, Data) and not loaded.classes:
        options.setdefault("loss", "mse")
    return Problem(loaded, **options)


def check_fit(graph: Graph, problem: Problem) -> None:
    """Require that the network takes the problem's samples, and that the loss takes what it returns for two of them.

    Raises:
        DataError: one sentence that says what does not fit.
        GnGraphError: the loss does not find its output, or does not give a number a sample.
    """
    name = f"data set '{problem.data.name}'" if isinstance(problem.data, Data) else "the data"
    takes, sample = input_shape_of(graph), tuple(problem.train[0][0].shape)
    if takes != sample:
        raise DataError(
            f"network '{graph.name}' takes inputs of shape '{shape_text(takes)}', but {name} has samples of shape "
            f"'{shape_text(sample)}'; make the network for that shape (gngraph seed --input-shape {shape_text(sample)})"
        )
    x, y = _two_samples(problem)
    try:
        outputs = run(graph.to(device="cpu"), x)
    except RuntimeError as error:
        raise DataError(f"network '{graph.name}' does not run on {name}, {_described(x)}: {error}") from error
    for loss, output, _ in parts_of(problem.loss_fn, outputs, y):
        _check_outputs(graph.name, loss, output, name, problem)
    _check_loss(graph.name, outputs, y, name, problem)


def _two_samples(problem: Problem) -> Sample:
    """The first training samples with their targets."""
    first = Subset(cast("Dataset[Sample]", problem.train), range(min(2, len(problem.train))))
    return next(batches(cast(MapDataset, first), 2))


def _check_loss(network: str, outputs: Outputs, y: Any, name: str, problem: Problem) -> None:
    """Try the loss on two targets: whether shapes and dtypes fit is the loss's own affair."""
    loss = problem.loss_fn
    try:
        loss.per_sample(outputs, y)
    except (RuntimeError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise DataError(
            f"loss '{loss.name}' cannot compare the outputs of network '{network}', {_described(outputs)}, with the "
            f"targets of {name}, {_described(y)}; choose another loss (cross-entropy for classes, mse for a regression): "
            f"{type(error).__name__}, {str(error).partition(chr(10))[0]}"
        ) from error
    loss.check_targets(outputs, y)
    if "mc" in loss.curvatures:
        loss.sample_factor(outputs, y, torch.Generator().manual_seed(problem.seed))


def _described(tree: Any) -> str:
    """Types and shapes of the tensors, without their batch axis."""
    shown = []
    for path, tensor in leaves(tree).items():
        shape = shape_text(tuple(tensor.shape[1:])) or "one number"
        whose = f"'{'.'.join(map(str, path))}' " if path else ""
        shown.append(f"{whose}of type '{tensor.dtype}' and shape '{shape}'")
    return ", ".join(shown)


def _check_outputs(network: str, loss: Loss, outputs: Outputs, name: str, problem: Problem) -> None:
    if not isinstance(outputs, torch.Tensor) or outputs.dim() < 2:
        return
    count = outputs.shape[1]
    if isinstance(problem.data, Data) and problem.data.outputs > count:
        what = "classes" if problem.data.classes else "targets"
        raise DataError(
            f"network '{network}' has '{count}' outputs, but {name} has '{problem.data.outputs}' {what}; make the "
            f"network with that many (gngraph seed --classes {problem.data.outputs})"
        )
    for part, samples in (("training", problem.train), ("test", problem.test)):
        labels = labels_of(samples)
        if labels is not None and labels.dtype == torch.int64 and isinstance(loss, CrossEntropy):
            check_labels(f"{name}, {part} set", labels, count, loss.counted(labels))


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
        max_params, max_flops: the budget; at least one of them. It is never exceeded.
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
    graph = network if isinstance(network, Graph) else from_torch(network, _two_samples(problem)[0])
    check_fit(graph, problem)
    return graph, problem


def _written(result: GrowthResult, problem: Problem, folder: Path | None) -> GrowthResult:
    if folder is not None:
        write_run(result, problem, folder)
    return result


def require_free_folder(folder: Path) -> None:
    """Refuse a folder that holds anything.

    Raises:
        GnGraphError: it is not empty, or no folder.
    """
    if folder.exists() and not folder.is_dir():
        raise GnGraphError(f"'{folder}' is a file, not a folder; name another folder")
    if folder.is_dir() and any(folder.iterdir()):
        raise GnGraphError(
            f"folder '{folder}' is not empty; name another one, or pass --force to replace the run in it"
        )


def set_history_aside(folder: Path) -> None:
    """Make room for a new run in `folder`: the history of the run in it is kept as `history.jsonl.old`."""
    from gngraph.growth.history import HISTORY_FILE

    history = folder / HISTORY_FILE
    if history.is_file():
        os.replace(history, history.with_name(f"{HISTORY_FILE}.old"))


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
    x, _ = next(batches(problem.test, ONNX_SAMPLES))
    return x


def preprocessing_of(problem: Problem) -> dict[str, Any] | None:
    """How the data's samples become network inputs, for `model.py`; None where it is not known."""
    return problem.data.preprocess.record() if isinstance(problem.data, Data) else None
