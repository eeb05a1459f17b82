"""Ops on the meta device, where they cost no arithmetic: shapes and dtypes without values."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

ShapesSeen = dict[Hashable, Any]
"""What ops gave for inputs of some shapes."""

_OF_TORCH: ShapesSeen = {}
"""What torch's own ops give, in every run: of their shapes, and of the default dtype, nothing but the arguments decides."""
_MOST = 20_000
"""Most of these that are kept, some 20 MB."""

_LIKE_FIRST = {
    *(
        "add",
        "sub",
        "mul",
        "relu",
        "silu",
        "gelu",
        "sigmoid",
        "tanh",
        "hardswish",
        "hardsigmoid",
        "hardtanh",
        "leaky_relu",
    ),
    *(
        "threshold_backward",
        "silu_backward",
        "gelu_backward",
        "sigmoid_backward",
        "tanh_backward",
        "hardswish_backward",
    ),
    *("hardsigmoid_backward", "hardtanh_backward", "leaky_relu_backward"),
}
"""Ops whose value is like their operands, where these are alike: torch's rules, in Python, take a hundred times as long."""
_RESHAPING = {"resize_", "resize_as_", "t_", "transpose_", "squeeze_", "unsqueeze_", "set_", "as_strided_", "swapaxes_"}
"""Ops in place that change the shape of what they are called on."""
_BY_DATA = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
"""Tags of ops whose values, or shapes, only data tells."""


