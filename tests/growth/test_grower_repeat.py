"""Blocks repeated in place: the user's lists and optimisers hold copies, all else goes on, and what is refused leaves no trace."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gngraph.errors import BudgetError, PassError, TrainingError, UnsupportedModelError
from gngraph.growth.grower import Grower
from tests.growth.test_grower import adamw, count, same


class Block(nn.Module):
    """A norm, a branch, and a table that belongs to all blocks."""

    def __init__(self, table: nn.Parameter) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(6), nn.Linear(6, 7), nn.Linear(7, 6)
        self.table = table

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = x + self.down(F.gelu(self.up(self.norm(x + self.table))))
        return y


class Net(nn.Module):
    """Blocks in a list; `runs` is how the forward goes over it."""

    def __init__(self, runs: str = "all") -> None:
        super().__init__()
        table = nn.Parameter(torch.rand(6))
        self.runs, self.stem, self.head = runs, nn.Linear(5, 6), nn.Linear(6, 3)
        self.blocks = nn.ModuleList([Block(table), Block(table)])

    def listed(self) -> list[Block]:
        return [block for block in self.blocks if isinstance(block, Block)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for i in range(2 if self.runs == "two" else len(self.blocks)):
            x = self.blocks[i](x)
        y: torch.Tensor = self.head(x)
        return y


class Named(nn.Module):
    """A block that is no entry of a list."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = nn.Linear(5, 6), Block(nn.Parameter(torch.rand(6))), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.block(self.stem(x)))
        return y


def samples() -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.randn(120, 5, generator=torch.Generator().manual_seed(1))
    return x, (x.sum(1) > 0).long() + (x[:, 0] > 1).long()


def train(net: nn.Module, optimizer: Any, steps: int = 5) -> None:
    x, y = samples()
    for _ in range(steps):
        optimizer.zero_grad()
        torch.autograd.backward(F.cross_entropy(net(x), y))
        optimizer.step()


def state_of(net: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    return copy.deepcopy((net.state_dict(), optimizer.state_dict()))


def test_blocks_are_stacked_in_place_and_then_widths_grow() -> None:
    torch.manual_seed(0)
    net = Net()
    groups: list[dict[str, Any]] = [{"params": list(net.head.parameters()), "lr": 0.02}]
    groups.append({"params": [p for name, p in net.named_parameters() if "head" not in name]})
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    seen = list[int]()
    first, second = net.listed()
    first.register_forward_hook(lambda *_: seen.append(1))
    train(net, optimizer)
    grower = Grower(net, samples(), max_params=700, rounds=1)
    random = torch.get_rng_state()
    step = grower.repeat(optimizer)
    assert torch.equal(torch.get_rng_state(), random)
    one, two = net.listed()[2:]
    assert len(net.blocks) == 4 and net.listed()[:2] == [first, second]
    assert step.after.params == count(net) > step.before.params
    assert step and step.loss > 0 and step.loss_after > 0 and grower.history == [step]
    assert one.table is first.table and one.up.weight is not first.up.weight
    assert torch.equal(two.up.weight, second.up.weight)
    moments = [optimizer.state[block.up.weight]["exp_avg"] for block in (second, two)]
    assert torch.equal(*moments) and moments[0] is not moments[1]
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2 + 1 + 4 * 6]
    seen.clear()
    net(samples()[0])
    assert len(seen) == 1  # the hook is the first block's
    train(net, optimizer)
    assert not torch.equal(two.up.weight, second.up.weight)
    wider = grower.step(optimizer)
    assert wider.number == 2 and {"blocks.2.up", "blocks.3.up"} <= wider.widths.keys() and grower.done
    assert 640 < count(net) <= 700
    train(net, optimizer)


def test_it_is_undone_without_a_trace() -> None:
    torch.manual_seed(0)
    net = Net()
    optimizer = adamw(net)
    train(net, optimizer)
    grower = Grower(net, samples(), max_params=700, rounds=1)
    before, left = state_of(net, optimizer), len(net.blocks)
    grower.repeat(optimizer, at="blocks.1*", times=2)
    assert len(net.blocks) == left + 2
    train(net, optimizer)
    grower.undo()
    assert same(state_of(net, optimizer), before) and len(net.blocks) == left and grower.history == []
    twin = copy.deepcopy(net)
    assert (
        grower.step(optimizer).widths.keys() == Grower(twin, samples(), max_params=700, rounds=1).step().widths.keys()
    )


def test_only_the_last_blocks_of_a_list_are_repeated_in_place() -> None:
    torch.manual_seed(0)
    net = Net()
    grower = Grower(net, samples(), max_params=700, rounds=1)
    with pytest.raises(
        UnsupportedModelError, match=r"'blocks\.0' of 'Net' is not among the last blocks of a ModuleList"
    ):
        grower.repeat(at="blocks.0*")
    assert len(net.blocks) == 2 and grower.repeat(at="blocks.1*") and len(net.blocks) == 3


class Normed(nn.Module):
    """A residual block with BatchNorm."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(width, width), nn.BatchNorm1d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = x + 4 * self.norm(torch.relu(self.layer(x)))
        return y


def test_the_loss_of_stacked_blocks_is_by_statistics_of_their_own() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 6), nn.Sequential(Normed(), Normed()), nn.Linear(6, 3))
    train(net, adamw(net), steps=200)
    step = Grower(net, samples(), max_params=700, rounds=1).repeat(times=3)
    stale = net.eval()
    x, y = samples()
    with torch.no_grad():
        assert step.loss_after < 0.5 * float(F.cross_entropy(stale(x), y))


@pytest.mark.parametrize(
    ("make", "budget", "error", "told"),
    [
        (lambda: Net("two"), 700, UnsupportedModelError, "copies stand behind the last entry of a list"),
        (
            lambda: nn.Sequential(nn.Linear(5, 6), Normed(), nn.Linear(6, 3), Normed(3)),
            700,
            UnsupportedModelError,
            "name blocks that are last",
        ),
        (
            Named,
            700,
            UnsupportedModelError,
            "'block' of 'Named' is not among the last blocks of a ModuleList or Sequential",
        ),
        (Net, 300, BudgetError, "with its blocks repeated 'Net' has .* parameters and .* FLOPs, more than the budget"),
        (lambda: nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)), 300, PassError, "finds no blocks"),
    ],
)
def test_what_cannot_be_stacked_is_refused_without_a_trace(
    make: Callable[[], nn.Module], budget: int, error: type[Exception], told: str
) -> None:
    torch.manual_seed(0)
    net = make()
    optimizer = adamw(net)
    train(net, optimizer)
    grower = Grower(net, samples(), max_params=budget, rounds=1)
    before = state_of(net, optimizer)
    with pytest.raises(error, match=told):
        grower.repeat(optimizer)
    assert same(state_of(net, optimizer), before) and grower.history == []
    with pytest.raises(TrainingError):
        grower.repeat(adamw(Net()))
    assert grower.step(optimizer)
