"""What is attached to a value and starts without effect: skip connections, squeeze-and-excitation, BatchNorms.

A skip connection starts at a scale of zero (Bachlechner et al., *ReZero is All You Need*, UAI 2021), a gate at one (Hu, Shen and
Sun, *Squeeze-and-Excitation Networks*, CVPR 2018), and the scale and shift of a norm undo its statistics.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.topology import ancestors
from gngraph.ir import Graph, TensorType
from gngraph.ops import draft_of, lookup
from gngraph.rewrite.building import Building, in_order, keys_of
from gngraph.rewrite.layers import called, layers_of, require
from gngraph.rewrite.structure import InsertNorm, InsertSkip, InsertSqueezeExcite, RemoveSkip

EPS = 1e-5
"""Added to the variance by BatchNorms that are inserted, as by torch's."""


def channel_axis(graph: Graph, spaces: ChannelSpaces, value: str) -> int | None:
    """The one axis of a value that has channels, or None where there is none, are several, or samples stand beside them.

    Args:
        graph: has the value.
        spaces: of `graph`.
        value: name of its node.
    """
    type_ = graph.nodes[value].type
    if not isinstance(type_, TensorType):
        return None
    axes = [axis for axis in range(1, len(type_.shape)) if (value, axis) in spaces.layouts]
    return axes[0] if len(axes) == 1 and isinstance(type_.shape[axes[0]], int) else None


def not_skipped(graph: Graph, spaces: ChannelSpaces, at: str, source: str) -> str | None:
    """Why no skip connection can go from one value to another, or None.

    Args:
        graph: has both.
        spaces: of `graph`.
        at: name of the node that it would end at.
        source: name of the node that it would start from.
    """
    axis = channel_axis(graph, spaces, at)
    if axis is None or axis != channel_axis(graph, spaces, source):
        return f"'{source}' and '{at}' do not have their channels along one and the same axis"
    if graph.nodes[at].type != graph.nodes[source].type:
        return f"'{source}' is {graph.nodes[source].type}, but '{at}' is {graph.nodes[at].type}"
    if source == at or source not in ancestors(graph, at):
        return f"'{at}' is not computed from '{source}'"
    used = {name for value in (at, source) for name, _, _ in spaces.layouts[value, axis]}
    frozen = sorted(name for name in used if spaces[name].frozen is not None)
    if frozen:
        return f"what it connects would be as frozen as '{frozen[0]}' is, because {spaces[frozen[0]].frozen}"
    return None


def insert_skip(graph: Graph, spaces: ChannelSpaces, morphism: InsertSkip) -> Graph:
    """`graph` with a skip connection; everything that read the value reads the sum.

    Args:
        graph: before the insertion.
        spaces: of `graph`.
        morphism: from where to where.

    Raises:
        PassError: there can be none.
    """
    at, source = morphism.at, morphism.source
    require(not_skipped(graph, spaces, at, source), f"there is no skip connection to '{called(graph, at)}'")
    axis, type_ = channel_axis(graph, spaces, at), graph.nodes[at].type
    assert axis is not None and isinstance(type_, TensorType)
    building = Building(graph, at)
    path = building.free_path("skip")
    shape = (int(type_.shape[axis]), *[1] * (len(type_.shape) - 1 - axis))
    scale = building.raw(f"{path}.scale", torch.full(shape, morphism.scale))
    scaled = building.call(f"{path}_mul", "mul", source, scale)
    building.call(f"{path}_add", "add", at, scaled)
    return building.behind(at)


def skips_of(graph: Graph) -> dict[str, tuple[str, str]]:
    """Sums in which skip connections end: the branch of each, and what is added to it.

    A skip connection goes past a layer, and has nothing on it but functions that keep channels apart and scales.
    """
    found, layers = {}, set(layers_of(graph))
    for node in graph.nodes.values():
        if node.op != "add" or len(set(node.inputs)) != 2 or node.attrs:
            continue
        for skip, branch in (node.inputs, node.inputs[::-1]):
            source, above = _source(graph, skip), ancestors(graph, branch)
            passed = above - ancestors(graph, source)
            if source in above and not layers.isdisjoint(passed) and graph.nodes[branch].type == node.type:
                found[node.name] = (branch, skip)
    return found


def remove_skip(graph: Graph, morphism: RemoveSkip) -> Graph:
    """`graph` without a skip connection; everything that read the sum reads the branch.

    Args:
        graph: before the removal.
        morphism: which one.

    Raises:
        PassError: the value is no sum in which a skip connection ends.
    """
    skips = skips_of(graph)
    known = ", ".join(skips) or "none"
    told = None if morphism.at in skips else f"the sums in which such connections end are {known}"
    require(told, f"no skip connection ends at '{morphism.at}'")
    branch, skip = skips[morphism.at]
    draft = draft_of(graph)
    draft.replace_uses(morphism.at, branch)
    draft.remove_unread({morphism.at, skip, *ancestors(graph, skip)} - set(graph.inputs))
    made = draft.commit()
    left = {name: p for name, p in made.params.items() if made.readers(name) or not graph.readers(name)}
    owner = {alias: name for name, p in graph.params.items() for alias, _ in p.aliases}
    kept = [key for key in keys_of(graph.params) if owner.get(key, key) in left]
    return replace(made, params=in_order(left, kept))


