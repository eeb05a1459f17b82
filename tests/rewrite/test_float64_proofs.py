"""Every pass is proved in float64, whatever dtypes a forward names: casts, tensors it makes, fractions of whole numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gngraph
from gngraph.analysis.equivalence import outputs64
from gngraph.errors import IRError
from gngraph.ir.text import format_graph, parse
from gngraph.lowering.probe import probe_of
from tests.morphism_errors import difference


class Net(nn.Module):
    """Layers `a` (7 features in), `b` and `h`, a table `e` and a recurrent layer `r`, read as a function says."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.h = nn.Linear(7, 4), nn.Linear(4, 5), nn.Linear(5, 3)
        self.e, self.r = nn.Embedding(9, 7), nn.GRU(7, 7, batch_first=True)
        self.function = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def layers(net: Any, x: Tensor) -> Tensor:
    return net.h(torch.relu(net.b(torch.relu(net.a(x)))))  # type: ignore[no-any-return]


WHOLE = torch.randint(0, 7, (2, 7), generator=torch.Generator().manual_seed(0))
BYTES = WHOLE.to(torch.uint8)
REAL = torch.randn(2, 7, generator=torch.Generator().manual_seed(0))
KINDS: dict[str, tuple[Callable[[Any, Tensor], Tensor], Tensor]] = {
    "one_hot": (lambda net, x: layers(net, F.one_hot(x, 7).float()).mean(1), WHOLE),
    "float": (lambda net, x: layers(net, x.float()), WHOLE),
    "to": (lambda net, x: layers(net, x.to(torch.float32)), WHOLE),
    "to by name": (lambda net, x: layers(net, x.to(dtype=torch.float32)), WHOLE),
    "type": (lambda net, x: layers(net, x.type(torch.float32)), WHOLE),
    "type by name": (lambda net, x: layers(net, x.type("torch.FloatTensor")), WHOLE),
    "like a weight": (lambda net, x: layers(net, x.to(net.a.weight.dtype)), WHOLE),
    "bytes divided": (lambda net, x: layers(net, x / 255), BYTES),
    "bytes cast and divided": (lambda net, x: layers(net, x.float().div(255.0).sub(0.5)), BYTES),
    "times a fraction": (lambda net, x: layers(net, x * 0.5), WHOLE),
    "root of whole numbers": (lambda net, x: layers(net, x.sqrt()), WHOLE),
    "mean as float": (lambda net, x: layers(net, x + x.float().mean(1, keepdim=True)), WHOLE),
    "mean of a dtype": (lambda net, x: layers(net, x - x.mean(1, keepdim=True, dtype=torch.float32)), WHOLE),
    "mask": (lambda net, x: layers(net, REAL[0] * (x > 3)), WHOLE),
    "mask cast": (lambda net, x: layers(net, net.e(x).mean(1) * (x != 0).float()), WHOLE),
    "float in between": (lambda net, x: layers(net, x.float().softmax(-1).to(x.dtype)), REAL),
    "softmax of a dtype": (lambda net, x: layers(net, F.softmax(x, -1, dtype=torch.float32)), REAL),
    "positions": (lambda net, x: layers(net, x + torch.arange(x.shape[1], dtype=torch.float32)), REAL),
    "positions of whole numbers": (lambda net, x: layers(net, x * torch.arange(x.shape[1]).float()), REAL),
    "ones": (lambda net, x: layers(net, torch.ones(x.shape[0], 7) * net.e(x).mean(1)), WHOLE),
    "full": (lambda net, x: layers(net, torch.full((x.shape[0], 7), 0.5)) + net.e(x).sum(), WHOLE),
    "new zeros": (lambda net, x: layers(net, x.new_zeros(x.shape[0], 7, dtype=torch.float32) + net.e(x).mean(1)), WHOLE),
    "state of zeros": (lambda net, x: layers(net, net.r(net.e(x), torch.zeros(1, x.shape[0], 7))[0]).mean(1), WHOLE),
    "a tensor": (lambda net, x: layers(net, x * torch.tensor([0.5])), REAL),
    "there and back": (lambda net, x: layers(net, x.double().cumsum(1).float()), REAL),
    "complex": (lambda net, x: layers(net, torch.fft.fft(x).abs()), REAL),
    "complex cast": (lambda net, x: layers(net, x.to(torch.complex64).real), REAL),
    "where": (lambda net, x: layers(net, torch.where(x > 0, 1.0, -1.0)), WHOLE),
    "bool cast": (lambda net, x: layers(net, x.bool().float()), WHOLE),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_passes_are_proved(kind: str) -> None:
    torch.manual_seed(0)
    net, x = Net(KINDS[kind][0]), KINDS[kind][1]
    graph = gngraph.from_torch(net, x)
    for passes in ("split-channels{count=1}", "new-channels", "prune-channels{count=1}", "cleanup"):
        (run,) = gngraph.PassManager(passes).run(graph).runs
        assert run.error is not None
    (found,) = outputs64(graph, (x,))
    assert found.dtype is torch.float64
    assert difference([found], [net.eval()(x).detach().double()]) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_in_float64_is_one_as_a_module_too(kind: str) -> None:
    graph = gngraph.from_torch(Net(KINDS[kind][0]), KINDS[kind][1]).to(torch.float64)
    x = KINDS[kind][1].double() if KINDS[kind][1].is_floating_point() else KINDS[kind][1]
    assert gngraph.to_torch(graph)(x).dtype is torch.float64
    back = graph.to(torch.float32)
    assert gngraph.to_torch(back)(KINDS[kind][1]).dtype is torch.float32


def test_what_does_not_run_in_float64_is_said() -> None:
    net = Net(lambda net, x: layers(net, x.view(torch.int32).clamp(-3, 3).float()))
    graph = gngraph.from_torch(net, REAL)
    with pytest.raises(IRError, match="does not run in float64"):
        gngraph.PassManager("split-channels").run(graph)


class Tokens(nn.Module):
    """Two tables of different lengths, one for each column, and an attention mask."""

    def __init__(self) -> None:
        super().__init__()
        self.long, self.short, self.head = nn.Embedding(50, 4), nn.Embedding(3, 4), nn.Linear(4, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.long(tokens[:, 0]) + self.short(tokens[:, 1]))  # type: ignore[no-any-return]


def test_tokens_are_proved_on_tokens_that_their_tables_have() -> None:
    embedded = nn.Sequential(nn.Embedding(50, 4), nn.Flatten(), nn.Linear(48, 2))
    (tokens,) = probe_of(gngraph.from_torch(embedded, torch.zeros(1, 12, dtype=torch.int64)))
    assert len(set(tokens.flatten().tolist())) > 8 and tokens.max() > 25
    (columns,) = probe_of(gngraph.from_torch(Tokens(), torch.tensor([[40, 2], [0, 0]])))
    assert columns.min() >= 0 and columns.max() <= 2 and len(set(columns.flatten().tolist())) > 1


def test_whole_numbers_without_a_table_are_those_of_the_example() -> None:
    class OneHot(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(11, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.one_hot(x, 11).float())  # type: ignore[no-any-return]

    graph = gngraph.from_torch(OneHot(), torch.tensor([[3, 9, 3, 3, 5, 9]]))
    (drawn,) = probe_of(graph)
    assert drawn.min() >= 3 and drawn.max() <= 9 and len(set(drawn.flatten().tolist())) > 1
    (again,) = probe_of(parse(format_graph(graph)).with_params({k: p.data for k, p in graph.params.items()}))
    assert torch.equal(drawn, again)


def test_where_no_number_is_known_to_fit_they_are_zeros() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.head = nn.Embedding(6, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.table(x + 5))  # type: ignore[no-any-return]

    (drawn,) = probe_of(gngraph.from_torch(Shifted(), torch.zeros(2, 3, dtype=torch.int64)))
    assert not drawn.any()
