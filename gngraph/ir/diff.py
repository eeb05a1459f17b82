"""The structural difference of two graphs: `diff(a, b)` gives a `GraphDiff`, which renders itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch

from gngraph.errors import IRError
from gngraph.ir.changes import FieldChange, NodeEdit, ParamChange, Resize, SpaceChange, SpaceLineage
from gngraph.ir.graph import Graph
from gngraph.ir.graph_diff import GraphDiff
from gngraph.ir.lexer import quote, with_sigil
from gngraph.ir.text import format_aliases, format_attr, format_node, format_parameter, format_type
from gngraph.ir.types import Node, Parameter

Axis = tuple[str, int]
"""A parameter's name and one of its axes."""


def diff(
    a: Graph,
    b: Graph,
    *,
    spaces: Mapping[str, Sequence[Axis]] | None = None,
    sizes: Mapping[str, tuple[int, int]] | None = None,
    lineage: Mapping[str, Sequence[int]] | None = None,
) -> GraphDiff:
    """What differs from `a` to `b`, in O(#nodes + #parameters); values are compared only when asked for.

    Args:
        a: the graph before.
        b: the graph after.
        spaces: channel spaces of `a`: name -> parameter axes, the producing one first. Its size is the space's size.
        sizes: in `a` and in `b`, of spaces that fill no axis alone.
        lineage: space -> for each channel in `b` its source channel in `a`, or -1 for a new one.

    Raises:
        IRError: `lineage` does not fit the spaces.
    """
    common = [name for name in b.params if name in a.params and a.params[name] is not b.params[name]]
    resized = tuple(r for name in common for r in _resizes(name, a.params[name], b.params[name]))
    by_space = _changed_spaces(a, b, resized, spaces or {}, sizes or {}, lineage or {})
    assigned = {(r.param, r.axis) for space in by_space for r in space.resizes}
    return GraphDiff(
        a_name=a.name,
        b_name=b.name,
        num_params=(a.num_params(), b.num_params()),
        num_nodes=(len(a.nodes), len(b.nodes)),
        header=tuple(_changes(_graph_fields(a, b), _graph_fields(b, a))),
        nodes=tuple(_node_edits(a, b)),
        params_added={name: format_parameter(name, p) for name, p in b.params.items() if name not in a.params},
        params_removed={name: format_parameter(name, p) for name, p in a.params.items() if name not in b.params},
        params_changed=tuple(_param_changes(a, b, common)),
        resized=resized,
        spaces=by_space,
        unassigned=tuple(r for r in resized if (r.param, r.axis) not in assigned),
        _tensors=tuple(_comparable(a, b)),
    )


def _graph_fields(graph: Graph, other: Graph) -> dict[str, str]:
    """Of the order, only what both graphs have counts."""
    return {
        "name": graph.name,
        "inputs": ", ".join(with_sigil("%", name) for name in graph.inputs),
        "arguments": "" if graph.arguments is None else format_attr(graph.arguments),
        "output": format_attr(graph.output),
        "order of nodes": ", ".join(with_sigil("%", name) for name in graph.nodes if name in other.nodes),
        "order of parameters": ", ".join(with_sigil("@", name) for name in graph.params if name in other.params),
    }


def _changes(old: Mapping[str, str], new: Mapping[str, str]) -> Iterator[FieldChange]:
    for key in dict.fromkeys((*old, *new)):
        if old.get(key) != new.get(key):
            yield FieldChange(key, old.get(key, ""), new.get(key, ""))


def _node_fields(node: Node) -> dict[str, str]:
    fields = {"op": node.op, "inputs": ", ".join(with_sigil("%", name) for name in node.inputs)}
    fields |= {f"param {role}": with_sigil("@", param) for role, param in sorted(node.params.items())}
    fields |= {f"attr {key}": format_attr(value) for key, value in sorted(node.attrs.items())}
    fields["type"] = format_type(node.type)
    if node.module is not None:
        fields["module"] = quote(node.module)
    return fields | {"scope": node.scope}


