"""Kernels of another extent, with zeros around which the function stays, and of another stride, by which it changes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from gngraph.errors import GnGraphError, PassError
from gngraph.ir import Graph, Node
from gngraph.ops import draft_of, lookup
from gngraph.ops.rules import spread
from gngraph.rewrite.channel_map import NEW
from gngraph.rewrite.layers import called, held_by_others, require
from gngraph.rewrite.structure import ResizeKernel, Restride
from gngraph.rewrite.surgery import Gather, Rewritten


def kernel_of(graph: Graph, node: Node) -> tuple[int, ...]:
    """Extents of the kernel of a layer, none for a linear one."""
    return tuple(graph.params[node.params["weight"]].data.shape[2:])


def not_resized(graph: Graph, name: str, kernel: tuple[int, ...]) -> str | None:
    """Why a layer cannot have a kernel of some extents, or None.

    Args:
        graph: has the layer.
        name: of its node.
        kernel: extents that are asked for.
    """
    node = graph.nodes[name]
    before = kernel_of(graph, node)
    if not before or "padding" not in node.attrs or "convolution" in node.op:
        return "it is no convolution"
    if lookup(node.op).computed is not None:
        return "it computes its weight"
    if len(kernel) != len(before) or any(size < 1 for size in kernel):
        return f"its kernel has {len(before)} extents of at least 1"
    if kernel == before:
        return f"its kernel is {_text(before)} already"
    if any((new - old) % 2 for new, old in zip(kernel, before, strict=True)):
        return (
            f"of a kernel of {_text(before)} none of {_text(kernel)} has the same middle; change it by an even number"
        )
    padding = padding_of(graph, node, kernel)
    if padding is not None and min(padding) < 0:
        return f"its padding of {node.attrs['padding']} is too small for a kernel of {_text(kernel)}"
    sizes = tuple(int(size) for size in graph.nodes[node.inputs[0]].shape[2:])
    itself = padding is not None and node.attrs.get("padding_mode", "zeros") != "zeros"
    if padding is not None and itself and any(pad >= size for pad, size in zip(padding, sizes, strict=True)):
        return f"a map of {_text(sizes)} cannot be padded by {_text(padding)} from itself"
    return held_by_others(graph, node)


def padding_of(graph: Graph, node: Node, kernel: tuple[int, ...]) -> tuple[int, ...] | None:
    """The padding with which a convolution of another kernel keeps the extents of its value; None where it finds it itself.

    Args:
        graph: has the node.
        node: the convolution.
        kernel: the other extents.
    """
    padding, rank = node.attrs["padding"], len(kernel)
    if padding == "same":
        return None
    own = zip(
        spread(0 if padding == "valid" else padding, rank),
        spread(node.attrs.get("dilation", 1), rank),
        kernel_of(graph, node),
        kernel,
        strict=True,
    )
    return tuple(pad + dilation * (new - old) // 2 for pad, dilation, old, new in own)


def resize_kernel(graph: Graph, morphism: ResizeKernel) -> Rewritten:
    """`graph` with a kernel of other extents; wider ones preserve the function where no weight is given.

    Args:
        graph: before the rewrite.
        morphism: which layer, and what its kernel becomes.

    Raises:
        PassError: the layer cannot have such a kernel, or the weight that is given has another shape.
    """
    name = morphism.at
    require(not_resized(graph, name, morphism.kernel), f"the kernel of '{called(graph, name)}' stays as it is")
    node = graph.nodes[name]
    param = node.params["weight"]
    weight, gathers = graph.params[param].data, list[Gather]()
    for axis, new in enumerate(morphism.kernel, 2):
        old = weight.shape[axis]
        margin = abs(new - old) // 2
        around = torch.full((margin,), NEW)
        index = torch.cat([around, torch.arange(old), around]) if new >= old else torch.arange(margin, margin + new)
        index, ones = index.to(weight.device), torch.ones(new, dtype=torch.float64, device=weight.device)
        gathers.append(Gather(axis, index, ones, ones))
        kept = (index >= 0).to(weight.dtype).view([-1 if i == axis else 1 for i in range(weight.dim())])
        weight = weight.index_select(axis, index.clamp(min=0)) * kept
    if morphism.weight is not None:
        if morphism.weight.shape != weight.shape:
            raise PassError(
                f"'{called(graph, name)}' takes a weight of {tuple(weight.shape)}, but one of {tuple(morphism.weight.shape)} "
                f"was learned; change its kernel before its width changes"
            )
        weight = morphism.weight.to(weight)
    draft = draft_of(graph)
    draft.set_param(param, replace(graph.params[param], data=weight))
    padding = padding_of(graph, node, morphism.kernel)
    if padding is not None:
        draft.set_attrs(name, padding=padding)
    return Rewritten(draft.commit(), {}, {param: tuple(gathers)})


def not_restrided(graph: Graph, name: str, stride: tuple[int, ...]) -> str | None:
    """Why a layer cannot have a stride, or None.

    Args:
        graph: has the layer.
        name: of its node.
        stride: that is asked for, along every spatial axis.
    """
    node = graph.nodes[name]
    if not kernel_of(graph, node) or "stride" not in node.attrs or "transpose" in node.op:
        return "it is no convolution"
    if len(stride) != len(kernel_of(graph, node)) or any(step < 1 for step in stride):
        return f"its stride has {len(kernel_of(graph, node))} numbers of at least 1"
    if stride == stride_of(graph, node):
        return f"its stride is {_text(stride)} already"
    if node.attrs.get("padding") == "same":
        return "its padding is 'same', which takes no stride"
    held = held_by_others(graph, node)  # a module that runs twice has one stride
    if held is not None:
        return held
    return not_taken(graph, lambda: _with_stride(graph, name, stride))


def not_taken(graph: Graph, made: Callable[[], Graph]) -> str | None:
    """Why what is behind a layer does not take maps of other extents, or None.

    Args:
        graph: the network.
        made: makes the one with these maps.
    """
    try:
        changed = made()
    except GnGraphError as error:
        return f"what is behind it does not take maps of other extents: {error}"
    for before, after in zip(graph.outputs, changed.outputs, strict=True):
        if graph.nodes[before].type != changed.nodes[after].type:
            return f"the network's output '{before}' would be {changed.nodes[after].type}"
    return None


def stride_of(graph: Graph, node: Node) -> tuple[int, ...]:
    """The stride of a convolution along every spatial axis."""
    return tuple(spread(node.attrs["stride"], len(kernel_of(graph, node))))


def restride(graph: Graph, morphism: Restride) -> Graph:
    """`graph` with another stride of a convolution; weights stay.

    Args:
        graph: before the rewrite.
        morphism: which layer, and its stride.

    Raises:
        PassError: the layer cannot have it, or what is behind it cannot.
    """
    name = morphism.at
    told = not_restrided(graph, name, morphism.stride)
    require(told, f"the stride of '{called(graph, name)}' stays as it is")
    return _with_stride(graph, name, morphism.stride)


def _with_stride(graph: Graph, name: str, stride: tuple[int, ...]) -> Graph:
    draft = draft_of(graph)
    draft.set_attrs(name, stride=stride)
    made = draft.commit()
    for node in made.nodes.values():  # what a foreign op gives is as it was recorded
        if node.op == "foreign" and any(made.nodes[i].type != graph.nodes[i].type for i in node.inputs):
            raise PassError(f"nothing says what '{node.attrs['target']}' (node '{node.name}') gives of them")
    return made


def _text(sizes: tuple[object, ...]) -> str:
    return " x ".join(map(str, sizes))
