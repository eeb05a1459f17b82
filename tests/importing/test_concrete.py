"""What forwards of today do in Python is followed: assignments to parts, limits of dtypes, parametrizations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import gngraph
from gngraph.errors import DataError, UnsupportedModelError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import format_graph, parse, same_structure
from gngraph.lowering.to_torch import to_torch
from gngraph.source.export import to_source
from tests.training_steps import steps_differ

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))


class Rows(nn.Module):
    """A layer, a function of it and its input, and a head."""

    def __init__(self, call: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.l, self.h, self.call = nn.Linear(6, 6), nn.Linear(6, 2), call

    def forward(self, x: Tensor) -> Any:
        return self.h(self.call(self, x))


def parts(s: Any, x: Tensor) -> Tensor:
    y = s.l(x)
    y[:, 1] = 0
    y[..., 2:4] = x[..., :2]
    return y.relu()  # type: ignore[no-any-return]


def parts_changed(s: Any, x: Tensor) -> Tensor:
    y = s.l(x)
    y[:, 0] += 1
    y[:, 2:4] *= x[:, :2]
    return y  # type: ignore[no-any-return]


def masked_parts(s: Any, x: Tensor) -> Tensor:
    y = s.l(x)
    y[y > 0] = -1.0
    y[..., x[0] > 0] = 0.5
    return y  # type: ignore[no-any-return]


def numbered_parts(s: Any, x: Tensor) -> Tensor:
    y, order = torch.zeros_like(x), torch.arange(x.shape[1] - 1, -1, -1)
    y[:, order] = s.l(x)
    return y


def seen_through_a_view(s: Any, x: Tensor) -> Tensor:
    y = s.l(x)
    z = y.view(-1, 2, 3)
    z[:, 0] = 1
    return z.flatten(1)  # type: ignore[no-any-return]


def whole_read_afterwards(s: Any, x: Tensor) -> Tensor:
    y = s.l(x)
    part = y[:, 1:]
    part[:, 0] = 1
    return y  # type: ignore[no-any-return]


def two_parts_changed(s: Any, x: Tensor) -> Tensor:
    y = s.l(x)
    part = y[:, 2:]
    part.mul_(2)
    y[:, 0] += 1
    return y  # type: ignore[no-any-return]


def part_without(s: Any, x: Tensor) -> Tensor:
    y = s.l(x).clone()
    y[:, : y.shape[1] // 2].zero_()
    return y * y.shape[1] ** -0.5  # type: ignore[no-any-return]


def lowest(s: Any, x: Tensor) -> Tensor:
    y = s.l(x)
    return y.masked_fill(x > 0, torch.finfo(y.dtype).min).softmax(1)  # type: ignore[no-any-return]


def number_as_tensor(s: Any, x: Tensor) -> Tensor:
    return s.l(x) / torch.sqrt(torch.tensor(x.size(-1), dtype=torch.float))  # type: ignore[no-any-return]


def by_device(s: Any, x: Tensor) -> Tensor:
    y = s.l(x)
    return torch.tanh(y) if y.device.type == "cpu" else y


ACTIVATIONS = {"relu": nn.ReLU(), "layer": nn.Linear(6, 6)}


def outside(s: Any, x: Tensor) -> Tensor:
    return ACTIVATIONS["relu"](s.l(x))  # type: ignore[no-any-return]


@torch.fx.wrap
def positions(size: int) -> Tensor:
    return torch.arange(size) / size


def marked(s: Any, x: Tensor) -> Tensor:
    return s.l(x) * positions(x.shape[1])  # type: ignore[no-any-return]


def grid(s: Any, x: Tensor) -> Tensor:
    rows, columns = torch.meshgrid([torch.arange(x.shape[1]), torch.arange(x.shape[1])], indexing="ij")
    return s.l(x) @ (rows - columns).to(x.dtype)  # type: ignore[no-any-return]


def counted(s: Any, x: Tensor) -> Tensor:
    y = s.l(x).reshape(len(x), 2, -1)
    return y[torch.arange(len(y)), 0].repeat(1, len(y[0]))  # type: ignore[no-any-return]


def laid_out(s: Any, x: Tensor) -> Tensor:
    y = s.l(x)[..., None, None].to(memory_format=torch.channels_last)
    return y.contiguous(memory_format=torch.contiguous_format).flatten(1)  # type: ignore[no-any-return]


def state_with_gradients(s: Any, x: Tensor) -> Tensor:
    state = torch.zeros(len(x), 1).requires_grad_()
    return s.l(x) + state.detach()  # type: ignore[no-any-return]


def decided_by_a_mask(s: Any, x: Tensor) -> Tensor:
    mask = torch.zeros(x.shape[1])
    mask[0] = 1
    return s.l(x) * 2 if mask.sum() > 0 else s.l(x)  # type: ignore[no-any-return]


CALLS = (
    *(marked, grid, counted, laid_out, state_with_gradients, decided_by_a_mask),
    *(parts, parts_changed, masked_parts, numbered_parts, seen_through_a_view),
    *(whole_read_afterwards, two_parts_changed, part_without),
    *(lowest, number_as_tensor, by_device, outside),
)


@pytest.mark.parametrize("call", CALLS, ids=lambda call: call.__name__)
def test_it_computes_and_trains_as_the_module_does_in_every_form(
    call: Callable[[Any, Tensor], Tensor], tmp_path: Path
) -> None:
    module = Rows(call)
    graph = from_torch(module, X)
    assert not steps_differ(module, to_torch(graph), X)
    read = parse(format_graph(graph))
    assert same_structure(graph, read)
    gngraph.save(graph, tmp_path / "net.gng")
    expected = module.eval()(X)
    assert torch.equal(to_torch(gngraph.load(tmp_path / "net.gng"))(X), expected)
    space: dict[str, Any] = {}
    exec(to_source(graph), space)
    written = space[graph.name]()
    written.load_state_dict(module.state_dict())
    assert torch.equal(written.eval()(X), expected)


def every_other_changed(s: Any, x: Tensor) -> Tensor:
    y = s.l(x)
    part = y[:, ::2]
    part[:, 0] = 1
    return y  # type: ignore[no-any-return]


def transpose_changed(s: Any, x: Tensor) -> Tensor:
    y = s.l(x)
    y.t()[:1].mul_(2)
    return y  # type: ignore[no-any-return]


def layer_outside(s: Any, x: Tensor) -> Tensor:
    return ACTIVATIONS["layer"](s.l(x))  # type: ignore[no-any-return]


def decided_by_data(s: Any, x: Tensor) -> Tensor:
    mask = torch.zeros(x.shape[1])
    mask[0] = x[0, 0]
    return s.l(x) * 2 if mask.sum() > 0 else s.l(x)  # type: ignore[no-any-return]


def decided_by_a_sum_with_data(s: Any, x: Tensor) -> Tensor:
    mask = torch.zeros(x.shape[1])
    mask += x[0]
    return s.l(x) * 2 if mask.sum() > 0 else s.l(x)  # type: ignore[no-any-return]


REFUSED: dict[Callable[[Any, Tensor], Tensor], str] = {
    decided_by_a_sum_with_data: "Python asks for the value of 'gt', which is not known without data",
    decided_by_data: "Python asks for the value of 'gt', which is not known without data",
    every_other_changed: "node 'setitem' changes a part of 'l' in place, or a view of it, and 'h' reads 'l'",
    transpose_changed: "node 'mul_' changes a part of 'l' in place",
    layer_outside: "module 'Rows' calls a module of Linear that is none of its own, so that no state_dict has its 'weight'",
}


@pytest.mark.parametrize("call", REFUSED, ids=lambda call: call.__name__)
def test_what_is_not_followed_is_refused_with_the_cause(call: Callable[[Any, Tensor], Tensor]) -> None:
    with pytest.raises(UnsupportedModelError, match=REFUSED[call]):
        from_torch(Rows(call), X)


class Causal(nn.Module):
    """A transformer of torch's, which compares its mask with the causal one of that size."""

    def __init__(self) -> None:
        super().__init__()
        self.e, self.h = nn.Embedding(7, 4), nn.Linear(4, 2)
        self.t = nn.Transformer(4, 2, 1, 1, 4, dropout=0.0, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        mask, e = nn.Transformer.generate_square_subsequent_mask(x.shape[1]), self.e(x)
        return self.h(self.t(e, e, src_mask=mask, tgt_mask=mask))  # type: ignore[no-any-return]


def test_a_causal_mask_of_torchs_transformers_is_of_any_length() -> None:
    net = Causal().eval()
    lowered = to_torch(from_torch(net, torch.arange(10).view(2, 5) % 7)).eval()
    x = torch.arange(21).view(3, 7) % 7
    assert torch.equal(lowered(x), net(x))


def test_what_a_mask_of_sizes_decides_holds_for_the_size() -> None:
    class Long(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.l = nn.Linear(1, 2)

        def forward(self, x: Tensor) -> Tensor:
            h = self.l(x.mean(1, keepdim=True))
            return h * 2 if (torch.arange(x.shape[1]) > 7).any() else h  # type: ignore[no-any-return]

    lowered = to_torch(from_torch(Long(), X))
    with pytest.raises(DataError, match="a size that decided what the network does"):
        lowered(torch.zeros(2, 12))


def test_parametrized_weights_are_computed_in_every_call() -> None:
    net = nn.Sequential(parametrizations.weight_norm(nn.Linear(6, 5)), nn.ReLU(), nn.Linear(5, 2))
    lowered = to_torch(from_torch(net, X))
    assert list(lowered.state_dict()) == list(net.state_dict())
    assert "0.parametrizations.weight.original0" in net.state_dict()
    assert not steps_differ(net, lowered, X)


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight + weight.T


def test_a_parametrization_of_ones_own_is_followed() -> None:
    net = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 2))
    parametrize.register_parametrization(net[0], "weight", Symmetric())
    assert not steps_differ(net, to_torch(from_torch(net, X)), X)


