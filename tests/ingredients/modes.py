"""What depends on the mode, or holds a mode against `train`."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.ingredients.block import Block, Chosen, Maker


class Held(nn.BatchNorm2d):
    def train(self, mode: bool = True) -> Held:
        return super().train(False)


class HoldsNorms(Block):
    def train(self, mode: bool = True) -> HoldsNorms:
        super().train(mode)
        for module in self.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.Dropout)):
                module.eval()
        return self


class HoldsItself(Block):
    def train(self, mode: bool = True) -> HoldsItself:
        return super().train(False)


class NormAct(nn.BatchNorm2d):
    """A norm with its activation that counts its batches itself, as timm's."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.drop, self.act = nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        factor = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        by_batch = True if self.training else (self.running_mean is None) and (self.running_var is None)
        x = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, by_batch, factor, self.eps)
        return cast(Tensor, self.act(self.drop(x)))


class NormThenGelu(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(super().forward(x))


class NormWithoutCount(nn.BatchNorm2d):
    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.2, self.eps
        )


class OwnNorm(nn.Module):
    """Statistics moved by hand."""

    mean: Tensor
    var: Tensor

    def __init__(self, width: int, way: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("var", torch.ones(width))
        self.way = way

    def forward(self, x: Tensor) -> Tensor:
        mean, var = self.mean, self.var
        if self.training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
            with torch.no_grad():
                if self.way == 0:
                    self.mean.mul_(0.9).add_(mean, alpha=0.1)
                    self.var.mul_(0.9).add_(var, alpha=0.1)
                elif self.way == 1:
                    self.mean.lerp_(mean, 0.1)
                    self.var.lerp_(var, 0.1)
                elif self.way == 2:
                    self.mean.copy_(0.9 * self.mean + 0.1 * mean)
                    self.var.copy_(0.9 * self.var + 0.1 * var)
                else:
                    self.mean = 0.9 * self.mean + 0.1 * mean
                    self.var = 0.9 * self.var + 0.1 * var
        return (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()


def norm(c: Chosen) -> nn.Module:
    w = c.width
    made = c.one_of(
        lambda: Held(w),
        lambda: NormAct(w),
        lambda: NormThenGelu(w),
        lambda: NormWithoutCount(w),
        lambda: OwnNorm(w, c.rng.randrange(4)),
        lambda: nn.BatchNorm2d(w, momentum=c.one_of(None, 0.3)),
        lambda: nn.BatchNorm2d(w, track_running_stats=False),
        lambda: nn.InstanceNorm2d(w, affine=True, track_running_stats=c.sometimes()),
        lambda: nn.SyncBatchNorm(w),
    )()
    return Block(lambda s, x: s.n(s.a(x)), a=c.conv(), n=made)


def norms_held(c: Chosen) -> nn.Module:
    kind = c.one_of(HoldsNorms, HoldsItself)
    parts = {"a": c.conv(), "n": nn.BatchNorm2d(c.width), "d": nn.Dropout(0.5)}
    return cast(nn.Module, kind(lambda s, x: s.d(torch.relu(s.n(s.a(x)))), **parts))


def counted_norm_held(c: Chosen) -> nn.Module:
    """A norm that counts by itself, held in eval mode or not."""

    class Root(Block):
        def train(self, mode: bool = True) -> Root:
            super().train(mode)
            cast(nn.Module, self.n).train(False)
            return self

    return Root(lambda s, x: s.n(s.a(x)), a=c.conv(), n=NormAct(c.width))


def set_in_forward(c: Chosen) -> nn.Module:
    mode = c.sometimes()

    def body(s: Any, x: Tensor) -> Any:
        s.n.train(mode and s.training)
        return s.n(s.a(x))

    return Block(body, a=c.conv(), n=nn.BatchNorm2d(c.width))


def scale(c: Chosen) -> nn.Module:
    k = c.one_of(0.5, 2, -1.0)
    return Block(lambda s, x: s.a(x) * (1.0 if s.training else k), a=c.conv())


def branch(c: Chosen) -> nn.Module:
    invert = c.sometimes()

    def body(s: Any, x: Tensor) -> Any:
        y = s.a(x)
        if s.training is invert:
            y = y + torch.relu(s.b(y))
        return y

    return Block(body, a=c.conv(), b=c.conv())


def either(c: Chosen) -> nn.Module:
    return Block(lambda s, x: s.a(x) if s.training else s.b(x), a=c.conv(), b=c.conv())


def activation(c: Chosen) -> nn.Module:
    one, two = c.rng.sample([torch.relu, torch.tanh, torch.sigmoid, F.gelu, F.silu], 2)
    return Block(lambda s, x: (one if s.training else two)(s.a(x)), a=c.conv())


def patched(c: Chosen) -> nn.Module:
    a = c.conv()
    if c.sometimes():

        def forward(self: Any, x: Tensor) -> Tensor:
            return F.conv2d(x, self.weight, self.bias, padding=1) * 2

        a.forward = forward.__get__(a)  # type: ignore[method-assign]
    else:
        plain = a.forward
        a.forward = lambda x: plain(x) * 0.5  # type: ignore[method-assign, assignment]
    return Block(lambda s, x: torch.relu(s.a(x)), a=a)


def autocast(c: Chosen) -> nn.Module:
    always = c.sometimes()

    def body(s: Any, x: Tensor) -> Any:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=always or s.training):
            y = s.a(x)
        return y.to(x.dtype)

    return Block(body, a=c.conv())


class Scheduled(Block):
    step = 0

    def forward(self, x: Tensor) -> Any:
        self.step += self.training
        return super().forward(x)


def counter(c: Chosen) -> nn.Module:
    late = c.one_of(1, 2, 1000)
    body = c.one_of(
        lambda s, x: s.a(x) * min(1.0, s.step / 3),
        lambda s, x: s.a(x) if s.step <= late else x * 2,
        lambda s, x: F.dropout(s.a(x), min(0.5, 0.1 * s.step), s.training),
    )
    return Scheduled(body, a=c.conv())


def history(c: Chosen) -> nn.Module:
    """A schedule by the length of a list, or by an object."""

    class Clock:
        ticks = 0

    def by_list(s: Any, x: Tensor) -> Any:
        s.seen.append(1)
        return s.a(x) / len(s.seen)

    def by_object(s: Any, x: Tensor) -> Any:
        s.clock.ticks += 1
        return s.a(x) / s.clock.ticks

    def by_dict(s: Any, x: Tensor) -> Any:
        s.table["n"] = s.table.get("n", 0) + 1
        return s.a(x) / s.table["n"]

    return Block(c.one_of(by_list, by_object, by_dict), a=c.conv(), seen=[], clock=Clock(), table={})


def closure_counter(c: Chosen) -> nn.Module:
    """A schedule in a closure, which no copy of the module has for itself."""
    ticks = [0]
    c.own.append(ticks)

    def body(s: Any, x: Tensor) -> Any:
        if s.training:
            ticks[0] += 1
        return s.a(x) * (0.5 if ticks[0] > 2 else 1.0)

    return Block(body, a=c.conv())


MAKERS: dict[str, Maker] = {
    "norm": norm,
    "norms held": norms_held,
    "counted norm held": counted_norm_held,
    "set in forward": set_in_forward,
    "scale": scale,
    "branch": branch,
    "either": either,
    "activation": activation,
    "patched": patched,
    "autocast": autocast,
    "counter": counter,
    "history": history,
    "closure counter": closure_counter,
}
