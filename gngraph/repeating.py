"""The public functions that take up a run by its folder: `resume` and `replay`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gngraph.analysis.fit import problem_for
from gngraph.api import NAMED, ProblemLike, write_run
from gngraph.errors import GnGraphError, path_text
from gngraph.ranks import joined
from gngraph.running.problem import Problem

if TYPE_CHECKING:
    from gngraph.growth.result import GrowthResult


def resume(folder: str | os.PathLike[str], data: ProblemLike | None = None, *, observer: object = None) -> GrowthResult:
    """Go on with a run that was interrupted, from its newest checkpoint; it ends as it would have ended, but for its seconds.

    Options, seed network and number of threads are those of the run.

    Args:
        folder: of the run.
        data: as it was given when the run began; None: that was by name.
        observer: told what goes on: an object with any of the methods of `gngraph.growth.observer.Observer`, or several such.

    Raises:
        GnGraphError: the folder holds no run that was interrupted, or code, machine or data are others than when it began.
        DataError, TrainingError, PassError: as `grow` does.
    """
    from gngraph.growth.loop import go_on
    from gngraph.growth.run_folder import checkpoint_of
    from gngraph.growth.run_lock import claimed

    path = Path(path_text(folder))
    with joined() as ranks, ExitStack() as held:
        if not ranks.by_first(path.is_dir):
            raise GnGraphError(f"there is no folder '{path}'; name the folder that a run was written to")
        held.enter_context(claimed(path))
        kept = ranks.by_first(lambda: checkpoint_of(path))
        problem = _problem_of(kept.record["begun"], path, data)
        result = go_on(kept, problem, path, observer)
        ranks.only_first(lambda: write_run(result, problem, path))
        return result


def replay(folder: str | os.PathLike[str], data: ProblemLike | None = None, *, observer: object = None) -> GrowthResult:
    """Do a run that has ended once more, from its seed network, and hold every round and the network against what it left.

    Options, seed network and number of threads are those of the run, whose folder stays as it is. Data that draws from the
    process's random streams is not the same again.

    Args:
        folder: of the run.
        data: as it was given when the run began; None: that was by name.
        observer: told what goes on: an object with any of the methods of `gngraph.growth.observer.Observer`, or several such.

    Raises:
        GnGraphError: the folder holds no run that has ended, code, machine or data are others than when it began, or something
            came out otherwise: the first round that did is named.
        DataError, TrainingError, PassError: as `grow` does.
    """
    from gngraph.growth.replaying import begun_in, replayed

    path = Path(path_text(folder))
    with joined() as ranks:
        begun = ranks.by_first(lambda: begun_in(path))
        return replayed(path, begun, _problem_of(begun, path, data), observer)


def _problem_of(begun: Mapping[str, Any], folder: Path, data: ProblemLike | None) -> Problem:
    """The problem of a run that began in Python."""
    source = begun["source"] or {}
    if data is None and NAMED not in source:
        raise GnGraphError(
            f"the run in '{folder}' did not begin with data that gngraph.grow was given by name: do this on the command line if it "
            f"began there, else give the data again"
        )
    return problem_for(source[NAMED] if data is None else data)
