"""The tracer: torch.fx, which stops at what the op table knows and decides control flow on sizes as for the example."""

from __future__ import annotations

import math
import operator
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from types import CodeType, FrameType
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves

from gngraph.errors import UnsupportedModelError
from gngraph.importing.attention import written_out
from gngraph.importing.checks import is_traced
from gngraph.importing.concrete import Shadow, Undecided
from gngraph.importing.decided import Decided, Look, LookedAtAs, decided_by
from gngraph.importing.for_python import plain_argument, whole
from gngraph.importing.inputs import ExampleInputs
from gngraph.importing.lookups import Lookups
from gngraph.importing.proxies import ShapeValue, Traceable
from gngraph.importing.reasons import hint_of, reason_of
from gngraph.importing.shapes import ShapesSeen
from gngraph.importing.surroundings import under_autocast
from gngraph.ops import spec_of_module
from gngraph.ops.memory_format import LAST_FORMATS, METHODS, in_format
from gngraph.ops.table import traced_by_name

_SHAPED = ("view", "reshape", "expand", torch.reshape)
"""Calls whose second argument may be a shape."""
_HOOKING = ("register_hook", "register_post_accumulate_grad_hook")
_GRADIENTS = ("backward", torch.autograd.grad, torch.autograd.backward)
"""Calls that compute gradients."""
_PUBLIC = {torch._VF.meshgrid: torch.meshgrid}  # type: ignore[attr-defined]
"""Functions that torch calls behind its own, past which a list of values hides that they are traced."""
_PRODUCTS = ("prod", math.prod)
_ITEMS = {"__getitem__": operator.getitem, "__setitem__": operator.setitem}
WITHOUT_GRADIENT = "without_gradient"
"""Set in the `meta` of nodes that are called where gradients are switched off."""


