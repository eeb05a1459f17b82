"""Example inputs: a call of a module's forward, whose tensors become the inputs of the graph."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import FunctionType
from typing import Any

import torch
from torch import nn

from gngraph.errors import IRError, UnsupportedModelError
from gngraph.importing.inputs import ExampleInputs
from gngraph.importing.outputs import taken
from gngraph.ir import Attr, Items, Listed, Ref
from gngraph.ir.inputs import example
from gngraph.ir.types import dtype_name

_TAKEN = "tensors, numbers, flags, text and None, and tuples, lists and dictionaries of them"
_READ_BY = "_read_by_gngraph"
"""Attribute of the classes that `reading_leaves` makes: the example."""
_CONSTANTS = (type(None), bool, int, float, str)


@dataclass(frozen=True)
class _Leaf:
    """Stands in a structure for the tensor of this number."""

    number: int


def example_for(module: nn.Module, input_shape: tuple[int, ...]) -> torch.Tensor:
    """Two samples to trace a module with, [2, *input_shape]; always the same ones.

    Where it has tables and takes one axis, it reads tokens: int64, for which every table has a row. Else they are float32.

    Args:
        module: any.
        input_shape: of one sample.
    """
    rows = [table.num_embeddings for table in module.modules() if isinstance(table, nn.Embedding | nn.EmbeddingBag)]
    if rows and len(input_shape) == 1:
        return torch.randint(min(rows), (2, *input_shape), generator=torch.Generator().manual_seed(0))
    return example(input_shape)


@dataclass(frozen=True)
class Example:
    """A call of forward.

    Attributes:
        tensors: those among the arguments, in order.
        names: a name for each: that of the argument, with its place in it.
        arguments: what forward takes, as `Graph.arguments` has it; references are the names of the tensors.
        call: the arguments, with a mark in place of each tensor.
        output: the name of the part that is kept of what forward returns; None for all of it.
        whole: whether what is kept is what it returns.
        axes: of each tensor the axis of the samples, see `ExampleInputs`; None: they are all batch first.
    """

    tensors: tuple[torch.Tensor, ...]
    names: tuple[str, ...]
    arguments: Items
    call: inspect.BoundArguments = field(repr=False)
    output: str | None = None
    whole: bool = True
    axes: tuple[int | None, ...] | None = None

    @property
    def inputs(self) -> ExampleInputs:
        """The tensors by samples."""
        return ExampleInputs.batch_first(self.tensors) if self.axes is None else ExampleInputs(self.tensors, self.axes)

    @property
    def is_flat(self) -> bool:
        """Whether the tensors, in order, are the whole call, and what it returns is kept as it is."""
        return self.whole and not self.call.kwargs and all(isinstance(arg, _Leaf) for arg in self.call.args)

    def filled(self, values: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Positional and keyword arguments of the call with other values in place of the tensors."""
        args = tuple(_filled(arg, values) for arg in self.call.args)
        return args, {key: _filled(arg, values) for key, arg in self.call.kwargs.items()}


def example_of(module: nn.Module, given: Any) -> Example:
    """Example inputs as a call of a module's forward.

    Args:
        module: whose forward is called.
        given: a tensor; a tuple or list of positional arguments; a dictionary of keyword arguments.

    Raises:
        UnsupportedModelError: forward does not take them, or they hold what a graph cannot take, or no tensor, or no sample.
    """
    args, kwargs = _as_call(given)
    name, forward = type(module).__name__, module.forward
    try:
        signature = inspect.signature(forward)
        call = signature.bind(*args, **kwargs)
    except (TypeError, ValueError) as error:
        taken = [str(p.replace(annotation=p.empty)) for p in inspect.signature(forward).parameters.values()]
        raise UnsupportedModelError(
            f"'{name}' takes the inputs {taken}, but {_count(args, kwargs)}: {error}; give a tensor, a tuple of the arguments of "
            f"forward, or a dictionary of its keyword arguments (an argument that is a dictionary stands in a tuple: ({{...}},))"
        ) from error
    leaves = _Leaves(name)
    pairs: list[tuple[str, Attr]] = []
    for key, value in call.arguments.items():
        kind = signature.parameters[key].kind
        call.arguments[key], attr = leaves.read(value, key)
        if kind is inspect.Parameter.VAR_KEYWORD:
            pairs += attr.pairs
        elif kind is inspect.Parameter.VAR_POSITIONAL:
            pairs.append((f"*{key}", attr))
        else:
            default = signature.parameters[key].default
            is_default = isinstance(attr, _CONSTANTS) and type(attr) is type(default) and attr == default
            pairs.append((f"{key}=" if is_default else key, attr))
    if not leaves.tensors:
        raise UnsupportedModelError(
            f"the example inputs of '{name}' hold no tensor, and a network is traced on tensors"
        )
    if not any(x.dim() for x in leaves.tensors):
        raise UnsupportedModelError(
            f"the example inputs of '{name}' have no axis, and samples lie along one; give a tensor of several samples"
        )
    if any(argument.strip("*=") == torch.__name__ for argument, _ in pairs):
        raise UnsupportedModelError(
            f"an input of '{name}' is called 'torch', which would hide torch in the forward that torch.fx writes; call it otherwise"
        )
    return Example(tuple(leaves.tensors), tuple(leaves.names), Items(tuple(pairs)), call)


