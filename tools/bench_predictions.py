"""Predicted against actual: single candidates under each curvature, sets chosen jointly, additively and at random, and rounds.

For each network and seed: train (a saved network is taken as it is), score, apply candidates one at a time (and sets at once),
and measure the change of the mean loss on the report split, which neither training, learning nor selection saw. How often the
actual change lies in the predicted interval is measured on test samples.

A round is what growth makes of a large set: a share of the channels of half of the layers, those that are missed least, rebuilt
from all that stay; or splits of a share of all channels at once. Beside what a round reports stands what the model of the
single candidates says of it.

    tools/bench_predictions.py --data cifar10.npz --network vgg11 --network resnet20 --epochs 6 --seeds 3
    tools/bench_predictions.py --data digits --network vgg11 --network resnet20 --width 0.125 --samples 400,400,400 \
        --curvature mc --candidates 8 --counts 8 --unseen 100
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget, CostModel
from gngraph.analysis.manager import AnalysisManager
from gngraph.ir import Graph
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import SplitChannel
from gngraph.running.problem import Problem
from gngraph.scoring.gauss_newton import GaussNewton, Scores
from gngraph.scoring.selection import Selection, select
from gngraph.search.situation import Situation
from gngraph.search.step import changes as looked
from gngraph.search.step import standard_error
from gngraph.search.strategy import GaussNewtonGrowth
from tools.experiment import Experiment, experiment_options, numbers
from tools.fig3 import REACH, Point, coverage, held_samples, points_of
from tools.measuring import Agreement, Samples, apply, changes, sample

console = Console()
Row = dict[str, object]


def singles(points: Sequence[Point]) -> Row:
    """Agreement of the points, and how often actual changes lie in the predicted intervals."""
    met = Agreement.of([point.predicted for point in points], [point.actual for point in points])
    return {
        "pearson": met.pearson, "spearman": met.spearman, "slope": met.slope, "points": met.points,
        "coverage": coverage(points, "unseen"), "coverage, samples alone": coverage(points, "unseen", error="sampling"),
    }  # fmt: skip


def sets(graph: Graph, problem: Problem, scores: Scores, counts: tuple[int, ...]) -> list[Row]:
    """For each size the joint set, the additive set of as many splits, and a random one of exactly that size.

    The additive set is predicted by the sum, as its rule does, and together; the others together.
    """
    model = CostModel(graph, ChannelSpaces.of(graph))
    splits = [i for i, candidate in enumerate(scores.candidates) if candidate.morphism.kind == "split"]
    found: list[tuple[int, str, Sequence[int], float]] = []
    for count in counts:
        joint = select(scores, model, count=count, kinds=("split",))
        added = select(scores, model, count=len(joint.chosen), rule="additive", kinds=("split",))
        drawn = one_a_channel(scores, sample(problem, splits, len(splits)), count)
        found += [
            (count, "joint", joint.chosen, joint.predicted_report),
            (count, "additive", added.chosen, added.predicted_report),
            (count, "random", drawn, scores.report.change_of(drawn)),
        ]
    found = [row for row in found if row[2]]
    others = (apply(graph, [scores.candidates[i].morphism for i in chosen]) for _, _, chosen, _ in found)
    actual = changes(graph, others, {"report": Samples(problem, problem.splits.report)})
    return [
        {"asked": count, "rule": rule, "splits": len(chosen), "predicted": predicted,
         "together": scores.report.change_of(chosen), "actual": change["report"].mean}
        for (count, rule, chosen, predicted), change in zip(found, actual, strict=True)
    ]  # fmt: skip


def rounds(graph: Graph, analyses: AnalysisManager, scores: Scores, shares: Sequence[int]) -> list[Row]:
    """For each share, in percent, a round that removes and one that splits."""
    problem, spaces, budget = analyses.problem, ChannelSpaces.of(graph), Budget()
    indices: dict[str, list[int]] = {}
    for i, candidate in enumerate(scores.candidates):
        if candidate.morphism.kind == "prune":
            indices.setdefault(candidate.morphism.space, []).append(i)
    own = list(indices.values())
    some = [own[place] for place in sample(problem, range(len(own)), max(2, -(-len(own) // 2)))]
    least = [sorted(space, key=lambda i: -scores.candidates[i].gain) for space in some]
    splits = [i for i, candidate in enumerate(scores.candidates) if candidate.morphism.kind == "split"]
    drawn = one_a_channel(scores, sample(problem, splits, len(splits)), len(splits))
    situation = Situation(graph, analyses, scores, {}, budget, budget, torch.Generator())
    found = []
    for share in shares:
        removed = [i for space in least for i in space[: min(len(space) - 1, len(space) * share // 100)]]
        for kind, chosen in (("remove", removed), ("split", drawn[: len(drawn) * share // 100])):
            judged, reported = scores.judge.change_of(chosen), scores.report.change_of(chosen)
            unchanged = situation.model.of(situation.model.widths)
            selection = Selection(tuple(chosen), judged, reported, {}, unchanged, frozenset())
            plan = GaussNewtonGrowth(allocation="none").plan(situation, selection)
            _, change = looked(graph, morph(graph, spaces, plan.morphisms).graph, problem, scores, selection)
            found.append({
                "round": f"{kind} {share} %", "predicted": change.predicted, "error": change.error,
                "model": reported, "model error": standard_error(scores.report, chosen), "actual": change.actual,
            })  # fmt: skip
    return found


def within(rows: Sequence[Row], predicted: str, error: str) -> Row:
    """How many actual changes of rounds lie in the intervals, and how they go with what was predicted."""
    pairs = [(float(str(row[predicted])), float(str(row["actual"])), float(str(row[error]))) for row in rows]
    met = Agreement.of([p for p, _, _ in pairs], [a for _, a, _ in pairs])
    inside = statistics.fmean(abs(a - p) <= REACH * e for p, a, e in pairs)
    return {"rounds": len(rows), "within the interval": inside, "correlation": met.pearson, "slope": met.slope}


def one_a_channel(scores: Scores, index: Sequence[int], count: int) -> list[int]:
    """The first `count` of some splits of which no two are of the same channel."""
    channels: dict[tuple[str, int], int] = {}
    for i in index:
        split = scores.candidates[i].morphism
        assert isinstance(split, SplitChannel)
        channels.setdefault((split.space, split.channel), i)
    return list(channels.values())[:count]


@click.command()
@experiment_options(networks=("vgg11", "resnet20"), width=0.25, epochs=6, seeds=3, samples="6144,4096,2048")
@click.option("--curvature", "curvatures", multiple=True, default=("mc", "exact", "rank1"), show_default=True)
@click.option("--kinds", default="split,prune", show_default=True, help="kinds of single candidates")
@click.option("--looks", default=0, show_default=True, help="candidates whose actual change the analysis looks at")
@click.option("--candidates", default=120, show_default=True, help="candidates of each kind measured one at a time")
@click.option("--counts", type=numbers, default="8,16,32,64", show_default=True, help="sizes of the chosen sets")
@click.option(
    "--shares", type=numbers, default="25,50,75", show_default=True, help="of channels in a round, in percent"
)
@click.option("--unseen", default=2048, show_default=True, help="test samples, for the coverage")
@click.option("--out", type=click.Path(path_type=Path), help="write every figure as JSON lines")
def main(
    experiment: Experiment,
    curvatures: tuple[str, ...],
    kinds: str,
    looks: int,
    candidates: int,
    counts: tuple[int, ...],
    shares: tuple[int, ...],
    unseen: int,
    out: Path | None,
) -> None:
    """Print predicted against actual changes of the report loss."""
    rows: list[Row] = []
    for network, problem in experiment.problems():
        named = {"network": network, "seed": problem.seed}
        graph = experiment.trained(network, problem)
        held = held_samples(problem, unseen)
        for curvature in curvatures:
            start = time.perf_counter()
            options = GaussNewton(curvature, looks=looks, kinds=tuple(kinds.split(",")))
            analyses = AnalysisManager(problem)
            scores = analyses.get(options, graph)
            seconds = time.perf_counter() - start
            for kind in options.kinds:
                figures = singles(points_of(graph, problem, network, kind, scores, candidates, held))
                rows.append({**named, "curvature": curvature, "kind": kind, **figures, "seconds": seconds})
                console.print(rows[-1])
            for row in sets(graph, problem, scores, counts):
                rows.append({**named, "curvature": curvature, "kind": "set", **row})
                console.print(rows[-1])
            for row in rounds(graph, analyses, scores, shares):
                rows.append({**named, "curvature": curvature, "kind": "round", **row})
                console.print(rows[-1])
            if out is not None:
                out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    summary(rows)


def summary(rows: list[Row]) -> None:
    """Medians and ranges over seeds."""
    table = Table("network", "kind", "rule / curvature", "figure", "median", "least", "most", title="over seeds")
    groups: dict[tuple[str, ...], list[float]] = {}
    large = [row for row in rows if row["kind"] == "round"]
    for name, predicted, error in (("reported", "predicted", "error"), ("by the model", "model", "model error")):
        console.print(f"rounds, {name}:", within(large, predicted, error))
    for row in rows:
        if row["kind"] == "round":
            continue
        if row["kind"] == "set":
            name = f"{row['curvature']} {row['rule']} {row['asked']}"
            figures = {name: row[name] for name in ("splits", "predicted", "together", "actual")}
        else:
            name, figures = str(row["curvature"]), {k: v for k, v in row.items() if isinstance(v, float)}
        for figure, value in figures.items():
            groups.setdefault((str(row["network"]), str(row["kind"]), name, figure), []).append(float(str(value)))
    for key, values in groups.items():
        table.add_row(*key, *(f"{v:.4f}" for v in (statistics.median(values), min(values), max(values))))
    console.print(table)


if __name__ == "__main__":
    main()
