"""The statements of a `forward`, from the fx nodes that a graph was lowered to."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, count
from typing import Any

from torch import fx

from gngraph.ir import Attr, Items, Listed, OpaqueType, Ref, TensorType, Type
from gngraph.ir.arguments import defaults_of, held_by, is_container, parts_of, plain_name
from gngraph.lowering.calling import mismatch
from gngraph.source.expressions import BINARY, READS, Expressions, Piece
from gngraph.source.modules import Imports
from gngraph.source.text import Expr, Text, checked_name, is_name, literal, render
from gngraph.source.tree import Item, Region, Tree

_LETTERS = ("y", "z", "u", "v", "w")
_MAX_CALLS, _MAX_LENGTH = 3, 64
"""How much is put into one expression."""


@dataclass(frozen=True)
class Forward:
    """A forward method.

    Attributes:
        arguments: names of its inputs with their types; one that starts with "*" takes all inputs.
        result: type that it returns.
        statements: each an assigned name ("" for none, "return" for the last) and an expression.
    """

    arguments: tuple[tuple[str, str], ...]
    result: str
    statements: tuple[tuple[str, Expr], ...]


def forward_of(tree: Tree, path: str, imports: Imports) -> Forward:
    """The forward method of the module at `path`.

    Args:
        tree: all modules.
        path: of the module; "" for the root.
        imports: gathers what the method needs from other modules.

    Raises:
        IRError: an operation cannot be written as source.
    """
    return _Writer(tree, path, imports).write()


class _Writer:
    def __init__(self, tree: Tree, path: str, imports: Imports) -> None:
        self.tree = tree
        self.path = path
        self.region: Region = tree.region(path)
        gathered = self.region.inputs if self._reads_all_inputs_at_once() else None
        self.expressions = Expressions(tree, path, imports, gathered)
        self.pieces = self.expressions.pieces
        self.names: dict[fx.Node, str] = {}
        self.results = {item.value: item for item in self.region.items}
        self.checks: list[tuple[str, Expr]] = []
        self.taken = {"self", "torch", "nn", "F", *tree.function_names}

    def write(self) -> Forward:
        arguments = self.tree.arguments if not self.path else None
        taken = tuple(self._inputs()) if arguments is None else tuple(self._structures(arguments))
        statements = list(self.checks)
        for index, item in enumerate(self.region.items):
            uses = self.region.uses(item.value)
            if not uses and item.value.target in READS:
                continue
            piece = self.expressions.step(item)
            if uses == [index + 1] and self._is_inlined(index, item, piece):
                self.pieces[item.value] = piece
                continue
            name = self._name(item, index) if uses else ""
            self.names[item.value] = name
            self.pieces[item.value] = Piece(Text(name))
            statements.append((name, piece.code))
        statements.append(("return", self.expressions.value(self.region.output, "output", "").code))
        return Forward(taken, self._type_of(self.region.output), tuple(statements))

    def _structures(self, arguments: Items) -> Iterator[tuple[str, str]]:
        """The arguments of the network where they are no tensors; each input is read where it stands in them."""
        inputs = {str(node.target): node for node in self.region.inputs}
        defaults = defaults_of(arguments)
        self.taken.update(plain_name(name) for name, _ in arguments.pairs)
        for name, argument in arguments.pairs:
            held = checked_name(plain_name(name), "the argument")
            for path, part in parts_of(argument):
                code = held + "".join(f"[{literal(key)}]" for key in path)
                if isinstance(part, Ref):
                    if part.name in inputs:
                        self.names[inputs[part.name]] = "" if path else held
                        self.pieces[inputs[part.name]] = Piece(Text(code))
                    continue
                size = len(held_by(part))
                same = f"len({code}) == {size}" if is_container(part) else f"{code} == {literal(part)}"
                same = f"{code} is {part}" if part is None or isinstance(part, bool) else same
                self.checks.append(("", Text(f"torch._assert({same}, {literal(mismatch(name, path, part))})")))
            default = f" = {literal(defaults[name])}" if name in defaults else ""
            yield name.removesuffix("="), f"{_annotation(argument)}{default}"

    def _inputs(self) -> Iterator[tuple[str, str]]:
        if self.expressions.gathered is not None:
            yield "*inputs", "Tensor"
            return
        names = _input_names(len(self.region.inputs))
        for node, name in zip(self.region.inputs, names, strict=True):
            if not self.path:
                name = checked_name(node.name, "the input") + "_" * (node.name in self.taken)
            self.names[node] = name
            self.pieces[node] = Piece(Text(name))
            self.taken.add(name)
            yield name, self._type_of(node)

    def _reads_all_inputs_at_once(self) -> bool:
        """Whether the inputs are read only as one list (a concatenation of however many there are)."""
        inputs = self.region.inputs
        reading = [item for item in self.region.items if set(item.operands) & set(inputs)]
        if not self.path or len(reading) != 1 or reading[0].target is not None or self.region.output in inputs:
            return False
        first = reading[0].value.args[0] if reading[0].value.args else None
        return isinstance(first, (list, tuple)) and tuple(first) == inputs == reading[0].operands

    def _is_inlined(self, index: int, item: Item, piece: Piece) -> bool:
        last = index + 1 == len(self.region.items)
        if last:
            return isinstance(self.region.output, fx.Node)
        reader = self.region.items[index + 1]
        if not self.region.uses(reader.value):
            return False
        combines = reader.value.target in BINARY and reader.target is None
        if combines or not self._is_small(reader):
            return combines and piece.calls <= 1
        return piece.calls < _MAX_CALLS and self._is_small(item) and _length(piece.code) < _MAX_LENGTH

    def _is_small(self, item: Item) -> bool:
        """Whether it is one operation, not the forward of an inner module."""
        return item.target is None or self.tree.is_leaf(item.target)

    def _name(self, item: Item, index: int) -> str:
        """The variable for a value: that of an operand which nothing reads later, else a new one."""
        is_tensor = not isinstance(self._type(item.value), OpaqueType)
        for node in self._variables(item) if is_tensor else ():
            if self.names[node] and max(self.region.uses(node)) <= index:
                return self.names[node]
        own = (item.target or "").rpartition(".")[2] if item.target and not self._is_small(item) else ""
        if not is_tensor:
            own = str(item.value.target) if item.value.op == "call_method" else "size"
        wanted = [own] if is_name(own) else [letter for letter in _LETTERS if letter not in self.taken]
        base = wanted[0] if wanted else "y"
        name = next(n for n in chain((base,), (f"{base}{i}" for i in count(2))) if n not in self.taken)
        self.taken.add(name)
        return name

    def _variables(self, item: Item) -> Iterator[fx.Node]:
        """Values that stand as variables in the statement of `item`, also in what is put into it."""
        for operand in item.operands:
            if operand in self.names:
                yield operand
            elif operand in self.results:
                yield from self._variables(self.results[operand])

    def _type(self, node: fx.Node) -> Type | None:
        origin = self.tree.origins.get(node)
        return origin.type if origin is not None else None

    def _type_of(self, value: Any) -> str:
        """Annotation of a value."""
        if isinstance(value, fx.Node):
            known = self._type(value)
            if isinstance(known, OpaqueType):
                return "int" if known.text == "int" else "Any"
            return "Tensor" if known is None or isinstance(known, TensorType) else "tuple[Tensor, ...]"
        if isinstance(value, dict):
            return "dict[str, Tensor]"
        return "tuple[Tensor, ...]" if isinstance(value, tuple) else "list[Tensor]"


def _annotation(argument: Attr) -> str:
    """Annotation of an argument of the network; one that takes all further arguments is annotated by the kind of each."""
    if isinstance(argument, Ref):
        return "Tensor"
    if not is_container(argument):
        return type(argument).__name__ if argument is not None else "None"
    kinds = {_annotation(item) for _, item in held_by(argument)}
    kind = kinds.pop() if len(kinds) == 1 else "Any"
    if isinstance(argument, Items):
        return f"dict[str, {kind}]"
    return f"list[{kind}]" if isinstance(argument, Listed) else f"tuple[{kind}, ...]"


def _length(code: Expr) -> int:
    """Characters of `code` with four for each constant, so that blocks of one structure are written alike."""
    return len(render(code, iter(lambda: "xxxx", None)))


def _input_names(number: int) -> list[str]:
    return (["x", *_LETTERS] if number <= 6 else [f"x{i}" for i in range(1, number + 1)])[:number]
