"""Whether a network and data fit each other: shapes, classes, and the loss, tried on two samples before anything is computed."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch.utils.data import Dataset, Subset

from gngraph.curvature import CrossEntropy, Loss, Outputs, leaves, parts_of
from gngraph.data import Augment, Data, MapDataset, Sample, batches, labels_of, load_data
from gngraph.data.checks import check_labels, shape_text
from gngraph.data.inputs import SampleInputs, each, in_order, quoted
from gngraph.data.tokens import Tokens
from gngraph.errors import DataError, GnGraphError
from gngraph.ir import Graph
from gngraph.ir.inputs import input_shapes_of, over_samples, values_of_shared
from gngraph.lowering.to_torch import run
from gngraph.running.problem import Problem


def problem_for(data: Any, **options: Any) -> Problem:
    """A `Problem` about `data`; a data set gets its own loss where none is named: "mse" without classes, "next-token" for texts.

    Args:
        data: a problem (returned as it is), the name of a data set, or whatever `Problem` takes.
        options: further fields of `Problem`.
    """
    if isinstance(data, Problem):
        return data
    loaded = load_data(data) if isinstance(data, str) else data
    if isinstance(loaded, Data):
        options.setdefault("loss", loaded.loss or ("cross-entropy" if loaded.classes else "mse"))
    return Problem(loaded, **options)


def check_fit(graph: Graph, problem: Problem) -> None:
    """Require that the network takes the problem's samples, and that the loss takes what it returns for two of them.

    Raises:
        DataError: one sentence that says what does not fit, the augmentation of the data included.
        GnGraphError: the loss does not find its output, or does not give a number a sample.
    """
    name = f"data set '{problem.data.name}'" if isinstance(problem.data, Data) else "the data"
    given, y = first_samples(problem.train, 2)
    x = _in_order(graph, name, given)
    tokens = problem.data.preprocess if isinstance(problem.data, Data) else None
    try:
        network = over_samples(graph).to(device="cpu")
        outputs = run(network, *each(x))
        if isinstance(tokens, Tokens):
            run(network, *(torch.full_like(one, tokens.count - 1) for one in each(x)))
    except (RuntimeError, IndexError) as error:
        if isinstance(tokens, Tokens) and isinstance(error, IndexError):
            raise DataError(
                f"network '{graph.name}' reads fewer tokens than the '{tokens.count}' of {name}; make the network with that many "
                f"(gngraph seed --classes {tokens.count})"
            ) from error
        raise DataError(f"network '{graph.name}' does not run on {name}, {_described(x)}: {error}") from error
    for loss, output, _ in parts_of(problem.loss_fn, outputs, y):
        _check_outputs(graph.name, loss, output, name, problem)
    _check_loss(graph.name, outputs, y, name, problem)
    if problem.augmentation is not None:
        _check_augmented(graph.name, problem.augmentation, given, y, outputs, problem.loss_fn)


def _in_order(graph: Graph, name: str, given: SampleInputs) -> SampleInputs:
    """Samples as the network takes them.

    Raises:
        DataError: there are other inputs than the network takes, or of other shapes.
    """
    takes = input_shapes_of(graph)
    parts = given if isinstance(given, dict) else dict(enumerate(each(given)))
    if len(parts) != len(takes) or (isinstance(given, dict) and given.keys() != takes.keys()):
        held = values_of_shared(graph)
        shared = (
            f"; what all samples share, {quoted(held)}, it has from the example that it was imported with"
            if held
            else ""
        )
        told = (
            quoted(given)
            if isinstance(given, dict)
            else f"{len(parts)} input{'s' if len(parts) > 1 else ''} without names"
        )
        raise DataError(
            f"network '{graph.name}' takes {quoted(takes)} of each sample, but {name} has {told}: give a sample as "
            f"(x, y), as ((x, x), y) with as many inputs, or as a dictionary by these names and a target{shared}"
        )
    x = in_order(given, tuple(takes))
    for own, (which, shape) in zip(each(x), takes.items(), strict=True):
        sample = tuple(own.shape[1:])
        if sample == shape:
            continue
        if len(takes) > 1:
            raise DataError(
                f"network '{graph.name}' takes '{which}' of shape '{shape_text(shape) or 'one number'}', but {name} has it of "
                f"shape '{shape_text(sample) or 'one number'}': give such samples, or import the network with an example of these"
            )
        raise DataError(
            f"network '{graph.name}' takes inputs of shape '{shape_text(shape)}', but {name} has samples of shape "
            f"'{shape_text(sample)}'; make the network for that shape (gngraph seed --input-shape {shape_text(sample)})"
        )
    return x


def _check_augmented(network: str, augment: Augment, x: Any, y: Any, outputs: Outputs, loss: Loss) -> None:
    """Try the augmentation on two samples, and the loss on what becomes of their targets."""
    _, changed = augment(x, y, torch.Generator().manual_seed(0))
    if changed is y:
        return
    shares = isinstance(changed, torch.Tensor) and isinstance(outputs, torch.Tensor) and changed.is_floating_point()
    if isinstance(loss, CrossEntropy) and shares and changed.shape != outputs.shape:
        raise DataError(
            f"augmentation '{augment}' makes shares of {changed.shape[-1]} classes of the labels, which name as many, but network "
            f"'{network}' has outputs of shape '{shape_text(tuple(outputs.shape[1:]))}': make the network with {changed.shape[-1]} "
            f"classes, or give targets as shares of its own"
        )
    loss.check_targets(outputs, changed)


def _check_loss(network: str, outputs: Outputs, y: Any, name: str, problem: Problem) -> None:
    """Try the loss on two targets: whether shapes and dtypes fit is the loss's own affair."""
    loss = problem.loss_fn
    try:
        loss.per_sample(outputs, y)
    except GnGraphError:
        raise
    except Exception as error:  # whatever a loss of the user's raises
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
    outputs = loss.arranged(outputs) if isinstance(loss, CrossEntropy) else outputs
    count = outputs.shape[1]
    if isinstance(problem.data, Data) and problem.data.outputs > count:
        what = "classes" if problem.data.classes else "targets"
        raise DataError(
            f"network '{network}' has '{count}' outputs, but {name} has '{problem.data.outputs}' {what}; make the "
            f"network with that many (gngraph seed --classes {problem.data.outputs})"
        )
    for part, samples in (("training", problem.train), ("test", problem.test)):
        labels = labels_of(samples)
        if labels is None or labels.is_floating_point() or not isinstance(loss, CrossEntropy):
            continue
        if labels.shape[1:] == outputs.shape[1:-1] != outputs.shape[2:]:
            given, told = (shape_text(tuple(tensor.shape[1:])) for tensor in (outputs, labels))
            raise DataError(
                f"network '{network}' has outputs of shape '{given}', of which loss '{loss.name}' takes the first axis for the "
                f"classes, but {name} has labels of shape '{told}', as of classes along the last: name the loss next-token, "
                f"which does so, or have the network give them first"
            )
        if labels.shape[1:] != outputs.shape[1:]:  # else they are one-hot
            check_labels(f"{name}, {part} set", labels.long(), count, loss.counted(labels.long()))


def first_samples(samples: MapDataset, count: int) -> Sample:
    """The first samples with their targets, `count` of them or as many as there are, on the CPU."""
    first = Subset(cast("Dataset[Sample]", samples), range(min(count, len(samples))))
    return next(batches(cast(MapDataset, first), count))


def spread_samples(samples: MapDataset, count: int) -> Sample:
    """Samples from all over a data set, which may be sorted by class, with their targets, on the CPU.

    Args:
        samples: any.
        count: how many, or as many as there are.
    """
    count = min(count, len(samples))
    rows = [number * len(samples) // count for number in range(count)]
    return next(batches(cast(MapDataset, Subset(cast("Dataset[Sample]", samples), rows)), count))
