"""Ops that regroup axes: flatten, reshape, unflatten, expand. Widths in their shapes follow the channel spaces.

A reshape falls into groups of neighbouring axes with equal products. In each group the old axes are merged to one axis, row
by row, and that axis is spread over the new ones, one of which carries the channels. The groups, and which axis carries, are
chosen by the sizes at import and held in the attribute `regroup`: chosen anew, they would change where sizes come to agree.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

from gngraph.errors import IRError
from gngraph.ir import BATCH, Attr, Dim, Node, Ref, TensorType, Type
from gngraph.ops.rules import emit_simple, freeze_inputs, read_attrs
from gngraph.ops.sizes import factors, hold_size, known_size, product, quotient, size_layout
from gngraph.ops.spec import Call, ChannelRules, Emitter, Layout, Operands, OpSpec, signature
from gngraph.ops.table import register
from gngraph.ops.traits import with_first

REPETITIONS = 256
"""Most entries of an axis in front of a channel axis that flattening may repeat the channels for (each is a slot)."""


def merged_layout(rules: ChannelRules, operands: Operands, axes: Sequence[int]) -> Layout | None:
    """Layout of the row-major product of `axes` of the first input; where samples are among them, that of one sample.

    The first axis with channels that may change, of more than one where there are such, keeps them: entries behind it become
    entries of each channel, constant axes in front repeat its layout. A second axis with channels would interleave, and is
    frozen.

    Args:
        rules: of the analysis under way.
        operands: the node.
        axes: of its first input, in order, neighbours.
    """
    shape = operands.tensor().shape
    entries = [factors(shape[axis])[0] for axis in axes]  # of one sample
    found = [axis for axis in axes if rules.layout(0, axis) is not None and shape[axis] != BATCH]
    if not found:
        return None
    able = [axis for axis in found if shape[axis] != 1] or found
    first = next((axis for axis in able if not rules.held(rules.layout(0, axis))), able[0])
    for axis in found:
        if axis != first:
            rules.freeze(rules.layout(0, axis), "it is flattened together with another axis with channels")
    layout = rules.layout(0, first)
    if not _samples_first([shape[axis] for axis in axes]):
        rules.freeze(layout, "it is flattened with the batch axis behind other axes")
        return None
    times, inner = (math.prod(part) for part in (entries[: first - axes[0]], entries[first - axes[0] + 1 :]))
    if times > REPETITIONS:
        rules.freeze(layout, f"it is flattened behind an axis of {times} entries")
        return None
    assert layout is not None
    return tuple(type(s)(s.var, s.size, s.inner * inner) for s in layout) * times


def _samples_first(dims: Sequence[Dim]) -> bool:
    """Whether samples stand before all else in the product of some axes, or in none of them."""
    real = [isinstance(dim, str) for dim in dims if dim != 1]
    return not any(real[1:])


def flatten_span(operands: Operands) -> tuple[int, int]:
    """The first and the last of the axes that a flatten merges.

    Args:
        operands: the flatten.
    """
    rank = len(operands.tensor().shape)
    return operands.node.attrs["start_dim"] % rank, operands.node.attrs["end_dim"] % rank


def _infer_flatten(operands: Operands) -> Type:
    x = operands.tensor()
    start, end = flatten_span(operands)
    return TensorType(x.dtype, (*x.shape[:start], product(*x.shape[start : end + 1]), *x.shape[end + 1 :]))


def _flatten_channels(rules: ChannelRules, operands: Operands) -> None:
    start, end = flatten_span(operands)
    for axis in range(start):
        rules.set(axis, rules.layout(0, axis))
    rules.set(start, merged_layout(rules, operands, range(start, end + 1)))
    for axis in range(end + 1, len(operands.tensor().shape)):
        rules.set(axis - (end - start), rules.layout(0, axis))


_FLATTEN = Call(signature("input start_dim=0 end_dim=-1"))
register(
    OpSpec(
        "flatten",
        _infer_flatten,
        _flatten_channels,
        emit_simple(nn.Flatten, torch.flatten),
        channelwise=True,
        linear=True,
        nonnegative=with_first,
        rearranges=True,
        modules={nn.Flatten: read_attrs("start_dim", "end_dim")},
        functions={torch.flatten: _FLATTEN, "flatten": _FLATTEN},
    )
)


def _unflattened(node: Node) -> range:
    """The new axes that `unflatten` spreads one axis over; all others are None in the shape, and stay as they are."""
    given = [axis for axis, entry in enumerate(node.attrs["shape"]) if entry is not None]
    if not given or len(given) != given[-1] - given[0] + 1:
        raise IRError(
            f"node '{node.name}' (reshape) must spread one axis over neighbouring new ones, which its shape gives"
        )
    return range(given[0], given[-1] + 1)


def _reshaped(operands: Operands) -> tuple[Dim, ...]:
    x, node = operands.tensor(), operands.node
    old, entries = x.shape, node.attrs["shape"]
    if node.attrs["method"] == "unflatten":
        axes = _unflattened(node)
        if len(entries) - len(axes) + 1 != len(old):
            raise IRError(f"node '{node.name}' (reshape) cannot bring '{x}' into the shape {entries}")
        spread = _of_entries(operands, (old[axes.start],), entries[axes.start : axes.stop])
        return (*old[: axes.start], *spread, *old[axes.start + 1 :])
    return _of_entries(operands, old, entries)


def _of_entries(operands: Operands, old: Sequence[Dim], entries: Sequence[Attr]) -> tuple[Dim, ...]:
    """The sizes of new axes for those of old ones; one may be -1."""
    node = operands.node
    dims = [known_size(entry, operands) for entry in entries]
    if None in dims:
        raise IRError(f"node '{node.name}' (reshape) takes a shape that is not known when the network is traced")
    given = [d for d in dims if d is not None and d != -1]
    rest = quotient(product(*old), product(*given))
    shape = tuple(given) if len(given) == len(dims) else tuple(rest if d == -1 else d for d in dims)
    if rest is None or None in shape or (len(given) == len(dims) and rest != 1):
        raise IRError(f"node '{node.name}' (reshape) cannot bring '{operands.tensor()}' into the shape {tuple(dims)}")
    return tuple(d for d in shape if d is not None)


def _infer_reshape(operands: Operands) -> Type:
    old, new = operands.tensor().shape, _reshaped(operands)
    for before, behind, _ in _regrouped(operands, new):
        if factors(*(old[axis] for axis in before)) != factors(*(new[axis] for axis in behind)):
            raise IRError(
                f"node '{operands.node.name}' (reshape) cannot regroup the axes {before} of {old} as {behind} of {new}"
            )
    return TensorType(operands.tensor().dtype, new)


def _regrouped(operands: Operands, new: Sequence[Dim]) -> list[tuple[range, range, int]]:
    """For each group its axes before and behind, and which of those behind carries the channels, from `regroup`."""
    node, groups = operands.node, operands.node.attrs.get("regroup")
    i = j = 0
    found: list[tuple[range, range, int]] = []
    wrong = not isinstance(groups, tuple)
    for group in groups if isinstance(groups, tuple) else ():
        if not (isinstance(group, tuple) and len(group) == 3 and all(isinstance(n, int) for n in group)):
            wrong = True
            break
        before, behind, carrier = group
        wrong = wrong or before < 1 or not 0 <= carrier < behind
        found.append((range(i, i + before), range(j, j + behind), j + carrier))
        i, j = i + before, j + behind
    if wrong or (groups and (i, j) != (len(operands.tensor().shape), len(new))):
        raise IRError(
            f"node '{node.name}' (reshape) needs an attribute 'regroup' that divides its axes into groups, each as (axes "
            f"before, axes behind, which of those carries the channels); import the network again"
        )
    return found


def regrouping(operands: Operands) -> tuple[tuple[int, int, int], ...]:
    """The attribute `regroup` of a reshape, chosen by its sizes: a tuple (axes before, axes behind, carrier) for each group.

    Which of the axes behind carries the channels is a choice: any would be exact, but only one can be free. It is one that
    holds them all; else the one whose size follows from the others (-1, but of `unflatten`); else one whose size the forward
    computes; else the first, or the second of three and more where the first counts two to four parts (query, key and value). ()
    where the axes do not fall into groups.

    Raises:
        IRError: the shape is not known, or does not fit.
    """
    new, entries = _reshaped(operands), operands.node.attrs["shape"]
    unflattens = operands.node.attrs["method"] == "unflatten"
    result: list[tuple[int, int, int]] = []
    for before, behind in _groups(operands.tensor().shape, new) or ():
        dims = [factors(new[axis])[0] for axis in behind]  # of one sample
        real = [i for i, dim in enumerate(dims) if dim != 1] or [0]
        parts = len(real) > 2 and dims[real[0]] <= 4
        chosen = real if len(real) == 1 else []
        if not unflattens:
            chosen += [i for i in real if entries[behind[i]] == -1]
        chosen += [i for i in real if isinstance(entries[behind[i]], Ref)]
        result.append((len(before), len(behind), [*chosen, real[1] if parts else real[0]][0]))
    return tuple(result)


def regrouped(operands: Operands) -> list[tuple[range, range]]:
    """The axes before and behind of each group of a reshape; none where its axes do not fall into groups.

    Args:
        operands: the reshape.
    """
    return [(before, behind) for before, behind, _ in _regrouped(operands, _reshaped(operands))]


def carrying(operands: Operands, axis: int) -> tuple[Attr, range]:
    """The attribute `regroup` of a reshape with `axis` of its value as the carrier of its group, and that group's axes before.

    Args:
        operands: the reshape.
        axis: of its value, counted from 0.
    """
    groups, before = [], range(0)
    for old, new, carrier in _regrouped(operands, _reshaped(operands)):
        before, carrier = (old, axis) if axis in new else (before, carrier)
        groups.append((len(old), len(new), carrier - new.start))
    return tuple(groups), before


def inside(operands: Operands, axis: int) -> int | None:
    """The last axis of a reshape's value that lies within `axis` in one axis of what is reshaped, as a head's entries do in a head.

    Args:
        operands: the reshape.
        axis: of its value, counted from 0; None is given where it carries no channels, or is the last of its group.
    """
    new = _reshaped(operands)
    for old, axes, carrier in _regrouped(operands, new):
        if carrier == axis and len(old) == 1 and axes[-1] != axis and isinstance(new[axis], int):
            return axes[-1]
    return None


def sparing(operands: Operands, axis: int) -> tuple[Attr, ...]:
    """The attribute `regroup` of a reshape with another carrier than `axis` of its value, where its group has one.

    Args:
        operands: the reshape.
        axis: of its value, counted from 0, such as one of which entries are taken by their number.
    """
    groups, new = [], _reshaped(operands)
    for old, axes, carrier in _regrouped(operands, new):
        others = [other for other in axes if other != axis and new[other] != 1]
        groups.append((len(old), len(axes), (others[0] if carrier == axis and others else carrier) - axes.start))
    return tuple(groups)


def _groups(old: Sequence[Dim], new: Sequence[Dim]) -> list[tuple[list[int], list[int]]] | None:
    """Neighbouring axes before and after with equal products, as short as they can be; axes of 1 go with the last."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(old) and j < len(new):
        a, b = i + 1, j + 1
        while factors(*old[i:a]) != factors(*new[j:b]):
            left, right = product(*old[i:a]), product(*new[j:b])
            if a < len(old) and (quotient(left, right) is None or b == len(new)):
                a += 1
            elif b < len(new):
                b += 1
            else:
                return None
        groups.append((list(range(i, a)), list(range(j, b))))
        i, j = a, b
    if groups:
        groups[-1][0].extend(range(i, len(old)))
        groups[-1][1].extend(range(j, len(new)))
    return groups


