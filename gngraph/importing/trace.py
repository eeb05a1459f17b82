"""Tracing with torch.fx in one mode, of a copy: what a forward calls, and what it does besides that a graph cannot hold."""

from __future__ import annotations

import builtins
import operator
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import CheckpointFunction

from gngraph.errors import UnsupportedModelError
from gngraph.importing.copies import on_shared_tensors
from gngraph.importing.decided import Decided
from gngraph.importing.examples import Example
from gngraph.importing.for_python import plain_argument, recorded_builtins
from gngraph.importing.reached import Reached
from gngraph.importing.reasons import hint_of, reason_of
from gngraph.importing.shapes import ShapesSeen
from gngraph.importing.surroundings import (
    is_users,
    plain_functions,
    random_streams,
    refused_seeds,
    replaced,
    sampled_distributions,
)
from gngraph.importing.tracer import Tracer
from gngraph.ops import spec_of_function
from gngraph.ops.table import traced_by_name

_FACTORIES = (
    *("arange", "as_tensor", "empty", "eye", "full", "hann_window", "linspace", "logspace", "ones", "tensor"),
    *("tril_indices", "triu_indices", "zeros"),
)
_LIMITS = ("finfo", "iinfo")
_SIZED_METHODS = ("expand", "new_empty", "new_full", "new_ones", "new_zeros")
"""Methods of a tensor that a forward makes by itself, for which torch wants numbers."""
DRAWS = ("normal", "rand", "randint", "randn", "randperm")
"""Functions of torch that draw random numbers without reading a value: recorded, so that a graph draws anew every time."""
_READS = ("size", "dim", "ndimension", "is_floating_point", getattr, operator.getitem)
"""Calls that only read what is there."""
_COMPARISONS = (
    *(operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge, operator.not_),
    *(operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod),
)
"""Functions of which Python's control flow on sizes is made."""


@dataclass(frozen=True)
class Traced:
    """What a forward does in one mode.

    Attributes:
        graph: its calls.
        root: the copy that was traced, in that mode.
        constants: tensors that the forward makes by itself, by the names under which the graph reads them.
        unlike: paths of the modules that the network's `train` and `eval`, or its forward, put into the other mode.
        assigned: buffers and parameters that the forward sets anew, with the nodes that give them.
        functions: autograd.Functions that were traced through, with the modules that call them.
        of_gradients: what it asks of gradients, such as whether they are on, with the modules that ask.
        decided: what the sizes of inputs decided of it.
    """

    graph: fx.Graph
    root: nn.Module
    constants: Mapping[str, torch.Tensor]
    unlike: frozenset[str]
    assigned: Mapping[str, fx.Node]
    functions: Mapping[str, str]
    of_gradients: Mapping[str, str]
    decided: Decided


def trace(module: nn.Module, example: Example, known: ShapesSeen, *, training: bool) -> Traced:
    """The torch.fx graph of a copy of `module` in one mode.

    Args:
        module: the root; its own mode does not matter.
        example: its tensors, whose sizes decide control flow on sizes, are what forward takes, one by one.
        known: see `Shapes`.
        training: the mode.

    Raises:
        UnsupportedModelError: the forward depends on data or on random numbers, or does what torch.fx cannot follow.
    """
    root, name = on_shared_tensors(module), type(module).__name__
    try:
        root.train(training)
    except Exception as error:  # whatever a train() of the user's raises
        raise UnsupportedModelError(f"'{name}' cannot be put into train and eval mode: {reason_of(error)}") from error
    modes = _modes(root)
    tracer = Tracer(module, example.inputs, example.names, known)
    before, streams, reached = set(vars(root)), random_streams(), Reached(root)
    try:
        with (
            _recorded_factories(tracer),
            recorded_builtins(reached.functions, {int: tracer.rounded, type: tracer.class_of}),
            _followed_functions(tracer),
            _looked_into(),
            plain_functions(),
            refused_seeds(partial(_refuse_seed, tracer)),
            sampled_distributions(),
            _noted_system() as system,
        ):
            graph = tracer.trace(root)
        for node in graph.nodes:
            if node.target is torch._assert and tracer.holds(node):
                graph.erase_node(node)
        decided = tracer.decided()
    except UnsupportedModelError:
        raise
    except Exception as error:
        tracer.tables.looks()  # which may be why
        hint = hint_of(error) or "its forward must not depend on tensor values in Python control flow"
        raise UnsupportedModelError(f"'{name}' cannot be traced: {reason_of(error)}; {hint}") from error
    moved = (
        [stream for stream, state in random_streams().items() if streams.get(stream) != state]
        + system
        + reached.moved()
    )
    if moved:
        raise UnsupportedModelError(
            f"'{name}' draws random numbers by '{moved[0]}' while it runs, of which a graph would hold one draw for good; draw by "
            f"what torch records (F.dropout, torch.rand_like, torchvision's StochasticDepth), or do without while training"
        )
    assigned = dict(_taken_back(root, module))
    unlike = frozenset(_unlike(root, modes, tracer.modes, training))
    _forget(graph, [*(look.node for look in tracer.looks if look.of != "count"), *tracer.quotients])
    read = {str(node.target) for node in graph.nodes if node.op == "get_attr"}
    constants = {key: value for key, value in vars(root).items() if key in read - before}
    tensors = {key: value for key, value in constants.items() if isinstance(value, torch.Tensor)}
    return Traced(graph, root, tensors, unlike, assigned, tracer.functions, tracer.of_gradients, decided)


