"""Scoring of large networks: seconds of the CPU, and the most memory that a process took, each network in a process of its own.

- `resnet50`, `vit_b_16`: torchvision's, at 224 x 224 pixels and with 1,000 classes.
- `gpt`: 12 blocks of the zoo's GPT, 768 channels wide, with 20,000 tokens: 100 million parameters, windows of 64 tokens.

Weights and samples are random: what is measured is memory and time. With `--parts`, where the memory goes: numbers of a sample in
values and in gradients at the edges that are asked for, by layer, and what each kind of candidate has learned.

With `--scale`, how both grow: convolutions of 3 x 3 with BatchNorm at 8 x 8, of which samples, channels and layers are doubled
twice, each alone.

    tools/bench_large.py --network resnet50 --network vit_b_16 --network gpt
    tools/bench_large.py --scale
"""

from __future__ import annotations

import math
import resource
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import CostModel
from gngraph.analysis.manager import AnalysisManager
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph, TensorType
from gngraph.running.problem import Problem
from gngraph.scoring.gauss_newton import GaussNewton
from gngraph.scoring.selection import select
from gngraph.zoo.spec import SeedSpec
from gngraph.zoo.transformer import GPT, PreNormBlock
from tools.experiment import numbers

console = Console(width=120)

PIXELS, CLASSES, TOKENS, WINDOW = 224, 1000, 20_000, 64


def gpt() -> nn.Module:
    """A GPT with the shape of GPT-2's smallest and fewer tokens."""
    spec = SeedSpec(6.0, classes=TOKENS, input_shape=(WINDOW,))
    module = GPT(spec)
    module.blocks = nn.ModuleList(PreNormBlock(spec, causal=True) for _ in range(12))
    return module


def module_of(network: str) -> nn.Module:
    """A network with random weights."""
    if network == "gpt":
        return gpt()
    from torchvision import models

    module: nn.Module = models.get_model(network, weights=None, num_classes=CLASSES)
    return module


def problem_of(network: str, samples: tuple[int, int, int]) -> Problem:
    """Random samples of what a network reads, with random targets."""
    count, generator = sum(samples), torch.Generator().manual_seed(0)
    if network == "gpt":
        x = torch.randint(TOKENS, (count, WINDOW), generator=generator)
        y = torch.randint(TOKENS, (count, WINDOW), generator=generator)
    else:
        x = torch.randn(count, 3, PIXELS, PIXELS, generator=generator)
        y = torch.randint(CLASSES, (count,), generator=generator)
    learn, judge, report = samples
    loss = "next-token" if network == "gpt" else "cross-entropy"
    return Problem((x, y), loss, device="cpu", learn=learn, judge=judge, report=report)


@dataclass(frozen=True)
class Measured:
    """What a process took: GB before and at the peak of scoring, and seconds of the processor."""

    params: int
    candidates: int
    before: float
    peak: float
    seconds: float


def peak_memory() -> float:
    """The most memory in GB that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def scored(network: str, samples: tuple[int, int, int], options: GaussNewton, threads: int) -> Measured:
    """Score a network, in a process of its own."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    problem = problem_of(network, samples)
    graph = from_torch(module_of(network).eval(), problem.samples[0][0].unsqueeze(0))
    before, start, analyses = peak_memory(), time.process_time(), AnalysisManager(problem)
    scores = analyses.get(options, graph)
    select(scores, CostModel(graph, analyses.get(ChannelSpaces, graph)), count=64)
    params = sum(param.data.numel() for param in graph.params.values())
    return Measured(params, len(scores.candidates), before, peak_memory(), time.process_time() - start)


def apart(network: str, samples: tuple[int, int, int], options: GaussNewton, threads: int) -> Measured:
    """The same from a new process."""
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        return pool.submit(scored, network, samples, options, threads).result()


def _layer(graph: Graph, name: str) -> str:
    """A stretch of the network that a node belongs to: the first two parts of its module's name."""
    return ".".join((graph.nodes[name].module or graph.nodes[name].scope or name).split(".")[:3])


