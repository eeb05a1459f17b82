"""The text form: everything a graph can hold is written, and reads back the same."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gngraph.errors import IRError, ParseError
from gngraph.ir import (
    Attr,
    DType,
    Flag,
    Graph,
    Items,
    Listed,
    Node,
    OpaqueType,
    Parameter,
    Ref,
    Slice,
    TensorType,
    TupleType,
    Type,
)
from gngraph.ir.parser import MAX_NESTING
from gngraph.ir.text import format_attr, format_graph, format_node, parse, same_structure
from tests.call_counts import calls_of

NET = """\
graph Net(%x) {
  param @conv.weight : f32[8,3,3,3]
  param frozen @head.weight : bf16[10,8] aliases (@tied.weight at 2)
  buffer @bn.count : i64[]
  constant @"odd name" : bool[2]
  %x = input() : f32[N,3,8,8]
  %conv = conv2d(%x, weight=@conv.weight) {padding=(1, 1), stride=(1, 1)} : f32[N,8,8,8] module "conv"
  %pair = chunk(%conv) {chunks=2, dim=1} : (f32[N,4,8,8], f32[N,4,8,8]) scope "block.0"
  %"a b" = foreign(%pair) {args=(%pair, slice(None, 2, None)), target="torch.\\"f\\""} : !"tuple[int, ...]"
  return ({out=%conv, rest=(%"a b",)}, None)
}
"""

names = st.text(max_size=8) | st.sampled_from(
    ["conv.1", "inf", "nan", "None", "dtype", "return", "graph", "0", "-1", ""]
)
dtypes = st.sampled_from(["f32", "bf16", "i64", "bool"])
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.builds(DType, names)
    | st.builds(Flag, names)
    | st.just(Ref("x"))
)


def nested(inner: st.SearchStrategy[Attr]) -> st.SearchStrategy[Attr]:
    """Attributes made of other attributes."""
    pairs = st.dictionaries(names, inner, max_size=3).map(lambda d: Items(tuple(d.items())))
    return (
        st.lists(inner, max_size=3).map(tuple)
        | st.lists(inner, max_size=3).map(lambda x: Listed(tuple(x)))
        | st.builds(Slice, inner, inner, inner)
        | pairs
    )


attrs = st.recursive(leaves, nested, max_leaves=8)
dims = st.integers(0, 9) | names
shapes = st.lists(dims, max_size=3).map(tuple)
tensor_types = st.builds(TensorType, dtypes, shapes)
types: st.SearchStrategy[Type] = st.recursive(
    tensor_types | st.builds(OpaqueType, names, st.none() | dims | shapes),
    lambda inner: st.builds(TupleType, st.lists(inner, max_size=3).map(tuple)),
    max_leaves=4,
)
parameters = st.builds(
    lambda shape, dtype, kind, trainable, aliases: Parameter(
        torch.empty(shape, dtype=dtype, device="meta"), kind, trainable and kind == "parameter", aliases
    ),
    st.lists(st.integers(0, 5), max_size=3),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool]),
    st.sampled_from(["parameter", "buffer", "constant"]),
    st.booleans(),
    st.lists(st.tuples(names.map("alias ".__add__), st.integers(0, 99)), max_size=2).map(tuple),
)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Small graphs with every kind of name, attribute, type and parameter."""
    params = draw(st.dictionaries(names, parameters, max_size=3))
    nodes = {"x": Node("x", "input", type=draw(tensor_types))}
    for name in draw(st.lists(names.filter(lambda n: n != "x"), unique=True, max_size=4)):
        roles = draw(st.dictionaries(names, st.sampled_from(sorted(params)), max_size=2)) if params else {}
        inputs = ("x", *draw(st.lists(st.sampled_from(list(nodes)), max_size=2)))
        given_attrs = draw(st.dictionaries(names, attrs, max_size=3))
        op = draw(names.filter(lambda n: n != "input"))
        scope, module = draw(names), draw(st.none() | names)
        nodes[name] = Node(name, op, inputs, roles, given_attrs, draw(types), scope, module)
    return Graph(draw(names), nodes, params, ("x",), draw(attrs))


