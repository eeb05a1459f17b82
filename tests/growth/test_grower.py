"""Growth inside a user's own training: the module and the optimiser that the user holds go on, larger, or are as they were."""

from __future__ import annotations

import copy
import gc
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gngraph.errors import BudgetError, DataError, GnGraphError, OptionError, PassError, TrainingError
from gngraph.errors import UnsupportedModelError as Unsupported
from gngraph.growth.grower import Grower
from gngraph.running.problem import Problem


def samples() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(128, 1, 8, 8, generator=generator)
    return x, (x.mean((1, 2, 3)) * 40).long().clamp(-4, 3) + 4


class Net(nn.Module):
    """Convolutions with BatchNorm, a parameter and a method of its own; `size` says where the head's width comes from."""

    def __init__(self, size: str = "shape") -> None:
        super().__init__()
        self.size = size
        self.width = 24
        self.classes = 24
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.second = nn.Conv2d(4, 6, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(6))
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(24, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(self.norm(self.first(x)))
        x = self.pool(F.relu(self.second(x)) * self.scale.view(1, -1, 1, 1))
        sizes = {"shape": (x.shape[0], -1), "number": (-1, 24), "attribute": (-1, self.width)}
        y: torch.Tensor = self.head(self.drop(x.view(sizes[self.size])))
        return y

    def training_step(self, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])


def mlp() -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.ReLU(), nn.Linear(5, 8))


def train(net: nn.Module, optimizer: Any, steps: int = 6) -> torch.Tensor:
    x, y = samples()
    loss = torch.zeros(())
    for step in range(steps):
        part = slice(32 * (step % 4), 32 * (step % 4) + 32)
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x[part]), y[part])
        torch.autograd.backward(loss)
        optimizer.step()
    return loss


def adamw(net: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(net.parameters(), lr=1e-2)


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def state_of(net: nn.Module, optimizer: torch.optim.Optimizer) -> Any:
    return copy.deepcopy(
        (net.state_dict(), optimizer.state_dict(), [vars(m).get("out_channels") for m in net.modules()])
    )


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def test_the_users_own_network_grows_and_trains_on() -> None:
    torch.manual_seed(0)
    net = Net()
    net.norm.eval()  # a mode of the user's own
    body = [p for name, p in net.named_parameters() if "head" not in name]
    groups: list[dict[str, Any]] = [{"params": list(net.head.parameters()), "lr": 0.02}, {"params": body}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 5)
    seen, gradients, stepped = list[int](), list[torch.Size](), list[torch.Size]()
    net.second.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[1]))
    net.head.weight.register_hook(lambda gradient: gradients.append(gradient.shape))  # type: ignore[no-untyped-call]
    net.first.weight.register_post_accumulate_grad_hook(lambda weight: stepped.append(weight.shape))  # type: ignore[no-untyped-call]
    held_loss = train(net, optimizer)  # which holds the nodes that accumulate gradients
    parts, parameters, buffers = list(net.modules()), list(net.parameters()), list(net.buffers())
    modes = [m.training for m in net.modules()]
    grouped = [[id(p) for p in group["params"]] for group in optimizer.param_groups]
    random, steps = torch.get_rng_state(), optimizer.state[net.head.weight]["step"].clone()

    grower = Grower(net, samples(), max_params=1500, rounds=2)
    assert not grower.held and not grower.done
    foreseen = grower.score()
    assert foreseen and count(net) == foreseen.before.params and foreseen.number == 1
    seen.clear()
    change = grower.step(optimizer)
    assert change.widths == foreseen.widths and change.after.params == count(net) > foreseen.before.params
    assert torch.equal(torch.get_rng_state(), random) and [m.training for m in net.modules()] == modes
    assert all(map(lambda a, b: a is b, parts, net.modules())) and len(parts) == len(list(net.modules()))
    assert all(map(lambda a, b: a is b, parameters, net.parameters()))
    assert all(map(lambda a, b: a is b, buffers, net.buffers()))
    assert [[id(p) for p in group["params"]] for group in optimizer.param_groups] == grouped
    first, second = (change.widths.get(name, (width, width))[1] for name, width in (("first", 4), ("second", 6)))
    assert (net.first.out_channels, net.norm.num_features, net.second.in_channels) == (first, first, first)
    assert (net.second.out_channels, len(net.scale), net.head.in_features) == (second, second, 4 * second)
    assert torch.equal(optimizer.state[net.head.weight]["step"], steps)
    assert optimizer.state[net.second.weight]["exp_avg_sq"].shape == net.second.weight.shape
    gradients.clear()
    loss = net.training_step(samples())
    torch.autograd.backward(loss)
    optimizer.step()
    scheduler.step()
    assert (
        seen[-1] == second
        and gradients == [net.head.weight.shape]
        and stepped[-1] == net.first.weight.shape
        and held_loss.requires_grad
    )
    assert grower.step(optimizer) and grower.done and 1200 < count(net) <= 1500
    assert not grower.step(optimizer) and len(grower.history) == 2
    train(net, optimizer)