def _refuse_seed(tracer: Tracer, function: str) -> None:
    raise UnsupportedModelError(
        f"{tracer.here()} sets the state of random numbers in its forward ('{function}'), which a graph would not; draw by torch's "
        f"global stream as it stands, or hold numbers that stay in a buffer"
    )


def _taken_back(root: nn.Module, module: nn.Module) -> Iterator[tuple[str, fx.Node]]:
    """Buffers and parameters in whose place a value of the trace stands, each put back as it is in `module`.

    So are tensors in attributes, of which a graph may read what they were before (`self.mean = self.mean.to(x.device)`).
    """
    original = {**dict(module.named_buffers()), **dict(module.named_parameters())}
    twins = dict(module.named_modules())
    for path, child in root.named_modules():
        for table in (child._buffers, child._parameters):
            for key, value in table.items():
                name = f"{path}.{key}".strip(".")
                if isinstance(value, fx.Proxy):
                    table[key] = original.get(name)
                    yield name, value.node
        own = vars(twins[path]) if path in twins else {}
        attributes = vars(child)
        for key in [key for key, value in attributes.items() if isinstance(value, fx.Proxy)]:
            if isinstance(own.get(key), torch.Tensor):
                attributes[key] = own[key]


def _modes(root: nn.Module) -> dict[str, bool]:
    return {path: child.training for path, child in root.named_modules()}


