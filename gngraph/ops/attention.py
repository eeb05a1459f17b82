"""Attention modules. Their arithmetic ties the heads to the model's width, so what they read is frozen."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from gngraph.errors import IRError
from gngraph.ir import Node, OpaqueType, Ref, TensorType, TupleType, Type
from gngraph.ops.rules import read_attrs
from gngraph.ops.sizes import factors
from gngraph.ops.spec import Call, ChannelRules, Emitter, Factor, Operands, OpSpec, signature
from gngraph.ops.table import register

_MASKS = ("key_padding_mask", "attn_mask")
_OPTIONS = ("need_weights", "average_attn_weights", "is_causal")


def _infer(operands: Operands) -> Type:
    node, query, key = operands.node, operands.tensor(0), operands.tensor(1)
    if query.shape[-1] != node.attrs["embed_dim"]:
        raise IRError(
            f"node '{node.name}' (multihead_attention) reads queries of {query.shape[-1]} features, but is for "
            f"{node.attrs['embed_dim']}"
        )
    if not node.attrs["need_weights"]:
        return TupleType((query, OpaqueType("NoneType")))
    heads = () if node.attrs["average_attn_weights"] else (node.attrs["num_heads"],)
    if len(query.shape) == 2:
        return TupleType((query, TensorType(query.dtype, (*heads, query.shape[0], key.shape[0]))))
    tokens = 1 if node.attrs["batch_first"] else 0
    added = ("bias_k" in node.params) + bool(node.attrs["add_zero_attn"])
    length = key.shape[tokens]
    attended = length + added if isinstance(length, int) else length
    return TupleType((query, TensorType(query.dtype, (query.shape[1 - tokens], *heads, query.shape[tokens], attended))))


def _channels(rules: ChannelRules, operands: Operands) -> None:
    reason = "the attention module demands that its heads make up the model's width"
    for index, type_ in enumerate(operands.inputs):
        for axis in range(len(type_.shape) if isinstance(type_, TensorType) else 0):
            rules.freeze(rules.layout(index, axis), reason)


def _emit(emitter: Emitter, node: Node) -> fx.Node:
    given = {name: emitter.resolve(node.attrs[name]) for name in _MASKS if isinstance(node.attrs[name], Ref)}
    given |= {name: node.attrs[name] for name in _OPTIONS}

    def build() -> nn.Module:
        options = {k: node.attrs[k] for k in ("dropout", "add_zero_attn", "kdim", "vdim", "batch_first")}
        return nn.MultiheadAttention(
            node.attrs["embed_dim"],
            node.attrs["num_heads"],
            bias="in_proj_bias" in node.params,
            add_bias_kv="bias_k" in node.params,
            device="meta",
            **options,
        )

    return emitter.module(build, *(emitter.value(name) for name in node.inputs[:3]), **given)


def _products(operands: Operands) -> tuple[tuple[Factor, ...], ...]:
    """Projections of queries, keys, values and results, and the two products of attention."""
    node = operands.node
    width, query, key = int(node.attrs["embed_dim"]), operands.tensor(0).shape, operands.tensor(1).shape
    tokens = 0 if len(query) == 2 or not node.attrs["batch_first"] else 1
    read, seen = (factors(*shape[:-1])[0] for shape in (query, key))
    attended = factors(key[tokens])[0] + ("bias_k" in node.params) + bool(node.attrs["add_zero_attn"])
    inside = (width, int(node.attrs["kdim"]), int(node.attrs["vdim"]), width)
    counts = (read, seen, seen, read)
    both = (read, attended, width)
    return (*((n, width, m) for n, m in zip(counts, inside, strict=True)), both, both)


_read: Any = read_attrs("embed_dim", "num_heads", "dropout", "add_zero_attn", "kdim", "vdim", "batch_first")
register(
    OpSpec(
        "multihead_attention",
        _infer,
        _channels,
        _emit,
        products=_products,
        channel_axis=-1,
        modules={nn.MultiheadAttention: _read},
        call=Call(
            signature(
                "query key value key_padding_mask=None need_weights=True attn_mask=None average_attn_weights=True "
                "is_causal=False"
            ),
            operands=("query", "key", "value"),
        ),
    )
)