def _reshape_channels(rules: ChannelRules, operands: Operands) -> None:
    new = _reshaped(operands)
    groups = _regrouped(operands, new)
    if not groups:
        freeze_inputs(rules, operands, "it is reshaped across its channels")
        return
    for before, behind, carrier in groups:
        _spread(rules, operands, merged_layout(rules, operands, before), behind, carrier, new)


def _spread(
    rules: ChannelRules, operands: Operands, layout: Layout | None, axes: range, carrier: int, new: Sequence[Dim]
) -> None:
    """Lay an axis with `layout` out over the new axes `axes`, one of which carries the channels.

    An axis whose size the forward computes from these channels (C // groups) carries them in place of `carrier`.
    """
    entries = operands.node.attrs["shape"]
    own = {segment.var for segment in layout or ()}
    sizes = {axis: size_layout(rules, operands, entries[axis]) or () for axis in axes}
    carrier = next((axis for axis in axes if not own.isdisjoint(s.var for s in sizes[axis])), carrier)
    carried: Layout | None = None
    if layout is not None and _samples_first([new[axis] for axis in axes]):
        number = {axis: factors(new[axis])[0] for axis in axes}  # of entries of one sample
        outer, inner = (
            math.prod(number[axis] for axis in part)
            for part in (range(axes.start, carrier), range(carrier + 1, axes.stop))
        )
        reason = "it is reshaped across its channels"
        parts = rules.divide(layout, [inner * number[carrier]] * outer, reason)
        part = rules.unify(parts) if parts[0] is not None else None
        carried = rules.group(part, inner, reason)
    elif layout is not None:
        rules.freeze(layout, "it is reshaped with the batch axis behind other axes")
    for axis in axes:
        part = carried if axis == carrier else None
        hold_size(rules, operands, ("shape", axis), part)
        rules.set(axis, part)


