"""Maps that are sampled at places which the forward computes, as spatial transformers do, and pooling whose places are kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx, nn
from torch.nn import functional as F

from gngraph.errors import IRError
from gngraph.ir import Dim, Node, TensorType, TupleType, Type
from gngraph.ops.pooling import window
from gngraph.ops.rules import emit_simple, freeze_axes, freeze_sizes, read_attrs, spread
from gngraph.ops.sizes import known_sizes
from gngraph.ops.spec import Call, ChannelRules, Emitter, Operands, OpSpec, signature
from gngraph.ops.table import register
from gngraph.ops.traits import of_first


def _refuse(operands: Operands, why: str) -> IRError:
    return IRError(f"node '{operands.node.name}' ({operands.node.op}) {why}")


# --- spatial transformers


def _infer_grid(operands: Operands) -> Type:
    theta, sizes = operands.tensor(), known_sizes(operands.node.attrs["size"], operands)
    if None in sizes or theta.shape[1:] != (len(sizes) - 2, len(sizes) - 1):
        raise _refuse(operands, f"places a grid by '{theta}' over a size that does not fit, or is not known")
    spatial: tuple[Dim, ...] = tuple(size for size in sizes[2:] if size is not None)
    return TensorType(theta.dtype, (theta.shape[0], *spatial, len(spatial)))


def _grid_channels(rules: ChannelRules, operands: Operands) -> None:
    """Of the size only the positions count, and these are no channels."""
    for axis in (1, 2):
        rules.freeze(rules.layout(0, axis), "it places a grid")


register(
    OpSpec(
        "affine_grid",
        _infer_grid,
        _grid_channels,
        emit_simple(None, F.affine_grid),
        linear=of_first,
        functions={
            F.affine_grid: Call(signature("theta size align_corners=None"), operands=("theta",), sizes=("size",))
        },
    )
)


def _infer_sampled(operands: Operands) -> Type:
    x, grid = operands.tensor(0), operands.tensor(1)
    if len(x.shape) != len(grid.shape) or x.shape[0] != grid.shape[0] or grid.shape[-1] != len(x.shape) - 2:
        raise _refuse(operands, f"samples '{x}' at '{grid}'")
    return TensorType(x.dtype, (*x.shape[:2], *grid.shape[1:-1]))


def _sampled_channels(rules: ChannelRules, operands: Operands) -> None:
    rules.set(1, rules.layout(0, 1))
    for operand in (0, 1):
        for axis in range(1 + (operand == 0), len(operands.tensor(operand).shape)):
            rules.freeze(
                rules.layout(operand, axis), "it is sampled over" if operand == 0 else "it tells where to sample"
            )


def _emit_sampled(emitter: Emitter, node: Node) -> fx.Node:
    return emitter.call(F.grid_sample, *(emitter.value(name) for name in node.inputs), **node.attrs)


register(
    OpSpec(
        "grid_sample",
        _infer_sampled,
        _sampled_channels,
        _emit_sampled,
        channelwise=True,
        linear=of_first,
        functions={
            F.grid_sample: Call(
                signature("input grid mode=bilinear padding_mode=zeros align_corners=None"), operands=("input", "grid")
            )
        },
    )
)


# --- pooling whose places are kept


def _infer_indexed(operands: Operands) -> Type:
    pooled = window(operands)
    return TupleType((pooled, TensorType("i64", pooled.shape)))


def _indexed_channels(rules: ChannelRules, operands: Operands) -> None:
    """Places are counted in each map by itself."""
    rank, spatial = len(operands.tensor().shape), int(operands.node.op[-2])
    freeze_sizes(rules, operands, "a pooling takes its size")
    freeze_axes(rules, operands, set(range(rank - spatial, rank)), "it is pooled over")


def _infer_unpooled(operands: Operands) -> Type:
    node, x, rank = operands.node, operands.tensor(), int(operands.node.op[-2])
    if operands.tensor(1).shape != x.shape:
        raise _refuse(operands, f"puts '{x}' at the places '{operands.tensor(1)}'")
    kernel, padding = (spread(node.attrs[key], rank) for key in ("kernel_size", "padding"))
    stride = kernel if node.attrs["stride"] in (None, ()) else spread(node.attrs["stride"], rank)
    sizes: list[Dim | None] = [
        (int(size) - 1) * stride[i] - 2 * padding[i] + kernel[i] for i, size in enumerate(x.shape[-rank:])
    ]
    if node.attrs["output_size"] is not None:
        sizes = list(known_sizes(node.attrs["output_size"], operands)[-rank:])
    known: list[Dim] = [size for size in sizes if isinstance(size, int)]
    if len(known) != rank:
        raise _refuse(operands, "gives a size that is not known when the network is traced")
    return TensorType(x.dtype, (*x.shape[:-rank], *known))


def _unpooled_channels(rules: ChannelRules, operands: Operands) -> None:
    rank, spatial = len(operands.tensor().shape), int(operands.node.op[-2])
    freeze_axes(rules, operands, set(range(rank - spatial, rank)), "it is unpooled over")
    for axis in range(rank - spatial):
        rules.set(axis, rules.unify([rules.layout(0, axis), rules.layout(1, axis)]))


def _emit_unpooled(make: Any, function: Callable[..., Any]) -> Callable[[Emitter, Node], fx.Node]:
    def emit(emitter: Emitter, node: Node) -> fx.Node:
        values, attrs = [emitter.value(name) for name in node.inputs[:2]], dict(node.attrs)
        size = emitter.resolve(attrs.pop("output_size"))
        if node.module is not None:
            return emitter.module(lambda: make(**attrs), *values, **({} if size is None else {"output_size": size}))
        return emitter.call(function, *values, **attrs, **({} if size is None else {"output_size": size}))

    return emit


_POOL = "input kernel_size stride=None padding=0 dilation=1 ceil_mode=False return_indices=True"
_UNPOOL = "input indices kernel_size stride=None padding=0 output_size=None"
for _rank, _pool, _module, _unpool in (
    (1, F.max_pool1d_with_indices, nn.MaxUnpool1d, F.max_unpool1d),
    (2, F.max_pool2d_with_indices, nn.MaxUnpool2d, F.max_unpool2d),
    (3, F.max_pool3d_with_indices, nn.MaxUnpool3d, F.max_unpool3d),
):
    register(
        OpSpec(
            f"indexed_max_pool{_rank}d",
            _infer_indexed,
            _indexed_channels,
            emit_simple(None, _pool),
            channelwise=True,
            functions={_pool: Call(signature(_POOL), ignored=("return_indices",), sizes=("kernel_size", "stride"))},
        )
    )
    register(
        OpSpec(
            f"max_unpool{_rank}d",
            _infer_unpooled,
            _unpooled_channels,
            _emit_unpooled(_module, _unpool),
            channelwise=True,
            linear=of_first,
            modules={_module: read_attrs("kernel_size", "stride", "padding")},
            functions={_unpool: Call(signature(_UNPOOL), operands=("input", "indices"), sizes=("output_size",))},
            call=Call(
                signature("input indices output_size=None"), operands=("input", "indices"), sizes=("output_size",)
            ),
        )
    )
