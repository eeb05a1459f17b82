"""The growth loop: train, analyse, select, rewrite, carry the optimiser's state, re-estimate BatchNorm, and so on."""

from __future__ import annotations

from pathlib import Path

import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget, cost
from gngraph.analysis.manager import AnalysisManager
from gngraph.data import MapDataset
from gngraph.errors import TrainingError
from gngraph.growth.history import Lineage, Record, epoch_entries, morphism_entries
from gngraph.growth.journal import Journal
from gngraph.growth.observer import Observer
from gngraph.growth.result import GrowthResult
from gngraph.growth.schedule import require_room, round_budgets
from gngraph.ir import Graph
from gngraph.rewrite.layer_removal import removable_layer
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import RemoveLayer
from gngraph.running.batchnorm import reestimate
from gngraph.running.evaluation import evaluate, mean_loss
from gngraph.running.problem import Problem
from gngraph.running.seeding import mixed
from gngraph.scoring.gauss_newton import GaussNewton, Scores
from gngraph.scoring.layer_rebuilding import rebuilt_removal
from gngraph.scoring.selection import Selection
from gngraph.search.capacity import CapacityRecord
from gngraph.search.chance import no_better_than_chance
from gngraph.search.depth import DEPTH, searched
from gngraph.search.lookahead import LOOKAHEAD, Lookahead, decided_by
from gngraph.search.situation import Plan, Situation, unscored, unselected
from gngraph.search.step import Change, Step, apply, standard_error
from gngraph.search.strategy import KINDS, Strategy
from gngraph.search.worth import measured_worths
from gngraph.training.optimizer_state import OptimizerState, carry_state
from gngraph.training.options import DEPTHS, FINALS, PERTURB, Depth, Final, Schedule, Stretch, TrainOptions
from gngraph.training.perturbation import perturbed
from gngraph.training.restart import restarted
from gngraph.training.training import Trainer


def grow(
    graph: Graph,
    problem: Problem,
    *,
    max_params: int | None = None,
    max_flops: int | None = None,
    rounds: int = 3,
    epochs: int = 4,
    final_epochs: int = 18,
    final: Final = "cycle",
    perturb: float = PERTURB,
    depth: Depth = "search",
    curvature: str = "mc",
    kinds: tuple[str, ...] = KINDS,
    selection: str = "joint",
    allocation: str = "capacity",
    out: Path | None = None,
    observer: Observer | None = None,
    train: TrainOptions | None = None,
) -> GrowthResult:
    """Grow `graph` in rounds until it uses up a budget, and train the result.

    Each round trains for `epochs`, scores candidates by the Gauss-Newton model, applies the set that the selection wants
    within the round's share of the budget, and fills the rest of that share with exact new channels. Where the measured loss
    on the judge split rises beyond what was predicted, the set is refused, and exact new channels are added instead. Before
    the first rewrite it is found out which layers the network does better without. The same seed and options give the same
    run, on one device.

    Cost: `rounds * epochs + final_epochs` epochs of training, of which the early ones are of small networks; the search for the
    depth (3 to 5 short trainings); an analysis a round (see `GaussNewton`); forward passes over the judge, report
    and held-out data.

    Args:
        graph: the seed network.
        problem: data, loss, device and seed.
        max_params, max_flops: the budget; at least one of them. It is never exceeded.
        rounds: number of rewrites.
        epochs: training before each of them.
        final_epochs: training after the last. It pays to let growth be over early (docs/results.md#length-of-the-final-training).
        final: what that training is, a name of `FINALS`; it decides the learning rate of the whole run.
        perturb: share of new initial weights that is mixed into the weights after every rewrite (see `perturbed`), where
            training follows. 0 for a network whose training is to be kept, as that of a pretrained one.
        depth: "search": before the first rewrite those layers go without which short trainings at the budget come out
            better (see `gngraph.search.depth`); "keep": all layers stay, as those of a pretrained network should.
        curvature, kinds: see `GaussNewton`.
        selection: "joint" or "additive".
        allocation: how wide the spaces are to be: a name of `ALLOCATIONS`, or "lookahead", which trains a few of those rules
            for up to 8 epochs of the largest network, all together, before the first rewrite; see `Lookahead`.
        out: folder for `seed.gng`, and `history.jsonl` and `model.gng` after every round; None: nothing is written.
        observer: told what goes on.
        train: optimiser, rate and batch size.

    Raises:
        BudgetError: the budget is missing or below the seed's size.
        TrainingError: the loss became non-finite; what `out` holds is that of the last finished round.
        PassError: no channel space is free, or there is no such allocation.
        GnGraphError: the loss does not fit what the network returns.
    """
    strategy = decided_by(allocation, GaussNewton(curvature, kinds=kinds), selection)
    require_room(graph, Budget(max_params, max_flops))
    return grow_by(
        strategy,
        graph,
        problem,
        budget=Budget(max_params, max_flops),
        rounds=rounds,
        epochs=epochs,
        final_epochs=final_epochs,
        final=final,
        perturb=perturb,
        depth=depth,
        out=out,
        observer=observer,
        train=train,
    )


