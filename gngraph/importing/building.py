"""The graph of a joined trace, node by node."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import fx, nn

from gngraph.errors import IRError, UnsupportedModelError
from gngraph.importing.examples import Example
from gngraph.importing.fx_added import added_layer
from gngraph.importing.fx_arguments import attribute, listed
from gngraph.importing.fx_calls import bind, dispatched, scopes
from gngraph.importing.fx_computed import ComputedLayer, computed_layer, read_alone, within_alone
from gngraph.importing.fx_grouped import grouped_layer
from gngraph.importing.fx_parts import part_layer
from gngraph.importing.fx_products import product_node, transposed_parameter
from gngraph.importing.fx_settled import same_parameter, settle_convolution
from gngraph.importing.fx_shapes import rounded_up, shape_node
from gngraph.importing.inputs import input_node
from gngraph.importing.joining import Joined
from gngraph.importing.norm_counters import COUNTER, counting
from gngraph.importing.parameters import parameters_of
from gngraph.importing.recorded_types import ForeignValue, record
from gngraph.importing.shapes import ShapesSeen
from gngraph.importing.tracer import WITHOUT_GRADIENT
from gngraph.ir import (
    Attr,
    DType,
    Flag,
    Graph,
    Items,
    Node,
    OpaqueType,
    Parameter,
    Ref,
    TensorType,
)
from gngraph.ir.types import TupleType, dtype_of, refs_in, replace_refs
from gngraph.ir.verify import verify
from gngraph.ops import OpSpec, lookup, operands_of, spec_of_function, spec_of_module
from gngraph.ops.cast import CASTS
from gngraph.ops.conv import specialise
from gngraph.ops.filled import EMPTY, FILLS, NUMBER
from gngraph.ops.foreign import MULTIPLY_ADDS, function_path
from gngraph.ops.modes import by_mode
from gngraph.ops.norm_across import of_one_group
from gngraph.ops.pieces import listing_pieces
from gngraph.ops.spec import Call, Operands

_MISFITS = (IRError, TypeError, ValueError)
"""What a type rule raises for arguments that it is not made for."""
_BY_PATH = dict.fromkeys(FILLS, "filled") | {EMPTY: "new_empty", NUMBER: "number"} | dict.fromkeys(CASTS, "cast")
"""Ops that keep their call as a foreign op does, by the path of what is called."""
_LAYERS = (computed_layer, part_layer, grouped_layer, added_layer)
"""Each gives the layer that a call is together with others, or None."""


def built(
    module: nn.Module,
    joint: Joined,
    root: nn.Module,
    held: Collection[str],
    example: Example,
    known: ShapesSeen,
) -> Graph:
    """The graph of the joined trace of a module, whose tensors become the graph's.

    Args:
        module: what was traced, as it was before.
        joint: the trace.
        root: the copy that was traced, in eval mode, with the constants of the trace.
        held: paths of the modules that stay in eval mode while the network trains.
        example: what its placeholders stand for, and how forward is called with it.
        known: see `Shapes`.

    Raises:
        UnsupportedModelError: the trace has what a graph cannot hold, or does not fit the inputs.
    """
    return _Builder(module, joint, root, held, known).build(example)


class _Builder:
    def __init__(
        self, module: nn.Module, joint: Joined, root: nn.Module, held: Collection[str], known: ShapesSeen
    ) -> None:
        self.module = module
        self.traced = joint.graph
        self.constants = joint.constants
        self.root = root
        self.held = held
        self.known_shapes = known
        counters = {node.meta[COUNTER] for node in joint.graph.nodes if COUNTER in node.meta}
        self.scopes = scopes(joint.graph, counters)
        self.flags = joint.flags
        self.params, self.canonical = parameters_of(module)
        self.nodes: dict[str, Node] = {}
        self.env: dict[fx.Node, Attr] = {}
        self.reads: dict[fx.Node, str] = {}
        self.transposed: dict[fx.Node, str] = {}
        shapes = read_alone(self.params, joint.graph)
        found = (
            (n, next(filter(None, (kind(n, shapes, joint.flags) for kind in _LAYERS)), None)) for n in joint.graph.nodes
        )
        self.computed = {node: layer for node, layer in found if layer is not None}
        self.within = within_alone(self.computed)
        self.recorded: Callable[[fx.Node], ForeignValue] | None = None

    def build(self, example: Example) -> Graph:
        placeholders = [n for n in self.traced.nodes if n.op == "placeholder"]
        self.inputs = example.inputs
        names = {}
        for i, (fx_node, name) in enumerate(zip(placeholders, example.names, strict=True)):
            self.nodes[fx_node.name] = input_node(
                fx_node.name, self.inputs, i, self.params, (*self.canonical, *self.constants)
            )
            self.env[fx_node] = Ref(fx_node.name)
            names[name] = fx_node.name
        output: Attr = None
        for fx_node in self.traced.nodes:
            if fx_node.op == "output":
                output = self.attr(fx_node.args[0])
            elif fx_node.op != "placeholder":
                self.convert(fx_node)
        arguments = Items(tuple((key, replace_refs(value, names)) for key, value in example.arguments.pairs))
        own = all(value == Ref(key) for key, value in arguments.pairs)
        inputs = tuple(names.values())
        graph = Graph(type(self.module).__name__, self.nodes, self.params, inputs, output, None if own else arguments)
        verify(graph)
        return graph

    def convert(self, fx_node: fx.Node) -> None:
        if fx_node.op == "get_attr":
            self.reads[fx_node] = self.parameter(str(fx_node.target))
        elif fx_node.op == "call_module":
            self.leaf(fx_node)
        elif fx_node in self.computed:
            self.layer(fx_node, self.computed[fx_node])
        elif fx_node in self.within or rounded_up(self, fx_node) is not None:
            return
        elif not fx_node.meta.get(WITHOUT_GRADIENT) and (held := transposed_parameter(self, fx_node)) is not None:
            self.transposed[fx_node] = held
        elif (held := same_parameter(self, fx_node)) is not None:
            self.reads[fx_node] = held
        else:
            settle_convolution(self, fx_node)
            self.call(fx_node, fx_node.target)

    def layer(self, fx_node: fx.Node, layer: ComputedLayer) -> None:
        """A call that others belong to; where it does not fit, all of them are calls like others."""
        node = replace(layer.node(self, fx_node, self.reads), scope=self.scope(fx_node))
        if self.infers(node):
            return self.add(fx_node, node)
        for inner in [n for n in self.traced.nodes if n in layer.within and n not in self.env] + [fx_node]:
            self.call(inner, inner.target)

    def leaf(self, fx_node: fx.Node) -> None:
        path = str(fx_node.target)
        module = self.module.get_submodule(path)
        found = spec_of_module(module)
        assert found is not None
        spec, read = found
        attrs = read(module)
        params = {}
        for name, _ in (
            *module.named_parameters(remove_duplicate=False),
            *module.named_buffers(remove_duplicate=False),
        ):
            params[name.replace(".", "_")] = self.canonical[f"{path}.{name}"]
        op, attrs = self.specialised(spec.name, attrs, params)
        if spec.call is None:
            args = [self.value(arg) for arg in (*fx_node.args, *fx_node.kwargs.values())]
        else:
            bound = bind(spec.call, fx_node, self.flags)
            if bound is None:
                raise UnsupportedModelError(
                    f"module '{path}' ({type(module).__name__}) is called with unknown arguments"
                )
            args = [self.value(bound.pop(name)) for name in spec.call.operands]
            attrs = {**attrs, **{name: self.attr(value) for name, value in bound.items()}}
            args += [ref for ref in dict.fromkeys(refs_in(tuple(attrs.values()))) if ref not in args]
        node = Node(fx_node.name, op, tuple(args), params, attrs, scope=self.scope(fx_node), module=path)
        held = spec.evaluated if path in self.held else None
        self.add(fx_node, node if held is None else held(node))

    def call(self, fx_node: fx.Node, target: Any) -> None:
        spec = spec_of_function(target)
        if target is getattr and fx_node.args[1] == "data":
            node: Node | None = Node(fx_node.name, "detach", (self.value(fx_node.args[0]),))
        else:
            node = shape_node(self, fx_node) or product_node(self, fx_node)
        if getattr(target, "__qualname__", "").startswith("boolean_dispatch"):
            spec = spec_of_function(dispatched(target))
            node = self.known(fx_node, spec, spec.call_of(dispatched(target))) if spec else None
        elif node is None and spec is not None:
            node = self.known(fx_node, spec, spec.call_of(target))
        node = node or self.foreign(fx_node, target)
        if COUNTER in fx_node.meta:
            node = counting(node, fx_node.meta[COUNTER], len(self.nodes[node.inputs[0]].shape))
        self.add(fx_node, replace(node, scope=self.scope(fx_node)))

    def known(self, fx_node: fx.Node, spec: OpSpec, call: Call | None) -> Node | None:
        """The node of a call of the op table; None when its arguments do not fit (it is then foreign)."""
        bound = bind(call, fx_node, self.flags) if call is not None else None
        if call is None or bound is None:
            return None
        inputs: list[str] = []
        sizes: list[str] = []
        params: dict[str, str] = {}
        attrs: dict[str, Attr] = {}
        for name, value in bound.items():
            if name in call.ignored:
                continue
            if name in call.params:
                if value is None:
                    continue
                if not isinstance(value, fx.Node) or value not in self.reads:
                    return None
                params[name] = self.reads[value]
            elif name in call.operands:
                for position, item in enumerate(value if isinstance(value, (list, tuple)) else [value]):
                    source = self.value(item) if isinstance(item, fx.Node) else ""
                    if name in ("a", "b") and source and isinstance(self.nodes[source].type, OpaqueType):
                        attrs[f"literal{('a', 'b').index(name) + position}"] = Ref(source)
                        sizes.append(source)
                    elif source:
                        inputs.append(source)
                    elif name in ("a", "b") and isinstance(item, (int, float, bool, Flag)):
                        attrs[f"literal{('a', 'b').index(name) + position}"] = item
                    else:
                        return None
            else:
                attrs[name] = self.attr(value)
                found = list(dict.fromkeys(refs_in(attrs[name])))
                if found and name not in call.sizes:
                    return None
                sizes += found
        if not inputs or attrs.pop("alpha", 1) != 1 or attrs.pop("return_indices", False):
            return None
        if any(not isinstance(self.nodes[name].type, TensorType) for name in inputs) and spec.name != "getitem":
            return None
        op, attrs = self.specialised(spec.name, attrs, params)
        node = Node(fx_node.name, op, (*inputs, *dict.fromkeys(sizes)), params, attrs)
        return listing_pieces(self.operands(node)) if self.infers(node) else None

    def specialised(self, op: str, attrs: dict[str, Attr], params: Mapping[str, str]) -> tuple[str, dict[str, Attr]]:
        """The op that a node is by its attributes and its weight, where that is more special."""
        if "weight" in params:
            op, attrs = specialise(op, attrs, tuple(self.params[params["weight"]].data.shape))
        return of_one_group(op, attrs)

    def foreign(self, fx_node: fx.Node, target: Any) -> Node:
        path = f".{target}" if isinstance(target, str) else function_path(target)
        if target is by_mode:
            evaluated, trained = (f"'{a}', {self.nodes[self.value(a)].type}" for a in fx_node.args)
            raise UnsupportedModelError(
                f"'{type(self.module).__name__}' computes something else in train mode ({trained}) than in eval mode ({evaluated})"
                f"; let both modes give one type"
            )
        if path is None:
            raise UnsupportedModelError(
                f"node '{fx_node.name}' calls '{_named(target)}', which is not a function of torch or torchvision that a graph can "
                f"name; register it as an op (gngraph.ops.register)"
            )
        args = tuple(self.flag(fx_node, i, listed(a, self.attr)) for i, a in enumerate(fx_node.args))
        kwargs = Items(tuple((k, self.flag(fx_node, k, listed(a, self.attr))) for k, a in fx_node.kwargs.items()))
        inputs = tuple(dict.fromkeys(refs_in((args, kwargs))))
        known = self.record(fx_node)
        op = _BY_PATH.get(path)
        if op is not None and isinstance(known.type, TensorType):
            plain = tuple(self.flag(fx_node, i, self.attr(a)) for i, a in enumerate(fx_node.args))
            own = {"target": path, "args": plain, "kwargs": kwargs, "dtype": DType(known.type.dtype)}
            node = Node(fx_node.name, op, inputs, {}, own)
            if self.infers(node):
                return node
        attrs = {"target": path, "args": args, "kwargs": kwargs, MULTIPLY_ADDS: known.multiply_adds}
        return Node(fx_node.name, "foreign", inputs, {}, attrs, type=known.type)

    def flag(self, fx_node: fx.Node, key: int | str, attr: Attr) -> Attr:
        return self.flags.get((fx_node.name, key), attr)

    def record(self, fx_node: fx.Node) -> ForeignValue:
        """What a foreign value is, from two runs of the traced network with batches of 2 and of 3 samples."""
        if self.recorded is None:
            self.recorded = record(self.module, self.root, self.traced, self.inputs, self.known_shapes)
        return self.recorded(fx_node)

    def infers(self, node: Node) -> bool:
        try:
            self.typed(node)
        except _MISFITS:
            return False
        return True

    def typed(self, node: Node) -> Node:
        return replace(node, type=lookup(node.op).infer(self.operands(node)))

    def operands(self, node: Node) -> Operands:
        return operands_of(node, tuple(self.nodes[i].type for i in node.inputs), self.params)

    def add(self, fx_node: fx.Node, node: Node) -> None:
        try:
            self.nodes[node.name] = self.typed(node)
        except _MISFITS as error:
            raise UnsupportedModelError(f"'{type(self.module).__name__}' does not fit its inputs: {error}") from error
        self.env[fx_node] = Ref(node.name)
        if fx_node.meta.get(WITHOUT_GRADIENT) and fx_node.op != "get_attr":
            self.hold_gradient(fx_node)

    def hold_gradient(self, fx_node: fx.Node) -> None:
        """Let no gradient pass a value that was computed without, where one could: behind what reads it with gradients on."""
        name, outside = fx_node.name, [user for user in fx_node.users if not user.meta.get(WITHOUT_GRADIENT)]
        type_ = self.nodes[name].type
        if isinstance(type_, TupleType):
            for user in outside:  # an item of it is taken
                user.meta[WITHOUT_GRADIENT] = True
        elif outside and isinstance(type_, TensorType) and dtype_of(type_.dtype).is_floating_point:
            detached = Node(self.traced._graph_namespace.create_name(f"{name}_detached", None), "detach", (name,))
            self.nodes[detached.name] = replace(self.typed(detached), scope=self.scope(fx_node))
            self.env[fx_node] = Ref(detached.name)

    def scope(self, fx_node: fx.Node) -> str:
        return self.scopes.get(fx_node, "")

    def value(self, arg: Any) -> str:
        """Name of the value that an fx argument is."""
        attr = self.attr(arg)
        if not isinstance(attr, Ref):
            raise UnsupportedModelError(f"'{type(self.module).__name__}' passes '{arg!r}' where a tensor is expected")
        return attr.name

    def parameter(self, key: str) -> str:
        if key not in self.canonical:
            value: Any = self.constants.get(key)
            if value is None:
                value = self.module
                for part in key.split("."):
                    value = getattr(value, part)
            if not isinstance(value, torch.Tensor):
                raise UnsupportedModelError(f"attribute '{key}' is read in forward but is not a tensor")
            self.params[key] = Parameter(value.detach(), "constant", trainable=False)
            self.canonical[key] = key
        return self.canonical[key]

    def attr(self, arg: Any) -> Attr:
        return attribute(arg, self.value_of, type(self.module).__name__)

    def value_of(self, fx_node: fx.Node) -> Attr:
        """What a traced node has become; a parameter that is read as a value becomes a node."""
        if fx_node in self.reads and fx_node not in self.env:
            node = Node(fx_node.name, "parameter", (), {"value": self.reads[fx_node]}, scope=self.scope(fx_node))
            self.add(fx_node, node)
        elif fx_node in self.transposed and fx_node not in self.env:
            self.call(fx_node, fx_node.target)
        return self.env[fx_node]


def _named(target: Any) -> str:
    """A function that is called, by where it is defined, or the name under which it is registered in torch."""
    if isinstance(target, torch._ops.OpOverloadPacket | torch._ops.OpOverload):
        return f"torch.ops.{target}"
    return f"{getattr(target, '__module__', '?')}.{getattr(target, '__qualname__', repr(target))}"
