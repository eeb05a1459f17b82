"""Lowering: a graph becomes a plain torch module (a torch.fx GraphModule, which needs torch alone)."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn

from gngraph.errors import GnGraphError, IRError
from gngraph.ir import (
    Attr,
    DType,
    Flag,
    Graph,
    Items,
    Listed,
    Node,
    OpaqueType,
    Parameter,
    Ref,
    Slice,
    TensorType,
    TupleType,
    Type,
)
from gngraph.ir.graph import checked
from gngraph.ir.inputs import SHARED, without_shared_values
from gngraph.ir.types import dtype_of
from gngraph.lowering.calling import called_as_source
from gngraph.lowering.keywords import with_readable_names
from gngraph.lowering.sizes import expect_size
from gngraph.ops import lookup
from gngraph.ops.foreign import DECIDED
from gngraph.ops.vet import vet


@dataclass(frozen=True)
class Lowered:
    """A lowered graph.

    Attributes:
        module: the torch module; its parameters share memory with the graph's and must not be trained.
        values: IR node name -> the fx node that computes its value.
        steps: IR node name -> every fx node that it was lowered to, in order.
    """

    module: fx.GraphModule
    values: Mapping[str, fx.Node]
    steps: Mapping[str, tuple[fx.Node, ...]]


def to_torch(graph: Graph) -> nn.Module:
    """A plain torch module that computes what `graph` does, with its own copy of the parameters.

    It is called as the source is, be it with dictionaries or lists. The module tree follows the source's:
    `list(module.state_dict())` is equal to the source's, outputs are bit-identical, and `train()` / `eval()` work. It starts in
    eval mode. It runs for every size that the source takes, but where a size decided what the graph holds (`DECIDED` of an input):
    there it raises a `DataError` for another, and needs gngraph to be unpickled.

    Raises:
        IRError: a parameter has no values (the graph was parsed from text).
    """
    return called_as_source(reading_inputs(graph), graph)


def reading_inputs(graph: Graph) -> fx.GraphModule:
    """`to_torch`, but the module takes the graph's inputs one by one, whatever its source takes.

    Raises:
        IRError: as `to_torch` does.
    """
    # copied together, so that parameters that share memory still do
    own = copy.deepcopy({name: parameter.data for name, parameter in checked(graph).params.items()})
    return sharing(graph.with_params(own))


def sharing(graph: Graph) -> fx.GraphModule:
    """`reading_inputs`, but the parameters share memory with the graph's: it is to be run, or exported, and not trained.

    Raises:
        IRError: as `to_torch` does.
    """
    for name, parameter in checked(graph).params.items():
        if parameter.data.is_meta:
            raise IRError(f"parameter '{name}' has no values; load an archive, or set them by graph.with_params(...)")
    vet(graph)  # torch.fx turns names into source code that it executes
    return lower(graph).module


def lower(graph: Graph) -> Lowered:
    """Lower `graph` without copying its parameters; O(#nodes + #parameters).

    Raises:
        IRError: a node has attributes that torch refuses.
    """
    graph = without_shared_values(graph)
    emitter = _Emitter(graph)
    for name in graph.inputs:
        emitter.values[name] = emitter.graph.placeholder(name)
        checks = [
            emitter.call(expect_size, emitter.values[name], name, axis, graph.nodes[name].shape[axis])
            for axis in graph.nodes[name].attrs.get(DECIDED, ())
        ]
        emitter.steps[name] = [emitter.values[name], *checks]
    for node in graph.nodes.values():
        if node.op != "input":
            emitter.emit(node)
    emitter.graph.output(emitter.resolve(graph.output))
    module = fx.GraphModule(emitter.root, with_readable_names(emitter.graph), class_name=graph.name)
    for table in ("_modules", "_parameters", "_buffers", "_non_persistent_buffers_set"):
        # GraphModule keeps only what the graph names, in the order of use; the source's tree has all, in its own order
        own, whole = getattr(module, table), getattr(emitter.root, table)
        own.clear()
        own.update(whole)
    module.eval()
    return Lowered(module, emitter.values, {name: tuple(nodes) for name, nodes in emitter.steps.items()})


class _Emitter:
    """Implements `gngraph.ops.Emitter` for one graph."""

    def __init__(self, graph: Graph) -> None:
        self.source = graph
        self.graph = fx.Graph()
        self.graph._graph_namespace.create_name("self", None)  # a parameter of that name would hide the module
        self.root = nn.Module()
        self.values: dict[str, fx.Node] = {}
        self.steps: dict[str, list[fx.Node]] = {}
        self._leaves: dict[str, nn.Module] = {}
        self._node: Node | None = None
        tensors = {
            id(p): nn.Parameter(p.data, requires_grad=p.trainable) if p.kind == "parameter" else p.data
            for p in graph.params.values()
        }
        for key, parameter in _state_order(graph.params):
            _register(self.root, key, parameter, tensors[id(parameter)])

    def emit(self, node: Node) -> None:
        before = self.graph._root.prev
        self._node = node
        try:
            result = lookup(node.op).emit(self, node)
        except GnGraphError:
            raise
        except (
            Exception
        ) as error:  # an attribute of a graph from text can be missing, or be what torch's module refuses
            told = (str(error).splitlines() or [""])[0]
            raise IRError(
                f"node '{node.name}' cannot be lowered as '{node.op}': {type(error).__name__}: {told}"
            ) from error
        made_as = _other_than_default(self.source, node)
        if made_as is not None:
            result = self.method("to", result, made_as)
        self.values[node.name] = result
        created = []
        step = before.next
        while step is not self.graph._root:
            created.append(step)
            step = step.next
        self.steps[node.name] = created
        if created and result is created[-1] and result.op != "get_attr":
            result.name = self.graph._graph_namespace.create_name(node.name, None)

    def value(self, name: str) -> fx.Node:
        return self.values[name]

    def param(self, name: str) -> fx.Node:
        return self.graph.get_attr(name)

    def shape(self, param: str) -> tuple[int, ...]:
        return tuple(self.source.params[param].data.shape)

    def resolve(self, attr: Attr) -> Any:
        if isinstance(attr, Ref):
            return self.values[attr.name]
        if isinstance(attr, Flag):
            plain = attr.on is True and attr.off is False
            return self.training() if plain else self.call(operator.getitem, (attr.off, attr.on), self.training())
        if isinstance(attr, DType):
            return dtype_of(attr.name)
        if isinstance(attr, Slice):
            return slice(self.resolve(attr.start), self.resolve(attr.stop), self.resolve(attr.step))
        if isinstance(attr, Listed):
            return [self.resolve(item) for item in attr.items]
        if isinstance(attr, Items):
            return {key: self.resolve(value) for key, value in attr.pairs}
        return tuple(self.resolve(item) for item in attr) if isinstance(attr, tuple) else attr

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        return self.graph.call_function(function, args, kwargs)

    def method(self, name: str, *args: Any, **kwargs: Any) -> fx.Node:
        return self.graph.call_method(name, args, kwargs)

    def module(self, build: Callable[[], nn.Module], *args: fx.Node, **kwargs: Any) -> fx.Node:
        assert self._node is not None
        path = self._node.module or self._free_path(self._node)
        leaf = build()
        if path not in self._leaves:
            self._leaves[path] = self._install(path, leaf)
        elif repr(leaf) != repr(self._leaves[path]):
            raise IRError(
                f"node '{self._node.name}' and another are both module '{path}', but not of the same attributes: {leaf} here, "
                f"{self._leaves[path]} there"
            )
        return self.graph.call_module(path, args, kwargs)

    def training(self) -> fx.Node:
        return self.graph.create_node("get_attr", "training")

    def _free_path(self, node: Node) -> str:
        """A path beside the node's scope for a module that the source did not have (it holds no parameters)."""
        prefix = f"{node.scope}." if node.scope else ""
        try:
            self.root.get_submodule(prefix + node.name)
        except AttributeError:
            return prefix + node.name
        return prefix + node.name + "_call"

    def _install(self, path: str, leaf: nn.Module) -> nn.Module:
        parent_path, _, name = path.rpartition(".")
        parent = _container(self.root, parent_path)
        holder = parent._modules.get(name)
        _fill(leaf, holder if holder is not None else nn.Module(), path)
        parent._modules[name] = leaf
        return leaf


def _other_than_default(graph: Graph, node: Node) -> torch.dtype | None:
    """The dtype of a value of floating-point numbers made of none, where it is not the one that torch gives them by itself.

    So it is in a graph of another precision than it was imported in: of `torch.zeros(n)` and of whole numbers divided torch
    makes float32 again.
    """
    if node.op in ("input", SHARED, "parameter") or not isinstance(node.type, TensorType):
        return None
    dtype = dtype_of(node.type.dtype)
    if not dtype.is_floating_point or dtype is torch.get_default_dtype():
        return None
    read = [graph.nodes[name].type for name in node.inputs] + [graph.params[name].type for name in node.params.values()]
    whole = all(isinstance(type_, OpaqueType) or _is_whole(type_) for type_ in read)
    return dtype if whole else None


def _is_whole(type_: Type) -> bool:
    """Whether it is of tensors of integers and flags."""
    if isinstance(type_, TupleType):
        return all(map(_is_whole, type_.items))
    return isinstance(type_, TensorType) and not (
        dtype_of(type_.dtype).is_floating_point or dtype_of(type_.dtype).is_complex
    )


def _fill(leaf: nn.Module, holder: nn.Module, path: str) -> None:
    """Put the tensors that `holder` keeps for the path, and for what stands below it, in their places in `leaf`."""
    for table in ("_parameters", "_buffers"):
        held: Mapping[str, Any] = getattr(holder, table)
        own = getattr(leaf, table)
        for key, tensor in own.items():
            if tensor is not None and key not in held:
                raise IRError(f"module '{path}' needs a tensor '{key}', but the graph has no parameter '{path}.{key}'")
        without = {key: tensor for key, tensor in own.items() if key not in held}
        own.clear()  # the source may have registered its tensors in another order than torch's module does
        own.update({**held, **without})
    for key, child in holder._modules.items():
        below = leaf._modules.get(key)
        if below is None or child is None:
            leaf._modules[key] = child
        else:
            _fill(below, child, f"{path}.{key}")


def _state_order(params: Mapping[str, Parameter]) -> list[tuple[str, Parameter]]:
    """Every state_dict key with its parameter; aliases stand where the source had them."""
    keys = [(name, parameter) for name, parameter in params.items()]
    aliases = [(position, name, p) for p in params.values() for name, position in p.aliases]
    for position, name, parameter in sorted(aliases, key=lambda entry: entry[0]):
        keys.insert(position, (name, parameter))
    return keys


def _container(root: nn.Module, path: str) -> nn.Module:
    module = root
    for part in path.split(".") if path else ():
        if part not in module._modules:
            module._modules[part] = nn.Module()
        child = module._modules[part]
        assert child is not None
        module = child
    return module


def _register(root: nn.Module, key: str, parameter: Parameter, tensor: torch.Tensor | nn.Parameter) -> None:
    path, _, name = key.rpartition(".")
    owner = _container(root, path)
    if isinstance(tensor, nn.Parameter):
        owner._parameters[name] = tensor
        return
    owner._buffers[name] = tensor
    if parameter.kind == "constant":
        owner._non_persistent_buffers_set.add(name)


def run(graph: Graph, *inputs: torch.Tensor) -> Any:
    """Outputs of `graph` in eval mode, without gradients."""
    with torch.no_grad():
        return lower(graph).module(*inputs)