def grow_by(
    strategy: Strategy | Lookahead,
    graph: Graph,
    problem: Problem,
    *,
    budget: Budget,
    rounds: int,
    epochs: int,
    final_epochs: int,
    final: Final = "cycle",
    perturb: float = 0.0,
    depth: Depth = "keep",
    out: Path | None = None,
    observer: Observer | None = None,
    train: TrainOptions | None = None,
) -> GrowthResult:
    """Grow `graph` by a strategy of one's own, or shrink it where it is above the budget; all else is as in `grow`.

    A lookahead finds its strategy in the first round, and can only grow. All layers stay unless a search is asked for.
    """
    if final not in FINALS:
        raise TrainingError(f"final training '{final}' is unknown; choose one of {', '.join(FINALS)}")
    if not 0 <= perturb <= 1:
        raise TrainingError(f"'perturb' is a share between 0 and 1, not '{perturb:g}'")
    if depth not in DEPTHS:
        raise TrainingError(f"depth '{depth}' is unknown; choose one of {', '.join(DEPTHS)}")
    targets = round_budgets(cost(graph), budget, rounds)
    horizon = rounds * epochs + final_epochs if final == "continue" else None
    run = _Run(strategy, graph, problem, budget, train or TrainOptions(), horizon, perturb, observer, out)
    for number, target in enumerate(targets, 1):
        run.round(
            number, rounds, target, epochs, rounds * epochs + final_epochs if depth == "search" and number == 1 else 0
        )
    if final == "retrain":
        run.restart()
    run.finish(rounds + 1, rounds, final_epochs)
    return GrowthResult(graph, run.graph, run.journal.history, run.journal.lineage.sources())


