"""Ops that move axes and read sizes: flatten, reshape, mean, size, getitem, permute, transpose, unsqueeze, squeeze."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import fx, nn

from gngraph.errors import IRError
from gngraph.ir import Attr, Dim, Node, OpaqueType, Ref, TensorType, TupleType, Type
from gngraph.ops.rules import all_axes, emit_simple, freeze_axes, freeze_inputs, freeze_sizes, read_attrs
from gngraph.ops.spec import Call, ChannelRules, Emitter, Layout, Operands, OpSpec, register, signature


def _product(dims: Sequence[Dim]) -> Dim:
    names = [d for d in dims if isinstance(d, str)]
    number = math.prod(d for d in dims if isinstance(d, int))
    return number if not names else "*".join(([str(number)] if number != 1 else []) + names)


def _merged_layout(rules: ChannelRules, operands: Operands, axes: range) -> Layout | None:
    """Layout of the row-major product of `axes`: the leading axis keeps its channels, each with more inner entries.

    A space on any other axis than the leading one (ignoring axes of size 1) interleaves, and is frozen.
    """
    shape = operands.tensor().shape
    real = [axis for axis in axes if shape[axis] != 1 or rules.layout(0, axis) is not None]
    for axis in real[1:]:
        rules.freeze(rules.layout(0, axis), "it is flattened behind another axis")
    if not real:
        return None
    lead = rules.layout(0, real[0])
    if lead is None:
        return None
    inner = math.prod(int(shape[axis]) for axis in real[1:])
    return tuple(type(s)(s.var, s.size, s.inner * inner) for s in lead)


def _flatten_span(operands: Operands) -> tuple[int, int]:
    rank = len(operands.tensor().shape)
    return operands.node.attrs["start_dim"] % rank, operands.node.attrs["end_dim"] % rank


def _infer_flatten(operands: Operands) -> Type:
    x = operands.tensor()
    start, end = _flatten_span(operands)
    return TensorType(x.dtype, (*x.shape[:start], _product(x.shape[start : end + 1]), *x.shape[end + 1 :]))


def _flatten_channels(rules: ChannelRules, operands: Operands) -> None:
    start, end = _flatten_span(operands)
    for axis in range(start):
        rules.set(axis, rules.layout(0, axis))
    rules.set(start, _merged_layout(rules, operands, range(start, end + 1)))
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
        modules={nn.Flatten: read_attrs("start_dim", "end_dim")},
        functions={torch.flatten: _FLATTEN, "flatten": _FLATTEN},
    )
)


def known_size(attr: Attr, operands: Operands) -> Dim | None:
    """The size that an attribute stands for: an int, or what is known of the value that it refers to."""
    if isinstance(attr, Ref):
        type_ = operands.inputs[operands.node.inputs.index(attr.name)]
        value = type_.value if isinstance(type_, OpaqueType) else None
        return None if isinstance(value, tuple) else value
    return attr if isinstance(attr, int) else None


def _reshaped(operands: Operands) -> tuple[Dim, ...]:
    x, node = operands.tensor(), operands.node
    dims = [known_size(entry, operands) for entry in node.attrs["shape"]]
    if None in dims:
        raise IRError(f"node '{node.name}' (reshape) takes a shape that is not known when the network is traced")
    total = _factors(x.shape)
    rest = _factors([d for d in dims if d is not None and d != -1])
    shape: list[Dim] = []
    for dim in dims:
        assert dim is not None
        if dim != -1:
            shape.append(dim)
        elif total[1] == rest[1] and total[0] % rest[0] == 0:
            shape.append(total[0] // rest[0])
        elif rest[1] == () and total[0] == rest[0]:
            shape.append("*".join(total[1]))
        else:
            raise IRError(f"node '{node.name}' (reshape) cannot bring '{x}' into the shape {tuple(dims)}")
    if _factors(shape) != total:
        raise IRError(f"node '{node.name}' (reshape) cannot bring '{x}' into the shape {tuple(dims)}")
    return tuple(shape)


def _factors(dims: Sequence[Dim]) -> tuple[int, tuple[str, ...]]:
    names = sorted(d for d in dims if isinstance(d, str))
    return math.prod(d for d in dims if isinstance(d, int)), tuple(names)


def _infer_reshape(operands: Operands) -> Type:
    return TensorType(operands.tensor().dtype, _reshaped(operands))


def _reshape_channels(rules: ChannelRules, operands: Operands) -> None:
    freeze_sizes(rules, operands, "a shape is computed from its size")
    old, new = operands.tensor().shape, _reshaped(operands)
    shape = operands.node.attrs["shape"]
    merges_tail = len(new) >= 1 and old[: len(new) - 1] == new[:-1] and shape[-1] == -1
    if merges_tail and all(not isinstance(d, int) or rules.layout(0, i) is None for i, d in enumerate(new[:-1])):
        rules.set(len(new) - 1, _merged_layout(rules, operands, range(len(new) - 1, len(old))))
        return
    freeze_inputs(rules, operands, "it is reshaped with constant sizes")


def _emit_reshape(emitter: Emitter, node: Node) -> fx.Node:
    shape = emitter.resolve(node.attrs["shape"])
    return emitter.method(node.attrs["method"], emitter.value(node.inputs[0]), *shape)


register(OpSpec("reshape", _infer_reshape, _reshape_channels, _emit_reshape, channelwise=True, linear=True))


def _mean_dims(operands: Operands) -> tuple[int, ...]:
    rank, dim = len(operands.tensor().shape), operands.node.attrs["dim"]
    dims = range(rank) if dim is None else (dim,) if isinstance(dim, int) else dim
    return tuple(sorted(d % rank for d in dims))


def _infer_mean(operands: Operands) -> Type:
    x, dims = operands.tensor(), _mean_dims(operands)
    if operands.node.attrs["keepdim"]:
        return TensorType(x.dtype, tuple(1 if i in dims else d for i, d in enumerate(x.shape)))
    return TensorType(x.dtype, tuple(d for i, d in enumerate(x.shape) if i not in dims))


def _mean_channels(rules: ChannelRules, operands: Operands) -> None:
    dims, keep = _mean_dims(operands), operands.node.attrs["keepdim"]
    position = 0
    for axis in range(len(operands.tensor().shape)):
        if axis in dims:
            rules.freeze(rules.layout(0, axis), f"{operands.node.op} reduces over it")
            position += keep
        else:
            rules.set(position, rules.layout(0, axis))
            position += 1


for _name, _function in (("mean", torch.mean), ("sum", torch.sum), ("amax", torch.amax)):
    _reduce = Call(signature("input dim=None keepdim=False"))
    register(
        OpSpec(
            _name,
            _infer_mean,
            _mean_channels,
            emit_simple(None, _function),
            channelwise=True,
            linear=_name != "amax",
            functions={_function: _reduce, _name: _reduce},
        )
    )


def _infer_size(operands: Operands) -> Type:
    shape, dim = operands.tensor().shape, operands.node.attrs["dim"]
    return OpaqueType("torch.Size", shape) if dim is None else OpaqueType("int", shape[dim])


def _size_channels(rules: ChannelRules, operands: Operands) -> None:
    """Reading a size changes nothing; it carries the axis's layout, which whatever uses the number freezes."""
    dim = operands.node.attrs["dim"]
    if dim is not None:
        rules.set(0, rules.layout(0, dim % len(operands.tensor().shape)))
        return
    all_axes(rules, operands)


