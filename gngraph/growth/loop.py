"""A run from its beginning, or from where it was interrupted, to its end."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import cost
from gngraph.analysis.manager import AnalysisManager
from gngraph.growth.checkpoints import Checkpoint, Checkpoints
from gngraph.growth.history import Lineage, Record
from gngraph.growth.identity import THREADS
from gngraph.growth.jobs import Task
from gngraph.growth.journal import Journal
from gngraph.growth.keeping import Keeper, begun_again, begun_as, unpacked
from gngraph.growth.loggers import logged, require_loggers
from gngraph.growth.observer import observers_of
from gngraph.growth.randomness import RandomStates, drawing_from
from gngraph.growth.result import GrowthResult
from gngraph.growth.rounds import Rounds
from gngraph.growth.run_folder import RunFolder
from gngraph.growth.schedule import require_memory, round_budgets, seed_cost
from gngraph.growth.state import RunState
from gngraph.growth.trunk import Trunk
from gngraph.importing.surroundings import with_gradients
from gngraph.ir import Graph
from gngraph.options import RunOptions
from gngraph.ranks import here
from gngraph.running.finite import require_finite
from gngraph.running.problem import Problem, inputs_of
from gngraph.running.threads import with_threads
from gngraph.search.chance import is_trained, known, may_know, untold
from gngraph.training.objective import objective_told, require_objective
from gngraph.training.optimizer_state import OptimizerState
from gngraph.training.optimizers import require_optimizer
from gngraph.training.patience import require_judge
from gngraph.training.training import require_trainable
from gngraph.training.units import units_of


@with_gradients()
def grow_by(
    task: Task,
    graph: Graph,
    problem: Problem,
    *,
    out: Path | None = None,
    observer: object = None,
    source: Record | None = None,
    given: Record | None = None,
    trunk: Trunk | None = None,
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
        out: folder for `seed.gng`, and `history.jsonl` and `model.gng` after every round, and checkpoints, from which
            `go_on` goes on; None: nothing is written.
        observer: told what goes on: an object with any of the methods of `gngraph.growth.observer.Observer`, or several such.
        source: what to keep with the checkpoints of where the data comes from, as JSON.
        given: what `config.toml` has beside the options of the job, by table.
        trunk: shared with runs of the same network and options for other budgets.

    Raises:
        OptionError: the observer is none, or a logger is not installed.
        BudgetError: the budget is missing or cannot be reached.
        TrainingError: nothing can be trained, or training diverged, after a rewrite at half the rate too; what `out` holds is
            that of the last finished round.
        PassError: no channel space is free.
        GnGraphError: the loss does not fit what the network returns, or `out` holds another run.
    """
    here().agreed(RandomStates.now()).set()  # what data of a user's own draws is the same in all processes
    _require_work(task, graph, problem, observer)
    require_loggers(task.options.log, out)
    options, decided = _settled(task.options, graph, problem)
    doubted = may_know(graph, problem) if decided is None else untold(problem) and decided["trained"]
    lineage = Lineage.begun(ChannelSpaces.of(graph))
    told = (units_of(graph, problem, options.train).text, objective_told(options.train, problem))
    notes = [text for text in told if text is not None and options.whole]
    state = RunState(graph, OptimizerState({}), lineage, options.share, doubted, notes=notes)
    folder, keeper, ranks = None, None, here()
    own = {} if task.given is None else {task.given.title: task.given.as_dict()}
    if out is not None:
        inputs, config = inputs_of(problem, not doubted), {**(given or {}), **own}
        begun = None if task.given is None else begun_as(task.given, graph, problem, source)
        folder = ranks.only_first(lambda: RunFolder.start(out, graph, inputs, config, begun))
        if begun is not None:
            keeper = Keeper(Checkpoints(out, options.checkpoint_every) if ranks.first else None, begun)
    with logged(options.log if ranks.first else (), out, own) as loggers:
        journal = Journal(graph, lineage, [observers_of(observer), *loggers], folder)
        run = Rounds(replace(task, options=options), graph, problem, journal, state, keeper, trunk)
        if decided is not None:
            journal.given(decided)
        run.keep()
        return run.to_end()


@with_gradients()
def go_on(kept: Checkpoint, problem: Problem, out: Path, observer: object = None) -> GrowthResult:
    """Go on with a run that was interrupted; it ends as it would have ended, but for its seconds.

    Args:
        kept: the newest checkpoint of the run.
        problem: as it was when the run began.
        out: folder of the run.
        observer: told what goes on: an object with any of the methods of `gngraph.growth.observer.Observer`, or several such.

    Raises:
        GnGraphError: something that the run depends on is another; and as for `grow_by`.
    """
    begun = kept.record["begun"]
    task, seed = begun_again(begun, problem, out)
    found = unpacked(kept)
    given = found.journal["given"]
    options = task.options if given is None else task.options.settled(given["trained"])
    _require_work(task, seed, problem, observer)
    require_loggers(task.options.log, out)
    inputs, ranks = inputs_of(problem, not found.state.doubted), here()
    folder = ranks.only_first(lambda: RunFolder.again(out, inputs, found.journal["history"]))
    keeper = Keeper(Checkpoints(out, options.checkpoint_every, kept.number) if ranks.first else None, begun)
    logging = logged(options.log if ranks.first else (), out, begun["options"], found.records)
    with with_threads(begun["identity"][THREADS]), drawing_from(found.random), logging as loggers:
        journal = Journal(seed, found.state.lineage, [observers_of(observer), *loggers], folder, found.journal)
        return Rounds(replace(task, options=options), seed, problem, journal, found.state, keeper).to_end()


def _require_work(task: Task, graph: Graph, problem: Problem, observer: object) -> None:
    """Refuse what would end the run later, when much is trained and a folder written.

    Raises:
        OptionError: the observer is none.
        BudgetError: the budget is missing or cannot be reached.
        TrainingError: nothing can be trained.
        DataError: a sample that changes are to be judged by gives no finite loss.
        PassError: no channel space is free, or the kinds of candidates have no place.
    """
    round_budgets(seed_cost(graph, task.budget), task.budget, task.options.rounds)
    require_memory(cost(graph), task.budget, torch.device(problem.device))
    observers_of(observer)
    if task.options.whole:
        require_trainable(graph)
        require_optimizer(task.options.train)
        require_objective(task.options.train, graph, problem)
        require_judge(problem, task.options.train)
    if problem.divisible:
        for split in (problem.splits.judge, problem.splits.report):
            require_finite(graph, problem, split)
    if task.strategy.analysis is not None:
        task.strategy.analysis.check(graph, AnalysisManager(problem, scope=task.scope))


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
