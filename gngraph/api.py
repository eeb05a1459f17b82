"""The public functions that run: `grow`, `extend`, `reshape`, `shrink`, and the folder that a run leaves."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils._pytree import tree_map_only

from gngraph.analysis.cost import Budget
from gngraph.analysis.fit import check_fit, first_samples, problem_for
from gngraph.analysis.manager import AnalysisManager
from gngraph.data.inputs import in_order
from gngraph.environment import Environment
from gngraph.errors import GnGraphError, OptionError, path_text
from gngraph.importing.from_samples import from_samples
from gngraph.ir import Graph
from gngraph.ir.inputs import named_by_data
from gngraph.options import ExtendOptions, FrontOptions, GrowOptions, ReshapeOptions, ShrinkOptions, taking
from gngraph.ranks import here, joined
from gngraph.running.finite import moderate
from gngraph.running.problem import Problem, inputs_of

if TYPE_CHECKING:
    from gngraph.growth.result import GrowthResult
    from gngraph.growth.run_folder import RunFiles

ProblemLike = Any
"""A data set or its name, whatever `Problem` takes for data, or a `Problem`, which also names the loss, the device and the seed."""

NAMED = "data"
"""Key of a run's source under which the name of its data stands."""

REPORT = "report.html"
"""File that compares the runs of several budgets."""

ONNX_SAMPLES = 64
"""Real samples on which an exported ONNX file is compared with torch."""


@taking(GrowOptions)
def grow(
    network: Graph | nn.Module,
    data: ProblemLike,
    options: GrowOptions | Mapping[str, Any] | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    observer: object = None,
    **keywords: Any,
) -> GrowthResult:
    """Grow `network` on `data` in rounds until it uses up a budget, and train the result; see `gngraph.growth.loop`.

    Args:
        network: a graph, or a module, which is traced on samples of the data and stays as it is.
        data: a data set or its name, a `DataLoader`, a pair of data sets (train, test) or of tensors (x, y), or a `Problem`, which
            has more ways, and also names the loss, the device and the seed.
        options: all of them at once, as an object or as a file keeps them.
        out: a folder for the network in every format, the history and a report about it.
        observer: told what goes on: an object with any of the methods of `gngraph.growth.observer.Observer`, or several such.
        keywords: options by name, which win.

    Raises:
        OptionError: an option is unknown or does not fit, or there is no budget.
        DataError: the network does not fit the data.
        BudgetError: the budget is below the network's size.
        TrainingError: the loss became non-finite; what `out` holds is that of the last finished round.
        PassError: no channel space is free, or there is no such kind or allocation.
        GnGraphError: the loss does not fit what the network returns, or there is no such curvature.
    """
    return _worked("grow", network, data, GrowOptions.of(options, **keywords), out, observer)


@taking(FrontOptions)
def grow_front(
    network: Graph | nn.Module,
    data: ProblemLike,
    options: FrontOptions | Mapping[str, Any] | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    observer: object = None,
    **keywords: Any,
) -> list[GrowthResult]:
    """Grow `network` to each of several budgets: one network a budget, each as `grow` gives it.

    The training before the first rewrite is done once, and what is found of the same network is found once.

    Args:
        network: see `grow`.
        data: see `grow`.
        options: all of them at once, as an object or as a file keeps them; `max_params` and `max_flops` may be several.
        out: a folder for a folder of each run, named by its budget, and a report that compares them.
        observer: see `grow`.
        keywords: options by name, which win.

    Raises:
        OptionError, DataError, BudgetError, TrainingError, PassError, GnGraphError: as `grow` does.
    """
    own = FrontOptions.of(options, **keywords)
    folder = None if out is None else Path(path_text(out))
    problem = problem_for(data)
    graph = network if isinstance(network, Graph) else from_samples(network, first_samples(problem.train, 2)[0])
    check_fit(graph, problem)
    source = {NAMED: data} if isinstance(data, str) else None
    runs = FrontRuns(own, graph, problem, folder, source, None if source is None else {NAMED: source})
    return [runs.grown(number, observer) for number in range(len(runs.tasks))]


