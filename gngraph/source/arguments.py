"""Constructor arguments of a class from the constants in which its instances differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from gngraph.ops.spec import REQUIRED
from gngraph.source.text import Hole, is_name, literal, same


@dataclass(frozen=True)
class FormalParameter:
    """An argument of a generated class.

    Attributes:
        name: its name.
        kind: kind of the holes it fills.
        values: its value for each instance.
        default: the value it has when it is left out, or `REQUIRED`.
        kept: whether the forward reads it, so that it is kept as an attribute.
    """

    name: str
    kind: str
    values: tuple[Any, ...]
    default: Any
    kept: bool

    def declaration(self) -> str:
        """How it stands in the constructor's signature."""
        examples = [*self.values, *([] if self.default is REQUIRED else [self.default])]
        text = f"{self.name}: {' | '.join(dict.fromkeys(map(_annotation, examples)))}"
        return text if self.default is REQUIRED else f"{text} = {literal(self.default)}"


@dataclass(frozen=True)
class Bindings:
    """The arguments of a class, and for each hole the argument that fills it.

    Attributes:
        parameters: in the order of the signature: those without a default first.
        built: for each hole of the constructor, the name of its argument, or None for a constant.
        called: the same for each hole of the forward.
    """

    parameters: tuple[FormalParameter, ...]
    built: tuple[str | None, ...]
    called: tuple[str | None, ...]


_Holes = Sequence[tuple[Hole, Any]]


def bind(built: Sequence[_Holes], called: Sequence[_Holes], attributes: set[str]) -> Bindings:
    """Choose arguments: a constant that is the same in all instances stays, others that always agree share one.

    Args:
        built: for each instance the holes of its constructor with their defaults.
        called: for each instance the holes of its forward.
        attributes: names of attributes that the class has already.
    """
    first = [*built[0], *called[0]]
    columns = list(
        zip(*((hole.value for hole, _ in (*b, *c)) for b, c in zip(built, called, strict=True)), strict=True)
    )
    keys = [_key(hole.kind, column) for (hole, _), column in zip(first, columns, strict=True)]
    names = _names(first, keys, len(built[0]), attributes)
    parameters = []
    for key in dict.fromkeys(key for key in keys if key is not None):
        members = [i for i, other in enumerate(keys) if other == key]
        defaults = [first[i][1] for i in members]
        values = columns[members[0]]
        left_out = all(same(d, defaults[0]) for d in defaults) and any(same(v, defaults[0]) for v in values)
        kept = members[-1] >= len(built[0])
        parameters.append(FormalParameter(names[key], key[0], values, defaults[0] if left_out else REQUIRED, kept))
    parameters.sort(key=lambda parameter: (parameter.default is not REQUIRED, parameter.kind != "width"))
    bound = [None if key is None else names[key] for key in keys]
    inside = [name and f"self.{name}" for name in bound[len(built[0]) :]]
    return Bindings(tuple(parameters), tuple(bound[: len(built[0])]), tuple(inside))


_Key = tuple[str, str]


def _key(kind: str, column: Sequence[Any]) -> _Key | None:
    return None if all(same(value, column[0]) for value in column) else (kind, repr(column))


def _names(holes: _Holes, keys: Sequence[_Key | None], built: int, attributes: set[str]) -> dict[_Key, str]:
    """Names of the arguments: in_channels, hidden_channels, out_channels for widths, else that of what they fill."""
    widths = [(hole.label, key) for (hole, _), key in zip(holes, keys, strict=True) if hole.kind == "width"]
    varying = list(dict.fromkeys(key for _, key in widths if key is not None))
    names: dict[_Key, str] = {}
    for index, key in enumerate(keys):
        if key is None or key in names:
            continue
        label = holes[index][0].label
        wanted = _width_name(label, key, widths, varying) if key[0] == "width" else _plain_name(label, key, keys)
        clashes = set(names.values()) | (attributes if any(k == key for k in keys[built:]) else set())
        names[key] = next(name for name in _numbered(wanted) if name not in clashes)
    return names


def _width_name(label: str, key: _Key, widths: Sequence[tuple[str, _Key | None]], varying: Sequence[_Key]) -> str:
    unit = "features" if label.endswith(("in_features", "out_features")) else "channels"
    enters, leaves = key == widths[0][1], key == widths[-1][1]
    if enters or leaves:
        return unit if enters and leaves else f"in_{unit}" if enters else f"out_{unit}"
    hidden = [other for other in varying if other not in (widths[0][1], widths[-1][1])]
    child = label.split(".")[-2] if "." in label else ""
    return _joined(child, unit) if len(hidden) > 1 and is_name(child) else f"hidden_{unit}"


def _plain_name(label: str, key: _Key, keys: Sequence[_Key | None]) -> str:
    alone = len({other for other in keys if other is not None and other[0] == key[0]}) == 1
    return key[0] if alone and is_name(key[0]) else _joined(label.rpartition(".")[0], key[0])


def _joined(prefix: str, name: str) -> str:
    text = "".join(c if c.isalnum() and c.isascii() else "_" for c in f"{prefix}_{name}").strip("_").lower()
    return text if is_name(text) else f"value_{text}"


def _numbered(name: str) -> Iterator[str]:
    if not hasattr(nn.Module, name) and name != "training":
        yield name
    number = 2
    while True:
        yield f"{name}_{number}"
        number += 1


def _annotation(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        inner = " | ".join(dict.fromkeys(map(_annotation, value))) or "int"
        return f"tuple[{inner}, ...]" if isinstance(value, tuple) else f"list[{inner}]"
    return "None" if value is None else type(value).__name__
