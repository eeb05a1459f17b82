"""Which modules share a class, what the classes are called, and their constructors."""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

import torch
from torch import fx, nn

from gngraph.source.arguments import Bindings, bind
from gngraph.source.forward import Forward, forward_of
from gngraph.source.modules import Imports, construct
from gngraph.source.text import (
    Argument,
    Build,
    Expr,
    Hole,
    Text,
    camel,
    checked_name,
    holes_of,
    is_name,
    literal,
    skeleton,
)
from gngraph.source.tree import Tree

WITH_MODULES = "with_modules"
"""A function of the file, which hangs modules into one of torch's."""
MAX_LITERAL = 64
"""Entries of a constant tensor that is written into the source; a larger one is stored with the weights."""


@dataclass(frozen=True)
class Body:
    """The code of one instance of a class.

    Attributes:
        children: name -> constructor call of each child module.
        tensors: name -> code of each parameter and buffer.
        forward: the forward method; None for a class that only holds others.
        base: the class it derives from.
        chained: whether it needs no forward because `base` calls the children in order.
    """

    children: dict[str, Expr]
    tensors: dict[str, Expr]
    forward: Forward | None
    base: str
    chained: bool


@dataclass(frozen=True)
class SourceClass:
    """A class to be written: the code of its first instance, and the arguments that stand for what differs.

    Attributes:
        name: its name.
        paths: modules that are instances of it.
        body: the code of the first of them.
        bindings: arguments and where they go.
    """

    name: str
    paths: tuple[str, ...]
    body: Body
    bindings: Bindings


