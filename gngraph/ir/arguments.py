"""How a network is called: arguments that are tensors, or structures of them.

A graph reads tensors. What its source's `forward` takes may be a dictionary or a list of them, or numbers and flags beside them:
`Graph.arguments` says for each argument by name which inputs it holds, and where. A name that starts with "*" takes all further
positional arguments; one that ends with "=" may be left out, for its constant is the source's default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gngraph.errors import IRError
from gngraph.ir.types import Attr, Items, Listed, Ref

Path = tuple[str | int, ...]
"""Where a part of an argument stands: keys of dictionaries and positions in lists."""


def plain_name(name: str) -> str:
    """The name of an argument without its marks.

    >>> plain_name("mask="), plain_name("*xs")
    ('mask', 'xs')
    """
    return name.removeprefix("*").removesuffix("=")


def parts_of(argument: Attr, path: Path = ()) -> Iterator[tuple[Path, Attr]]:
    """An argument and everything in it, each behind what holds it.

    >>> list(parts_of(Items((("image", Ref("x")),))))
    [((), Items(pairs=(('image', Ref(name='x')),))), (('image',), Ref(name='x'))]
    """
    yield path, argument
    for key, item in held_by(argument):
        yield from parts_of(item, (*path, key))


def held_by(argument: Attr) -> tuple[tuple[str | int, Attr], ...]:
    """What a dictionary, list or tuple of an argument holds, with keys and positions; nothing for what is none."""
    if isinstance(argument, Items):
        return argument.pairs
    items = argument.items if isinstance(argument, Listed) else argument if isinstance(argument, tuple) else ()
    return tuple(enumerate(items))


def is_container(argument: Attr) -> bool:
    """Whether it is a dictionary, list or tuple."""
    return isinstance(argument, (Items, Listed, tuple))


def call_of(arguments: Items, values: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments of a call.

    Args:
        arguments: of a graph.
        values: of its inputs, by name.

    >>> call_of(Items((("batch", Items((("image", Ref("x")),))), ("scale", 2.0))), {"x": 1})
    (({'image': 1}, 2.0), {})
    """
    made = [(name, filled(argument, values.__getitem__)) for name, argument in arguments.pairs]
    variadic = [i for i, (name, _) in enumerate(made) if name.startswith("*")]
    if not variadic:
        return tuple(value for _, value in made), {}
    before, (_, rest), after = made[: variadic[0]], made[variadic[0]], made[variadic[0] + 1 :]
    return (*(value for _, value in before), *rest), {plain_name(name): value for name, value in after}


def filled(argument: Attr, value_of: Callable[[str], Any]) -> Any:
    """An argument with the values of its references, as Python's own dictionaries, lists and tuples."""
    if isinstance(argument, Ref):
        return value_of(argument.name)
    if isinstance(argument, Items):
        return {key: filled(item, value_of) for key, item in argument.pairs}
    if isinstance(argument, Listed):
        return [filled(item, value_of) for item in argument.items]
    return tuple(filled(item, value_of) for item in argument) if isinstance(argument, tuple) else argument


def defaults_of(arguments: Items) -> dict[str, Attr]:
    """The arguments that may be left out, behind which there are no others, with what they are then."""
    found: dict[str, Attr] = {}
    for name, argument in reversed(arguments.pairs):
        if not name.endswith("="):
            break
        found[name] = argument
    return found


def check_arguments(arguments: Items, inputs: tuple[str, ...]) -> None:
    """Require that arguments hold every input once, and nothing but inputs and constants.

    Raises:
        IRError: they do not.
    """
    leaves = [part for _, argument in arguments.pairs for _, part in parts_of(argument) if not is_container(part)]
    read = [leaf.name for leaf in leaves if isinstance(leaf, Ref)]
    if sorted(read) != sorted(inputs):
        raise IRError(
            f"the arguments hold the values {read}, but the inputs are {list(inputs)}; each must stand there once"
        )
    for leaf in leaves:
        if not (leaf is None or isinstance(leaf, (Ref, bool, int, float, str))):
            raise IRError(f"an argument holds '{leaf}', which is neither an input nor a constant")
    for name, argument in arguments.pairs:
        if name.endswith("=") and (isinstance(argument, Ref) or is_container(argument)):
            raise IRError(f"the argument '{name}' may be left out, so that it must hold a constant")
        if name.startswith("*") and not isinstance(argument, tuple):
            raise IRError(f"the argument '{name}' must hold a tuple")
