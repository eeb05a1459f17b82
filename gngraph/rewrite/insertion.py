"""Insertion of layers: deeper, with exactly the same function.

A plain layer starts as the identity with a ReLU behind it, which changes nothing behind a ReLU (Chen, Goodfellow, Shlens,
*Net2Net*, ICLR 2016). A residual block starts with zero as its last weight, which changes nothing anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.topology import CutPoint, cut_points
from gngraph.errors import PassError
from gngraph.ir import Graph, Node
from gngraph.rewrite.building import Building
from gngraph.rewrite.morphism import InsertLayer

BLOCKS = ("layer", "residual")
KERNEL = 3
"""Extent of inserted convolutions along each spatial axis that is longer than 1."""


def kinds_at(point: CutPoint) -> tuple[str, ...]:
    """The kinds of block that preserve the function at a cut point."""
    return BLOCKS if point.nonnegative else ("residual",)


@dataclass(frozen=True)
class Block:
    """A block at a cut point: its layers, and the weights with which it preserves the function.

    Attributes:
        point: the cut point; the block is as wide as its value.
        kind: "layer" or "residual".
        layer: the convolution or linear layer that it is made of, reading the value, without parameters.
        shape: shape of a weight.
    """

    point: CutPoint
    kind: str
    layer: Node
    shape: tuple[int, ...]

    @classmethod
    def at(cls, point: CutPoint, kind: str) -> Block:
        """The block of this kind at a cut point.

        Raises:
            PassError: the kind is unknown, or a plain layer would change the function, for its ReLU would cut values off.
        """
        if kind not in BLOCKS:
            raise PassError(f"block '{kind}' is unknown; choose one of {', '.join(BLOCKS)}")
        if kind not in kinds_at(point):
            raise PassError(
                f"a layer with a ReLU behind '{point.value}', whose values may be negative, would change the function; "
                f"insert a residual block"
            )
        sizes = point.type.shape[2:] if point.axis == 1 else ()
        kernel = tuple(1 if size == 1 else KERNEL for size in sizes)
        ones = (1,) * len(kernel)
        padding = tuple(size // 2 for size in kernel)
        attrs: Mapping[str, object] = {
            "stride": ones, "padding": padding, "dilation": ones, "groups": 1, "padding_mode": "zeros",
        } if kernel else {}  # fmt: skip
        op = f"conv{len(kernel)}d" if kernel else "linear"
        layer = Node("inserted", op, (point.value,), attrs=attrs)
        return cls(point, kind, layer, (point.width, point.width, *kernel))

    @property
    def roles(self) -> tuple[str, ...]:
        """Names of its weights, in order."""
        return ("weight",) if self.kind == "layer" else ("inner.weight", "outer.weight")

    def weights(self, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Weights with which the block preserves the function, f32: the identity; or random ones (He et al., 2015), and 0."""
        if self.kind == "layer":
            eye = torch.zeros(*self.shape[:2], math.prod(self.shape[2:]))
            eye[:, :, eye.shape[2] // 2] = torch.eye(self.point.width)
            return {"weight": eye.view(self.shape)}
        spread = (2.0 / math.prod(self.shape[1:])) ** 0.5
        inner = torch.randn(self.shape, generator=generator) * spread
        return {"inner.weight": inner, "outer.weight": torch.zeros(self.shape)}


def insert_layer(
    graph: Graph, spaces: ChannelSpaces, morphism: InsertLayer, generator: torch.Generator | None = None
) -> Graph:
    """`graph` with a block behind the value `morphism.at`; everything that read the value reads the block's result.

    Its modules stand in the scope of the value, as `inserted1` or the first number that is free.

    Args:
        graph: before the insertion.
        spaces: of `graph`.
        morphism: where, which block, and the weights that were learned for it, if any.
        generator: of the CPU, for what starts at random; default: seed 0.

    Raises:
        PassError: the value is no cut point, the block does not fit there, or what was learned for it is of another width.
    """
    points = {point.value: point for point in cut_points(graph, spaces)}
    if morphism.at not in points:
        known = ", ".join(points) or "none"
        raise PassError(f"'{morphism.at}' is no cut point of '{graph.name}'; the cut points are {known}")
    block = Block.at(points[morphism.at], morphism.block)
    weights = block.weights(generator if generator is not None else torch.Generator().manual_seed(0))
    for role, learned in morphism.weights.items():
        if role not in weights or learned.shape != weights[role].shape:
            raise PassError(
                f"the block at '{morphism.at}' takes {_shapes(weights)}, but what was learned has '{role}' of shape "
                f"{tuple(learned.shape)}; insert it before the width changes"
            )
        weights[role] = learned.cpu() if role == "inner.weight" else weights[role].to(learned.dtype) + learned.cpu()
    building = Building(graph, morphism.at)
    path = building.free_path("inserted")

    def layer(source: str, role: str) -> str:
        module, _, _ = f"{path}.{role}".rpartition(".")
        tensors = {"weight": weights[role], "bias": torch.zeros(block.point.width)}
        return building.module(module, block.layer.op, source, block.layer.attrs, tensors)

    if block.kind == "layer":
        building.call(f"{path}_relu", "relu", layer(morphism.at, "weight"))
    else:
        hidden = building.call(f"{path}_relu", "relu", layer(morphism.at, "inner.weight"))
        building.call(f"{path}_add", "add", morphism.at, layer(hidden, "outer.weight"))
    return building.behind(morphism.at)


def _shapes(weights: Mapping[str, torch.Tensor]) -> str:
    return " and ".join(f"'{role}' of shape {tuple(weight.shape)}" for role, weight in weights.items())