def _node_edits(a: Graph, b: Graph) -> Iterator[NodeEdit]:
    removed: dict[str | None, list[NodeEdit]] = {}
    anchor, before = None, None  # the last node that b has too, and the last node
    for node in a.nodes.values():
        if node.name in b.nodes:
            anchor = node.name
        else:
            edit = NodeEdit("removed", node.name, node.op, before, old=format_node(node))
            removed.setdefault(anchor, []).append(edit)
        before = node.name
    yield from removed.get(None, ())
    before = None
    for node in b.nodes.values():
        old = a.nodes.get(node.name)
        if old is None:
            yield NodeEdit("added", node.name, node.op, before, new=format_node(node))
        elif old is not node and (fields := tuple(_changes(_node_fields(old), _node_fields(node)))):
            yield NodeEdit("changed", node.name, node.op, before, format_node(old), format_node(node), fields)
        yield from removed.get(node.name, ())
        before = node.name


def _resizes(name: str, old: Parameter, new: Parameter) -> Iterator[Resize]:
    before, after = old.data.shape, new.data.shape
    if len(before) == len(after) and before != after:
        for axis, (was, now) in enumerate(zip(before, after, strict=True)):
            if was != now:
                yield Resize(name, axis, was, now)


def _param_fields(parameter: Parameter, other: Parameter) -> dict[str, str]:
    fields = {"kind": parameter.kind, "dtype": parameter.type.dtype}
    if parameter.kind == "parameter":
        fields["trainable"] = str(parameter.trainable)
    if parameter.data.ndim != other.data.ndim:
        fields["shape"] = str(tuple(parameter.data.shape))
    return fields | {"aliases": format_aliases(parameter)}


def _param_changes(a: Graph, b: Graph, common: Iterable[str]) -> Iterator[ParamChange]:
    for name in common:
        old, new = a.params[name], b.params[name]
        fields = tuple(_changes(_param_fields(old, new), _param_fields(new, old)))
        if fields:
            yield ParamChange(name, fields)


def _changed_spaces(
    a: Graph,
    b: Graph,
    resized: Sequence[Resize],
    spaces: Mapping[str, Sequence[Axis]],
    known: Mapping[str, tuple[int, int]],
    lineage: Mapping[str, Sequence[int]],
) -> tuple[SpaceChange, ...]:
    unknown = [name for name in lineage if name not in spaces]
    if unknown:
        raise IRError(f"lineage names the space '{unknown[0]}', which is not among the spaces given")
    by_axis = {(r.param, r.axis): r for r in resized}
    changed: list[SpaceChange] = []
    for name, axes in spaces.items():
        sizes = known.get(name) or _space_sizes(a, b, axes)
        if sizes is None:
            continue
        origin = _lineage(name, lineage[name], *sizes) if name in lineage else None
        if sizes[0] != sizes[1] or (origin and (origin.split or origin.new or origin.pruned or origin.moved)):
            found = tuple(by_axis[axis] for axis in dict.fromkeys(axes) if axis in by_axis)
            changed.append(SpaceChange(name, *sizes, found, origin))
    return tuple(changed)


def _space_sizes(a: Graph, b: Graph, axes: Sequence[Axis]) -> tuple[int, int] | None:
    """Sizes of the first axis; None when it is not in both graphs, so that the space cannot be followed."""
    if not axes:
        return None
    param, axis = axes[0]
    shapes = [graph.params[param].data.shape for graph in (a, b) if param in graph.params]
    if len(shapes) < 2 or any(axis >= len(shape) for shape in shapes):
        return None
    return shapes[0][axis], shapes[1][axis]


def _lineage(space: str, sources: Sequence[int], old: int, new: int) -> SpaceLineage:
    if len(sources) != new:
        raise IRError(f"the lineage of space '{space}' has {len(sources)} channels, but graph b has {new}")
    outside = [source for source in sources if not -1 <= source < old]
    if outside:
        raise IRError(f"the lineage of space '{space}' names channel {outside[0]}, but graph a has {old}")
    counts = Counter(source for source in sources if source >= 0)
    kept = list(dict.fromkeys(source for source in sources if source >= 0))
    return SpaceLineage(
        split=tuple(source for source in sorted(counts) for _ in range(counts[source] - 1)),
        new=sum(source < 0 for source in sources),
        pruned=tuple(channel for channel in range(old) if channel not in counts),
        moved=kept != sorted(kept),
    )


def _comparable(a: Graph, b: Graph) -> Iterator[tuple[str, torch.Tensor, torch.Tensor]]:
    for name, parameter in b.params.items():
        if name in a.params and a.params[name].type == parameter.type:
            old, new = a.params[name].data, parameter.data
            if not (old.is_meta or new.is_meta):
                yield name, old, new
