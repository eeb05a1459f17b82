"""Random networks from a few integers: the first picks the inputs and the outputs, each other one a block.

A network is reproduced from its integers alone, and dropping one of them gives a smaller network, so that whoever finds a
defect can shrink it. Every block is calibrated on what it reads.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional as F

from tests.random_attention_blocks import ATTENTION
from tests.random_blocks import Block, Shape, T, raw, width
from tests.random_map_blocks import MAPS
from tests.random_regrouped_blocks import REGROUPED
from tests.random_token_blocks import BRIDGES, FEATURES, TOKENS, head
from tests.random_weight_blocks import FEATURE_WEIGHTS, TOKEN_WEIGHTS
from tests.small_networks import settled, without_constants

SAMPLES = 16
"""Samples that the blocks are calibrated on."""

VOCABULARY = 7
"""Number of entries of embedding tables."""

BLOCKS = {
    "map": {**MAPS, **REGROUPED},
    "tokens": {**TOKENS, **ATTENTION, **TOKEN_WEIGHTS},
    "features": {**FEATURES, **FEATURE_WEIGHTS},
}
"""Kind of value -> blocks that read it."""


class RandomNetwork(nn.Module):
    """Blocks wired to earlier values, and heads on some of them.

    Attributes:
        wiring: (number of a block, numbers of the values that it reads), in order; the inputs are the first values.
        ends: for each head the number of the value that it reads.
    """

    def __init__(self) -> None:
        super().__init__()
        self.blocks, self.heads = nn.ModuleList(), nn.ModuleList()
        self.wiring: list[tuple[int, tuple[int, ...]]] = []
        self.ends: list[int] = []
        self.pack: Callable[[list[T]], Any] = list

    def compute(self, *inputs: T) -> Any:
        values = list(inputs)
        for block, reads in self.wiring:
            values.append(self.blocks[block](*(values[i] for i in reads)))
        return self.pack([last(values[i]) for last, i in zip(self.heads, self.ends, strict=True)])

    def forward(self, x: T) -> Any:
        return self.compute(x)


class TwoInputs(RandomNetwork):
    def forward(self, x: T, y: T) -> Any:  # type: ignore[override]
        return self.compute(x, y)


@dataclass
class Value:
    """A value of the network under construction, on the samples that it is calibrated on."""

    kind: str
    data: T

    @property
    def shape(self) -> Shape:
        """Shape of one sample."""
        return tuple(self.data.shape[1:])


@dataclass
class Built:
    """A network in eval mode and what is known of it.

    Attributes:
        network: the network.
        samples: one batch of `SAMPLES` samples for each input.
        blocks: names of its blocks.
    """

    network: nn.Module
    samples: tuple[T, ...]
    blocks: list[str] = field(default_factory=list)

    def inputs(self, first: int, count: int, dtype: torch.dtype = torch.float32) -> tuple[T, ...]:
        """Copies of `count` of the samples, from number `first` on; whole numbers stay what they are."""
        parts = (x[first : first + count].clone() for x in self.samples)
        return tuple(x.to(dtype) if x.is_floating_point() else x for x in parts)


def numbers_of(seed: int) -> tuple[int, ...]:
    """The integers of network number `seed`: mostly short, up to ten blocks."""
    draw = random.Random(seed)
    return tuple(draw.randrange(2**31) for _ in range(1 + draw.choice((1, 2, 3, 4, 5, 6, 8, 10))))


def build(numbers: Sequence[int]) -> Built:
    """The network of these integers, at least one."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        builder = _Builder(random.Random(numbers[0]), numbers[0])
        for number in numbers[1:]:
            builder.step(number)
        return builder.finish()


_INPUTS: tuple[tuple[str, Shape], ...] = (
    ("map", (3, 6, 6)), ("map", (3, 4, 4)), ("map", (2, 5, 4)), ("map", (3, 8)), ("map", (2, 4, 4, 4)), ("tokens", (4, 5)),
    ("tokens", (3, 6)), ("features", (6,)), ("indices", (4,)),
)  # fmt: skip


def _inputs(draw: random.Random) -> list[tuple[str, Shape]]:
    return draw.sample(_INPUTS, 1 + (draw.random() < 0.15))