def not_gated(graph: Graph, spaces: ChannelSpaces, value: str) -> str | None:
    """Why the channels of a value cannot be gated, or None.

    Args:
        graph: has the value.
        spaces: of `graph`.
        value: name of its node.
    """
    type_ = graph.nodes[value].type
    if (
        not isinstance(type_, TensorType)
        or len(type_.shape) not in (3, 4, 5)
        or channel_axis(graph, spaces, value) != 1
    ):
        return f"'{value}' is {type_}, with no maps of channels along axis 1"
    return None


def insert_squeeze_excite(graph: Graph, spaces: ChannelSpaces, morphism: InsertSqueezeExcite) -> Graph:
    """`graph` with gated channels; everything that read the value reads the gated one.

    Args:
        graph: before the insertion.
        spaces: of `graph`.
        morphism: where, and how wide the hidden layer is.

    Raises:
        PassError: the value has no maps of channels.
    """
    at = morphism.at
    require(not_gated(graph, spaces, at), f"the channels of '{called(graph, at)}' cannot be gated")
    type_ = graph.nodes[at].type
    assert isinstance(type_, TensorType)
    width, ones = int(type_.shape[1]), (1,) * (len(type_.shape) - 2)
    attrs = {"stride": ones, "padding": (0,) * len(ones), "dilation": ones, "groups": 1, "padding_mode": "zeros"}
    building = Building(graph, at)
    path, op = building.free_path("squeeze_excite"), f"conv{len(ones)}d"
    inner = torch.randn(morphism.squeeze, width, *ones, generator=torch.Generator().manual_seed(0)) * (2 / width) ** 0.5
    dims = tuple(range(2, len(type_.shape)))
    mean = building.call(f"{path}_mean", "mean", at, dim=dims, keepdim=True)
    own = {"weight": inner, "bias": torch.zeros(morphism.squeeze)}
    hidden = building.call(f"{path}_relu", "relu", building.module(f"{path}.squeeze", op, mean, attrs, own))
    own = {"weight": torch.zeros(width, morphism.squeeze, *ones), "bias": torch.zeros(width)}
    excited = building.module(f"{path}.excite", op, hidden, attrs, own)
    gate = building.call(f"{path}_sigmoid", "sigmoid", excited)
    building.call(f"{path}_mul", "mul", at, building.call(f"{path}_gate", "mul", gate, literal1=2))
    return building.behind(at)


def not_normed(graph: Graph, spaces: ChannelSpaces, layer: str) -> str | None:
    """Why no BatchNorm can stand behind a layer, or None.

    Args:
        graph: has the layer.
        spaces: of `graph`.
        layer: name of its node.
    """
    type_ = graph.nodes[layer].type
    if not isinstance(type_, TensorType) or channel_axis(graph, spaces, layer) != 1 or len(type_.shape) > 5:
        return f"its value, {type_}, does not have its channels along axis 1"
    if layer in graph.outputs:
        return "it gives the network's output"
    readers = [graph.nodes[name] for name in graph.users(layer)]
    if any(lookup(node.op).statistics is not None or lookup(node.op).counts is not None for node in readers):
        return f"'{called(graph, readers[0].name)}' normalises it already"
    return None


def insert_norm(graph: Graph, spaces: ChannelSpaces, morphism: InsertNorm) -> Graph:
    """`graph` with a BatchNorm behind a layer, which in eval mode gives what it reads.

    Args:
        graph: before the insertion.
        spaces: of `graph`.
        morphism: behind which layer, and the statistics of its value.

    Raises:
        PassError: there can be none, or the statistics are of another width.
    """
    at, type_ = morphism.at, graph.nodes[morphism.at].type
    told = not_normed(graph, spaces, at)
    if told is None and isinstance(type_, TensorType) and morphism.mean.shape != (type_.shape[1],):
        told = f"it has {type_.shape[1]} channels, but the statistics are of {len(morphism.mean)}"
    require(told, f"no norm can stand behind '{called(graph, at)}'")
    assert isinstance(type_, TensorType)
    building = Building(graph, at)
    tensors = {
        "weight": (morphism.variance.double() + EPS).sqrt(),
        "bias": morphism.mean,
        "running_mean": morphism.mean,
        "running_var": morphism.variance,
        "num_batches_tracked": torch.tensor(0),
    }
    op = f"batch_norm{max(1, len(type_.shape) - 2)}d"
    building.module(building.free_path("norm"), op, at, {"eps": EPS, "momentum": 0.1}, tensors)
    return building.behind(at)


def _source(graph: Graph, value: str) -> str:
    """Where a value comes from, past functions that keep channels apart, and scales."""
    while True:
        node = graph.nodes[value]
        values = [name for name in node.inputs if graph.nodes[name].op != "parameter"]
        plain = lookup(node.op).channelwise and lookup(node.op).apply is None and lookup(node.op).statistics is None
        if len(values) != 1 or not (plain or node.op == "mul") or node.type != graph.nodes[values[0]].type:
            return value
        value = values[0]
