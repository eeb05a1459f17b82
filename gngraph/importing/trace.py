"""Tracing with torch.fx, in train and in eval mode, so that flags baked by tracing become symbolic again."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn.utils import parametrize
from torch.utils._pytree import tree_leaves

from gngraph.errors import UnsupportedModelError
from gngraph.importing.concrete import Shadow, Undecided
from gngraph.ir import Flag
from gngraph.ops import spec_of_module
from gngraph.ops.spec import traced_by_name

_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)
_SHAPED = ("view", "reshape", "expand", torch.reshape)
"""Calls whose second argument may be a shape."""
_FACTORIES = ("arange", "empty", "eye", "full", "linspace", "ones", "zeros")
_READS = ("size", "dim", "ndimension", "is_floating_point", getattr, operator.getitem)
"""Calls that only read what is there."""
_COMPARISONS = (
    *(operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge, operator.not_),
    *(operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod),
)
"""Functions of which Python's control flow on sizes is made."""

Flags = Mapping[tuple[str, int | str], Flag]
"""(node name, argument position or name) -> what stands there in either mode."""


@dataclass(frozen=True)
class Traced:
    """What a forward does in one mode.

    Attributes:
        graph: its calls.
        constants: tensors that the forward makes by itself, by the names under which the graph reads them.
    """

    graph: fx.Graph
    constants: Mapping[str, torch.Tensor]


class _Counted(fx.Proxy):
    """A value whose items are counted, if it has any that do not depend on data, and which joins tuples as a shape does."""

    tracer: _Tracer

    def __len__(self) -> int:
        return self.tracer.length(self)

    def __add__(self, other: Any) -> Any:
        return (*self, *other) if isinstance(other, tuple) else _recorded("__add__")(self, other)

    def __radd__(self, other: Any) -> Any:
        return (*other, *self) if isinstance(other, tuple) else _recorded("__radd__")(self, other)


def _recorded(name: str) -> Callable[..., Any]:
    """An operator as fx records it."""
    recorded: Callable[..., Any] = getattr(fx.Proxy, name)
    return recorded


class _Proxy(_Counted):
    def __getattr__(self, k: str) -> _Attribute:
        return _Attribute(self, k)


class _Attribute(_Counted, fx.proxy.Attribute):
    pass


class _Tracer(fx.Tracer):
    """Stops at modules and functions of the op table and looks into all others, also modules of torch.nn.

    Python control flow on sizes is decided as it is for the example inputs, where it does not depend on the number of
    samples.
    """

    proxy_buffer_attributes = True  # a forward may index a buffer by a size, as causal masks do

    def __init__(self, inputs: Sequence[torch.Tensor]) -> None:
        super().__init__(autowrap_functions=traced_by_name())
        self.inputs = inputs
        self.decided: list[fx.Node] = []
        self._shadow: Shadow | None = None
        self._asking = False

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return spec_of_module(m) is not None

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """As fx does it, but an argument that is left at its default is that default."""
        function, args = super().create_args_for_root(root_fn, is_module, concrete_args)
        for i in range(1 + len(self.inputs), len(args)):
            if isinstance(args[i], fx.Proxy) and args[i].node.args:
                args[i] = args[i].node.args[0]
        return function, args

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        path = self.path_of_module(m)
        try:
            return super().call_module(m, forward, args, kwargs)
        except UnsupportedModelError:
            raise
        except Exception as error:
            raise UnsupportedModelError(
                f"module '{path}' ({type(m).__name__}) cannot be traced: {_reason(error)}; rewrite its forward without "
                f"Python control flow on tensor values, or register it as an op (gngraph.ops.register)"
            ) from error

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **options: Any) -> Any:
        """As fx does it, but a shape that is asked for by one value is taken apart into its sizes."""
        if target in _SHAPED and len(args) == 2 and isinstance(args[1], fx.Proxy) and self._is_shape(args[1]):
            args = (args[0], tuple(self.iter(args[1])))
        return super().create_proxy(kind, target, args, kwargs, *more, **options)

    def _is_shape(self, obj: fx.Proxy) -> bool:
        try:
            return issubclass(self._known(obj, lambda shadow: shadow.kind(obj.node)), tuple)
        except fx.proxy.TraceError:
            return False

    def to_bool(self, obj: fx.Proxy) -> bool:
        """What Python's control flow reads."""
        self.decided.append(obj.node)
        return bool(self._known(obj, lambda shadow: shadow.value(obj.node)))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """The items of a value."""
        items: Any = obj
        return iter([items[i] for i in range(self._known(obj, lambda shadow: shadow.length(obj.node)))])

    def length(self, obj: fx.Proxy) -> int:
        """The number of items of a tuple or shape; that of a tensor is a size, which would be baked in."""
        if issubclass(self._known(obj, lambda shadow: shadow.kind(obj.node)), torch.Tensor):
            raise fx.proxy.TraceError(f"len('{obj.node.name}') is a size that becomes a number; read it as shape[0]")
        return int(self._known(obj, lambda shadow: shadow.length(obj.node)))

    def holds(self, check: fx.Node) -> bool:
        """Whether an assertion is one on sizes, which holds for the example; it is as if it stood in Python."""
        condition = check.args[0]
        if not isinstance(condition, fx.Node):
            return bool(condition)
        self.decided.append(condition)
        try:
            return bool(self._known(fx.Proxy(condition, self), lambda shadow: shadow.value(condition)))
        except fx.proxy.TraceError:
            return False

    def _known(self, obj: fx.Proxy, read: Callable[[Shadow], Any]) -> Any:
        if self._asking:
            raise fx.proxy.TraceError(f"'{obj.node.name}' cannot be computed without being traced")
        try:
            self._asking = True
            if self._shadow is None:
                assert isinstance(self.root, nn.Module)
                self._shadow = Shadow(self.root, self.graph, self.inputs)
            return read(self._shadow)
        except Undecided as error:
            raise fx.proxy.TraceError(f"Python asks for the value of '{obj.node.name}', which {error}") from error
        finally:
            self._asking = False