def _emit_reshape(emitter: Emitter, node: Node) -> fx.Node:
    shape = emitter.resolve(node.attrs["shape"])
    if node.attrs["method"] == "unflatten":
        axes = _unflattened(node)
        return emitter.method("unflatten", emitter.value(node.inputs[0]), axes.start, shape[axes.start : axes.stop])
    return emitter.method(node.attrs["method"], emitter.value(node.inputs[0]), *shape)


register(
    OpSpec(
        "reshape",
        _infer_reshape,
        _reshape_channels,
        _emit_reshape,
        channelwise=True,
        linear=True,
        nonnegative=with_first,
        rearranges=True,
    )
)


def _expanded(operands: Operands) -> tuple[Dim, ...]:
    x, node = operands.tensor(), operands.node
    sizes = [known_size(entry, operands) for entry in node.attrs["sizes"]]
    if None in sizes or len(sizes) < len(x.shape):
        raise IRError(f"node '{node.name}' (expand) takes sizes that are not known when the network is traced")
    old = (1,) * (len(sizes) - len(x.shape)) + x.shape
    return tuple(d if size == -1 or size is None else size for d, size in zip(old, sizes, strict=True))


def _infer_expand(operands: Operands) -> Type:
    return TensorType(operands.tensor().dtype, _expanded(operands))