def test_a_number_in_a_forward_is_said_before_anything_changes() -> None:
    net = Net("number")
    optimizer = adamw(net)
    before = state_of(net, optimizer)
    grower = Grower(net, samples(), max_params=1500, rounds=1)
    assert list(grower.held) == ["second"] and "number in the forward of 'Net' (node" in grower.held["second"]
    assert same(state_of(net, optimizer), before)
    change = grower.step(optimizer)
    assert set(change.widths) == {"first"} and net.second.out_channels == 6 and net.first.out_channels > 4
    train(net, optimizer)


def test_an_attribute_that_the_forward_reads_follows() -> None:
    net = Net("attribute")
    optimizer = adamw(net)
    train(net, optimizer)
    grower = Grower(net, samples(), max_params=1500, rounds=1)
    assert not grower.held
    assert grower.step(optimizer).widths.keys() == {"first", "second"}
    assert net.width == net.head.in_features > 24 and net.classes == 24
    train(net, optimizer)
    grower.undo()
    assert net.width == net.head.in_features == 24


def test_nothing_can_change_in_place() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(64, 6), nn.Linear(6, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.last(self.first(x.flatten(1)).view(-1, 6))
            return y

    with pytest.raises(
        PassError, match="no channel space of 'Fixed' can change in place: 'first': its width stands as"
    ):
        Grower(Fixed(), samples(), max_params=2000)


def test_a_step_that_the_module_does_not_follow_is_undone() -> None:
    class Wary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(64, 4), nn.Linear(4, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = F.relu(self.first(x.flatten(1)))
            y: torch.Tensor = self.last(h if h.shape[1] < 8 else 2 * h)
            return y

    net = Wary()
    optimizer = adamw(net)
    train(net, optimizer)
    before = state_of(net, optimizer)
    grower = Grower(net, samples(), max_params=1500, rounds=1)
    change = grower.step(optimizer)
    assert not change and "undone" in (change.refused or "") and "'first' keep" in (change.refused or "")
    assert same(state_of(net, optimizer), before) and net.first.out_features == 4 and "first" in grower.held
    assert grower.done and not grower.step(optimizer)


def test_undo_brings_all_back_whatever_was_trained_since() -> None:
    net = Net()
    optimizer = adamw(net)
    train(net, optimizer)
    gradients = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    before = state_of(net, optimizer)
    grower = Grower(net, samples(), max_params=1500, rounds=2)
    assert grower.step(optimizer)
    train(net, optimizer)
    grower.undo()
    assert same(state_of(net, optimizer), before) and not grower.history
    assert same([p.grad for p in net.parameters() if p.grad is not None], gradients)
    train(net, optimizer)
    with pytest.raises(PassError, match="no step to undo"):
        grower.undo()
    assert grower.step(optimizer)
    grower.forget()
    with pytest.raises(PassError, match="no step to undo"):
        grower.undo()


def test_training_after_a_score_is_scored_anew() -> None:
    net = mlp()
    optimizer = adamw(net)
    grower = Grower(net, samples(), max_params=1200, rounds=1)
    first = grower.score()
    train(net, optimizer, 40)
    change = grower.step(optimizer)
    assert change.loss != first.loss
    again = Grower(copy.deepcopy(net), samples(), max_params=2000, rounds=1)
    assert again.score().loss == pytest.approx(again.score().loss)


def bytes_alive() -> int:
    """Bytes of every tensor that Python still holds, storages counted once."""
    gc.collect()
    found = {}
    for thing in gc.get_objects():
        # tensors that pretend, as compilers and earlier tests keep them, hold nothing
        if type(thing) in (torch.Tensor, nn.Parameter) and thing.layout == torch.strided and not thing.is_meta:
            storage = thing.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
    return sum(found.values())


def test_no_memory_of_the_old_network_is_left() -> None:
    x, y = torch.randn(64, 300), torch.arange(64) % 4
    net = nn.Sequential(nn.Linear(300, 60), nn.ReLU(), nn.Linear(60, 4))
    optimizer = adamw(net)
    before = bytes_alive()
    torch.autograd.backward(F.cross_entropy(net(x), y))
    optimizer.step()
    optimizer.zero_grad()
    grower = Grower(net, (x, y), max_params=40_000, rounds=2)
    grower.score()
    change = grower.step(optimizer)
    grower.forget()
    added = 4 * (change.after.params - change.before.params)
    moments = 8 * change.after.params
    assert abs(bytes_alive() - before - added - moments) < 4 * 5_000  # a network is 72,000 bytes and more


def test_weights_that_are_tied_or_do_not_learn_stay_so() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.one, self.other = (
                nn.Linear(64, 6),
                nn.Linear(6, 6, bias=False),
                nn.Linear(6, 6, bias=False),
            )
            self.other.weight = self.one.weight
            self.head = nn.Linear(6, 8)
            self.first.weight.requires_grad_(False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = F.relu(self.first(x.flatten(1)))
            y: torch.Tensor = self.head(F.relu(self.other(F.relu(self.one(h)))))
            return y

    net = Tied()
    optimizer = adamw(net)
    train(net, optimizer)
    change = Grower(net, samples(), max_params=1500, rounds=1).step(optimizer)
    width = change.widths["first"][1]
    assert net.one.weight is net.other.weight and net.one.weight.shape == (width, width)
    assert not net.first.weight.requires_grad and net.first.weight.shape == (width, 64)
    train(net, optimizer)


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "SGD": lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, weight_decay=1e-3, dampening=0.1),
    "SGD without momentum": lambda p: torch.optim.SGD(p, lr=0.01),
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-3, amsgrad=True, weight_decay=1e-3),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9, centered=True),
    **{
        name: lambda p, name=name: getattr(torch.optim, name)(p, lr=1e-3)  # type: ignore[misc]
        for name in ("Adagrad", "Adadelta", "Adamax", "NAdam", "RAdam", "Rprop", "ASGD", "Adafactor")
    },
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimisers_go_on(name: str) -> None:
    net = mlp()
    optimizer = OPTIMIZERS[name](net.parameters())
    train(net, optimizer)
    known = {id(p): set(state) for p, state in optimizer.state.items()}
    grower = Grower(net, samples(), max_params=1200, rounds=1)
    assert grower.step(optimizer)
    assert {id(p): set(state) for p, state in optimizer.state.items()} == known
    train(net, optimizer)
    assert all(torch.isfinite(p).all() for p in net.parameters())