class Classes:
    """The classes of a tree, inner ones first, the root last.

    Args:
        tree: all modules.
        imports: gathers what the classes need from other modules.
        root_name: name of the class of the root; the others are named after their modules.
    """

    def __init__(self, tree: Tree, imports: Imports, root_name: str) -> None:
        self.tree = tree
        self.imports = imports
        self._groups: dict[Any, list[str]] = {}
        self._key_of: dict[str, Any] = {}
        self._forwards: dict[str, Forward] = {}
        self._done: dict[Any, SourceClass] = {}
        self._skeleton("")
        self._names = self._choose_names(root_name)
        self._finish(self._key_of[""])

    def __iter__(self) -> Iterator[SourceClass]:
        return iter(self._done.values())

    def _skeleton(self, path: str) -> Any:
        """What the module at `path` has in common with all that differ in constants alone."""
        kind = self.tree.kind(path)
        if kind == "leaf":
            inside = [(child.rpartition(".")[2], self._skeleton(child)) for child in self.tree.inside(path)]
            return (skeleton(self._leaf(path, path)), *inside)
        children = [(child.rpartition(".")[2], self._skeleton(child)) for child in self.tree.children(path)]
        if kind in ("sequence", "list"):
            return (kind, *children)
        tensors = [(name, skeleton(code)) for name, code in self._tensors(path).items()]
        called: list[Any] = []
        if kind == "block":
            forward = self._forwards[path] = forward_of(self.tree, path, self.imports)
            called = [forward.arguments, forward.result, *((n, skeleton(code)) for n, code in forward.statements)]
        key = (kind, tuple(children), tuple(tensors), tuple(called))
        self._groups.setdefault(key, []).append(path)
        self._key_of[path] = key
        return ("class", list(self._groups).index(key))

    def _leaf(self, path: str, label: str) -> Build:
        module = self.tree.module(path)
        assert module is not None
        return construct(module, label, self.imports)

    def _construct(self, path: str, owner: str) -> Expr:
        """The constructor call of the module at `path` in the class of the module at `owner`."""
        kind = self.tree.kind(path)
        label = path[len(owner) :].strip(".")
        if kind == "leaf":
            leaf, inside = self._leaf(path, label), self.tree.inside(path)
            held = (Argument(self._construct(c, owner), checked_name(c.rpartition(".")[2], "module")) for c in inside)
            return Build(WITH_MODULES, (Argument(leaf), *held)) if inside else leaf
        children = {child.rpartition(".")[2]: child for child in self.tree.children(path)}
        if kind in ("sequence", "list") or self._is_inlined_chain(path):
            named = kind == "block"
            parts = tuple(Argument(self._construct(c, owner), name if named else "") for name, c in children.items())
            if kind == "sequence":
                return Build("nn.Sequential", parts)
            inner = Build("OrderedDict", parts) if named else Build("", parts, "[]")
            return Build("nn.Sequential" if named else "nn.ModuleList", (Argument(inner),))
        made = self._finish(self._key_of[path])
        index = made.paths.index(path)
        arguments = []
        for parameter in made.bindings.parameters:
            hole = Hole(parameter.kind, f"{label}.{parameter.name}", parameter.values[index])
            keyword = "" if parameter.kind == "width" else parameter.name
            arguments.append(Argument(hole, keyword, parameter.default))
        return Build(made.name, tuple(arguments))

    def _is_inlined_chain(self, path: str) -> bool:
        """Whether it is a chain that occurs once, written as an nn.Sequential with names."""
        alone = not path.rpartition(".")[2].isdecimal() and len(self._groups[self._key_of[path]]) == 1
        names = [child.rpartition(".")[2] for child in self.tree.children(path)]
        chained = path and self.tree.kind(path) == "block" and self.tree.is_chain(path)
        return bool(alone and chained and all(map(is_name, names)))

    def _finish(self, key: Any) -> SourceClass:
        if key not in self._done:
            paths = self._groups[key]
            bodies = [self._body(path) for path in paths]
            built = [list(chain.from_iterable(map(holes_of, constructor_code(body)))) for body in bodies]
            called = [list(chain.from_iterable(holes_of(c) for _, c in statements(body))) for body in bodies]
            attributes = {*bodies[0].children, *bodies[0].tensors}
            bindings = bind(built, called, attributes)
            self._done[key] = SourceClass(self._names[key], tuple(paths), bodies[0], bindings)
        return self._done[key]

    def _body(self, path: str) -> Body:
        children = {child.rpartition(".")[2]: self._construct(child, path) for child in self.tree.children(path)}
        forward = self._forwards.get(path)
        numbered = bool(children) and list(children) == [str(i) for i in range(len(children))]
        base = "nn.Module" if not numbered else "nn.Sequential" if forward else "nn.ModuleList"
        chained = base == "nn.Sequential" and self.tree.is_chain(path)
        return Body(children, self._tensors(path), forward, base, chained)

    def _tensors(self, path: str) -> dict[str, Expr]:
        """Code of the parameters and buffers that the module itself registers; their values are loaded."""
        if self.tree.is_leaf(path):
            return {}
        tensors: dict[str, Expr] = {}
        for name, tensor in self.tree.tensors(path):
            constant = self.tree.is_constant(path, name)
            code = _values(tensor) if constant and is_written(tensor) else _zeros(name, tensor)
            tensors[name] = _registered(name, code, isinstance(tensor, nn.Parameter), constant)
        return tensors

    def _choose_names(self, root_name: str) -> dict[Any, str]:
        names: dict[Any, str] = {}
        taken = {root_name, "Path", "Tensor", "OrderedDict", "Any", "F", *self.imports.names}
        keys = [key for key, paths in self._groups.items() if not self._is_inlined_chain(paths[0])]
        simplest = sorted(keys, key=lambda key: (key[0] != "block", len(self._real_children(self._groups[key][0]))))
        plain: dict[str, Any] = {}
        for key in simplest:
            path = self._groups[key][0]
            base = root_name if not path else self._base_name(path)
            extra = self._real_children(path) - self._real_children(self._groups[plain.setdefault(base, key)][0])
            special = f"{base}With{camel(min(extra))}" if len(extra) == 1 else base
            tried = chain((base, special), (f"{special}{i}" for i in count(2)))
            names[key] = root_name if not path else next(name for name in tried if name not in taken)
            taken.add(names[key])
        return names

    def _real_children(self, path: str) -> set[str]:
        """Names of the children that compute something."""
        kept = [c for c in self.tree.children(path) if not isinstance(self.tree.module(c), nn.Identity)]
        return {child.rpartition(".")[2] for child in kept}

    def _base_name(self, path: str) -> str:
        """From the module's name; for an element of a sequence from what it computes."""
        last = path.rpartition(".")[2]
        if last.isdecimal():
            name = {"add": "ResidualBlock", "mul": "Gate"}.get(self._combines_input(path)) or camel(self._main_op(path))
        else:
            stem = re.sub(r"_?\d+[a-z]?$", "", last)
            alone = len(self._groups[self._key_of[path]]) == 1
            name = camel(stem) + (last[len(stem) :].strip("_") if alone else "")
        return name if is_name(name) and not hasattr(builtins, name) else "Block"

    def _main_op(self, path: str) -> str:
        """Name of the op that reads the module's parameters, or is all it does; "" where it has inner modules."""
        if self.tree.children(path) or not self.tree.has_forward(path):
            return ""
        items = self.tree.region(path).items
        reading = [item for item in items if any(node.op == "get_attr" for node in item.value.all_input_nodes)]
        chosen = reading if reading else list(items) if len(items) == 1 else []
        origins = [self.tree.origins[item.value] for item in chosen[:1]]
        return "".join(str(origin.attrs.get("target", origin.op)).rpartition(".")[2] for origin in origins)

    def _combines_input(self, path: str) -> str:
        """Op that joins the input with what became of it, at the end of the forward; "" for none."""
        if not self.tree.has_forward(path):
            return ""
        region = self.tree.region(path)
        results = {item.value: item for item in region.items}
        for item in region.items[-2:]:
            reads = [results[value].operands if value in results else (value,) for value in item.operands]
            origin = self.tree.origins[item.value].op if item.target is None else ""
            if len(reads) == 2 and any(_is_input(values, region.inputs) for values in reads):
                return origin
        return ""


