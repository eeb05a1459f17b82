"""What `tools/bench_language.py` trains: a GPT at its full size, or from less of it, which is grown, cloned or stacked."""

from __future__ import annotations

import copy
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import click
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gngraph
from gngraph.analysis.cost import cost
from gngraph.zoo import build_seed
from gngraph.zoo.transformer import GPT, HEADS, STREAM, WITHIN, Attention, PreNormBlock
from tools.growth_runs import Counter

BYTES = 256
CHUNK = 16_384
"""Bytes of a text that is one file: each stretch of so many counts as a file."""

WITHHELD = 10
"""One file of so many is withheld."""

WARMUP, DECAY = 0.05, 0.3
"""Shares of the steps in which the rate rises, and falls again; in between it stays."""

SHORTER = 0.75
"""Share of the steps, and of the FLOPs, that "shorter" has."""

POINTS = 40
"""Measurements of the withheld loss in a run."""


@dataclass(frozen=True)
class Setting:
    """What all lines of a table share.

    Attributes:
        width: multiplier of the seed "gpt" at its full size.
        length: tokens of a window.
        steps, batch, lr: of training.
        samples: windows that a step of growth learns on; as many are withheld from all training to judge by.
        measured: withheld windows that the loss is measured on.
        text: digest of the text.
    """

    width: float
    length: int
    steps: int
    batch: int
    lr: float
    samples: int
    measured: int
    text: str


@dataclass(frozen=True)
class Text:
    """Bytes as int64: to train on, to judge growth by, and withheld, whole windows of length + 1 of the last two."""

    train: Tensor
    judged: Tensor
    withheld: Tensor


def sources(data: Path | None, megabytes: float) -> list[bytes]:
    """Files of text in a fixed order, cut to so many megabytes: those of the standard library without its tests, or of one path."""
    if data is not None and data.is_file():
        whole = data.read_bytes()
        files = [whole[i : i + CHUNK] for i in range(0, len(whole), CHUNK)]
    else:
        root, apart = data or Path(sysconfig.get_paths()["stdlib"]), {"site-packages", "dist-packages", "test", "tests"}
        found = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.py" if data is None else "*.*"))
        files = [(root / name).read_bytes() for name in found if not apart & set(Path(name).parts)]
    kept, left = [], int(megabytes * 1e6)
    for file in files:
        kept.append(file[:left])
        left -= len(kept[-1])
    return kept