def _unlike(
    root: nn.Module, before: Mapping[str, bool], called: Mapping[str, set[bool]], training: bool
) -> Iterator[str]:
    """The paths of modules that run in the other mode, be it that the forward puts them there."""
    for path, after in _modes(root).items():
        met = called.get(path, {after}) | ({after} if after != before[path] else set())
        if len(met) > 1:
            raise UnsupportedModelError(
                f"module '{path}' changes between train and eval mode in one forward, of which a graph has one; let it stay in one"
            )
        if training not in met:
            yield path


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
def _recorded_factories(tracer: Tracer) -> Iterator[None]:
    """While tracing, calls like torch.zeros(x.shape[0], 3) and len(x), for which Python wants numbers, and draws are recorded."""

    def recorded(name: str) -> Callable[..., Any]:
        function = getattr(torch, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if name in DRAWS or any(isinstance(leaf, fx.Proxy) for leaf in tree_leaves((args, kwargs))):
                return tracer.create_proxy("call_function", function, args, kwargs)
            return function(*args, **{key: plain_argument(x) if key == "dtype" else x for key, x in kwargs.items()})

        return call

    def of_tensor(name: str) -> Callable[..., Any]:
        method = getattr(torch.Tensor, name)

        def call(tensor: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            if any(isinstance(leaf, fx.Proxy) for leaf in tree_leaves((args, kwargs))):
                return tracer.create_proxy("call_method", name, (tensor, *args), kwargs)
            return method(tensor, *args, **kwargs)

        return call

    count = len
    with ExitStack() as stack:
        for name in _SIZED_METHODS:  # which torch.Tensor itself inherits
            method = of_tensor(name)
            stack.callback(delattr, torch.Tensor, name)
            setattr(torch.Tensor, name, method)
        for name in (*_FACTORIES, *DRAWS):
            stack.enter_context(replaced(torch, name, recorded(name)))
        for name in _LIMITS:
            stack.enter_context(replaced(torch, name, _of_known_dtype(tracer, getattr(torch, name))))
        stack.enter_context(replaced(functional, "_none_or_dtype", partial(_dtype_of_mask, tracer)))
        stack.enter_context(
            replaced(builtins, "len", lambda x: tracer.rows(x) if isinstance(x, fx.Proxy) else count(x))
        )
        stack.enter_context(replaced(builtins, "isinstance", _instances(tracer)))
        stack.enter_context(replaced(torch, "is_grad_enabled", _noted_gradients(tracer)))
        stack.enter_context(replaced(torch, "_check", _checked(torch._check)))
        stack.enter_context(_plain_variables())
        yield


def _checked(check: Callable[..., None]) -> Callable[..., None]:
    """What `torch._check` does with a condition on sizes, which it wants as Python's flag."""
    return lambda condition, *message: check(
        bool(condition) if isinstance(condition, fx.Proxy) else condition, *message
    )


def _noted_gradients(tracer: Tracer) -> Callable[[], bool]:
    """What tells whether gradients are on, and notes that the forward asks for it."""
    enabled = torch.is_grad_enabled

    def call() -> bool:
        if is_users(sys._getframe(1)):
            tracer.of_gradients["torch.is_grad_enabled"] = tracer.here()
        return enabled()

    return call


@contextmanager
def _plain_variables() -> Iterator[None]:
    """While tracing, the old `torch.autograd.Variable(x)` is x."""
    kind: Any = type(torch.autograd.Variable)

    def call(cls: Any, *args: Any, **kwargs: Any) -> Any:
        return args[0] if args and isinstance(args[0], fx.Proxy) else type.__call__(cls, *args, **kwargs)

    kind.__call__ = call
    try:
        yield
    finally:
        del kind.__call__


def _instances(tracer: Tracer) -> Callable[[Any, Any], bool]:
    """What `isinstance` says while tracing: to code that is not torch's, what stands for a value is of that value's class."""
    is_instance = isinstance

    def call(value: Any, kinds: Any) -> bool:
        if is_instance(value, kinds) or not is_instance(value, fx.Proxy) or not is_users(sys._getframe(1)):
            return is_instance(value, kinds)
        return issubclass(tracer.class_of(value), kinds)

    return call


def _of_known_dtype(tracer: Tracer, limits: Callable[[torch.dtype], Any]) -> Callable[[Any], Any]:
    """The limits of a dtype that a value has."""

    def call(dtype: Any) -> Any:
        return limits(tracer.dtype(dtype) if isinstance(dtype, fx.Proxy) else dtype)

    return call


def _dtype_of_mask(tracer: Tracer, mask: Any) -> torch.dtype | None:
    """What torch's transformers ask of a mask, which for them is a tensor or None."""
    return tracer.dtype(mask.dtype) if isinstance(mask, fx.Proxy) else None if mask is None else mask.dtype


@contextmanager
def _looked_into() -> Iterator[None]:
    """While tracing, functions in Python that their author marked by torch.fx.wrap are followed, but for those that are ops.

    These are met where they are defined and exported too, as `torchvision.ops.roi_align` is.
    """
    table = "_wrapped_fns_to_patch"
    marked: Mapping[tuple[int, str], Any] = vars(fx._symbolic_trace)[table]
    kept = {key: held for key, held in marked.items() if not _is_followed(held.get(key[1]))}
    for function in traced_by_name():
        names, name = function.__module__.split("."), function.__name__
        modules = (sys.modules.get(".".join(names[:end])) for end in range(1, len(names) + 1))
        places = [vars(module) for module in modules if getattr(module, name, None) is function]
        kept |= {(id(place), name): place for place in places}
    with replaced(fx._symbolic_trace, table, kept):
        yield


def _is_followed(function: Any) -> bool:
    return isinstance(function, FunctionType) and spec_of_function(function) is None


@contextmanager
def _noted_system() -> Iterator[list[str]]:
    """Gives a list that is empty until random.SystemRandom, which has no state, draws."""
    drawn: list[str] = []
    original = vars(random)["_urandom"]

    def noted(size: int) -> bytes:
        drawn[:] = ["random.SystemRandom"]
        entropy: bytes = original(size)
        return entropy

    with replaced(random, "_urandom", noted):
        yield drawn


class _Context:
    """What an autograd.Function keeps for its backward, of which a trace has none."""

    needs_input_grad = (True,) * 64

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: None


@contextmanager
def _followed_functions(tracer: Tracer) -> Iterator[None]:
    """While tracing, the forward of an autograd.Function is looked into, and noted; the proof compares its backward.

    Torch's reentrant checkpoints are such functions, and are what they run.
    """
    apply = vars(torch.autograd.Function)["apply"]

    def followed(cls: Any, *args: Any, **kwargs: Any) -> Any:
        if not any(isinstance(leaf, fx.Proxy) for leaf in tree_leaves((args, kwargs))):
            return apply.__get__(None, cls)(*args, **kwargs)
        if cls is CheckpointFunction:
            return args[0](*args[2:])
        tracer.functions[cls.__name__] = tracer.here()
        combined = cls.setup_context is torch.autograd.Function.setup_context
        return cls.forward(*((_Context(),) if combined else ()), *args, **kwargs)

    with replaced(torch.autograd.Function, "apply", classmethod(followed)):
        yield


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