def is_written(tensor: torch.Tensor) -> bool:
    """Whether a constant tensor is small and plain enough to be written into the source."""
    return tensor.numel() <= MAX_LITERAL and not tensor.is_complex() and not tensor.is_meta


def _is_input(values: tuple[fx.Node, ...], inputs: tuple[fx.Node, ...]) -> bool:
    return len(values) == 1 and values[0] in inputs


def constructor_code(body: Body) -> Iterator[Expr]:
    """The code of the constructor in the order in which its holes are counted."""
    if body.base == "nn.Module":
        yield from body.tensors.values()
        yield from body.children.values()
    else:
        yield from body.children.values()
        yield from body.tensors.values()


def statements(body: Body) -> tuple[tuple[str, Expr], ...]:
    """The statements of the forward that is written; none where the base class has it."""
    return body.forward.statements if body.forward and not body.chained else ()


def _zeros(name: str, tensor: torch.Tensor) -> Build:
    sizes = [Argument(Hole("width", f"{name}.size{i}", size)) for i, size in enumerate(tensor.shape)]
    return Build("torch.zeros", (*(sizes or [Argument(Text("()"))]), *_dtype(tensor)))


def _values(tensor: torch.Tensor) -> Build:
    return Build("torch.tensor", (Argument(Text(literal(tensor.tolist()))), *_dtype(tensor)))


def _dtype(tensor: torch.Tensor) -> list[Argument]:
    return [] if tensor.dtype == torch.float32 else [Argument(Text(literal(tensor.dtype)), "dtype")]


def _registered(name: str, code: Build, trained: bool, constant: bool) -> Build:
    """Code that gives the module the tensor; for a parameter with a proper name, what is assigned to it."""
    value = Build("nn.Parameter", (Argument(code),)) if trained else code
    if trained and is_name(name):
        return value
    register = "self.register_parameter" if trained else "self.register_buffer"
    persistent = (Argument(Text("False"), "persistent"),) if constant else ()
    return Build(register, (Argument(Text(literal(name))), Argument(value), *persistent))