class _Run:
    def __init__(
        self,
        strategy: Strategy | Lookahead,
        graph: Graph,
        problem: Problem,
        budget: Budget,
        options: TrainOptions,
        horizon: int | None,
        perturb: float,
        observer: Observer | None,
        out: Path | None,
    ) -> None:
        self.strategy = strategy
        self.graph = graph
        self.problem = problem
        self.budget = budget
        self.options = options
        self.horizon = horizon
        self.share = perturb
        self.warm = False
        self.analyses = AnalysisManager(problem)
        self.trainer = Trainer(problem, options)
        self.state = OptimizerState({})
        self.journal = Journal(graph, Lineage(self.analyses.get(ChannelSpaces, graph)), observer, out)
        self.capacity = CapacityRecord()
        self.epochs_done = 0
        self.number = 0

    def round(self, number: int, rounds: int, target: Budget, epochs: int, deciding: int) -> None:
        """One round; `self.graph` changes only when it is complete.

        Args:
            deciding: epochs of the run, where the round also finds out how deep the network is to be; else 0.
        """
        self.number = number
        self.journal.begin(number)
        record: Record = {"kind": "round", "round": number, "rounds": rounds}
        graph = self._train(epochs, "cosine" if self.horizon else "constant", record)
        with self.journal.stage("evaluate"):
            doubt = no_better_than_chance(graph, self.problem)
        removals: list[RemoveLayer] = []
        if deciding:
            graph, removals = self._shallower(graph, deciding, record)
        situation = self._situation(graph, target)
        strategy = self._settled(situation, record)
        with self.journal.stage("select"):
            selection = strategy.learned(situation)
            wish = strategy.plan(situation, selection)
        step = self._apply(graph, situation.spaces, wish)
        scores = situation.scores
        judged, reported = self._measure(graph, step, scores, selection)
        refused, applied, after = None, step, reported.after
        if wish.learned and judged.broken and target.allows(situation.model.of(situation.model.widths)):
            refused = f"the judge loss changed by {judged.actual:+.4g} where {judged.predicted:+.4g} was predicted"
            unlearned = strategy.plan(situation, unselected(situation))
            applied = self._apply(graph, situation.spaces, unlearned)
            after = self._loss(applied.rewritten.graph, self.problem.splits.report)
        self.state = carry_state(self.state, applied.rewritten.gathers)
        self.graph = self._reestimated(applied.rewritten.graph)
        self.journal.lineage.follow(applied.rewritten.edits, self.analyses.get(ChannelSpaces, self.graph))
        record |= {
            "allocation": strategy.allocation,
            "morphisms": morphism_entries((*removals, *applied.morphisms)),
            "predicted": reported.predicted,
            "predicted_error": reported.error,
            "actual": reported.actual,
            "judge": {"predicted": judged.predicted, "predicted_error": judged.error, "actual": judged.actual},
            "refused": refused,
            "refused_morphisms": morphism_entries(wish.learned) if refused else {},
            "report_loss": {
                "before": reported.before,
                "after": after,
                "reestimated": self._loss(self.graph, self.problem.splits.report),
            },
            "target": _sides(target),
            "notes": [*([doubt] if doubt else []), *scores.notes],
        }
        self._close(record)

    def _shallower(self, graph: Graph, epochs: int, record: Record) -> tuple[Graph, list[RemoveLayer]]:
        """The network without the layers that it does better without."""
        removals: list[RemoveLayer] = []
        with self.journal.stage(DEPTH):
            found = searched(graph, self.analyses, self.budget, self.options, epochs)
            record[DEPTH] = found.record(graph)
            for layer in found.removed:
                spaces = self.analyses.get(ChannelSpaces, graph)
                removals.append(rebuilt_removal(graph, self.analyses, removable_layer(graph, spaces, layer.value)))
                rewritten = morph(graph, spaces, removals[-1:])
                graph, self.state = rewritten.graph, carry_state(self.state, rewritten.gathers)
        if removals:
            self.journal.lineage.follow({}, self.analyses.get(ChannelSpaces, graph))
            graph = self._reestimated(graph)
        return graph, removals

    def _situation(self, graph: Graph, target: Budget) -> Situation:
        """What the round decides upon: the analysis is run."""
        analysis = self.strategy.analysis
        with self.journal.stage("analyse"):
            scores = self.analyses.get(analysis, graph) if analysis else unscored()
            asked = self.strategy.measures
            worths = measured_worths(graph, self.analyses, scores.candidates) if asked else {}
            capacity = self.capacity.seen(worths)
        generator = torch.Generator().manual_seed(mixed(self.problem.seed, -self.number))
        return Situation(graph, self.analyses, scores, capacity, target, self.budget, generator)

    def _settled(self, situation: Situation, record: Record) -> Strategy:
        """The strategy; a lookahead finds it in the first round, and it stays."""
        if isinstance(self.strategy, Lookahead):
            with self.journal.stage(LOOKAHEAD):
                found = self.strategy.choose(situation, self.state, self.options, self.epochs_done)
            record[LOOKAHEAD] = found.record()
            self.strategy = found.strategy
        return self.strategy

    def restart(self) -> None:
        """New initial weights, and an optimiser that remembers nothing."""
        self.graph = restarted(self.graph, mixed(self.problem.seed, self.epochs_done))
        self.state = OptimizerState({})
        self.warm, self.share = False, 0.0

    def finish(self, number: int, rounds: int, epochs: int) -> None:
        """The final training."""
        self.number = number
        self.journal.begin(number)
        record: Record = {"kind": "final", "round": number, "rounds": rounds}
        self.graph = self._train(epochs, "cosine", record)
        self._close(record)

    def _train(self, epochs: int, schedule: Schedule, record: Record) -> Graph:
        warmup = 0.0 if self.warm else self.options.warmup
        stretch = Stretch(epochs, schedule, warmup, self.epochs_done, self.horizon)

        share = self.share if self.number > 1 and epochs else 0.0  # a rewrite came before
        with self.journal.stage("train"):
            start = perturbed(self.graph, share, mixed(self.problem.seed, self.epochs_done)) if share else self.graph
            trained = self.trainer.train(start, stretch, self.state, self.journal.epoch)
        record["perturbed"] = share
        self.state = trained.state
        self.epochs_done += epochs
        self.warm = self.warm or epochs > 0
        # Running averages lag behind the weights; an analysis of a stale network would spend channels on repairing that.
        graph = self._reestimated(trained.graph)
        record["epochs"] = epoch_entries(trained.epochs)
        record["trained"] = self._standing(graph)
        return graph

    def _reestimated(self, graph: Graph) -> Graph:
        with self.journal.stage("batchnorm"):
            return reestimate(graph, self.problem)

    def _apply(self, graph: Graph, spaces: ChannelSpaces, wish: Plan) -> Step:
        with self.journal.stage("rewrite"):
            generator = torch.Generator().manual_seed(mixed(self.problem.seed, self.number))
            return apply(graph, spaces, wish, self.budget, generator)

    def _measure(self, graph: Graph, step: Step, scores: Scores, selection: Selection) -> tuple[Change, Change]:
        splits, chosen, after = self.problem.splits, selection.chosen, step.rewritten.graph
        judge_error, report_error = (standard_error(m, chosen) for m in (scores.judge, scores.report))
        return (
            Change(selection.predicted, judge_error, self._loss(graph, splits.judge), self._loss(after, splits.judge)),
            Change(
                selection.predicted_report,
                report_error,
                self._loss(graph, splits.report),
                self._loss(after, splits.report),
            ),
        )

    def _loss(self, graph: Graph, split: MapDataset) -> float:
        with self.journal.stage("measure"):
            return mean_loss(graph, self.problem, split)

    def _standing(self, graph: Graph) -> Record:
        """Size, widths, and loss and accuracy on the held-out data."""
        with self.journal.stage("evaluate"):
            loss, accuracy = evaluate(graph, self.problem, self.problem.test)
        size = cost(graph)
        spaces = self.analyses.get(ChannelSpaces, graph)
        widths = {space.name: space.size for space in spaces.free}
        return {"params": size.params, "flops": size.flops, "loss": loss, "accuracy": accuracy, "widths": widths}

    def _close(self, record: Record) -> None:
        record |= self._standing(self.graph)
        record["budget"] = _sides(self.budget)
        self.journal.close(record, self.graph)


def _sides(budget: Budget) -> Record:
    return {"params": budget.max_params, "flops": budget.max_flops}
