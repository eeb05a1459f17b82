"""Time and memory of the joint selection on made-up moments, and its choice beside that of a plain greedy rule.

The moments are those of a least-squares problem: candidates q of low rank plus noise, each scaled to its best step, that
repair residuals to which many of them contribute, so that many can be chosen. The candidates are splits, new channels and
prunes of a network of the zoo, whose cost model prices them. Memory counts the moments of the judge and of the
report split; `GB` is what the process had needed before the selection.

    tools/bench_selection.py --factors 1 --factors 4
    tools/bench_selection.py --network resnet56 --width 1 --candidates 5000 --chosen 500 --budget 1.2
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import click
import torch
from rich.console import Console
from rich.table import Table

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget, Cost, CostModel
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.rewrite.morphism import Morphism, NewChannel, PruneChannel, SplitChannel
from gngraph.scoring.gauss_newton import Candidate, Moments, Scores
from gngraph.scoring.selection import CAUTION, Selection, select
from gngraph.search.widths import allocated
from gngraph.zoo import build_seed

console = Console(width=120)
KINDS = ("split", "new", "prune")
GROWING = ("split", "new")


def moments(samples: int, count: int, factors: int, rank: int, noise: float, seed: int) -> Moments:
    """Moments of `count` candidates, written block by block; the first-order effects are the same for every sample."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.randn(factors, samples, rank, generator=generator)
    s, q = torch.empty(samples, count), torch.empty(factors, samples, count)
    for block in torch.split(q, 512, 2):
        block.copy_(low @ torch.randn(rank, block.shape[2], generator=generator) / rank**0.5)
        block.add_(torch.randn(block.shape, generator=generator), alpha=noise)
    repaired = (torch.rand(count, generator=generator) < 0.15).float()
    residuals = -(q @ repaired)
    for into, block in zip(torch.split(s, 512, 1), torch.split(q, 512, 2), strict=True):
        block.mul_(-torch.einsum("rnc,rn->c", block, residuals) / block.square().sum((0, 1)))
        into.copy_((torch.einsum("rnc,rn->c", block, residuals) / samples).expand_as(into))
    return Moments(s, q)


def morphisms(spaces: ChannelSpaces) -> Iterator[Morphism]:
    """Endless candidates: for every channel a split, a prune and more splits, for every space new channels."""
    while True:
        for space in spaces.free:
            for channel in range(space.size):
                yield from (
                    SplitChannel(space.name, channel),
                    NewChannel(space.name),
                    PruneChannel(space.name, channel),
                )


def problem(
    spaces: ChannelSpaces, samples: tuple[int, int], count: int, factors: int, rank: int, noise: float
) -> Scores:
    """Scores of made-up candidates; a removal loses a tenth of what growth of its number would gain."""
    candidates = tuple(
        Candidate(m, m.space, 0.0, 0.0, Cost(0, 0)) for m, _ in zip(morphisms(spaces), range(count), strict=False)
    )
    judge, report = (moments(n, count, factors, rank, noise, seed) for seed, n in enumerate(samples))
    for i, candidate in enumerate(candidates):
        if candidate.morphism.kind == "prune":
            judge.s[:, i] *= -0.05
            judge.q[:, :, i] *= 0.01
    return Scores(candidates, judge, report, ())


def plain(scores: Scores, model: CostModel, budget: Budget | None, count: int) -> list[int]:
    """The growth that a plain greedy rule chooses: every candidate evaluated anew for every choice."""
    judge, widths, chosen = scores.judge, dict(model.widths), list[int]()
    caution = CAUTION * judge.errors()
    used: set[tuple[str, int]] = set()
    total = torch.zeros_like(judge.q[:, :, 0])
    while len(chosen) < count:
        best: tuple[float, int] | None = None
        share, fits = {}, {}
        for name in widths:
            marginal = model.marginal(name, widths)
            share[name] = budget.share(marginal) if budget else 1.0
            fits[name] = budget is None or budget.allows(model.of(widths) + marginal)
        cross = (judge.q * total.unsqueeze(2)).sum((0, 1)) / judge.s.shape[0]
        gains = -(judge.changes() + caution + cross)
        for i, candidate in enumerate(scores.candidates):
            m = candidate.morphism
            key = (m.space, getattr(m, "channel", -1 - i))
            if m.kind in GROWING and i not in chosen and key not in used and fits[m.space] and gains[i] > 0:
                best = max(best or (0.0, i), (float(gains[i]) / share[m.space], i))
        if best is None:
            break
        taken = scores.candidates[best[1]].morphism
        chosen.append(best[1])
        used.add((taken.space, getattr(taken, "channel", -1 - best[1])))
        widths[taken.space] += 1
        total = total + judge.q[:, :, best[1]]
    return chosen