def _reason(error: Exception) -> str:
    first = str(error).strip().splitlines()
    return first[0].rstrip(".") if first else type(error).__name__


def check_module(module: nn.Module) -> None:
    """Refuse what would be lost between tracing and lowering: hooks, parametrizations, scripted and lazy modules.

    Raises:
        UnsupportedModelError: names the module and the remedy.
    """
    for path, child in module.named_modules():
        where = f"module '{path or type(child).__name__}' ({type(child).__name__})"
        if isinstance(child, torch.jit.ScriptModule):
            raise UnsupportedModelError(f"{where} is scripted; pass the original nn.Module instead of TorchScript")
        if parametrize.is_parametrized(child):
            raise UnsupportedModelError(
                f"{where} has parametrized weights; call torch.nn.utils.parametrize.remove_parametrizations first"
            )
        hooks = [name for name in _HOOKS if getattr(child, name, None)]
        if hooks:
            raise UnsupportedModelError(f"{where} has hooks ({hooks[0]}), which tracing would lose; remove them first")
        lazy = [name for name, p in child.named_parameters(recurse=False) if isinstance(p, nn.UninitializedParameter)]
        if lazy:
            raise UnsupportedModelError(
                f"{where} has the uninitialised parameter '{lazy[0]}'; run the model once first"
            )


@contextmanager
def mode_of(module: nn.Module, *, training: bool) -> Iterator[None]:
    """The module in train or eval mode; every submodule's own mode is restored afterwards."""
    modes = [(child, child.training) for child in module.modules()]
    try:
        module.train(training)
        yield
    finally:
        for child, mode in modes:
            child.training = mode