def test_example_reads_and_writes_back() -> None:
    graph = parse(NET)
    assert format_graph(graph) == NET
    assert graph.params["head.weight"].aliases == (("tied.weight", 2),)
    assert not graph.params["head.weight"].trainable
    assert graph.params["conv.weight"].data.is_meta
    assert graph["conv"].params == {"weight": "conv.weight"}
    assert graph["a b"].attrs["args"] == (Ref("pair"), Slice(None, 2, None))
    assert graph["conv"].module == "conv" and graph["pair"].scope == "block.0" and graph["pair"].module is None


@given(graphs())
def test_round_trip(graph: Graph) -> None:
    text = format_graph(graph)
    read = parse(text)
    assert format_graph(read) == text
    assert same_structure(read, graph)
    assert list(read.nodes) == list(graph.nodes) and list(read.params) == list(graph.params)
    for name, node in graph.nodes.items():
        other = read[name]
        assert (other.op, other.inputs, other.params, other.type) == (node.op, node.inputs, node.params, node.type)
        assert (other.scope, other.module) == (node.scope, node.module)
    for name, parameter in graph.params.items():
        got = read.params[name]
        assert (got.type, got.kind, got.aliases) == (parameter.type, parameter.kind, parameter.aliases)
        assert got.trainable == parameter.trainable


@given(attrs)
def test_attributes_keep_value_and_type(attr: Attr) -> None:
    node = Node("y", "op", ("x",), {}, {"key": attr}, OpaqueType("t"))
    x = Node("x", "input", type=TensorType("f32", ("N",)))
    got = parse(format_graph(Graph("G", {"x": x, "y": node}, {}, ("x",), Ref("y"))))["y"].attrs["key"]
    assert repr(got) == repr(attr)  # tells 1 from 1.0 and True, 0.0 from -0.0, and NaN equals itself


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 1e-320, 0.1 + 0.2, -0.0, 1e22, 5.0])
def test_floats_read_back_bit_by_bit(value: float) -> None:
    text = NET.replace("chunks=2", f"chunks={format_attr(value)}")
    assert repr(parse(text)["pair"].attrs["chunks"]) == repr(value)


def test_known_values_of_opaque_types() -> None:
    text = NET.replace('!"tuple[int, ...]"', "!torch.Size=[N,3]")
    assert format_graph(parse(text)) == text
    assert parse(text)["a b"].type == OpaqueType("torch.Size", ("N", 3))
    assert parse(text.replace("[N,3]\n", "7\n"))["a b"].type == OpaqueType("torch.Size", 7)


def test_comments_and_line_breaks_do_not_matter() -> None:
    spread = NET.replace(" : ", "  # a remark\n   : ").replace("\n", "\r\n")
    assert format_graph(parse(spread)) == NET


def test_widths_stand_where_a_line_diff_shows_them() -> None:
    wider = NET.replace("f32[8,3,3,3]", "f32[9,3,3,3]")
    assert not same_structure(parse(NET), parse(wider))


def test_order_of_attributes_and_roles_does_not_matter() -> None:
    one = Node("y", "op", (), {"weight": "w", "bias": "b"}, {"p": 1, "q": 2}, OpaqueType("t"))
    two = Node("y", "op", (), {"bias": "b", "weight": "w"}, {"q": 2, "p": 1}, OpaqueType("t"))
    assert format_node(one) == format_node(two)


def test_what_is_no_attribute_is_refused() -> None:
    for wrong in ([1], {"a": 1}, torch.float32, 1j):
        with pytest.raises(IRError, match="cannot be written as text"):
            format_attr(wrong)
    deep: Attr = ()
    for _ in range(MAX_NESTING + 1):
        deep = (deep,)
    with pytest.raises(IRError, match="nested more than"):
        format_attr(deep)


