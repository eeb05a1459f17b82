"""Transformers for the benchmarks: the zoo's with finer patches and heads, and as Torch-Pruning's own examples prune them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gngraph.analysis.cost import Budget, cost
from gngraph.errors import BudgetError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.zoo import build_seed
from gngraph.zoo.transformer import GPT, HEAD_SIZE, PreNormBlock, ViT

SMALL_VIT = "small-vit"
"""Name of the network that `small_vit` makes."""

FINER = 2
"""Heads of it for each of the zoo's, as much smaller: a narrow one of the zoo has two, of which only half can go."""

SIDE = 4
"""Patches along a side of its image: it has 17 tokens, and is trained in minutes."""

TRIES = 12
"""Ratios that Torch-Pruning is asked for until the largest network within a budget counts as found."""


class Attention(nn.Module):
    """Self-attention whose widths are read off its layers, as those that Torch-Pruning prunes have to be.

    Args:
        qkv, out: its layers; the first gives queries, keys and values one after the other.
        heads: how many; an attribute, which whoever prunes them sets.
        causal: whether a token sees none that comes later.
    """

    def __init__(self, qkv: nn.Linear, out: nn.Linear, heads: int, causal: bool) -> None:
        super().__init__()
        self.qkv, self.out, self.heads, self.causal = qkv, out, heads, causal
        self.scale = float(qkv.out_features // (3 * heads)) ** -0.5

    def forward(self, x: Tensor, turn: object = None) -> Tensor:
        """What the tokens attend to, [N, T, C] -> [N, T, C]; `turn` is for what the zoo's passes on."""
        count, tokens, _ = x.shape
        size = self.qkv.out_features // (3 * self.heads)
        q, k, v = self.qkv(x).reshape(count, tokens, 3, self.heads, size).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, scale=self.scale)
        return cast(Tensor, self.out(y.transpose(1, 2).reshape(count, tokens, self.heads * size)))


def finer(model: GPT | ViT, factor: int = 1) -> GPT | ViT:
    """`model` with the attention of this file, each of its heads being `factor` of them; in place."""
    for block in cast(list[PreNormBlock], list(model.blocks)):
        zoo = block.attention
        heads = factor * zoo.qkv.out_features // (3 * HEAD_SIZE)
        block.attention = cast(Any, Attention(zoo.qkv, zoo.out, heads, zoo.causal))
    return model


def small_vit(width: float, classes: int, shape: tuple[int, ...]) -> ViT:
    """The zoo's "vit" with heads `FINER` times as many, and `SIDE` patches along a side of the image."""
    model = cast(ViT, build_seed("vit", width=width, classes=classes, input_shape=(shape[0], 8, 8)))
    size, stream = min(shape[1:]) // SIDE, model.head.in_features
    model.patches = nn.Conv2d(shape[0], stream, size, size)
    count = (shape[1] // size) * (shape[2] // size)
    model.positions = nn.Parameter(torch.zeros(1, count + 1, stream))
    nn.init.normal_(model.positions, std=0.02)
    return cast(ViT, finer(model, FINER))


def with_values(model: GPT | ViT, values: Mapping[str, Tensor]) -> GPT | ViT:
    """`model` with the values of a graph of the same layers, whatever their widths; in place. Heads keep their size."""
    sizes = {m: m.qkv.out_features // (3 * m.heads) for m in model.modules() if isinstance(m, Attention)}
    for name, value in values.items():
        path, _, own = name.rpartition(".")
        setattr(model.get_submodule(path), own, nn.Parameter(value.detach().clone()))
    if isinstance(model, GPT):
        model.head.weight = model.tokens.weight
    for part in model.modules():
        if isinstance(part, nn.Linear):
            part.out_features, part.in_features = part.weight.shape
        elif isinstance(part, nn.LayerNorm):
            part.normalized_shape = tuple(part.weight.shape)
        elif isinstance(part, nn.Conv2d):
            part.out_channels = len(part.weight)
    for attention, size in sizes.items():
        attention.heads = attention.qkv.out_features // (3 * size)
    return model


@dataclass(frozen=True)
class Way:
    """How Torch-Pruning goes about a transformer, by the options of its own examples.

    Attributes:
        everywhere: over all layers together; else each loses the same share.
        heads: whole heads go, and else channels of all heads of a layer alike.
        inside: the stream stays, as with its option --bottleneck.
    """

    everywhere: bool = False
    heads: bool = False
    inside: bool = False


def pruned(model: GPT | ViT, importance: Any, example: Tensor, ratio: float, way: Way) -> GPT | ViT:
    """A transformer after one step of Torch-Pruning, as its examples for transformers make it; in place.

    Args:
        model: with the attention of this file.
        importance: of Torch-Pruning; what it reads of gradients is there.
        example: inputs.
        ratio: share of the channels that goes.
        way: see there.
    """
    import torch_pruning as tp

    attentions = [part for part in model.modules() if isinstance(part, Attention)]
    ignored: list[nn.Module] = [model.head]
    if way.inside:
        first = model.tokens if isinstance(model, GPT) else model.patches
        ignored += [first, *(part.out for part in attentions), *(cast(Any, block).down for block in model.blocks)]
    pruner = tp.pruner.BasePruner(
        model, example, importance=importance, global_pruning=way.everywhere, pruning_ratio=ratio, max_pruning_ratio=0.95,
        ignored_layers=ignored, num_heads={part.qkv: part.heads for part in attentions}, prune_num_heads=way.heads,
        prune_head_dims=not way.heads, head_pruning_ratio=ratio if way.heads else 0.0,
    )  # fmt: skip
    pruner.step()
    for part in attentions:
        part.heads = pruner.num_heads[part.qkv]
    if isinstance(model, GPT):
        model.head.weight = model.tokens.weight
    return model


def pruned_within(model: GPT | ViT, importance: Any, example: Tensor, limit: Budget, way: Way) -> GPT | ViT:
    """The largest network within a budget that Torch-Pruning makes of `model` in one step; random importances go by torch's seed.

    Args:
        model, importance, example, way: see `pruned`; `model` stays.
        limit: the budget.

    Raises:
        BudgetError: none is within.
    """
    low, high, best = 0.0, 0.95, None
    for _ in range(TRIES):
        ratio, tried = (low + high) / 2, copy.deepcopy(model)
        for old, new in zip(model.parameters(), tried.parameters(), strict=True):
            new.grad = None if old.grad is None else old.grad.clone()
        with torch.random.fork_rng():
            made = pruned(tried, importance, example, ratio, way)
        made.zero_grad()
        if limit.allows(cost(from_torch(copy.deepcopy(made), example))):
            high, best = ratio, made
        else:
            low = ratio
    if best is None:
        raise BudgetError(f"Torch-Pruning reaches no {limit.text}; raise the budget")
    return best


def values_of(graph: Graph) -> dict[str, Tensor]:
    """Its trained parameters, by name."""
    return {name: parameter.data for name, parameter in graph.params.items()}