def _emit_size(emitter: Emitter, node: Node) -> fx.Node:
    x, dim = emitter.value(node.inputs[0]), node.attrs["dim"]
    return emitter.method("size", x) if dim is None else emitter.method("size", x, dim)


register(
    OpSpec(
        "size",
        _infer_size,
        _size_channels,
        _emit_size,
        functions={"size": Call(signature("input dim=None"))},
    )
)


def _infer_getitem(operands: Operands) -> Type:
    source, index = operands.inputs[0], operands.node.attrs["index"]
    if isinstance(source, TupleType):
        return source.items[index]
    assert isinstance(source, OpaqueType)
    return OpaqueType("int", source.value[index] if isinstance(source.value, tuple) else None)


def _getitem_channels(rules: ChannelRules, operands: Operands) -> None:
    if isinstance(operands.inputs[0], TupleType):
        for axis, layout in rules.item_layouts(0, operands.node.attrs["index"]).items():
            rules.set(axis, layout)
    elif isinstance(operands.inputs[0], OpaqueType) and isinstance(operands.inputs[0].value, tuple):
        rules.set(0, rules.layout(0, operands.node.attrs["index"] % len(operands.inputs[0].value)))


def _emit_getitem(emitter: Emitter, node: Node) -> fx.Node:
    import operator

    return emitter.call(operator.getitem, emitter.value(node.inputs[0]), node.attrs["index"])