@pytest.mark.parametrize(
    ("old", "new", "where", "message"),
    [
        ("graph Net", "grph Net", "grph", "expected 'graph', found 'grph'"),
        ("(%x) {", "(%x, %x) {", "%x) {", "input 'x' is given twice"),
        ("f32[8,3,3,3]", "f33[8,3,3,3]", "f33", "'f33' is not the name of a dtype"),
        ("f32[8,3,3,3]", "f32[8,-3,3,3]", "-3", "a size must be a whole number of at least 0, not '-3'"),
        ("f32[8,3,3,3]", "f32[8,N,3,3]", "f32[8,N", "the shape of a parameter must be numbers"),
        ("f32[8,3,3,3]", f"f32[{'9' * 30}]", "f32[999", "larger than any machine holds"),
        ("f32[8,3,3,3]", f"f32[{'9' * 5000}]", "999", "a number of 5000 digits is too long"),
        ("f32[8,3,3,3]", "(f32[8])", "(f32[8])", "a parameter must be a tensor"),
        (" at 2", "", ")\n  buffer", "expected 'at', found ')'"),
        ("buffer @bn.count", "buffer @conv.weight", "buffer @conv", "parameter 'conv.weight' is given twice"),
        ("%conv = conv2d", "%x = conv2d", "%x = conv2d", "value 'x' is given twice"),
        ("stride=(1, 1)", "padding=1", "padding=1", "key 'padding' is given twice"),
        ("stride=(1, 1)", "stride=(1)", ")} : f32[N,8,8,8]", "expected ',', found ')'"),
        ("stride=(1, 1)", "stride=one", "one", "expected an attribute"),
        ("stride=(1, 1)", "stride=3px", "3px", "no word starts like this: '3px}"),
        ("weight=@conv", "weight=%conv", "%conv.weight", "expected the name of a parameter"),
        ("None, 2, None", "None, 2", "slice", "a slice has start, stop and step, not 2 parts"),
        ('module "conv"', 'module "conv', '"conv', "this quoted text has no end"),
        ('"torch.\\"f\\""', '"\\q"', '"\\q"', "escape that JSON does not know"),
        ("None)\n}", "None)", "", "expected '}', found the end of the text"),
        ("None)\n}", "None)\n} return", "return\n", "expected nothing more"),
    ],
)
def test_errors_say_where_and_what(old: str, new: str, where: str, message: str) -> None:
    assert old in NET
    text = NET.replace(old, new, 1)
    with pytest.raises(ParseError) as caught:
        parse(text)
    assert message in str(caught.value)
    before = text[: text.index(where) if where else len(text)].split("\n")
    assert (caught.value.line, caught.value.column) == (len(before), len(before[-1]) + 1)


def test_nesting_is_bounded() -> None:
    for attr in ("(" * 5000, "slice(" * 5000, "{a=" * 5000):
        with pytest.raises(ParseError, match="nested more than"):
            parse(NET.replace("stride=(1, 1)", f"stride={attr}"))
    with pytest.raises(ParseError, match="nested more than"):
        parse(NET.replace(": f32[N,8,8,8]", f": {'(' * 5000}"))


@pytest.mark.parametrize("cut", range(0, len(NET) - 3, 7))
def test_truncated_text_is_a_parse_error(cut: int) -> None:
    with pytest.raises(ParseError):
        parse(NET[:cut])


def test_invariants_are_verified() -> None:
    with pytest.raises(IRError, match="reads 'y', which does not exist"):
        parse(NET.replace("chunk(%conv)", "chunk(%y)"))
    with pytest.raises(IRError, match=r"reads parameter 'conv\.bias'"):
        parse(NET.replace("weight=@conv.weight", "weight=@conv.bias"))


def test_four_times_the_nodes_take_four_times_the_work() -> None:
    def there_and_back(count: int) -> None:
        lines = [
            f"  %y{i} = conv2d(%{f'y{i - 1}' if i else 'x'}, weight=@conv.weight) {{padding=(1, 1)}} : f32[N,8,8,8]"
            for i in range(count)
        ]
        text = NET.replace("  %pair", "\n".join([*lines, "  %pair"]))
        assert len(format_graph(parse(text)).splitlines()) == len(text.splitlines())

    assert calls_of(lambda: there_and_back(800)) < 5 * calls_of(lambda: there_and_back(200))