@contextmanager
def plain_attention() -> Iterator[None]:
    """Without the fused fast path of torch's transformer layers, whose arithmetic is that of a whole layer at once."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@contextmanager
def _recorded_factories(tracer: fx.Tracer) -> Iterator[None]:
    """While tracing, calls like torch.zeros(x.shape[0], 3) are recorded: torch itself wants numbers there."""
    originals = {name: getattr(torch, name) for name in _FACTORIES}

    def recorded(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if any(isinstance(leaf, fx.Proxy) for leaf in tree_leaves((args, kwargs))):
                return tracer.create_proxy("call_function", function, args, kwargs)
            return function(*args, **kwargs)

        return call

    try:
        for name, function in originals.items():
            setattr(torch, name, recorded(function))
        yield
    finally:
        for name, function in originals.items():
            setattr(torch, name, function)


@contextmanager
def attached(module: nn.Module, constants: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """The module with the constants of a trace as attributes."""
    try:
        for name, tensor in constants.items():
            setattr(module, name, tensor)
        yield
    finally:
        for name in constants:
            delattr(module, name)


def trace(module: nn.Module, inputs: Sequence[torch.Tensor], *, training: bool) -> Traced:
    """The torch.fx graph of `module` in one mode; the module is not changed.

    Args:
        module: the root; its own mode does not matter.
        inputs: example inputs, whose sizes decide control flow on sizes.
        training: the mode.

    Raises:
        UnsupportedModelError: the forward depends on data, or does what torch.fx cannot follow.
    """
    tracer = _Tracer(inputs)
    before = set(vars(module))
    try:
        with mode_of(module, training=training), plain_attention(), _recorded_factories(tracer):
            graph = tracer.trace(module)
        for node in graph.nodes:
            if node.target is torch._assert and tracer.holds(node):
                graph.erase_node(node)
        constants = {name: vars(module)[name] for name in vars(module) if name not in before}
    except UnsupportedModelError:
        raise
    except Exception as error:
        raise UnsupportedModelError(
            f"'{type(module).__name__}' cannot be traced: {_reason(error)}; its forward must not depend on tensor "
            f"values in Python control flow"
        ) from error
    finally:
        for name in [name for name in vars(module) if name not in before]:
            delattr(module, name)
    _forget(graph, tracer.decided)
    return Traced(graph, {name: value for name, value in constants.items() if isinstance(value, torch.Tensor)})


def _forget(graph: fx.Graph, decided: Sequence[fx.Node]) -> None:
    """Erase what was computed only to decide Python's control flow, and sizes and items that nothing uses.

    As nodes, comparisons would freeze the sizes that they read.
    """
    unused = set(decided)
    for node in reversed(graph.nodes):
        if not node.users and (node in unused or node.target in _READS):
            unused.update(source for source in node.all_input_nodes if _is_comparison(source))
            graph.erase_node(node)


def _is_comparison(node: fx.Node) -> bool:
    return node.op == "call_function" and node.target in _COMPARISONS


def training_flags(evaluated: Traced, trained: Traced) -> Flags | None:
    """The arguments that differ between the modes.

    None when the two traces differ in any other way, that is when the network computes something else while training.
    """
    if len(evaluated.graph.nodes) != len(trained.graph.nodes) or list(evaluated.constants) != list(trained.constants):
        return None
    if not all(torch.equal(tensor, trained.constants[name]) for name, tensor in evaluated.constants.items()):
        return None
    found: dict[tuple[str, int | str], Flag] = {}
    for a, b in zip(evaluated.graph.nodes, trained.graph.nodes, strict=True):
        if (a.op, a.target, len(a.args), sorted(a.kwargs)) != (b.op, b.target, len(b.args), sorted(b.kwargs)):
            return None
        pairs: list[tuple[int | str, Any, Any]] = [
            (i, x, y) for i, (x, y) in enumerate(zip(a.args, b.args, strict=True))
        ]
        pairs += [(key, a.kwargs[key], b.kwargs[key]) for key in a.kwargs]
        for key, x, y in pairs:
            if _names(x) == _names(y):
                continue
            if not (isinstance(x, (bool, int, float)) and isinstance(y, (bool, int, float))):
                return None
            found[a.name, key] = Flag("training", on=y, off=x)
    return found


def modules_in_train_mode(evaluated: Traced, trained: Traced) -> list[str]:
    """Paths of the leaf modules that run in train mode alone."""
    in_eval = {node.target for node in evaluated.graph.nodes if node.op == "call_module"}
    return list(
        dict.fromkeys(
            str(node.target) for node in trained.graph.nodes if node.op == "call_module" and node.target not in in_eval
        )
    )


def _names(value: Any) -> Any:
    """A comparable form of an fx argument: nodes by name."""
    return fx.node.map_arg(value, lambda node: f"%{node.name}") if not isinstance(value, slice) else repr(value)