class Tracer(fx.Tracer):
    """Stops at modules and functions of the op table and looks into all others, also modules of torch.nn.

    Python control flow on sizes is decided as it is for the example inputs, where it does not depend on the number of
    samples. What is called where gradients are switched off is marked so.

    Args:
        module: what is traced, as it is before.
        inputs: example inputs.
        names: of the inputs.
        known: see `Shapes`.

    Attributes:
        functions: names of the autograd.Functions that were traced through, with the modules that call them.
        of_gradients: what the forward asks of gradients, with the modules that ask.
        looks: what Python looked at.
        quotients: what Python rounded to whole numbers.
        tables: what Python looked up in tables.
        modes: whether modules were in train mode when they were called, by path.
    """

    proxy_buffer_attributes = True  # a forward may index a buffer by a size, as causal masks do

    def __init__(self, module: nn.Module, inputs: ExampleInputs, names: Sequence[str], known: ShapesSeen) -> None:
        super().__init__(autowrap_functions=traced_by_name())
        self.module = module
        self.inputs = inputs
        self.names = names
        self.known = known
        self.functions: dict[str, str] = {}
        self.of_gradients: dict[str, str] = {}
        self.looks: list[Look] = []
        self.quotients: list[fx.Node] = []
        self.tables = Lookups()
        self.modes: dict[str, set[bool]] = {}
        self._own = {id(parameter) for parameter in module.parameters()}
        self._memory = {parameter.untyped_storage()._cdata for parameter in module.parameters()}
        self._device = next((x.device for x in (*module.parameters(), *module.buffers())), torch.device("cpu"))
        self._first: fx.Proxy | None = None
        self._shadow: Shadow | None = None
        self._asking = False
        self._forwards: dict[CodeType, str] | None = None
        self._asked: list[tuple[FrameType, int, Look]] = []
        self._written_out: nn.Module | None = None

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether a module is one node, which it is not where a hook makes its weight or a call hands it over."""
        if spec_of_module(m) is None or m is self._written_out:
            return False
        hooked = any(is_traced(hook) for hook in m._forward_pre_hooks.values())
        return not hooked and all(x is None or id(x) in self._own for x in m._parameters.values())

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        """The root and a placeholder an input for `root_fn`; an argument without an example keeps its default.

        `is_module` and `concrete_args` are those of fx, and are not looked at.
        """
        inputs = [self.create_proxy("placeholder", name, (), {}) for name in self.names]
        self._first = next(iter(inputs), None)
        own = vars(self.root).get("forward")  # of the instance, which hides that of its class
        return (root_fn, [self.root, *inputs]) if own is None else (own, inputs)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """As fx does it with `m`, `forward`, `args` and `kwargs`; a module that cannot be traced is named."""
        try:
            path = self.path_of_module(m)
        except NameError:  # it stands in none of the tree, as activations may, and is a function like others
            return self._of_no_path(m, forward, args, kwargs)
        self.modes.setdefault(path, set()).add(m.training)
        written = written_out(m, args, kwargs)
        self._written_out = m if written is not None else None
        try:
            return super().call_module(m, written or forward, args, kwargs)
        except UnsupportedModelError:
            raise
        except Exception as error:
            hint = hint_of(error) or (
                "rewrite its forward without Python control flow on tensor values, or register it as an op (gngraph.ops.register)"
            )
            raise UnsupportedModelError(
                f"module '{path}' ({type(m).__name__}) cannot be traced: {reason_of(error)}; {hint}"
            ) from error

    def _of_no_path(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        held = next(
            (name for name, tensor in (*m._parameters.items(), *m._buffers.items()) if tensor is not None), None
        )
        if held is not None:
            raise UnsupportedModelError(
                f"{self.here()} calls a module of {type(m).__name__} that is none of its own, so that no state_dict has its "
                f"'{held}'; make it an attribute of a module of the network"
            )
        return forward(*args, **kwargs)

    def create_arg(self, a: Any) -> Any:
        """As fx does it with `a`, but a named tuple stays one, and a generator of random numbers is refused."""
        a = plain_argument(a)
        if isinstance(a, torch.Tensor) and id(a) not in self._own:
            self._refuse_hidden(a)
        if isinstance(a, torch.Generator):
            raise UnsupportedModelError(
                f"{self.here()} draws random numbers by a torch.Generator of its own, whose state a graph does not hold; draw "
                f"by torch's global stream"
            )
        if isinstance(a, torch.device) and a == self._device:  # of the network, which may be moved
            return super().create_arg(super().create_proxy("call_function", getattr, (self._first, "device"), {}))
        if isinstance(a, tuple) and hasattr(a, "_fields"):  # which fx would record as a call
            return type(a)(*map(self.create_arg, a))
        return super().create_arg(a)

    def _refuse_hidden(self, x: torch.Tensor) -> None:
        """Refuse a tensor that was computed of parameters, lies in their memory, or is one that the network does not have."""
        if isinstance(x, nn.Parameter):
            raise UnsupportedModelError(
                f"{self.here()} reads a parameter of shape {tuple(x.shape)} that is none of the network's, as of a plain list, so "
                f"that nothing trains it; hold it in an attribute or an nn.ParameterList"
            )
        batched = torch._C._functorch.is_functorch_wrapped_tensor(x)
        if not batched and (x.grad_fn is not None or x.untyped_storage()._cdata in self._memory):
            raise UnsupportedModelError(
                f"{self.here()} computes with parameters that it takes from a list of them, as named_parameters() gives one, which "
                f"is not traced; let it read them as attributes of its modules"
            )

    def create_node(self, kind: str, target: Any, *more: Any, **options: Any) -> fx.Node:
        """As fx does it with `kind`, `target`, `more` and `options`; the node knows whether gradients are on."""
        if kind.startswith("call") and under_autocast():
            raise UnsupportedModelError(
                f"{self.here()} calls '{getattr(target, '__name__', target)}' under autocast, whose casts a graph does not "
                f"hold; leave autocast to the loop that trains"
            )
        node = super().create_node(kind, target, *more, **options)
        if kind.startswith("call") and not torch.is_grad_enabled() and not self._is_in_function():
            node.meta[WITHOUT_GRADIENT] = True
        return node

    def _is_in_function(self) -> bool:
        """Whether the forward of an autograd.Function runs now, called by a name that its `apply` was given before; it is noted."""
        if self._forwards is None:
            self._forwards = dict(_forwards_below(torch.autograd.Function))
        frame: FrameType | None = sys._getframe()
        while frame is not None and frame.f_code not in self._forwards:
            frame = frame.f_back
        if frame is not None:
            self.functions[self._forwards[frame.f_code]] = self.here()
        return frame is not None

    def here(self) -> str:
        """The module whose forward runs now, for messages."""
        path, kind = next(reversed(self.module_stack.values()), ("", type(self.root)))
        return f"module '{path or getattr(kind, '__name__', kind)}'"

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """What stands for a node's value while the forward runs."""
        return (ShapeValue if node.target == "size" and len(node.args) == 1 else Traceable)(node, self)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *more: Any, **options: Any) -> Any:
        """As fx does it, but a shape that is asked for by one value is taken apart into its sizes.

        `kind`, `target`, `args`, `kwargs`, `more` and `options` are those of fx.
        """
        if target in _HOOKING:
            raise UnsupportedModelError(
                f"{self.here()} hooks a gradient ({target}) in its forward, which a graph would train without; leave the hook out"
            )
        if target == "requires_grad_" and isinstance(args[0], fx.Proxy) and args[0].node.op != "get_attr":
            return args[0]  # asked of a state that a forward makes: what gradients it has nobody reads
        if target is getattr and args[1] == "requires_grad":
            self.of_gradients["requires_grad"] = self.here()
        if target in _GRADIENTS:
            raise UnsupportedModelError(
                f"{self.here()} computes gradients in its forward, which a graph cannot hold; write the derivative out with "
                f"torch's functions"
            )
        if target == "new":
            target, args = self._new(*args)
        if target == "type" and len(args) == 1 and not kwargs:
            return torch.empty(0, dtype=self.dtype(args[0].dtype), device=self._device).type()
        if target == "new_tensor" and not any(isinstance(x, fx.Proxy) for x in tree_leaves((args[1:], kwargs))):
            return self._constant_like(args[0], args[1:], kwargs)
        if kind == "call_function":
            target = _PUBLIC.get(target, target)
        kind, target, args, kwargs, last = _formatted(kind, target, args, kwargs)
        if target in _PRODUCTS and self._is_a(args[0], tuple):  # of a shape
            return reduce(operator.mul, self.iter(args[0]), 1)
        if target in _ITEMS:  # of a tensor that the forward makes by itself
            kind, target = "call_function", _ITEMS[target]
        if target in _SHAPED and len(args) == 2 and isinstance(args[1], fx.Proxy) and self._is_a(args[1], tuple):
            args = (args[0], tuple(self.iter(args[1])))
        value = super().create_proxy(kind, target, args, kwargs, *more, **options)
        return value if last is None else super().create_proxy("call_function", in_format, (value, last, "to"), {})

    def _new(self, obj: Any, *args: Any) -> tuple[str, tuple[Any, ...]]:
        """What the old `x.new(...)` is: a tensor of sizes, of a shape, or of data."""
        is_data = len(args) == 1 and isinstance(args[0], (list, tuple)) and not isinstance(args[0], torch.Size)
        return "new_tensor" if is_data else "new_empty", (obj, *(args or (0,)))

    def _constant_like(self, obj: Any, args: Sequence[Any], kwargs: Any) -> Any:
        """A constant of the dtype of a value, and where that is."""
        like = torch.empty(0, dtype=self.dtype(obj.dtype)).new_tensor(*args, **kwargs)
        return like if kwargs else super().create_proxy("call_method", "type_as", (like, obj), {})

    def kind(self, obj: fx.Proxy) -> type | None:
        """The Python type of a value, where it is known without data."""
        try:
            found: type = self._known(obj, lambda shadow: shadow.kind(obj.node))
        except fx.proxy.TraceError:
            return None
        return found

    def class_of(self, obj: fx.Proxy) -> type:
        """What Python's `type` gives: as `kind`, or, where that is not known, the class of what stands for the value."""
        return self.kind(obj) or type(obj)

    def _is_a(self, obj: fx.Proxy, kind: type) -> bool:
        return issubclass(self.kind(obj) or object, kind)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """What Python's control flow reads."""
        return bool(self._looked_at(obj, "flag", lambda shadow: shadow.value(obj.node)))

    def dtype(self, obj: fx.Proxy) -> torch.dtype:
        """The dtype that a value is; no size decides it."""
        found: torch.dtype = self._known(obj, lambda shadow: shadow.value(obj.node))
        return found

    def number(self, obj: fx.Proxy) -> Any:
        """A number that Python computes or counts with."""
        return self._looked_at(obj, "number", lambda shadow: shadow.value(obj.node))

    def iter(self, obj: fx.Proxy) -> Iterator[Any]:
        """The items of a value."""
        items: Any = obj
        return iter([items[i] for i in range(self.length(obj))])

    def hash_of(self, obj: fx.Proxy) -> int | None:
        """The hash by which a table is asked for a value; None for that of an object."""
        found: int | None = self.tables.hash_of(obj.node, lambda read: self._known(obj, read), self.here())
        return found

    def text_of(self, obj: fx.Proxy) -> Any:
        """The number, dtype or device that is written as text; None where it is not known, or depends on the number of samples."""
        return self.tables.text_of(obj.node, lambda read: self._known(obj, read), self.here())

    def length(self, obj: fx.Proxy) -> int:
        """The number of items of a tuple or shape, or of rows of a tensor."""
        return int(self._looked_at(obj, "count", lambda shadow: shadow.length(obj.node)))

    def rows(self, obj: fx.Proxy) -> int | fx.Proxy:
        """What Python's `len` gives: the number of items, or, where that is the number of samples, the value that will hold it."""
        try:
            return self.length(obj)
        except fx.proxy.TraceError:
            if not issubclass(self._known(obj, lambda shadow: shadow.kind(obj.node)), torch.Tensor):
                raise
            counted: fx.Proxy = self.create_proxy("call_method", "size", (obj, 0), {})
            return counted

    def rounded(self, obj: fx.Proxy) -> int | fx.Proxy:
        """What Python's `int` gives: a number, or, where the number of samples enters, the value that will hold it."""
        try:
            return int(obj)  # type: ignore[call-overload, no-any-return]
        except fx.proxy.TraceError:
            found: fx.Proxy | None = whole(obj, lambda x: self._is_a(x, int))
            if found is None:
                raise
            self.quotients.append(obj.node)
            return found

    def holds(self, check: fx.Node) -> bool:
        """Whether an assertion is one on sizes, which holds for the example; it is as if it stood in Python."""
        condition = check.args[0]
        if not isinstance(condition, fx.Node):
            return bool(condition)
        try:
            return self.to_bool(fx.Proxy(condition, self))
        except fx.proxy.TraceError:
            return False

    def asked_at(self, frame: FrameType) -> None:
        """Note where in the user's Python a number was asked for as an index."""
        self._asked.append((frame, frame.f_lasti, self.looks[-1]))

    def recorded_at(self, frame: FrameType) -> None:
        """Forget the numbers that were asked for by the very call that is now recorded: torch tries which signature fits."""
        for asker, place, look in self._asked:
            if (asker, place) == (frame, frame.f_lasti):
                self.looks.remove(look)
        self._asked.clear()

    def _looked_at(self, obj: fx.Proxy, kind: LookedAtAs, read: Callable[[Shadow], Any]) -> Any:
        value = self._known(obj, read)
        self.looks.append(Look(obj.node, kind))
        return value

    def decided(self) -> Decided:
        """What the sizes of inputs decided of what was looked at.

        Raises:
            UnsupportedModelError: the number of samples did.
        """
        if self._shadow is None:
            return Decided()
        self.looks += self.tables.looks()
        return decided_by(type(self.module).__name__, self._shadow, self.looks, self.inputs)

    def _known(self, obj: fx.Proxy, read: Callable[[Shadow], Any]) -> Any:
        if self._asking:
            raise fx.proxy.TraceError(f"'{obj.node.name}' cannot be computed without being traced")
        try:
            self._asking = True
            if self._shadow is None:
                assert isinstance(self.root, nn.Module)
                self._shadow = Shadow(self.module, self.root, self.graph, self.inputs, self.known)
            return read(self._shadow)
        except Undecided as error:
            raise fx.proxy.TraceError(f"Python asks for the value of '{obj.node.name}', which {error}") from error
        finally:
            self._asking = False


