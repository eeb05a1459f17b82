"""Morphisms of what a layer is: frozen descriptions, each of one layer or one value.

They are applied behind all others of a set, one after another, by the functions of `gngraph.rewrite.attachments`,
`gngraph.rewrite.kernels`, `gngraph.rewrite.pooling`, `gngraph.rewrite.factorisation` and `gngraph.rewrite.joining`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, eq=False)
class _AtNode:
    at: str

    @property
    def space(self) -> str:
        """What it acts on, where other morphisms name their channel space: the node of the layer or value."""
        return self.at


@dataclass(frozen=True, eq=False)
class InsertSkip(_AtNode):
    """Add a skip connection: the value `at` becomes itself and `source`, each channel of it times a parameter.

    Attributes:
        at: name of the node that the connection ends at.
        source: name of the node that it starts from, of the same shape.
        scale: what the parameter starts at; at 0 the function is preserved.
    """

    source: str
    scale: float = 0.0
    kind: str = "skip"

    def record(self) -> dict[str, Any]:
        """The morphism without its tensors, for histories."""
        return {"kind": self.kind, "at": self.at, "source": self.source}


@dataclass(frozen=True, eq=False)
class RemoveSkip(_AtNode):
    """Remove the skip connection that ends in the sum `at`; whatever read the sum reads the branch.

    Attributes:
        at: name of the node that adds.
    """

    kind: str = "remove-skip"

    def record(self) -> dict[str, Any]:
        """The morphism without its tensors, for histories."""
        return {"kind": self.kind, "at": self.at}


@dataclass(frozen=True, eq=False)
class InsertSqueezeExcite(_AtNode):
    """Gate the channels of the value `at` by what they are on average: by twice a sigmoid, which starts at 1.

    Attributes:
        at: name of the node whose value is gated.
        squeeze: channels of the hidden layer.
    """

    squeeze: int
    kind: str = "squeeze-excite"

    def record(self) -> dict[str, Any]:
        """The morphism without its tensors, for histories."""
        return {"kind": self.kind, "at": self.at, "squeeze": self.squeeze}


@dataclass(frozen=True, eq=False)
class InsertNorm(_AtNode):
    """Put a BatchNorm behind the layer `at`, whose scale and shift undo its statistics.

    Attributes:
        at: name of the layer's node.
        mean, variance: of each of its channels, [channels].
    """

    mean: torch.Tensor
    variance: torch.Tensor
    kind: str = "norm"

    def record(self) -> dict[str, Any]:
        """The morphism without its tensors, for histories."""
        return {"kind": self.kind, "at": self.at}


@dataclass(frozen=True, eq=False)
class ResizeKernel(_AtNode):
    """Give the convolution `at` a kernel of another extent, with the padding that goes with it.

    Attributes:
        at: name of the layer's node.
        kernel: extent along every spatial axis; as even or odd as the one before, so that the middle stays where it is.
        weight: the new weight; None: that before, with zeros around it or without what lies outside.
    """

    kernel: tuple[int, ...]
    weight: torch.Tensor | None = None
    kind: str = "kernel"

    def record(self) -> dict[str, Any]:
        """The morphism without its tensors, for histories."""
        return {"kind": self.kind, "at": self.at, "kernel": list(self.kernel)}


@dataclass(frozen=True, eq=False)
class Restride(_AtNode):
    """Give the convolution `at` another stride: all maps behind it change their extents.

    Attributes:
        at: name of the layer's node.
        stride: along every spatial axis.
    """

    stride: tuple[int, ...]
    kind: str = "stride"

    def record(self) -> dict[str, Any]:
        """The morphism without its tensors, for histories."""
        return {"kind": self.kind, "at": self.at, "stride": list(self.stride)}


@dataclass(frozen=True, eq=False)
class InsertPool(_AtNode):
    """Put a max pooling behind the value `at`: all maps behind it change their extents.

    Attributes:
        at: name of the node whose value is pooled.
        size: of the window, and its stride, along every spatial axis.
    """

    size: int = 2
    kind: str = "pool"

    def record(self) -> dict[str, Any]:
        """The morphism, for histories."""
        return {"kind": self.kind, "at": self.at, "size": self.size}


@dataclass(frozen=True, eq=False)
class RemovePool(_AtNode):
    """Leave out the pooling `at`: what read it reads what it pooled, and all maps behind it change their extents.

    Attributes:
        at: name of the node that pools.
    """

    kind: str = "remove-pool"

    def record(self) -> dict[str, Any]:
        """The morphism, for histories."""
        return {"kind": self.kind, "at": self.at}


@dataclass(frozen=True, eq=False)
class MovePool(_AtNode):
    """Have the pooling `at` pool another value instead: maps between the two change their extents.

    Attributes:
        at: name of the node that pools.
        to: name of the node that is pooled.
    """

    to: str
    kind: str = "move-pool"

    def record(self) -> dict[str, Any]:
        """The morphism, for histories."""
        return {"kind": self.kind, "at": self.at, "to": self.to}


@dataclass(frozen=True, eq=False)
class StrideToPool(_AtNode):
    """Give the convolution `at` a stride of 1, and a max pooling behind its norm and non-linearity instead.

    Attributes:
        at: name of the layer's node.
    """

    kind: str = "stride-to-pool"

    def record(self) -> dict[str, Any]:
        """The morphism, for histories."""
        return {"kind": self.kind, "at": self.at}


@dataclass(frozen=True, eq=False)
class Factorise(_AtNode):
    """Put two layers in the place of the layer `at`, with nothing between them.

    Attributes:
        at: name of the layer's node.
        form: "low-rank", a layer of the same kernel to fewer channels and one of 1 x 1 from them; or "separable", a depthwise
            convolution and a pointwise one.
        first, second: weights of the two.
        bias: of the second; None: that of the layer, if it has one.
    """

    form: str
    first: torch.Tensor
    second: torch.Tensor
    bias: torch.Tensor | None = None

    @property
    def kind(self) -> str:
        """Its form."""
        return self.form

    @property
    def roles(self) -> Mapping[str, torch.Tensor]:
        """Names of the modules of the two, with their weights."""
        names = ("reduce", "expand") if self.form == "low-rank" else ("depthwise", "pointwise")
        return dict(zip(names, (self.first, self.second), strict=True))

    def record(self) -> dict[str, Any]:
        """The morphism without its tensors, for histories."""
        return {"kind": self.kind, "at": self.at, "between": self.second.shape[1]}


@dataclass(frozen=True, eq=False)
class Collapse(_AtNode):
    """Put one layer in the place of the layer `at` and the one that it reads, with nothing between them.

    Attributes:
        at: name of the node of the second.
    """

    kind: str = "collapse"

    def record(self) -> dict[str, Any]:
        """The morphism without its tensors, for histories."""
        return {"kind": self.kind, "at": self.at}


@dataclass(frozen=True, eq=False)
class JoinPair(_AtNode):
    """Put one convolution in the place of the convolution `at` and the one before it, whatever lies between them.

    The norm between them goes; a non-linearity stands behind the one convolution and its norm, unless one stands there already.

    Attributes:
        at: name of the node of the second.
        weight: of the one convolution.
        bias: of it; None: it has none, as the second has none.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    kind: str = "join"

    def record(self) -> dict[str, Any]:
        """The morphism without its tensors, for histories."""
        return {"kind": self.kind, "at": self.at}


@dataclass(frozen=True, eq=False)
class RepeatBlocks(_AtNode):
    """Put copies of the blocks between two values behind the later one.

    Attributes:
        at: name of the node that the last of them ends at.
        source: name of the node that the first of them starts from.
        times: copies of all of them, one behind the other.
    """

    source: str
    times: int = 1
    kind: str = "repeat"

    def record(self) -> dict[str, Any]:
        """The morphism, for histories."""
        return {"kind": self.kind, "at": self.at, "source": self.source, "times": self.times}


StructureMorphism = (
    InsertSkip
    | RemoveSkip
    | InsertSqueezeExcite
    | InsertNorm
    | ResizeKernel
    | Restride
    | InsertPool
    | RemovePool
    | MovePool
    | StrideToPool
    | Factorise
    | Collapse
    | JoinPair
    | RepeatBlocks
)
"""Morphisms of what a layer is."""