def text_of(files: Sequence[bytes], length: int, judged: int, measured: int) -> Text:
    """The three parts of a text; judged windows are the last of its training files, the withheld ones are spread evenly."""
    parts = [
        b"".join(f for i, f in enumerate(files) if (i % WITHHELD == WITHHELD - 1) == apart) for apart in (False, True)
    ]
    train, withheld = (torch.frombuffer(bytearray(part), dtype=torch.uint8).long() for part in parts)
    windows = withheld[: len(withheld) // (length + 1) * (length + 1)].view(-1, length + 1)
    if len(windows) < measured or len(train) < 4 * judged * (length + 1):
        raise click.UsageError("the text is too short for so many withheld windows")
    cut = len(train) - judged * (length + 1)
    spread = torch.linspace(0, len(windows) - 1, measured).long()
    return Text(train[:cut], train[cut:].view(-1, length + 1), windows[spread])


def rate(done: float, lr: float) -> float:
    """The learning rate when a share of the steps is done.

    >>> [round(rate(done, 1.0), 2) for done in (0.0, 0.025, 0.5, 0.85, 1.0)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    return lr * max(0.0, min(1.0, done / WARMUP, (1.0 - done) / DECAY))


Optimizer = torch.optim.AdamW


def optimizer_of(model: nn.Module, setting: Setting) -> Optimizer:
    """AdamW as GPTs are trained by."""
    return Optimizer(model.parameters(), setting.lr, betas=(0.9, 0.95), weight_decay=0.1)


@dataclass(frozen=True)
class Start:
    """What a network begins with, as shares of the full size.

    Attributes:
        width: of all widths.
        inside: of the heads and the hidden channels of MLPs, beside a stream of that width.
        blocks: how many.
    """

    width: float = 1.0
    inside: float = 1.0
    blocks: float = 1.0


def network(setting: Setting, seed: int, start: Start | None = None) -> GPT:
    """The seed "gpt", or the start of it."""
    start = start or Start()
    width, shape = setting.width * start.width, (setting.length,)
    model = cast(GPT, build_seed("gpt", width=width, classes=BYTES, input_shape=shape, seed=seed))
    model.blocks = model.blocks[: round(start.blocks * len(model.blocks))]
    if start.inside < 1.0:
        stream, inside = model.tokens.embedding_dim, width * start.inside
        heads, hidden = max(1, round(HEADS * inside)), round(WITHIN * inside)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for block in cast(list[PreNormBlock], list(model.blocks)):
                block.attention = Attention(stream, heads, causal=True)
                block.up, block.down = nn.Linear(stream, hidden), nn.Linear(hidden, stream)
                for layer in (block.attention.qkv, block.attention.out, block.up, block.down):
                    nn.init.normal_(layer.weight, std=0.02)
                    nn.init.zeros_(layer.bias)
    return model


# ---- what other methods do


Change = Callable[[str, Tensor, int], Tensor]
"""(name of the new parameter, old values, power of the gradient or 0 for the parameter itself) -> new values."""


def carried(
    old: nn.Module,
    optimizer: Optimizer,
    new: nn.Module,
    setting: Setting,
    change: Change,
    named: Callable[[str], str] = str,
) -> Optimizer:
    """Give `new` what `old` has, and an optimizer that remembers the like.

    Args:
        old, optimizer: the network as it is.
        new: of the larger size.
        setting: of the optimizer.
        change: what becomes of values.
        named: the parameter of `old` that one of `new` comes from.
    """
    source, after = dict(old.named_parameters()), optimizer_of(new, setting)
    for name, parameter in new.named_parameters():
        was = source[named(name)]
        parameter.data = change(name, was.data, 0)
        held = optimizer.state[was]
        after.state[parameter] = {
            "step": held["step"].clone(),
            "exp_avg": change(name, held["exp_avg"], 1),
            "exp_avg_sq": change(name, held["exp_avg_sq"], 2),
        }
    return after


def stacked(model: GPT, optimizer: Optimizer, setting: Setting, seed: int) -> tuple[GPT, Optimizer]:
    """All blocks once more on top of themselves."""
    new, blocks = copy.deepcopy(model), model.blocks
    new.blocks = nn.ModuleList(copy.deepcopy(block) for block in (*blocks, *blocks))

    def named(name: str) -> str:
        parts = name.split(".")
        return ".".join([parts[0], str(int(parts[1]) % len(blocks)), *parts[2:]]) if parts[0] == "blocks" else name

    return new, carried(model, optimizer, new, setting, lambda name, values, power: values.clone(), named)


def cloned(model: GPT, optimizer: Optimizer, setting: Setting, seed: int) -> tuple[GPT, Optimizer]:
    """Every channel of stream, heads and MLPs twice. The function stays: who reads a channel shares its weight out among both."""
    new = network(setting, seed, Start(2 * model.tokens.embedding_dim / (setting.width * STREAM)))
    generator = torch.Generator().manual_seed(seed)

    def twice(values: Tensor, axis: int, power: int) -> Tensor:
        """Written twice: a copy gets half of the gradient."""
        return torch.cat([values, values], axis) / float(2**power)

    def shared(values: Tensor, axis: int, power: int) -> Tensor:
        """Read in two parts, whose gradient is that of the whole; uneven ones, or copies would stay alike."""
        first = 0.5 if power else 0.25 + 0.5 * torch.rand(values.shape[axis], generator=generator)
        return torch.cat([values * first, values * (1 - first)], axis) * (2 if power else 1)

    def change(name: str, values: Tensor, power: int) -> Tensor:
        layer = name.split(".")[-2]
        if layer in ("tokens", "positions"):
            return twice(values, 1, power)
        if layer == "norm":  # the table of tokens reads what it gives, and its rows are copies
            return shared(values, 0, power)
        parts = values.chunk(3) if layer == "qkv" else [values]
        written = torch.cat([twice(part, 0, power) for part in parts])
        return shared(written, 1, power) if values.dim() == 2 else written

    return new, carried(model, optimizer, new, setting, change)


# ---- runs


class Run:
    """A method at work.

    Args:
        setting: of the table.
        text: the bytes.
        seed: of weights and batches.
        method: one of `METHODS`.
        at: shares of the steps before its rewrites.
    """

    def __init__(self, setting: Setting, text: Text, seed: int, method: str, at: Sequence[float]) -> None:
        self.setting, self.text, self.seed = setting, text, seed
        self.base, self.twice = method.removesuffix("-twice"), method.endswith("-twice")
        self.full = network(setting, seed)
        share = 0.25 if self.twice else 0.5
        starts = {
            "grown": Start(inside=0.25), "grown-worth": Start(inside=0.25), "grown-halves": Start(share),
            "cloned": Start(share), "stacked": Start(blocks=share), "grown-deeper": Start(inside=0.5, blocks=share),
        }  # fmt: skip
        self.model = network(setting, seed, starts.get(self.base))
        if self.base == "cloned" and not (setting.width * share * HEADS).is_integer():
            need = f"--width that is a multiple of {1 / share / HEADS:g}"
            raise click.UsageError(f"{method} needs heads that can be halved: give a {need}")
        self.optimizer = optimizer_of(self.model, setting)
        self.steps = round(setting.steps * (SHORTER if method == "shorter" else 1))
        self.rewrites = [round(share * setting.steps) for share in at]
        self.grower: gngraph.Grower | None = None
        self.search = 0
        self.told: list[str] = []

    def record(self) -> dict[str, Any]:
        """Train, and say what came of it."""
        setting, started = self.setting, time.process_time()
        batches = torch.Generator().manual_seed(self.seed)
        flops, of_step = 0, 0
        curve: list[tuple[int, float]] = []
        for step in range(self.steps):
            if step in self.rewrites:
                curve.append((flops, self.loss()))
                flops += self.rewrite()
                of_step = 0
            windows = self.windows(batches)
            for group in self.optimizer.param_groups:
                group["lr"] = rate((step + 1) / self.steps, setting.lr)
            if of_step:
                self.step(windows)
            else:
                with Counter() as counter:
                    self.step(windows)
                of_step = counter.flops
            flops += of_step
            if (step + 1) % max(1, setting.steps // POINTS) == 0 or step + 1 == self.steps:
                curve.append((flops, self.loss()))
        size = cost(gngraph.from_torch(self.model, self.text.judged[:2, :-1]))
        return {
            "params": size.params,
            "mflops": size.flops / 1e6,
            "loss": round(curve[-1][1], 5),
            "training_flops": flops,
            "search_flops": self.search,
            "seconds": round(time.process_time() - started, 1),
            "steps": self.told,
            "curve": [[spent, round(loss, 5)] for spent, loss in curve],
        }

    def windows(self, generator: torch.Generator) -> Tensor:
        """A batch of training windows."""
        length = self.setting.length + 1
        places = torch.randint(len(self.text.train) - length, (self.setting.batch, 1), generator=generator)
        return self.text.train[places + torch.arange(length)]

    def step(self, windows: Tensor) -> None:
        """One step of training."""
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()

    def loss(self) -> float:
        """Nats a byte of the withheld windows."""
        total = 0.0
        with torch.no_grad():
            for windows in torch.split(self.text.withheld, 64):
                scores = self.model(windows[:, :-1]).flatten(0, 1)
                total += float(F.cross_entropy(scores, windows[:, 1:].flatten(), reduction="sum"))
        return total / self.text.withheld[:, 1:].numel()

    def rewrite(self) -> int:
        """Make the network larger; the FLOPs that took, all that is computed counted."""
        with Counter() as counter:
            if self.base in GROWN:
                self.grow()
            else:
                larger = {"cloned": cloned, "stacked": stacked}[self.base]
                self.model, self.optimizer = larger(self.model, self.optimizer, self.setting, self.seed)
        spent: int = counter.flops
        self.search += spent
        return spent

    def grow(self) -> None:
        """A step of a Grower; of "grown-deeper" blocks are repeated, until all are there, and then widths grow."""
        deeper = self.base == "grown-deeper"
        if self.grower is None:
            size = cost(gngraph.from_torch(self.full, self.text.judged[:2, :-1]))
            self.grower = gngraph.Grower(
                self.model, self.problem(), max_params=size.params, max_flops=size.flops,
                rounds=1 if deeper else len(self.rewrites), **GROWN[self.base],
            )  # fmt: skip
        if deeper:
            self.told.append(str(self.grower.repeat(self.optimizer)))
        if len(self.model.blocks) == len(self.full.blocks):
            self.told.append(str(self.grower.step(self.optimizer)))

    def problem(self) -> gngraph.Problem:
        """Windows to learn on, and others to judge by that nothing is trained on."""
        setting = self.setting
        width, half = setting.length + 1, setting.samples // 2
        learn = self.text.train[: len(self.text.train) // width * width].view(-1, width)
        learn = learn[torch.randperm(len(learn), generator=torch.Generator().manual_seed(self.seed))[: setting.samples]]
        pairs = [(windows[:, :-1], windows[:, 1:]) for windows in (learn, self.text.judged)]
        return gngraph.Problem(
            pairs[0], "next-token", unseen=pairs[1], learn=len(learn), judge=half, report=half, seed=self.seed, device="cpu",
            batch_size=setting.batch,
        )  # fmt: skip


GROWN: Mapping[str, Mapping[str, Any]] = {
    "grown": {"allocation": "proportional", "exclude": ("tokens",)},
    "grown-deeper": {"allocation": "proportional", "exclude": ("tokens",)},
    "grown-halves": {"allocation": "proportional"},
    "grown-worth": {"allocation": "worth"},
}
"""Options of a `Grower`, by method."""

METHODS = (
    "full", "shorter", "grown", "grown-twice", "grown-deeper", "grown-deeper-twice", "grown-halves", "grown-worth",
    "cloned", "cloned-twice", "stacked", "stacked-twice",
)  # fmt: skip
"""What is trained; see `tools/bench_language.py`."""


def rewrites_of(method: str) -> int:
    """How often a method makes its network larger.

    >>> [rewrites_of(method) for method in ("shorter", "grown", "stacked-twice")]
    [0, 1, 2]
    """
    return 0 if method in ("full", "shorter") else 2 if method.endswith("-twice") else 1
