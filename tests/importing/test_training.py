"""What is imported trains as the module does: represented in the graph, or refused with the cause."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gngraph.importing.from_torch import from_torch
from gngraph.lowering.to_torch import to_torch
from tests.bodies import Body, head
from tests.training_steps import steps_differ

X = torch.randn(4, 1, 8, 8)


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


def parts_added(s: Any, x: Tensor) -> Tensor:
    """What is read lies beside what is written, or is it."""
    y = s.a(x)
    width = y.shape[1] // 2
    y[:, :width] += y[:, width:]
    y[:, 0] = y[:, 1]
    y[:, 2:] *= y[:, 2:].relu()
    y += y
    return head(s, y)


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


def held_by_forward(s: Any, x: Tensor) -> Tensor:
    s.n.eval()
    return head(s, s.d(s.n(s.a(x))))


def held_for_a_call(s: Any, x: Tensor) -> Tensor:
    """A teacher that runs in eval mode, and is put back."""
    was = s.n.training
    s.n.eval()
    with torch.no_grad():
        y = s.n(s.a(x))
    s.n.train(was)
    return head(s, s.a(x) - y)


def functions_in_place(s: Any, x: Tensor) -> Tensor:
    maps = [s.a(x) for _ in range(5)]
    same = [s.keep(y) for y in maps]
    F.elu_(maps[0])
    F.leaky_relu_(maps[1], 0.3)
    torch.sigmoid_(maps[2])
    torch.clamp_(maps[3], 0.2, 0.9)
    F.rrelu_(maps[4], 0.1, 0.3, s.training)
    return head(s, torch.stack(same).sum(0))


def noise_or_nothing(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    return head(s, y + (torch.randn_like(y) if s.training else 0))


def expected_in_eval(s: Any, x: Tensor) -> Tensor:
    y = s.a(x)
    kept = torch.bernoulli(torch.full((x.shape[0], 1, 1, 1), 0.7)) if s.training else 0.7
    return head(s, (s.gain if s.training else 2) * y * kept)


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


square = Honest.apply


def plus(y: Tensor) -> None:
    y += 0.3


def changed_by_a_helper(s: Any, x: Tensor) -> Tensor:
    """An assignment like `+=` is seen under every name."""
    y = s.a(x)
    short = s.keep(y)
    plus(y)
    return head(s, y * short)


def masks_changed(s: Any, x: Tensor) -> Tensor:
    """So are `&=`, `|=` and `^=`, of truth values."""
    y = s.a(x)
    mask = y > 0.3
    same = mask
    mask &= y < 0.9
    mask |= y < -1.0
    mask ^= s.keep(y) > 0.5
    return head(s, y * same)


def read_detached(s: Any, x: Tensor) -> Tensor:
    """A detached name of a value that is changed in place passes no gradient."""
    y = s.a(x)
    z = y.detach()
    y.mul_(0.5)
    return head(s, y * z.mean())


def patched() -> nn.Module:
    module = Body(lambda s, x: head(s, s.a(x)))

    def forward(self: Any, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias) * 2

    module.a.forward = forward.__get__(module.a)  # type: ignore[method-assign]
    return module


def norm(s: Any, x: Tensor) -> Tensor:
    return head(s, torch.relu(s.n(s.a(x))))


def product_of_what_lies_apart(s: Any, x: Tensor) -> Tensor:
    """torch multiplies it in another way where gradients are off."""
    return head(s, F.linear(s.a(x).transpose(1, 3).relu(), s.gain * s.weight).transpose(1, 3))


def filled_with_values(s: Any, x: Tensor) -> Tensor:
    h = s.a(x)
    made = torch.zeros(h.size(0), 4, h.size(2), h.size(3))
    made[:, 1:] = h[:, :-1] * torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1)
    lowest = torch.ones(h.size(3))
    lowest[1:].mul_(torch.tensor(0.5))
    turn = s.gain.new_zeros(4, 4)
    turn[0, 1], turn[2, 3] = s.gain.cos(), s.gain.sin()
    return head(s, torch.einsum("nchw,cd->ndhw", made * lowest + h, turn))


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
    "norm held by the forward": lambda: Body(held_by_forward, n=nn.BatchNorm2d(4), d=nn.Dropout(0.5)),
    "norm held for a call": lambda: Body(held_for_a_call, n=nn.BatchNorm2d(4)),
    "functions in place": lambda: Body(functions_in_place, keep=nn.Identity()),
    "noise or nothing": lambda: Body(noise_or_nothing),
    "a number in eval mode": lambda: Body(expected_in_eval, gain=nn.Parameter(torch.rand(4, 1, 1))),
    "counted norm": lambda: Body(norm, n=NormAct(4)),
    "count that is assigned": lambda: Body(norm, n=AssignedCount(4)),
    "function with its own derivative": lambda: Body(lambda s, x: head(s, Honest.apply(s.a(x)))),
    "function with its own derivative, by another name": lambda: Body(lambda s, x: head(s, square(s.a(x)))),
    "forward of an instance": patched,
    "changed by a helper": lambda: Body(changed_by_a_helper, keep=nn.Identity()),
    "masks changed under two names": lambda: Body(masks_changed, keep=nn.Identity()),
    "detached and changed": lambda: Body(read_detached),
    "checkpoint": lambda: Body(
        lambda s, x: head(s, torch.utils.checkpoint.checkpoint(lambda y: torch.tanh(s.a(y)), x, use_reentrant=True))
    ),
    "in place on a part of what nothing reads as a whole": lambda: Body(change_a_half),
    "values that fill what is made of sizes": lambda: Body(filled_with_values, gain=nn.Parameter(torch.tensor(2.0))),
    "parts beside each other, in place": lambda: Body(parts_added),
    "computed weight for what lies apart in memory": lambda: Body(
        product_of_what_lies_apart, weight=nn.Parameter(torch.eye(4)), gain=nn.Parameter(torch.tensor(2.0))
    ),
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
