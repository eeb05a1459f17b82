"""Predicted against actual changes of the loss in transformers, by what changes: hidden channels, heads, and the residual stream.

A small ViT is trained on digits and a small GPT on the bytes of a text, each is scored, and candidates of every kind are applied
one at a time. Pearson, slope and coverage of the interval are told for each kind in each part of the network, and for all of a
network together; as many candidates are drawn of each kind and part.

    tools/bench_streams.py
    tools/bench_streams.py --text corpus.txt --seeds 3 --looks 0
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gngraph.analysis.channels import ChannelSpace, ChannelSpaces
from gngraph.analysis.fit import problem_for
from gngraph.analysis.manager import AnalysisManager
from gngraph.data import load_data
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.options import TrainOptions
from gngraph.running.evaluation import mean_loss
from gngraph.running.problem import Problem
from gngraph.scoring.gauss_newton import GaussNewton, Scores
from gngraph.scoring.second_look import LOOKS
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer
from tools.experiment import numbers
from tools.fig3 import Point, coverage, held_samples, points_at
from tools.measuring import Agreement, sample, write_csv

console = Console(width=120)
SOURCES = Path(__file__).resolve().parent.parent / "gngraph"
"""What the GPT reads where no text is given: the sources of gngraph's ops."""

STREAM, WINDOW = 48, 32
"""Channels of the streams, and tokens of a sample of the GPT."""


