"""What Python or NumPy make of values where a trace has to record them: whole numbers of quotients of sizes, and arrays."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from types import FunctionType
from typing import Any

import torch
from torch import fx


def of_numpy(value: Any) -> Any:
    """Numbers and arrays of NumPy as torch takes them; anything else is given as it is.

    Args:
        value: an argument of a call.
    """
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
def recorded_int(functions: Iterable[FunctionType], rounded: Callable[[fx.Proxy], Any]) -> Iterator[None]:
    """While tracing, `int` of what stands for a value is what `rounded` gives, in the modules of some functions.

    Args:
        functions: those that may call it.
        rounded: takes what stands for a value.
    """

    class Kind(type):
        def __call__(cls, *args: Any, **kwargs: Any) -> Any:
            return rounded(args[0]) if len(args) == 1 and isinstance(args[0], fx.Proxy) else int(*args, **kwargs)

        def __instancecheck__(cls, instance: Any) -> bool:
            return isinstance(instance, int)

        def __getattr__(cls, name: str) -> Any:
            return getattr(int, name)

        def __subclasscheck__(cls, subclass: type) -> bool:
            return issubclass(subclass, int)

        def __eq__(cls, other: Any) -> bool:
            return other is int or other is cls

        def __hash__(cls) -> int:
            return hash(int)

    stand_in = Kind("int", (), {})
    with ExitStack() as stack:
        rounding = [f for f in functions if "int" in f.__code__.co_names and not _is_pythons(f)]
        for place in {id(f.__globals__): f.__globals__ for f in rounding}.values():
            if "int" not in place:
                place["int"] = stand_in
                stack.callback(place.pop, "int", None)
        yield


def _is_pythons(function: FunctionType) -> bool:
    """Whether a function is of the standard library."""
    return (function.__module__ or "").partition(".")[0] in sys.stdlib_module_names - {"__main__"}