class FrontRuns:
    """Runs of one network for several budgets.

    Args:
        options: of them.
        graph: the network.
        problem: of the runs.
        folder: for a folder of each and a report; None: nothing is written.
        source, given: see `gngraph.growth.loop.grow_by`.

    Attributes:
        tasks: what each run is to do.
        folders: of the runs; None where nothing is written.
        files: that were written so far.

    Raises:
        BudgetError, PassError, GnGraphError: one of them is refused.
    """

    def __init__(
        self,
        options: FrontOptions,
        graph: Graph,
        problem: Problem,
        folder: Path | None,
        source: dict[str, Any] | None,
        given: dict[str, Any] | None,
    ) -> None:
        from gngraph.growth.history import HISTORY_FILE
        from gngraph.growth.jobs import JOBS
        from gngraph.growth.run_folder import write_config
        from gngraph.growth.trunk import Trunk

        self.require_one_process()
        self.tasks = [JOBS["grow"].task(own, graph) for own in options.each()]
        self.folders = [None if folder is None else folder / _folder_name(task.budget) for task in self.tasks]
        self.files: list[RunFiles] = []
        self._graph, self._problem, self._folder = graph, problem, folder
        self._source, self._given = source, given
        for own in self.folders:
            if own is not None and (own / HISTORY_FILE).exists():
                raise GnGraphError(f"folder '{own}' holds a run; name another folder for the runs")
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            write_config(folder, {**(given or {}), options.title: options.as_dict()})
        self._trunk = Trunk(AnalysisManager(problem, scope=self.tasks[0].scope))

    @staticmethod
    def require_one_process() -> None:
        """Refuse several processes.

        Raises:
            GnGraphError: torchrun started them.
        """
        if (count := Environment.read().ranks) > 1:
            raise GnGraphError(
                f"several budgets are the work of one process, but torchrun started {count}: grow to one budget at a time"
            )

    def grown(self, number: int, observer: object) -> GrowthResult:
        """The result for a budget.

        Args:
            number: of the budget, from 0, in order.
            observer: see `grow`.
        """
        from gngraph.growth.loop import grow_by
        from gngraph.growth.run_lock import claimed
        from gngraph.report.page import write_report
        from gngraph.report.runs import read_run

        out = self.folders[number]
        own: dict[str, Any] = {"out": out, "source": self._source, "given": self._given, "trunk": self._trunk}
        if out is None or self._folder is None:
            return grow_by(self.tasks[number], self._graph, self._problem, observer=observer, **own)
        with claimed(out):
            result = grow_by(self.tasks[number], self._graph, self._problem, observer=observer, **own)
            self.files.append(write_run(result, self._problem, out))
        done = [folder for folder in self.folders[: number + 1] if folder is not None]
        if len(done) > 1:
            write_report([read_run(folder) for folder in done], self._folder / REPORT)
        return result


def _folder_name(budget: Budget) -> str:
    sides = [(budget.max_params, "params"), (budget.max_flops, "flops")]
    return "-".join(f"{limit}-{unit}" for limit, unit in sides if limit is not None)


@taking(ExtendOptions)
def extend(
    network: Graph | nn.Module,
    data: ProblemLike,
    options: ExtendOptions | Mapping[str, Any] | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    observer: object = None,
    **keywords: Any,
) -> GrowthResult:
    """Make a trained network larger, by what keeps its function or is predicted to lower the loss, and train it on.

    Cost: one analysis (see `GaussNewton`), and the epochs of training.

    Args:
        network: see `grow`.
        data: see `grow`.
        options: all of them at once, as an object or as a file keeps them.
        out: see `grow`.
        observer: told what goes on: an object with any of the methods of `gngraph.growth.observer.Observer`, or several such.
        keywords: options by name, which win.

    Raises:
        OptionError, DataError, TrainingError, PassError, GnGraphError: as `grow` does.
    """
    return _worked("extend", network, data, ExtendOptions.of(options, **keywords), out, observer)