def _expand_channels(rules: ChannelRules, operands: Operands) -> None:
    node, old, new = operands.node, operands.tensor().shape, _expanded(operands)
    shift = len(new) - len(old)
    # heads that are repeated go along with their channels, and what they become has none of its own
    alone = all(rules.layout(0, axis) is None for axis, size in enumerate(old) if new[axis + shift] == size)
    for axis, size in enumerate(new):
        layout = rules.layout(0, axis - shift) if axis >= shift else None
        if (axis < shift or old[axis - shift] != size) and size != 1:
            rules.freeze(layout, "its single channel is expanded")
            layout = size_layout(rules, operands, node.attrs["sizes"][axis])  # alike in all that it is expanded to
            layout = layout or (rules.blank(size) if isinstance(size, int) and alone else None)
        hold_size(rules, operands, ("sizes", axis), layout)
        rules.set(axis, layout)


def _emit_expand(emitter: Emitter, node: Node) -> fx.Node:
    return emitter.method("expand", emitter.value(node.inputs[0]), *emitter.resolve(node.attrs["sizes"]))


register(
    OpSpec(
        "expand", _infer_expand, _expand_channels, _emit_expand, channelwise=True, linear=True, nonnegative=with_first
    )
)


def read_shape(values: Sequence[Any]) -> tuple[Attr, ...] | None:
    """The shape arguments of view / reshape: separate or as one sequence; None when they are not ints or sizes."""
    if len(values) == 1 and isinstance(values[0], (tuple, list)):
        values = list(values[0])
    return tuple(values) if all(isinstance(v, (int, Ref)) for v in values) else None
