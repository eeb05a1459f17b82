"""What a network returns: a tensor, or tuples, lists and dictionaries of tensors, which `torch.utils._pytree` walks.

A *cotangent* is shaped like the outputs and holds for each output tensor a tensor of its shape; what it leaves out, or has
as None, is an output that the loss does not read. A tensor is found by its *path*: the keys, positions and names of fields on the
way to it, () for a network that returns one tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.utils._pytree import (
    GetAttrKey,
    KeyEntry,
    MappingKey,
    SequenceKey,
    tree_flatten_with_path,
    tree_map_with_path,
)

from gngraph.errors import GnGraphError

Outputs = Any
"""A tensor, or tuples, lists and dictionaries of `Outputs`. Anything else in them is carried along and never differentiated."""

TreePath = tuple[str | int, ...]


def leaves(outputs: Outputs) -> dict[TreePath, Tensor]:
    """The tensors in `outputs` by their paths, in order.

    >>> import torch
    >>> list(leaves({"out": torch.zeros(1), "rest": (torch.zeros(1), None)}))
    [('out',), ('rest', 0)]
    """
    return {path: tensor for path, tensor in _flat(outputs) if isinstance(tensor, Tensor)}


def replaced(outputs: Outputs, tensors: Mapping[TreePath, Tensor]) -> Outputs:
    """`outputs` with the tensors at the paths in `tensors`, and None in place of every other tensor.

    >>> import torch
    >>> replaced({"out": torch.zeros(1), "rest": (torch.zeros(1), 5)}, {("out",): torch.ones(1)})
    {'out': tensor([1.]), 'rest': (None, 5)}
    """

    def at(keys: tuple[KeyEntry, ...], leaf: Any) -> Any:
        return tensors.get(_path(keys)) if isinstance(leaf, Tensor) else leaf

    return tree_map_with_path(at, outputs)


def detached(tensors: Mapping[TreePath, Tensor]) -> dict[TreePath, Tensor]:
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
    items = _items(outputs)
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
    items = _items(tree)
    found = _listed(items) if items else f'of type "{type(tree).__name__}"'
    advice = (
        "name one (Problem(output=...), --loss-output), or sum losses over several (Heads)"
        if items
        else "give it a tensor"
    )
    raise GnGraphError(f'loss "{loss}" reads one tensor, but the {what} are {found}: {advice}')


def unstacked(factors: Outputs) -> list[Outputs]:
    """The R cotangents of which `factors` holds a stack [R, *shape] for each tensor."""
    tensors = leaves(factors)
    count = len(next(iter(tensors.values()))) if tensors else 0
    return [replaced(factors, {path: stack[r] for path, stack in tensors.items()}) for r in range(count)]


def _flat(tree: Any) -> list[tuple[TreePath, Any]]:
    return [(_path(keys), leaf) for keys, leaf in tree_flatten_with_path(tree)[0]]


def _path(keys: tuple[KeyEntry, ...]) -> TreePath:
    return tuple(_key(key) for key in keys)


def _key(key: KeyEntry) -> str | int:
    if isinstance(key, SequenceKey):
        return key.idx
    found: str | int = key.name if isinstance(key, GetAttrKey) else key.key if isinstance(key, MappingKey) else str(key)
    return found


def _items(tree: Any) -> dict[str | int, Any]:
    """What a tree holds, a level deep; nothing where it is a leaf."""
    children = tree_flatten_with_path(tree, is_leaf=lambda node: node is not tree)[0]
    return {_key(keys[0]): child for keys, child in children if keys}


def _listed(items: Mapping[str | int, Any]) -> str:
    *first, last = (f'"{key}"' for key in items)
    return f"{', '.join(first)} and {last}" if first else last
