"""What changes gradients on their way, or stops them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import checkpoint

from tests.ingredients.block import Block, Chosen, Maker


def _quiet(c: Chosen) -> Callable[[], Any]:
    """A context without gradients."""
    made: Callable[[], Any] = c.one_of(
        torch.no_grad, torch.inference_mode, lambda: torch.set_grad_enabled(False), _quietly
    )
    return made


@contextmanager
def _quietly() -> Iterator[None]:
    with torch.no_grad():
        yield


def context(c: Chosen) -> nn.Module:
    quiet, act = _quiet(c), c.one_of(torch.relu, torch.tanh, F.gelu, lambda y: y)

    def body(s: Any, x: Tensor) -> Tensor:
        with quiet():
            y = act(s.a(x))
        return s.b(y.clone())  # type: ignore[no-any-return]

    return Block(body, a=c.conv(), b=c.conv())


def switched(c: Chosen) -> nn.Module:
    def body(s: Any, x: Tensor) -> Any:
        torch.set_grad_enabled(False)
        y = torch.relu(s.a(x))
        torch.set_grad_enabled(True)
        return s.b(y) + x

    return Block(body, a=c.conv(), b=c.conv())


def decorated(c: Chosen) -> nn.Module:
    decorator = c.one_of(torch.no_grad(), torch.inference_mode(), torch.no_grad)

    class Decorated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = c.conv(), c.conv()

        @decorator  # type: ignore[untyped-decorator]
        def features(self, x: Tensor) -> Tensor:
            return torch.relu(self.a(x))

        def forward(self, x: Tensor) -> Any:
            return self.b(self.features(x).clone())

    return Decorated()


def frozen_backbone(c: Chosen) -> nn.Module:
    quiet = _quiet(c)

    def body(s: Any, x: Tensor) -> Any:
        with quiet():
            y = s.backbone(x)
        return s.b(y.clone())

    backbone = nn.Sequential(c.conv(), nn.BatchNorm2d(c.width), nn.ReLU(inplace=c.sometimes()))
    return Block(body, backbone=backbone, b=c.conv())


def by_mode(c: Chosen) -> nn.Module:
    invert = c.sometimes()

    def body(s: Any, x: Tensor) -> Any:
        with torch.set_grad_enabled(s.training is invert):
            y = s.a(x)
        return s.b(y)

    return Block(body, a=c.conv(), b=c.conv())


def teacher(c: Chosen) -> nn.Module:
    quiet = _quiet(c)

    def body(s: Any, x: Tensor) -> Any:
        y = s.a(x)
        with quiet():
            target = s.b(y)
            target = target / target.std()
        return y + 0.3 * target.clone()

    return Block(body, a=c.conv(), b=c.conv())


def on_again(c: Chosen) -> nn.Module:
    def body(s: Any, x: Tensor) -> Any:
        with torch.no_grad():
            y = s.a(x)
            with torch.enable_grad():
                z = s.b(y)
            w = z.sigmoid()
        return z * w

    return Block(body, a=c.conv(), b=c.conv())


def weight_scale(c: Chosen) -> nn.Module:
    def body(s: Any, x: Tensor) -> Any:
        with torch.no_grad():
            scale = s.a.weight.norm()
        return F.conv2d(x, s.a.weight / scale, s.a.bias, padding=1)

    return Block(body, a=c.conv())


def straight_through(c: Chosen) -> nn.Module:
    stop = c.one_of(lambda t: t.detach(), lambda t: t.data, torch.detach, lambda t: t.clone().detach_())
    return Block(lambda s, x: (y := s.a(x)) + stop(torch.round(y * 4) / 4 - y), a=c.conv())


def scaled_gradient(c: Chosen) -> nn.Module:
    k = c.one_of(0.1, 0.0, 2.0)
    return Block(lambda s, x: (y := s.a(x)) * k + (y * (1 - k)).detach(), a=c.conv())


def masked_pieces(c: Chosen) -> nn.Module:
    def body(s: Any, x: Tensor) -> Any:
        with torch.no_grad():
            first, second = s.a(x).chunk(2, 1)
        return torch.cat([first * x[:, : first.shape[1]], second.relu()], 1)

    return Block(body, a=c.conv())


class Rounded(torch.autograd.Function):
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


class Clipped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(-0.1, 0.1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return g.clamp(-1e-3, 1e-3)


class Square(torch.autograd.Function):
    """With its own derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        return 2 * g * x


class Swish(torch.autograd.Function):
    """As networks have it to save memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * torch.sigmoid(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        x = ctx.saved_tensors[0]
        gate = torch.sigmoid(x)
        return g * (gate * (1 + x * (1 - gate)))


class Halves(torch.autograd.Function):
    """Two outputs, of which one passes no gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        one, two = x * 0.5, x * 0.5
        ctx.mark_non_differentiable(two)
        return one, two

    @staticmethod
    def backward(ctx: Any, g: Tensor, _: Any) -> Tensor:
        return g * 0.5


class InPlaceRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.mark_dirty(x)
        x.relu_()
        ctx.save_for_backward(x)
        return x

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        return g * (ctx.saved_tensors[0] > 0)


def function(c: Chosen) -> nn.Module:
    apply = c.one_of(
        Rounded.apply,
        lambda y: Reversed.apply(y, 0.3),
        Clipped.apply,
        Square.apply,
        Swish.apply,
        lambda y: sum(Halves.apply(y)),
        lambda y: InPlaceRelu.apply(y * 1),
    )
    return Block(lambda s, x: apply(s.a(x)), a=c.conv())


def parameter_hook(c: Chosen) -> nn.Module:
    a = c.conv()
    if c.sometimes():
        mask = (torch.rand(a.weight.shape) < 0.5).float()
        a.weight.register_hook(lambda g: g * mask)  # type: ignore[no-untyped-call]
    else:
        assert a.bias is not None
        a.bias.register_post_accumulate_grad_hook(lambda p: p.grad.zero_())  # type: ignore[no-untyped-call]
    return Block(lambda s, x: s.a(x), a=a)


def value_hook(c: Chosen) -> nn.Module:
    def body(s: Any, x: Tensor) -> Tensor:
        y: Tensor = s.a(x)
        if y.requires_grad:
            y.register_hook(lambda g: g * 0.5)  # type: ignore[no-untyped-call]
        return y

    return Block(body, a=c.conv())


def module_hook(c: Chosen) -> nn.Module:
    a = c.conv()
    c.one_of(
        lambda: a.register_forward_hook(lambda m, args, out: out * 0.5),
        lambda: a.register_forward_hook(lambda m, args, out: None),
        lambda: a.register_forward_pre_hook(lambda m, args: (args[0] * 2,)),
        lambda: a.register_full_backward_hook(lambda m, gi, go: tuple(0.1 * g for g in gi)),  # type: ignore[attr-defined]
        lambda: a.register_full_backward_pre_hook(lambda m, go: tuple(0.1 * g for g in go)),  # type: ignore[attr-defined]
    )()
    return Block(lambda s, x: torch.relu(s.a(x)), a=a)


def frozen(c: Chosen) -> nn.Module:
    block = Block(lambda s, x: s.b(torch.relu(s.n(s.a(x)))), a=c.conv(), n=nn.BatchNorm2d(c.width), b=c.conv())
    for p in c.rng.sample(list(block.parameters()), 3):
        p.requires_grad_(False)
    return block


def frozen_in_forward(c: Chosen) -> nn.Module:
    def body(s: Any, x: Tensor) -> Any:
        s.a.weight.requires_grad_(False)
        return s.a(x)

    return Block(body, a=c.conv())


def checkpointed(c: Chosen) -> nn.Module:
    reentrant = c.sometimes()

    def body(s: Any, x: Tensor) -> Any:
        return checkpoint.checkpoint(lambda y: torch.tanh(s.a(y)), x, use_reentrant=reentrant)

    return Block(body, a=c.conv())


def inner_gradient(c: Chosen) -> nn.Module:
    def body(s: Any, x: Tensor) -> Any:
        y = s.a(x)
        with torch.enable_grad():
            z = y.detach().requires_grad_()
            (g,) = torch.autograd.grad(torch.tanh(z).sum(), z)
        return y + g

    return Block(body, a=c.conv())


def saved_coarsely(c: Chosen) -> nn.Module:
    """What is saved for the backward is rounded."""

    def body(s: Any, x: Tensor) -> Any:
        with torch.autograd.graph.saved_tensors_hooks(lambda t: (t * 8).round() / 8, lambda t: t):
            return torch.tanh(s.a(x))

    return Block(body, a=c.conv())


def detached_in_place(c: Chosen) -> nn.Module:
    change = c.one_of(lambda y: y.detach().mul_(0.5), lambda y: y.data.mul_(0.5), lambda y: y.detach().clamp_(min=0))

    def body(s: Any, x: Tensor) -> Any:
        y = s.a(x)
        change(y)
        return s.b(y)

    return Block(body, a=c.conv(), b=c.conv())


def stopped(c: Chosen) -> nn.Module:
    return Block(lambda s, x: s.b(torch.relu(s.a(x)).detach_()) + x, a=c.conv(), b=c.conv())


MAKERS: dict[str, Maker] = {
    "context": context,
    "switched": switched,
    "decorated": decorated,
    "frozen backbone": frozen_backbone,
    "by mode": by_mode,
    "teacher": teacher,
    "on again": on_again,
    "weight scale": weight_scale,
    "straight through": straight_through,
    "scaled gradient": scaled_gradient,
    "masked pieces": masked_pieces,
    "function": function,
    "parameter hook": parameter_hook,
    "value hook": value_hook,
    "module hook": module_hook,
    "frozen": frozen,
    "frozen in forward": frozen_in_forward,
    "checkpointed": checkpointed,
    "inner gradient": inner_gradient,
    "saved coarsely": saved_coarsely,
    "detached in place": detached_in_place,
    "stopped": stopped,
}
