"""What a network computes, as numbers: two runs give a value the same number only where they compute it alike.

A run on the meta device costs no arithmetic, and every call of ATen passes a dispatch mode: those of the forward, of the
backward and of changes in place, whatever Python decided, hooked or switched off on the way. The number of a value is that of
its op with the numbers of what the op reads. So equal numbers mean equal values, for all data; calls whose results go nowhere,
and the order of calls that do not depend on each other, do not count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from gngraph.importing.shapes import (
    Called,
    Shapes,
    ShapesSeen,
    arguments_of,
    called,
    tensors_in,
    without_values,
)

_UNINITIALISED = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
_COPIES = {"clone", "lift_fresh", "lift_fresh_copy", "_to_copy"}
_COMMUTING = {"add", "add_", "mul", "mul_"}
_STATISTICS = {"native_batch_norm": (3, 4)}
"""Ops that write into arguments without a word in their schema, the running statistics, and the positions of these."""

Geometry = tuple[Any, ...]
"""Which bytes of a storage a tensor is."""


class Unknown(Exception):
    """A value has no number."""


@dataclass
class Numbers:
    """The numbers that were given so far; runs that are compared share them."""

    given: dict[Hashable, int] = field(default_factory=dict)
    whole: dict[int, tuple[int, Geometry]] = field(default_factory=dict)
    parts: dict[int, tuple[int, Geometry]] = field(default_factory=dict)

    def of(self, *key: Hashable) -> int:
        """The number that stands for `key`."""
        return self.given.setdefault(key, len(self.given))

    def memory(self, tensor: int, geometry: Geometry) -> int:
        """The number of a storage that holds a tensor of that number and nothing else."""
        memory, place = self.parts.get(tensor, (-1, None))
        if place == geometry:
            return memory  # a copy of what lies there in the same way
        memory = self.of("memory", tensor, geometry)
        self.whole[memory] = tensor, geometry
        return memory

    def part(self, memory: int, geometry: Geometry) -> int:
        """The number of the tensor that lies so in a storage."""
        tensor, place = self.whole.get(memory, (-1, None))
        if place == geometry:
            return tensor
        tensor = self.of("part", memory, geometry)
        self.parts[tensor] = memory, geometry
        return tensor


@dataclass
class _Memory:
    """What a storage holds: a number for all of it, and those of the tensors in it that are known."""

    storage: Any  # kept, so that no other comes to lie in its place
    whole: int
    extent: Geometry
    tensors: dict[Geometry, int]


class Tape(Shapes):  # type: ignore[no-untyped-call]
    """Numbers every value of one run.

    Args:
        known: see `Shapes`.
        numbers: shared by the runs that are compared.
        stream: which stream of random numbers a draw is from, by what is drawn; a draw is known by those before it in its stream.
    """

    def __init__(self, known: ShapesSeen, numbers: Numbers, stream: Callable[[Hashable], Hashable]) -> None:
        super().__init__(known)
        self.numbers = numbers
        self.memory: dict[int, _Memory] = {}
        self._stream = stream
        self._draws: dict[Hashable, int] = {}

    def declare(self, tensor: torch.Tensor, *name: Hashable) -> None:
        """Say what a tensor is that no op gives: an input, a parameter."""
        self._new(tensor, self.numbers.of(*name))

    def number(self, tensor: torch.Tensor) -> int:
        """The number of what a tensor holds now."""
        memory, geometry = self._memory(tensor), _geometry(tensor)
        known = memory.tensors.get(geometry)
        if known is None:
            known = memory.tensors[geometry] = self.numbers.part(memory.whole, geometry)
        return known

    def _memory(self, tensor: torch.Tensor) -> _Memory:
        found = self.memory.get(tensor.untyped_storage()._cdata)
        if found is not None:
            return found
        if tensor.is_meta:
            raise Unknown(
                "a tensor came without a call, as from a list of indices; what it holds is not known without data"
            )
        return self._new(tensor, self.numbers.of(*data_key(tensor)))

    def _new(self, tensor: torch.Tensor, number: int) -> _Memory:
        storage, geometry = tensor.untyped_storage(), _geometry(tensor)
        memory = _Memory(storage, self.numbers.memory(number, geometry), geometry, {geometry: number})
        self.memory[storage._cdata] = memory
        return memory

    def _copy(self, tensor: torch.Tensor, source: torch.Tensor) -> None:
        """Say that a tensor has the entries of another, in a row, however many axes they are counted along."""
        row = self.numbers.part(self._memory(source).whole, _in_a_row(_geometry(source)))
        offset, sizes, *rest = _geometry(tensor)
        extent = _in_a_row((offset, (math.prod(sizes),), (1,), *rest[1:]))
        storage = tensor.untyped_storage()
        self.memory[storage._cdata] = _Memory(storage, self.numbers.memory(row, extent), extent, {})

    def _write(self, tensor: torch.Tensor, number: int) -> None:
        memory, geometry = self._memory(tensor), _geometry(tensor)
        if _bytes_of(geometry) == _bytes_of(memory.extent) is not None:
            memory.whole, memory.extent = self.numbers.memory(number, geometry), geometry
        else:
            memory.whole = self.numbers.of("written", memory.whole, geometry, number)
        memory.tensors = {geometry: number}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """One op; what it gives, and what it writes into, gets its number."""
        kwargs, op = kwargs or {}, called(func)
        tensors = arguments_of(args, kwargs)
        if not any(x.is_meta for x in tensors):
            constant = not op.seeded and op.name not in _UNINITIALISED
            if constant and (tensors or torch.device(kwargs.get("device") or "cpu").type != "meta"):
                return func(*args, **kwargs)  # made of constants: one more, known by what it holds
            if not tensors:
                kwargs = {**kwargs, "device": torch.device("meta")}
        written = list(_written(op, args, kwargs)) if op.places or op.name in _STATISTICS else []
        key = tuple(self._key(op, args, kwargs, bool(written)))
        number = self.numbers.of(*key, op.seeded and self._drawn(key))
        copied = op.name in _COPIES and kwargs.get("dtype", args[0].dtype) == args[0].dtype
        if copied:
            number = self.number(args[0])
        elif op.name == "copy_" and (args[0].size(), args[0].dtype) == (args[1].size(), args[1].dtype):
            number = self.number(args[1])
        if op.in_place:
            self._write(args[0], number)
            return args[0]
        if not all(x.is_meta for x in tensors):
            args, kwargs = without_values((args, kwargs))
        result = self.shaped(func, args, kwargs)
        for target, place in written:
            self._write(target, self.numbers.of("write", number, place))
        for i, item in enumerate((result,) if isinstance(result, torch.Tensor) else tensors_in(result)):
            if item.untyped_storage()._cdata in self.memory:
                continue
            if copied and item.is_contiguous():
                self._copy(item, args[0])
            else:
                self._new(item, self.numbers.of("item", number, i) if i else number)
        return result

    def _drawn(self, key: Hashable) -> int:
        """The number of a state of the random stream, which a draw changes."""
        stream = self._stream(key)
        state = self._draws.get(stream, self.numbers.of("seed"))
        self._draws[stream] = self.numbers.of("draws", state, key)
        return state

    def _key(self, op: Called, args: Sequence[Any], kwargs: Mapping[str, Any], changes: bool) -> list[Hashable]:
        """An op with the numbers of what it reads; one that works in place is the one that gives a new value."""
        keys = [self._argument(value) for value in args]
        if op.name in _COMMUTING and len(keys) == 2 and not kwargs:
            keys.sort(key=repr)
        for key in sorted(kwargs):
            if key not in ("device", "layout", "memory_format", "pin_memory") and kwargs[key] is not None:
                keys += [key, self._argument(kwargs[key])]
        return [op.name.removesuffix("_") if changes else op.name, op.overload, *keys]

    def _argument(self, value: Any) -> Hashable:
        kind = type(value)
        if isinstance(value, torch.Tensor):
            return "tensor", self.number(value)
        if kind is list or kind is tuple:
            return tuple([self._argument(item) for item in value])
        if kind is float:
            return "float", repr(value)
        if isinstance(value, (torch.device, torch.Generator)):
            return kind.__name__
        return kind.__name__, value


def one_stream(draw: Hashable) -> Hashable:
    """All random numbers are from one stream, as torch has it: whatever `draw` draws is known by all draws before it."""
    return "all"


def stream_of_its_kind(draw: Hashable) -> Hashable:
    """A `draw` is known by those like it alone.

    That is what two networks have in common of which one draws for heads that the other has not.
    """
    return draw


def _written(op: Called, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Iterator[tuple[torch.Tensor, str]]:
    """Tensors that an op writes into, each with its place among the arguments."""
    for position in _STATISTICS.get(op.name, ()):
        if args[5] and args[position] is not None:
            yield args[position], str(position)
    for place in op.places:
        value = args[place] if isinstance(place, int) and place < len(args) else kwargs.get(str(place))
        for number, tensor in enumerate(tensors_in(value)):
            yield tensor, f"{place} {number}"


def _geometry(tensor: torch.Tensor) -> Geometry:
    size, stride = tensor.size(), tensor.stride()
    if 1 in size:  # how far apart the entries of such an axis lie, nobody sees
        stride = tuple([0 if n == 1 else step for n, step in zip(size, stride, strict=True)])
    return tensor.storage_offset(), size, stride, tensor.dtype, tensor.is_conj(), tensor.is_neg()


def _in_a_row(geometry: Geometry) -> Geometry:
    """The same entries in the same order along as few axes as they need."""
    offset, sizes, strides, *rest = geometry
    axes: list[tuple[int, int]] = []
    for size, stride in zip(sizes, strides, strict=True):
        if size != 1 and axes and axes[-1][1] == size * stride:
            axes[-1] = axes[-1][0] * size, stride
        elif size != 1:
            axes.append((size, stride))
    return offset, tuple(size for size, _ in axes), tuple(stride for _, stride in axes), *rest


def _bytes_of(geometry: Geometry) -> tuple[Hashable, ...] | None:
    """Which stretch of a storage a tensor takes without gaps and repetitions; None where it does not."""
    offset, sizes, strides, dtype = geometry[:4]
    entries = 1
    for stride, size in sorted((stride, size) for stride, size in zip(strides, sizes, strict=True) if size != 1):
        if stride != entries:
            return None
        entries *= size
    return offset, entries, dtype


def data_key(tensor: torch.Tensor) -> tuple[Hashable, ...]:
    """What tells a constant from others: its dtype, shape and bytes."""
    held = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
    return "data", tensor.dtype, tensor.size(), bytes(held.numpy())
