"""The rounds of a run: train, analyse, select, rewrite, carry the optimiser's state, re-estimate BatchNorm, and so on.

All that changes while a run goes on is in its `RunState`, which is kept between its parts and within training. What lies between
two checkpoints is done again where a run was interrupted: it depends on nothing else, and gives the same.
"""

from __future__ import annotations

import math
from dataclasses import replace

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget, cost
from gngraph.analysis.manager import AnalysisManager
from gngraph.errors import TrainingError
from gngraph.growth.comparison import UNIFORM, plain_design, trained_beside
from gngraph.growth.history import (
    Record,
    epoch_entries,
    joined_entries,
    morphism_entries,
    morphisms_text,
    sides_record,
)
from gngraph.growth.jobs import Task
from gngraph.growth.journal import COMPARE, Journal
from gngraph.growth.keeping import Keeper
from gngraph.growth.restructuring import Restructuring
from gngraph.growth.result import GrowthResult
from gngraph.growth.schedule import round_budgets, seed_cost
from gngraph.growth.state import Point, RunState
from gngraph.growth.timing import clock_in, decided_in_time, timing_note
from gngraph.growth.trunk import Trunk
from gngraph.ir import Graph
from gngraph.options.training import RATES
from gngraph.rewrite.surgery import Rewritten
from gngraph.running.batchnorm import reestimate
from gngraph.running.constant import constant_loss
from gngraph.running.finite import standing
from gngraph.running.problem import Problem
from gngraph.running.seeding import mixed
from gngraph.search.chance import MAY_KNOW, no_better_than_chance
from gngraph.search.decision import Decider, Decision
from gngraph.search.depth import DEPTH
from gngraph.search.ending import CONTINUED, ENDING, RETRAINED, ended
from gngraph.search.lookahead import LOOKAHEAD, Lookahead
from gngraph.search.situation import Situation
from gngraph.search.strategy import Strategy
from gngraph.training.divergence import DivergedError
from gngraph.training.optimizer_state import OptimizerState, carry_state
from gngraph.training.patience import kept_told, last_problem
from gngraph.training.perturbation import perturbed
from gngraph.training.progress import UNWATCHED
from gngraph.training.restart import guessed, restarted
from gngraph.training.stretch import Schedule, Stretch
from gngraph.training.training import Trained, Trainer

RECOVERY = 1.0
"""Epochs of training after layers went, at most, for each epoch before that (docs/results.md#recovery). What is grown afterwards
is to be trained too, so that they are no more than half of the final training."""