def peak() -> float:
    """Largest resident set of this process so far, in GB; `getrusage` would count that of the process it was started by."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024 / 1e9


@dataclass(frozen=True)
class Run:
    """One selection.

    Attributes:
        factors: curvature factors R.
        choice: "no budget" or "budget".
        kinds: kinds of the chosen candidates.
        equal: whether a small selection (a fortieth of the candidates, a tenth of the choices) equals the plain rule's.
        small: how many that chose.
        seconds, busy: wall and processor time.
        before, peak: memory of the process before it, and at most, in GB.
    """

    factors: int
    choice: str
    kinds: tuple[str, ...]
    equal: bool
    small: int
    seconds: float
    busy: float
    before: float
    peak: float


def runs(
    graph: Graph,
    candidates: int,
    samples: tuple[int, int],
    count: int,
    factors: int,
    times: float,
    rank: int,
    noise: float,
) -> Iterator[Run]:
    """The selection with R factors without a budget, and with one of `times` the network's parameters."""
    spaces = ChannelSpaces.of(graph)
    model = CostModel(graph, spaces)
    budget = Budget(max_params=round(times * model.of(model.widths).params))
    small = problem(spaces, (samples[0] // 4, 1), candidates // 40, factors, rank // 4, noise)
    same = []
    for limit in (None, budget):
        ours = list(select(small, model, budget=limit, count=count // 10, kinds=GROWING).chosen)
        same.append((ours == plain(small, model, limit, count // 10), len(ours)))
    scores = problem(spaces, samples, candidates, factors, rank, noise)
    for limit, (equal, few) in zip((None, budget), same, strict=True):
        before, start, busy = peak(), time.perf_counter(), time.process_time()
        selection: Selection = select(scores, model, budget=limit, count=count, kinds=KINDS)
        seconds, busy = time.perf_counter() - start, time.process_time() - busy
        kinds = tuple(m.kind for m in selection.morphisms(scores))
        words = "budget" if limit else "no budget"
        yield Run(factors, words, kinds, equal, few, seconds, busy, before, peak())


def network_of(name: str, width: float) -> Graph:
    """A network of the zoo for 32x32 pictures."""
    module = build_seed(name, width=width, classes=10, input_shape=(3, 32, 32))
    return from_torch(module, torch.zeros(1, 3, 32, 32))


@click.command()
@click.option("--network", default="vgg16", show_default=True)
@click.option("--width", default=0.5, show_default=True)
@click.option("--candidates", default=20000, show_default=True)
@click.option("--samples", default=2048, show_default=True)
@click.option("--report-samples", default=2048, show_default=True, help="samples of the report split, held beside them")
@click.option("--chosen", "count", default=1000, show_default=True, help="candidates to choose")
@click.option("--factors", multiple=True, type=int, default=(1, 4), show_default=True, help="curvature factors R")
@click.option("--rank", default=256, show_default=True, help="rank of what candidates share")
@click.option("--noise", default=0.5, show_default=True, help="what each has of its own, beside 1")
@click.option(
    "--budget", "times", default=1.15, show_default=True, help="parameters allowed, as a multiple of the network's"
)
@click.option("--threads", default=2, show_default=True, help="CPU threads")
def main(
    network: str,
    width: float,
    candidates: int,
    samples: int,
    report_samples: int,
    count: int,
    factors: tuple[int, ...],
    rank: int,
    noise: float,
    times: float,
    threads: int,
) -> None:
    """Print seconds and peak memory for each number of factors, and whether a small choice equals the plain rule's."""
    torch.set_num_threads(threads)
    graph = network_of(network, width)
    table = Table("R", "choice", "of", "chosen", "splits", "new", "prunes", "s", "CPU s", "GB", "peak GB")
    for number in sorted(factors):
        for run in runs(graph, candidates, (samples, report_samples), count, number, times, rank, noise):
            same = "equal to the plain rule's" if run.equal else "NOT equal to the plain rule's"
            console.print(f"R = {number}, {run.choice}: {run.small} of {candidates // 40} chosen, {same}")
            figures = (len(run.kinds), *(run.kinds.count(kind) for kind in KINDS))
            numbers = (f"{run.seconds:.1f}", f"{run.busy:.1f}", f"{run.before:.2f}", f"{run.peak:.2f}")
            table.add_row(str(number), run.choice, str(candidates), *map(str, figures), *numbers)
    spaces = ChannelSpaces.of(graph)
    model = CostModel(graph, spaces)
    budget = Budget(max_params=round(times * model.of(model.widths).params))
    start = time.perf_counter()
    wanted = allocated(model, model.widths, {space.name: 1.0 for space in spaces.free}, budget)
    added = sum(wanted.values()) - sum(model.widths.values())
    console.print(table)
    console.print(
        f"allocation: {added} new channels in {len(list(spaces.free))} spaces, {time.perf_counter() - start:.2f} s"
    )


if __name__ == "__main__":
    main()
