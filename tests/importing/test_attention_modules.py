"""nn.MultiheadAttention as its arithmetic: the same numbers, the same training, the same names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.equivalence import relative_error
from gngraph.analysis.share import share_free_both_ways
from gngraph.importing import proof
from gngraph.importing.from_torch import from_torch
from gngraph.importing.imported import Imported
from gngraph.importing.same_numbers import compare_numbers
from gngraph.lowering.to_torch import to_torch
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import NewChannel
from tests.head_networks import CAUSAL, MODULES, Attending, built
from tests.training_steps import Trial


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


class MaskedByHead(nn.Module):
    """Attention with a mask for each sample and head, as those of Mask2Former and of distances are.

    Args:
        spread: makes the mask [N * heads, L, L] of what differs from sample to sample, [N, L, L].
        need_weights: whether weights are asked for.
        padded: whether there is a mask of padding too.
        module: options of the attention module.
    """

    def __init__(
        self, spread: Callable[[Tensor], Tensor], need_weights: bool, padded: bool = False, **module: Any
    ) -> None:
        super().__init__()
        self.spread, self.need_weights, self.padded = spread, need_weights, padded
        self.stem, self.norm, self.head = nn.Linear(5, 8), nn.LayerNorm(8), nn.Linear(8, 3)
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.1, batch_first=True, **module)

    def forward(self, x: Tensor) -> Tensor:
        mask = self.spread(x[..., :1] - x[..., 0].unsqueeze(1))
        padding = (x[..., 1] > 2) if self.padded else None
        h = self.stem(x)
        y, _ = self.attention(h, h, h, attn_mask=mask, key_padding_mask=padding, need_weights=self.need_weights)
        return cast(Tensor, self.head(self.norm(h + y).mean(1)))


BY_HEAD: dict[str, Callable[[Tensor], Tensor]] = {
    "interleaved": lambda w: w.repeat_interleave(2, 0),
    "repeated": lambda w: w.unsqueeze(1).repeat(1, 2, 1, 1).flatten(0, 1),
    "expanded": lambda w: w.unsqueeze(1).expand(-1, 2, -1, -1).reshape(-1, w.shape[1], w.shape[2]),
    "truth values": lambda w: (w.unsqueeze(1).repeat(1, 2, 1, 1) < -2).flatten(0, 1),
}


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")
@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("name", BY_HEAD)
def test_with_a_mask_for_each_head_the_stream_is_free(name: str, need_weights: bool) -> None:
    torch.manual_seed(0)
    network = MaskedByHead(BY_HEAD[name], need_weights, name == "repeated", add_bias_kv=name == "interleaved")
    graph = from_torch(network, torch.randn(3, 4, 5))
    assert not any(node.op == "multihead_attention" for node in graph.nodes.values())
    spaces = ChannelSpaces.of(graph)
    assert spaces["stem"].frozen is None
    wider = morph(graph, spaces, [NewChannel("stem")]).graph
    assert relative_error(graph, wider) < 1e-6
    module, batches = to_torch(graph), [[torch.randn(n, 4, 5)] for n in (3, 1, 5)]
    with torch.no_grad(), plain_attention():
        assert all(torch.equal(module(*batch), network.eval()(*batch)) for batch in batches)
    assert list(Trial(batches).differences(network, module)) == []


def test_heads_go_with_a_mask_that_has_them() -> None:
    class Slopes(MaskedByHead):
        def __init__(self) -> None:
            super().__init__(self.sloped, True)
            self.slopes = nn.Parameter(torch.tensor([1.0, 2.0]))

        def sloped(self, w: Tensor) -> Tensor:
            return (w.unsqueeze(1) * self.slopes.view(1, -1, 1, 1)).flatten(0, 1)

    torch.manual_seed(0)
    graph = from_torch(Slopes(), torch.randn(3, 4, 5))
    spaces = ChannelSpaces.of(graph)
    (heads,) = (space for space in spaces.free if any(slot.param == "slopes" for slot in space.slots))
    assert heads.size == 2 and any(slot.param == "attention.in_proj_weight" for slot in heads.slots)
    assert relative_error(graph, morph(graph, spaces, [NewChannel(heads.name)]).graph) < 1e-9


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
