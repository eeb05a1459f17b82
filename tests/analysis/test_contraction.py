"""Channels that two values are summed over: one side writes them, the other reads, and every change of one is exact."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gngraph.analysis.channels import ChannelSpaces, Role
from gngraph.analysis.equivalence import outputs64
from gngraph.growth.grower import Grower
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.lowering.probe import probe_of
from gngraph.lowering.to_torch import to_torch
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import NewChannel, PruneChannel, SplitChannel
from gngraph.rewrite.surgery import carry
from tests.merge_errors import MergedValues
from tests.morphism_errors import difference, value_masked
from tests.random_blocks import Block
from tests.training_steps import steps_differ

T, C, D = 5, 6, 4


def _attend(m: Any, x: Tensor, scores: Tensor) -> Tensor:
    out: Tensor = m.o(F.softmax(scores, -1) @ m.v(x))
    return out


def _by_size(m: Any, x: Tensor) -> Tensor:
    q, k = m.q(x), m.k(x)
    return _attend(m, x, q @ k.transpose(-2, -1) * k.shape[-1] ** -0.5)


def _by_root(m: Any, x: Tensor) -> Tensor:
    q, k = m.q(x), m.k(x)
    return _attend(m, x, torch.einsum("btd,bsd->bts", q, k) / math.sqrt(k.size(-1)))


def _fused(m: Any, x: Tensor) -> Tensor:
    out: Tensor = m.o(F.scaled_dot_product_attention(m.q(x), m.k(x), m.v(x)))
    return out


def _packed(m: Any, x: Tensor) -> Tensor:
    q, k, v = m.qkv(x).split(D, dim=-1)
    out: Tensor = m.o(F.scaled_dot_product_attention(q, k, v))
    return out


def _sliced(m: Any, x: Tensor) -> Tensor:
    y = m.qk(x)
    return _attend(m, x, y[..., :D] @ y[..., D:].mT)


def _bent(m: Any, x: Tensor) -> Tensor:
    return _attend(m, x, m.k(x) @ torch.relu(m.q(x)).mT)


def _normed(m: Any, x: Tensor) -> Tensor:
    return _attend(m, x, m.norm_q(m.q(x)) @ m.norm_k(m.k(x)).mT)


def _shared(m: Any, x: Tensor) -> Tensor:
    k = m.k(x) * 0.5 + m.places
    return _attend(m, x, m.q(x) @ k.mT - m.v(x) @ k.mT)


def _with_table(m: Any, x: Tensor) -> Tensor:
    q = m.q(x)
    far = m.places[m.far]
    return _attend(m, x, q @ m.k(x).mT + torch.einsum("btd,tsd->bts", q, far))


def _scan(m: Any, x: Tensor) -> Tensor:
    b, c = m.q(x), m.k(x)
    state, ys = torch.zeros_like(x[:, 0, :, None] * b[:, 0, None]), []
    for i in range(T):
        state = state * torch.exp(m.decay) + x[:, i, :, None] * b[:, i, None]
        ys.append(torch.einsum("bcn,bn->bc", state, c[:, i]))
    out: Tensor = m.o(torch.stack(ys, 1))
    return out


def _of_one_reshape(m: Any, x: Tensor) -> Tensor:
    q, k, v = m.qkv(x).view(len(x), T, 3, D).unbind(2)
    out: Tensor = m.o(F.scaled_dot_product_attention(q, k, v))
    return out


def _linearly(m: Any, x: Tensor) -> Tensor:
    q, k, v = m.qkv(x).view(len(x), T, 3, D).unbind(2)
    out: Tensor = m.o(q @ (v.mT @ k).mT)
    return out


def _linearly_with_bent_keys(m: Any, x: Tensor) -> Tensor:
    q, k, v = m.qkv(x).view(len(x), T, 3, D).unbind(2)
    out: Tensor = m.o(q @ (k.softmax(1).mT @ v))
    return out


def _linearly_with_both_bent(m: Any, x: Tensor) -> Tensor:
    q, k, v = m.qkv(x).view(len(x), T, 3, D).unbind(2)
    out: Tensor = m.o((F.elu(q) + 1) @ (k.softmax(1).mT @ v))
    return out


def _of_entries(m: Any, x: Tensor) -> Tensor:
    y = m.qkv(x).unflatten(-1, (D, 3)).permute(3, 0, 1, 2)
    out: Tensor = m.o(F.softmax(y[0] @ y[1].mT, -1) @ y[-1])
    return out


def _with_joined_bias(m: Any, x: Tensor) -> Tensor:
    q, k = F.linear(x, m.qk.weight, torch.cat([m.q.bias, m.k.bias])).chunk(2, -1)
    return _attend(m, x, q @ k.mT)


def _transposed(m: Any, x: Tensor) -> Tensor:
    q, k = (torch.addmm(w.bias, x.reshape(-1, C), w.weight.t()).view(-1, T, D) for w in (m.q, m.k))
    return _attend(m, x, q @ k.mT)


def _gram(m: Any, x: Tensor) -> Tensor:
    q = m.q(x)
    return _attend(m, x, q @ q.mT)


def _read_elsewhere(m: Any, x: Tensor) -> Tensor:
    q, k = m.q(x), m.k(x)
    return _attend(m, x, q @ k.mT + torch.tanh(q) @ torch.tanh(k).mT)


def _maps(m: Any, x: Tensor) -> Tensor:
    q, k = F.elu(m.q(x)) + 1, F.elu(m.k(x)) + 1
    out: Tensor = m.o(q @ (k.mT @ m.v(x)))
    return out


def _turned(m: Any, x: Tensor) -> Tensor:
    def turn(y: Tensor) -> Tensor:
        turned: Tensor = y * m.cos + torch.cat([-y[..., D // 2 :], y[..., : D // 2]], -1) * m.sin
        return turned

    return _attend(m, x, turn(m.q(x)) @ turn(m.k(x)).mT)


def _of_constant(m: Any, x: Tensor) -> Tensor:
    return _attend(m, x, torch.einsum("btd,tsd->bts", m.q(x), m.cos[m.far % T]))


def _with_constant_bias(m: Any, x: Tensor) -> Tensor:
    q, k = F.linear(x, m.qk.weight, torch.cat([m.cos[0], m.sin[0]])).chunk(2, -1)
    return _attend(m, x, q @ k.mT)


def _mixed(m: Any, x: Tensor) -> Tensor:
    q, k, v = m.qkv(x).view(len(x), T, 3, D).cumsum(2).unbind(2)
    out: Tensor = m.o(F.scaled_dot_product_attention(q, k, v))
    return out


def _read_as_a_whole(m: Any, x: Tensor) -> Tensor:
    y = m.qkv(x).view(len(x), T, 3, D)
    out: Tensor = m.o(F.softmax(y[:, :, 0] @ y[:, :, 1].mT, -1) @ torch.tanh(y).sum(2))
    return out


def _read_beyond(m: Any, x: Tensor) -> Tensor:
    q, k = m.q(x), m.k(x)
    twice, half = 2 * q, 2 * k
    scores = twice[..., :2] @ half[..., :2].mT + q[..., 2:] @ k[..., 2:].mT
    return _attend(m, x, scores + torch.tanh(twice[..., 2:]) @ torch.tanh(half[..., 2:]).mT)


def _added_up(m: Any, x: Tensor) -> Tensor:
    return _attend(m, x, (m.q(x).unsqueeze(2) * m.k(x).unsqueeze(1)).sum(-1))


def _averaged(m: Any, x: Tensor) -> Tensor:
    products = m.q(x).unsqueeze(2) * m.k(x).unsqueeze(1)
    return _attend(m, x, torch.mean(products.transpose(1, 3), dim=1).mT)


def _added_up_with_a_table(m: Any, x: Tensor) -> Tensor:
    return _attend(m, x, (m.q(x).unsqueeze(2) * F.embedding(m.far % T, m.places)).sum(dim=-1))


def _added_up_and_read(m: Any, x: Tensor) -> Tensor:
    products = m.q(x).unsqueeze(2) * m.k(x).unsqueeze(1)
    return _attend(m, x, products.sum(-1) * products.tanh().amax(-1))


def _squares_added_up(m: Any, x: Tensor) -> Tensor:
    q = m.q(x)
    return _attend(m, x, (q * q).sum(-1, keepdim=True) * m.k(x)[..., :1].mT)


def _added_to_distances(m: Any, x: Tensor) -> Tensor:
    return _attend(m, x, torch.baddbmm(m.cos[:, :1], m.q(x), m.k(x).mT, alpha=D**-0.5))


FREE: dict[str, tuple[Callable[..., Tensor], tuple[str, ...]]] = {
    "by its size": (_by_size, ("k.weight", "k.bias")),
    "by a root": (_by_root, ("k.weight", "k.bias")),
    "fused": (_fused, ("k.weight", "k.bias")),
    "packed": (_packed, ("qkv.weight", "o.weight", "qkv.bias")),
    "sliced": (_sliced, ("qk.weight", "qk.bias")),
    "bent": (_bent, ("k.weight", "k.bias")),
    "normed": (_normed, ("norm_k.weight", "norm_k.bias")),
    "shared": (_shared, ("k.weight", "k.bias", "o.weight", "places")),
    "with a table": (_with_table, ("k.weight", "k.bias", "places")),
    "of one reshape": (_of_one_reshape, ("qkv.weight", "o.weight", "qkv.bias")),
    "linearly": (_linearly, ("qkv.weight", "o.weight", "qkv.bias")),
    "linearly, with bent keys": (_linearly_with_bent_keys, ("qkv.weight", "o.weight", "qkv.bias")),
    "with a joined bias": (_with_joined_bias, ("k.bias", "qk.weight")),
    "transposed": (_transposed, ("k.bias", "k.weight")),
    "turned": (_turned, ("k.weight", "k.bias")),
    "scan": (_scan, ("k.weight", "k.bias")),
    "added to distances": (_added_to_distances, ("k.weight", "k.bias")),
    "added up": (_added_up, ("k.weight", "k.bias")),
    "averaged": (_averaged, ("k.weight", "k.bias")),
    "added up with a table": (_added_up_with_a_table, ("places",)),
}
"""A network -> the parameters that read what is summed over."""

FROZEN = {
    "gram": _gram,
    "read elsewhere": _read_elsewhere,
    "maps": _maps,
    "linearly, with both bent": _linearly_with_both_bent,
    "of a constant": _of_constant,
    "with a constant bias": _with_constant_bias,
    "mixed": _mixed,
    "of entries of a channel": _of_entries,
    "read as a whole": _read_as_a_whole,
    "read beyond": _read_beyond,
    "added up and read": _added_up_and_read,
    "squares added up": _squares_added_up,
}


WRITERS = ("q.weight", "qk.weight", "qkv.weight")
"""Of queries."""


class _Network(Block):
    def forward(self, x: Tensor) -> Any:  # type: ignore[override]  # of one sequence
        return self.run(self, x)


def _network(run: Callable[..., Tensor]) -> _Network:
    torch.manual_seed(0)
    places = torch.arange(T)
    network = _Network(
        run, q=nn.Linear(C, D), k=nn.Linear(C, D), v=nn.Linear(C, D), o=nn.Linear(C if run is _scan else D, 3),
        qkv=nn.Linear(C, 3 * D), qk=nn.Linear(C, 2 * D), norm_q=nn.LayerNorm(D), norm_k=nn.LayerNorm(D),
        places=nn.Parameter(torch.randn(2 * T - 1 if run is _with_table else T, D)), decay=nn.Parameter(torch.randn(C, D)),
        far=places[None] - places[:, None] + T - 1, cos=torch.randn(T, D), sin=torch.randn(T, D),
    )  # fmt: skip
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return network


def _taken(run: Callable[..., Tensor]) -> tuple[Graph, ChannelSpaces]:
    graph = from_torch(_network(run), torch.randn(2, T, C))
    return graph, ChannelSpaces.of(graph)


def _summed(spaces: ChannelSpaces) -> str:
    """The space that a product sums over."""
    (name,) = (space.name for space in spaces if any(slot.across for slot in space.slots))
    return name


@pytest.mark.parametrize("name", FREE)
def test_what_is_summed_over_is_free_and_changed_exactly(name: str) -> None:
    run, readers = FREE[name]
    graph, spaces = _taken(run)
    space = spaces[_summed(spaces)]
    assert space.frozen is None and space.size == (D // 2 if name == "turned" else D)
    assert {slot.param for slot in space.slots if slot.role is Role.CONSUME} == set(readers)
    assert steps_differ(_network(run), to_torch(graph), torch.randn(2, T, C)) == []
    kept = MergedValues(graph, spaces)
    for channel in (0, space.size - 1):
        errors = kept.errors(space.name, channel)
        found = [errors.split, errors.new, errors.prune, kept.merged(space.name, channel)]
        assert all(error is None or error.error <= 1e-12 for error in found), found
    if space.name not in spaces.counters:
        pruned = morph(graph, spaces, [PruneChannel(space.name, 1)]).graph
        assert difference(value_masked(graph, spaces, space.name, 1), outputs64(pruned, probe_of(graph))) < 1e-12


@pytest.mark.parametrize("name", FREE)
def test_a_changed_network_is_taken_again_as_it_is(name: str) -> None:
    graph, spaces = _taken(FREE[name][0])
    space = _summed(spaces)
    new = morph(
        graph, spaces, [NewChannel(space), SplitChannel(space, 1), PruneChannel(space, 0), NewChannel(space)]
    ).graph
    example = torch.randn(2, T, C)
    again = from_torch(to_torch(new), example)
    found = ChannelSpaces.of(again)
    if space not in spaces.counters:
        assert found[_summed(found)].size == spaces[space].size + 2
        assert [node.op for node in again.nodes.values()] == [node.op for node in new.nodes.values()]
    torch.testing.assert_close(to_torch(again)(example), to_torch(new)(example), rtol=0, atol=0)


@pytest.mark.parametrize("name", FROZEN)
def test_what_neither_side_is_in_proportion_to_stays(name: str) -> None:
    _, spaces = _taken(FROZEN[name])
    written = [space for space in spaces if any(slot.param in WRITERS and slot.axis == 0 for slot in space.slots)]
    assert "(node '" in (written[-1].frozen or "")


def test_a_new_channel_is_random_on_one_side_and_zero_on_the_other() -> None:
    graph, spaces = _taken(_by_size)
    new = morph(graph, spaces, [NewChannel(_summed(spaces))]).graph
    assert new.params["q.weight"].data[D].abs().min() > 0
    assert not new.params["k.weight"].data[D].any() and not new.params["k.bias"].data[D].any()


def test_a_split_of_scores_carries_momentum_as_gradients_are() -> None:
    graph, spaces = _taken(_by_size)
    rewritten = morph(graph, spaces, [SplitChannel(_summed(spaces), 0)])
    example = torch.randn(3, T, C, dtype=torch.float64)
    gradients = []
    for own in (graph, rewritten.graph):
        network = to_torch(own.to(torch.float64))
        network(example).square().sum().backward()
        gradients.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
    for name in ("q.weight", "k.weight"):
        expected = carry(gradients[0][name], rewritten.gathers[name], 1)
        torch.testing.assert_close(gradients[1][name], expected)


def test_the_scale_stays_the_number_that_it_was() -> None:
    for run in (_by_size, _by_root, _fused):
        graph, spaces = _taken(run)
        new = morph(graph, spaces, [NewChannel(_summed(spaces))]).graph
        numbers = [
            attr for node in new.nodes.values() for key, attr in node.attrs.items() if key in ("literal1", "scale")
        ]
        assert numbers in ([D**-0.5], [D**0.5])


def test_a_grower_follows_where_the_scale_does_not_change_with_the_width() -> None:
    class Head(nn.Module):
        def __init__(self, by_size: bool) -> None:
            super().__init__()
            self.q, self.k, self.v, self.o = nn.Linear(C, D), nn.Linear(C, D), nn.Linear(C, D), nn.Linear(T * D, 3)
            self.scale, self.by_size = D**-0.5, by_size

        def forward(self, x: Tensor) -> Tensor:
            q, k = self.q(x), self.k(x)
            scores = q @ k.mT * (k.shape[-1] ** -0.5 if self.by_size else self.scale)
            out: Tensor = self.o((F.softmax(scores, -1) @ self.v(x)).flatten(1))
            return out

    for by_size in (False, True):
        network = Head(by_size)
        x, y = torch.randn(60, T, C), torch.randint(3, (60,))
        before = copy.deepcopy(network)
        grower = Grower(network, (x, y), max_params=400)
        assert ("q" in grower.held) == by_size
        grower.step(torch.optim.SGD(network.parameters(), 0.1))
        assert (network.q.out_features == D) == by_size == (network.k.out_features == D)
        assert network.q.weight.shape == network.k.weight.shape == (network.q.out_features, C)
        assert not by_size or torch.equal(network.q.weight, before.q.weight)
