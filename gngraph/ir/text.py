r"""The text form of a graph: one line a node, which parses back to the same graph up to the values of its parameters.

    graph Net(%x) {
      param @conv.weight : f32[8,3,3,3]
      %x = input() : f32[N,3,8,8]
      %conv = conv2d(%x, weight=@conv.weight) {padding=(1, 1)} : f32[N,8,8,8] module "conv"
      return %conv
    }

A network that takes other arguments than its inputs one by one says before it returns which they are: `call {batch={image=%x}}`.
Values carry `%`, parameters `@`; names that are not plain words are quoted with JSON escapes. `#` starts a comment. The
text is canonical: two graphs have the same text exactly when they are the same up to the values of their parameters.
Attributes are None, True, False, numbers, "strings", `%references`, `(tuples,)`, `{key=value}`, `dtype(f32)`,
`flag(training)` and `slice(start, stop, step)`; types are `f32[N,3]`, `(tuples)` and `!opaque`, with what is
known of the value as in `!int=3` and `!torch.Size=[N,3]`.
"""

from __future__ import annotations

from gngraph.errors import IRError
from gngraph.ir.graph import Graph
from gngraph.ir.lexer import bare_or_quoted, quote, with_sigil
from gngraph.ir.parser import MAX_NESTING, PARAMETER_WORDS, Parser
from gngraph.ir.types import (
    Attr,
    Dim,
    DType,
    Flag,
    Items,
    Listed,
    Node,
    Parameter,
    Ref,
    Slice,
    TensorType,
    TupleType,
    Type,
)
from gngraph.ir.verify import verify

_WORDS = {kind: word for word, kind in PARAMETER_WORDS.items()}


def format_graph(graph: Graph) -> str:
    """The canonical text of `graph`, ended by a newline; the values of parameters are not in it.

    `trainable` is written for parameters alone, for it says nothing about buffers and constants: those parse back as
    not trainable.

    Raises:
        IRError: an attribute is of a kind that `Attr` does not list, or nested more than `MAX_NESTING` levels.
    """
    inputs = ", ".join(with_sigil("%", name) for name in graph.inputs)
    lines = [f"graph {bare_or_quoted(graph.name)}({inputs}) {{"]
    lines += [f"  {format_parameter(name, parameter)}" for name, parameter in graph.params.items()]
    lines += [f"  {format_node(node)}" for node in graph.nodes.values()]
    lines += [] if graph.arguments is None else [f"  call {format_attr(graph.arguments)}"]
    lines += [f"  return {format_attr(graph.output)}", "}", ""]
    return "\n".join(lines)


def same_structure(a: Graph, b: Graph) -> bool:
    """Whether `a` and `b` are the same network up to the values of their parameters: whether their texts are equal."""
    return a is b or format_graph(a) == format_graph(b)


def format_parameter(name: str, parameter: Parameter) -> str:
    """The line of one parameter."""
    frozen = "frozen " if parameter.kind == "parameter" and not parameter.trainable else ""
    line = f"{_WORDS[parameter.kind]} {frozen}{with_sigil('@', name)} : {format_type(parameter.type)}"
    if parameter.aliases:
        line += f" aliases ({format_aliases(parameter)})"
    return line


def format_aliases(parameter: Parameter) -> str:
    """The other names of a parameter, each with its position in the state_dict, such as "@head.weight at 61"."""
    return ", ".join(f"{with_sigil('@', alias)} at {position}" for alias, position in parameter.aliases)


def format_node(node: Node) -> str:
    """The line of one node.

    >>> print(format_node(Node("y", "relu", ("x",), type=TensorType("f32", ("N", 4)), scope="head")))
    %y = relu(%x) : f32[N,4] scope "head"
    """
    reads = [with_sigil("%", source) for source in node.inputs]
    reads += [f"{bare_or_quoted(role)}={with_sigil('@', param)}" for role, param in sorted(node.params.items())]
    line = f"{with_sigil('%', node.name)} = {bare_or_quoted(node.op)}({', '.join(reads)})"
    if node.attrs:
        line += f" {format_attr(Items(tuple(sorted(node.attrs.items()))))}"
    line += f" : {format_type(node.type)}"
    if node.module is not None:
        line += f" module {quote(node.module)}"
    if node.scope:
        line += f" scope {quote(node.scope)}"
    return line