@taking(ReshapeOptions)
def reshape(
    network: Graph | nn.Module,
    data: ProblemLike,
    options: ReshapeOptions | Mapping[str, Any] | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    observer: object = None,
    **keywords: Any,
) -> GrowthResult:
    """Move channels of a trained network from where they are worth little to where they are worth much, and train it on.

    Parameters and FLOPs are at most what they were.

    Args:
        network: see `grow`.
        data: see `grow`.
        options: all of them at once, as an object or as a file keeps them.
        out: see `grow`.
        observer: told what goes on: an object with any of the methods of `gngraph.growth.observer.Observer`, or several such.
        keywords: options by name, which win.

    Raises:
        OptionError, DataError, TrainingError, PassError, GnGraphError: as `grow` does.
    """
    return _worked("reshape", network, data, ReshapeOptions.of(options, **keywords), out, observer)


@taking(ShrinkOptions)
def shrink(
    network: Graph | nn.Module,
    data: ProblemLike,
    options: ShrinkOptions | Mapping[str, Any] | None = None,
    *,
    out: str | os.PathLike[str] | None = None,
    observer: object = None,
    **keywords: Any,
) -> GrowthResult:
    """Make a trained network smaller, rebuilding what is removed from what stays, and train it on.

    Args:
        network: see `grow`.
        data: see `grow`.
        options: all of them at once, as an object or as a file keeps them.
        out: see `grow`.
        observer: told what goes on: an object with any of the methods of `gngraph.growth.observer.Observer`, or several such.
        keywords: options by name, which win.

    Raises:
        BudgetError: channels that can be removed do not suffice.
        OptionError, DataError, TrainingError, PassError, GnGraphError: as `grow` does.
    """
    return _worked("shrink", network, data, ShrinkOptions.of(options, **keywords), out, observer)


def _worked(
    job: str,
    network: Graph | nn.Module,
    data: ProblemLike,
    options: Any,
    out: str | os.PathLike[str] | None,
    observer: object,
) -> GrowthResult:
    from gngraph.growth.run_lock import claimed

    if out is not None and not isinstance(out, str | os.PathLike):
        raise OptionError(f"'out' is of type '{type(out).__name__}', but must be the path of a folder")
    try:
        with joined():
            if out is None:
                return _grown(job, network, data, options, None, observer)
            with claimed(Path(out)):
                return _grown(job, network, data, options, Path(out), observer)
    except KeyboardInterrupt as interrupt:
        if out is not None:
            interrupt.add_note(
                f"go on with the run by gngraph.resume({os.fspath(out)!r}), with the data again if it has no name"
            )
        raise


def _grown(
    job: str, network: Graph | nn.Module, data: ProblemLike, options: Any, out: Path | None, observer: object
) -> GrowthResult:
    from gngraph.growth.jobs import JOBS
    from gngraph.growth.loop import grow_by

    problem = problem_for(data)
    graph = network if isinstance(network, Graph) else from_samples(network, first_samples(problem.train, 2)[0])
    check_fit(graph, problem)
    source = {NAMED: data} if isinstance(data, str) else None
    given = None if source is None else {NAMED: source}
    task = JOBS[job].task(options, graph)
    result = grow_by(task, graph, problem, out=out, observer=observer, source=source, given=given)
    if out is not None:
        here().only_first(lambda: write_run(result, problem, out))
    return result


def write_run(result: GrowthResult, problem: Problem, folder: Path) -> RunFiles:
    """Complete the folder of a finished run: source, ONNX (compared with torch on test samples), report and pictures.

    Its checkpoints go: there is nothing left to go on with.

    Args:
        result: of the run.
        problem: of the run.
        folder: of the run.

    Raises:
        GnGraphError: an export is refused; what was written before stays.
    """
    from gngraph.growth.checkpoints import remove_checkpoints
    from gngraph.growth.run_folder import write_run_folder
    from gngraph.report.page import tell

    samples = in_order(first_samples(problem.test, ONNX_SAMPLES)[0], named_by_data(result.graph))
    usable = moderate(samples)
    inputs = inputs_of(problem, not result.doubted)
    shown = tree_map_only(torch.Tensor, lambda own: own[usable], samples) if bool(usable.any()) else None
    files = write_run_folder(result, folder, draw=tell, samples=shown, inputs=inputs)
    remove_checkpoints(folder)
    return files
