"""Import: any nn.Module that torch.fx can trace becomes a graph, checked to be bit-identical on example inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import fx, nn

from gngraph.errors import IRError, UnsupportedModelError
from gngraph.importing.freeing import return_free_memory, take_apart
from gngraph.importing.fx_calls import bind, dispatched, is_inplace, scopes
from gngraph.importing.fx_products import product_node, transposed_parameter
from gngraph.importing.fx_shapes import shape_node
from gngraph.importing.recorded_types import ForeignValue, record, run_checked
from gngraph.importing.trace import (
    Flags,
    attached,
    check_module,
    mode_of,
    modules_in_train_mode,
    plain_attention,
    trace,
    training_flags,
)
from gngraph.ir import (
    BATCH,
    Attr,
    DType,
    Flag,
    Graph,
    Items,
    Listed,
    Node,
    Parameter,
    Ref,
    Slice,
    TensorType,
    verify,
)
from gngraph.ir.types import dtype_name, refs_in
from gngraph.ops import OpSpec, lookup, operands_of, spec_of_function, spec_of_module
from gngraph.ops.conv import specialise
from gngraph.ops.foreign import MULTIPLY_ADDS, function_path
from gngraph.ops.spec import Call
from gngraph.ops.vet import vet

TrainOnly = Literal["refuse", "drop"]
"""What to do with parts that run only in train mode: refuse the model, or drop them."""

_MISFITS = (IRError, TypeError, ValueError)
"""What a type rule raises for arguments that it is not made for."""


def from_torch(
    module: nn.Module, example_inputs: torch.Tensor | Iterable[torch.Tensor], *, train_only: TrainOnly = "refuse"
) -> Graph:
    """The graph of an unmodified module. The module itself is not changed, and the graph has its own parameters.

    Python control flow on sizes is decided as it is for the example inputs; arguments without an example keep their
    defaults. Torch's transformer layers are read as their plain arithmetic: where torch takes its fused fast path (in eval
    mode, without gradients) they differ from it in the last bits.

    Args:
        module: any nn.Module that torch.fx can trace. Its training mode does not matter.
        example_inputs: one tensor, or one for each argument of `forward`; axis 0 is the batch. They give the shapes, and
            the graph is run on them to prove that it computes bit for bit what the module computes in eval mode.
        train_only: what to do when the module computes more in train mode than in eval mode (auxiliary heads).

    Raises:
        UnsupportedModelError: the module cannot be traced, has hooks or parametrizations, or the inputs do not fit.

    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> graph = from_torch(net, torch.zeros(1, 4))
    >>> [node.op for node in graph.nodes.values()]
    ['input', 'linear', 'relu', 'linear']
    """
    inputs = (example_inputs,) if isinstance(example_inputs, torch.Tensor) else tuple(example_inputs)
    check_module(module)
    traced, trained = (trace(module, inputs, training=training) for training in (False, True))
    flags = training_flags(traced, trained)
    if flags is None and train_only == "refuse":
        parts = ", ".join(f"'{path}'" for path in modules_in_train_mode(traced, trained)[:8])
        raise UnsupportedModelError(
            f"'{type(module).__name__}' computes something else in train mode than in eval mode "
            f"({'modules ' + parts if parts else 'its calls differ'}); pass train_only='drop' (--drop-train-only) to grow "
            f"what eval mode computes"
        )
    take_apart(trained.graph)
    with mode_of(module, training=False), plain_attention(), attached(module, traced.constants), torch.no_grad():
        expected = _run(module, tuple(x.clone() for x in inputs))  # it may work in place on its inputs
        return_free_memory()
        importer = _Importer(module, traced.graph, flags or {})
        graph = importer.build(inputs)
        try:
            vet(graph)
        except IRError as error:
            raise UnsupportedModelError(f"'{type(module).__name__}' cannot be read: {error}") from error
        del importer
        take_apart(traced.graph)
        _check_equal(graph, _run_lowered(graph, inputs), expected)
    return_free_memory()
    # copied last, so that no activation is held beside the copies
    return graph.with_params({name: parameter.data.clone() for name, parameter in graph.params.items()})


def _run(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> Any:
    try:
        return module(*inputs)
    except Exception as error:
        shapes = ", ".join(f"{tuple(x.shape)}, {dtype_name(x.dtype)}" for x in inputs)
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnsupportedModelError(
            f"'{type(module).__name__}' does not run on an input of shape {shapes}: {reason}; "
            f"give an input of the right shape and type"
        ) from error


def _run_lowered(graph: Graph, inputs: tuple[torch.Tensor, ...]) -> Any:
    try:
        return run_checked(graph, inputs)
    except UnsupportedModelError:
        raise
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UnsupportedModelError(
            f"'{graph.name}' was traced, but the traced graph does not run: {reason}; it uses an op that gngraph cannot "
            f"carry through yet"
        ) from error


def _check_equal(graph: Graph, got: Any, expected: Any) -> None:
    mine, theirs = _tensors(got), _tensors(expected)
    if len(mine) != len(theirs):
        raise UnsupportedModelError(
            f"the traced graph of '{graph.name}' returns {len(mine)} tensors where the module returns {len(theirs)}"
        )
    for a, b in zip(mine, theirs, strict=True):
        if a.shape != b.shape or a.dtype != b.dtype or not torch.allclose(a, b, rtol=0, atol=0, equal_nan=True):
            raise UnsupportedModelError(
                f"the traced graph of '{graph.name}' does not reproduce the module's outputs bit for bit; this is a defect "
                f"of gngraph or a forward with side effects"
            )


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return [tensor for item in items for tensor in _tensors(item)]


class _Importer:
    """Builds one graph from one trace."""

    def __init__(self, module: nn.Module, traced: fx.Graph, flags: Flags) -> None:
        self.module = module
        self.traced = traced
        self.scopes = scopes(traced)
        self.flags = flags
        self.params, self.canonical = _parameters(module)
        self.nodes: dict[str, Node] = {}
        self.env: dict[fx.Node, Attr] = {}
        self.reads: dict[fx.Node, str] = {}
        self.transposed: dict[fx.Node, str] = {}
        self.defaults: dict[Any, Attr] = {}
        self.aliases: dict[fx.Node, list[fx.Node]] = {}
        self.recorded: Callable[[fx.Node], ForeignValue] | None = None

    def build(self, inputs: tuple[torch.Tensor, ...]) -> Graph:
        placeholders = [n for n in self.traced.nodes if n.op == "placeholder"]
        if len(placeholders) < len(inputs) or any(not n.args for n in placeholders[len(inputs) :]):
            names = [n.name for n in placeholders]
            raise UnsupportedModelError(
                f"'{type(self.module).__name__}' takes the inputs {names}, but {len(inputs)} example inputs were given"
            )
        self.inputs = inputs
        names = []
        for fx_node, tensor in zip(placeholders, inputs, strict=False):
            type_ = TensorType(dtype_name(tensor.dtype), (BATCH, *tensor.shape[1:]) if tensor.dim() else ())
            self.nodes[fx_node.name] = Node(fx_node.name, "input", type=type_)
            self.env[fx_node] = Ref(fx_node.name)
            names.append(fx_node.name)
        for fx_node in placeholders[len(inputs) :]:
            self.env[fx_node] = self.defaults[fx_node] = fx_node.args[0]  # an argument left at its default
        output: Attr = None
        for fx_node in self.traced.nodes:
            if fx_node.op == "output":
                output = self.attr(fx_node.args[0])
            elif fx_node.op != "placeholder":
                self.convert(fx_node)
        graph = Graph(type(self.module).__name__, self.nodes, self.params, tuple(names), output)
        verify(graph)
        return graph

    def convert(self, fx_node: fx.Node) -> None:
        if fx_node.op == "get_attr":
            self.reads[fx_node] = self.parameter(str(fx_node.target))
        elif fx_node.op == "call_module":
            self.leaf(fx_node)
        elif (held := transposed_parameter(self, fx_node)) is not None:
            self.transposed[fx_node] = held
        else:
            key: Any = fx_node.target
            self.call(fx_node, key)

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
        op = spec.name
        if "weight" in params:
            op, attrs = specialise(op, attrs, tuple(self.params[params["weight"]].data.shape))
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
        self.add(fx_node, Node(fx_node.name, op, tuple(args), params, attrs, scope=self.scope(fx_node), module=path))
        if getattr(module, "inplace", False):
            self.redirect(fx_node)

    def call(self, fx_node: fx.Node, target: Any) -> None:
        spec = spec_of_function(target)
        node = shape_node(self, fx_node) or product_node(self, fx_node)
        if getattr(target, "__qualname__", "").startswith("boolean_dispatch"):
            spec = spec_of_function(dispatched(target))
            node = self.known(fx_node, spec, spec.call_of(dispatched(target))) if spec else None
        elif node is None and spec is not None:
            node = self.known(fx_node, spec, spec.call_of(target))
        node = node or self.foreign(fx_node, target)
        self.add(fx_node, replace(node, scope=self.scope(fx_node)))
        if is_inplace(target, fx_node):
            self.redirect(fx_node)

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
                    item = self.defaults.get(item, item)
                    if isinstance(item, fx.Node):
                        inputs.append(self.value(item))
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
        op = spec.name
        if "weight" in params:
            op, attrs = specialise(op, attrs, tuple(self.params[params["weight"]].data.shape))
        node = Node(fx_node.name, op, (*inputs, *dict.fromkeys(sizes)), params, attrs)
        return node if self.infers(node) else None

    def foreign(self, fx_node: fx.Node, target: Any) -> Node:
        path = f".{target}" if isinstance(target, str) else function_path(target)
        if path is None:
            name = getattr(target, "__qualname__", repr(target))
            raise UnsupportedModelError(
                f"node '{fx_node.name}' calls '{getattr(target, '__module__', '?')}.{name}', which is not a function of torch "
                f"or torchvision that a graph can name; register it as an op (gngraph.ops.register)"
            )
        args = tuple(self.flag(fx_node, i, self.foreign_attr(a)) for i, a in enumerate(fx_node.args))
        kwargs = Items(tuple((k, self.flag(fx_node, k, self.foreign_attr(a))) for k, a in fx_node.kwargs.items()))
        inputs = tuple(dict.fromkeys(refs_in((args, kwargs))))
        known = self.record(fx_node)
        attrs = {"target": path, "args": args, "kwargs": kwargs, MULTIPLY_ADDS: known.multiply_adds}
        return Node(fx_node.name, "foreign", inputs, {}, attrs, type=known.type)

    def foreign_attr(self, arg: Any) -> Attr:
        """An argument of a foreign op, in which a list stays a list."""
        if isinstance(arg, (list, tuple)):
            items = tuple(self.foreign_attr(item) for item in arg)
            return Listed(items) if isinstance(arg, list) else items
        return self.attr(arg)

    def flag(self, fx_node: fx.Node, key: int | str, attr: Attr) -> Attr:
        return self.flags.get((fx_node.name, key), attr)

    def record(self, fx_node: fx.Node) -> ForeignValue:
        """What a foreign value is, from two runs of the traced network with batches of 2 and of 3 samples."""
        if self.recorded is None:
            self.recorded = record(self.module, self.traced, self.inputs)
        return self.recorded(fx_node)

    def infers(self, node: Node) -> bool:
        try:
            self.typed(node)
        except _MISFITS:
            return False
        return True

    def typed(self, node: Node) -> Node:
        operands = operands_of(node, tuple(self.nodes[i].type for i in node.inputs), self.params)
        return replace(node, type=lookup(node.op).infer(operands))

    def add(self, fx_node: fx.Node, node: Node) -> None:
        try:
            self.nodes[node.name] = self.typed(node)
        except _MISFITS as error:
            raise UnsupportedModelError(f"'{type(self.module).__name__}' does not fit its inputs: {error}") from error
        self.env[fx_node] = Ref(node.name)

    def redirect(self, fx_node: fx.Node) -> None:
        """After an in-place op everything that reads its operand later, under any of its names, reads the result.

        Views are not followed: where one is read after its base has changed, the final comparison refuses the model.
        """
        operand = fx_node.args[0]
        if isinstance(operand, fx.Node):
            names = self.aliases.setdefault(operand, [operand])
            names.append(fx_node)
            self.aliases[fx_node] = names
            self.env.update(dict.fromkeys(names, self.env[fx_node]))

    def scope(self, fx_node: fx.Node) -> str:
        return self.scopes.get(fx_node, "")

    def value(self, arg: Any) -> str:
        """Name of the value that an fx argument is; a parameter read as a value becomes a node."""
        attr = self.attr(arg)
        if not isinstance(attr, Ref):
            raise UnsupportedModelError(f"'{type(self.module).__name__}' passes '{arg!r}' where a tensor is expected")
        return attr.name

    def parameter(self, key: str) -> str:
        if key not in self.canonical:
            value: Any = self.module
            for part in key.split("."):
                value = getattr(value, part)
            if not isinstance(value, torch.Tensor):
                raise UnsupportedModelError(f"attribute '{key}' is read in forward but is not a tensor")
            self.params[key] = Parameter(value.detach(), "constant", trainable=False)
            self.canonical[key] = key
        return self.canonical[key]

    def attr(self, arg: Any) -> Attr:
        if isinstance(arg, fx.Node):
            if arg in self.reads and arg not in self.env:
                node = Node(arg.name, "parameter", (), {"value": self.reads[arg]}, scope=self.scope(arg))
                self.add(arg, node)
            elif arg in self.transposed and arg not in self.env:
                self.call(arg, arg.target)
            return self.env[arg]
        if isinstance(arg, (list, tuple)):
            return tuple(self.attr(item) for item in arg)
        if isinstance(arg, slice):
            return Slice(self.attr(arg.start), self.attr(arg.stop), self.attr(arg.step))
        if isinstance(arg, dict):
            return Items(tuple((str(key), self.attr(value)) for key, value in arg.items()))
        if isinstance(arg, torch.dtype):
            return DType(dtype_name(arg))
        if arg is None or isinstance(arg, (bool, int, float, str, Flag)):
            return arg
        raise UnsupportedModelError(
            f"'{type(self.module).__name__}' uses the constant '{arg!r}', which a graph cannot hold"
        )


def _parameters(module: nn.Module) -> tuple[dict[str, Parameter], dict[str, str]]:
    """Parameters by canonical name in state_dict order, as the module's own tensors, and the canonical name of every name."""
    persistent = module.state_dict(keep_vars=True)
    for key, value in persistent.items():
        if not isinstance(value, torch.Tensor):
            raise UnsupportedModelError(
                f"the state_dict entry '{key}' is not a tensor; gngraph cannot carry extra state"
            )
    held = dict(module.named_parameters(remove_duplicate=False))
    buffers = dict(module.named_buffers(remove_duplicate=False))
    order = [*persistent, *(name for name in buffers if name not in persistent)]
    params: dict[str, Parameter] = {}
    canonical: dict[str, str] = {}
    first: dict[int, str] = {}
    for position, name in enumerate(order):
        tensor = held.get(name, buffers.get(name))
        assert tensor is not None
        canonical[name] = first.setdefault(id(tensor), name)
        if canonical[name] != name:
            old = params[canonical[name]]
            params[canonical[name]] = replace(old, aliases=(*old.aliases, (name, position)))
        elif name in held:
            params[name] = Parameter(tensor.detach(), "parameter", tensor.requires_grad)
        else:
            params[name] = Parameter(tensor.detach(), "buffer" if name in persistent else "constant", False)
    return params, canonical
