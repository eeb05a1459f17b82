"""The diff: complete (empty exactly for equal structure), grouped by channel space, readable, and fast."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import gngraph.ops  # noqa: F401  (gives drafts their type rules)
from gngraph.errors import IRError
from gngraph.ir import Graph, Node, Parameter, Ref, diff, format_graph, parse, same_structure
from gngraph.ops import draft_of
from tests.call_counts import calls_of

NET = """\
graph Net(%x) {
  param @conv1.weight : f32[4,3,3,3]
  param @conv1.bias : f32[4]
  buffer @bn.running_mean : f32[4]
  param @conv2.weight : f32[6,4,3,3]
  param @head.weight : f32[10,6]
  %x = input() : f32[N,3,8,8]
  %conv1 = conv2d(%x, bias=@conv1.bias, weight=@conv1.weight) {padding=(1, 1)} : f32[N,4,8,8] module "conv1"
  %relu = relu(%conv1) : f32[N,4,8,8]
  %conv2 = conv2d(%relu, weight=@conv2.weight) {padding=(1, 1)} : f32[N,6,8,8] module "conv2"
  %pool = mean(%conv2) {dim=(2, 3), keepdim=False} : f32[N,6]
  %head = linear(%pool, weight=@head.weight) : f32[N,10] module "head"
  return %head
}
"""
WIDER = (
    NET.replace("f32[4,3,3,3]", "f32[7,3,3,3]")
    .replace(": f32[4]", ": f32[7]")
    .replace("f32[6,4,3,3]", "f32[6,7,3,3]")
    .replace("f32[N,4,", "f32[N,7,")
)
SPACES = {
    "conv1": [("conv1.weight", 0), ("conv1.bias", 0), ("bn.running_mean", 0), ("conv2.weight", 1)],
    "conv2": [("conv2.weight", 0), ("head.weight", 1)],
}


def filled(text: str) -> Graph:
    """The graph of `text` with ones for weights."""
    graph = parse(text)
    return graph.with_params({k: torch.ones(p.data.shape, dtype=p.data.dtype) for k, p in graph.params.items()})


def test_same_graph() -> None:
    graph = filled(NET)
    for other in (graph, filled(NET)):
        found = diff(graph, other, spaces=SPACES, lineage={"conv1": range(4)})
        assert found.is_empty and found.render() == "no differences"
        assert found.weights.compared == 5 and found.weights.differing == ()


def test_a_wider_space_is_one_entry() -> None:
    found = diff(parse(NET), parse(WIDER), spaces=SPACES, lineage={"conv1": (0, 1, 2, 1, -1, 1, 2)})
    (space,) = found.spaces
    assert (space.name, space.old, space.new) == ("conv1", 4, 7)
    assert [(r.param, r.axis, r.old, r.new) for r in space.resizes] == [(p, axis, 4, 7) for p, axis in SPACES["conv1"]]
    assert found.unassigned == () and found.resized == space.resizes
    assert space.lineage is not None
    assert (space.lineage.split, space.lineage.new, space.lineage.pruned) == ((1, 1, 2), 1, (3,))
    assert found.render().splitlines() == [
        "Net: 388 -> 634 parameters (+246, +63.4%); 6 -> 6 nodes (+0 -0 ~0); 1 channel space changed",
        "",
        "conv1: 4 -> 7, +3 split from 1, 1, 2, +1 new, -1 pruned (3)",
        "    axis 0: @conv1.weight, @conv1.bias, @bn.running_mean",
        "    axis 1: @conv2.weight",
        "",
        "nodes:",
        "(2 nodes differ only in the type of their value)",
        "",
        "weights: no tensors of equal shape to compare",
    ]


def test_what_belongs_to_no_space_comes_last() -> None:
    found = diff(parse(NET), parse(WIDER.replace("f32[10,6]", "f32[11,6]")), spaces={"conv1": SPACES["conv1"][:3]})
    assert [(r.param, r.axis) for r in found.unassigned] == [("conv2.weight", 1), ("head.weight", 0)]
    assert found.render().splitlines()[-3:] == [
        "resized, in no space:",
        "    axis 1, 4 -> 7: @conv2.weight",
        "    axis 0, 10 -> 11: @head.weight",
    ]
    assert "\nresized:\n" in diff(parse(NET), parse(WIDER)).render()


def test_an_axis_may_hold_two_spaces() -> None:
    spaces = {"a": [("conv1.weight", 0), ("conv2.weight", 1)], "b": [("conv1.bias", 0), ("conv2.weight", 1)]}
    found = diff(parse(NET), parse(WIDER), spaces=spaces)
    assert [space.name for space in found.spaces] == ["a", "b"]
    assert [(r.param, r.axis) for r in found.unassigned] == [("bn.running_mean", 0)]


def test_a_space_may_change_without_changing_size() -> None:
    found = diff(parse(NET), parse(NET), spaces=SPACES, lineage={"conv1": (0, 1, 2, 2), "conv2": (1, 0, 2, 3, 4, 5)})
    assert not found.is_empty
    text = found.render()
    assert "conv1: 4 -> 4, +1 split from 2, -1 pruned (3)\n" in text and "conv2: 6 -> 6, reordered\n" in text


def test_long_lists_of_channels_are_cut() -> None:
    found = diff(parse(NET), parse(NET), spaces=SPACES, lineage={"conv2": [-1] * 6}).render()
    assert "conv2: 6 -> 6, +6 new, -6 pruned (0, 1, 2, 3, 4, 5)" in found
    wide = parse(NET.replace("[6,4,", "[16,4,").replace("[10,6]", "[10,16]"))
    found = diff(wide, parse(NET), spaces=SPACES, lineage={"conv2": range(6)}).render()
    assert "conv2: 16 -> 6, -10 pruned (6, 7, 8, 9, 10, 11, ...)" in found


@pytest.mark.parametrize(
    ("lineage", "message"),
    [
        ({"conv9": ()}, "the space 'conv9', which is not among the spaces"),
        ({"conv1": (0, 1)}, "has 2 channels, but graph b has 4"),
        ({"conv1": (0, 1, 2, 4)}, "names channel 4, but graph a has 4"),
        ({"conv1": (0, 1, 2, -2)}, "names channel -2"),
    ],
)
def test_wrong_lineage(lineage: dict[str, tuple[int, ...]], message: str) -> None:
    with pytest.raises(IRError, match=message):
        diff(parse(NET), parse(NET), spaces=SPACES, lineage=lineage)


def test_inserted_node_reads_as_a_unified_diff() -> None:
    base = parse(NET)
    draft = draft_of(base)
    draft.add(Node("extra", "relu", ("conv2",)), after="conv2")
    draft.replace_uses("conv2", "extra", except_in=("extra",))
    found = diff(base, draft.commit())
    assert [edit.name for edit in found.nodes_added] == ["extra"]
    assert [(e.name, [f.field for f in e.fields]) for e in found.nodes_changed] == [("pool", ["inputs"])]
    text = found.render()
    assert "6 -> 7 nodes (+1 -0 ~1)" in text
    assert text[text.index("nodes:\n") :].splitlines()[:5] == [
        "nodes:",
        "@@ after %conv2 @@",
        "+ %extra = relu(%conv2) : f32[N,6,8,8]",
        "- %pool = mean(%conv2) {dim=(2, 3), keepdim=False} : f32[N,6]",
        "+ %pool = mean(%extra) {dim=(2, 3), keepdim=False} : f32[N,6]",
    ]
    back = diff(draft.commit(), base)
    assert [(edit.name, edit.after) for edit in back.nodes_removed] == [("extra", "conv2")]
    assert "@@ after %conv2 @@\n- %extra = relu" in back.render()


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("graph Net", "graph Other", "name"),
        ("return %head", "return (%head,)", "output"),
        ("= relu(%conv1)", "= tanh(%conv1)", "op"),
        ("relu(%conv1)", "relu(%x)", "inputs"),
        ("relu(%conv1) :", "relu(%conv1) {a=1} :", "attr a"),
        ("weight=@head.weight", "w=@head.weight", "param weight"),
        ("{padding=(1, 1)} : f32[N,4", "{padding=(1, True)} : f32[N,4", "attr padding"),
        (': f32[N,10] module "head"', ": f32[N,10]", "module"),
        (': f32[N,10] module "head"', ': f32[N,10] module ""', "module"),
        (": f32[N,6]\n", ': f32[N,6] scope "a"\n', "scope"),
        (": f32[N,6]\n", ": f64[N,6]\n", "type"),
        ("param @head.weight", "buffer @head.weight", "kind"),
        ("param @head.weight", "param frozen @head.weight", "trainable"),
        ("f32[10,6]", "f16[10,6]", "dtype"),
        ("f32[10,6]", "f32[10,6,1]", "shape"),
        ("f32[10,6]", "f32[10,6] aliases (@tied at 3)", "aliases"),
    ],
)
def test_every_field_is_seen(old: str, new: str, field: str) -> None:
    assert old in NET
    a, b = parse(NET), parse(NET.replace(old, new))
    for found in (diff(a, b), diff(b, a)):
        fields = [change.field for change in found.header]
        fields += [change.field for edit in found.nodes for change in edit.fields]
        fields += [change.field for param in found.params_changed for change in param.fields]
        assert field in fields
        assert not found.is_empty and "no differences" not in found.render()


def test_parameters_added_and_removed() -> None:
    a, b = parse(NET), parse(NET.replace("@conv1.bias", "@conv1.shift"))
    found = diff(a, b)
    assert found.params_removed == {"conv1.bias": "param @conv1.bias : f32[4]"}
    assert found.params_added == {"conv1.shift": "param @conv1.shift : f32[4]"}
    assert "parameters:\n- param @conv1.bias : f32[4]\n+ param @conv1.shift : f32[4]" in found.render()


def test_order_counts() -> None:
    lines = NET.splitlines(keepends=True)
    lines[1], lines[2] = lines[2], lines[1]
    found = diff(parse(NET), parse("".join(lines)))
    assert [change.field for change in found.header] == ["order of parameters"]
    assert "order of parameters differs" in found.render()


def test_empty_exactly_for_equal_structure() -> None:
    """Each deletion of a line or swap of two that still parses is a difference."""
    base, lines = parse(NET), NET.splitlines(keepends=True)
    variants = [lines[:i] + lines[i + 1 :] for i in range(1, len(lines))]
    variants += [[*lines[:i], lines[i + 1], lines[i], *lines[i + 2 :]] for i in range(1, len(lines) - 1)]
    parsed = 0
    for variant in variants:
        try:
            other = parse("".join(variant))
        except Exception:  # most variants are no graphs
            continue
        parsed += 1
        assert diff(base, other).is_empty == same_structure(base, other) is False
    assert parsed >= 5


def test_values() -> None:
    a = filled(NET)
    data = {name: parameter.data.clone() for name, parameter in a.params.items()}
    data["conv1.bias"][0] = torch.nan
    b = a.with_params(data)
    found = diff(a, b)
    assert found.is_empty and found.weights.differing == ("conv1.bias",)
    assert found.render().splitlines() == [
        "Net: no structural differences, 388 parameters",
        "",
        "weights: 1 of 5 tensors of equal shape differ in values",
    ]
    assert diff(b, b.with_params({k: v.clone() for k, v in data.items()})).weights.differing == ()  # NaN equals NaN
    assert diff(a, parse(NET)).weights.compared == 0


def test_json() -> None:
    found = diff(filled(NET), filled(WIDER), spaces=SPACES, lineage={"conv1": (0, 1, 2, 3, -1, -1, 0)})
    record = json.loads(json.dumps(found.to_json()))
    assert record["spaces"][0]["lineage"] == {"split": [0], "new": 2, "pruned": [], "moved": False}
    assert record["num_params"] == [388, 634] and record["is_empty"] is False
    assert record["weights"] == {"compared": 1, "differing": []}
    assert not [key for key in record if key.startswith("_")]


def chain(norms: int) -> str:
    """The text of a network with so many BatchNorms, every object of it another."""
    base = parse(NET)
    nodes, params = dict(base.nodes), dict(base.params)
    for i in range(norms):
        for role in ("weight", "bias"):
            params[f"bn{i}.{role}"] = Parameter(torch.empty(4, device="meta"))
        roles = {"weight": f"bn{i}.weight", "bias": f"bn{i}.bias"}
        source = f"bn{i - 1}" if i else "conv1"
        nodes[f"bn{i}"] = replace(base["conv1"], name=f"bn{i}", op="batch_norm2d", inputs=(source,), params=roles)
    return format_graph(Graph("Deep", nodes, params, ("x",), Ref(f"bn{norms - 1}")))


def test_graphs_four_times_as_large_take_four_times_the_work() -> None:
    """DenseNet-121's size is 430 nodes and 730 parameters."""
    work = []
    for norms in (100, 400):
        text = chain(norms)
        a, b = parse(text), parse(text.replace(": f32[4]", ": f32[5]"))
        assert len(diff(a, b).resized) == 2 * norms + 2
        work.append(calls_of(lambda a=a, b=b: diff(a, b)))  # type: ignore[misc]
    assert work[1] < 5 * work[0]