def test_several_optimisers_and_other_networks_in_them() -> None:
    net, other = mlp(), nn.Linear(3, 3)
    optimizers = adamw(net[1]), torch.optim.SGD([*net[3].parameters(), *other.parameters()], lr=0.1, momentum=0.9)
    for optimizer in optimizers:
        train(net, optimizer)
    assert Grower(net, samples(), max_params=1200, rounds=1).step(*optimizers)
    weight = net.get_parameter("3.weight")
    assert optimizers[1].state[weight]["momentum_buffer"].shape == weight.shape
    for optimizer in optimizers:
        train(net, optimizer)


def test_a_compiled_network_is_compiled_anew() -> None:
    net = mlp()
    net.compile(backend="eager")
    compiled: Any = torch.compile(net, backend="eager")
    optimizer = adamw(net)
    train(compiled, optimizer)
    assert Grower(compiled, samples(), max_params=1200, rounds=1).step(optimizer)
    train(compiled, optimizer)
    x = samples()[0]
    with torch.no_grad():
        first, last = list(net.parameters())[:2], list(net.parameters())[2:]
        expected = F.linear(F.relu(F.linear(x.flatten(1), *first)), *last)
        assert torch.allclose(compiled(x), expected, atol=1e-5) and torch.allclose(net(x), expected, atol=1e-5)
    torch._dynamo.reset()