def token_numbers_of(seed: int) -> tuple[int, ...]:
    """The integers of network number `seed` of those that read tokens, or words, alone."""
    first, *others = numbers_of(seed)
    draw = random.Random(first)
    while any(kind not in ("tokens", "indices") for kind, _ in _inputs(random.Random(first))):
        first = draw.randrange(2**31)
    return first, *others


class _Builder:
    """A network under construction; what a block gives on the samples decides what may follow."""

    def __init__(self, draw: random.Random, seed: int) -> None:
        torch.manual_seed(seed)
        self.draw = draw
        kinds = _inputs(draw)
        self.values = [Value(kind, _samples(kind, shape)) for kind, shape in kinds]
        self.network = TwoInputs() if len(kinds) == 2 else RandomNetwork()
        self.built = Built(self.network, tuple(value.data.clone() for value in self.values))
        self.latest = 0
        for number, (kind, _) in enumerate(kinds):
            if kind == "indices":
                module, gives = _embedding(draw)
                self.add("embedding", module, (number,), gives)
        if draw.random() < 0.6:  # without a layer in front little is free: sums with an input keep its width
            name = "plain" if self.values[self.latest].kind == "map" else "dense"
            value = self.values[self.latest]
            self.add(name, cast(nn.Module, BLOCKS[value.kind][name](draw, value.shape)), (self.latest,), value.kind)

    def step(self, number: int) -> None:
        """Add what `number` says, unless it suits no value."""
        draw = random.Random(number)
        torch.manual_seed(number)
        moves = {self.block: 66, self.bridge: 12, self.join: 9, self.cat: 7, self.again: 5, self.branch: 4}
        draw.choices(list(moves), list(moves.values()))[0](draw)

    def block(self, draw: random.Random) -> None:
        value = self.values[self.latest]
        table = BLOCKS[value.kind]
        for name in draw.sample(list(table), 4):
            module = table[name](draw, value.shape)
            if module is not None and self.add(name, module, (self.latest,), value.kind):
                return

    def bridge(self, draw: random.Random) -> None:
        value = self.values[self.latest]
        kind, make = draw.choice([(there, make) for (here, there), make in BRIDGES.items() if here == value.kind])
        self.add(make.__name__, cast(nn.Module, make(draw, value.shape)), (self.latest,), kind)

    def join(self, draw: random.Random) -> None:
        """Combine the latest value entry by entry with another of its shape."""
        value = self.values[self.latest]
        others = [i for i, v in enumerate(self.values) if (v.kind, v.shape) == (value.kind, value.shape)]
        combine: Callable[[T, T], T] = draw.choice(_JOINS)
        self.add("join", Block(lambda m, a, b: combine(a, b)), (self.latest, draw.choice(others)), value.kind)

    def cat(self, draw: random.Random) -> None:
        """Concatenate the latest value with others that agree on all axes but that of channels (or of tokens)."""
        value = self.values[self.latest]
        axis = 1 if value.kind == "map" else -1
        if value.kind == "tokens" and draw.random() < 0.4:
            axis = 1
        others = [
            i
            for i, v in enumerate(self.values)
            if v.kind == value.kind and _but(v.data, axis) == _but(value.data, axis)
        ]
        reads = (self.latest, *draw.choices(others, k=draw.randint(1, 2)))
        self.add("cat", Block(lambda m, *values: torch.cat(values, axis)), reads, value.kind)

    def again(self, draw: random.Random) -> None:
        """Call a block that is there already."""
        value = self.values[self.latest]
        wiring, count = self.network.wiring, len(self.built.samples)
        for i, (block, reads) in draw.sample(list(enumerate(wiring)), len(wiring)):
            if (
                len(reads) == 1
                and self.values[reads[0]].shape == value.shape
                and self.values[reads[0]].kind == value.kind
            ):
                self.run("again", block, (self.latest,), self.values[count + i].kind)
                return

    def branch(self, draw: random.Random) -> None:
        """Go on from an earlier value."""
        self.latest = draw.choice([i for i, value in enumerate(self.values) if value.kind != "indices"])

    def add(self, name: str, module: nn.Module, reads: tuple[int, ...], kind: str) -> bool:
        """Calibrate a block, and keep it when it runs."""
        try:
            without_constants(module, torch.Generator().manual_seed(1))
            settled(module, *(self.values[i].data.clone() for i in reads))
        except (RuntimeError, ValueError):  # too few positions to normalise over
            return False
        self.network.blocks.append(module)
        if self.run(name, len(self.network.blocks) - 1, reads, kind):
            return True
        del self.network.blocks[-1]
        return False

    def run(self, name: str, block: int, reads: tuple[int, ...], kind: str) -> bool:
        """Add the result of a block, unless it is too large or too far from one."""
        try:
            data = self.network.blocks[block](*(self.values[i].data for i in reads))
        except (RuntimeError, ValueError):
            return False
        if not 0 < data[0].numel() <= 1500 or not 1e-3 < float(data.abs().max()) < 1e3:
            return False
        assert data.dim() == {"tokens": 3, "features": 2}.get(kind, min(max(data.dim(), 3), 5)), (name, data.shape)
        self.values.append(Value(kind, data))
        self.network.wiring.append((block, reads))
        self.built.blocks.append(name)
        self.latest = len(self.values) - 1
        return True

    def finish(self) -> Built:
        draw, network = self.draw, self.network
        usable = [i for i, value in enumerate(self.values) if value.kind != "indices"]
        ends = (self.latest, *draw.choices(usable, k=draw.choice((0, 0, 0, 1, 2))))
        for i in ends:
            last = head(draw, self.values[i].kind, self.values[i].shape)
            without_constants(last, torch.Generator().manual_seed(1))
            network.heads.append(last)
        network.ends = list(ends)
        network.pack = draw.choice(_PACKS) if len(ends) > 1 or draw.random() < 0.2 else lambda outputs: outputs[0]
        if draw.random() < 0.2:
            _tie(network, draw)
        if draw.random() < 0.15:
            for parameter in network.parameters():
                parameter.requires_grad_(draw.random() < 0.5)
        count = len(network.wiring)
        chain = (
            len(self.built.samples) == 1 and network.wiring == [(i, (i,)) for i in range(count)] and ends == (count,)
        )
        layers = nn.Sequential(*network.blocks, *network.heads) if chain and draw.random() < 0.5 else network
        return replace(self.built, network=layers.eval())


