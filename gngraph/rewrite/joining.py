"""Two convolutions with a norm and a non-linearity between them as one: what a factorised block gives up for being dense.

`collapse` of `gngraph.rewrite.factorisation` is exact, and takes nothing between the two. This is not: inverted residuals (Sandler
et al., *MobileNetV2*, CVPR 2018) become plain convolutions by it.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from gngraph.errors import PassError
from gngraph.ir import Graph, Node
from gngraph.ops import draft_of, lookup
from gngraph.rewrite.building import Building, in_order, keys_of
from gngraph.rewrite.kernels import kernel_of, stride_of
from gngraph.rewrite.layers import called, end_of_unit, held_by_others, require
from gngraph.rewrite.structure import JoinPair


def before(graph: Graph, name: str) -> tuple[Node, tuple[Node, ...]] | None:
    """The layer that a layer reads, behind its norm and its non-linearity, and these; None where it reads another value.

    Args:
        graph: has the layer.
        name: of its node.
    """
    between, value = list[Node](), graph.nodes[name].inputs[0]
    while True:
        node = graph.nodes[value]
        if lookup(node.op).apply is not None:
            return node, tuple(reversed(between))
        if len(node.inputs) != 1 or end_of_unit(graph, node.inputs[0]) == node.inputs[0]:
            return None
        between.append(node)
        value = node.inputs[0]


def not_joined(graph: Graph, name: str) -> str | None:
    """Why a layer and the one before it are not made one, or None.

    Args:
        graph: has the layer.
        name: of the node of the second.
    """
    node, found = graph.nodes[name], before(graph, name)
    if found is None:
        return "it does not read a layer, its norm and its non-linearity"
    first, between = found
    for each in (first, node):
        if each.op.removeprefix("depthwise_") not in ("conv1d", "conv2d", "conv3d"):
            return f"'{called(graph, each.name)}' is no convolution"
    if not lookup(node.op).is_dense(node):
        return "it does not see all channels at each of its outputs"
    if not _looks_at_one(graph, node) and not (_looks_at_one(graph, first) and lookup(first.op).is_dense(first)):
        return f"neither it nor '{called(graph, first.name)}' is a 1 x 1 convolution"
    for each in (first, *between):
        if len(graph.users(each.name)) > 1 or each.name in graph.outputs:
            return f"not it alone reads '{called(graph, each.name)}'"
    if end_of_unit(graph, name) in graph.outputs:
        return "it gives the network's output"
    return next((told for each in (first, *between, node) if (told := held_by_others(graph, each))), None)


def joint_convolution(graph: Graph, name: str) -> tuple[Node, tuple[int, ...]]:
    """The one convolution in the place of two, and the shape of its weight: its kernel is that of the one that is not pointwise.

    Args:
        graph: has the two.
        name: of the node of the second.
    """
    node, found = graph.nodes[name], before(graph, name)
    assert found is not None
    first = found[0]
    wide = first if _looks_at_one(graph, node) else node
    attrs = {key: value for key, value in wide.attrs.items() if key != "multiplier"} | {"groups": 1}
    shape = (_width(graph, name), _width(graph, first.inputs[0]), *kernel_of(graph, wide))
    return Node(name, node.op, first.inputs, attrs=attrs), shape


def join(graph: Graph, morphism: JoinPair) -> Graph:
    """`graph` with one convolution in the place of two, under the name of the second.

    Args:
        graph: before the rewrite.
        morphism: which, and the weight of the one.

    Raises:
        PassError: they are not made one, or the weight does not fit their widths.
    """
    name = morphism.at
    node, what = graph.nodes[name], called(graph, name)
    require(not_joined(graph, name), f"'{what}' is not joined with the layer before it")
    found, (one, shape) = before(graph, name), joint_convolution(graph, name)
    assert found is not None
    first, between = found
    if tuple(morphism.weight.shape) != shape:
        raise PassError(
            f"'{what}' and the layer before it take a weight of {shape}, but one of {tuple(morphism.weight.shape)} was learned; "
            f"join them before their widths change"
        )
    building = Building(graph, name)
    tensors = {"weight": morphism.weight} | ({} if morphism.bias is None else {"bias": morphism.bias})
    whole = building.module(node.module or name, one.op, one.inputs[0], one.attrs, tensors)
    made = _without(building.instead(name), (first, *between))
    moved, end = [each for each in between if not each.params], end_of_unit(made, whole)
    if not moved or any(not made.nodes[each].params for each in _unit(made, whole, end)):
        return made
    building = Building(made, end)
    for each in moved:
        building.call(each.name, each.op, building.last, **each.attrs)
    return building.behind(end)


def _without(graph: Graph, gone: tuple[Node, ...]) -> Graph:
    """The graph without nodes that only one another read, and without their parameters."""
    draft = draft_of(graph)
    draft.remove_unread(node.name for node in gone)
    without, params = draft.commit(), {param for node in gone for param in node.params.values()}
    left = {name: p for name, p in without.params.items() if name not in params}
    return replace(without, params=in_order(left, [key for key in keys_of(without.params) if key not in params]))


def _unit(graph: Graph, layer: str, end: str) -> list[str]:
    """The nodes behind a layer up to the end of its unit."""
    found = list[str]()
    while end != layer:
        found.append(end)
        end = graph.nodes[end].inputs[0]
    return found


def _looks_at_one(graph: Graph, node: Node) -> bool:
    """Whether a convolution looks at one position for each position of its value, and at every one."""
    weight: torch.Tensor = graph.params[node.params["weight"]].data
    attrs, rank = node.attrs, weight.dim() - 2
    plain = attrs.get("padding", 0) in (0, (0,) * rank, "valid", "same")
    return plain and weight[0, 0].numel() == 1 and max(stride_of(graph, node)) == 1


def _width(graph: Graph, value: str) -> int:
    return int(graph.nodes[value].shape[1])