class Rounds:
    """What is done from one state of a run to the next; all that it knows beside the state follows from the task.

    Args:
        task: how, see `gngraph.growth.jobs`; nothing of it is left to be decided.
        seed: the network that the run began with.
        problem: data, loss, device and seed.
        journal: the account of the run.
        state: where it is; changed in place.
        keeper: keeps it; None: nobody does.
        trunk: shared with runs for other budgets; None: there are none.
    """

    def __init__(
        self,
        task: Task,
        seed: Graph,
        problem: Problem,
        journal: Journal,
        state: RunState,
        keeper: Keeper | None,
        trunk: Trunk | None = None,
    ) -> None:
        self.budget = task.budget
        self.clock = clock_in(task.budget)
        self.options = task.options
        self.seed = seed
        self.problem = problem
        self.journal = journal
        self.now = state
        self.keeper = keeper
        self.strategy = task.strategy
        if isinstance(self.strategy, Lookahead) and state.allocation is not None:
            self.strategy = replace(self.strategy.growth, allocation=state.allocation)
        self.horizon = task.options.whole if task.options.final == "continue" else None
        self.trunk = trunk
        self.analyses = AnalysisManager(problem, scope=task.scope) if trunk is None else trunk.analyses
        self.trainer = Trainer(problem, task.options.train, piece=state.piece)
        if state.at_a_time is not None:
            problem.runner.batch_size = state.at_a_time
        self.decider = Decider(self.analyses, task.budget, journal.stage, state.worths)
        self.restructuring = Restructuring(self.analyses, task.budget, task.options, task.strategy, journal.stage)

    def to_end(self) -> GrowthResult:
        """All that is left to do."""
        for number, target in enumerate(
            round_budgets(seed_cost(self.seed, self.budget), self.budget, self.options.rounds), 1
        ):
            if number >= self.now.number:
                self.round(number, target)
        if self.now.number == self.options.rounds + 1:
            self.finish()
        beside = self._compared() if self.options.compare else []
        journal, now = self.journal, self.now
        told = (journal.history, journal.channels, now.lineage.sources(), beside, now.doubted)
        return GrowthResult(self.seed, now.graph, *told)

    def _compared(self) -> list[Record]:
        """What was trained to compare with, which changes nothing of the run."""
        self.keep()
        with self.journal.stage(COMPARE):
            plain = plain_design(self.seed, self.now.graph, self.budget)
            return [trained_beside(UNIFORM, plain, self.problem, self.options)]

    def keep(self) -> None:
        """Keep where the run is."""
        if self.keeper is not None:
            self.keeper.keep(self.now, self.journal)

    def round(self, number: int, target: Budget) -> None:
        """One round, or what is left of it.

        Args:
            number: from 1.
            target: what the network may cost after it.
        """
        now = self.now
        if now.point == "begin":
            self._begin("round")
        if now.point == "train":
            self._before_rewrite(number)
            self._reached("depth")
        if now.point == "depth":
            restructuring = number == 1 and self.restructuring.wanted
            if restructuring:
                self._restructure()
            self._reached("recover", new=restructuring)
        if now.point == "recover":
            if now.restructured and self.options.searches:
                self._recover()
            self._reached("decide", new=bool(now.restructured))
        graph = now.graph
        with self.journal.stage("evaluate"):
            doubt = no_better_than_chance(graph, self.problem)
        situation = self.decider.situation(self.strategy, graph, target, number)
        strategy = self._settled(situation)
        made, timed = self._decided(strategy, situation, number)
        self.journal.decided(graph, situation.scores, made.selection)
        rewritten, judged, reported = made.step.rewritten, made.judge, made.report
        now.optimizer = carry_state(now.optimizer, graph, rewritten)
        now.graph = self._reestimated(rewritten.graph)
        now.lineage.follow(rewritten.edits, ChannelSpaces.of(now.graph))
        morphisms = joined_entries(now.restructured, morphism_entries(made.step.morphisms))
        now.rewritten = morphisms_text(morphisms)
        now.record |= {
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
                "reestimated": self.decider.loss(now.graph, self.problem.splits.report),
            },
            "target": sides_record(target),
            "notes": [
                *([MAY_KNOW] if now.doubted and number == 1 else []),
                *([doubt] if doubt else []),
                *situation.scores.notes,
                *self._guesses(),
                *(timing_note(timed) if timed else []),
            ],
        }
        if timed is not None:
            now.record["latency"] = timed
        self._close()

    def _decided(self, strategy: Strategy, situation: Situation, number: int) -> tuple[Decision, Record | None]:
        """The decision, and what was predicted and measured of its milliseconds, where they are bounded."""
        if self.clock is None:
            return self.decider.decide(strategy, situation, number), None
        return decided_in_time(lambda seen: self.decider.decide(strategy, seen, number), situation, self.clock)

    def _before_rewrite(self, number: int) -> None:
        """The training of a round; that of the first is done once for several budgets."""
        trunk = self.trunk if number == 1 else None
        if trunk is None or not trunk.enter(self.now):
            self._train(self.options.epochs, "cosine" if self.horizon else "constant")
            if trunk is not None:
                trunk.leave(self.now)

    def _begin(self, kind: str) -> None:
        self.journal.begin(self.now.number)
        self.now.record = {"kind": kind, "round": self.now.number, "rounds": self.options.rounds}
        self.now.point = "train"

    def _reached(self, point: Point, new: bool = True) -> None:
        """Another part of the run is done, and `new` says whether there is anything in it that is worth keeping."""
        self.now.point, self.now.at_a_time = point, self.problem.runner.batch_size
        if new and self.keeper is not None and self.keeper.due(True):
            self.keep()

    def _guesses(self) -> list[str]:
        """What to tell in the first round of new initial weights, where the run draws some."""
        drawn = self.now.share or self.options.searches or self.options.final in ("retrain", "auto")
        return guessed(self.now.graph) if drawn and self.now.number == 1 else []

    def _restructure(self) -> None:
        """Layers go, and become others."""
        now = self.now
        steps = self.restructuring.of(now.graph, now.record)
        now.notes += self.restructuring.notes
        for step in steps:
            now.optimizer = carry_state(now.optimizer, now.graph, Rewritten(step.graph, {}, step.gathers))
            now.graph = step.graph
        if steps:
            now.lineage.follow({}, ChannelSpaces.of(now.graph))
            now.graph = self._reestimated(now.graph)
        now.restructured = morphism_entries(morphism for step in steps for morphism in step.morphisms)

    def _recover(self) -> None:
        """The network is trained until it does with what changed, by epochs that the final training is shorter by.

        What layers are worth, and what splits gain, cannot be read off a network that they were just taken from. It is trained for
        an epoch, and on while it does worse than the best constant output, for at most `RECOVERY` times the epochs before.
        """
        now, judge = self.now, self.problem.splits.judge
        most = min(round(RECOVERY * self.options.epochs), (self.options.final_epochs + 1) // 2)
        if "recovery" not in now.record[DEPTH]:
            with self.journal.stage("evaluate"):
                constant = constant_loss(now.graph, self.problem)
            first = self.decider.loss(now.graph, judge)
            now.record[DEPTH]["recovery"] = {"epochs": 0, "constant": _finite(constant), "losses": [_finite(first)]}
        recovery = now.record[DEPTH]["recovery"]
        losses = recovery["losses"]
        while len(losses) <= most and (len(losses) == 1 or _least(losses[-1]) >= _least(recovery["constant"])):
            now.graph = self._trained(now.graph, 1, "cosine" if self.horizon else "constant")
            losses.append(_finite(self.decider.loss(now.graph, judge)))
            recovery["epochs"] = now.borrowed = len(losses) - 1

    def _settled(self, situation: Situation) -> Strategy:
        """The strategy; a lookahead finds it in the first round, and it stays."""
        if isinstance(self.strategy, Lookahead):
            now = self.now
            with self.journal.stage(LOOKAHEAD):
                found = self.strategy.choose(situation, now.optimizer, self.options.train, now.epochs_done)
            now.record[LOOKAHEAD] = found.record()
            self.strategy, now.allocation = found.strategy, found.strategy.allocation
        return self.strategy

    def _anew(self) -> Graph | None:
        """The network with new initial weights, if the final training is from these."""
        now, epochs, final = self.now, self.options.final_epochs - self.now.borrowed, self.options.final
        if final not in ("retrain", "auto") or (final == "auto" and not epochs):
            return None
        anew = restarted(now.graph, mixed(self.problem.seed, now.epochs_done))
        if final == "retrain":
            return anew
        with self.journal.stage(ENDING):
            found = ended({CONTINUED: self._mixed(), RETRAINED: anew}, self.problem, self.options.train, epochs)
        now.record[ENDING] = found.record()
        return anew if found.chosen == RETRAINED else None

    def _restart(self, anew: Graph) -> None:
        """The network with new initial weights, and an optimiser that remembers nothing."""
        now = self.now
        now.graph, now.optimizer = anew, OptimizerState({})
        now.rises_from, now.share = now.epochs_done, 0.0

    def finish(self) -> None:
        """The final training: nothing is judged after it, so that it may see what was withheld, unless it may end early by that."""
        if self.now.point == "begin":
            self._begin("final")
            if (anew := self._anew()) is not None:
                self._restart(anew)
        if self.options.final_epochs:
            last = last_problem(self.problem, self.options.train)
            self.trainer = Trainer(last, self.options.train, piece=self.now.piece)
        self._train(self.options.final_epochs - self.now.borrowed, "cosine")
        self._close()

    def _train(self, epochs: int, schedule: Schedule) -> None:
        now = self.now
        share = now.share if now.number > 1 and epochs else 0.0  # a rewrite came before
        start = self._mixed() if share else now.graph
        now.record |= {"perturbed": share, "withheld": self.trainer.problem.withheld}
        now.graph = self._trained(start, epochs, schedule)
        now.record["trained"] = self._standing(now.graph)

    def _mixed(self) -> Graph:
        """The network with the share of new initial weights that comes after a rewrite."""
        now = self.now
        return perturbed(now.graph, now.share, mixed(self.problem.seed, now.epochs_done))

    def _trained(self, graph: Graph, epochs: int, schedule: Schedule) -> Graph:
        """A network after a stretch of training, whose epochs are added to the record.

        Where it diverges after a rewrite the network is trained from there once more, at half the rate, and the run stays at that.

        Raises:
            DivergedError: it diverges with nothing rewritten before, or again.
        """
        now = self.now
        try:
            trained = self._stretch(graph, epochs, schedule)
        except DivergedError as error:
            since = f"since the last rewrite ({now.rewritten})"
            if now.slowed:
                raise DivergedError(f"{error}; that was {since}, at half the rate once more") from error
            if not now.rewritten:
                raise
            now.notes.append(
                f"{error}; that was {since}: from there it is trained once more, and the run goes on, at half the rate"
            )
            now.rate_share, now.slowed, now.progress = now.rate_share / 2, True, None
            return self._trained(graph, epochs, schedule)
        now.optimizer, now.progress, now.slowed = trained.state, None, False
        now.piece = self.trainer.piece
        now.epochs_done += len(trained.epochs)
        if (kept := kept_told(trained.epochs, epochs)) is not None:
            now.notes.append(kept)
        now.record["epochs"] = [*now.record.get("epochs", ()), *epoch_entries(trained.epochs)]
        return trained.graph

    def _stretch(self, graph: Graph, epochs: int, schedule: Schedule) -> Trained:
        """Training, or what is left of it."""
        now, own = self.now, self.options.train
        stretch = Stretch(epochs, schedule, own.warmup, now.epochs_done, self.horizon, now.rises_from, now.rate_share)
        if now.number > self.options.rounds:
            stretch = replace(stretch, patience=own.patience)
        watch = UNWATCHED
        if self.keeper is not None and own.optimizer in RATES and own.scheduler is None:
            # one of the user's own may remember more than tensors
            watch = self.keeper.watch(now, self.journal)
        with self.journal.stage("train"):
            return self.trainer.train(graph, stretch, now.optimizer, self.journal.epoch, watch=watch, done=now.progress)

    def _reestimated(self, graph: Graph) -> Graph:
        with self.journal.stage("batchnorm"):
            return reestimate(graph, self.problem)

    def _standing(self, graph: Graph) -> Record:
        """Size, widths, and loss and accuracy on test or held-out samples."""
        with self.journal.stage("evaluate"):
            found = standing(graph, self.problem)
        if not math.isfinite(found.loss):
            raise TrainingError(f"nothing can be told of network '{graph.name}' after the training: {found.note}")
        if found.note is not None and found.note not in self.now.notes:
            self.now.notes.append(found.note)
        size = cost(graph)
        spaces = ChannelSpaces.of(graph)  # what is held has a width as well
        widths = {space.name: space.size for space in spaces.free}
        measured = {**found.record(), "tested": self.problem.tested}
        milliseconds = None if self.clock is None else self.clock.measured(graph).milliseconds
        return {"params": size.params, "flops": size.flops, "milliseconds": milliseconds, **measured, "widths": widths}

    def _close(self) -> None:
        now = self.now
        now.record |= self._standing(now.graph)
        now.record["budget"] = sides_record(self.budget)
        if now.notes:
            now.record["notes"] = [*now.notes, *now.record.get("notes", ())]
            now.notes = []
        self.journal.close(now.record, now.graph)
        now.number, now.record, now.restructured = now.number + 1, {}, {}
        self._reached("begin")


def _finite(loss: float) -> float | None:
    return loss if math.isfinite(loss) else None


def _least(loss: float | None) -> float:
    return math.inf if loss is None else loss
