"""Graphs, drafts and verification: snapshots never change, edits are checked, a commit is all or nothing."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace
from typing import cast

import pytest
import torch

from gngraph.errors import IRError
from gngraph.ir import (
    Draft,
    Graph,
    Items,
    Node,
    OpaqueType,
    Parameter,
    Ref,
    Slice,
    TensorType,
    diff,
    format_graph,
    parse,
    verify,
)
from gngraph.ir.types import refs_in, replace_refs
from gngraph.ops import draft_of

NET = """\
graph Net(%x) {
  param @fc1.weight : f32[8,4]
  param @fc1.bias : f32[8]
  param @fc2.weight : f32[3,8]
  %x = input() : f32[N,4]
  %fc1 = linear(%x, bias=@fc1.bias, weight=@fc1.weight) : f32[N,8] module "fc1"
  %relu = relu(%fc1) : f32[N,8]
  %fc2 = linear(%relu, weight=@fc2.weight) : f32[N,3] module "fc2"
  return (%fc2, {hidden=%relu})
}
"""


@pytest.fixture
def base() -> Graph:
    graph = parse(NET)
    return graph.with_params({name: torch.zeros(p.data.shape) for name, p in graph.params.items()})


def order(graph: Graph) -> str:
    return " ".join(graph.nodes)


# Graph


def test_graph_answers_who_reads_what(base: Graph) -> None:
    assert base.users("x") == ("fc1",) and base.users("relu") == ("fc2",) and base.users("fc2") == ()
    assert base.readers("fc1.weight") == (("fc1", "weight"),)
    assert base.outputs == ("fc2", "relu")
    assert base.num_params() == 32 + 8 + 24
    assert base["fc1"].shape == ("N", 8)
    with pytest.raises(IRError, match="graph 'Net' has no node 'y'"):
        base["y"]
    with pytest.raises(IRError, match="no node 'y'"):
        base.users("y")


def test_graph_cannot_be_written_to(base: Graph) -> None:
    with pytest.raises(FrozenInstanceError):
        base.name = "Other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        base.nodes["x"] = base["fc1"]  # type: ignore[index]
    with pytest.raises(TypeError):
        cast("dict[str, str]", base["fc1"].params)["weight"] = "fc2.weight"


def test_equality_is_identity(base: Graph) -> None:
    assert base == base and base != parse(NET) and len({base, parse(NET)}) == 2


def test_with_params_keeps_shapes(base: Graph) -> None:
    ones = base.with_params({"fc1.bias": torch.ones(8)})
    assert ones.params["fc1.bias"].data.sum() == 8 and base.params["fc1.bias"].data.sum() == 0
    assert ones.params["fc2.weight"] is base.params["fc2.weight"] and ones["fc1"] is base["fc1"]
    assert ones.users("x") == ("fc1",)
    with pytest.raises(IRError, match=r"has shape \(8,\) and cannot take shape \(9,\)"):
        base.with_params({"fc1.bias": torch.ones(9)})
    with pytest.raises(IRError, match="has no parameter 'no'"):
        base.with_params({"no": torch.ones(9)})


def test_cast_leaves_integers_alone() -> None:
    graph = parse("graph G(%x) { param @p : f32[2] buffer @n : i64[] %x = input() : f32[N] return %x }")
    double = graph.to(torch.float64)
    assert [p.data.dtype for p in double.params.values()] == [torch.float64, torch.int64]


def test_a_graph_prints_a_line_a_node_whatever_its_weights(base: Graph) -> None:
    wide = base.with_params({"fc1.weight": torch.arange(32.0).reshape(8, 4)})
    assert str(wide) == str(base) and repr(wide) == repr(base)
    assert repr(base) == "<Graph Net(%x) -> %fc2, %relu: 4 nodes, 64 parameters>"
    assert str(base).splitlines() == [
        "Net(%x) -> %fc2, %relu: 4 nodes, 64 parameters",
        "  %x = input() : f32[N,4]",
        "  %fc1 = linear(%x) : f32[N,8], 40 parameters",
        "  %relu = relu(%fc1) : f32[N,8]",
        "  %fc2 = linear(%relu) : f32[N,3], 24 parameters",
    ]


def test_references_in_attributes() -> None:
    attr = (Ref("a"), 1, (Slice(Ref("b"), None, Ref("a")), Items((("k", Ref("c")), ("a", "a")))))
    assert list(refs_in(attr)) == ["a", "b", "a", "c"]
    assert list(refs_in(replace_refs(attr, {"a": "z"}))) == ["z", "b", "z", "c"]
    assert replace_refs(attr, {}) == attr


# Draft


def test_types_come_from_the_rule_that_the_draft_was_given(base: Graph) -> None:
    draft = Draft(base, lambda node, inputs, params: OpaqueType(f"{node.op} of {len(inputs)} with {len(params)}"))
    draft.set_attrs("fc1", note=1)
    after = draft.commit()
    assert [str(node.type) for node in after.nodes.values()] == [
        "f32[N,4]",
        *(f"!{op} of 1 with 3" for op in ("linear", "relu", "linear")),
    ]


def test_draft_without_edits_is_the_same_network(base: Graph) -> None:
    graph = draft_of(base).commit()
    assert graph is not base and diff(base, graph).is_empty


def test_base_never_changes(base: Graph) -> None:
    before = format_graph(base)
    draft = draft_of(base)
    draft.add(Node("tanh", "tanh", ("fc1",)), after="fc1")
    draft.replace_uses("fc1", "tanh", except_in=("tanh",))
    draft.set_param("fc1.bias", Parameter(torch.ones(8)))
    draft.set_attrs("relu", note=1)
    draft.set_output(Ref("tanh"))
    after = draft.commit()
    assert format_graph(base) == before and base.params["fc1.bias"].data.sum() == 0
    assert order(after) == "x fc1 tanh relu fc2" and after["relu"].inputs == ("tanh",) and after.outputs == ("tanh",)
    assert after["tanh"].type == TensorType("f32", ("N", 8))


def test_untouched_parts_are_shared(base: Graph) -> None:
    draft = draft_of(base)
    draft.set_attrs("relu", note=1)
    after = draft.commit()
    assert after["fc1"] is base["fc1"] and after.params["fc1.weight"] is base.params["fc1.weight"]


def test_types_follow_a_wider_layer(base: Graph) -> None:
    draft = draft_of(base)
    draft.set_param("fc1.weight", Parameter(torch.zeros(9, 4)))
    draft.set_param("fc1.bias", Parameter(torch.zeros(9)))
    draft.set_param("fc2.weight", Parameter(torch.zeros(3, 9)))
    assert draft.params["fc1.bias"].data.shape == (9,)
    after = draft.commit()
    assert after["fc1"].shape == ("N", 9) and after["relu"].shape == ("N", 9) and after["fc2"].shape == ("N", 3)
    assert after["fc2"] is base["fc2"]  # its own type did not change


def test_half_a_widening_is_refused(base: Graph) -> None:
    draft = draft_of(base)
    draft.set_param("fc1.weight", Parameter(torch.zeros(9, 4)))
    with pytest.raises(IRError, match=r"fc1|fc2"):
        draft.commit()


def test_added_nodes_keep_their_order(base: Graph) -> None:
    draft = draft_of(base)
    draft.add(Node("a", "tanh", ("x",)), after="x")
    draft.add(Node("b", "tanh", ("a",)), after="a")
    draft.add(Node("c", "tanh", ("b",)), after="b")
    draft.add(Node("d", "tanh", ("fc2",)))
    draft.add(Node("e", "tanh", ("x",)), after="x")
    assert order(draft.commit()) == "x a b c e fc1 relu fc2 d"


def test_a_node_can_be_replaced(base: Graph) -> None:
    """Add the new node behind the old one, move the uses, drop the old one: the new one stands in its place."""
    draft = draft_of(base)
    draft.add(Node("gelu", "gelu", ("fc1",), attrs={"approximate": "none"}), after="relu")
    draft.replace_uses("relu", "gelu")
    draft.remove("relu")
    after = draft.commit()
    assert order(after) == "x fc1 gelu fc2" and after.outputs == ("fc2", "gelu")


def test_what_nothing_reads_any_longer_goes(base: Graph) -> None:
    draft = draft_of(base)
    draft.add(Node("twice", "add", ("relu", "relu")), after="relu")
    draft.add(Node("aside", "tanh", ("twice",)), after="twice")
    draft.set_output(Ref("fc1"))
    draft.remove_unread(["relu", "twice", "aside", "fc1"])  # fc2, which is not named, stays and reads the first
    assert order(draft.commit()) == "x fc1 relu fc2"
    draft.remove_unread(["relu", "fc2", "fc1"])
    assert order(draft.commit()) == "x fc1"


def test_uses_inside_attributes_follow(base: Graph) -> None:
    draft = draft_of(base)
    args = {"args": (Ref("relu"), 2), "kwargs": Items(()), "target": ".chunk"}
    draft.add(Node("call", "foreign", ("relu",), attrs=args, type=OpaqueType("x")), after="relu")
    draft.add(Node("tanh", "tanh", ("relu",)), after="relu")
    draft.replace_uses("relu", "tanh", except_in=("tanh",))
    assert draft.node("call").inputs == ("tanh",) and draft.node("call").attrs["args"] == (Ref("tanh"), 2)


def test_fresh_names(base: Graph) -> None:
    draft = draft_of(base)
    assert draft.fresh_name("new") == "new" and draft.fresh_name("relu") == "relu_1"
    draft.add(Node("relu_1", "relu", ("x",)))
    assert draft.fresh_name("relu") == "relu_2"


def test_parameters_come_and_go(base: Graph) -> None:
    draft = draft_of(base)
    draft.set_param("fc3.weight", Parameter(torch.zeros(2, 3)))
    draft.add(Node("fc3", "linear", ("fc2",), {"weight": "fc3.weight"}))
    draft.set_output(Ref("fc3"))
    after = draft.commit()
    assert after["fc3"].shape == ("N", 2) and list(after.params)[-1] == "fc3.weight"
    draft = draft_of(after)
    draft.set_output(Ref("fc2"))
    draft.remove("fc3")
    draft.remove_param("fc3.weight")
    assert list(draft.commit().params) == list(base.params)


def test_roles_can_change(base: Graph) -> None:
    draft = draft_of(base)
    draft.set_params("fc1", {"weight": "fc1.weight"})
    assert dict(draft.commit()["fc1"].params) == {"weight": "fc1.weight"}


def test_every_edit_is_checked(base: Graph) -> None:
    draft = draft_of(base)
    with pytest.raises(IRError, match=r"node 'relu' exists already; take a name from fresh_name\('relu'\)"):
        draft.add(Node("relu", "relu", ("x",)))
    with pytest.raises(IRError, match="has no node 'no'"):
        draft.add(Node("y", "relu", ("no",)))
    with pytest.raises(IRError, match="has no node 'no'"):
        draft.add(Node("y", "relu", ("x",)), after="no")
    with pytest.raises(IRError, match="reads parameter 'no' as 'weight', which does not exist"):
        draft.add(Node("y", "linear", ("x",), {"weight": "no"}))
    with pytest.raises(IRError, match=r"is still read by \['fc2'\]"):
        draft.remove("relu")
    with pytest.raises(IRError, match="is still read by the output"):
        draft.remove("fc2")
    with pytest.raises(IRError, match="has no node 'no'"):
        draft.remove("no")
    with pytest.raises(IRError, match="has no node 'no'"):
        draft.replace_uses("relu", "no")
    with pytest.raises(IRError, match="has no node 'no'"):
        draft.set_attrs("no", a=1)
    with pytest.raises(IRError, match="cannot read parameter 'no'"):
        draft.set_params("fc1", {"weight": "no"})
    with pytest.raises(IRError, match="has no parameter 'no'"):
        draft.remove_param("no")
    with pytest.raises(IRError, match="has no node 'no'"):
        draft.set_output((Ref("no"),))
    assert diff(base, draft.commit()).is_empty  # a refused edit leaves nothing behind


def test_commit_refuses_what_no_edit_could_see(base: Graph) -> None:
    draft = draft_of(base)
    draft.remove_param("fc1.bias")
    with pytest.raises(IRError, match=r"reads parameter 'fc1\.bias' as 'bias', which does not exist"):
        draft.commit()
    draft = draft_of(base)
    draft.replace_uses("x", "fc2", except_in=("fc2",))
    with pytest.raises(IRError, match="reads 'fc2', which is not computed before it"):
        draft.commit()
    draft = draft_of(base)
    draft.add(Node("y", "no_such_op", ("x",)))
    with pytest.raises(IRError, match="no_such_op"):
        draft.commit()


# verify


def broken(base: Graph, **changes: object) -> Graph:
    return replace(base, **changes)  # type: ignore[arg-type]


def with_node(base: Graph, node: Node) -> Graph:
    return broken(base, nodes={**base.nodes, node.name: node})


def test_verify_accepts_a_good_graph(base: Graph) -> None:
    verify(base)


def test_verify_names_the_broken_invariant(base: Graph) -> None:
    relu, tied = base["relu"], Parameter(torch.zeros(2), aliases=(("fc1.bias", 1),))
    for graph, message in (
        (broken(base, nodes={**base.nodes, "other": relu}), "node 'relu' is stored under the name 'other'"),
        (with_node(base, replace(relu, inputs=("no",))), "node 'relu' reads 'no', which does not exist"),
        (with_node(base, replace(relu, inputs=("fc2",))), "node 'relu' reads 'fc2', which is not computed before it"),
        (with_node(base, replace(relu, inputs=("relu",))), "which is not computed before it"),
        (with_node(base, replace(relu, params={"w": "no"})), "reads parameter 'no' as 'w', which does not exist"),
        (
            with_node(base, replace(relu, attrs={"a": (Ref("x"),)})),
            "refers to 'x' in attribute 'a' but does not list it",
        ),
        (
            with_node(base, replace(relu, op="input")),
            "node 'relu' has op 'input', which does not agree with the inputs",
        ),
        (with_node(base, replace(base["x"], op="relu")), "node 'x' has op 'relu', which does not agree"),
        (with_node(base, replace(base["x"], type=OpaqueType("int"))), "an input must be a tensor"),
        (broken(base, inputs=("x", "y")), "has 'y' as an input or output, but no such node"),
        (broken(base, output=(Ref("y"),)), "has 'y' as an input or output, but no such node"),
        (
            broken(base, params={**base.params, "t": tied}),
            "parameter 't' has the alias 'fc1.bias', which is a parameter",
        ),
    ):
        with pytest.raises(IRError) as caught:
            verify(graph)
        assert message in str(caught.value)