class Switching(nn.Module):
    """Switches gradients of its input on by itself, as networks for speech do; its scale passes none by mistake of a trace."""

    def __init__(self) -> None:
        super().__init__()
        self.l, self.h = nn.Linear(6, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Any:
        if self.training:
            x.requires_grad = True
        return self.h(Detaching.apply(self.l(x)))


class Detaching(torch.autograd.Function):
    """A gradient of its own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * 3


def test_gradients_are_compared_where_none_can_be_had_of_inputs() -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"has another gradient of 'l\.(weight|bias)' in train mode: 'Detaching'"
    ):
        from_torch(Switching(), X)


class Grouped(nn.Module):
    """Experts by a product that torch has no rule for on the meta device in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(2, 8, 4))

    def forward(self, x: Tensor) -> Tensor:
        ends = torch.cumsum(torch.histc((x[:, 0] > 0).float().sort()[0], bins=2, min=0, max=1), 0, dtype=torch.int32)
        y = torch.nn.functional.grouped_mm(x, self.w, offs=ends)
        return y.reshape(*y.shape[:-1], 2, 2).sum(-1)


@pytest.mark.skipif(not hasattr(torch.nn.functional, "grouped_mm"), reason="torch is older")
def test_an_op_without_a_rule_for_shapes_runs_on_zeros() -> None:
    graph = from_torch(Grouped(), torch.randn(6, 8))
    assert torch.equal(to_torch(graph)(x := torch.randn(5, 8)), to_torch(graph)(x))
    assert str(graph.nodes[graph.outputs[0]].type) == "f32[N,2]"
