"""Insertion of layers: deeper, with exactly the same function.

A plain layer starts as the identity with a ReLU behind it, which changes nothing behind a ReLU (Chen, Goodfellow, Shlens,
*Net2Net*, ICLR 2016). A residual block starts with zero as its last weight, which changes nothing anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.topology import CutPoint, cut_points
from gngraph.errors import PassError
from gngraph.ir import Graph, Node, Parameter
from gngraph.ops import draft_of
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
    like = next(p.data for p in graph.params.values() if p.data.is_floating_point())
    value = graph.nodes[morphism.at]
    path = _free_path(graph, value.scope)
    draft = draft_of(graph)
    added: dict[str, Parameter] = {}
    names: list[str] = []

    def add(stem: str, node: Node) -> str:
        stem = stem.replace(".", "_")
        name = draft.fresh_name(f"_{stem}" if stem[0].isdigit() else stem)  # an identifier, as torch.fx makes it
        draft.add(replace(node, name=name, scope=value.scope), after=names[-1] if names else value.name)
        names.append(name)
        return name

    def layer(source: str, role: str) -> str:
        module, _, _ = f"{path}.{role}".rpartition(".")
        params = {"weight": f"{module}.weight", "bias": f"{module}.bias"}
        for name, data in ((params["weight"], weights[role]), (params["bias"], torch.zeros(block.point.width))):
            added[name] = Parameter(data.to(like))
            draft.set_param(name, added[name])
        return add(module, replace(block.layer, inputs=(source,), params=params, module=module))

    if block.kind == "layer":
        add(f"{path}_relu", Node("", "relu", (layer(value.name, "weight"),)))
    else:
        hidden = add(f"{path}_relu", Node("", "relu", (layer(value.name, "inner.weight"),)))
        add(f"{path}_add", Node("", "add", (value.name, layer(hidden, "outer.weight"))))
    draft.replace_uses(value.name, names[-1], except_in=tuple(names))
    deeper = draft.commit()
    return replace(deeper, params=_in_tree_order(graph.params, added, value.scope))


def _shapes(weights: Mapping[str, torch.Tensor]) -> str:
    return " and ".join(f"'{role}' of shape {tuple(weight.shape)}" for role, weight in weights.items())


def _free_path(graph: Graph, scope: str) -> str:
    """A module path below `scope` that nothing has."""
    taken = {*graph.params, *(alias for p in graph.params.values() for alias, _ in p.aliases)}
    taken |= {path for node in graph.nodes.values() for path in (node.module, node.scope) if path}
    number = 1
    while True:
        path = f"{scope}.inserted{number}" if scope else f"inserted{number}"
        if not any(name == path or name.startswith(f"{path}.") for name in taken):
            return path
        number += 1


def _in_tree_order(params: Mapping[str, Parameter], added: Mapping[str, Parameter], scope: str) -> dict[str, Parameter]:
    """`params` with those of the last child of the module `scope` where its state_dict has them; aliases move along."""
    keys: list[str] = list(params)
    aliases = sorted((position, alias, name) for name, p in params.items() for alias, position in p.aliases)
    for position, alias, _ in aliases:
        keys.insert(position, alias)
    constants = (i for i, key in enumerate(keys) if key in params and params[key].kind == "constant")
    container, last = scope, next(constants, len(keys))  # constants come last, for they are in no state_dict
    while container:
        inside = [i for i, key in enumerate(keys) if key.startswith(f"{container}.")]
        if inside:
            last = inside[-1] + 1
            break
        container = container.rpartition(".")[0]
    keys[last:last] = list(added)
    moved: dict[str, tuple[tuple[str, int], ...]] = {}
    for _, alias, name in aliases:
        moved[name] = (*moved.get(name, ()), (alias, keys.index(alias)))
    known = {name: replace(p, aliases=moved[name]) if name in moved else p for name, p in params.items()}
    return {key: known[key] if key in known else added[key] for key in keys if key in known or key in added}