def changing(net: nn.Module) -> nn.Module:
    net.register_forward_hook(lambda module, inputs, output: 2 * output)
    return net


def normed(net: nn.Sequential) -> nn.Module:
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(net[1])
    return net


class Wrapped(nn.parallel.DistributedDataParallel):
    def __init__(self, module: nn.Module) -> None:
        nn.Module.__init__(self)
        self.module = module


REFUSED: dict[str, tuple[Callable[[], Any], type[GnGraphError], str]] = {
    "no budget": (lambda: Grower(mlp(), samples()), OptionError, "growth needs a budget"),
    "an option": (lambda: Grower(mlp(), samples(), max_params=900, round=1), OptionError, "did you mean 'rounds'"),
    "curvature": (lambda: Grower(mlp(), samples(), max_params=900, curvature="foo"), GnGraphError, "curvature"),
    "layers": (lambda: Grower(mlp(), samples(), max_params=900, kinds=("insert",)), OptionError, "kinds"),
    "lookahead": (lambda: Grower(mlp(), samples(), max_params=900, allocation="lookahead"), PassError, "allocation"),
    "no module": (lambda: Grower("net", samples(), max_params=900), Unsupported, "takes an nn.Module"),  # type: ignore[arg-type]
    "data": (lambda: Grower(mlp(), (torch.zeros(9, 5), torch.zeros(9).long()), max_params=900), GnGraphError, "5"),
    "two losses": (
        lambda: Grower(mlp(), Problem(samples()), loss="mse", max_params=900),
        OptionError,
        "names its loss and output itself",
    ),
    "a hook that changes": (
        lambda: Grower(changing(mlp()), samples(), max_params=900),
        Unsupported,
        "a hook may change",
    ),
    "weight norm": (lambda: Grower(normed(mlp()), samples(), max_params=900), Unsupported, "computes its weights"),
    "DDP": (lambda: Grower(Wrapped(mlp()), samples(), max_params=900), Unsupported, "wrap that again"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_when_it_is_made(what: str) -> None:
    make, kind, text = REFUSED[what]
    with pytest.raises(kind, match=text):
        make()


def test_what_is_refused_at_a_step() -> None:
    net = mlp()
    optimizer = adamw(net)
    grower = Grower(net, samples(), max_params=1200, rounds=1)
    before = state_of(net, optimizer)
    for wrong, text in (
        (adamw(mlp()), "holds no parameter of the network"),
        (torch.optim.LBFGS(net.parameters()), "one vector of all parameters"),
        (net, "optimisers of torch, not a 'Sequential'"),
    ):
        with pytest.raises(TrainingError, match=text):
            grower.step(optimizer, wrong)
    assert same(state_of(net, optimizer), before)
    net[1] = nn.Linear(64, 7)
    with pytest.raises(Unsupported, match=r"has shape \(7, 64\).*make a new Grower"):
        grower.score()


def test_a_budget_below_the_network_makes_it_smaller_in_place() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 8))
    optimizer = adamw(net)
    train(net, optimizer, 30)
    grower = Grower(net, samples(), max_params=800, rounds=1, kinds=("prune",))
    assert grower.step(optimizer) and count(net) <= 800 and len(next(net.parameters())) < 20
    train(net, optimizer)


def test_the_data_and_the_budget_are_checked() -> None:
    with pytest.raises(BudgetError):
        Grower(mlp(), samples(), max_params=9, rounds=1).score()
    with pytest.raises(DataError):
        Grower(mlp(), samples()[0], max_params=900)