def _formatted(
    kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[str, Any, Any, Any, str | None]:
    """A call without the memory formats that it asks for, and channels last where it asks for it and does something else.

    One that asks for channels last alone is an op, as kernels go by it.
    """
    asked = [arg for arg in (*args, *kwargs.values()) if isinstance(arg, torch.memory_format)]
    if not asked:
        return kind, target, args, kwargs, None
    args = tuple(arg for arg in args if not isinstance(arg, torch.memory_format))
    kwargs = {key: arg for key, arg in kwargs.items() if not isinstance(arg, torch.memory_format)}
    name = next((name for name, format in LAST_FORMATS.items() if format in asked), None)
    if target not in METHODS or len(args) > 1 or kwargs:
        return kind, target, args, kwargs, name if kind == "call_method" else None
    if name is None:
        return kind, "clone" if target == "clone" else "contiguous", args, kwargs, None
    return "call_function", in_format, (*args, name, target), {}, None


def _forwards_below(kind: type) -> Iterator[tuple[CodeType, str]]:
    """The code of the forward of every autograd.Function, and its name."""
    below: type
    for below in type.__subclasses__(kind):
        code = getattr(getattr(below, "forward", None), "__code__", None)
        if code is not None:
            yield code, below.__name__
        yield from _forwards_below(below)