class Block(nn.Module):
    """x + attention(norm(x)), and the same with an MLP: [N, T, C] -> [N, T, C].

    Args:
        stream, heads, size: channels of the stream, heads, and channels of a head.
        causal: whether a token sees none that comes later.
    """

    def __init__(self, stream: int, heads: int, size: int, causal: bool) -> None:
        super().__init__()
        self.size, self.causal = size, causal
        self.norm1, self.qkv = nn.LayerNorm(stream), nn.Linear(stream, 3 * heads * size)
        self.out, self.norm2 = nn.Linear(heads * size, stream), nn.LayerNorm(stream)
        self.up, self.down = nn.Linear(stream, 2 * stream), nn.Linear(2 * stream, stream)

    def forward(self, x: Tensor) -> Tensor:
        """The stream behind the block."""
        q, k, v = (y.unflatten(2, (-1, self.size)).transpose(1, 2) for y in self.qkv(self.norm1(x)).chunk(3, 2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + cast(Tensor, self.down(F.gelu(self.up(self.norm2(x)))))


class ViT(nn.Module):
    """Patches of 2 by 2 of a digit, three blocks of four heads, and the mean token: [N, 1, 8, 8] -> [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.patches, self.positions = nn.Conv2d(1, STREAM, 2, 2), nn.Parameter(0.1 * torch.randn(16, STREAM))
        self.blocks = nn.Sequential(*(Block(STREAM, 4, 12, causal=False) for _ in range(3)))
        self.norm, self.head = nn.LayerNorm(STREAM), nn.Linear(STREAM, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the classes."""
        y = self.patches(x).flatten(2).transpose(1, 2) + self.positions
        return cast(Tensor, self.head(self.norm(self.blocks(y)).mean(1)))


class GPT(nn.Module):
    """Bytes, three blocks of four heads, and a head of its own: [N, T] -> [N, T, 256]."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes, self.positions = nn.Embedding(256, STREAM), nn.Parameter(0.1 * torch.randn(WINDOW, STREAM))
        self.blocks = nn.Sequential(*(Block(STREAM, 4, 12, causal=True) for _ in range(3)))
        self.norm, self.head = nn.LayerNorm(STREAM), nn.Linear(STREAM, 256)

    def forward(self, x: Tensor) -> Tensor:
        """Scores of the next byte."""
        return cast(Tensor, self.head(self.norm(self.blocks(self.bytes(x) + self.positions))))


@dataclass(frozen=True)
class Job:
    """A network that is trained, with its data.

    Attributes:
        name: of the network.
        network: makes it.
        data: name or path.
        like: a sample of zeros.
        epochs, lr: of training.
        samples: learn, judge and report samples.
    """

    name: str
    network: Callable[[], nn.Module]
    data: str
    like: Tensor
    epochs: int
    lr: float
    samples: tuple[int, ...]

    def problem(self, seed: int) -> Problem:
        """What it is trained for."""
        learn, judge, report = self.samples
        data = load_data(self.data, input_shape=tuple(self.like.shape[1:]))
        return problem_for(data, seed=seed, learn=learn, judge=judge, report=report, batch_size=32, device="cpu")

    def trained(self, problem: Problem) -> Graph:
        """The network after training."""
        torch.manual_seed(problem.seed)
        trainer = Trainer(problem, TrainOptions(lr=self.lr, optimizer="adamw"))
        return trainer.train(from_torch(self.network(), self.like), Stretch(self.epochs, "cosine")).graph


def part_of(spaces: ChannelSpaces, space: ChannelSpace) -> str:
    """What a space is in a transformer: counted by norms it is the stream, and a head's channels come by the dozen."""
    if space.name in spaces.counters:
        return "stream"
    return "heads" if max(slot.inner for slot in space.slots) > 1 else "hidden"


def parted(graph: Graph, scores: Scores) -> dict[tuple[str, str], list[int]]:
    """Candidates by kind and part."""
    spaces = ChannelSpaces.of(graph)
    found: dict[tuple[str, str], list[int]] = {}
    for i, candidate in enumerate(scores.candidates):
        part = part_of(spaces, spaces[candidate.morphism.space])
        found.setdefault((candidate.morphism.kind, part), []).append(i)
    return found


def measured(job: Job, seed: int, options: GaussNewton, count: int, unseen: int) -> list[Point]:
    """At most `count` candidates of each kind and part of one network; the kind of a point says both."""
    problem = job.problem(seed)
    graph = job.trained(problem)
    console.print(f"{job.name}, seed {seed}: loss {mean_loss(graph, problem, problem.splits.report):.3f} withheld")
    start = time.perf_counter()
    scores = AnalysisManager(problem).get(options, graph)
    console.print(f"{len(scores.candidates)} candidates scored in {time.perf_counter() - start:.0f} s")
    points: list[Point] = []
    for (kind, part), index in sorted(parted(graph, scores).items()):
        chosen = sample(problem, index, count)
        held = held_samples(problem, unseen)
        points += points_at(graph, problem, job.name, f"{kind}, {part}", scores, chosen, held)
    return points


def show(points: Sequence[Point]) -> None:
    """Print agreement and coverage by network, and of all points of one."""
    table = Table("network", "kind", "points", "largest", "Pearson", "slope", "coverage", "of samples alone",
                  title="predicted against actual, report split; share in the interval, unseen samples")  # fmt: skip
    for network in dict.fromkeys(p.network for p in points):
        own = [p for p in points if p.network == network]
        for kind in [*dict.fromkeys(p.kind for p in own), "all"]:
            some = [p for p in own if kind in ("all", p.kind)]
            met = Agreement.of([p.predicted for p in some], [p.actual for p in some])
            held, alone = coverage(some, "unseen"), coverage(some, "unseen", error="sampling")
            figures = (max(abs(p.actual) for p in some), met.pearson, met.slope, held, alone)
            table.add_row(network, kind, str(met.points), *(f"{figure:.3f}" for figure in figures))
    console.print(table)


@click.command()
@click.option(
    "--text", type=click.Path(exists=True, path_type=Path), help="that the GPT reads; default: gngraph's sources"
)
@click.option("--network", "networks", multiple=True, default=("vit", "gpt"), show_default=True)
@click.option("--epochs", type=numbers, default="20,5", show_default=True, help="of training, ViT and GPT")
@click.option(
    "--samples", type=numbers, default="400,400,200", show_default=True, help="learn, judge and report samples"
)
@click.option("--seeds", default=1, show_default=True)
@click.option("--kinds", default="split,new,prune,merge", show_default=True)
@click.option("--curvature", default="mc", show_default=True)
@click.option("--looks", default=LOOKS, show_default=True, help="candidates whose actual change the analysis looks at")
@click.option("--candidates", default=48, show_default=True, help="candidates of each kind and part that are measured")
@click.option("--unseen", default=512, show_default=True, help="test samples, for the coverage")
@click.option("--threads", default=1, show_default=True, help="CPU threads")
@click.option("--out", type=click.Path(path_type=Path), help="write every point as CSV")
def main(
    text: Path | None,
    networks: tuple[str, ...],
    epochs: tuple[int, ...],
    samples: tuple[int, ...],
    seeds: int,
    kinds: str,
    curvature: str,
    looks: int,
    candidates: int,
    unseen: int,
    threads: int,
    out: Path | None,
) -> None:
    """Print predicted against actual changes of the loss by kind and part."""
    torch.set_num_threads(threads)
    options = GaussNewton(curvature, looks=looks, kinds=tuple(kinds.split(",")))
    points: list[Point] = []
    with tempfile.TemporaryDirectory() as folder:
        corpus = text or Path(folder, "sources.txt")
        if text is None:
            corpus.write_text("".join(path.read_text() for path in sorted(SOURCES.glob("ops/*.py"))))
        jobs = {
            "vit": Job("vit", ViT, "digits", torch.zeros(1, 1, 8, 8), epochs[0], 3e-3, samples),
            "gpt": Job("gpt", GPT, str(corpus), torch.zeros(1, WINDOW, dtype=torch.int64), epochs[1], 3e-3, samples),
        }
        for name in networks:
            for seed in range(seeds):
                points += measured(jobs[name], seed, options, candidates, unseen)
                if out is not None:
                    write_csv(points, out)
    show(points)


if __name__ == "__main__":
    main()
