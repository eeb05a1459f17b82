"""Removal of layers: shallower. What read a layer's result reads what the layer read, and rebuilds the one from the other.

A residual block that is removed leaves its stream, which keeps its channels. A layer of a chain has channels of its own: whoever
read them takes combinations of the channels before the layer, folded into its weights, for which a non-linear function is
replaced by the nearest linear one. What training does not win back of it, the layer was worth.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import torch

from gngraph.analysis.channels import ChannelSpaces, Role, Slot
from gngraph.analysis.cost import products_of, uses_of
from gngraph.analysis.topology import CutPoint, cut_points, dominating_values, nodes_between
from gngraph.errors import IRError, PassError
from gngraph.ir import Draft, Graph, Node, Parameter, Ref
from gngraph.ops import draft_of, lookup
from gngraph.rewrite.building import in_order, keys_of
from gngraph.rewrite.channel_map import NEW
from gngraph.rewrite.folding import mean_shift
from gngraph.rewrite.morphism import RemoveLayer
from gngraph.rewrite.surgery import Gather, Rewritten, follow_widths


@dataclass(frozen=True)
class RemovableLayer:
    """Everything between two values that a network can do without.

    Attributes:
        value: what it ends at, which goes.
        source: what it starts from, which stands in.
        nodes: nodes between the two, the first excluded: what nothing else reads goes with it.
        space, source_space: channel spaces of the two; the same one around a residual block.
        reads: slots of the weights that read `space` and are rebuilt; none around a residual block.
    """

    value: str
    source: str
    nodes: frozenset[str]
    space: str
    source_space: str
    reads: tuple[Slot, ...]

    def title(self, graph: Graph) -> str:
        """What people call it: the outermost module that holds all its layers and nothing else, or its first layer."""
        layers = [node for name, node in graph.nodes.items() if name in self.nodes and multiplies(graph, node)]
        outside = {
            scope for name, node in graph.nodes.items() if name not in self.nodes for scope in _scopes(node.scope)
        }
        shared = set.intersection(*({*_scopes(node.scope)} for node in layers)) - outside
        return min(shared, key=len) if shared else layers[0].module or layers[0].name

    def names(self, graph: Graph) -> tuple[str, ...]:
        """What it is called by: its title, the modules in it, and the node that it ends at."""
        modules = [node.module for name, node in graph.nodes.items() if name in self.nodes and node.module]
        return tuple(dict.fromkeys([self.title(graph), *modules, self.value]))


def removable_layers(graph: Graph, spaces: ChannelSpaces) -> tuple[RemovableLayer, ...]:
    """What can be removed, in order.

    It lies between cut points that follow one another and differ in their channels at most, or between values of a stream of
    tokens, whose positions have parameters of their own. Where the channels differ, all that writes or accompanies those behind
    lies between the two, and all that reads them is a dense layer, so that what they carry can be folded into weights. O(#nodes),
    and again for each layer whose channels differ.

    >>> import torch, gngraph
    >>> net = torch.nn.Sequential(
    ...     torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2)
    ... )
    >>> graph = gngraph.from_torch(net, torch.zeros(1, 4))
    >>> [(layer.source, layer.value) for layer in removable_layers(graph, ChannelSpaces.of(graph))]
    [('_1', '_3')]
    """
    order = {name: i for i, name in enumerate(graph.nodes)}
    return tuple(sorted(_ending_at(graph, spaces, graph.nodes), key=lambda layer: order[layer.value]))


def _ending_at(graph: Graph, spaces: ChannelSpaces, values: Container[str]) -> Iterator[RemovableLayer]:
    """The removable layers whose results are among some values."""
    for before, point in pairwise(cut_points(graph, spaces)):
        if point.value in values:
            yield from _between(graph, spaces, before, point)
    for earlier, value in pairwise(dominating_values(graph)):
        if value in values:
            yield from _of_tokens(graph, spaces, earlier, value)


def remove_layer(graph: Graph, spaces: ChannelSpaces, morphism: RemoveLayer) -> Rewritten:
    """`graph` without the layer, or the block, whose result is the value `morphism.at`.

    An optimiser remembers nothing of the weights that are rebuilt.

    Args:
        graph: before the removal.
        spaces: of `graph`.
        morphism: which layer, and what its readers rebuild its channels from.

    Raises:
        PassError: the value is no cut point behind something that can be removed, or the morphism does not say, for the widths
            there are, what its readers rebuild it from.
    """
    layer = removable_layer(graph, spaces, morphism.at)
    space, width = spaces[layer.space], spaces[layer.source_space].size
    for slot in layer.reads:
        combination = morphism.weights.get(slot.param)
        if combination is None or tuple(combination.shape) != (space.size, width):
            raise PassError(
                f"'{slot.param}' reads {space.size} channels of the layer that ends at '{layer.value}' and needs a combination "
                f"of the {width} before it, but {'none' if combination is None else tuple(combination.shape)} was given"
            )
    draft = draft_of(graph)
    shift: dict[str, torch.Tensor] = {}
    for channel in range(space.size if layer.reads else 0):
        means = {node: mean[channel] for node, mean in morphism.means.items()}
        for param, delta in mean_shift(graph, space, channel, means).items():
            shift[param] = shift[param] + delta if param in shift else delta
    for param, delta in shift.items():
        draft.set_param(param, replace(graph.params[param], data=graph.params[param].data + delta))
    for slot in layer.reads:
        weight = _recombined(draft.params[slot.param].data, slot, morphism.weights[slot.param])
        draft.set_param(slot.param, replace(graph.params[slot.param], data=weight))
    _bypass(draft, graph, spaces, layer)
    draft.remove_unread(layer.nodes)
    shallower = draft.commit()
    gathers = {slot.param: (_forgotten(graph, slot, space.size, width),) for slot in layer.reads}
    return Rewritten(replace(shallower, params=_read_still(graph, shallower)), {}, gathers)


def removable_layer(graph: Graph, spaces: ChannelSpaces, value: str) -> RemovableLayer:
    """The removable layer whose result is a value; O(#nodes).

    Args:
        graph: where it is looked for.
        spaces: of `graph`.
        value: name of the node that it ends at.

    Raises:
        PassError: there is none.
    """
    for layer in _ending_at(graph, spaces, (value,)):
        return layer
    known = ", ".join(layer.value for layer in removable_layers(graph, spaces))
    raise PassError(
        f"no layer of '{graph.name}' that ends at '{value}' can be removed; those that can end at {known or 'no value'}"
    )


def reading_without(graph: Graph, spaces: ChannelSpaces, layer: RemovableLayer) -> Graph:
    """A graph that returns what the weights of `layer.reads` would read without it, a tuple in their order.

    Args:
        graph: the network with the layer.
        spaces: of `graph`.
        layer: one of its removable layers.
    """
    draft = draft_of(graph)
    _bypass(draft, graph, spaces, layer)
    return _returning(draft, graph, layer.reads)


def reading(graph: Graph, layer: RemovableLayer) -> Graph:
    """A graph that returns what the weights of `layer.reads` read, a tuple in their order."""
    return _returning(draft_of(graph), graph, layer.reads)


def _between(graph: Graph, spaces: ChannelSpaces, before: CutPoint, point: CutPoint) -> Iterator[RemovableLayer]:
    nodes = nodes_between(graph, before.value, point.value)
    inside = [graph.nodes[name] for name in nodes]
    own, source = (spaces.layouts[p.value, p.axis] for p in (point, before))
    alike = before.axis == point.axis and _apart(before) == _apart(point) and before.type.dtype == point.type.dtype
    if not alike or not any(multiplies(graph, node) for node in inside) or any(n.name in graph.inputs for n in inside):
        return
    if own == source:
        yield RemovableLayer(point.value, before.value, nodes, own[0][0], own[0][0], ())
        return
    if len(own) != 1 or len(source) != 1 or own[0][2] != source[0][2] or own[0][0] == source[0][0]:
        return
    space = spaces[own[0][0]]
    reads = tuple(slot for slot in space.slots if slot.role is Role.CONSUME)
    if space.frozen is not None or not all(_dense(graph, slot) for slot in reads):
        return
    if len({slot.param for slot in reads}) < len(reads) or any(slot.node in nodes for slot in reads):
        return
    if any(slot.node not in nodes for slot in space.slots if slot.role is not Role.CONSUME):
        return
    if not nodes.issuperset(spaces.counters.get(space.name, ())):  # statistics of others are no combination of them
        return
    layer = RemovableLayer(point.value, before.value, nodes, space.name, source[0][0], reads)
    try:
        reading_without(graph, spaces, layer)
    except IRError:  # something between the two and a reader does not take that many channels
        return
    yield layer


def _of_tokens(graph: Graph, spaces: ChannelSpaces, before: str, value: str) -> Iterator[RemovableLayer]:
    """The block between two values of several channel axes, all of which they share."""
    laid = laid_out(graph, spaces, value)
    if (
        len(laid) < 2
        or laid != laid_out(graph, spaces, before)
        or graph.nodes[before].type != graph.nodes[value].type
        or value in graph.outputs
    ):
        return
    nodes = nodes_between(graph, before, value)
    if any(multiplies(graph, graph.nodes[name]) for name in nodes) and nodes.isdisjoint(graph.inputs):
        space = laid[max(laid)][0][0]
        yield RemovableLayer(value, before, nodes, space, space, ())


def laid_out(graph: Graph, spaces: ChannelSpaces, value: str) -> dict[int, tuple[tuple[str, int, int], ...]]:
    """The channel axes of a value, with their layouts.

    Args:
        graph: has the value.
        spaces: of `graph`.
        value: name of its node.
    """
    axes = range(len(graph.nodes[value].shape))
    return {axis: spaces.layouts[value, axis] for axis in axes if (value, axis) in spaces.layouts}


def multiplies(graph: Graph, node: Node) -> bool:
    """Whether a node is a layer: it multiplies, by a weight or values by values.

    Args:
        graph: has the node.
        node: one of its nodes.
    """
    return uses_of(graph, node.name) > 0 or bool(products_of(graph, node.name))


def _scopes(path: str) -> tuple[str, ...]:
    """A module and those that it lies in, but for the network itself."""
    parts = path.split(".") if path else []
    return tuple(".".join(parts[:length]) for length in range(1, len(parts) + 1))


def _apart(point: CutPoint) -> tuple[object, ...]:
    """Sizes of a value but for its channels."""
    return tuple(size for axis, size in enumerate(point.type.shape) if axis != point.axis)


def _dense(graph: Graph, slot: Slot) -> bool:
    """Whether a weight that reads channels belongs to one layer, whose every output sees all of them."""
    node = graph.nodes[slot.node]
    alone = len(graph.readers(slot.param)) == 1 and node.params.get("weight") == slot.param
    return alone and lookup(node.op).is_dense(node)


def _recombined(weight: torch.Tensor, slot: Slot, combination: torch.Tensor) -> torch.Tensor:
    """A weight that reads P channels where it read C, by a combination [C, P] of them."""
    size, axis = len(combination), slot.axis
    start, end = slot.offset, slot.offset + size * slot.inner
    moved = weight.movedim(axis, 0)
    part = moved[start:end].reshape(size, -1)
    rebuilt = (combination.to(part).T @ part).view(-1, *moved.shape[1:])
    return torch.cat([moved[:start], rebuilt, moved[end:]]).movedim(0, axis).contiguous()


def _forgotten(graph: Graph, slot: Slot, size: int, width: int) -> Gather:
    """The gather that keeps what a weight reads beside the slot, and takes `width` channels for new in place of `size`."""
    weight = graph.params[slot.param].data
    start, end, length = slot.offset, slot.offset + size * slot.inner, weight.shape[slot.axis]
    new = torch.full((width * slot.inner,), NEW)
    index = torch.cat([torch.arange(start), new, torch.arange(end, length)]).to(weight.device)
    ones = torch.ones(len(index), dtype=torch.float64).to(weight.device)
    return Gather(slot.axis, index, ones, ones)


def _bypass(draft: Draft, graph: Graph, spaces: ChannelSpaces, layer: RemovableLayer) -> None:
    """Let everything that reads the layer's result read what the layer read; integers that are widths follow."""
    draft.replace_uses(layer.value, layer.source)
    sizes = {space.name: space.size for space in spaces}
    follow_widths(draft, graph, spaces, {**sizes, layer.space: sizes[layer.source_space]})


def _returning(draft: Draft, graph: Graph, slots: Iterable[Slot]) -> Graph:
    draft.set_output(tuple(Ref(draft.node(slot.node).inputs[0]) for slot in slots))
    draft.remove_unread(name for name in graph.nodes if name not in graph.inputs)
    return draft.commit()


def _read_still(before: Graph, after: Graph) -> Mapping[str, Parameter]:
    """The parameters of a graph but for those that only nodes read that are gone; aliases keep their places."""
    kept = {name: p for name, p in after.params.items() if after.readers(name) or not before.readers(name)}
    owner = {alias: name for name, p in before.params.items() for alias, _ in p.aliases}
    return in_order(kept, [key for key in keys_of(before.params) if owner.get(key, key) in kept])
