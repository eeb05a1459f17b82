"""The values of the IR: types, attributes, parameters and nodes. All are immutable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

import torch

from gngraph.errors import IRError

BATCH = "N"
"""Name of the symbolic batch dimension."""

Dim = int | str
"""A size, or the name of a symbolic size."""

_SHORT = {
    torch.float32: "f32",
    torch.float64: "f64",
    torch.float16: "f16",
    torch.bfloat16: "bf16",
    torch.int64: "i64",
    torch.int32: "i32",
    torch.int16: "i16",
    torch.int8: "i8",
    torch.uint8: "u8",
    torch.bool: "bool",
    torch.complex64: "c64",
    torch.complex128: "c128",
}
_LONG = {short: dtype for dtype, short in _SHORT.items()}


def dtype_name(dtype: torch.dtype) -> str:
    """Short name of a dtype.

    Raises:
        IRError: a graph holds no tensors of it.

    >>> dtype_name(torch.float32)
    'f32'
    """
    if dtype not in _SHORT:
        raise IRError(f"a graph holds no tensors of dtype '{dtype}'; it holds those of {', '.join(map(str, _SHORT))}")
    return _SHORT[dtype]


def dtype_of(name: str) -> torch.dtype:
    """Inverse of `dtype_name`; raises KeyError for an unknown name."""
    return _LONG[name]


@dataclass(frozen=True)
class TensorType:
    """Type of a tensor value: a dtype name and one `Dim` an axis.

    >>> print(TensorType("f32", ("N", 3, 8, 8)))
    f32[N,3,8,8]
    """

    dtype: str
    shape: tuple[Dim, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(str(d) for d in self.shape)}]"


@dataclass(frozen=True)
class TupleType:
    """Type of a value that is a tuple or list of values, such as the result of `chunk`."""

    items: tuple[Type, ...]

    def __str__(self) -> str:
        return f"({', '.join(str(t) for t in self.items)})"


@dataclass(frozen=True)
class OpaqueType:
    """Type of a value that is not a tensor: a size, a shape, a flag.

    Attributes:
        text: name of its Python type.
        value: what is known of the value: a `Dim` or a tuple of them; None when nothing is.
    """

    text: str
    value: Dim | tuple[Dim, ...] | None = None

    def __str__(self) -> str:
        return f"!{self.text}" if self.value is None else f"!{self.text}={self.value}"


Type = TensorType | TupleType | OpaqueType


@dataclass(frozen=True)
class Ref:
    """A reference to the value of node `name`, for use inside structured attributes and outputs."""

    name: str

    def __str__(self) -> str:
        return f"%{self.name}"


Attr = Any
"""An attribute value: None, bool, int, float, str, `Ref`, `Flag`, `Slice`, `DType`, or tuples / `Listed` / `Items` of them."""


@dataclass(frozen=True)
class DType:
    """A dtype as an attribute, by its short name."""

    name: str


@dataclass(frozen=True)
class Flag:
    """A constant that depends on the running network: `Flag("training")` is True in train mode, False in eval mode.

    Attributes:
        name: "training".
        on, off: what it is in train mode and in eval mode.
    """

    name: str
    on: bool | int | float = True
    off: bool | int | float = False


@dataclass(frozen=True)
class Slice:
    """A slice as an attribute."""

    start: Attr
    stop: Attr
    step: Attr


@dataclass(frozen=True)
class Listed:
    """A list as an attribute, for calls that want no tuple."""

    items: tuple[Attr, ...]


@dataclass(frozen=True)
class Items:
    """An ordered mapping with string keys as an attribute (keyword arguments, dictionary outputs)."""

    pairs: tuple[tuple[str, Attr], ...]


def refs_in(attr: Attr) -> Iterator[str]:
    """Names of the values that `attr` refers to, in order of appearance, with repetitions."""
    if isinstance(attr, Ref):
        yield attr.name
    elif isinstance(attr, tuple):
        for item in attr:
            yield from refs_in(item)
    elif isinstance(attr, Listed):
        yield from refs_in(attr.items)
    elif isinstance(attr, Slice):
        yield from refs_in((attr.start, attr.stop, attr.step))
    elif isinstance(attr, Items):
        for _, value in attr.pairs:
            yield from refs_in(value)


def replace_refs(attr: Attr, renaming: Mapping[str, str]) -> Attr:
    """`attr` with every reference renamed by `renaming`; names outside it stay."""
    return with_values(attr, {name: Ref(new) for name, new in renaming.items()})


def with_values(attr: Attr, values: Mapping[str, Attr]) -> Attr:
    """`attr` with what `values` has for a name in the place of every reference to it; other references stay.

    >>> with_values((Ref("size"), Ref("x")), {"size": 4})
    (4, Ref(name='x'))
    """
    if isinstance(attr, Ref):
        return values.get(attr.name, attr)
    if isinstance(attr, tuple):
        return tuple(with_values(item, values) for item in attr)
    if isinstance(attr, Listed):
        return Listed(with_values(attr.items, values))
    if isinstance(attr, Slice):
        return Slice(*(with_values(a, values) for a in (attr.start, attr.stop, attr.step)))
    if isinstance(attr, Items):
        return Items(tuple((key, with_values(value, values)) for key, value in attr.pairs))
    return attr


def attr_at(attrs: Mapping[str, Attr], path: Sequence[str | int]) -> Attr:
    """What stands at `path`: the name of an attribute, then positions in tuples and fields of slices.

    >>> attr_at({"index": (None, Slice(2, 8, None))}, ("index", 1, "stop"))
    8
    """
    value: Attr = attrs[str(path[0])]
    for step in path[1:]:
        value = getattr(value, step) if isinstance(step, str) else value[step]
    return value


def with_integer(attr: Attr, path: Sequence[str | int], value: int) -> Attr:
    """`attr` with the integer at `path` (positions in tuples, fields of slices) replaced.

    Args:
        attr: a whole attribute.
        path: positions in tuples and fields of slices; empty where the attribute itself is the integer.
        value: what stands there afterwards.

    >>> with_integer((None, Slice(2, 8, None)), (1, "stop"), 9)
    (None, Slice(start=2, stop=9, step=None))
    """
    if not path:
        return value
    step, rest = path[0], path[1:]
    if isinstance(step, str):
        return replace(attr, **{step: with_integer(getattr(attr, step), rest, value)})
    return tuple(with_integer(item, rest, value) if i == step else item for i, item in enumerate(attr))


ParameterKind = Literal["parameter", "buffer", "constant"]


@dataclass(frozen=True, eq=False)
class Parameter:
    """A tensor that belongs to the model, under its state_dict name.

    Attributes:
        data: the values; never written in place once it is in a graph.
        kind: "parameter" (an nn.Parameter), "buffer" (in the state_dict) or "constant" (a tensor outside it).
        trainable: `requires_grad` of an nn.Parameter.
        aliases: other state_dict names of the same tensor (tied weights), each with its position in the state_dict.
    """

    data: torch.Tensor
    kind: ParameterKind = "parameter"
    trainable: bool = True
    aliases: tuple[tuple[str, int], ...] = ()

    @property
    def type(self) -> TensorType:
        """Type of the parameter's data."""
        return TensorType(dtype_name(self.data.dtype), tuple(self.data.shape))

    @property
    def count(self) -> int:
        """Number of entries of an nn.Parameter; 0 for buffers and constants."""
        return self.data.numel() if self.kind == "parameter" else 0


_EMPTY: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True)
class Node:
    """One operation and the value it computes: a node *is* its value.

    Attributes:
        name: unique in the graph.
        op: name of an `OpSpec`.
        inputs: names of the values it reads, in the order that the op documents.
        params: op-specific role ("weight", "running_mean") -> name of a parameter of the graph.
        attrs: constants; never a width, for widths come from the shapes of parameters.
        type: type of the value, inferred at commit.
        scope: path of the module whose `forward` runs the operation ("" is the root).
        module: path of the leaf module that it is lowered to, or None for a functional call.
    """

    name: str
    op: str
    inputs: tuple[str, ...] = ()
    params: Mapping[str, str] = field(default_factory=lambda: _EMPTY)
    attrs: Mapping[str, Attr] = field(default_factory=lambda: _EMPTY)
    type: Type = OpaqueType("unknown")
    scope: str = ""
    module: str | None = None

    @property
    def shape(self) -> tuple[Dim, ...]:
        """Shape of the value; () where the value is not a tensor."""
        return self.type.shape if isinstance(self.type, TensorType) else ()
