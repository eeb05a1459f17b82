"""Weight surgery: channel maps on spaces become new parameters. O(size of the touched parameters)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from gngraph.analysis.channels import ChannelSpaces, Role, Slot
from gngraph.errors import IRError
from gngraph.ir import Draft, Graph, Node, OpaqueType
from gngraph.ir.types import refs_in, with_integer, with_values
from gngraph.ops import draft_of, lookup, operands_of
from gngraph.ops.norm_across import of_one_group
from gngraph.ops.products import with_scale
from gngraph.ops.read_sizes import settled
from gngraph.ops.reductions import reduced_axes, with_number
from gngraph.rewrite.channel_map import NEW, ChannelMap
from gngraph.rewrite.computed_weights import computing, give_weight, plain_weights
from gngraph.rewrite.counting import Stream, count_only, kept_entries, scaled_eps, stream_of


@dataclass(frozen=True)
class SpaceEdit:
    """What happens to one channel space.

    Attributes:
        map: where its channels come from.
        rows: parameter -> {channel after: tensor added to its entries}, for parameters that write or accompany the space.
            A row has the parameter's shape *before* the rewrite, with the space's axis reduced to the entries that the
            channel owns there, slot by slot. For new channels it replaces the default start.
        out: the same for parameters that read the space: what new channels start with there, instead of zero. Copies of
            what the reader writes read alike.
        shift: parameter -> tensor of its shape before the rewrite, added before anything else (folded means).
    """

    map: ChannelMap
    rows: Mapping[str, Mapping[int, torch.Tensor]] = field(default_factory=dict)
    out: Mapping[str, Mapping[int, torch.Tensor]] = field(default_factory=dict)
    shift: Mapping[str, torch.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Gather:
    """How one axis of a parameter is rebuilt: entry j comes from entry index[j] (-1: new), scaled by factor[j].

    `backward[j]` is the factor on the gradient: copies of a written channel receive 1/m of the gradient each, copies of a
    read channel the whole. It scales optimiser state that is linear in the gradient (momentum).
    """

    axis: int
    index: torch.Tensor
    factor: torch.Tensor
    backward: torch.Tensor


@dataclass(frozen=True)
class Rewritten:
    """A rewritten graph, and what became of parameters, for the optimiser's state.

    Attributes:
        graph: the new one.
        edits: that were made, by channel space.
        gathers: parameter -> how it was rebuilt.
        copies: new parameter -> the one that it starts as a copy of.
        rounded: whether a norm counts new channels, by a scale that is rounded to the network's precision.
    """

    graph: Graph
    edits: Mapping[str, SpaceEdit]
    gathers: Mapping[str, tuple[Gather, ...]]
    copies: Mapping[str, str] = field(default_factory=dict)
    rounded: bool = False


def rewrite(
    graph: Graph, spaces: ChannelSpaces, edits: Mapping[str, SpaceEdit], generator: torch.Generator | None = None
) -> Rewritten:
    """Apply one edit a space to `graph`, all numbered as before the rewrite; the spaces do not interfere.

    New channels start with random in-weights (standard deviation of the parameter's own entries) and zero out-weights,
    unless a row says otherwise. Buffers that accompany channels, such as statistics, copy those of a channel. The padding row
    of an embedding, which nothing learns, stays as it is, and is zero in new channels, whatever a row says.

    Where a norm counts the channels, the writers of a new one start at the mean of theirs, or at zero (see
    `gngraph.rewrite.counting`); with rows of its own, and where a channel is split, the norm goes on counting what it counted.

    Of a layer that computes its weight, rows and shifts are those of the weight that it multiplies by.

    Args:
        graph: before the rewrite.
        spaces: of `graph`.
        edits: by the names of spaces.
        generator: of the CPU, for new in-weights; default: seed 0.

    Raises:
        FrozenSpaceError: a space is frozen.
        IRError: a map does not fit its space.
    """
    generator = generator if generator is not None else torch.Generator().manual_seed(0)
    for name, edit in edits.items():
        space = spaces.require_free(name)
        if edit.map.size != space.size:
            raise IRError(f"channel space '{name}' has {space.size} channels, but its map is for {edit.map.size}")
    draft = draft_of(graph)
    gathers: dict[str, list[Gather]] = {}
    known: dict[tuple[object, ...], Gather] = {}
    shifts: dict[str, torch.Tensor] = {}
    for edit in edits.values():
        for param, shift in edit.shift.items():
            shifts[param] = shifts[param] + shift if param in shifts else shift
    # Axes that read before those that write: what reads new channels is zero in the channels that were there, and random in new
    # ones, which nothing reads yet.
    touched = sorted(_touched(spaces, edits), key=lambda key: (key[0], not _is_reader(spaces, key), key[1]))
    plain = plain_weights(graph, _reweighted(graph, spaces, edits))
    data = {param: plain.get(param, graph.params[param].data) + shifts[param] for param in shifts}
    streams = {name: stream for name, edit in edits.items() if (stream := _stream(graph, spaces, name, edit))}
    scales = {p: edits[name].map.shrunken() ** 0.5 for name, stream in streams.items() for p in stream.scales}
    for param, axis in touched:
        entries = spaces.axes[param, axis]
        tensor = data.get(param, plain.get(param, graph.params[param].data))
        key = (tensor.shape[axis], tensor.device, *((n, s.offset, s.inner, s.role) for n, s in entries if n in edits))
        if key not in known:  # the parameters of a BatchNorm, for one, are gathered alike
            known[key] = _gather(entries, edits, axis, tensor.shape[axis], tensor.device)
        gather = replace(known[key], axis=axis)
        if param in scales:
            gather = replace(gather, factor=gather.factor * scales[param], backward=gather.backward / scales[param])
        earlier = gathers.setdefault(param, [])
        data[param] = _rebuild(tensor, gather, entries, edits, generator, earlier, streams)
        means = any(name in streams and streams[name].start_of(slot) == "mean" for name, slot in entries)
        for row in padding_rows(graph, param) if not means else ():
            data[param][row] = _follow(tensor[row], [replace(gather, axis=axis - 1)])
        earlier.append(gather)
    for param, tensor in data.items():
        if param not in plain:
            draft.set_param(param, replace(graph.params[param], data=tensor))
    for param in plain:
        said = any(param in edit.rows for edit in edits.values())
        said = said or any(param == written for stream in streams.values() for written, _ in stream.written)
        _give_weight(draft, graph, param, data[param], gathers.get(param, []), drawn=not said)
    widths = {s.name: len(edits[s.name].map.source) if s.name in edits else s.size for s in spaces}
    follow_widths(draft, graph, spaces, widths)
    for name, stream in streams.items():
        for norm in stream.norms:
            draft.set_attrs(norm, **scaled_eps(graph.nodes[norm], edits[name].map.shrunken()))
    counted = {name: edit.map.first() for name, edit in edits.items() if name not in streams}
    for name in spaces.counted:
        if kept := kept_entries(graph, spaces, name, counted):
            count_only(draft, draft.node(name), kept)
    rebuilt = {param: tuple(items) for param, items in gathers.items()}
    return Rewritten(draft.commit(), edits, rebuilt, rounded=bool(streams))


def follow_widths(draft: Draft, graph: Graph, spaces: ChannelSpaces, widths: Mapping[str, int]) -> None:
    """Set the integer attributes that are widths in disguise to what they are at other widths of the spaces.

    A number takes the place of a size from which it parts there; sizes that nothing reads then go.

    Args:
        draft: of `graph`; its attributes are set.
        graph: before the rewrite.
        spaces: of `graph`, which know where its attributes are widths.
        widths: of every space after the rewrite, by name.
    """
    before, unread = {space.name: space.size for space in spaces}, False
    for name, measures in spaces.measures.items():
        old = graph.nodes[name].attrs
        attrs = dict(old)
        for measure in measures:
            attr, inside = str(measure.path[0]), measure.path[1:]
            if measure.size is None or measure.parts_from_size(before, widths):
                attrs[attr] = with_integer(attrs[attr], inside, measure.value(widths))
        if attrs != old:
            gone = set(refs_in(tuple(old.values()))).difference(refs_in(tuple(attrs.values())))
            node, unread = draft.node(name), unread or bool(gone)
            op, attrs = of_one_group(node.op, {**node.attrs, **attrs})
            draft.put(replace(node, op=op, inputs=tuple(i for i in node.inputs if i not in gone), attrs=attrs))
    for node in graph.nodes.values():
        number = settled(draft.node(node.name))
        for user in graph.users(node.name) if number is not None else ():
            read = draft.node(user)
            attrs = {key: with_values(attr, {node.name: number}) for key, attr in read.attrs.items()}
            draft.put(replace(read, inputs=tuple(i for i in read.inputs if i != node.name), attrs=attrs))
        if node.op == "attention":
            query = graph.nodes[node.inputs[0]]
            last, entries = len(query.shape) - 1, int(query.shape[-1])
            if _length(spaces, query.name, last, widths) != _length(spaces, query.name, last, before):
                draft.put(with_scale(draft.node(node.name), entries))
        if node.op == "mean":  # of products that one side reads, along an axis that is not counted
            source, counted = graph.nodes[node.inputs[0]], spaces.counted.get(node.name, ())
            axes = reduced_axes(operands_of(node, (source.type,), {}))
            lengths = (
                [_length(spaces, source.name, a, sizes) for a in axes if a not in counted] for sizes in (before, widths)
            )
            if next(lengths) != next(lengths):
                entries = math.prod(int(source.shape[axis]) for axis in axes)
                summed, divided = with_number(draft.node(node.name), entries, draft.fresh_name(f"{node.name}_sum"))
                draft.add(summed, after=summed.inputs[0])
                draft.put(divided)
    if unread:
        draft.remove_unread(node.name for node in graph.nodes.values() if isinstance(node.type, OpaqueType))


def _length(spaces: ChannelSpaces, value: str, axis: int, widths: Mapping[str, int]) -> int:
    """Entries of an axis of a value that belong to spaces, at widths of these."""
    return sum(widths[name] * inner for name, _, inner in spaces.layouts.get((value, axis), ()))


def carry(tensor: torch.Tensor, gathers: tuple[Gather, ...], power: int) -> torch.Tensor:
    """Optimiser state of a parameter after a rewrite; new entries start at 0.

    Args:
        tensor: state of the parameter's shape before.
        gathers: the parameter's entry of `Rewritten.gathers`.
        power: 1 for state linear in the gradient (momentum), 2 for squares (Adam's second moment).
    """
    for gather in gathers:
        tensor = tensor.index_select(gather.axis, gather.index.clamp(min=0).to(tensor.device))
        factor = torch.where(gather.index < 0, torch.zeros_like(gather.backward), gather.backward**power)
        tensor = tensor * _along(factor.to(tensor), gather.axis, tensor.dim())
    return tensor


def padding_rows(graph: Graph, param: str) -> tuple[int, ...]:
    """The rows of a parameter that no gradient reaches (see `OpSpec.padding_row`)."""
    readers = [graph.nodes[node] for node, role in graph.readers(param) if role == "weight"]
    rows = (lookup(reader.op).padding_row(reader) for reader in readers)
    return tuple(row for row in rows if row is not None)


def _reweighted(graph: Graph, spaces: ChannelSpaces, edits: Mapping[str, SpaceEdit]) -> set[str]:
    """Parameters from which a layer computes its weight, of which not whole filters alone come and go, or that share something."""
    layers = computing(graph)
    given = {param for edit in edits.values() for table in (edit.rows, edit.out, edit.shift) for param in table}
    slots = [
        slot
        for name in edits
        for slot in spaces[name].slots
        if slot.axis or slot.role is Role.CONSUME or name in spaces.counters or _shares(layers.get(slot.param))
    ]
    return (given | {slot.param for slot in slots}).intersection(layers)


def _shares(layer: Node | None) -> bool:
    """Whether the filters of a layer's weight have a parameter in common."""
    computed = lookup(layer.op).computed if layer is not None else None
    return computed is not None and not computed.shared.isdisjoint(layer.params if layer is not None else ())


def _give_weight(
    draft: Draft, graph: Graph, param: str, weight: torch.Tensor, gathers: list[Gather], *, drawn: bool
) -> None:
    """Let the layer of `param` compute a weight, whose new filters have no mean where they are `drawn` and none has one."""
    layer = computing(graph)[param]
    computed = lookup(layer.op).computed
    filters = next((gather.index for gather in gathers if gather.axis == 0), torch.arange(len(weight)))
    if drawn and computed is not None and computed.centred:
        rows = weight.flatten(1)
        new = (filters < 0).to(weight.device).unsqueeze(1)
        weight = torch.where(new, rows - rows.mean(1, keepdim=True), rows).view_as(weight)
    followed = _follow(graph.params[param].data, gathers)
    give_weight(draft, graph, layer, weight, filters.clamp(min=0), followed)


def _touched(spaces: ChannelSpaces, edits: Mapping[str, SpaceEdit]) -> set[tuple[str, int]]:
    return {(slot.param, slot.axis) for name in edits for slot in spaces[name].slots}


def _stream(graph: Graph, spaces: ChannelSpaces, name: str, edit: SpaceEdit) -> Stream | None:
    """How a space gets its new channels, where norms count them and nothing is copied or starts as a row says."""
    new = {channel for channel, source in enumerate(edit.map.source) if source == NEW}
    if not new or len(edit.map.stays()) + len(new) < len(edit.map.source):
        return None
    stream = stream_of(graph, spaces, name)
    return None if any(not new.isdisjoint(rows) for rows in edit.rows.values()) else stream


def _is_reader(spaces: ChannelSpaces, key: tuple[str, int]) -> bool:
    return spaces.axes[key][0][1].role is Role.CONSUME


def _gather(
    entries: tuple[tuple[str, Slot], ...],
    edits: Mapping[str, SpaceEdit],
    axis: int,
    length: int,
    device: torch.device,
) -> Gather:
    index: list[torch.Tensor] = []
    factor: list[torch.Tensor] = []
    backward: list[torch.Tensor] = []

    def keep(start: int, end: int) -> None:
        if end > start:
            index.append(torch.arange(start, end))
            factor.append(torch.ones(end - start, dtype=torch.float64))
            backward.append(factor[-1])

    done = 0
    for name, slot in entries:
        if name not in edits:
            continue
        channel_map = edits[name].map
        keep(done, slot.offset)
        done = slot.offset + channel_map.size * slot.inner
        source = torch.tensor(channel_map.source).unsqueeze(1)
        spread = torch.where(source == NEW, NEW, source * slot.inner + slot.offset + torch.arange(slot.inner))
        index.append(spread.flatten())
        weight = torch.tensor(channel_map.weight, dtype=torch.float64).repeat_interleave(slot.inner)
        reads = slot.role is Role.CONSUME
        factor.append(weight if reads else torch.ones_like(weight))
        backward.append(torch.ones_like(weight) if reads else weight)
    keep(done, length)
    return Gather(axis, *(torch.cat(parts).to(device) for parts in (index, factor, backward)))


def _along(vector: torch.Tensor, axis: int, rank: int) -> torch.Tensor:
    return vector.view([-1 if i == axis else 1 for i in range(rank)])


def _rebuild(
    tensor: torch.Tensor,
    gather: Gather,
    entries: tuple[tuple[str, Slot], ...],
    edits: Mapping[str, SpaceEdit],
    generator: torch.Generator,
    earlier: list[Gather],
    streams: Mapping[str, Stream],
) -> torch.Tensor:
    result = tensor.index_select(gather.axis, gather.index.clamp(min=0))
    if bool((gather.factor != 1).any()):
        result = result * _along(gather.factor.to(result.dtype), gather.axis, result.dim())
    fresh = _Fresh(tensor, generator)
    grown = 0  # entries by which the axis is longer than before, up to the slot at hand
    used = dict.fromkeys(edits, 0)  # entries of each row that earlier slots took
    for name, slot in entries:
        edit = edits.get(name)
        if edit is None:
            continue
        reads = slot.role is Role.CONSUME
        rows = (edit.out if reads else edit.rows).get(slot.param, {})
        new = {channel for channel, source in enumerate(edit.map.source) if source == NEW}
        start = streams[name].start_of(slot) if name in streams else None
        for channel in sorted(new.union(rows)):
            view = result.narrow(gather.axis, slot.offset + grown + channel * slot.inner, slot.inner)
            if channel in rows:
                row = _follow(rows[channel].narrow(gather.axis, used[name], slot.inner).to(view), earlier)
                view.copy_(row) if channel in new else view.add_(row)
            elif start == "mean":
                view.copy_(_mean(result, gather.axis, slot, grown, edit.map))
            else:
                started = start or ("zeros" if reads else slot.fresh)
                view.copy_(fresh.entries(view, slot, started, channel % edit.map.size))
        used[name] += slot.inner
        grown += (len(edit.map.source) - edit.map.size) * slot.inner
    return result


def _mean(result: torch.Tensor, axis: int, slot: Slot, grown: int, channel_map: ChannelMap) -> torch.Tensor:
    """Entries of a new channel that are the mean of those of the channels that were there."""
    own = result.narrow(axis, slot.offset + grown, len(channel_map.source) * slot.inner)
    stays = torch.tensor(channel_map.stays()).unsqueeze(1) * slot.inner + torch.arange(slot.inner)
    rows = own.index_select(axis, stays.flatten().to(result.device))
    return rows.reshape(*rows.shape[:axis], -1, slot.inner, *rows.shape[axis + 1 :]).mean(axis)


def _follow(row: torch.Tensor, earlier: list[Gather]) -> torch.Tensor:
    """A row of the shape before, as the other axes are by now; 0 where they are new."""
    for gather in earlier:
        factor = gather.factor * (gather.index >= 0)
        row = row.index_select(gather.axis, gather.index.clamp(min=0)) * _along(factor.to(row), gather.axis, row.dim())
    return row


class _Fresh:
    """Entries of new channels of a weight, at zero, at one, at random, or like a `model`."""

    def __init__(self, tensor: torch.Tensor, generator: torch.Generator) -> None:
        self._tensor, self._generator = tensor, generator

    def entries(self, view: torch.Tensor, slot: Slot, start: str, model: int) -> torch.Tensor:
        if start == "zeros":
            return torch.zeros_like(view)
        if start == "ones":
            return torch.ones_like(view)
        if start == "copied":
            return self._tensor.narrow(slot.axis, slot.offset + model * slot.inner, slot.inner)
        return torch.randn(view.shape, generator=self._generator).to(view) * self._spread

    @cached_property
    def _spread(self) -> float:
        """Of the whole weight, once for all of its new channels."""
        spread = float(self._tensor.float().std()) if self._tensor.numel() > 1 else 0.0
        return spread or 1.0 / max(1, self._tensor[0].numel()) ** 0.5
