"""What is imported trains as the module does: represented in the graph, or refused with the cause."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gngraph.errors import UnsupportedModelError
from gngraph.importing.from_torch import from_torch
from gngraph.lowering.to_torch import to_torch
from tests.training_steps import steps_differ

X = torch.randn(4, 1, 8, 8)


class Body(nn.Module):
    """Two convolutions and a head, called by a function of (self, x), with further modules."""

    def __init__(self, call: Callable[[Any, Tensor], Any], **parts: nn.Module) -> None:
        super().__init__()
        self.a, self.b, self.h = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 3)
        self.call = call
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Any:
        return self.call(self, x)


def head(s: Any, x: Tensor) -> Tensor:
    out: Tensor = s.h(torch.relu(s.b(x)).mean((2, 3)))
    return out


def no_grad(s: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        x = torch.relu(s.a(x))
    return head(s, x)


def switched_off(s: Any, x: Tensor) -> Tensor:
    torch.set_grad_enabled(False)
    x = torch.relu(s.a(x))
    torch.set_grad_enabled(True)
    return head(s, x)


def inference(s: Any, x: Tensor) -> Tensor:
    with torch.inference_mode():
        x = torch.relu(s.a(x))
    return head(s, x.clone())


def off_while_training(s: Any, x: Tensor) -> Tensor:
    with torch.set_grad_enabled(not s.training):
        x = s.a(x)
    return head(s, x)


def pieces_off(s: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        first, second = s.a(x).chunk(2, 1)
    return head(s, torch.cat([first, second.relu()], 1))


def on_again(s: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        y = s.a(x)
        with torch.enable_grad():
            z = s.b(y)
    return cast(Tensor, s.h(torch.relu(z).mean((2, 3))))


def detached(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    return head(s, y + (torch.round(y * 4) / 4 - y).detach()) + cast(Tensor, y.data).mean()


def noisy(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    if s.training:
        y = y + 0.1 * torch.randn(y.shape[1:])
    return head(s, y)


def dropped_paths(s: Any, x: Tensor) -> Tensor:
    """Stochastic depth as timm has it."""
    y = s.a(x)
    branch = torch.relu(y)
    if s.training:
        shape = (branch.shape[0],) + (1,) * (branch.ndim - 1)
        mask = branch.new_empty(shape).bernoulli_(0.7)
        mask.div_(0.7)
        branch = branch * mask
    return head(s, y + branch)


def scaled_in_eval(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    if not s.training:
        y = y * 0.5
    return head(s, y)


def shortcut_through_dropout(s: Any, x: Tensor) -> Tensor:
    """In eval mode the shortcut is the value that is changed in place, in train mode another."""
    y = s.a(x)
    short = s.d(y)
    y = F.relu(y, inplace=True)
    return head(s, y + 2 * short)


def change_a_half(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    first, second = y[:, :2], y[:, 2:]
    second.mul_(0.3)
    return head(s, torch.cat([first, second], 1))


class Frozen(nn.BatchNorm2d):
    def train(self, mode: bool = True) -> Frozen:
        return super().train(False)


class NormsHeld(Body):
    def train(self, mode: bool = True) -> NormsHeld:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.Dropout)):
                module.eval()
        return self


class NormAct(nn.BatchNorm2d):
    """A norm that counts its batches itself, as timm's."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        factor = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        by_batch = True if self.training else (self.running_mean is None) and (self.running_var is None)
        x = F.batch_norm(
            x,
            self.running_mean if not self.training or self.track_running_stats else None,
            self.running_var if not self.training or self.track_running_stats else None,
            self.weight,
            self.bias,
            by_batch,
            factor,
            self.eps,
        )
        out: Tensor = self.act(x)
        return out


class AssignedCount(NormAct):
    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.num_batches_tracked = cast(Tensor, self.num_batches_tracked) + 1
        out = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, self.eps)
        return torch.relu(out)


