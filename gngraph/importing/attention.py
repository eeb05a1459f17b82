"""nn.MultiheadAttention as its plain arithmetic, call by call what torch makes of it where its fused path is off.

As one op it would tie its heads to the width of what it reads; so only what is not written here stays one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

from torch import fx, nn
from torch.nn import functional as F

from gngraph.ops import spec_of_module


def written_out(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Callable[..., Any] | None:
    """What does the same as the forward of an attention module that is called so while tracing; None where it stays one op.

    Written out is self-attention over batches of sequences, with at most one mask for all samples and heads and one of padding,
    those without weights being asked for.

    Args:
        module: any module.
        args: positional arguments of the call.
        kwargs: those by keyword.
    """
    found = spec_of_module(module)
    if not isinstance(module, nn.MultiheadAttention) or found is None or found[0].name != "multihead_attention":
        return None
    try:
        call = signature(nn.MultiheadAttention.forward).bind(module, *args, **kwargs)
    except TypeError:
        return None
    call.apply_defaults()
    given = call.arguments
    query, masks = given["query"], (given["attn_mask"], given["key_padding_mask"])
    if given["key"] is not query or given["value"] is not query:
        return None
    if module.in_proj_weight is None or module.bias_k is not None or module.add_zero_attn:
        return None
    if given["need_weights"] and any(mask is not None for mask in masks):
        return None
    try:
        fits = all(mask is None or mask.dim() == 2 for mask in masks) and query.dim() == 3
    except fx.proxy.TraceError:  # the rank is not known without data
        return None
    if not fits:
        return None
    return lambda *args, **kwargs: _self_attention(module, query, given)


def _self_attention(module: nn.MultiheadAttention, query: Any, given: Mapping[str, Any]) -> tuple[Any, Any]:
    x = query.transpose(0, 1) if module.batch_first else query
    length, samples, _ = x.shape
    packed: Any = F.linear(x, module.in_proj_weight, module.in_proj_bias)
    parts = packed.unflatten(-1, (3, module.embed_dim)).permute(2, 0, 1, 3).contiguous()
    thirds = [parts[i] for i in range(3)]
    shape = (length, samples, module.num_heads, module.head_dim)
    q, k, v = (third.view(shape).permute(1, 2, 0, 3) for third in thirds)
    weights: Any = None
    if given["need_weights"]:
        weights = F.softmax((q * math.sqrt(1.0 / module.head_dim)) @ k.transpose(-2, -1), dim=-1)
        if module.dropout > 0.0:
            weights = F.dropout(weights, p=module.dropout, training=module.training)
        y = weights @ v
        weights = weights.mean(dim=1) if given["average_attn_weights"] else weights
    else:
        causal = given["is_causal"] and given["key_padding_mask"] is None
        mask = None if causal else _mask(x, given["attn_mask"], given["key_padding_mask"])
        dropout = module.dropout if module.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, mask, dropout, causal)
    y = module.out_proj(y.permute(2, 0, 1, 3).contiguous().flatten(2))
    return y.transpose(0, 1) if module.batch_first else y, weights


def _mask(x: Any, attention: Any, padding: Any) -> Any:
    """What is added to the products of queries and keys, [N or 1, 1, L or 1, L]; None for nothing."""
    wanted = {"other_name": "", "other_type": None, "target_type": x.dtype, "check_other": False}
    masks = (F._canonical_mask(mask=mask, mask_name="mask", **wanted) for mask in (attention, padding))
    attention, padding = masks
    attention = None if attention is None else attention.unsqueeze(0).unsqueeze(0)
    padding = None if padding is None else padding.unsqueeze(1).unsqueeze(1)
    if attention is None or padding is None:
        return padding if attention is None else attention
    return attention + padding
