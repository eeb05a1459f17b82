"""nn.MultiheadAttention as its arithmetic: the same numbers, the same training, the same names."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.share import share_free_both_ways
from gngraph.importing import proof
from gngraph.importing.from_torch import from_torch
from gngraph.importing.imported import Imported
from gngraph.importing.same_numbers import compare_numbers
from gngraph.lowering.to_torch import to_torch
from tests.head_networks import CAUSAL, MODULES, Attending, built


@contextmanager
def plain_attention() -> Iterator[None]:
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@pytest.mark.parametrize("name", MODULES)
def test_it_is_its_arithmetic(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case, compared = MODULES[name], list[str]()

    def noted(claim: Imported) -> None:
        compared.append(claim.graph.name)
        compare_numbers(claim)

    monkeypatch.setattr(proof, "compare_numbers", noted)
    network, inputs = built(case)
    graph = from_torch(network, inputs)
    assert case.by_calls == (not compared), "what is seen from the calls alone needs no numbers"
    assert not any(node.op == "multihead_attention" for node in graph.nodes.values())
    module = to_torch(graph)
    assert list(module.state_dict()) == list(network.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(module.state_dict().values(), network.state_dict().values(), strict=True)
    )
    with torch.no_grad(), plain_attention():
        torch.testing.assert_close(module(*inputs), network(*inputs), rtol=0, atol=0)
    gradients = []
    for one in (module, network):
        torch.manual_seed(3)
        found = one.train()(*inputs)
        sum(x.square().sum() for x in (found if isinstance(found, tuple) else (found,)) if x is not None).backward()
        gradients.append({key: p.grad for key, p in one.named_parameters()})
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("name", MODULES)
def test_its_stream_and_its_heads_are_free(name: str) -> None:
    case = MODULES[name]
    graph = from_torch(*built(case))
    spaces = ChannelSpaces.of(graph)
    assert next(iter(spaces.counters)) in {space.name for space in spaces.free}
    heads = [
        space
        for space in spaces.free
        if any(slot.param.endswith("in_proj_weight") and slot.axis == 0 for slot in space.slots)
    ]
    assert [(space.size, max(slot.inner for slot in space.slots)) for space in heads] == [
        (case.heads, 8 // case.heads)
    ] * 2
    assert all(graph.params[f"{space.name}.in_proj_weight"] for space in heads), "they have the module's name"
    assert share_free_both_ways(graph, spaces) >= 0.85


ONE_OP: dict[str, nn.Module] = {
    "mask by head": Attending(need_weights=False, attn_mask=CAUSAL.repeat(6, 1, 1)),
}


@pytest.mark.parametrize("name", ONE_OP)
def test_what_is_not_written_out_stays_one_op(name: str) -> None:
    network = ONE_OP[name].eval()
    x = torch.randn(3, 4, 5)
    graph = from_torch(network, x)
    attentions = [node for node in graph.nodes.values() if node.op == "multihead_attention"]
    assert attentions
    assert "the attention module demands that its heads" in str(ChannelSpaces.of(graph)["stem"].frozen)
    with torch.no_grad(), plain_attention():
        assert torch.equal(to_torch(graph)(x), network(x))
