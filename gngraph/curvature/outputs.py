"""What a network returns: a tensor, or tuples, lists and dictionaries of tensors; and gradients with respect to it.

A *cotangent* is shaped like the outputs and holds for each output tensor a tensor of its shape; what it leaves out, or has
as None, is an output that the loss does not read. A tensor is found by its *path*: the keys and positions on the way to it,
() for a network that returns one tensor.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from gngraph.errors import GnGraphError

if TYPE_CHECKING:
    from gngraph.curvature.losses import Loss

Outputs = Any
"""A tensor, or tuples, lists and dictionaries of `Outputs`. Anything else in them is carried along and never differentiated."""

Path = tuple[str | int, ...]


def leaves(outputs: Outputs) -> dict[Path, Tensor]:
    """The tensors in `outputs` by their paths, in order.

    >>> list(leaves({"out": torch.zeros(1), "rest": (torch.zeros(1), None)}))
    [('out',), ('rest', 0)]
    """
    if isinstance(outputs, Tensor):
        return {(): outputs}
    return {(key, *path): tensor for key, item in _items(outputs) for path, tensor in leaves(item).items()}


def replaced(outputs: Outputs, tensors: Mapping[Path, Tensor]) -> Outputs:
    """`outputs` with the tensors at the paths in `tensors`, and None in place of every other tensor.

    >>> replaced({"out": torch.zeros(1), "rest": (torch.zeros(1), 5)}, {("out",): torch.ones(1)})
    {'out': tensor([1.]), 'rest': (None, 5)}
    """

    def at(path: Path, part: Outputs) -> Outputs:
        if isinstance(part, Tensor):
            return tensors.get(path)
        if isinstance(part, Mapping):
            return {key: at((*path, key), item) for key, item in part.items()}
        if isinstance(part, (tuple, list)):
            items = [at((*path, key), item) for key, item in enumerate(part)]
            return items if isinstance(part, list) else tuple(items)
        return part

    return at((), outputs)


def detached(tensors: Mapping[Path, Tensor]) -> dict[Path, Tensor]:
    """The same tensors without gradient."""
    return {path: tensor.detach() for path, tensor in tensors.items()}


def entry(outputs: Outputs, key: str | int) -> Outputs:
    """The output that is called `key`, or stands at position `key`.

    Raises:
        GnGraphError: there is none; it lists those there are.

    >>> entry({"out": 1, "aux": 2}, "head")
    Traceback (most recent call last):
    gngraph.errors.GnGraphError: the network has no output "head": it returns "out" and "aux", so name one of these
    """
    items = dict(_items(outputs))
    if not items:
        raise GnGraphError(f'the network has no output "{key}": it returns one tensor, so leave the output unnamed')
    if key not in items:
        raise GnGraphError(f'the network has no output "{key}": it returns {_listed(items)}, so name one of these')
    return items[key]


def one_tensor(tree: Any, what: str, loss: str) -> Tensor:
    """`tree` itself, a tensor.

    Args:
        tree: outputs or targets.
        what: which of the two they are, for the message.
        loss: the name of the loss that reads one tensor.

    Raises:
        GnGraphError: it is anything else.
    """
    if isinstance(tree, Tensor):
        return tree
    items = dict(_items(tree))
    found = _listed(items) if items else f'of type "{type(tree).__name__}"'
    advice = (
        "name one (Problem(output=...), --loss-output), or sum losses over several (Heads)"
        if items
        else "give it a tensor"
    )
    raise GnGraphError(f'loss "{loss}" reads one tensor, but the {what} are {found}: {advice}')


def gradient(loss: Loss, outputs: Outputs, targets: Any) -> tuple[Tensor, Outputs]:
    """The losses [N] and the cotangent that is the gradient of their sum, both without gradient.

    Args:
        loss: of a sample each.
        outputs: what the network gave for N samples.
        targets: of the same samples.

    Raises:
        GnGraphError: the loss does not depend on the outputs, or only in a way that has no gradient.
    """
    tensors = leaves(outputs)
    with torch.enable_grad():
        inputs = {path: t.detach().requires_grad_() for path, t in tensors.items() if t.is_floating_point()}
        losses = loss.per_sample(replaced(outputs, {**tensors, **inputs}), targets)
        if not losses.requires_grad:
            raise GnGraphError(
                f'loss "{loss.name}" has no gradient with respect to the outputs: compute it from them by '
                "differentiable operations, without detach() or no_grad()"
            )
        slopes = torch.autograd.grad(losses.sum(), list(inputs.values()), allow_unused=True)
    found = {path: slope for path, slope in zip(inputs, slopes, strict=True) if slope is not None}
    return losses.detach(), replaced(outputs, found)


def pull_back(
    outputs: Outputs, cotangent: Outputs, inputs: Sequence[Tensor], *, retain_graph: bool
) -> list[Tensor | None]:
    """The gradient of <cotangent, outputs> with respect to each of `inputs`, by one backward pass; None where it is 0.

    Args:
        outputs: of a graph of autograd that reaches `inputs`.
        cotangent: as the outputs are nested; a tensor that it lacks counts as 0.
        inputs: tensors that require gradients.
        retain_graph: whether another backward pass follows.
    """
    sent = leaves(cotangent)
    heads = [(tensor, sent[path]) for path, tensor in leaves(outputs).items() if path in sent and tensor.requires_grad]
    if not heads or not inputs:
        return [None] * len(inputs)
    tensors, cotangents = zip(*heads, strict=True)
    return list(
        torch.autograd.grad(tensors, inputs, grad_outputs=cotangents, retain_graph=retain_graph, allow_unused=True)
    )


def unstacked(factors: Outputs) -> list[Outputs]:
    """The R cotangents of which `factors` holds a stack [R, *shape] for each tensor."""
    tensors = leaves(factors)
    count = len(next(iter(tensors.values()))) if tensors else 0
    return [replaced(factors, {path: stack[r] for path, stack in tensors.items()}) for r in range(count)]


def _items(tree: Any) -> Sequence[tuple[str | int, Any]]:
    if isinstance(tree, Mapping):
        return list(tree.items())
    return list(enumerate(tree)) if isinstance(tree, (tuple, list)) else []


def _listed(items: Mapping[str | int, Any]) -> str:
    *first, last = (f'"{key}"' for key in items)
    return f"{', '.join(first)} and {last}" if first else last
