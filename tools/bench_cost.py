"""What scoring costs: seconds against training epochs and against other libraries, memory against a training step.

For each network, on the same N samples (N is what the three splits hold together), all in one run and in turns, since
machines are noisy:

- `score`: collect, learn the splits of all layers, judge, select; and `judge` alone, both in epochs of training.
- memory: the peak of a process that scores, beside that of one that trains, batches of the same size.
- curvlinops (extra "bench"): one product with its Gauss-Newton operator for each candidate of a layer, the candidates'
  effects scaled by a parameter each; seconds for all candidates of the network at that rate, and the values themselves.
- gromo (extra "bench"): the statistics and the optimal updates of every layer of a perceptron, beside the score of its new
  channels on as many samples.

    tools/bench_cost.py --data cifar10.npz --network vgg16:0.5 --network resnet20:1
"""

from __future__ import annotations

import importlib.util
import itertools
import math
import statistics
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import CostModel
from gngraph.analysis.manager import AnalysisManager
from gngraph.data import batches
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.lowering.layout import training_layout_of
from gngraph.lowering.to_torch import reading_inputs
from gngraph.rewrite.morphism import SplitChannel
from gngraph.running.problem import Problem
from gngraph.scoring.gauss_newton import GaussNewton, Scores
from gngraph.scoring.second_look import LOOKS
from gngraph.scoring.selection import select
from tools.experiment import Experiment, experiment_options
from tools.measuring import untrained

console = Console(width=120)


def named(text: str) -> tuple[str, float]:
    """Name and width multiplier of NAME:WIDTH, or of a saved network.

    >>> named("vgg16:0.5"), named("resnet20"), named("nets/a.gng")
    (('vgg16', 0.5), ('resnet20', 1.0), ('nets/a.gng', 1.0))
    """
    name, colon, width = text.rpartition(":")
    return (name, float(width)) if colon else (text, 1.0)


def train(graph: Graph, problem: Problem, layout: torch.memory_format | None = None) -> None:
    """One epoch over the samples of the three splits: forward, backward, step; in the layout of the library, or another."""
    layout = layout or training_layout_of(graph)
    module = reading_inputs(graph).to(problem.device).train()
    optimizer = torch.optim.SGD(module.parameters(), 0.01, momentum=0.9)
    for split in problem.splits:
        for x, y in batches(split, problem.batch_size, device=problem.device, layout=layout):
            optimizer.zero_grad()
            torch.autograd.backward(problem.loss_fn.per_sample(module(x), y).mean())
            optimizer.step()


def score(graph: Graph, problem: Problem, looks: int = 0) -> Scores:
    """Everything that `gngraph score` does: learn, judge, report, and a joint selection of 64."""
    analyses = AnalysisManager(problem)
    scores = analyses.get(GaussNewton(looks=looks), graph)
    select(scores, CostModel(graph, analyses.get(ChannelSpaces, graph)), count=64)
    return scores


