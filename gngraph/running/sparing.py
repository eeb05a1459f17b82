"""Running networks over samples of a problem, with fewer at a time where memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec, TypeVar

from gngraph.running.memory import Done, in_halves
from gngraph.running.problem import Problem

First = TypeVar("First")
Others = ParamSpec("Others")
Reading = Callable[Concatenate[First, Problem, Others], Done]


def spared(problem: Problem, what: str, work: Callable[[], Done]) -> Done:
    """The result of `work`, which reads samples of a problem; batches are halved, and stay so, whenever memory runs out.

    Args:
        problem: whose runner makes the batches.
        what: is done, for messages.
        work: can be begun again.

    Raises:
        MemoryShortError: memory runs out with a sample at a time too.
    """

    def attempt(size: int) -> Done:
        problem.runner.batch_size = size
        return work()

    return in_halves(what, problem.runner.batch_size, attempt)[0]


def sparing(what: str) -> Callable[[Reading[First, Others, Done]], Reading[First, Others, Done]]:
    """A function of something and a problem, whose samples it reads, as `spared`.

    Args:
        what: it does, for messages.
    """

    def decorate(function: Reading[First, Others, Done]) -> Reading[First, Others, Done]:
        @wraps(function)
        def begun(first: First, problem: Problem, /, *args: Others.args, **kwargs: Others.kwargs) -> Done:
            return spared(problem, what, lambda: function(first, problem, *args, **kwargs))

        return begun

    return decorate
