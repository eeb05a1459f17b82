"""Numbers that follow widths and stand in attributes of modules: those of torch's layers, and those of a user's own.

Such are the widths themselves, and what a norm adds to a variance that shrinks as channels come.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from torch import nn

from gngraph.ir import Graph
from gngraph.ir.types import Attr, Items, Listed, Slice
from gngraph.lowering.to_torch import lower


class NumberAt(NamedTuple):
    """An attribute of a module that is a number, or a list of numbers."""

    path: str
    attribute: str


NumberChanges = Mapping[NumberAt, tuple[Any, Any]]
"""Attribute -> what it is before and after a rewrite."""


def numbers_of_layers(before: Graph, after: Graph) -> dict[NumberAt, tuple[Any, Any]]:
    """Numbers of torch's own layers (`in_features`, `groups`, `normalized_shape`, `eps`) that differ between two graphs.

    They are read off the layers that both are lowered to.
    """
    old, new = (dict(lower(graph.to(device="meta")).module.named_modules()) for graph in (before, after))
    changes: dict[NumberAt, tuple[Any, Any]] = {}
    for path, layer in new.items():
        if path and path in old and type(old[path]) is type(layer):
            was, now = vars(old[path]), vars(layer)
            for name, value in now.items():
                if _is_number(value) and name in was and was[name] != value:
                    changes[NumberAt(path, name)] = (was[name], value)
    return changes


_KINDS: Mapping[type[nn.Module], Mapping[str, tuple[str, int]]] = {
    nn.Linear: {"out_features": ("weight", 0), "in_features": ("weight", 1)},
    nn.Embedding: {"embedding_dim": ("weight", 1)},
    nn.modules.conv._ConvNd: {"out_channels": ("weight", 0), "in_channels": ("weight", 1)},
    nn.modules.conv._ConvTransposeNd: {"out_channels": ("weight", 1), "in_channels": ("weight", 0)},
    nn.modules.batchnorm._NormBase: {"num_features": ("weight", 0)},
    nn.GroupNorm: {"num_channels": ("weight", 0)},
}
"""Layer of torch -> attribute that is the size of an axis of a parameter; the last that fits counts."""


def numbers_of_kinds(module: nn.Module, after: Graph) -> dict[NumberAt, tuple[Any, Any]]:
    """Numbers of layers that derive from torch's with a forward of their own, which a graph holds as calls.

    Args:
        module: the user's, before the rewrite.
        after: the rewritten graph.
    """
    found: dict[NumberAt, tuple[Any, Any]] = {}
    for path, child in module.named_modules():
        kinds = [kind for kind in _KINDS if isinstance(child, kind)]
        for attribute, (name, axis) in _KINDS[kinds[-1]].items() if kinds else ():
            parameter, key = child._parameters.get(name), f"{path}.{name}".strip(".")
            if parameter is None or key not in after.params or getattr(child, "groups", 1) != 1:
                continue
            old, new = parameter.shape[axis], after.params[key].data.shape[axis]
            if old != new and vars(child).get(attribute) == old:
                found[NumberAt(path, attribute)] = (old, new)
    return found


def numbers_of_forwards(module: nn.Module, before: Graph, after: Graph) -> dict[NumberAt, tuple[Any, Any]]:
    """Numbers in the modules whose forward makes a call with a width: attributes that are equal to it, so that they may be meant.

    Args:
        module: the user's.
        before: the graph of the module.
        after: the same nodes, at other widths.
    """
    found: dict[NumberAt, tuple[Any, Any]] = {}
    torn: set[NumberAt] = set()
    for name, node in before.nodes.items():
        other = after.nodes.get(name)  # none where a number has taken the place of what it computed
        if other is None or other.op != node.op:  # a norm that is written out counts what it counted
            continue
        pairs = dict(_changed(tuple(node.attrs.values()), tuple(other.attrs.values())))
        for path in {node.scope, node.module or node.scope} if pairs else ():
            try:
                held = vars(module.get_submodule(path))
            except AttributeError:
                continue
            for attribute, value in held.items():
                key = tuple(value) if isinstance(value, list) else value
                if attribute != "training" and _is_number(key) and key in pairs:
                    place, change = NumberAt(path, attribute), (value, type(value)(pairs[key]))
                    if found.setdefault(place, change) != change:
                        torn.add(place)
    return {place: change for place, change in found.items() if place not in torn}


def _changed(a: Attr, b: Attr) -> Iterator[tuple[Any, Any]]:
    """Numbers, and tuples of integers, that differ between two attributes of one form."""
    if isinstance(a, Slice):
        a, b = (a.start, a.stop, a.step), (b.start, b.stop, b.step)
    elif isinstance(a, Listed):
        a, b = a.items, b.items
    elif isinstance(a, Items):
        a, b = (tuple(value for _, value in attr.pairs) for attr in (a, b))
    if isinstance(a, tuple):
        if a != b and _is_number(a):
            yield a, b
        for one, other in zip(a, b, strict=True):
            yield from _changed(one, other)
    elif _is_number(a) and a != b:
        yield a, b


def _is_number(value: Any) -> bool:
    if isinstance(value, tuple):
        return bool(value) and all(type(item) is int for item in value)
    return type(value) in (int, float)