def judge(graph: Graph, problem: Problem) -> Callable[[], None]:
    """The effects of all candidates on every sample of the judge split, with nothing learned."""
    from gngraph.scoring.gauss_newton import _Scoring

    run = _Scoring(GaussNewton(), graph, AnalysisManager(problem))

    def once() -> None:
        run._moments(problem.splits.judge)

    return once


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def spread(values: list[float], digits: int = 2) -> str:
    """Median, least and most."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


@dataclass(frozen=True)
class Times:
    """Seconds of an epoch of training, and what it would take with images as they come, scoring and judging, in epochs."""

    epoch: float
    plain: float
    score: float
    judge: float
    candidates: int


def timed(graph: Graph, problem: Problem, repeats: int, looks: int) -> list[Times]:
    """Training, scoring (with a second look at some candidates) and judging in turns."""
    splits, once = problem.splits, judge(graph, problem)
    once()  # the first call of an operator on a shape may search for the fastest kernel
    count = len(score(graph, problem, looks).candidates)
    train(graph, problem)
    found = []
    for _ in range(repeats):
        epoch = seconds(partial(train, graph, problem))
        plain = seconds(partial(train, graph, problem, torch.preserve_format)) / epoch
        scored = seconds(partial(score, graph, problem, looks)) / epoch
        judged = seconds(once) / (epoch * len(splits.judge) / sum(map(len, splits)))
        found.append(Times(epoch, plain, scored, judged, count))
    return found


def times(names: list[tuple[str, float]], problems: list[Problem], repeats: int, looks: int) -> None:
    """Print the epochs that scoring and judging cost."""
    table = Table(
        "network",
        "candidates",
        "epoch s",
        "not channels last / epoch",
        "score / epoch (bar 4)",
        "judge / epoch (bar 1.5)",
    )
    for name, width in names:
        found = [t for problem in problems for t in timed(untrained(name, width, problem), problem, repeats, looks)]
        columns = [[getattr(t, column) for t in found] for column in ("epoch", "plain", "score", "judge")]
        table.add_row(f"{name} x {width:g}", str(found[0].candidates), *map(spread, columns))
    console.print(table)


def _resident() -> float:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024


def _peak(work: Callable[[Graph, Problem], object], name: str, width: float, problem: Problem) -> float:
    """Growth of memory in MB, of the GPU where there is one, sampled every 2 ms while `work` runs."""
    torch.set_num_threads(1)
    graph = untrained(name, width, problem)  # its weights play no part in what is measured
    if torch.cuda.is_available():
        allocated = torch.cuda.memory_allocated()
        work(graph, problem)
        return (torch.cuda.max_memory_allocated() - allocated) / 2**20
    before, peak, done = _resident(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.002):
            peak[0] = max(peak[0], _resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work(graph, problem)
    finally:
        done.set()
        watcher.join()
    return peak[0] - before


def peaks(name: str, width: float, problem: Problem) -> tuple[float, float]:
    """Peak memory in MB of training and of scoring, each in a process of its own."""
    context = get_context("spawn")
    with ProcessPoolExecutor(1, context, max_tasks_per_child=1) as pool:
        training, scoring = (pool.submit(_peak, work, name, width, problem).result() for work in (train, score))
    return training, scoring


def memory(names: list[tuple[str, float]], problem: Problem) -> None:
    """Print the peak memory of scoring beside that of training."""
    table = Table("network", "batch", "training MB", "scoring MB", "1.5 x training + 300")
    for name, width in names:
        training, scoring = peaks(name, width, problem)
        row = (f"{training:.0f}", f"{scoring:.0f}", f"{1.5 * training + 300:.0f}")
        table.add_row(f"{name} x {width:g}", str(problem.batch_size), *row)
    console.print(table)


class Scaled(nn.Module):
    """A network in which t_c times the effect of splitting channel c is added behind a layer's non-linearity.

    At t = 0 the derivative by t_c is what the split of channel c alone does to the outputs, so that the Gauss-Newton
    matrix of t holds the curvature of all candidates of the layer.
    """

    def __init__(self, graph: Graph, node: str, moves: torch.Tensor) -> None:
        super().__init__()
        self.network = reading_inputs(graph).eval().requires_grad_(False)
        self.t = nn.Parameter(torch.zeros(len(moves)))
        self.moves = moves
        names = [graph.nodes[name].module or "" for name in graph.nodes]
        where = [n.name for n in graph.nodes.values()].index(node)
        conv, norm, tap = (self.network.get_submodule(n) for n in names[where : where + 3])
        assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and isinstance(tap, nn.ReLU)
        assert norm.running_var is not None
        self.conv, self.scale = conv, (norm.weight / (norm.running_var + norm.eps).sqrt()).detach().view(-1, 1, 1)
        tap.register_forward_hook(self._add)
        self.conv.register_forward_pre_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self.h = inputs[0]

    def _add(self, module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        conv, z = self.conv, inputs[0]
        move = self.scale * nn.functional.conv2d(self.h, self.moves, None, conv.stride, conv.padding, conv.dilation)
        effect = 0.5 * (torch.relu(z + move) + torch.relu(z - move)) - output
        return output + self.t.view(-1, 1, 1) * effect

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Outputs for inputs x, [N, K]."""
        logits: torch.Tensor = self.network(x)
        return logits


@dataclass(frozen=True)
class Products:
    """What curvlinops takes for what scoring finds.

    Attributes:
        candidates: of the network.
        rate: seconds of a product, one candidate's.
        ours, exact: seconds of scoring all of them, learning and two judged splits included, sampled and exact.
        difference: largest relative difference of exact values.
    """

    candidates: int
    rate: float
    ours: float
    exact: float
    difference: float

    @property
    def times(self) -> float:
        """How many times faster scoring is than a product for every candidate."""
        return self.rate * self.candidates / self.ours


def products(name: str, width: float, problem: Problem, count: int) -> Products:
    """Products with curvlinops' operator, for `count` splits of a convolution near the input."""
    from curvlinops import GGNLinearOperator

    graph = untrained(name, width, problem)
    start = time.perf_counter()
    scores = AnalysisManager(problem).get(GaussNewton("exact"), graph)
    exact = time.perf_counter() - start
    ours = seconds(lambda: AnalysisManager(problem).get(GaussNewton(), graph))
    nodes = list(graph.nodes.values())
    followed = [
        four[0].name for four in zip(nodes, nodes[1:], nodes[2:], nodes[3:], strict=False)
        if [node.op for node in four] == ["conv2d", "batch_norm2d", "relu", "conv2d"]  # a pooling would be passed apart
    ]  # fmt: skip
    if not followed:
        raise click.UsageError(
            f"'{name}' has no convolution with BatchNorm, ReLU and a convolution behind it, whose splits are compared"
        )
    node = followed[:3][-1]
    weight = graph.nodes[node].params["weight"]
    splits = {i: c.morphism for i, c in enumerate(scores.candidates) if isinstance(c.morphism, SplitChannel)}
    own = {i: split.d1 for i, split in splits.items() if split.param == weight and split.d1 is not None}
    moves = torch.cat(list(own.values()))
    data = list(batches(problem.splits.report, problem.batch_size))
    module = Scaled(graph, node, moves)
    operator = GGNLinearOperator(module, nn.CrossEntropyLoss(), [module.t], data, check_deterministic=False)
    differences, each = [], list[float]()
    for c, i in list(enumerate(own))[:count]:
        unit = torch.zeros(len(own))
        unit[c] = 1.0
        begun = time.perf_counter()
        found = float((operator @ unit)[c])
        each.append(time.perf_counter() - begun)
        judged = float(scores.report.q[:, :, i].square().sum(0).mean())
        differences.append(abs(found - judged) / judged)
    return Products(len(scores.candidates), statistics.median(each[1:]), ours, exact, max(differences))


