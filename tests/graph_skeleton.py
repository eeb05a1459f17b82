"""A graph as text, without what lowering does not keep."""

from __future__ import annotations

from gngraph.ir import Flag, Graph, Node, Ref, TensorType, TupleType, Type
from gngraph.ir.types import dtype_of, replace_refs
from gngraph.ops.conv import specialise


def skeleton(graph: Graph) -> list[str]:
    """The graph without what lowering does not keep.

    Names of values, scopes, dtypes, which a cast leaves as recorded, channel axes of reshapes, which import chooses by sizes, the
    casts by which lowering keeps the dtype of numbers that are made of whole ones, and how often, and before what, a parameter is
    read as a value.
    """
    number: dict[str, str] = {}
    for name, node in graph.nodes.items():
        if node.op == "parameter":
            number[name] = f"@{node.params['value']}"
            continue
        values = {own for own in number.values() if own.startswith("v")}
        number[name] = number[node.inputs[0]] if _keeps_dtype(graph, node) else f"v{len(values)}"
    params = [f"{name} {p.kind} {p.trainable} {p.aliases} {tuple(p.data.shape)}" for name, p in graph.params.items()]
    nodes = []
    for n in graph.nodes.values():
        if _keeps_dtype(graph, n) or n.op == "parameter":
            continue
        op, attrs = n.op, {key: value for key, value in n.attrs.items() if key != "regroup"}
        shape = tuple(graph.params[n.params["weight"]].data.shape) if "weight" in n.params else ()
        if op.startswith("depthwise") and shape[0] == attrs["multiplier"]:  # one channel is left: a plain convolution
            op, attrs = op.removeprefix("depthwise_"), {**attrs, "groups": 1}
            del attrs["multiplier"]
        elif shape:  # groups of one channel each are left: depthwise
            op, attrs = specialise(op, attrs, shape)
        if attrs.pop("unbiased", False) and attrs["correction"] is None:  # an older spelling
            attrs["correction"] = 1
        kept = tuple(sorted((key, value) for key, value in attrs.items() if not isinstance(value, Flag)))
        inputs, constants = (replace_refs(x, number) for x in (tuple(map(Ref, n.inputs)), kept))
        module = n.module if n.params else None  # F.dropout that follows train() and eval() is lowered to a module
        nodes.append(f"{number[n.name]} {op} {inputs} {sorted(n.params.items())} {constants} {module} {_sizes(n.type)}")
    return [*params, *nodes, str(replace_refs(graph.output, number))]


def _keeps_dtype(graph: Graph, node: Node) -> bool:
    """Whether a node casts numbers that an op has made of whole ones to another floating-point dtype."""
    if node.attrs.get("target") != ".to" or len(node.inputs) != 1 or not _is_floating(node.type):
        return False
    made = graph.nodes[node.inputs[0]]
    of = [graph.nodes[name].type for name in made.inputs]
    return bool(of) and _is_floating(made.type) and not made.params and not any(map(_is_floating, of))


def _is_floating(kind: Type) -> bool:
    return isinstance(kind, TensorType) and dtype_of(kind.dtype).is_floating_point


def _sizes(kind: Type) -> object:
    if isinstance(kind, TupleType):
        return tuple(_sizes(item) for item in kind.items)
    return kind.shape if isinstance(kind, TensorType) else str(kind)