_JOINS: tuple[Callable[[T, T], T], ...] = (
    torch.add, lambda a, b: a + b, lambda a, b: a - b, lambda a, b: a * b, lambda a, b: a / (1 + b.abs()), torch.maximum,
    torch.minimum, lambda a, b: torch.where(a > b, a, b), lambda a, b: a * torch.sigmoid(b),
    lambda a, b: torch.stack([a, b]).mean(0),
)  # fmt: skip

_PACKS: tuple[Callable[[list[T]], Any], ...] = (
    list, tuple, lambda outputs: {f"out{i}": x for i, x in enumerate(outputs)},
    lambda outputs: {"main": outputs[0], "rest": tuple(outputs[1:])},
)  # fmt: skip


def _samples(kind: str, shape: Shape) -> T:
    return torch.randint(VOCABULARY, (SAMPLES, *shape)) if kind == "indices" else torch.randn(SAMPLES, *shape)


def _but(data: T, axis: int) -> list[int]:
    """Sizes of all axes but one."""
    return [size for i, size in enumerate(data.shape) if i != axis % data.dim()]


def _embedding(draw: random.Random) -> tuple[nn.Module, str]:
    """A table that whole numbers are looked up in, and the kind of value that it gives."""
    c = width(draw)
    if draw.random() < 0.3:
        looked_up: Callable[..., T] = draw.choice((lambda m, x: F.embedding(x, m.table), lambda m, x: m.table[x]))
        return Block(looked_up, table=raw(VOCABULARY, c)), "tokens"
    if draw.random() < 0.2:
        return nn.EmbeddingBag(VOCABULARY, c, mode=draw.choice(("mean", "sum"))), "features"
    return nn.Embedding(VOCABULARY, c, padding_idx=draw.choice((None, 0))), "tokens"


def _tie(network: nn.Module, draw: random.Random) -> None:
    """Let two layers whose weights have equal shapes share one."""
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding)
    layers = [m for m in network.modules() if isinstance(m, kinds) and "weight" in m._parameters]  # not computed ones
    pairs = [(a, b) for i, a in enumerate(layers) for b in layers[:i] if a.weight.shape == b.weight.shape]
    if pairs:
        a, b = draw.choice(pairs)
        a.weight = b.weight
