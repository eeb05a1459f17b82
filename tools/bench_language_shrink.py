"""A trained GPT on bytes made smaller: by gngraph, by Torch-Pruning, plainly narrower, and that size from scratch.

The full size is trained as in `tools/bench_language.py`, with four heads of 16 channels for each two of the zoo. Then it is
brought to half of its FLOPs and parameters, and trained on, for a share of its steps, from the same highest rate (or --tuning-lr)
along a cosine; every method has the same batches. "same" is trained on as it is. "gngraph" is `gngraph.shrink`, "gngraph-hidden",
"gngraph-heads" and "gngraph-stream" the same with one kind of widths alone (`only`), "gngraph-low-rank" with low-rank layers first
(`kinds`). "tp-..." are magnitude, Taylor and random importances of Torch-Pruning: over all layers together, and "-uniform" each
alike, "-heads" with whole heads, "-inside" without the stream. "narrower" has plain widths, with the channels that are read most.
"smaller" is the seed gpt at that size from scratch, for the steps of the full size; "smaller-longer" for as many as pay for the
full size and the tuning together. A finished run is a line of OUT/language_shrink.jsonl and is not made again.

    tools/bench_language_shrink.py --methods gngraph,tp-taylor-uniform,narrower,smaller --out runs/
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import click
import torch
from rich.console import Console
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gngraph
from gngraph.analysis.cost import Budget, cost
from gngraph.data import batches
from gngraph.errors import GnGraphError
from gngraph.running.seeding import mixed
from gngraph.search.designs import widths_within
from gngraph.zoo.transformer import GPT
from tools.growth_designs import to_widths, widths_of
from tools.growth_jobs import IMPORTANCES, WAYS
from tools.growth_transformers import FINER, finer, pruned_within
from tools.language_runs import Run, Setting, Start, Text, network, optimizer_of, rate, sources, text_of

console = Console(width=150)

STORE = "language_shrink.jsonl"

KINDS = {"gngraph-hidden": "blocks.*.up", "gngraph-heads": "blocks.*.attention.qkv", "gngraph-stream": "tokens"}
"""What may change, by method."""

LOW_RANK = "gngraph-low-rank"
"""The method that has layers become low-rank first."""

LEAST = 0.05
"""Smallest width multiplier that is tried for "smaller"."""


@dataclass(frozen=True)
class Tuning:
    """What follows the rewrite: for which share of the steps, from which highest rate (None: that of the training)."""

    share: float
    lr: float | None


class Bench:
    """A trained network, and what becomes of it.

    Args:
        setting: of the table, as in `tools/bench_language.py`.
        text: the bytes.
        seed: of weights and batches.
        tuning: what follows the rewrite.
        left: share of FLOPs and parameters that stay.
        out: folder of the trained network.
    """

    def __init__(self, setting: Setting, text: Text, seed: int, tuning: Tuning, left: float, out: Path) -> None:
        self.setting, self.seed = setting, seed
        self.run = Run(setting, text, seed, "full", ())
        self.steps, self.tuning_lr = round(tuning.share * setting.steps), tuning.lr or setting.lr
        self.example = text.judged[:2, :-1]
        self.base = finer(network(setting, seed), FINER)
        size = cost(gngraph.from_torch(self.base, self.example))
        self.flops, self.limit = size.flops, Budget(int(left * size.params), int(left * size.flops))
        kept = out / f"base-{hashlib.sha256(repr((setting, seed)).encode()).hexdigest()[:16]}.pt"
        if not kept.exists():
            self.trained(self.base, setting.steps, 0, lambda done: rate(done, setting.lr))
            torch.save(self.base.state_dict(), kept)
        self.base.load_state_dict(torch.load(kept))

    def trained(self, model: nn.Module, steps: int, stream: int, rate_at: Callable[[float], float]) -> float:
        """Nats a byte after some steps of training, in place.

        Args:
            model: the network.
            steps: how many.
            stream: number of the order of batches.
            rate_at: the rate when a share of the steps is done.
        """
        run, order = self.run, torch.Generator().manual_seed(mixed(self.seed, stream))
        run.model, run.optimizer = cast(GPT, model), optimizer_of(model, self.setting)
        for step in range(steps):
            for group in run.optimizer.param_groups:
                group["lr"] = rate_at((step + 1) / steps)
            run.step(run.windows(order))
        return run.loss()

    def record(self, method: str) -> dict[str, Any]:
        """What a method comes to."""
        started = time.process_time()
        found: dict[str, Any] = {}
        if method.startswith("smaller"):
            model = self.smaller()
            paid = self.flops * (self.setting.steps + self.steps * self.limit_share)
            steps = self.setting.steps if method == "smaller" else round(paid / self.flops_of(model))
            loss = self.trained(model, steps, 0, lambda done: rate(done, self.setting.lr))
        else:
            steps, model = self.steps, self.made(method)
            self.run.model = cast(GPT, self.base)
            found["loss_before"] = self.run.loss()
            self.run.model = cast(GPT, model)
            found["loss_rewritten"] = self.run.loss()
            loss = self.trained(model, steps, 1, lambda done: self.tuning_lr * (1 + math.cos(math.pi * done)) / 2)
        graph = gngraph.from_torch(model, self.example)
        size = cost(graph)
        found |= {"steps": steps, "params": size.params, "mflops": size.flops / 1e6, "loss": loss}
        return found | {"seconds": round(time.process_time() - started, 1), "widths": widths_of(graph)}

    @property
    def limit_share(self) -> float:
        """Share of the FLOPs that stays."""
        return (self.limit.max_flops or 0) / self.flops

    def flops_of(self, model: nn.Module) -> int:
        """FLOPs of a window."""
        return cost(gngraph.from_torch(model, self.example)).flops

    def made(self, method: str) -> nn.Module:
        """The network before it is trained on."""
        if method == "same":
            return gngraph.to_torch(gngraph.from_torch(self.base, self.example))
        if method == "narrower":
            graph = gngraph.from_torch(self.base, self.example)
            return gngraph.to_torch(to_widths(graph, widths_within(graph, float, self.limit)))
        if method.startswith("gngraph"):
            only = (KINDS[method],) if method in KINDS else ()
            kinds = ("prune", "low-rank") if method == LOW_RANK else ("prune",)
            share, problem = self.limit_share, self.run.problem()
            result = gngraph.shrink(self.base, problem, to=share, params_to=share, epochs=0, only=only, kinds=kinds)
            return gngraph.to_torch(result.graph)
        return self.pruned(method)

    def pruned(self, method: str) -> nn.Module:
        """What Torch-Pruning makes of it."""
        import torch_pruning as tp

        importance, way = PRUNED[method]
        measures = {
            "magnitude": tp.importance.GroupMagnitudeImportance,
            "taylor": tp.importance.GroupTaylorImportance,
            "random": tp.importance.RandomImportance,
        }
        learn = self.run.problem().splits.learn
        self.base.zero_grad()
        if importance == "taylor":
            for x, y in batches(learn, self.setting.batch):
                loss = F.cross_entropy(self.base(x).flatten(0, 1), y.flatten()) * len(x) / len(learn)
                torch.autograd.backward(loss)
        with torch.random.fork_rng():
            torch.manual_seed(mixed(self.seed, 0))
            made = pruned_within(self.base, measures[importance](), self.example, self.limit, way)
        self.base.zero_grad()
        return made

    def smaller(self) -> nn.Module:
        """The largest seed within the limit, as it starts."""
        share = 1.0
        while share * self.setting.width > LEAST:
            model = finer(network(self.setting, self.seed, Start(share)), FINER)
            if self.limit.allows(cost(gngraph.from_torch(model, self.example))):
                return model
            share -= 0.02
        raise click.ClickException(f"no seed is within {self.limit.text}: raise --left")


PRUNED = {f"tp-{i}{name}": (i, way) for i in IMPORTANCES for name, way in WAYS.items()}
"""Importance and way, by method."""

METHODS = ("same", "gngraph", *KINDS, LOW_RANK, *PRUNED, "narrower", "smaller", "smaller-longer")
"""What is made of the trained network; see the module."""


class Store:
    """The lines that are there."""

    def __init__(self, out: Path) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.path = out / STORE

    def lines(self) -> list[dict[str, Any]]:
        """All of them."""
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        return [json.loads(line) for line in text.splitlines()]

    def find(self, key: Mapping[str, Any]) -> dict[str, Any] | None:
        """The line of a run."""
        return next(
            (line for line in self.lines() if all(line.get(name) == value for name, value in key.items())), None
        )

    def add(self, line: Mapping[str, Any]) -> None:
        """One more, at once."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n") if __doc__ else None)
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="as for tools/bench_language.py")
@click.option("--megabytes", default=8.0, show_default=True, help="of the text that are used")
@click.option("--methods", default="gngraph,tp-taylor-uniform,narrower,smaller", show_default=True, help="with commas")
@click.option("--width", default=0.5, show_default=True, help="multiplier of the seed gpt at its full size")
@click.option("--length", default=64, show_default=True, help="tokens of a window")
@click.option("--steps", default=600, show_default=True, help="of training")
@click.option("--tuning", default=0.25, show_default=True, help="share of them after the rewrite")
@click.option("--tuning-lr", type=float, help="highest rate after the rewrite; default: that of the training")
@click.option("--left", default=0.5, show_default=True, help="share of FLOPs and parameters that stays")
@click.option("--batch", default=32, show_default=True, help="windows a step")
@click.option("--lr", default=6e-3, show_default=True, help="highest rate")
@click.option("--samples", default=256, show_default=True, help="windows that gngraph learns on, and judges by")
@click.option("--measured", default=512, show_default=True, help="withheld windows that the loss is measured on")
@click.option("--seeds", default=1, show_default=True)
@click.option("--threads", default=1, show_default=True, help="of the CPU")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="folder for lines and trained networks")
def main(
    data: Path | None, megabytes: float, methods: str, tuning: float, tuning_lr: float | None, left: float, seeds: int,
    threads: int, out: Path, **given: Any,
) -> None:  # fmt: skip
    """Make what is missing, and say what came of it."""
    torch.set_num_threads(threads)
    wanted = methods.split(",")
    if unknown := set(wanted) - set(METHODS):
        raise click.UsageError(f"there is no method {', '.join(sorted(unknown))}: choose among {', '.join(METHODS)}")
    files = sources(data, megabytes)
    setting = Setting(**given, text=hashlib.sha256(b"\0".join(files)).hexdigest()[:16])
    text, store = text_of(files, setting.length, setting.samples, setting.measured), Store(out)
    for seed in range(seeds):
        bench = None
        for method in wanted:
            key = {
                "method": method,
                "seed": seed,
                "tuning": tuning,
                "tuning_lr": tuning_lr,
                "left": left,
                "setting": asdict(setting),
            }
            line = store.find(key)
            if line is None:
                bench = bench or Bench(setting, text, seed, Tuning(tuning, tuning_lr), left, out)
                try:
                    line = {**key, "python": platform.python_version(), **bench.record(method)}
                except GnGraphError as error:
                    console.print(f"{method}, seed {seed}: {error}", style="red")
                    continue
                store.add(line)
            after = f" (rewritten {line['loss_rewritten']:.4f})" if "loss_rewritten" in line else ""
            console.print(
                f"{method}, seed {seed}: {line['loss']:.4f} nats{after}, {line['params']:,} params, "
                f"{line['mflops']:.2f} MFLOPs, {line['steps']} steps, {line['seconds']:.0f} s"
            )


if __name__ == "__main__":
    main()
