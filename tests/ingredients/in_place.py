"""Changes in place, of values with one name and of values with several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.ingredients.block import Block, Chosen, Maker

Change = Callable[[Tensor], Any]


def _changed(c: Chosen) -> Change:
    """Something that changes its argument in place."""

    def added(y: Tensor) -> None:
        y += 0.3

    def scaled(y: Tensor) -> None:
        y *= 0.7

    def part_set(y: Tensor) -> None:
        y[..., :2] = 0.0

    def masked(y: Tensor) -> None:
        y[y < 0] = 0.1

    made: Change = c.one_of(
        lambda y: y.relu_(),
        lambda y: y.mul_(0.5),
        lambda y: y.add_(1.0),
        lambda y: F.relu(y, inplace=True),
        lambda y: F.relu(y, True),
        lambda y: torch.relu_(y),
        lambda y: y.clamp_(-0.5, 0.5),
        lambda y: F.leaky_relu_(y, 0.1),
        lambda y: y.zero_(),
        lambda y: y.masked_fill_(y > 0.5, 0.2),
        lambda y: nn.ReLU(inplace=True)(y),
        lambda y: y.sub_(y.mean()),
        lambda y: torch.mul(y, 0.5, out=y) if not y.requires_grad else y.mul_(0.5),
        added,
        scaled,
        part_set,
        masked,
    )
    return made


def _view(c: Chosen) -> Callable[[Tensor], Tensor]:
    """Another name for a value, or for a part of it."""
    made: Callable[[Tensor], Tensor] = c.one_of(
        lambda y: y[:, :2],
        lambda y: y[:, 1],
        lambda y: y[..., ::2],
        lambda y: y[:, -1:],
        lambda y: y.view(y.shape[0], -1),
        lambda y: y.flatten(2),
        lambda y: y.transpose(1, 2),
        lambda y: y.permute(0, 2, 3, 1),
        lambda y: y.chunk(2, 1)[0],
        lambda y: y.split(1, 1)[1],
        lambda y: y.unbind(1)[0],
        lambda y: y.narrow(1, 0, 2),
        lambda y: y.select(1, 1),
        lambda y: y.detach(),
        lambda y: y.contiguous(),
        lambda y: y.reshape(y.shape[0], y.shape[1], -1),
        lambda y: y.unsqueeze(0),
        lambda y: y.to(y.dtype),
        lambda y: nn.Identity()(y),
        lambda y: F.dropout(y, 0.0, False),
        lambda y: y.diagonal(0, 2, 3),
        lambda y: y.expand_as(y),
        lambda y: y.view_as(y),
        lambda y: y.swapaxes(1, 2),
        lambda y: y.unflatten(1, (2, -1)),
        lambda y: y.clone(),
        lambda y: y,
    )
    return made


def view_changed(c: Chosen) -> nn.Module:
    view, change, whole, part = _view(c), _changed(c), c.sometimes(), c.sometimes()

    def body(s: Any, x: Tensor) -> Any:
        y = s.a(x)
        z = view(y)
        out = change(z)
        made = x * 1
        if whole:
            made = made + y
        if part or not whole:
            made = made + (z if out is None else out).mean()
        return made

    return Block(body, a=c.conv())


def value_changed(c: Chosen) -> nn.Module:
    view, change = _view(c), _changed(c)

    def body(s: Any, x: Tensor) -> Any:
        y = s.a(x)
        z = view(y)
        change(y)
        return y + z.mean()

    return Block(body, a=c.conv())


def shortcut(c: Chosen) -> nn.Module:
    keep = c.one_of(
        nn.Identity(),
        nn.Dropout(0.3),
        nn.Sequential(),
        nn.Sequential(nn.Identity()),
        nn.Flatten(3),
        nn.Upsample(scale_factor=1),
    )
    act = c.one_of(
        nn.ReLU(inplace=True), nn.SiLU(inplace=True), nn.Hardtanh(inplace=True), nn.Dropout(0.4, inplace=True)
    )

    def body(s: Any, x: Tensor) -> Any:
        y = s.a(x)
        short = s.keep(y)
        return s.b(s.act(y)) + short

    return Block(body, a=c.conv(), b=c.conv(), keep=keep, act=act)


def halves(c: Chosen) -> nn.Module:
    change, read = _changed(c), c.sometimes()

    def body(s: Any, x: Tensor) -> Any:
        y = s.a(x)
        one, two = y.chunk(2, 1)
        change(two)
        return y if read else torch.cat([one, two], 1)

    return Block(body, a=c.conv())


def dropped_view(c: Chosen) -> nn.Module:
    read = c.sometimes()

    def body(s: Any, x: Tensor) -> Any:
        y = s.a(x)
        z = F.dropout(y.flatten(2), 0.5, s.training, inplace=True)
        return y if read else z.view(x.shape)

    return Block(body, a=c.conv())


def residual(c: Chosen) -> nn.Module:
    def body(s: Any, x: Tensor) -> Any:
        y = s.act(s.a(x))
        y += x
        z = s.b(y)
        z.add_(y)
        return s.act(z)

    return Block(body, a=c.conv(), b=c.conv(), act=nn.ReLU(inplace=True))


def on_input(c: Chosen) -> nn.Module:
    change = _changed(c)

    def body(s: Any, x: Tensor) -> Any:
        y = x * 1
        change(y)
        return s.a(y) + x

    return Block(body, a=c.conv())


def filled(c: Chosen) -> nn.Module:
    """Values written into a new tensor."""

    def by_slices(y: Tensor) -> Tensor:
        out = torch.zeros_like(y)
        out[:, :2] = y[:, :2].relu()
        out[:, 2:] = y[:, 2:]
        return out

    def by_copy(y: Tensor) -> Tensor:
        return torch.empty_like(y).copy_(y).relu_()

    def by_index(y: Tensor) -> Tensor:
        return torch.zeros_like(y).index_add_(1, torch.tensor([0, 1]), y[:, :2])

    def by_scatter(y: Tensor) -> Tensor:
        return torch.zeros_like(y).scatter_(1, y[:, :1].argmax(1, keepdim=True), 1.0) + y

    def by_out(y: Tensor) -> Tensor:
        out = torch.empty(0, dtype=y.dtype)
        return torch.stack([y.relu(), y], out=out if False else None)[0]

    way = c.one_of(by_slices, by_copy, by_index, by_scatter, by_out)
    return Block(lambda s, x: way(s.a(x)), a=c.conv())


def quietly(c: Chosen) -> nn.Module:
    """A change in place that no gradient knows."""
    change = _changed(c)

    def body(s: Any, x: Tensor) -> Any:
        y = s.a(x)
        with torch.no_grad():
            change(y)
        return s.b(y)

    return Block(body, a=c.conv(), b=c.conv())


def twice(c: Chosen) -> nn.Module:
    one, two = _changed(c), _changed(c)

    def body(s: Any, x: Tensor) -> Any:
        y = s.a(x)
        one(y)
        z = y * 1
        two(y)
        return y + z

    return Block(body, a=c.conv())


def several(c: Chosen) -> nn.Module:
    def body(s: Any, x: Tensor) -> Any:
        y, z = s.a(x), s.b(x)
        torch._foreach_mul_([y, z], 0.5)
        return y + z

    return Block(body, a=c.conv(), b=c.conv())


MAKERS: dict[str, Maker] = {
    "view changed": view_changed,
    "value changed": value_changed,
    "shortcut": shortcut,
    "halves": halves,
    "dropped view": dropped_view,
    "residual": residual,
    "on input": on_input,
    "filled": filled,
    "quietly": quietly,
    "twice": twice,
    "several": several,
}
