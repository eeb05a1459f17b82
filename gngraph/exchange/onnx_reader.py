"""The graph of an ONNX file, node by node."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, fx

from gngraph.errors import ModelFileError
from gngraph.exchange.foreign import OPEN, Input, batch_of
from gngraph.exchange.program import Program
from gngraph.exchange.scopes import scope_of

_TYPES: Mapping[int, torch.dtype] = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.DOUBLE: torch.float64,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.BOOL: torch.bool,
}
_OWN = ("", "ai.onnx")
"""Names of ONNX's own set of operators."""


@dataclass(frozen=True, eq=False)
class Weight:
    """A tensor of the file that is to be trained, or to become part of a module.

    Attributes:
        name: in the file.
        value: it.
    """

    name: str
    value: Tensor


@dataclass(frozen=True, eq=False)
class Flowing:
    """A value of the network.

    Attributes:
        node: in the program.
        seen: what it is for two batches of another size: tensors, or a size.
    """

    node: fx.Node
    seen: tuple[Any, Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """For the first of the batches."""
        return tuple(self.seen[0].shape)


class OnnxReader:
    """Reads the graph of one file; the ops of `gngraph.exchange.onnx_ops` call it.

    Args:
        path: of the file.
        model: what is in it.
        shape: of a sample, where the file leaves it open.

    Attributes:
        inputs: of the network.
        batch: samples that the file was written for; None where it takes any number.
        examples: of the inputs, two batches of another size.
        opset: version of the set of operators.
        node: that is read.
        options: its attributes.
    """

    def __init__(self, path: str, model: onnx.ModelProto, shape: tuple[int, ...] | None) -> None:
        self.path, self._file = path, model.graph
        self.opset = max((own.version for own in model.opset_import if own.domain in _OWN), default=0)
        held = {own.name for own in self._file.initializer}
        self.inputs = [self._input(own) for own in self._file.input if own.name not in held]
        self.batch = batch_of(self.inputs, path)
        counts = [(OPEN + more) * (self.batch or 1) for more in (0, 1)]
        a, b = (tuple(own.example(count, path, shape) for own in self.inputs) for count in counts)
        self.examples = (a, b)
        self._program = Program(self.batch)
        self._values: dict[str, Any] = {"": None}
        self._weights: dict[tuple[str, bool], Flowing] = {}
        self._readers = defaultdict[str, list[onnx.NodeProto]](list)
        for node in self._file.node:
            for name in node.input:
                self._readers[name].append(node)
        for output in self._file.output:
            self._readers[output.name].append(onnx.NodeProto())
        self.node, self.options = onnx.NodeProto(), dict[str, Any]()

    def module(self, ops: Mapping[str, Callable[..., Any]]) -> fx.GraphModule:
        """The network.

        Args:
            ops: what each op is called as: given the reader and the inputs, what the node gives.

        Raises:
            ModelFileError: an op is not known, or cannot be read as it stands.
        """
        for own, *seen in zip(self.inputs, *self.examples, strict=True):
            self._values[own.name] = Flowing(self._program.input(own.name), (seen[0], seen[1]))
        for tensor in self._file.initializer:
            self._values[tensor.name] = self._stored(tensor.name, tensor)
        for node in self._file.node:
            self.node = node
            if self.node.output[0] in self._values:  # it went into the op before it
                continue
            op = ops.get(self.node.op_type) if self.node.domain in _OWN else None
            if op is None:
                raise self.refusal("is not known here")
            self.options = {own.name: self._option(own) for own in self.node.attribute}
            try:
                made = op(self, *(self._values[name] for name in self.node.input))
            except ModelFileError:
                raise
            except Exception as error:  # of torch, of an op that is called as its kind is not
                raise self.refusal(f"cannot be read as it stands ({reason_of(error)})") from error
            made = [made] if len(self.node.output) == 1 or not isinstance(made, list | tuple) else made
            self._values |= dict(zip(self.node.output, made, strict=False))
        outputs = [self.traced(self._values[output.name]).node for output in self._file.output]
        return self._program.finished(outputs[0] if len(outputs) == 1 else tuple(outputs))

    def refusal(self, what: str) -> ModelFileError:
        """What to raise where a node is refused.

        Args:
            what: is wrong with it.
        """
        name = self.node.name or self.node.output[0]
        return ModelFileError(
            f"'{self.path}' has the op '{self.node.op_type}' at '{name}', which {what}; give the model that it was exported from"
        )

    def call(self, function: Callable[..., Any] | str, *args: Any, **named: Any) -> Any:
        """A call of a function or a method; of what is known by now, its result.

        Args:
            function: of torch, or the name of a method.
            args: values of the network, weights, tensors and numbers, also within tuples and slices.
            named: the same by name.
        """
        args, named = _mapped(args, self._usable), _mapped(named, self._usable)
        with torch.no_grad():
            seen = [self._made(function, *_mapped((args, named), partial(_seen, number))) for number in (0, 1)]
        if not _any_traced((args, named)) or (isinstance(seen[0], int) and seen[0] == seen[1]):
            return seen[0]
        nodes, words = _mapped((args, named), lambda v: v.node if isinstance(v, Flowing) else v)
        return Flowing(self._program.call(function, *nodes, **words), (seen[0], seen[1]))

    @staticmethod
    def _made(function: Callable[..., Any] | str, args: Any, named: Any) -> Any:
        return function(*args, **named) if callable(function) else getattr(args[0], function)(*args[1:], **named)

    def through(self, name: str, module: torch.nn.Module, x: Flowing) -> Flowing:
        """A call of a module of torch.

        Args:
            name: where it is put.
            module: it.
            x: what it reads.
        """
        with torch.no_grad():
            seen = module(x.seen[0]), module(x.seen[1])
        return Flowing(self._program.module(name, module, x.node), seen)

    def parameter(self, weight: Weight, name: str, *, turned: bool = False) -> Flowing:
        """A weight as a parameter; the same one wherever it is read.

        Args:
            weight: it.
            name: in the state dict; vectors with names of their own are parameters of their own.
            turned: whether rows and columns change places.
        """
        key = (
            weight.name if weight.value.dim() > 1 else name,
            turned,
        )  # an exporter joins vectors that are equal by chance
        if key not in self._weights:
            value = (weight.value.t() if turned else weight.value).clone(memory_format=torch.contiguous_format)
            node = self._program.tensor(name, value, trained=value.is_floating_point())
            self._weights[key] = Flowing(node, (value, value))
        return self._weights[key]

    def scope(self, *names: str) -> str:
        """The module that the node stands for, by the names of its weights, or its own."""
        return scope_of(self.node.name or self.node.output[0], names)

    def traced(self, value: Any) -> Flowing:
        """A value of the network, or a weight.

        Raises:
            ModelFileError: it is neither.
        """
        value = self.parameter(value, scope_of("", (value.name,), whole=True)) if isinstance(value, Weight) else value
        if not isinstance(value, Flowing):
            raise self.refusal("reads a constant where a value of the network is expected")
        return value

    def weight(self, value: Any) -> Weight:
        """A weight of the file.

        Raises:
            ModelFileError: it is computed.
        """
        if not isinstance(value, Weight):
            raise self.refusal("has weights that are computed")
        return value

    def bias_behind(self, size: int) -> Weight | None:
        """What the only reader of the node adds to each of `size` outputs; it is left out then."""
        (reader, *others) = self._readers[self.node.output[0]] or [onnx.NodeProto()]
        if others or reader.op_type != "Add":
            return None
        (found,) = [self._values.get(name) for name in reader.input if name != self.node.output[0]] or [None]
        return found if isinstance(found, Weight) and tuple(found.value.shape) == (size,) else None

    def leave_out_reader(self, made: Any) -> None:
        """Let what the node gives stand for what its only reader does."""
        self._values[self._readers[self.node.output[0]][0].output[0]] = made

    def size(self, x: Any, axis: int) -> Any:
        """A size of a value, as a number where it is the same for every batch."""
        return self.call("size", x, axis)

    def _usable(self, value: Any) -> Any:
        """What a call takes: weights are parameters, and constants of one entry numbers."""
        if isinstance(value, Weight):
            return self.traced(value)
        return value

    def _input(self, own: onnx.ValueInfoProto) -> Input:
        kind = own.type.tensor_type
        if kind.elem_type not in _TYPES:
            name = onnx.TensorProto.DataType.Name(kind.elem_type)
            raise ModelFileError(f"'{self.path}' has the input '{own.name}' of type {name}, which is not known here")
        return Input(own.name, tuple(dim.dim_value or None for dim in kind.shape.dim), _TYPES[kind.elem_type])

    def _stored(self, name: str, tensor: onnx.TensorProto) -> Any:
        value = torch.from_numpy(numpy_helper.to_array(tensor).copy())
        return Weight(name, value) if value.is_floating_point() and value.numel() > 1 else value

    def _option(self, own: onnx.AttributeProto) -> Any:
        if own.type == onnx.AttributeProto.TENSOR:
            return self._stored(own.name, own.t)
        found = onnx.helper.get_attribute_value(own)
        return found.decode() if isinstance(found, bytes) else found


def reason_of(error: Exception) -> str:
    """What another library says, in a line."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200].rstrip('.')}"


def _mapped(tree: Any, change: Callable[[Any], Any]) -> Any:
    """A tree of arguments with every leaf changed."""
    if isinstance(tree, tuple | list):
        return type(tree)(_mapped(item, change) for item in tree)
    if isinstance(tree, Mapping):
        return {key: _mapped(item, change) for key, item in tree.items()}
    if isinstance(tree, slice):
        return slice(*(_mapped(item, change) for item in (tree.start, tree.stop, tree.step)))
    return change(tree)


def _seen(number: int, value: Any) -> Any:
    return value.seen[number] if isinstance(value, Flowing) else value


def _any_traced(tree: Any) -> bool:
    found: list[bool] = []
    _mapped(tree, lambda value: found.append(isinstance(value, Flowing)))
    return any(found)