class Shapes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered, an op on the meta device runs once for inputs of the same shapes: torch's own rules take long.

    Args:
        known: what was found so far of ops that are not torch's own; runs that share it go faster.
    """

    def __init__(self, known: ShapesSeen) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known = known

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One op."""
        kwargs, op = kwargs or {}, called(func)
        if op.in_place and args[0].is_meta:
            return args[0]  # torch's rules for it take long, and tell nothing
        if op.seeded and not arguments_of(args, kwargs):
            kwargs = {**kwargs, "device": torch.device("meta")}  # no random number is drawn for a shape
        return self.shaped(func, args, kwargs)

    def shaped(self, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """Values of the right shapes for what the op `func` gives for `args` and `kwargs`."""
        op = called(func)
        if not op.makes_new:
            return func(*args, **kwargs)
        known = _OF_TORCH if op.is_aten else self.known
        try:
            key = func, torch.get_default_dtype(), _summary(args), _summary(tuple(kwargs.items())) if kwargs else ()
            found = known.get(key)
        except TypeError:  # an argument that is not looked up by its shape
            return func(*args, **kwargs)
        if found is not None:
            single, shapes = found
            made = tuple(shape and torch.empty_strided(*shape[:2], dtype=shape[2], device="meta") for shape in shapes)
            return made[0] if single else made
        result = _like_first(op.name, args) if op.is_aten else None
        result = _run(func, args, kwargs) if result is None else result
        items = (result,) if isinstance(result, torch.Tensor) else result
        read = {x.untyped_storage()._cdata for x in arguments_of(args, kwargs)}
        if isinstance(items, tuple) and all(x is None or _is_new(x, read) for x in items):
            shapes = tuple(None if x is None else (x.size(), x.stride(), x.dtype) for x in items)
            if len(_OF_TORCH) >= _MOST:
                _OF_TORCH.clear()
            known[key] = isinstance(result, torch.Tensor), shapes
        return result


def _run(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """An op on the meta device; one that has no rule for it runs on zeros, if what these are decides no shape."""
    try:
        return func(*args, **kwargs)
    except Exception:  # whatever an op raises without data
        if func.namespace == "aten" and _BY_DATA.isdisjoint(func.tags):
            with suppress(Exception):  # where the shapes do not fit
                real = tree_map_only(torch.Tensor, lambda x: torch.zeros_like(x, device="cpu"), (args, dict(kwargs)))
                return without_values(func(*real[0], **real[1]))
        raise


def _like_first(name: str, args: Sequence[Any]) -> Any:
    """What an op of torch's gives, where that needs no rule; None elsewhere."""
    first = args[0]
    if not isinstance(first, torch.Tensor) or not (first.is_floating_point() and first.is_contiguous()):
        return None
    if name in _LIKE_FIRST and all(_alike(x, first) for x in args if isinstance(x, torch.Tensor)):
        return without_value(first)
    if name == "native_batch_norm":
        return without_value(first), *(without_value(first, [first.shape[1] if args[5] else 0]) for _ in range(2))
    if name == "native_batch_norm_backward" and args[7] and all(args[9]) and _alike(first, args[1]):
        return without_value(first), *(without_value(first, first.shape[1:2]) for _ in range(2))
    if name == "convolution" and not args[6] and _dense(args[:3]) and first.shape[1] == args[1].shape[1] * args[8]:
        return without_value(first, (first.shape[0], args[1].shape[0], *_convolved(first, args[1], *args[3:6])))
    if name == "convolution_backward" and _dense(args[:3]):
        bias = without_value(args[0], args[0].shape[1:2]) if args[10][2] else None
        return *(without_value(x) if wanted else None for x, wanted in zip(args[1:3], args[10], strict=False)), bias
    return None


def _dense(tensors: Sequence[Any]) -> bool:
    return all(x is None or (x.is_meta and x.is_contiguous()) for x in tensors)


def _convolved(
    x: torch.Tensor, weight: torch.Tensor, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int]
) -> Iterator[int]:
    """Sizes of the spatial axes behind a convolution, by the rule of nn.Conv2d's documentation."""
    for axis, (size, kernel) in enumerate(zip(x.shape[2:], weight.shape[2:], strict=True)):
        step, border, apart = (values[min(axis, len(values) - 1)] for values in (stride, padding, dilation))
        reach = size + 2 * border - apart * (kernel - 1) - 1
        if reach < 0:
            raise RuntimeError(
                f"a kernel of {kernel} entries is larger than the {size + 2 * border} entries it goes over"
            )
        yield reach // step + 1


def _alike(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dtype == b.dtype and a.size() == b.size() and a.is_contiguous() and a.is_meta


def _is_new(value: Any, read: set[int]) -> bool:
    """Whether it is a tensor of its own, which `_unsafe_view` does not give, whatever its schema says."""
    return type(value) is torch.Tensor and value.is_meta and value.untyped_storage()._cdata not in read


def without_value(x: torch.Tensor, sizes: Sequence[int] | None = None) -> torch.Tensor:
    """A tensor like another on the meta device, be it of other `sizes`."""
    if sizes is None and not x.is_contiguous():
        return torch.empty_like(x, device="meta")  # written in Python, it takes ten times as long
    return torch.empty(x.size() if sizes is None else sizes, dtype=x.dtype, device="meta")


def without_values(value: Any) -> Any:
    """Arguments with every tensor on the meta device."""
    return tree_map_only(torch.Tensor, lambda x: x if x.is_meta else without_value(x), value)


@dataclass(frozen=True)
class Called:
    """What the schema of an op says; asking torch for it takes longer than most of what is done with it.

    Attributes:
        name: without namespace and overload.
        overload: the name of its overload.
        is_aten: whether it is one of torch's own.
        seeded: whether it draws random numbers.
        places: numbers of the arguments that it writes into, and names of those that have none.
        in_place: whether it gives its first argument back with other values in it, and does nothing else.
        makes_new: whether it reads tensors, gives new ones alone, and changes none.
    """

    name: str
    overload: str
    is_aten: bool
    seeded: bool
    places: tuple[int | str, ...]
    in_place: bool
    makes_new: bool


@cache
def called(func: Any) -> Called:
    """What is known of the op `func`, from its schema."""
    schema = func._schema
    space, _, name = schema.name.rpartition("::")
    places = tuple(
        argument.name if argument.kwarg_only else place
        for place, argument in enumerate(schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    )
    gives_back = name.endswith("_") and name not in _RESHAPING and places == (0,) and len(schema.returns) == 1
    reads = any("Tensor" in str(argument.type) for argument in schema.arguments)
    return Called(
        name,
        func._overloadname,
        space == "aten",
        torch.Tag.nondeterministic_seeded in func.tags,
        places,
        gives_back and str(schema.arguments[0].type) == "Tensor",
        reads and all(entry.alias_info is None for entry in (*schema.arguments, *schema.returns)),
    )


def _summary(value: Any) -> Hashable:
    """What shapes depend on, of an argument."""
    kind = type(value)
    if kind in (list, tuple):
        return tuple([_summary(item) for item in value])
    if isinstance(value, torch.Tensor):
        if not value.is_meta:
            raise TypeError
        return value.dtype, value.size(), value.stride()
    return kind, value


def arguments_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[torch.Tensor]:
    """The tensors that an op is called with, alone and in lists, in order."""
    found = []
    for value in (*args, *kwargs.values()) if kwargs else args:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif type(value) in (list, tuple):
            found += [item for item in value if isinstance(item, torch.Tensor)]
    return found


def tensors_in(value: Any) -> Iterator[torch.Tensor]:
    """The tensors of a structure of tuples, lists and dictionaries, in order."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