def reading_leaves(module: nn.Module, example: Example) -> nn.Module:
    """A module, the import's own, whose forward takes the tensors of an example one by one, each in its place in the call.

    It returns what is kept of the output alone. It gets a class derived from its own, of the same name; nothing else of it changes.
    """
    kind: Any = type(module)
    original, keep = kind.forward, taken

    def forward(self: nn.Module, *tensors: Any) -> Any:
        args, kwargs = example.filled(tensors)
        return keep(original(self, *args, **kwargs), example.output)

    # torch.fx looks for functions to record among the globals of the root's forward
    derived = FunctionType(
        forward.__code__, getattr(inspect.unwrap(original), "__globals__", {}), "forward", None, forward.__closure__
    )
    names = {"forward": derived, "__module__": kind.__module__, "__qualname__": kind.__qualname__, _READ_BY: example}
    module.__class__ = type(kind.__name__, (kind,), names)
    return module


def read_as(module: nn.Module, original: nn.Module) -> nn.Module:
    """A copy of `original` that takes its tensors as that does: a torch.fx.GraphModule makes a class anew for each copy."""
    example: Example | None = getattr(type(original), _READ_BY, None)
    return module if example is None or hasattr(type(module), _READ_BY) else reading_leaves(module, example)


def _as_call(given: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(given, torch.Tensor):
        return (given,), {}
    if isinstance(given, Mapping):
        return (), {str(key): value for key, value in given.items()}
    if isinstance(given, Iterable) and not isinstance(given, (str, bytes)) and not hasattr(given, "__array__"):
        return tuple(given), {}
    raise UnsupportedModelError(
        f"the example inputs are of type '{type(given).__name__}'; give a tensor, a tuple of the arguments of forward, or a "
        f"dictionary of its keyword arguments{_converted(given)}"
    )


def _converted(value: Any) -> str:
    return "; torch.as_tensor makes a tensor of an array" if hasattr(value, "__array__") else ""


def _count(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> str:
    if kwargs:
        return f"example inputs {list(kwargs)} were given"
    return f"{len(args)} example input{'s were' if len(args) != 1 else ' was'} given"


class _Leaves:
    """The tensors of a call, found one after another."""

    def __init__(self, network: str) -> None:
        self.network = network
        self.tensors: list[torch.Tensor] = []
        self.names: list[str] = []

    def read(self, value: Any, name: str) -> tuple[Any, Attr]:
        """A structure with marks for its tensors, and the same as an attribute.

        Args:
            value: the structure.
            name: of the argument, with the place in it.
        """
        if isinstance(value, torch.Tensor):
            return self._tensor(value, name)
        if isinstance(value, _CONSTANTS):
            return value, value
        if isinstance(value, (tuple, list)):
            read = [self.read(item, f"{name}_{key}") for key, item in _places(value)]
            marked, attrs = [mark for mark, _ in read], tuple(attr for _, attr in read)
            if isinstance(value, list):
                return marked, Listed(attrs)
            return (type(value)(*marked) if hasattr(value, "_fields") else tuple(marked)), attrs
        if isinstance(value, Mapping):
            wrong = next((key for key in value if not isinstance(key, str)), None)
            if wrong is not None:
                raise UnsupportedModelError(
                    f"the example input '{name}' of '{self.network}' is a dictionary with the key '{wrong}', but keys must be text"
                )
            pairs = {key: self.read(item, f"{name}_{key}") for key, item in value.items()}
            return _like(value, {key: mark for key, (mark, _) in pairs.items()}), Items(
                tuple((key, attr) for key, (_, attr) in pairs.items())
            )
        raise UnsupportedModelError(
            f"the example input '{name}' of '{self.network}' is a '{type(value).__name__}', which a graph cannot take; give "
            f"{_TAKEN}{_converted(value)}"
        )

    def _tensor(self, x: torch.Tensor, name: str) -> tuple[_Leaf, Ref]:
        what = f"the example input '{name}' of '{self.network}'"
        if x.layout is not torch.strided or x.is_quantized or x.is_nested:
            raise UnsupportedModelError(f"{what} is a sparse, nested or quantised tensor; give a dense one")
        if x.is_meta:
            raise UnsupportedModelError(f"{what} is on the meta device and has no values; give one with values")
        if x.numel() == 0:
            raise UnsupportedModelError(
                f"{what} has the shape {tuple(x.shape)} and holds nothing; give at least one sample"
            )
        try:
            dtype_name(x.dtype)
        except IRError as error:
            raise UnsupportedModelError(f"{what} cannot be taken: {error}") from error
        self.tensors.append(x.detach().as_subclass(torch.Tensor))
        taken = set(self.names)
        self.names.append(next(n for n in (name, *(f"{name}_{i}" for i in range(1, len(taken) + 2))) if n not in taken))
        return _Leaf(len(self.tensors) - 1), Ref(self.names[-1])


def _places(value: Sequence[Any]) -> list[tuple[Any, Any]]:
    """Items with the names of their fields, or their positions."""
    names = getattr(value, "_fields", range(len(value)))
    return list(zip(names, value, strict=True))


def _like(value: Mapping[str, Any], items: Mapping[str, Any]) -> Any:
    """A mapping of the same kind with other items."""
    if type(value) is dict:
        return dict(items)
    try:
        made: Any = copy.copy(value)
        for key, item in items.items():
            made[key] = item
    except Exception:  # a kind that cannot be changed, or checks what it holds
        return dict(items)
    return made


def _filled(value: Any, values: Sequence[Any]) -> Any:
    """A structure with values in place of its marks."""
    if isinstance(value, _Leaf):
        return values[value.number]
    if isinstance(value, tuple):
        items = [_filled(item, values) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    if isinstance(value, list):
        return [_filled(item, values) for item in value]
    if isinstance(value, Mapping):
        return _like(value, {key: _filled(item, values) for key, item in value.items()})
    return value
