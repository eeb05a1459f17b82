"""What would train in another way than the module does is refused, with the cause, and leaves the module as it was."""

from __future__ import annotations

import copy
import random
from collections import OrderedDict
from collections.abc import Callable
from functools import cached_property
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from gngraph.errors import UnsupportedModelError
from gngraph.importing.from_torch import from_torch
from gngraph.lowering.to_torch import to_torch
from tests.bodies import Body, head
from tests.ingredients.gradients import Reversed, Rounded

X = torch.randn(4, 1, 8, 8)


def hooked_parameter() -> nn.Module:
    module = Body(lambda s, x: head(s, s.a(x)))
    module.a.weight.register_hook(lambda g: g * 0.5)  # type: ignore[no-untyped-call]
    return module


def hooked_after() -> nn.Module:
    module = Body(lambda s, x: head(s, s.a(x)))
    module.a.weight.register_post_accumulate_grad_hook(lambda p: None)  # type: ignore[no-untyped-call]
    return module


def hook_in_forward(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    y.register_hook(lambda g: g.clamp(-1e-3, 1e-3))
    return head(s, y)


def cast_in_training(s: Any, x: Tensor) -> Tensor:
    with torch.autocast("cpu", enabled=s.training):
        y = s.a(x)
    return head(s, y.float())


class Scheduled(Body):
    step = 0

    def forward(self, x: Tensor) -> Tensor:
        self.step += self.training
        return head(self, self.a(x) * min(1.0, self.step / 1000))


class LateStart(Body):
    step = 0

    def forward(self, x: Tensor) -> Tensor:
        self.step += 1
        return head(self, self.a(x) if self.step < 1000 else x)


class OwnAverage(Body):
    """A moving average in an attribute that is no buffer."""

    mean = torch.zeros(4, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * y.detach().mean((0, 2, 3))[:, None, None]
        return head(self, y - self.mean)


class Average(Body):
    mean: Tensor

    def __init__(self, assign: bool) -> None:
        super().__init__(head)
        self.register_buffer("mean", torch.zeros(4))
        self.assign = assign

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        if self.training:
            new = y.detach().mean((0, 2, 3))
            if self.assign:
                self.mean = 0.9 * self.mean + 0.1 * new
            else:
                self.mean.mul_(0.9).add_(new, alpha=0.1)
        return head(self, y - self.mean[:, None, None])


class Momentum(Body):
    """A second encoder that follows the first."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.b.weight.mul_(0.99)
            teacher = self.b(self.a(x)).mean((2, 3))
        return cast(Tensor, self.h(self.a(x).mean((2, 3))) + teacher.sum(1, True))


class Follower(Body):
    """An encoder that follows one that it is equal to at first."""

    def __init__(self) -> None:
        super().__init__(head)
        self.slow = copy.deepcopy(self.a)

    def forward(self, x: Tensor) -> Tensor:
        for slow, fast in zip(self.slow.parameters(), self.a.parameters(), strict=True):
            slow.data.mul_(0.5).add_(fast.data, alpha=0.5)
        with torch.no_grad():
            y = self.slow(x)
        return head(self, self.a(x) + y)


class Past(Body):
    """An encoder that follows another past all that is traced, while it trains."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            for slow, fast in zip(self.b.parameters(), self.a.parameters(), strict=False):
                slow.data = slow.data * 0.9 + fast.detach().mean() * 0.1
        return head(self, self.b(self.a(x)))


def gated() -> nn.Module:
    """What lies behind a gate of zeros has no gradient yet."""
    module = Body(lambda s, x: head(s, s.a(x) + s.gate * Rounded.apply(s.a(x) * s.inner)))
    module.gate, module.inner = nn.Parameter(torch.zeros(())), nn.Parameter(torch.ones(()))
    return module


def one_memory() -> nn.Module:
    module = Body(lambda s, x: head(s, s.a(x) + s.c(x)), c=nn.Conv2d(1, 4, 3))
    cast(nn.Conv2d, module.c).weight.data = module.a.weight.data
    return module


def inner_gradient(s: Any, x: Tensor) -> Tensor:
    y = s.a(x).detach().requires_grad_()
    return head(s, y + torch.autograd.grad(y.tanh().sum(), y)[0])


def quietly(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    with torch.no_grad():
        y.clamp_(min=0)
    return head(s, y)


def own_noise() -> nn.Module:
    generator = torch.Generator().manual_seed(3)
    return Body(lambda s, x: head(s, s.a(x) + torch.randn(1, generator=generator)))


round_off = Rounded.apply


def by_generator(rng: Any) -> nn.Module:
    def forward(s: Any, x: Tensor) -> Tensor:
        y = s.a(x)
        if s.training and float(s.rng.random()) < 0.5:
            y = y * 0
        return head(s, y)

    module = Body(forward)
    module.rng = rng
    return module


def draw(by: Callable[[], Any]) -> nn.Module:
    def forward(s: Any, x: Tensor) -> Tensor:
        y = s.a(x)
        if s.training and by() < 0.5:
            y = y * 0
        return head(s, y)

    return Body(forward)


STREAM = np.random.default_rng(0)


def global_generator(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    return head(s, y * 0 if s.training and STREAM.random() < 0.5 else y)


def whole_after_part(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    y[:, ::2].relu_()
    return head(s, y)


def base_after_view(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    F.dropout(y.flatten(2), 0.5, s.training, inplace=True)
    return head(s, y)


def shifted(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    y[:, 1:] += y[:, :-1]
    return head(s, y)


def shifted_by_assignment(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    y[:, 1:] = y[:, :-1]
    return head(s, y)


def first_added(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    y += y[:, :1]
    return head(s, y)


def in_both_modes(s: Any, x: Tensor) -> Tensor:
    y = s.n(s.a(x))
    s.n.eval()
    z = s.n(s.a(x))
    s.n.train(s.training)
    return head(s, y + z)


def held_afterwards(s: Any, x: Tensor) -> Tensor:
    y = s.n(s.a(x))
    s.n.eval()
    return head(s, y)


def classes_in_eval_mode(s: Any, x: Tensor) -> Tensor:
    y = head(s, s.a(x))
    return y if s.training else y.argmax(1)


def norm_in_a_checkpoint(s: Any, x: Tensor) -> Tensor:
    return head(s, checkpoint(lambda y: s.n(s.a(y)), x, use_reentrant=False))


class AlwaysDropping(Body):
    def train(self, mode: bool = True) -> AlwaysDropping:
        super().train(mode)
        cast(nn.Module, self.d).train(True)
        return self


class Closed(nn.Module):
    """A forward that reaches a norm past self."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n = nn.Linear(64, 4), nn.BatchNorm1d(4)
        norm = self.n
        self.through = lambda y: norm(y)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.through(self.a(x.flatten(1))))  # type: ignore[no-untyped-call]


class Cached(Body):
    """A weight that eval mode has as the last step of training left it."""

    kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.training or self.kept is None:
            self.kept = self.a.weight * 2
        return head(self, F.conv2d(x, self.kept))


class Property(Body):
    """A weight that has the gradients of the first run."""

    @cached_property
    def turned(self) -> Tensor:
        return self.a.weight.flip(-1)

    def forward(self, x: Tensor) -> Tensor:
        return head(self, F.conv2d(x, self.turned))


def filled_constant(s: Any, x: Tensor) -> Tensor:
    turn = torch.zeros(4, 4)
    turn[0, 1] = s.a.bias.sum()
    return head(s, torch.einsum("nchw,cd->ndhw", s.a(x), turn))


def noise_of_one_seed(s: Any, x: Tensor) -> Tensor:
    torch.manual_seed(0)
    return head(s, s.a(x) + torch.randn_like(s.a(x)) if s.training else s.a(x))


def dropped_alike(s: Any, x: Tensor) -> Tensor:
    state = torch.get_rng_state()
    first = F.dropout(s.a(x), 0.5, s.training)
    torch.set_rng_state(state)
    return head(s, first + F.dropout(s.a(x), 0.5, s.training))


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "straight-through": (lambda: Body(lambda s, x: head(s, Rounded.apply(s.a(x)))), "'Rounded' in module 'Body' is an autograd"),
    "reversal": (lambda: Body(lambda s, x: head(s, Reversed.apply(s.a(x), 0.1))), "'Reversed' in module 'Body' is an autograd.F"),
    "hook of a parameter": (hooked_parameter, "parameter 'a.weight' has a hook"),
    "hook after accumulation": (hooked_after, "parameter 'a.weight' has a hook"),
    "hook in forward": (lambda: Body(hook_in_forward), "hooks a gradient .register_hook."),
    "autocast": (lambda: Body(cast_in_training), "under autocast"),
    "schedule": (lambda: Scheduled(head), "changes 'step' whenever it runs in train mode"),
    "late start": (lambda: LateStart(head), "changes 'step' whenever it runs in train mode"),
    "cached weight": (lambda: Cached(head), "or after a step, from what it keeps in its attributes"),
    "cached property": (lambda: Property(head), "or after a step, from what it keeps in its attributes"),
    "average of its own": (lambda: OwnAverage(head), "something else whenever it runs in train mode|cannot be traced"),
    "average that is assigned": (lambda: Average(True), "changes 'mean' in its forward .node"),
    "average in place": (lambda: Average(False), "changes 'mean' in its forward .node"),
    "made of numbers alone": (lambda: Body(filled_constant), "'setitem' writes a value into a tensor that the forward of 'Body'"),
    "noise of one seed": (lambda: Body(noise_of_one_seed), "'Body' sets the state of random numbers .* .'torch.manual_seed'"),
    "dropped alike": (lambda: Body(dropped_alike), "sets the state of random numbers in its forward .'torch.set_rng_state'"),
    "encoder that follows past a trace": (lambda: Past(head), "changes 'b.weight' in its forward, an update"),
    "momentum encoder": (lambda: Momentum(head), "changes 'b.weight' in its forward .node"),
    "random": (lambda: draw(random.random), "draws random numbers by 'random'"),
    "numpy": (lambda: draw(np.random.rand), "draws random numbers by 'numpy.random'"),
    "torch": (lambda: draw(lambda: torch.rand(()).item()), "not known without data"),
    "torch in place": (lambda: draw(lambda: float(torch.empty(1).uniform_())), "draws random numbers by 'torch'"),
    "random.Random": (lambda: by_generator(random.Random(0)), r"draws random numbers by 'rng .random.Random"),
    "numpy Generator": (lambda: by_generator(np.random.default_rng(0)), r"draws random numbers by 'rng .numpy"),
    "bound method": (lambda: draw(random.Random(0).random), "draws random numbers by 'call .random.Random"),
    "global generator": (lambda: Body(global_generator), r"draws random numbers by 'call .numpy"),
    "whole after a part": (lambda: Body(whole_after_part), "'relu_' changes a part of 'a' in place.*'b' reads 'a' afterwards"),
    "whole after a view": (lambda: Body(base_after_view), "'dropout' changes a part of 'a' in place, or a view of it"),
    "dropout in eval mode": (lambda: AlwaysDropping(lambda s, x: head(s, s.d(s.a(x))), d=nn.Dropout()), "'d' stays in train mode"),
    "follower": (Follower, "changes 'slow.(weight|bias)' in its forward"),
    "behind a gate": (gated, "another gradient of .*'Rounded' in module 'Body' is an autograd.Function"),
    "straight-through by another name": (lambda: Body(lambda s, x: head(s, round_off(s.a(x)))), "'Rounded' in module 'Body' is an"),
    "one memory": (one_memory, "'a.weight' and 'c.weight' share memory without being one parameter"),
    "gradients in forward": (lambda: Body(inner_gradient), "module 'Body' computes gradients in its forward"),
    "quiet change": (lambda: Body(quietly), "'clamp_' changes 'a' in place where no gradient passes, and 'b' reads 'a'"),
    "own noise": (own_noise, "module 'Body' draws random numbers by a torch.Generator of its own"),
    "system": (lambda: draw(random.SystemRandom().random), "draws random numbers by 'random.SystemRandom'"),
    "shifted onto itself": (lambda: Body(shifted), "'add' changes 'getitem' in place and reads 'getitem_1', sharing entries"),
    "shifted by assignment": (lambda: Body(shifted_by_assignment), "'setitem' changes 'a' in place and reads 'getitem', sharing"),
    "a part added to all": (lambda: Body(first_added), "'add' changes 'a' in place and reads 'getitem', sharing entries"),
    "both modes": (lambda: Body(in_both_modes, n=nn.BatchNorm2d(4)), "module 'n' changes between train and eval mode in one for"),
    "held afterwards": (lambda: Body(held_afterwards, n=nn.BatchNorm2d(4)), "module 'n' changes between train and eval mode"),
    "classes": (lambda: Body(classes_in_eval_mode), r"in train mode \('h', f32.N,3.\) than in eval mode \('argmax', i64.N.\)"),
    "norm in a checkpoint": (lambda: Body(norm_in_a_checkpoint, n=nn.BatchNorm2d(4)), "batches_tracked' .*counts a batch twice"),
    "past self": (Closed, "calls a module of BatchNorm1d that is none of its own"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_a_graph_cannot_hold_is_refused_with_the_cause(name: str) -> None:
    make, message = REFUSED[name]
    torch.manual_seed(0)
    module = make()
    state = copy.deepcopy(module.state_dict())
    streams = random.getstate(), torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index]
    for example in (X, torch.zeros(2, 1, 8, 8)):
        with pytest.raises(UnsupportedModelError, match=message) as caught:
            from_torch(module, example)
        assert "\n" not in str(caught.value)
    assert all(torch.equal(tensor, state[key]) for key, tensor in module.state_dict().items())
    assert random.getstate() == streams[0]
    assert torch.equal(torch.get_rng_state(), streams[1])
    assert (np.random.get_state()[1] == streams[2]).all()  # type: ignore[index]


def test_what_closures_and_classes_hold_stays_as_it_is() -> None:
    ticks, stream, numbers = [0], random.Random(1), np.random.default_rng(2)

    class Total(Body):
        runs = 0

        def forward(self, x: Tensor) -> Any:
            type(self).runs += 1
            return super().forward(x)

    def call(s: Any, x: Tensor) -> Tensor:
        ticks[0] += 1
        return head(s, s.a(x) * (stream.random() + numbers.random()) / ticks[0])

    before = stream.getstate(), repr(numbers.bit_generator.state)
    with pytest.raises(UnsupportedModelError):
        from_torch(Total(call), X)
    assert (ticks, Total.runs) == ([0], 0)
    assert (stream.getstate(), repr(numbers.bit_generator.state)) == before


class Made(OrderedDict[str, type]):
    """A table that gives an instance of what it holds."""

    def __getitem__(self, key: str) -> Any:
        return super().__getitem__(key)()


ACTIVATIONS = Made(relu=nn.ReLU, tanh=nn.Tanh)


def test_a_table_that_makes_what_it_gives_holds_afterwards_what_it_held() -> None:
    from_torch(Body(lambda s, x: head(s, s.a(x)) if "relu" in ACTIVATIONS else x), X)
    assert list(ACTIVATIONS.items()) == [("relu", nn.ReLU), ("tanh", nn.Tanh)]


def test_nothing_is_printed_where_a_trace_does_not_run(capfd: pytest.CaptureFixture[str]) -> None:
    """As one that writes into what it reads where gradients are off, which is the same number."""
    module = Body(lambda s, x: head(s, torch.mul(y := s.a(x), 0.5, out=y if not y.requires_grad else None))).eval()
    graph = from_torch(module, X)
    assert capfd.readouterr().err == ""
    with torch.no_grad():
        assert torch.equal(to_torch(graph)(X), module(X))