def perceptrons(problem: Problem, hidden: int, layers: int) -> list[tuple[float, float]]:
    """Seconds of gromo's statistics and updates of a perceptron, and of the score of 4 new channels a layer, in turns."""
    from gromo.containers.growing_mlp import GrowingMLP
    from gromo.utils.training_utils import compute_statistics

    shape, classes = problem.data.input_shape, problem.data.outputs
    theirs = GrowingMLP(shape, classes, hidden, layers, activation=nn.ReLU(), device=torch.device("cpu"))
    widths = [math.prod(shape), *[hidden] * layers]
    steps = [part for a, b in itertools.pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    ours = from_torch(nn.Sequential(nn.Flatten(), *steps, nn.Linear(hidden, classes)), torch.zeros(2, *shape))
    samples = [pair for split in problem.splits for pair in batches(split, problem.batch_size)]
    whole = TensorDataset(torch.cat([x for x, _ in samples]), torch.cat([y for _, y in samples]))

    def updates() -> None:
        theirs.init_computation()
        loader: DataLoader[Any] = DataLoader(whole, batch_size=problem.batch_size)
        compute_statistics(theirs, loader, loss_function=nn.CrossEntropyLoss(reduction="sum"))
        theirs.compute_optimal_updates(maximum_added_neurons=4)
        theirs.reset_computation()
        for layer in theirs._growing_layers:
            layer.delete_update()

    def scored() -> None:
        AnalysisManager(problem).get(GaussNewton(kinds=("new",)), ours)

    return [(seconds(updates), seconds(scored)) for _ in range(4)][1:]


@click.command()
@experiment_options(seeds=3, samples="2048,1024,1024")
@click.option("--network", "networks", multiple=True, default=("vgg16:0.5", "resnet20:1"), show_default=True,
              help="NAME:WIDTH of the zoo, or a saved network")  # fmt: skip
@click.option("--batch-size", "batch", default=128, show_default=True)
@click.option("--repeats", default=1, show_default=True, help="timings for each seed")
@click.option("--looks", default=LOOKS, show_default=True, help="candidates whose actual change the analysis looks at")
@click.option("--products", "count", default=9, show_default=True, help="products with curvlinops' operator")
@click.option("--hidden", default=256, show_default=True, help="width of the perceptron for gromo")
def main(experiment: Experiment, repeats: int, looks: int, count: int, hidden: int) -> None:
    """Print what scoring costs."""
    samples = experiment.samples
    problems = [experiment.problem(seed, samples) for seed in range(experiment.seeds)]
    names = [named(text) for text in experiment.networks]
    times(names, problems, repeats, looks)
    memory(names, problems[0])
    if importlib.util.find_spec("curvlinops"):
        met = products(*names[0], problems[0], count)
        console.print(
            f"curvlinops, {experiment.networks[0]}, {met.candidates} candidates on {samples[-1]} samples: "
            f"{met.rate:.2f} s a product; score {met.ours:.1f} s (exact {met.exact:.1f} s) with learning and two judged splits: "
            f"{met.times:.0f} times faster (bar 50); largest relative difference of {count} exact values "
            f"{met.difference:.1e} (bar 1e-4)"
        )
    else:
        console.print("curvlinops is not installed (pip install 'gngraph\\[bench]'): no comparison with its products")
    if importlib.util.find_spec("gromo"):
        pairs = perceptrons(problems[0], hidden, 3)
        console.print(
            f"gromo, perceptron of 3 layers of {hidden} on {sum(samples)} samples: statistics and updates "
            f"{spread([a for a, _ in pairs])} s, score of 4 new channels a layer {spread([b for _, b in pairs])} s: ratio "
            f"{statistics.median([b / a for a, b in pairs]):.2f} (bar 1)"
        )
    else:
        console.print("gromo is not installed (pip install 'gngraph\\[bench]'): no comparison with its updates")


if __name__ == "__main__":
    main()
