"""The growth loop: train, analyse, select, rewrite, carry the optimiser's state, re-estimate BatchNorm, and so on."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget, cost
from gngraph.analysis.manager import AnalysisManager
from gngraph.errors import OptionError, TrainingError
from gngraph.growth.history import Lineage, Record, epoch_entries, morphism_entries, morphisms_text
from gngraph.growth.jobs import Task
from gngraph.growth.journal import Journal
from gngraph.growth.observer import Observer
from gngraph.growth.result import GrowthResult
from gngraph.growth.schedule import require_memory, round_budgets
from gngraph.ir import Graph
from gngraph.options import RunOptions
from gngraph.rewrite.layer_removal import removable_layer
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import RemoveLayer
from gngraph.running.batchnorm import reestimate
from gngraph.running.constant import constant_loss
from gngraph.running.finite import require_finite, standing
from gngraph.running.problem import Problem, inputs_of
from gngraph.running.seeding import mixed
from gngraph.scoring.layer_rebuilding import rebuilt_removal
from gngraph.search.chance import MAY_KNOW, is_trained, known, may_know, no_better_than_chance, untold
from gngraph.search.decision import Decider
from gngraph.search.depth import DEPTH, searched
from gngraph.search.lookahead import LOOKAHEAD, Lookahead
from gngraph.search.situation import Situation
from gngraph.search.strategy import Strategy
from gngraph.training.divergence import DivergedError
from gngraph.training.optimizer_state import OptimizerState, carry_state
from gngraph.training.perturbation import perturbed
from gngraph.training.restart import guessed, restarted
from gngraph.training.stretch import Schedule, Stretch
from gngraph.training.training import Trained, Trainer, require_trainable
from gngraph.training.units import units_of

RECOVERY = 1.0
"""Epochs of training after layers went, at most, for each epoch before that (docs/results.md#recovery)."""


def grow_by(
    task: Task, graph: Graph, problem: Problem, *, out: Path | None = None, observer: Observer | None = None
) -> GrowthResult:
    """Grow `graph` in rounds to a budget, or shrink it where it is above, and train the result.

    Each round trains, scores candidates by the Gauss-Newton model, applies the set that the strategy wants within the round's
    share of the budget, and fills the rest of that share as it says. Where the measured loss on the judge split rises beyond
    what was predicted, the set is refused, and exact new channels are added instead. Before the first rewrite it may be found
    out which layers the network does better without. The same seed and task give the same run, on one device.

    Cost: the epochs of training, of which the early ones are of small networks; the search for the depth (3 to 5 short
    trainings); an analysis a round (see `GaussNewton`); forward passes over the judge, report and held-out data.

    Args:
        task: how, see `gngraph.growth.jobs`.
        graph: the seed network.
        problem: data, loss, device and seed.
        out: folder for `seed.gng`, and `history.jsonl` and `model.gng` after every round; None: nothing is written.
        observer: told what goes on.

    Raises:
        OptionError: the observer is none.
        BudgetError: the budget is missing or cannot be reached.
        TrainingError: nothing can be trained, or training diverged, after a rewrite at half the rate too; what `out` holds is
            that of the last finished round.
        PassError: no channel space is free.
        GnGraphError: the loss does not fit what the network returns, or `out` holds another run.
    """
    targets = round_budgets(cost(graph), task.budget, task.options.rounds)
    require_memory(cost(graph), task.budget, torch.device(problem.device))
    _require_work(task, graph, problem, observer)
    options, given = _settled(task.options, graph, problem)
    doubted = may_know(graph, problem) if given is None else untold(problem) and given["trained"]
    run = _Run(replace(task, options=options), graph, problem, observer, out, doubted)
    if given is not None:
        run.journal.given(given)
    for number, target in enumerate(targets, 1):
        run.round(number, target)
    if options.final == "retrain":
        run.restart()
    run.finish()
    journal = run.journal
    return GrowthResult(graph, run.graph, journal.history, journal.channels, journal.lineage.sources(), doubted)


def _require_work(task: Task, graph: Graph, problem: Problem, observer: Observer | None) -> None:
    """Refuse what would end the run later, when much is trained and a folder written.

    Raises:
        OptionError: the observer is none.
        TrainingError: nothing can be trained.
        DataError: a sample that changes are to be judged by gives no finite loss.
        PassError: no channel space is free, or the kinds of candidates have no place.
    """
    if observer is not None and not isinstance(observer, Observer):
        raise OptionError(
            f"a '{type(observer).__name__}' is no observer; derive it from gngraph.growth.observer.Unobserved"
        )
    if task.options.whole:
        require_trainable(graph)
    if problem.divisible:
        for split in (problem.splits.judge, problem.splits.report):
            require_finite(graph, problem, split)
    if task.strategy.analysis is not None:
        task.strategy.analysis.check(graph, AnalysisManager(problem))


def _settled(options: RunOptions, graph: Graph, problem: Problem) -> tuple[RunOptions, Record | None]:
    """The options with nothing left to decide, and what that was decided by; None where nothing was left."""
    if not options.automatic:
        return options, None
    found = known(graph, problem)
    trained = is_trained(graph, problem, found)
    settled = options.settled(trained)
    losses = {"loss": found.own, "exchanged": found.exchanged}
    finite = {name: loss if math.isfinite(loss) else None for name, loss in losses.items()}
    return settled, {"trained": trained, **finite, "perturb": settled.perturb, "depth": settled.depth}


class _Run:
    def __init__(
        self, task: Task, graph: Graph, problem: Problem, observer: Observer | None, out: Path | None, doubted: bool
    ) -> None:
        self.strategy = task.strategy
        self.budget = task.budget
        self.options = task.options
        self.horizon = task.options.whole if task.options.final == "continue" else None
        self.graph = graph
        self.problem = problem
        self.share = task.options.share
        self.rises_from = 0
        self.analyses = AnalysisManager(problem)
        self.trainer = Trainer(problem, task.options.train)
        self.state = OptimizerState({})
        self.doubted = doubted
        lineage, inputs = Lineage(self.analyses.get(ChannelSpaces, graph)), inputs_of(problem, not doubted)
        self.journal = Journal(graph, lineage, observer, out, inputs)
        self.decider = Decider(self.analyses, task.budget, self.journal.stage)
        self.epochs_done = 0
        self.borrowed = 0  # of the epochs of the final training
        self.number = 0
        self.rate_share = 1.0  # of the full rate: halved where training diverged after a rewrite
        self.rewritten = ""  # by what, the last time
        text = units_of(graph, problem).text if task.options.whole else None
        self.notes = [text] if text else []  # that the record of the round will have

    def round(self, number: int, target: Budget) -> None:
        """One round; `self.graph` changes only when it is complete."""
        self.number = number
        self.journal.begin(number)
        record: Record = {"kind": "round", "round": number, "rounds": self.options.rounds}
        graph = self._train(self.options.epochs, "cosine" if self.horizon else "constant", record)
        removals: list[RemoveLayer] = []
        if number == 1 and self.options.depth == "search":
            graph, removals = self._shallower(graph, record)
        if removals:
            graph = self._recovered(graph, record)
        with self.journal.stage("evaluate"):
            doubt = no_better_than_chance(graph, self.problem)
        situation = self.decider.situation(self.strategy, graph, target, number)
        strategy = self._settled(situation, record)
        made = self.decider.decide(strategy, situation, number)
        self.journal.decided(graph, situation.scores, made.selection)
        rewritten, judged, reported = made.step.rewritten, made.judge, made.report
        self.state = carry_state(self.state, graph, rewritten)
        self.graph = self._reestimated(rewritten.graph)
        self.journal.lineage.follow(rewritten.edits, self.analyses.get(ChannelSpaces, self.graph))
        morphisms = morphism_entries((*removals, *made.step.morphisms))
        self.rewritten = morphisms_text(morphisms)
        record |= {
            "allocation": strategy.allocation,
            "morphisms": morphisms,
            "predicted": reported.predicted,
            "predicted_error": reported.error,
            "actual": reported.actual,
            "beyond_interval": reported.beyond,
            "judge": {"predicted": judged.predicted, "predicted_error": judged.error, "actual": judged.actual},
            "refused": made.refused,
            "refused_morphisms": morphism_entries(made.learned) if made.refused else {},
            "report_loss": {
                "before": reported.before,
                "after": made.after,
                "reestimated": self.decider.loss(self.graph, self.problem.splits.report),
            },
            "target": _sides(target),
            "notes": [
                *([MAY_KNOW] if self.doubted and number == 1 else []),
                *([doubt] if doubt else []),
                *situation.scores.notes,
                *self._guesses(),
            ],
        }
        self._close(record)

    def _guesses(self) -> list[str]:
        """What to tell in the first round of new initial weights, where the run draws some."""
        drawn = self.share or self.options.depth == "search" or self.options.final == "retrain"
        return guessed(self.graph) if drawn and self.number == 1 else []

    def _shallower(self, graph: Graph, record: Record) -> tuple[Graph, list[RemoveLayer]]:
        """The network without the layers that it does better without."""
        removals: list[RemoveLayer] = []
        with self.journal.stage(DEPTH):
            found = searched(graph, self.analyses, self.budget, self.options.train, self.options.whole)
            record[DEPTH] = found.record(graph)
            for layer in found.removed:
                spaces = self.analyses.get(ChannelSpaces, graph)
                removals.append(rebuilt_removal(graph, self.analyses, removable_layer(graph, spaces, layer.value)))
                rewritten = morph(graph, spaces, removals[-1:])
                self.state = carry_state(self.state, graph, rewritten)
                graph = rewritten.graph
        if removals:
            self.journal.lineage.follow({}, self.analyses.get(ChannelSpaces, graph))
            graph = self._reestimated(graph)
        return graph, removals

    def _recovered(self, graph: Graph, record: Record) -> Graph:
        """The network trained until it does without the layers that went, by epochs that the final training is shorter by.

        What layers are worth, and what splits gain, cannot be read off a network that they were just taken from. It is trained for
        an epoch, and on while it does worse than the best constant output, for at most `RECOVERY` times the epochs before.
        """
        most = min(round(RECOVERY * self.options.epochs), self.options.final_epochs)
        with self.journal.stage("evaluate"):
            constant = constant_loss(graph, self.problem)
        losses = [self.decider.loss(graph, self.problem.splits.judge)]
        while len(losses) <= most and (len(losses) == 1 or losses[-1] >= constant):
            graph = self._trained(graph, 1, "cosine" if self.horizon else "constant", record)
            losses.append(self.decider.loss(graph, self.problem.splits.judge))
        self.borrowed = len(losses) - 1
        finite = [loss if math.isfinite(loss) else None for loss in (constant, *losses)]
        record[DEPTH]["recovery"] = {"epochs": self.borrowed, "constant": finite[0], "losses": finite[1:]}
        return graph

    def _settled(self, situation: Situation, record: Record) -> Strategy:
        """The strategy; a lookahead finds it in the first round, and it stays."""
        if isinstance(self.strategy, Lookahead):
            with self.journal.stage(LOOKAHEAD):
                found = self.strategy.choose(situation, self.state, self.options.train, self.epochs_done)
            record[LOOKAHEAD] = found.record()
            self.strategy = found.strategy
        return self.strategy

    def restart(self) -> None:
        """New initial weights, and an optimiser that remembers nothing."""
        self.graph = restarted(self.graph, mixed(self.problem.seed, self.epochs_done))
        self.state = OptimizerState({})
        self.rises_from, self.share = self.epochs_done, 0.0

    def finish(self) -> None:
        """The final training: nothing is judged after it, so that it may see what was withheld."""
        number, rounds = self.options.rounds + 1, self.options.rounds
        self.number = number
        self.journal.begin(number)
        record: Record = {"kind": "final", "round": number, "rounds": rounds}
        if self.options.final_epochs:
            self.trainer = Trainer(self.problem.undivided, self.options.train, piece=self.trainer.piece)
        self.graph = self._train(self.options.final_epochs - self.borrowed, "cosine", record)
        self._close(record)

    def _train(self, epochs: int, schedule: Schedule, record: Record) -> Graph:
        share = self.share if self.number > 1 and epochs else 0.0  # a rewrite came before
        start = perturbed(self.graph, share, mixed(self.problem.seed, self.epochs_done)) if share else self.graph
        record |= {"perturbed": share, "withheld": self.trainer.problem.withheld}
        graph = self._trained(start, epochs, schedule, record)
        record["trained"] = self._standing(graph)
        return graph

    def _trained(self, graph: Graph, epochs: int, schedule: Schedule, record: Record) -> Graph:
        """A network after a stretch of training, whose epochs are added to the record."""
        try:
            trained = self._stretch(graph, epochs, schedule)
        except DivergedError as error:
            if not self.rewritten:
                raise
            trained = self._slower(graph, epochs, schedule, error)
        self.state = trained.state
        self.epochs_done += epochs
        record["epochs"] = [*record.get("epochs", ()), *epoch_entries(trained.epochs)]
        return trained.graph

    def _stretch(self, graph: Graph, epochs: int, schedule: Schedule) -> Trained:
        warmup = self.options.train.warmup
        stretch = Stretch(epochs, schedule, warmup, self.epochs_done, self.horizon, self.rises_from, self.rate_share)
        with self.journal.stage("train"):
            return self.trainer.train(graph, stretch, self.state, self.journal.epoch)

    def _slower(self, graph: Graph, epochs: int, schedule: Schedule, error: DivergedError) -> Trained:
        """Training from where the last rewrite left the network, once more, at half the rate; the run stays at that.

        Raises:
            DivergedError: it diverges again.
        """
        self.rate_share /= 2
        since = f"since the last rewrite ({self.rewritten})"
        note = f"{error}; that was {since}: from there it is trained once more, and the run goes on, at half the rate"
        self.notes.append(note)
        try:
            return self._stretch(graph, epochs, schedule)
        except DivergedError as again:
            raise DivergedError(f"{again}; that was {since}, at half the rate once more") from error

    def _reestimated(self, graph: Graph) -> Graph:
        with self.journal.stage("batchnorm"):
            return reestimate(graph, self.problem)

    def _standing(self, graph: Graph) -> Record:
        """Size, widths, and loss and accuracy on test or held-out samples."""
        with self.journal.stage("evaluate"):
            found = standing(graph, self.problem)
        if not math.isfinite(found.loss):
            raise TrainingError(f"nothing can be told of network '{graph.name}' after the training: {found.note}")
        if found.note is not None and found.note not in self.notes:
            self.notes.append(found.note)
        size = cost(graph)
        spaces = self.analyses.get(ChannelSpaces, graph)
        widths = {space.name: space.size for space in spaces.free}
        measured = {"loss": found.loss, "accuracy": found.accuracy, "tested": self.problem.tested}
        return {"params": size.params, "flops": size.flops, **measured, "widths": widths}

    def _close(self, record: Record) -> None:
        record |= self._standing(self.graph)
        record["budget"] = _sides(self.budget)
        if self.notes:
            record["notes"] = [*self.notes, *record.get("notes", ())]
            self.notes = []
        self.journal.close(record, self.graph)


def _sides(budget: Budget) -> Record:
    return {"params": budget.max_params, "flops": budget.max_flops}
