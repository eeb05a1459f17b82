"""The parser of the graph text form, which `gngraph.ir.text` describes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from types import MappingProxyType
from typing import TypeVar

import torch

from gngraph.errors import ParseError
from gngraph.ir.graph import Graph
from gngraph.ir.lexer import Token, TokenKind, error_at, tokenize
from gngraph.ir.types import (
    Attr,
    Dim,
    DType,
    Flag,
    Items,
    Listed,
    Node,
    OpaqueType,
    Parameter,
    ParameterKind,
    Ref,
    Slice,
    TensorType,
    TupleType,
    Type,
    dtype_of,
)

MAX_NESTING = 64
"""Deepest nesting of attributes and types that is written and read; no network comes near it."""

PARAMETER_WORDS: dict[str, ParameterKind] = {"param": "parameter", "buffer": "buffer", "constant": "constant"}
"""The word that opens the line of a parameter of each kind."""

_MAX_ELEMENTS = 2**56
_CONSTANTS = {"None": None, "True": True, "False": False}
_CALLS = frozenset({"dtype", "flag", "slice"})
_T = TypeVar("_T")


class Parser:
    """Recursive descent over the tokens of `source`: one method a rule of the syntax, one token of look-ahead."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._tokens = tokenize(source)
        self._at = 0

    def graph(self) -> Graph:
        """The graph, not verified; raises ParseError where the text breaks the syntax."""
        self._keyword("graph")
        name = self._word("the name of the graph")
        inputs = self._inputs()
        self._mark("{")
        params: dict[str, Parameter] = {}
        nodes: dict[str, Node] = {}
        while self._next.kind == "name" and self._next.text in PARAMETER_WORDS:
            where = self._next
            key, parameter = self._parameter()
            if key in params:
                raise self._error(where, f"parameter '{key}' is given twice")
            params[key] = parameter
        while self._next.kind == "value":
            where = self._next
            node = self._node()
            if node.name in nodes:
                raise self._error(where, f"value '{node.name}' is given twice")
            nodes[node.name] = node
        arguments = self._items(0) if self._accept("name", "call") else None
        self._keyword("return")
        output = self._attr(0)
        self._mark("}")
        self._take("end", "nothing more, for the graph is closed")
        return Graph(name, nodes, params, inputs, output, arguments)

    def _inputs(self) -> tuple[str, ...]:
        self._mark("(")
        tokens = self._sequence(")", lambda: self._take("value", "the name of an input, such as %x"))
        names = [token.text for token in tokens]
        for index, token in enumerate(tokens):
            if token.text in names[:index]:
                raise self._error(token, f"input '{token.text}' is given twice")
        return tuple(names)

    def _parameter(self) -> tuple[str, Parameter]:
        kind = PARAMETER_WORDS[self._take("name", "a kind").text]
        frozen = kind == "parameter" and self._accept("name", "frozen")
        name = self._take("param", "the name of a parameter, such as @conv.weight").text
        self._mark(":")
        data = self._meta_tensor()
        aliases: list[tuple[str, int]] = []
        if self._accept("name", "aliases"):
            self._mark("(")
            aliases = self._sequence(")", self._alias)
        return name, Parameter(data, kind, kind == "parameter" and not frozen, tuple(aliases))

    def _alias(self) -> tuple[str, int]:
        name = self._take("param", "an alias, such as @head.weight").text
        self._keyword("at")
        return name, self._natural("a position")

    def _meta_tensor(self) -> torch.Tensor:
        where = self._next
        kind = self._type(0)
        if not isinstance(kind, TensorType):
            raise self._error(where, f"a parameter must be a tensor, not '{kind}'")
        sizes = [d for d in kind.shape if isinstance(d, int)]
        if len(sizes) != len(kind.shape):
            raise self._error(where, f"the shape of a parameter must be numbers, not '{kind}'")
        if prod(max(1, d) for d in sizes) > _MAX_ELEMENTS:
            raise self._error(where, f"a parameter of type '{kind}' is larger than any machine holds")
        return torch.empty(sizes, dtype=dtype_of(kind.dtype), device="meta")

    def _node(self) -> Node:
        name = self._take("value", "a value").text
        self._mark("=")
        op = self._word("an op")
        inputs, params = self._reads()
        attrs: dict[str, Attr] = dict(self._items(0).pairs) if self._peek("mark", "{") else {}
        self._mark(":")
        node = Node(name, op, inputs, MappingProxyType(params), MappingProxyType(attrs), self._type(0))
        if self._accept("name", "module"):
            node = replace(node, module=self._take("string", "the path of a module in quotes").text)
        if self._accept("name", "scope"):
            node = replace(node, scope=self._take("string", "the path of a module in quotes").text)
        return node

    def _reads(self) -> tuple[tuple[str, ...], dict[str, str]]:
        inputs: list[str] = []
        params: dict[str, str] = {}
        self._mark("(")
        while not self._accept("mark", ")"):
            if inputs or params:
                self._mark(",")
            if self._next.kind == "value" and not params:
                inputs.append(self._take("value", "a value").text)
                continue
            where = self._next
            role = self._word("an input such as %x, or behind the inputs a role such as weight=@conv.weight")
            self._mark("=")
            if role in params:
                raise self._error(where, f"role '{role}' is given twice")
            params[role] = self._take("param", "the name of a parameter, such as @conv.weight").text
        return tuple(inputs), params

    def _type(self, depth: int) -> Type:
        if depth > MAX_NESTING:
            raise self._error(self._next, f"types are nested more than {MAX_NESTING} levels")
        if self._accept("mark", "!"):
            return OpaqueType(self._word("the name of a Python type"), self._opaque_value())
        if self._accept("mark", "("):
            return TupleType(tuple(self._sequence(")", lambda: self._type(depth + 1))))
        where = self._next
        dtype = self._word("a type, such as f32[N,3]")
        try:
            dtype_of(dtype)
        except KeyError as error:
            raise self._error(where, f"'{dtype}' is not the name of a dtype; f32, bf16 and i64 are examples") from error
        return TensorType(dtype, self._dims())

    def _opaque_value(self) -> Dim | tuple[Dim, ...] | None:
        if not self._accept("mark", "="):
            return None
        if self._peek("mark", "["):
            return self._dims()
        return self._whole("a size") if self._next.kind == "number" else self._dim()  # -z.size(2) is below 0

    def _dims(self) -> tuple[Dim, ...]:
        self._mark("[")
        return tuple(self._sequence("]", self._dim))

    def _dim(self) -> Dim:
        return self._word("a size") if self._next.kind in ("name", "string") else self._natural("a size")

    def _natural(self, what: str) -> int:
        return self._whole(what, 0)

    def _whole(self, what: str, least: int | None = None) -> int:
        token = self._next
        number = self._number()
        if not isinstance(number, int) or (least is not None and number < least):
            of = "" if least is None else f" of at least {least}"
            raise self._error(token, f"{what} must be a whole number{of}, not '{token.text}'")
        return number

    def _attr(self, depth: int) -> Attr:
        if depth > MAX_NESTING:
            raise self._error(self._next, f"attributes are nested more than {MAX_NESTING} levels")
        token = self._next
        if token.kind == "number":
            return self._number()
        if token.kind == "string":
            return self._take("string", "a string").text
        if token.kind == "value":
            return Ref(self._take("value", "a value").text)
        if self._peek("mark", "{"):
            return self._items(depth)
        if self._accept("mark", "("):
            return self._tuple(depth)
        if self._accept("mark", "["):
            return Listed(tuple(self._sequence("]", lambda: self._attr(depth + 1))))
        if token.kind == "name" and token.text in _CONSTANTS:
            return _CONSTANTS[self._take("name", "a constant").text]
        if token.kind == "name" and token.text in _CALLS:
            return self._call(depth)
        raise self._expected('an attribute, such as 1, 0.5, True, None, "text", %x or (1, 2)')

    def _call(self, depth: int) -> Attr:
        token = self._take("name", "a kind of attribute")
        self._mark("(")
        if token.text == "slice":
            parts = self._sequence(")", lambda: self._attr(depth + 1))
            if len(parts) != 3:
                raise self._error(token, f"a slice has start, stop and step, not {len(parts)} parts")
            return Slice(*parts)
        name = self._word(f"the name of a {token.text}")
        if token.text == "flag" and self._accept("mark", ","):
            values = self._sequence(")", lambda: self._attr(depth + 1))
            if len(values) != 2 or not all(isinstance(value, (bool, int, float)) for value in values):
                raise self._error(
                    token, "a flag has a name, and two numbers or truth values: in train and in eval mode"
                )
            return Flag(name, *values)
        self._mark(")")
        return DType(name) if token.text == "dtype" else Flag(name)

    def _tuple(self, depth: int) -> tuple[Attr, ...]:
        items: list[Attr] = []
        while not self._accept("mark", ")"):
            items.append(self._attr(depth + 1))
            if not self._peek("mark", ")") or len(items) == 1:  # "(1,)" is a tuple, "(1)" is a slip
                self._mark(",")
        return tuple(items)

    def _items(self, depth: int) -> Items:
        pairs: dict[str, Attr] = {}
        self._mark("{")
        while not self._accept("mark", "}"):
            if pairs:
                self._mark(",")
            where = self._next
            key = self._word("a key")
            if key in pairs:
                raise self._error(where, f"key '{key}' is given twice")
            self._mark("=")
            pairs[key] = self._attr(depth + 1)
        return Items(tuple(pairs.items()))

    def _number(self) -> int | float:
        token = self._take("number", "a number")
        try:
            return int(token.text) if token.text.lstrip("-").isdigit() else float(token.text)
        except ValueError as error:  # Python refuses integers of more than 4300 digits
            raise self._error(token, f"a number of {len(token.text)} digits is too long") from error

    def _sequence(self, close: str, item: Callable[[], _T]) -> list[_T]:
        items: list[_T] = []
        while not self._accept("mark", close):
            if items:
                self._mark(",")
            items.append(item())
        return items

    @property
    def _next(self) -> Token:
        return self._tokens[self._at]

    def _peek(self, kind: TokenKind, text: str) -> bool:
        return self._next.kind == kind and self._next.text == text

    def _accept(self, kind: TokenKind, text: str) -> bool:
        found = self._peek(kind, text)
        self._at += found
        return found

    def _take(self, kind: TokenKind, what: str) -> Token:
        token = self._next
        if token.kind != kind:
            raise self._expected(what)
        self._at += kind != "end"
        return token

    def _word(self, what: str) -> str:
        return self._take("string" if self._next.kind == "string" else "name", what).text

    def _keyword(self, word: str) -> None:
        if not self._accept("name", word):
            raise self._expected(f"'{word}'")

    def _mark(self, mark: str) -> None:
        if not self._accept("mark", mark):
            raise self._expected(f"'{mark}'")

    def _expected(self, what: str) -> ParseError:
        found = self._next
        shown = found.text if found.kind == "end" else f"'{found.text[:40]}'"
        return self._error(found, f"expected {what}, found {shown}")

    def _error(self, token: Token, message: str) -> ParseError:
        return error_at(self._source, token.offset, message)
