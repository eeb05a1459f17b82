"""What Python or NumPy make of values where a trace has to record them: whole numbers of quotients of sizes, and arrays."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import fx

_DTYPES: Mapping[Any, torch.dtype] = {
    bool: torch.bool,
    int: torch.int64,
    float: torch.float64,
    complex: torch.complex128,
}
"""What torch takes Python's own types for."""


def plain_argument(value: Any) -> Any:
    """An argument of a call as a trace holds it: of NumPy's arrays and numbers, complex numbers, and what names a dtype.

    Names of dtypes are torch's old types of tensors, and Python's own types.

    Args:
        value: anything else is given as it is.
    """
    if isinstance(value, complex):
        made = torch.tensor(value, dtype=torch.complex64)  # without axes, which makes it a number among tensors
        return made if made.item() == value else value
    if isinstance(value, type(torch.FloatTensor)):
        return value.dtype
    if isinstance(value, type):
        return _DTYPES.get(value, value)
    if type(value).__module__ != "numpy" or not hasattr(value, "ndim"):
        return value
    return torch.as_tensor(value) if value.ndim else value.item()


def as_fraction(value: Any) -> tuple[list[Any], list[Any]]:
    """The factors above and below the line of what was multiplied and divided while a trace ran.

    Args:
        value: a number, or what stands for one.
    """
    node = value.node if isinstance(value, fx.Proxy) else value
    proxies = [fx.Proxy(a, value.tracer) if isinstance(a, fx.Node) else a for a in getattr(node, "args", ())]
    if getattr(node, "target", None) in (operator.mul, operator.truediv) and len(proxies) == 2:
        (above, below), (right, left) = map(as_fraction, proxies)
        right, left = (right, left) if node.target is operator.mul else (left, right)
        return above + right, below + left
    return [value], []


def whole(value: Any, is_size: Callable[[fx.Proxy], bool]) -> Any:
    """What `int` makes of a quotient of sizes, computed of whole numbers alone; None where it is made of anything else.

    Sizes are positive, so that it is rounded down.

    Args:
        value: what is rounded.
        is_size: whether something stands for a whole number.
    """
    above, below = as_fraction(value)
    if not all(is_size(x) if isinstance(x, fx.Proxy) else type(x) is int and x > 0 for x in (*above, *below)):
        return None
    found, divisor = (_product(factors) for factors in (above, below))
    return found if type(divisor) is int and divisor == 1 else found // divisor


def _product(factors: Iterable[Any]) -> Any:
    found: Any = 1
    for factor in factors:
        found = factor if type(found) is int and found == 1 else found * factor
    return found


@contextmanager
def recorded_builtins(
    functions: Iterable[FunctionType], of_values: Mapping[type, Callable[[fx.Proxy], Any]]
) -> Iterator[None]:
    """While tracing, `int` and `type` of what stands for a value are what a function gives, in the modules of those that ask.

    Args:
        functions: those that may call them.
        of_values: such classes, each with what takes the place of its call.
    """
    functions = [function for function in functions if not _is_pythons(function)]
    stand_ins: dict[type, type] = {}
    stand_ins |= {kind: _stand_in(kind, of_value, stand_ins) for kind, of_value in of_values.items()}
    with ExitStack() as stack:
        for kind, stand_in in stand_ins.items():
            name = kind.__name__
            asking = [function for function in functions if name in function.__code__.co_names]
            for place in {id(function.__globals__): function.__globals__ for function in asking}.values():
                if name not in place:
                    place[name] = stand_in
                    stack.callback(place.pop, name, None)
        yield


def _stand_in(kind: Any, of_value: Callable[[fx.Proxy], Any], others: Mapping[type, type]) -> type:
    """What is like a class of Python's, but for what it makes of what stands for a value; `type` may give one of the `others`."""

    class Kind(type):
        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            traced = len(args) == 1 and isinstance(args[0], fx.Proxy)
            found = of_value(args[0]) if traced else kind(*args, **kwargs)
            return others.get(found, found) if kind is type else found

        def __instancecheck__(cls, instance: Any) -> bool:
            return isinstance(instance, kind)

        def __getattr__(cls, name: str) -> Any:
            return getattr(kind, name)

        def __subclasscheck__(cls, subclass: type) -> bool:
            return issubclass(subclass, kind)

        def __eq__(cls, other: Any) -> bool:
            return other is kind or other is cls

        def __hash__(cls) -> int:
            return hash(kind)

    return Kind(kind.__name__, (), {})


def _is_pythons(function: FunctionType) -> bool:
    """Whether a function is of the standard library."""
    return (function.__module__ or "").partition(".")[0] in sys.stdlib_module_names - {"__main__"}
