"""What stands for the values of a forward while it is traced."""

from __future__ import annotations

import dis
import math
import operator
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from gngraph.errors import UnsupportedModelError
from gngraph.importing.surroundings import is_users


class Counted(fx.Proxy):
    """A value whose items are counted, if it has any that do not depend on data, and which joins tuples as a shape does.

    What is known of it the tracer says (`gngraph.importing.tracer.Tracer`).
    """

    tracer: Any

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The value's own class, where Python code asks for it; torch, in C, would take what stands for a tensor for one."""
        frame = sys._getframe(1)
        asked = frame.f_code.co_code[frame.f_lasti] in _OF_A_CLASS and is_users(frame)
        return self.tracer.class_of(self) if asked else type(self)

    def __len__(self) -> int:
        return int(self.tracer.length(self))

    def __index__(self) -> int:
        number = self.tracer.number(self)
        self.tracer.asked_at(sys._getframe(1))
        return operator.index(number)

    def __int__(self) -> int:
        return int(self.tracer.number(self))

    def __float__(self) -> float:
        return float(self.tracer.number(self))

    def __round__(self, *digits: int) -> Any:
        return round(self.tracer.number(self), *digits)

    def __str__(self) -> str:
        found = self.tracer.text_of(self)
        return super().__repr__() if found is None else str(found)

    def __format__(self, format_spec: str) -> str:
        found = self.tracer.text_of(self)
        return super().__repr__() if found is None else format(found, format_spec)

    def __hash__(self) -> int:
        found: int | None = self.tracer.hash_of(self)
        return super().__hash__() if found is None else found

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        """What NumPy computes with a size, as `np.sqrt(k.size(-1))`, by Python's own function of the same name."""
        function = _OF_NUMPY.get(ufunc.__name__)
        if function is None or method != "__call__" or options:
            return NotImplemented
        numbers = tuple(x if isinstance(x, fx.Proxy) or not hasattr(x, "item") else x.item() for x in inputs)
        return self.tracer.create_proxy("call_function", function, numbers, {})

    @classmethod
    def __torch_function__(cls, orig_method: Any, types: Any, args: Any = None, kwargs: Any = None) -> Any:
        """As fx does it with `orig_method`, `types`, `args` and `kwargs`; torch may have asked which of these are numbers."""
        for proxy in (leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Counted)):
            proxy.tracer.recorded_at(sys._getframe(1))
        return super().__torch_function__(orig_method, types, args, kwargs)

    def __add__(self, other: Any) -> Any:
        return (*self, *other) if isinstance(other, tuple) else _recorded("__add__")(self, other)

    def __radd__(self, other: Any) -> Any:
        return (*other, *self) if isinstance(other, tuple) else _recorded("__radd__")(self, other)

    def __rmul__(self, other: Any) -> Any:
        return other * int(self) if isinstance(other, (tuple, list)) else _recorded("__rmul__")(self, other)


_OF_A_CLASS = {dis.opmap["LOAD_ATTR"], dis.opmap["MATCH_CLASS"]}
"""What Python does in `x.__class__`, as `functools.singledispatch` has it, and in `case torch.Tensor():`."""
_OF_NUMPY: Mapping[str, Callable[..., Any]] = {
    "sqrt": math.sqrt,
    "add": operator.add,
    "subtract": operator.sub,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "floor_divide": operator.floordiv,
    "power": operator.pow,
}
"""Functions of NumPy by their names."""


def _recorded(name: str) -> Callable[..., Any]:
    """An operator as fx records it."""
    recorded: Callable[..., Any] = getattr(fx.Proxy, name)
    return recorded


def _changing(function: Callable[..., Any], name: str) -> Callable[..., Any]:
    """An assignment like `+=`, which fx would record as a new value: other names of the old one would not see it."""

    def change(self: fx.Proxy, other: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, other), {}, name)

    return change


class Traceable(Counted):
    """A value that assignments like `+=` and `x[i] = y` change."""

    __iadd__ = _changing(operator.iadd, "add")
    __isub__ = _changing(operator.isub, "sub")
    __imul__ = _changing(operator.imul, "mul")
    __itruediv__ = _changing(operator.itruediv, "truediv")
    __ifloordiv__ = _changing(operator.ifloordiv, "floordiv")
    __imod__ = _changing(operator.imod, "mod")
    __ipow__ = _changing(operator.ipow, "pow")
    __iand__ = _changing(operator.iand, "and")
    __ior__ = _changing(operator.ior, "or")
    __ixor__ = _changing(operator.ixor, "xor")

    def __setitem__(self, key: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})

    def __getattr__(self, k: str) -> fx.proxy.Attribute:
        kind = None if hasattr(Tensor, k) else self.tracer.kind(self)
        if kind is not None and not hasattr(kind, k):
            raise AttributeError(f"'{kind.__name__}' object has no attribute '{k}'")
        return (ShapeAttribute if k == "shape" else Attribute)(self, k)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "data":
            raise UnsupportedModelError(
                f"{self.tracer.here()} assigns the data of a value (x.data = ...), past its gradient; give it a name of its own"
            )
        super().__setattr__(name, value)

    def reshape_as(self, other: Any) -> Any:
        """In the shape of `other`, which only gives its sizes."""
        return self.reshape(other.size())

    def view_as(self, other: Any) -> Any:
        """As `reshape_as`, in the same memory."""
        return self.view(other.size())


class Attribute(Counted, fx.proxy.Attribute):
    """An attribute of a value, which may be a method that is called next."""


@Sequence.register  # so that it is matched by `case (samples, *rest):`
class ShapeValue(Traceable):
    """A shape that a method gives."""


@Sequence.register
class ShapeAttribute(Attribute):
    """The shape of a value."""
