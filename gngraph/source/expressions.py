"""Expressions for the operations of a forward method: one fx node, or one call of an inner module, at a time."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F

from gngraph.errors import IRError
from gngraph.lowering.sizes import expect_size, told
from gngraph.ops import lookup
from gngraph.ops.spec import REQUIRED
from gngraph.source.modules import Imports, public_module
from gngraph.source.text import (
    Argument,
    Build,
    Expr,
    Hole,
    Join,
    Text,
    checked_name,
    is_name,
    literal,
    same,
)
from gngraph.source.tree import Item, Tree, nodes_in

BINARY: dict[Callable[..., Any], str] = {
    operator.add: "+",
    operator.sub: "-",
    operator.mul: "*",
    operator.truediv: "/",
    operator.floordiv: "//",
    operator.mod: "%",
    operator.pow: "**",
    operator.matmul: "@",
    operator.eq: "==",
    operator.ne: "!=",
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
}
"""Functions that are written as operators."""

READS = (operator.getitem, getattr)
"""Functions that do nothing but give a value."""
_AS_METHODS = {"mean", "sum", "amax", "unsqueeze", "squeeze", "transpose", "contiguous"}
"""Functions of torch that read better as methods of their first operand."""
_UNNAMED = ""
"""Kind of a constant whose meaning is not known: it is part of the structure."""


@dataclass(frozen=True)
class Piece:
    """What stands for a value where it is read.

    Attributes:
        code: the expression.
        calls: calls inside each other; 0 for a variable.
        loose: whether it needs parentheses beside an operator.
    """

    code: Expr
    calls: int = 0
    loose: bool = False


class Expressions:
    """Writes the steps of the forward of the module at `path`.

    Attributes:
        pieces: what stands for each value so far; the caller adds the values it has given a variable.
        gathered: values that stand together as the variable `inputs`, or None.

    Args:
        tree: all modules.
        path: of the module whose forward it is.
        imports: gathers what the steps need from other modules.
    """

    def __init__(self, tree: Tree, path: str, imports: Imports, gathered: tuple[fx.Node, ...] | None) -> None:
        self.tree = tree
        self.path = path
        self.imports = imports
        self.gathered = gathered
        self.pieces: dict[fx.Node, Piece] = {}

    def step(self, item: Item) -> Piece:
        """The operation or call that `item` is.

        Raises:
            IRError: it cannot be written as source.
        """
        node = item.value
        if item.target is not None:
            leaf = self.tree.module(item.target) if self.tree.is_leaf(item.target) else None
            operands = item.operands if leaf is None else node.args
            values = [self._argument(value, "operand", "", "") for value in operands]
            values += self._named(node.kwargs, leaf, item.target) if leaf is not None else []
            call = Build(path_code(self.tree, self.path, item.target), tuple(argument for argument, _ in values))
            return Piece(call, 1 + max((calls for _, calls in values), default=0))
        if node.op == "call_method":
            return self._method(node, checked_name(str(node.target), "the method"), node.args[0], node.args[1:])
        return self._function(node)

    def _function(self, node: fx.Node) -> Piece:
        target: Any = node.target
        args: list[Any] = list(node.args)
        if target is expect_size:
            x, name, axis, size = args
            fits = Join((_closed(self.value(x, "operand", "")), Text(f".shape[{axis}] == {size}")))
            return Piece(Build("torch._assert", (Argument(fits), Argument(Text(literal(told(name, axis, size)))))), 1)
        if target in BINARY and len(args) == 2 and not node.kwargs:
            left, right = (self.value(arg, "constant", f"operand{i}") for i, arg in enumerate(args))
            if target is operator.pow:  # a negative number before ** needs parentheses
                left = Piece(left.code, left.calls, loose=left.loose or isinstance(left.code, Hole))
            code = Join((_closed(left), Text(f" {BINARY[target]} "), _closed(right)))
            return Piece(code, 1 + max(left.calls, right.calls), loose=True)
        if target is operator.getitem:
            base = self.value(args[0], "operand", "")
            index = Build("", tuple(self._index(args[1])), "[]")
            return Piece(Join((_closed(base), index)), base.calls)
        if target is operator.setitem:
            base, held = self.value(args[0], "operand", ""), self.value(args[2], "constant", "assigned")
            index = Build("", tuple(self._index(args[1])), "[]")
            return Piece(Join((_closed(base), index, Text(" = "), held.code)), held.calls)
        if target is getattr and len(args) == 2:
            base = self.value(args[0], "operand", "")
            return Piece(Join((_closed(base), Text(f".{checked_name(str(args[1]), 'the attribute')}"))), base.calls)
        name = getattr(target, "__name__", "")
        is_method = getattr(torch.Tensor, name, None) is target
        reads_better = name in _AS_METHODS and getattr(torch, name, None) is target
        if (is_method or reads_better) and args and isinstance(args[0], fx.Node):
            return self._method(node, name, args[0], args[1:])
        callee = self._callee(target)
        values = self._arguments(node, args, callee.startswith("torch."))
        return Piece(Build(callee, tuple(a for a, _ in values)), 1 + max((c for _, c in values), default=0))

    def _method(self, node: fx.Node, name: str, receiver: Any, rest: Any) -> Piece:
        base = self.value(receiver, "operand", "")
        values = self._arguments(node, [receiver, *rest], True)[1:]
        call = Build(f".{name}", tuple(argument for argument, _ in values))
        return Piece(Join((_closed(base), call)), 1 + max((base.calls, *(calls for _, calls in values))))

    def _callee(self, target: Any) -> str:
        for module, prefix in ((F, "F."), (torch, "torch.")):
            for name, value in vars(module).items():
                if value is target and not name.startswith("_"):
                    return f"{prefix}{name}"
        if target.__module__ == "builtins":
            return checked_name(target.__name__, "the function")
        return self.imports.use(public_module(target), target.__name__)

    def _arguments(self, node: fx.Node, args: list[Any], positional: bool) -> list[tuple[Argument, int]]:
        """Arguments with the calls inside; what has its default is left out where the op table knows the default.

        The first optional argument of torch's own functions and of methods is written without its name.
        """
        origin = self.tree.origins[node]
        key: Any = node.target
        call = lookup(origin.op).call_of(key)
        if call is None or len(args) > len(call.signature):
            return list(self._arguments_as_given(node, args, origin.op))
        given = dict(zip((name for name, _ in call.signature), args, strict=False)) | dict(node.kwargs)
        written = []
        optional = 0
        complete = True  # nothing is left out so far, so that the next argument needs no name
        for name, default in call.signature:
            optional += default is not REQUIRED
            value = given.get(name, default)
            if value is REQUIRED or (not _is_hole(value) and same(value, default)):
                complete = False
                continue
            bare = default is REQUIRED or (complete and (name in call.params or (positional and optional == 1)))
            written.append(self._argument(value, name, f"{origin.op}.{name}", "" if bare else name, default))
        return written

    def _named(self, given: Mapping[str, Any], leaf: nn.Module, path: str) -> list[tuple[Argument, int]]:
        """Arguments of a torch module by name, without those that have their default."""
        known = inspect.signature(leaf.forward).parameters
        written = {name: value for name, value in given.items() if not same(value, known[name].default)}
        return [self._argument(value, name, f"{path}.{name}", name) for name, value in written.items()]

    def _arguments_as_given(self, node: fx.Node, args: list[Any], op: str) -> Iterator[tuple[Argument, int]]:
        """Arguments of a call that the op table does not describe; a Python function's own signature names them."""
        target: Any = node.target
        known = dict(inspect.signature(target).parameters) if inspect.isfunction(target) else {}
        names = [name for name, p in known.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
        for arg, name in zip(args, [*names, *[_UNNAMED] * (len(args) - len(names))], strict=False):
            yield self._argument(arg, name, f"{op}.{name}", "")
        for name, value in node.kwargs.items():
            default = known[name].default if name in known else REQUIRED
            if _is_hole(value) or not same(value, default):
                yield self._argument(value, name, f"{op}.{name}", checked_name(name, "the argument"), default)

    def _argument(
        self, value: Any, kind: str, label: str, keyword: str, default: Any = REQUIRED
    ) -> tuple[Argument, int]:
        piece = self.value(value, kind, label)
        return Argument(piece.code, keyword, default), piece.calls

    def _index(self, index: Any) -> Iterator[Argument]:
        for entry in index if isinstance(index, tuple) else (index,):
            if isinstance(entry, slice):
                ends = [entry.start, entry.stop] + ([entry.step] if entry.step is not None else [])
                parts: list[Expr] = []
                for i, end in enumerate(ends):
                    parts += [Text(":")] if i else []
                    parts += [self.value(end, "bound", "bound").code] if end is not None else []
                yield Argument(Join(tuple(parts)))
            else:
                yield Argument(self.value(entry, "index", "index").code)

    def value(self, value: Any, kind: str, label: str) -> Piece:
        """What stands for an fx argument; `kind` and `label` are those of its holes.

        Args:
            value: a node, a constant, or a container of both.
            kind, label: of the holes that constants in it become; without a kind they are part of the structure.
        """
        if isinstance(value, fx.Node):
            is_flag = value.op == "get_attr" and value.target == "training"
            if value.op != "get_attr":
                return self.pieces[value]
            return Piece(Text("self.training" if is_flag else self._parameter(str(value.target))))
        if isinstance(value, slice):
            ends = (value.start, value.stop, value.step)
            return Piece(Build("slice", tuple(self._argument(end, kind, label, "")[0] for end in ends)))
        if isinstance(value, (list, tuple)) and self.gathered is not None and tuple(value) == self.gathered:
            return Piece(Text("inputs"))
        if isinstance(value, dict) or (isinstance(value, (list, tuple)) and any(True for _ in nodes_in(value))):
            return self._container(value, kind, label)
        differs = kind != _UNNAMED and _is_hole(value)
        return Piece(Hole(kind, label, value) if differs else Text(literal(value)))

    def _container(self, value: Any, kind: str, label: str) -> Piece:
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        pieces = [(key, self.value(entry, kind, label)) for key, entry in pairs]
        calls = max((piece.calls for _, piece in pieces), default=0)
        if isinstance(value, dict):
            entries = [Join((Text(f"{literal(key)}: "), piece.code)) for key, piece in pieces]
            return Piece(Build("", tuple(map(Argument, entries)), "{}"), calls)
        if isinstance(value, tuple) and len(pieces) == 1:
            return Piece(Join((Text("("), pieces[0][1].code, Text(",)"))), calls)
        items = tuple(Argument(piece.code) for _, piece in pieces)
        return Piece(Build("", items, "[]" if isinstance(value, list) else "()"), calls)

    def _parameter(self, key: str) -> str:
        owner, _, name = key.rpartition(".")
        code = path_code(self.tree, self.path, owner)
        return f"{code}.{name}" if is_name(name) else f"getattr({code}, {literal(name)})"


def path_code(tree: Tree, base: str, path: str) -> str:
    """Code that reads the module at `path` from a method of the module at `base`.

    Args:
        tree: all modules; it tells which are reached by a number.
        base: path of the module whose method reads.
        path: of what is read.

    Raises:
        IRError: `path` is not below `base`.
    """
    if base and path != base and not path.startswith(f"{base}."):
        raise IRError(f"the module '{path}' cannot be read from '{base}'")
    code, here = "self", base
    for part in path[len(base) :].strip(".").split(".") if path != base else ():
        names = [child.rpartition(".")[2] for child in tree.children(here)]
        if is_name(part):
            code += f".{part}"
        elif part.isdecimal() and names == [str(i) for i in range(len(names))]:
            code += f"[{part}]"
        else:
            code += f".get_submodule({literal(part)})"
        here = f"{here}.{part}" if here else part
    return code


def _closed(piece: Piece) -> Expr:
    return Join((Text("("), piece.code, Text(")"))) if piece.loose else piece.code


def _is_hole(value: Any) -> bool:
    """Whether it may differ between blocks of one class: numbers and sizes may, flags and texts may not."""
    return isinstance(value, (int, float, tuple, list)) and not isinstance(value, bool)