def parts(network: str, samples: tuple[int, int, int], options: GaussNewton) -> None:
    """Print where the memory goes."""
    from gngraph.scoring.gauss_newton import _Scoring

    problem = problem_of(network, samples)
    graph = from_torch(module_of(network).eval(), problem.samples[0][0].unsqueeze(0))
    run = _Scoring(options, graph, AnalysisManager(problem))
    values, edges = Counter[str](), Counter[str]()

    def size(name: str) -> int:
        kind = run.graph.nodes[name].type
        return math.prod(s for s in kind.shape if isinstance(s, int)) if isinstance(kind, TensorType) else 0

    for name in run.graph.nodes:
        values[_layer(run.graph, name)] += size(name)
    asked = {edge for proposer in run.proposers for edge in proposer.edges() if not edge.of_state}
    for edge in asked:
        edges[_layer(run.graph, edge.value)] += size(edge.value)
    table = Table("layer", "values, M", "gradients at edges, M (each of 1 + R)")
    for name, count in values.most_common(20):
        table.add_row(name, f"{count / 1e6:.2f}", f"{edges[name] / 1e6:.2f}")
    table.add_row("all", f"{values.total() / 1e6:.1f}", f"{edges.total() / 1e6:.1f}")
    console.print(table)
    learned = Counter[str]()
    for proposer in run.proposers:
        held = {id(t): t.numel() for t in vars(proposer).values() if isinstance(t, torch.Tensor)}
        learned[type(proposer).__name__] += sum(held.values())
    console.print({kind: f"{count / 1e6:.1f} M numbers" for kind, count in learned.items()})


SIDE, FIRST = 8, {"samples": 96, "channels": 32, "layers": 6}
"""Pixels of a side, and sizes that are doubled."""


def chain(channels: int, layers: int) -> nn.Module:
    """Convolutions with BatchNorm and ReLU, all of one width."""
    parts: list[nn.Module] = []
    for number in range(layers):
        parts += [nn.Conv2d(channels if number else 3, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))


def highest(reset: Path = Path("/proc/self/clear_refs")) -> float:
    """The most memory in MB since this was asked last."""
    with open("/proc/self/status", encoding="ascii") as status:
        found = next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
    reset.write_text("5", encoding="ascii")
    return found


def scale() -> None:
    """Print what scoring takes while one size after the other is doubled."""
    table = Table(*FIRST, "candidates", "seconds of the CPU", "MB more at the peak", "MB of effects", "MB learned")
    grown = [FIRST | {name: size * times} for name, size in FIRST.items() for times in (2, 4)]
    for sizes in [FIRST, FIRST, *grown]:  # the first of all warms up
        torch.manual_seed(0)
        third = sizes["samples"] // 3
        x, y = torch.randn(sizes["samples"], 3, SIDE, SIDE), torch.arange(sizes["samples"]) % 10
        problem = Problem((x, y), device="cpu", learn=third, judge=third, report=third)
        graph = from_torch(chain(sizes["channels"], sizes["layers"]).eval(), x[:1])
        highest()
        before, start = highest(), time.process_time()
        scores = AnalysisManager(problem).get(GaussNewton(), graph)
        seconds, peak = time.process_time() - start, highest()
        moments = [t.nbytes for m in (scores.judge, scores.report) for t in (m.s, m.q)]
        own = {t.untyped_storage().data_ptr(): t.nbytes for c in scores.candidates for t in vars(c.morphism).values()
               if isinstance(t, torch.Tensor)}  # fmt: skip
        figures = (
            f"{seconds:.1f}",
            f"{peak - before:.0f}",
            f"{sum(moments) / 1e6:.1f}",
            f"{sum(own.values()) / 1e6:.1f}",
        )
        table.add_row(*map(str, sizes.values()), f"{len(scores.candidates):,}", *figures)
    console.print(table)


@click.command()
@click.option("--network", "networks", multiple=True, default=("resnet50", "vit_b_16", "gpt"), show_default=True,
              help="gpt, or one of torchvision's")  # fmt: skip
@click.option("--samples", type=numbers, default="8,8,8", show_default=True, help="learn, judge and report samples")
@click.option("--kinds", default="split,prune", show_default=True, help="of candidates")
@click.option("--curvature", default="mc", show_default=True)
@click.option("--threads", default=2, show_default=True, help="CPU threads")
@click.option("--scale", "scaled", is_flag=True, help="how seconds and memory grow instead, of small networks")
@click.option("--parts", "shown", is_flag=True, help="where the memory goes instead, by layer")
def main(
    networks: tuple[str, ...],
    samples: tuple[int, int, int],
    kinds: str,
    curvature: str,
    threads: int,
    shown: bool,
    scaled: bool,
) -> None:
    """Print what scoring of large networks takes."""
    options = GaussNewton(curvature, kinds=tuple(kinds.split(",")))
    torch.set_num_threads(threads)
    if scaled:
        return scale()
    if shown:
        for network in networks:
            console.print(network)
            parts(network, samples, options)
        return
    table = Table("network", "params, M", "candidates", "seconds of the CPU", "GB before", "GB at the peak (bar 8)")
    for network in networks:
        m = apart(network, samples, options, threads)
        figures = f"{m.params / 1e6:.1f}", f"{m.candidates:,}", f"{m.seconds:.0f}", f"{m.before:.2f}", f"{m.peak:.2f}"
        table.add_row(network, *figures)
    console.print(table)


if __name__ == "__main__":
    main()