class Honest(torch.autograd.Function):
    """A square with its own derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return cast(Tensor, 2 * g * x)


def patched() -> nn.Module:
    module = Body(lambda s, x: head(s, s.a(x)))

    def forward(self: Any, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias) * 2

    module.a.forward = forward.__get__(module.a)  # type: ignore[method-assign]
    return module


def norm(s: Any, x: Tensor) -> Tensor:
    return head(s, torch.relu(s.n(s.a(x))))


TAKEN: dict[str, Callable[[], nn.Module]] = {
    "no_grad": lambda: Body(no_grad),
    "set_grad_enabled": lambda: Body(switched_off),
    "inference_mode": lambda: Body(inference),
    "off while training": lambda: Body(off_while_training),
    "pieces": lambda: Body(pieces_off),
    "on again": lambda: Body(on_again),
    "detach": lambda: Body(detached),
    "noise": lambda: Body(noisy),
    "stochastic depth": lambda: Body(dropped_paths),
    "another scale in eval mode": lambda: Body(scaled_in_eval),
    "shortcut through dropout": lambda: Body(shortcut_through_dropout, d=nn.Dropout(0.3)),
    "norm held by itself": lambda: Body(norm, n=Frozen(4)),
    "norms held by the network": lambda: NormsHeld(
        lambda s, x: head(s, s.d(torch.relu(s.n(s.a(x))))), n=nn.BatchNorm2d(4), d=nn.Dropout(0.5)
    ),
    "counted norm": lambda: Body(norm, n=NormAct(4)),
    "count that is assigned": lambda: Body(norm, n=AssignedCount(4)),
    "function with its own derivative": lambda: Body(lambda s, x: head(s, Honest.apply(s.a(x)))),
    "forward of an instance": patched,
    "checkpoint": lambda: Body(
        lambda s, x: head(s, torch.utils.checkpoint.checkpoint(lambda y: torch.tanh(s.a(y)), x, use_reentrant=True))
    ),
    "in place on a part of what nothing reads as a whole": lambda: Body(change_a_half),
}


@pytest.mark.parametrize("name", list(TAKEN))
def test_it_trains_as_the_module_does(name: str) -> None:
    torch.manual_seed(0)
    module = TAKEN[name]()
    state = copy.deepcopy(module.state_dict())
    graph = from_torch(module, torch.zeros(2, 1, 8, 8))
    assert all(torch.equal(tensor, state[key]) for key, tensor in module.state_dict().items())
    lowered = to_torch(graph)
    assert steps_differ(module, lowered, X) == []
    assert steps_differ(module, to_torch(from_torch(lowered, X)), X) == []  # what is lowered is a module like any other


# --- what a graph cannot hold


class Round(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return torch.round(x * 4) / 4

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g


class Reversed(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, scale: float) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.scale = inputs[1]

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return -ctx.scale * g, None


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
    y[:, :2].relu_()
    return head(s, y)


def base_after_view(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    F.dropout(y.flatten(2), 0.5, s.training, inplace=True)
    return head(s, y)


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


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "straight-through": (lambda: Body(lambda s, x: head(s, Round.apply(s.a(x)))), "'Round' in module 'Body' is an autograd.Func"),
    "reversal": (lambda: Body(lambda s, x: head(s, Reversed.apply(s.a(x), 0.1))), "'Reversed' in module 'Body' is an autograd.F"),
    "hook of a parameter": (hooked_parameter, "parameter 'a.weight' has a hook"),
    "hook after accumulation": (hooked_after, "parameter 'a.weight' has a hook"),
    "hook in forward": (lambda: Body(hook_in_forward), "hooks a gradient .register_hook."),
    "autocast": (lambda: Body(cast_in_training), "under autocast"),
    "schedule": (lambda: Scheduled(head), "changes 'step' whenever it runs in train mode"),
    "late start": (lambda: LateStart(head), "changes 'step' whenever it runs in train mode"),
    "average of its own": (lambda: OwnAverage(head), "something else whenever it runs in train mode|cannot be traced"),
    "average that is assigned": (lambda: Average(True), "changes 'mean' in its forward .node"),
    "average in place": (lambda: Average(False), "changes 'mean' in its forward .node"),
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
    "past self": (Closed, "cannot be traced|changes its own 'n.running_mean'"),
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
