"""Commands that change the architecture: grow, those for a trained network, extend, reshape, shrink, resume and replay."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click

from gngraph.cli.opening import describe_setting, open_both, problem_from, source_of
from gngraph.cli.options import (
    RESUMED,
    DataOptions,
    ModelOptions,
    data_options,
    model_argument,
    model_options,
    run_options,
)
from gngraph.cli.parameters import Command, GroupedCommand, gathered
from gngraph.cli.processes import together
from gngraph.cli.speaking import answer, say
from gngraph.environment import Environment
from gngraph.errors import GnGraphError
from gngraph.options import ExtendOptions, FrontOptions, Options, ReshapeOptions, ShrinkOptions

if TYPE_CHECKING:
    from gngraph.cli.progress import RunProgress
    from gngraph.growth.checkpoints import Checkpoint
    from gngraph.growth.result import GrowthResult
    from gngraph.running.problem import Problem


def _job_options(record: type[Options]) -> Callable[[Command], Command]:
    """What a job takes on the command line: MODEL, data, its own options, and where it writes."""

    def decorate(command: Command) -> Command:
        for option in (run_options, gathered(record, "options"), data_options, model_options, model_argument):
            command = option(command)
        return command

    return decorate


@click.command(cls=GroupedCommand, short_help="Grow a network up to a budget.")
@_job_options(FrontOptions)
def grow(options: FrontOptions, **words: Any) -> None:
    """Grow MODEL on data in rounds of training, analysis and rewriting; the budget is never exceeded.

    The folder then holds report.html, config.toml, seed.gng, model.gng, model.py with weights.safetensors, model.onnx,
    history.jsonl, channels.jsonl, the network after each round in rounds/, and pictures. For several budgets, such as
    --max-params 50k,100k, it has such a folder for each, and a report that compares them.
    """
    each = options.each()
    if len(each) == 1:
        _work("grow", options=each[0], **words)
    else:
        _work_front(options=options, **words)


@click.command(cls=GroupedCommand, short_help="Make a trained network larger.")
@_job_options(ExtendOptions)
def extend(**words: Any) -> None:
    """Make MODEL, a trained network, larger without losing what it does, and train it on.

    Where the new channels go, the worth of each layer's width decides; what was learned is undone if the loss on samples that were
    held back rises beyond what was predicted. The folder then holds what `gngraph grow` writes.
    """
    _work("extend", **words)


@click.command(cls=GroupedCommand, short_help="Move channels where they are worth more.")
@_job_options(ReshapeOptions)
def reshape(**words: Any) -> None:
    """Move channels of MODEL, a trained network, from where they are worth little to where they are worth much, and train it on.

    It has no more parameters and FLOPs than before. The folder then holds what `gngraph grow` writes.
    """
    _work("reshape", **words)


@click.command(cls=GroupedCommand, short_help="Make a trained network smaller.")
@_job_options(ShrinkOptions)
def shrink(**words: Any) -> None:
    """Make MODEL, a trained network, smaller and train it on.

    What the loss misses least is removed, and rebuilt from the channels that stay. The folder then holds what `gngraph grow`
    writes.
    """
    _work("shrink", **words)


@click.command(cls=GroupedCommand, short_help="Go on with a run that was interrupted.")
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
def resume(run: Path) -> None:
    """Go on with RUN, the folder of a run that was interrupted, from its newest checkpoint.

    It ends with the weights and the history that it would have had, to the bit, with its own options and number of threads. Where
    gngraph, torch, the machine or the data are others than when it began, it is refused.
    """
    from gngraph.growth.run_folder import checkpoint_of
    from gngraph.growth.run_lock import claimed
    from gngraph.ranks import here

    with together(), _resumable(run), claimed(run):
        kept = here().by_first(lambda: checkpoint_of(run))
        _go_on(kept, _problem_of(kept.record["begun"], run), run)


@click.command(cls=GroupedCommand, short_help="Hold a run against what it gives once more.")
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
def replay(run: Path) -> None:
    """Do RUN, the folder of a run that has ended, once more from its seed network.

    Every round and the network must come out as they stand there, to the bit; the first that does not is named. The folder stays as
    it is. Where gngraph, torch, the machine or the data are others than when the run began, it is refused.
    """
    from gngraph.cli.progress import RunProgress
    from gngraph.growth.jobs import JOBS
    from gngraph.growth.replaying import begun_in, replayed
    from gngraph.ranks import here

    with together():
        begun = here().by_first(lambda: begun_in(run))
        job = JOBS[begun["job"]]
        with RunProgress(job.run(job.options.of(begun["options"]))) as progress:
            result = replayed(run, begun, _problem_of(begun, run), progress)
        rounds = len(result.history)
        text = f"{run}: {rounds} rounds and the network came out as they stand there, to the bit"
        answer({"run": str(run), "rounds": rounds, "same": True}, text)


def _problem_of(begun: dict[str, Any], run: Path) -> Problem:
    """The problem of a run, by what is kept of how it began."""
    from gngraph.analysis.fit import problem_for
    from gngraph.api import NAMED

    source = begun["source"]
    if source is None:
        raise click.ClickException(f"the data of the run in '{run}' was given in Python: do this there, with the data")
    return problem_for(source[NAMED]) if NAMED in source else problem_from(source)


def _go_on(kept: Checkpoint, problem: Problem, run: Path) -> None:
    """Take a run from a checkpoint to its end, and tell of it."""
    from gngraph.cli.progress import RunProgress
    from gngraph.growth.jobs import JOBS
    from gngraph.growth.loop import go_on

    begun, state = kept.record["begun"], kept.record["state"]
    job = JOBS[begun["job"]]
    done = state["epochs_done"] + len((state["progress"] or {"epochs": ()})["epochs"])

    def rest(progress: RunProgress) -> GrowthResult:
        progress.resuming(state["number"], done)
        if (environment := Environment.read().text) is not None:
            progress.say(environment)
        return go_on(kept, problem, run, progress)

    _to_end(RunProgress(job.run(job.options.of(begun["options"])), done), rest, problem, run)


def _to_end(shown: RunProgress, work: Callable[[RunProgress], GrowthResult], problem: Problem, output: Path) -> None:
    """Do a run, write its exports, and tell of it."""
    from gngraph.api import write_run
    from gngraph.cli.networks import tell_run
    from gngraph.ranks import here

    with shown as progress:
        result = work(progress)
        progress.compared(result.comparison, result.history[-1])
        progress.exporting()
        files = here().only_first(lambda: write_run(result, problem, output))
    if files is not None:
        tell_run(result, files, output)


@contextmanager
def _resumable(folder: Path) -> Iterator[None]:
    """What ends a run before its time says how to go on: Ctrl-C, a termination, a disk that is full."""
    from gngraph.growth.checkpoints import CHECKPOINTS
    from gngraph.ranks import LostRankError

    before = signal.signal(signal.SIGTERM, _interrupted)
    try:
        yield
    except KeyboardInterrupt:
        raise click.ClickException(f"interrupted; {_next_step(folder)}") from None
    except (OSError, GnGraphError) as error:
        disk = error if isinstance(error, OSError | LostRankError) else error.__cause__
        if not isinstance(disk, OSError | LostRankError) or not (folder / CHECKPOINTS).exists():
            raise
        raise click.ClickException(f"{error}; {_next_step(folder)}") from error
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupted(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _next_step(folder: Path) -> str:
    from gngraph.growth.checkpoints import newest

    if newest(folder) is not None:
        count = Environment.read().ranks
        started = f", started by torchrun as {count} processes" if count > 1 else ""
        return f"go on with it by gngraph resume {shlex.quote(str(folder))}{started}"
    return "nothing of it was kept: begin it anew"


def _work(
    job: str, *, model: str, how: ModelOptions, what: DataOptions, options: Options, output: Path, there: str | None
) -> None:
    from gngraph.cli.progress import RunProgress
    from gngraph.growth.jobs import JOBS
    from gngraph.growth.keeping import begun_as, require_same_beginning
    from gngraph.growth.loop import grow_by
    from gngraph.growth.run_folder import checkpoint_of, set_history_aside
    from gngraph.growth.run_lock import claimed, is_free, require_free_folder
    from gngraph.ranks import here

    with together(), _resumable(output), claimed(output):
        if there is None:
            here().by_first(lambda: require_free_folder(output))
        going = there == RESUMED and not here().by_first(lambda: is_free(output))
        kept = here().by_first(lambda: checkpoint_of(output)) if going else None
        graph, problem = open_both(model, how, what)
        task, source = JOBS[job].task(options, graph), source_of(model, how, what, graph, problem)
        if kept is not None:
            require_same_beginning(kept.record["begun"], begun_as(options, graph, problem, source), output)
            _go_on(kept, problem, output)
            return
        here().by_first(lambda: set_history_aside(output))
        say(describe_setting(graph, problem))
        given = {"model": {"model": model, **how.as_dict()}, "data": what.as_dict()}

        def whole(progress: RunProgress) -> GrowthResult:
            return grow_by(task, graph, problem, out=output, observer=progress, source=source, given=given)

        _to_end(RunProgress(task.options), whole, problem, output)


def _work_front(
    *, model: str, how: ModelOptions, what: DataOptions, options: FrontOptions, output: Path, there: str | None
) -> None:
    from gngraph.api import REPORT, FrontRuns
    from gngraph.cli.networks import run_record
    from gngraph.cli.progress import RunProgress
    from gngraph.cli.tables import print_runs
    from gngraph.growth.run_folder import set_history_aside
    from gngraph.growth.run_lock import claimed, require_free_folder

    FrontRuns.require_one_process()
    told: list[dict[str, Any]] = []
    if there == RESUMED:
        raise click.UsageError(
            "runs for several budgets are taken up one by one: gngraph resume, with the folder of each"
        )
    with claimed(output):
        if there is None:
            require_free_folder(output)
        graph, problem = open_both(model, how, what)
        for before in output.iterdir():
            if before.is_dir():
                set_history_aside(before)
        given = {"model": {"model": model, **how.as_dict()}, "data": what.as_dict()}
        runs = FrontRuns(options, graph, problem, output, source_of(model, how, what, graph, problem), given)
        say(describe_setting(graph, problem))
        for number, (task, folder) in enumerate(zip(runs.tasks, runs.folders, strict=True)):
            assert folder is not None
            say(f"budget {number + 1} of {len(runs.tasks)}: {task.budget.text}")
            with _resumable(folder), RunProgress(task.options) as progress:
                result = runs.grown(number, progress)
            told.append(run_record(result, runs.files[-1], folder))
    answer(
        {"output": str(output), "runs": told, "report": str(output / REPORT)}, lambda: print_runs(told, output / REPORT)
    )
