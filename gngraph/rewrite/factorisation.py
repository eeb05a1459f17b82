"""Layers as products of two, and products of two as one layer.

Between the two of a low-rank layer (Jaderberg, Vedaldi and Zisserman, *Speeding up Convolutional Neural Networks with Low Rank
Expansions*, BMVC 2014; Zhang et al., *Accelerating Very Deep Convolutional Networks*, 2016) lies a channel space of its own, as
wide as the rank. A separable layer (Chollet, *Xception*, CVPR 2017) has a depthwise convolution first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from gngraph.errors import PassError
from gngraph.ir import Attr, Graph, Node
from gngraph.ops import draft_of, lookup
from gngraph.ops.conv import specialise
from gngraph.rewrite.building import Building, in_order, keys_of
from gngraph.rewrite.layers import called, held_by_others, require
from gngraph.rewrite.structure import Collapse, Factorise

FORMS = ("low-rank", "separable")


def not_factorised(graph: Graph, name: str, form: str) -> str | None:
    """Why a layer cannot be written as two of some form, or None.

    Args:
        graph: has the layer.
        name: of its node.
        form: a name of `FORMS`.
    """
    node = graph.nodes[name]
    if form not in FORMS:
        return f"'{form}' is no form of a factorisation; choose one of {', '.join(FORMS)}"
    if not (_convolves(graph, node) or node.op == "linear") or not lookup(node.op).is_dense(node):
        return "it is no convolution or linear layer whose every output sees all channels"
    if form == "separable" and (node.op == "linear" or _weight(graph, node)[0, 0].numel() == 1):
        return "it has no kernel to be separated"
    if form == "low-rank" and rank_of(graph, name) < 2:
        return "its rank is 1 already"
    return held_by_others(graph, node)


def rank_of(graph: Graph, name: str) -> int:
    """The largest rank that the weight of a layer can have."""
    weight = _weight(graph, graph.nodes[name])
    return min(weight.shape[0], weight[0].numel())


def factorise(graph: Graph, morphism: Factorise) -> Graph:
    """`graph` with two layers in the place of one, under its name: "reduce" and "expand", or "depthwise" and "pointwise".

    Args:
        graph: before the rewrite.
        morphism: which layer, and the weights of the two.

    Raises:
        PassError: the layer cannot be written so, or the weights do not fit its widths.
    """
    node, what = graph.nodes[morphism.at], called(graph, morphism.at)
    require(not_factorised(graph, morphism.at, morphism.form), f"'{what}' is not factorised")
    weight = _weight(graph, node)
    between = weight.shape[1] if morphism.form == "separable" else morphism.first.shape[0]
    read = 1 if morphism.form == "separable" else weight.shape[1]
    shapes = (between, read, *weight.shape[2:]), (weight.shape[0], between, *[1] * (weight.dim() - 2))
    if (tuple(morphism.first.shape), tuple(morphism.second.shape)) != shapes:
        raise PassError(
            f"'{what}' with a weight of {tuple(weight.shape)} takes factors of {shapes[0]} and {shapes[1]}, but those of "
            f"{tuple(morphism.first.shape)} and {tuple(morphism.second.shape)} were learned; factorise it before its width changes"
        )
    building = Building(graph, node.name)
    path = node.module or node.params["weight"]
    attrs = _by_axis(node.attrs, weight.dim() - 2)
    first, second = morphism.roles
    op = node.op
    if morphism.form == "separable":
        op, attrs = specialise(node.op, {**attrs, "groups": between}, tuple(morphism.first.shape))
    ones = (1,) * (weight.dim() - 2)
    plain = {"stride": ones, "padding": (0,) * len(ones), "dilation": ones, "groups": 1, "padding_mode": "zeros"}
    hidden = building.module(f"{path}.{first}", op, node.inputs[0], attrs, {"weight": morphism.first})
    tensors = {"weight": morphism.second}
    if morphism.bias is not None or "bias" in node.params:
        tensors["bias"] = graph.params[node.params["bias"]].data if morphism.bias is None else morphism.bias
    building.module(f"{path}.{second}", node.op, hidden, plain if ones else {}, tensors)
    return building.instead(node.name)


def _by_axis(attrs: Mapping[str, Attr], axes: int) -> dict[str, Attr]:
    """Attributes of a layer as its module has them: what a call gives as one number is one for each axis, and it pads by zeros."""
    each = ("stride", "padding", "dilation")
    found = {key: (value,) * axes if key in each and type(value) is int else value for key, value in attrs.items()}
    return {"padding_mode": "zeros"} | found if axes else found


def not_collapsed(graph: Graph, name: str) -> str | None:
    """Why a layer and the one that it reads are not one, or None.

    Args:
        graph: has the layer.
        name: of the node of the second.
    """
    node = graph.nodes[name]
    before = graph.nodes[node.inputs[0]] if node.inputs else node
    for each in (node, before):
        if not (_convolves(graph, each) or each.op == "linear") or each is before is node:
            return f"'{called(graph, each.name)}' is no convolution or linear layer"
    if graph.users(before.name) != (name,) or before.name in graph.outputs:
        return f"not it alone reads '{called(graph, before.name)}'"
    if not lookup(node.op).is_dense(node):
        return "it does not see all channels at each of its outputs"
    if before.op != "linear" and not _pointwise(graph, node):
        return f"it is no 1 x 1 convolution, so that the two together are no layer of the kernel of '{called(graph, before.name)}'"
    if before.op == "linear" and node.op != "linear":
        return f"'{called(graph, before.name)}' is a linear layer"
    return held_by_others(graph, node) or held_by_others(graph, before)


def collapse(graph: Graph, morphism: Collapse) -> Graph:
    """`graph` with one layer in the place of two, under the name of the second, or of what holds just the two.

    Args:
        graph: before the rewrite.
        morphism: which layers.

    Raises:
        PassError: they are not one layer.
    """
    node = graph.nodes[morphism.at]
    require(not_collapsed(graph, morphism.at), f"'{called(graph, morphism.at)}' is not collapsed")
    before = graph.nodes[node.inputs[0]]
    outer, inner = _weight(graph, node).double(), _weight(graph, before).double()
    matrix, groups = outer.flatten(1), _groups(graph, before)
    own = inner.shape[0] // groups
    parts = [matrix[:, g * own : (g + 1) * own] @ inner[g * own : (g + 1) * own].flatten(1) for g in range(groups)]
    # of groups each reads channels of its own, one behind the other
    weight = torch.cat([part.view(len(matrix), *inner.shape[1:]) for part in parts], 1)
    tensors = {"weight": weight}
    bias = graph.params[node.params["bias"]].data.double() if "bias" in node.params else None
    if "bias" in before.params:
        bias = (0 if bias is None else bias) + matrix @ graph.params[before.params["bias"]].data.double()
    if bias is not None:
        tensors["bias"] = bias
    attrs = {key: value for key, value in before.attrs.items() if key != "multiplier"}
    building = Building(graph, node.name)
    building.module(
        _common_path(graph, before, node), node.op, before.inputs[0], {**attrs, "groups": 1} if attrs else {}, tensors
    )
    made = building.instead(node.name)
    draft = draft_of(made)
    draft.remove(before.name)
    without = draft.commit()
    gone = set(before.params.values())
    left = {name: p for name, p in without.params.items() if name not in gone}
    kept = [key for key in keys_of(without.params) if key not in gone]
    return replace(without, params=in_order(left, kept))


def _convolves(graph: Graph, node: Node) -> bool:
    return node.op.removeprefix("depthwise_") in ("conv1d", "conv2d", "conv3d")


def _pointwise(graph: Graph, node: Node) -> bool:
    """Whether a convolution looks at one position for each position of its value."""
    attrs, rank = node.attrs, _weight(graph, node).dim() - 2
    plain = attrs.get("padding", 0) in (0, (0,) * rank, "valid", "same") and attrs.get("stride", 1) in (1, (1,) * rank)
    return rank > 0 and plain and _weight(graph, node)[0, 0].numel() == 1


def _groups(graph: Graph, node: Node) -> int:
    if "multiplier" in node.attrs:
        return _weight(graph, node).shape[0] // int(node.attrs["multiplier"])
    return int(node.attrs.get("groups", 1))


def _weight(graph: Graph, node: Node) -> torch.Tensor:
    return graph.params[node.params["weight"]].data


def _common_path(graph: Graph, before: Node, node: Node) -> str:
    """The module that holds the two layers and nothing else, or that of the second."""
    paths = {path.rpartition(".")[0] for path in (before.module, node.module) if path}
    shared = next(iter(paths)) if len(paths) == 1 and before.module and node.module else ""
    own = {*before.params.values(), *node.params.values()}
    inside = {name for name in graph.params if name.startswith(f"{shared}.")}
    elsewhere = any(n.scope == shared or n.scope.startswith(f"{shared}.") for n in graph.nodes.values())
    if shared and inside == own and not elsewhere:
        return shared
    return node.module or node.params["weight"]
