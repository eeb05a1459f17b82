"""The pass manager: runs passes one after another and holds each to what it promises."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.equivalence import relative_error
from gngraph.analysis.manager import AnalysisManager
from gngraph.errors import FunctionChangedError, IRError, PassError
from gngraph.ir import Graph, diff, verify
from gngraph.ir.graph import checked
from gngraph.rewrite.graph_pass import Pass, PassResult
from gngraph.rewrite.masking import masked
from gngraph.rewrite.pass_text import format_passes, parse_passes

__all__ = [
    "Pass",
    "PassManager",
    "PassObserver",
    "PassResult",
    "PassRun",
    "PipelineResult",
    "Timings",
    "format_passes",
    "parse_passes",
    "printing",
    "printing_diffs",
]


ROUNDINGS = 1e3
"""Roundings of a weight by which the outputs may differ after a pass that rounds new ones."""


@dataclass(frozen=True)
class PassRun:
    """One pass, as it ran.

    Attributes:
        entry: the pass.
        before: the graph it was given.
        result: what it returned.
        error: relative output error in float64 against the graph before ("preserves", "rounds") or the masked graph
            ("masks"); None where nothing is promised.
        seconds: wall time of the pass itself, without the checks.
    """

    entry: Pass
    before: Graph
    result: PassResult
    error: float | None
    seconds: float

    @property
    def changed(self) -> bool:
        """Whether the graph differs from the one before in any node or parameter value; measured, not declared."""
        a, b = self.before, self.result.graph
        if a is b:
            return False
        if a.output != b.output or list(a.nodes.items()) != list(b.nodes.items()) or list(a.params) != list(b.params):
            return True
        pairs = ((p.data, b.params[name].data) for name, p in a.params.items())
        return any(x is not y and not (x.dtype == y.dtype and torch.equal(x, y)) for x, y in pairs)


PassObserver = Callable[[PassRun], None]
"""Called after every pass that was accepted."""


@dataclass(frozen=True)
class PipelineResult:
    """What a pipeline made of a graph: the last graph, and every pass as it ran."""

    graph: Graph
    runs: tuple[PassRun, ...]

    @property
    def results(self) -> tuple[PassResult, ...]:
        """What each pass returned."""
        return tuple(run.result for run in self.runs)

    @property
    def changed(self) -> bool:
        """Whether any pass changed the graph."""
        return any(run.changed for run in self.runs)


@dataclass(frozen=True)
class PassManager:
    """Runs passes in order, and verifies the graph after each.

    A pass that says it preserves the function is held to it: both graphs are run in float64 on a random probe. A pass
    that masks is compared with the masked network. Each check costs two forward passes of two samples on the CPU. When
    a pass fails, no graph is returned; the graph that was given stays what it was.

    Attributes:
        passes: the passes, each itself or as text, or the text of all.
        analyses: where passes take analyses from; default: one without a problem.
        observers: called with every accepted `PassRun`.
        tolerance: largest relative error of a preserving pass.
        masked_tolerance: largest relative error of a masking pass, which rounds folded means to the network's precision.

    >>> import gngraph
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    >>> graph = gngraph.from_torch(net, torch.zeros(1, 4))
    >>> grown = gngraph.PassManager("split-channels{count=2},new-channels").run(graph).graph
    >>> grown.params["0.weight"].data.shape
    torch.Size([11, 4])
    """

    passes: Iterable[Pass | str] | str
    analyses: AnalysisManager | None = None
    observers: Iterable[PassObserver] = ()
    tolerance: float = 1e-10
    masked_tolerance: float = 1e-9
    _pipeline: tuple[Pass, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_pipeline", tuple(_read(self.passes)))
        object.__setattr__(self, "observers", tuple(self.observers))

    def __str__(self) -> str:
        return format_passes(self._pipeline)

    def run(self, graph: Graph) -> PipelineResult:
        """Run every pass.

        Raises:
            PassError: a pass cannot apply.
            FunctionChangedError: a pass broke its promise; the message has its text, the error and the tolerance.
            IRError: a pass returned a graph that breaks an invariant.
        """
        for name, parameter in checked(graph).params.items():
            if parameter.data.is_meta:
                raise IRError(
                    f"parameter '{name}' has no values; load an archive, or set them by graph.with_params(...)"
                )
        analyses = self.analyses if self.analyses is not None else AnalysisManager()
        runs = []
        for entry in self._pipeline:
            start = time.perf_counter()
            result = entry.run(graph, analyses)
            seconds = time.perf_counter() - start
            verify(result.graph)
            error = self._checked(entry, graph, result, analyses)
            run = PassRun(entry, graph, result, error, seconds)
            runs.append(run)
            for observer in self.observers:
                observer(run)
            graph = result.graph
        return PipelineResult(graph, tuple(runs))

    def _checked(self, entry: Pass, graph: Graph, result: PassResult, analyses: AnalysisManager) -> float | None:
        if entry.effect == "changes":
            return None
        if entry.effect == "masks":
            reference = masked(graph, analyses.get(ChannelSpaces, graph), result.morphisms)
            tolerance, whose = self.masked_tolerance, "the masked network"
        else:
            reference, tolerance, whose = graph, self.tolerance, "the network before it"
            if entry.effect == "rounds" or result.rounded:
                tolerance = max(tolerance, ROUNDINGS * _rounding(result.graph))
        error = relative_error(reference, result.graph)
        if not error <= tolerance:
            raise FunctionChangedError(
                f"pass '{entry}' changed the function of '{graph.name}': its outputs differ from those of {whose} by "
                f"'{error:.2g}' relative in float64, but at most '{tolerance:.2g}' is allowed; the graph was not changed",
                error,
                tolerance,
            )
        return error


def _rounding(graph: Graph) -> float:
    """Largest relative rounding error of a number among the parameters of a graph."""
    kinds = {p.data.dtype for p in graph.params.values() if p.data.is_floating_point()}
    return max((torch.finfo(kind).eps for kind in kinds), default=0.0)


def _read(passes: Iterable[Pass | str] | str) -> Iterator[Pass]:
    if isinstance(passes, str):
        yield from parse_passes(passes)
        return
    if not isinstance(passes, Iterable):
        raise PassError(f"passes are their text or a list of them, but a '{type(passes).__name__}' was given")
    for entry in passes:
        if isinstance(entry, str):
            yield from parse_passes(entry)
        elif isinstance(entry, Pass):
            yield entry
        else:
            raise PassError(f"a pass is a Pass or its text, but a '{type(entry).__name__}' was given")


def printing(write: Callable[[str], None] = print) -> PassObserver:
    """An observer that writes one line a pass: its text, parameters before and after, error and time."""

    def observe(run: PassRun) -> None:
        before, after = run.before.num_params(), run.result.graph.num_params()
        error = "" if run.error is None else f", error {run.error:.1e}"
        change = f"{before:,} -> {after:,} parameters" if run.changed else "no change"
        write(f"{run.entry}: {change}{error}, {1e3 * run.seconds:.1f} ms")

    return observe


def printing_diffs(write: Callable[[str], None] = print) -> PassObserver:
    """An observer that writes what each pass changed."""

    def observe(run: PassRun) -> None:
        write(f"{run.entry}:\n{diff(run.before, run.result.graph).render()}")

    return observe


@dataclass
class Timings:
    """An observer that adds up seconds by pass name.

    Attributes:
        seconds: pass name -> seconds in all its runs.
    """

    seconds: dict[str, float] = field(default_factory=dict)

    def __call__(self, run: PassRun) -> None:
        """Add one run."""
        self.seconds[run.entry.name] = self.seconds.get(run.entry.name, 0.0) + run.seconds
