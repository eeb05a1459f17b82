"""How the ranking of layers grows with their number: ResNets of several depths, built alike.

What is known of a network alone is found in time linear in its nodes: its channel spaces, what can be removed of it, the network
without a layer, its cost. A layer is ranked by these and by forward passes of the network without it, which take as long as the
network is deep; so the seconds for a layer grow as the depth does, and no faster. The last column says how fast they do: the power
of the nodes by which they grew since the first network (1: linear). All are seconds of the CPU; milliseconds are the least of
several runs.

    tools/bench_ranking.py --depths 20,56,110
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget, cost
from gngraph.analysis.manager import AnalysisManager
from gngraph.data import Data, load_data
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.rewrite.layer_removal import removable_layers
from gngraph.running.problem import Problem
from gngraph.search.depth import least_missed, without
from gngraph.zoo.resnet import ResNet
from gngraph.zoo.spec import SeedSpec

console = Console(width=150)

REPEATS = 10
"""Runs of what takes milliseconds."""

LARGER = 4
"""The budget that layers are ranked for, as a multiple of the seed's cost."""


@dataclass(frozen=True)
class Ranked:
    """What the ranking of one network takes.

    Attributes:
        depth: layers with weights.
        nodes: of its graph.
        layers: that can be removed.
        spaces, removable, shallower: milliseconds for its channel spaces, for what can be removed of it, and for the network
            without one layer, with its cost.
        ranking: seconds for a layer in the ranking, with all forward passes.
    """

    depth: int
    nodes: int
    layers: int
    spaces: float
    removable: float
    shallower: float
    ranking: float

    def growth(self, first: Ranked) -> float:
        """Power of the nodes by which the seconds for a layer grew since another network."""
        return math.log(self.ranking / first.ranking) / math.log(self.nodes / first.nodes)


def ranked(depth: int, data: Data, width: float, samples: int) -> Ranked:
    """Rank the layers of a ResNet with new weights.

    Args:
        depth: layers with weights, 6n + 2.
        data: to rank by.
        width: multiple of the channels that the family has.
        samples: of each split.
    """
    torch.manual_seed(0)
    shape, outputs = data.input_shape, data.outputs
    graph = from_torch(ResNet(depth, SeedSpec(classes=outputs, input_shape=shape, width=width)), torch.zeros(2, *shape))
    spaces, whole = ChannelSpaces.of(graph), cost(graph)
    layers = removable_layers(graph, spaces)
    middle = layers[len(layers) // 2].value
    own = Problem(data, device="cpu", learn=samples, judge=samples, report=samples)
    budget = Budget(LARGER * whole.params, LARGER * whole.flops)
    return Ranked(
        depth, len(graph.nodes), len(layers),
        least_ms(lambda new: ChannelSpaces.of(new), graph),
        least_ms(lambda new: removable_layers(new, spaces), graph),
        least_ms(lambda new: cost(without(new, [middle])), graph),
        seconds(lambda: least_missed(graph, AnalysisManager(own), budget)) / len(layers),
    )  # fmt: skip


def seconds(run: Callable[[], object]) -> float:
    """Seconds of the CPU that a call takes, whatever else the machine does."""
    start = time.process_time()
    run()
    return time.process_time() - start


def least_ms(run: Callable[[Graph], object], graph: Graph) -> float:
    """Least milliseconds of a call on a new snapshot of a graph, of which nothing is known yet."""
    return 1e3 * min(seconds(lambda new=new: run(new)) for new in (replace(graph) for _ in range(REPEATS)))  # type: ignore[misc]


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n") if __doc__ else None)
@click.option("--depths", default="20,56,110", show_default=True, help="layers with weights of each network, 6n + 2")
@click.option("--data", default="digits", show_default=True, help="data set by name or path")
@click.option("--width", default=0.25, show_default=True, help="multiple of the family's channels")
@click.option("--samples", default=128, show_default=True, help="of each split")
@click.option("--threads", default=1, show_default=True, help="of the CPU")
def main(depths: str, data: str, width: float, samples: int, threads: int) -> None:
    """Rank, and print the table."""
    torch.set_num_threads(threads)
    source = load_data(data)
    table = Table(
        "ResNet", "nodes", "layers", "spaces ms", "removable ms", "without a layer ms", "ranking, s a layer", "power"
    )
    rows = list[Ranked]()
    for depth in (int(text) for text in depths.split(",")):
        rows.append(ranked(depth, source, width, samples))
        row = rows[-1]
        power = f"{row.growth(rows[0]):.2f}" if len(rows) > 1 else ""
        table.add_row(
            str(row.depth), str(row.nodes), str(row.layers), f"{row.spaces:.1f}", f"{row.removable:.1f}", f"{row.shallower:.1f}",
            f"{row.ranking:.3f}", power,
        )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    main()