def format_type(kind: Type, depth: int = 0) -> str:
    """A type as text; differs from `str(kind)` only where a name needs quotes."""
    if depth > MAX_NESTING:
        raise IRError(f"a type is nested more than {MAX_NESTING} levels and cannot be written as text")
    if isinstance(kind, TensorType):
        return bare_or_quoted(kind.dtype) + _format_dims(kind.shape)
    if isinstance(kind, TupleType):
        return f"({', '.join(format_type(item, depth + 1) for item in kind.items)})"
    text = f"!{bare_or_quoted(kind.text)}"
    if kind.value is None:
        return text
    return f"{text}={_format_dims(kind.value) if isinstance(kind.value, tuple) else _format_dim(kind.value)}"


def _format_dims(dims: tuple[Dim, ...]) -> str:
    return f"[{','.join(_format_dim(dim) for dim in dims)}]"


def _format_dim(dim: Dim) -> str:
    return bare_or_quoted(dim) if isinstance(dim, str) else str(dim)


def format_attr(attr: Attr, depth: int = 0) -> str:
    """An attribute as text; floats are written so that they read back bit by bit (NaN apart).

    >>> format_attr((1, 0.5, Ref("x"), Slice(None, 2, None), DType("f32")))
    '(1, 0.5, %x, slice(None, 2, None), dtype(f32))'

    Raises:
        IRError: not an `Attr`, or nested more than `MAX_NESTING` levels.
    """
    if depth > MAX_NESTING:
        raise IRError(f"an attribute is nested more than {MAX_NESTING} levels and cannot be written as text")
    if attr is None or isinstance(attr, bool):
        return repr(attr)
    if isinstance(attr, int):
        return int.__repr__(attr)
    if isinstance(attr, float):
        return float.__repr__(attr)
    if isinstance(attr, str):
        return quote(attr)
    if isinstance(attr, Ref):
        return with_sigil("%", attr.name)
    if isinstance(attr, DType):
        return f"dtype({bare_or_quoted(attr.name)})"
    if isinstance(attr, Flag):
        plain = attr.on is True and attr.off is False
        values = "" if plain else f", {format_attr(attr.on)}, {format_attr(attr.off)}"
        return f"flag({bare_or_quoted(attr.name)}{values})"
    if isinstance(attr, Slice):
        return f"slice({', '.join(format_attr(a, depth + 1) for a in (attr.start, attr.stop, attr.step))})"
    if isinstance(attr, Items):
        pairs = (f"{bare_or_quoted(key)}={format_attr(value, depth + 1)}" for key, value in attr.pairs)
        return f"{{{', '.join(pairs)}}}"
    if isinstance(attr, Listed):
        return f"[{', '.join(format_attr(item, depth + 1) for item in attr.items)}]"
    if isinstance(attr, tuple):
        items = [format_attr(item, depth + 1) for item in attr]
        return f"({items[0]},)" if len(items) == 1 else f"({', '.join(items)})"
    raise IRError(f"an attribute of type '{type(attr).__name__}' cannot be written as text; use the kinds of `Attr`")


def parse(text: str) -> Graph:
    """The graph that `text` describes, verified; its parameters are on the meta device. In O(len(text)).

    The op table is not consulted: types are read from the text.

    >>> graph = parse('graph Net(%x) { %x = input() : f32[N,4]  %y = relu(%x) : f32[N,4]  return %y }')
    >>> graph.outputs, str(graph["y"].type)
    (('y',), 'f32[N,4]')

    Raises:
        ParseError: the text breaks the syntax; line and column say where.
        IRError: the text reads well, but the graph breaks an invariant.
    """
    if not isinstance(text, str):
        raise IRError(f"the text of a graph is a str, but a '{type(text).__name__}' was given")
    graph = Parser(text).graph()
    verify(graph)
    return graph
