"""nn.MultiheadAttention as its plain arithmetic, call by call what torch makes of it where its fused path is off.

As one op it would tie its heads to the width of what it reads; so only what is not written here stays one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from gngraph.ops import spec_of_module
from gngraph.ops.added_products import added_products


def written_out(module: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Callable[..., Any] | None:
    """What does the same as the forward of an attention module that is called so while tracing; None where it stays one op.

    Written out is attention over batches of sequences, with at most one mask, for all samples and heads or for each of them, and
    one of padding.

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
    query, mask, padding = (given[name] for name in ("query", "attn_mask", "key_padding_mask"))
    try:
        fits = mask is None or mask.dim() == 2 or (mask.dim() == 3 and _goes_with_samples(mask))
        fits = fits and (padding is None or padding.dim() == 2) and query.dim() == 3
    except fx.proxy.TraceError:  # the rank is not known without data
        return None
    if not fits:
        return None
    return lambda *args, **kwargs: _attention(module, given)


def _goes_with_samples(mask: Any) -> bool:
    """Whether a mask has more entries along its first axis where there are more samples."""
    try:
        int(mask.shape[0])
    except fx.proxy.TraceError:
        return True
    return False


def _attention(module: nn.MultiheadAttention, given: Mapping[str, Any]) -> tuple[Any, Any]:
    query, key, value = _tokens_first(module, given)
    samples = query.shape[1]
    projected = _projected(module, query, key, value)
    causal = given["is_causal"] and given["key_padding_mask"] is None and not given["need_weights"]
    masks = [None if causal else given["attn_mask"], given["key_padding_mask"]]
    masks = [None if mask is None else _canonical(mask, query.dtype) for mask in masks]
    of_each = masks[0] is not None and masks[0].dim() == 3
    if module.bias_k is not None:
        more = (None, module.bias_k, module.bias_v)
        projected = [
            x if b is None else torch.cat([x, b.repeat(1, samples, 1)]) for x, b in zip(projected, more, strict=True)
        ]
    shape = (samples, module.num_heads, module.head_dim)
    q, k, v = (x.view(x.shape[0], *shape).permute(1, 2, 0, 3) for x in projected)
    if module.add_zero_attn:
        k, v = (F.pad(x, (0, 0, 0, 1)) for x in (k, v))
    added = (module.bias_k is not None) + module.add_zero_attn
    masks = [mask if mask is None or not added else F.pad(mask, (0, added)) for mask in masks]
    if of_each:
        masks[0] = masks[0].view(samples, module.num_heads, *masks[0].shape[1:])
    weights: Any = None
    if given["need_weights"]:
        scaled, turned, mask = q * math.sqrt(1.0 / module.head_dim), k.transpose(-2, -1), _merged(*masks)
        spread = of_each or masks[1] is not None  # from sample to sample
        mask = mask if mask is None or spread else mask.squeeze(0)
        scores = scaled @ turned if mask is None else added_products(mask, scaled, turned, module.num_heads, spread)
        weights = F.softmax(scores, dim=-1)
        if module.dropout > 0.0:
            weights = F.dropout(weights, p=module.dropout, training=module.training)
        y = weights @ v
        weights = weights.mean(dim=1) if given["average_attn_weights"] else weights
    else:
        dropout = module.dropout if module.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, _merged(*masks), dropout, causal)
    y = module.out_proj(y.permute(2, 0, 1, 3).contiguous().flatten(2))
    return y.transpose(0, 1) if module.batch_first else y, weights


def _tokens_first(module: nn.MultiheadAttention, given: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Queries, keys and values with the tokens in front; what was one value stays one."""
    query, key, value = (given[name] for name in ("query", "key", "value"))
    if module.batch_first:
        turned = query.transpose(0, 1)
        others = key.transpose(0, 1) if key is not query else turned
        return turned, others, others if value is key else value.transpose(0, 1)
    return query, key, value


def _projected(module: nn.MultiheadAttention, query: Any, key: Any, value: Any) -> list[Any]:
    """Queries, keys and values, projected by as few products as torch takes."""
    width, weight, bias = module.embed_dim, module.in_proj_weight, module.in_proj_bias
    biases = [None] * 3 if bias is None else [bias[i * width : (i + 1) * width] for i in range(3)]
    if weight is None:
        weights = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
        return [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]
    if key is not value:
        weights = [weight[i * width : (i + 1) * width] for i in range(3)]
        return [F.linear(x, w, b) for x, w, b in zip((query, key, value), weights, biases, strict=True)]
    if query is key:
        return _parts(F.linear(query, weight, bias), 3, width)
    behind = None if bias is None else bias[width:]
    return [F.linear(query, weight[:width], biases[0]), *_parts(F.linear(key, weight[width:], behind), 2, width)]


def _parts(packed: Any, count: int, width: int) -> list[Any]:
    parts = packed.unflatten(-1, (count, width)).permute(2, 0, 1, 3).contiguous()
    return [parts[i] for i in range(count)]


def _canonical(mask: Any, dtype: Any) -> Any:
    """A mask as what is added to the products of queries and keys, [N or L, S]."""
    return F._canonical_mask(
        mask=mask, mask_name="mask", other_name="", other_type=None, target_type=dtype, check_other=False
    )


def _merged(attention: Any, padding: Any) -> Any:
    """What is added to the products of queries and keys, [N or 1, heads or 1, L or 1, S]; None for nothing.

    Args:
        attention: [L, S], or [N, heads, L, S].
        padding: [N, S].
    """
    if attention is not None and attention.dim() == 2:
        attention = attention.unsqueeze(0).unsqueeze(0)
    padding = None if padding is None else padding.unsqueeze(1).unsqueeze(1)
    if attention is None or padding is None:
        return padding if attention is None else attention
    return attention + padding