register(OpSpec("getitem", _infer_getitem, _getitem_channels, _emit_getitem, channelwise=True, linear=True))


def _order(operands: Operands) -> tuple[int, ...]:
    rank, attrs = len(operands.tensor().shape), operands.node.attrs
    if operands.node.op == "permute":
        return tuple(d % rank for d in attrs["dims"])
    order = list(range(rank))
    a, b = attrs["dim0"] % rank, attrs["dim1"] % rank
    order[a], order[b] = b, a
    return tuple(order)


def _infer_permute(operands: Operands) -> Type:
    x = operands.tensor()
    return TensorType(x.dtype, tuple(x.shape[d] for d in _order(operands)))


def _permute_channels(rules: ChannelRules, operands: Operands) -> None:
    for axis, source in enumerate(_order(operands)):
        rules.set(axis, rules.layout(0, source))


def _emit_permute(emitter: Emitter, node: Node) -> fx.Node:
    return emitter.method("permute", emitter.value(node.inputs[0]), *node.attrs["dims"])


register(OpSpec("permute", _infer_permute, _permute_channels, _emit_permute, channelwise=True, linear=True))
register(
    OpSpec(
        "transpose",
        _infer_permute,
        _permute_channels,
        emit_simple(None, torch.transpose),
        channelwise=True,
        linear=True,
        functions=dict.fromkeys(
            (torch.transpose, torch.swapaxes, "transpose", "swapaxes"), Call(signature("input dim0 dim1"))
        ),
    )
)


def _axis(operands: Operands, extra: int) -> int:
    return int(operands.node.attrs["dim"]) % (len(operands.tensor().shape) + extra)


def _infer_unsqueeze(operands: Operands) -> Type:
    x, dim = operands.tensor(), _axis(operands, 1)
    return TensorType(x.dtype, (*x.shape[:dim], 1, *x.shape[dim:]))


def _unsqueeze_channels(rules: ChannelRules, operands: Operands) -> None:
    dim = _axis(operands, 1)
    for axis in range(len(operands.tensor().shape)):
        rules.set(axis + (axis >= dim), rules.layout(0, axis))


register(
    OpSpec(
        "unsqueeze",
        _infer_unsqueeze,
        _unsqueeze_channels,
        emit_simple(None, torch.unsqueeze),
        channelwise=True,
        linear=True,
        functions=dict.fromkeys((torch.unsqueeze, "unsqueeze"), Call(signature("input dim"))),
    )
)


def _infer_squeeze(operands: Operands) -> Type:
    x, dim = operands.tensor(), _axis(operands, 0)
    if x.shape[dim] != 1:
        return x
    return TensorType(x.dtype, (*x.shape[:dim], *x.shape[dim + 1 :]))


def _squeeze_channels(rules: ChannelRules, operands: Operands) -> None:
    dim, shape = _axis(operands, 0), operands.tensor().shape
    freeze_axes(rules, operands, {dim}, "squeeze depends on its size")
    for axis in range(len(shape)):
        if axis != dim or shape[dim] != 1:
            rules.set(axis - (axis > dim and shape[dim] == 1), rules.layout(0, axis))


register(
    OpSpec(
        "squeeze",
        _infer_squeeze,
        _squeeze_channels,
        emit_simple(None, torch.squeeze),
        channelwise=True,
        linear=True,
        functions=dict.fromkeys((torch.squeeze, "squeeze"), Call(signature("input dim"))),
    )
)


def read_shape(values: Sequence[Any]) -> tuple[Attr, ...] | None:
    """The shape arguments of view / reshape: separate or as one sequence; None when they are not ints or sizes."""
    if len(values) == 1 and isinstance(values[0], (tuple, list)):
        values = list(values[0])
    return tuple(values) if all(isinstance(v, (int, Ref)) for v in values) else None
