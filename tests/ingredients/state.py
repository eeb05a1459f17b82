"""What a forward leaves behind: in buffers, in parameters, in attributes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.ingredients.block import Block, Chosen, Maker


def count(c: Chosen) -> nn.Module:
    def up(s: Any) -> None:
        s.n.add_(1)

    def anew(s: Any) -> None:
        s.n = s.n + 1

    def more(s: Any) -> None:
        s.n += 1

    bump, always, read = c.one_of(up, anew, more), c.sometimes(), c.sometimes()

    def body(s: Any, x: Tensor) -> Any:
        if always or s.training:
            bump(s)
        y = s.a(x)
        return y / (1 + 0.1 * s.n) if read else y

    return Block(body, a=c.conv(), n=torch.zeros((), dtype=c.one_of(torch.long, torch.float32)))


def average(c: Chosen) -> nn.Module:
    def by_add(s: Any, new: Tensor) -> None:
        s.mean.mul_(0.9).add_(new, alpha=0.1)

    def by_lerp(s: Any, new: Tensor) -> None:
        s.mean.lerp_(new, 0.1)

    def by_copy(s: Any, new: Tensor) -> None:
        s.mean.copy_(0.9 * s.mean + 0.1 * new)

    def by_data(s: Any, new: Tensor) -> None:
        s.mean.data = 0.9 * s.mean + 0.1 * new

    def by_item(s: Any, new: Tensor) -> None:
        s.mean[:] = new

    def by_one(s: Any, new: Tensor) -> None:
        s.mean[0] = new[0]

    def by_call(s: Any, new: Tensor) -> None:
        torch.add(0.9 * s.mean, new, alpha=0.1, out=s.mean)

    def by_name(s: Any, new: Tensor) -> None:
        s.mean = 0.9 * s.mean + 0.1 * new

    def by_table(s: Any, new: Tensor) -> None:
        s._buffers["mean"] = 0.9 * s.mean + 0.1 * new

    def by_max(s: Any, new: Tensor) -> None:
        s.mean.copy_(torch.maximum(s.mean, new))

    ways: list[Callable[[Any, Tensor], None]]
    ways = [by_add, by_lerp, by_copy, by_data, by_item, by_one, by_call, by_name, by_table, by_max]
    move, always, read = c.one_of(*ways), c.rng.random() < 0.3, c.sometimes()

    def body(s: Any, x: Tensor) -> Any:
        y = s.a(x)
        if always or s.training:
            with torch.no_grad():
                move(s, y.detach().mean((0, 2, 3)))
        return y - s.mean[:, None, None] if read else y

    block = Block(body, a=c.conv(), mean=torch.zeros(c.width))
    if c.sometimes():
        block._non_persistent_buffers_set.add("mean")
    return block


def momentum(c: Chosen) -> nn.Module:
    """A second encoder that follows the first."""

    def by_loop(s: Any) -> None:
        for slow, fast in zip(s.b.parameters(), s.a.parameters(), strict=True):
            slow.data.mul_(0.9).add_(fast.data, alpha=0.1)

    def by_data(s: Any) -> None:
        s.b.weight.data = 0.9 * s.b.weight.data + 0.1 * s.a.weight.data

    def by_copy(s: Any) -> None:
        s.b.weight.copy_(0.9 * s.b.weight + 0.1 * s.a.weight)

    def by_state(s: Any) -> None:
        s.b.load_state_dict({key: 0.9 * v + 0.1 * s.a.state_dict()[key] for key, v in s.b.state_dict().items()})

    follow = c.one_of(by_loop, by_data, by_copy, by_state)

    def body(s: Any, x: Tensor) -> Any:
        y = s.a(x)
        with torch.no_grad():
            if s.training:
                follow(s)
            z = s.b(x)
        return y + 0.5 * z

    return Block(body, a=c.conv(), b=c.conv())


def clamped(c: Chosen) -> nn.Module:
    change = c.one_of(lambda w: w.data.clamp_(-0.1, 0.1), lambda w: w.data.div_(w.data.norm()))

    def body(s: Any, x: Tensor) -> Any:
        if s.training:
            change(s.a.weight)
        return s.a(x)

    return Block(body, a=c.conv())


def queue(c: Chosen) -> nn.Module:
    def body(s: Any, x: Tensor) -> Any:
        y = s.a(x)
        out = y + (s.queue.mean(1)[:, None, None])
        if s.training:
            with torch.no_grad():
                s.queue[:, :1] = y.mean((0, 2, 3))[:, None]
        return out

    return Block(body, a=c.conv(), queue=torch.zeros(c.width, 3))


def cache(c: Chosen) -> nn.Module:
    def kept(s: Any, y: Tensor) -> None:
        s.last = y

    def listed(s: Any, y: Tensor) -> None:
        s.losses.append(y.mean())

    def looked_up(s: Any, y: Tensor) -> None:
        s.table[tuple(y.shape[1:])] = y.detach()

    def plain(s: Any, y: Tensor) -> None:
        s.aux = y.pow(2).mean()

    def unsaid(s: Any, y: Tensor) -> None:
        object.__setattr__(s, "hidden", y)

    keep = c.one_of(kept, listed, looked_up, plain, unsaid)

    def body(s: Any, x: Tensor) -> Any:
        y = s.a(x)
        keep(s, y)
        return torch.relu(y)

    return Block(body, a=c.conv(), losses=[], table={})


def lazy(c: Chosen) -> nn.Module:
    """Tables that the first forward makes."""

    def as_buffer(s: Any, y: Tensor) -> Any:
        if not hasattr(s, "ramp"):
            s.register_buffer("ramp", torch.linspace(0, 1, y.shape[-1]))
        return y + s.ramp.to(y.dtype)

    def as_attribute(s: Any, y: Tensor) -> Any:
        if s.kept is None or s.kept.shape[-1] != y.shape[-1]:
            s.kept = torch.linspace(0, 1, y.shape[-1])
        return y + s.kept.to(y.dtype)

    def as_table(s: Any, y: Tensor) -> Any:
        key = y.shape[-1]
        if key not in s.table:
            s.table[key] = torch.linspace(0, 1, key)
        return y + s.table[key].to(y.dtype)

    def as_parameter(s: Any, y: Tensor) -> Any:
        if not hasattr(s, "gain"):
            s.gain = nn.Parameter(torch.ones(y.shape[1], 1, 1))
        return y * s.gain

    way = c.one_of(as_buffer, as_attribute, as_table, as_parameter)
    return Block(lambda s, x: way(s, s.a(x)), a=c.conv(), table={}, kept=None)


def left_before(c: Chosen) -> nn.Module:
    """What an earlier run has left."""
    block = cache(c)
    block(torch.randn(2, c.width, 5, 5))
    return block


def recalled(c: Chosen) -> nn.Module:
    """What the last run left is read by the next."""

    def body(s: Any, x: Tensor) -> Any:
        y = s.a(x)
        out = y if s.last is None else y + 0.1 * s.last
        s.last = y.detach().mean((0, 2, 3))[:, None, None]
        return out

    return Block(body, a=c.conv(), last=None)


def codebook(c: Chosen) -> nn.Module:
    """Vector quantisation, with or without codes that follow."""
    follow = c.sometimes()

    def body(s: Any, x: Tensor) -> Any:
        y = s.a(x)
        flat = y.permute(0, 2, 3, 1)
        nearest = torch.cdist(flat.flatten(1, 2), s.codes.expand(y.shape[0], -1, -1)).argmin(-1)
        quantised = F.embedding(nearest, s.codes).view(flat.shape).permute(0, 3, 1, 2)
        if follow and s.training:
            with torch.no_grad():
                s.codes.mul_(0.9).add_(flat.mean((0, 1, 2)), alpha=0.1)
        return y + (quantised - y).detach()

    return Block(body, a=c.conv(), codes=torch.randn(5, c.width))


MAKERS: dict[str, Maker] = {
    "count": count,
    "average": average,
    "momentum": momentum,
    "clamped": clamped,
    "queue": queue,
    "cache": cache,
    "lazy": lazy,
    "left before": left_before,
    "recalled": recalled,
    "codebook": codebook,
}
