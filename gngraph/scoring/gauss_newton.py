"""The Gauss-Newton analysis: what each morphism would do to the loss, from a few passes over data.

Splits are learned on one part of the training data, scored on a second (which selection uses), and what is reported is
predicted on a third, so that no number was fitted on the samples it is shown for.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Cost, CostModel
from gngraph.analysis.manager import AnalysisManager
from gngraph.curvature import curvature_named, fallback, predicted_change
from gngraph.errors import PassError
from gngraph.ir import Graph, TensorType
from gngraph.ir.inputs import over_samples
from gngraph.ops import lookup
from gngraph.ranks import here
from gngraph.rewrite.computed_weights import with_plain_weights
from gngraph.rewrite.morphism import Morphism
from gngraph.running.memory import require_fitting
from gngraph.running.problem import Problem
from gngraph.scoring.collect import Collected, Collector
from gngraph.scoring.options import ScoringOptions
from gngraph.scoring.proposer import Context, Proposer
from gngraph.scoring.registry import PROPOSERS
from gngraph.scoring.rows import has_rows
from gngraph.scoring.samples_first import with_samples_first
from gngraph.scoring.second_look import SecondLook, looks_at

MODEL_ERROR = 0.25
"""Error of the quadratic model itself, as a share of the second-order change that it predicts.

About the root mean square of (actual - predicted) / second-order change over what has a large second order, prunes and merges, on
the very samples of the prediction (docs/results.md#error-of-the-model)."""


@dataclass(frozen=True, eq=False)
class Moments:
    """Per-sample effects of C candidates on N samples, with R curvature factors.

    A predicted change is wrong in two ways: the samples are not all that there are, and a network is no quadratic function.
    `errors` count the first alone, `total_errors` both: about 95 % of actual changes on unseen samples lie within 1.96 of
    them of the predicted change (`tools/bench_predictions.py` prints how many do).

    Attributes:
        s: [N, C] first-order changes of the losses.
        q: [R, N, C] changes along the factors; the second-order change is half the sum of their squares.
        looked: candidate -> what was measured of it (`GaussNewton.looks`); what the model misses on the mean is in s.
    """

    s: torch.Tensor
    q: torch.Tensor
    looked: Mapping[int, SecondLook] = field(default_factory=dict)

    def changes(self) -> torch.Tensor:
        """Predicted mean change of the loss for each candidate alone, [C]."""
        return self._over_samples(lambda changes: changes.mean(0))

    def second_order(self) -> torch.Tensor:
        """The part of `changes` that is of second order, [C]."""
        return self.changes() - self.s.mean(0)

    def errors(self) -> torch.Tensor:
        """Standard error of `changes` over the samples, [C].

        Where actual changes were looked at they spread by the slope of actual on predicted ones as far as the predicted ones do;
        one below 1, of samples few of which carry a change, narrows nothing (docs/results.md#second-look).
        """
        errors = self._over_samples(lambda changes: changes.std(0)) / math.sqrt(self.s.shape[0])
        for candidate, look in self.looked.items():
            errors[candidate] *= max(1.0, abs(look.slope))
        return errors

    def total_errors(self) -> torch.Tensor:
        """Standard error of `changes` as predictions of what happens, [C]: `errors`, and with them that of the model."""
        of_model = MODEL_ERROR * self.second_order()
        for candidate, look in self.looked.items():
            of_model[candidate] = look.error()
        return torch.hypot(self.errors(), of_model)

    def _over_samples(self, statistic: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        # block by block of candidates, so that nothing as large as q is made
        result = torch.empty_like(self.s[0])
        for into, s, q in zip(*(torch.split(t, 128, -1) for t in (result, self.s, self.q)), strict=True):
            into.copy_(statistic(predicted_change(s, q)))
        return result

    def change_of(self, chosen: Iterable[int]) -> float:
        """Predicted mean change of the loss for a set of candidates together."""
        return float(self.changes_of(chosen).mean())

    def changes_of(self, chosen: Iterable[int]) -> torch.Tensor:
        """Predicted changes of the samples' losses for a set of candidates together, [N]."""
        index = list(chosen)
        return predicted_change(self.s[:, index].sum(1), self.q[:, :, index].sum(2))


@dataclass(frozen=True, eq=False)
class Candidate:
    """A morphism with its numbers.

    Attributes:
        morphism: what would be done.
        site: the layer that a split moves, or the space that a prune shrinks.
        gain: predicted decrease of the mean loss on the judge split.
        error: standard error of the gain, over samples and of the model itself (`Moments.total_errors`).
        cost: cost of this morphism alone.
    """

    morphism: Morphism
    site: str
    gain: float
    error: float
    cost: Cost


@dataclass(frozen=True, eq=False)
class Scores:
    """The result of a Gauss-Newton analysis.

    Attributes:
        candidates: every candidate, in the order of the columns of the moments.
        judge: effects on the judge split, for selection.
        report: effects on the report split, for what is reported.
        notes: what the analysis could not do, and why.
    """

    candidates: tuple[Candidate, ...]
    judge: Moments = field(repr=False)
    report: Moments = field(repr=False)
    notes: tuple[str, ...]


@dataclass(frozen=True)
class GaussNewton(ScoringOptions):
    """Scores morphisms of every free space; the model of Lawton et al. (arXiv 2411.05855) and its extensions.

    Cost: `epochs` passes over the learn split, each one forward pass, 1 + R backward passes without weight gradients, and
    two convolutions a layer; then one pass over the judge and one over the report split, of a convolution a layer. That is
    some three or four epochs of training on the same samples (docs/results.md#pieces). A new channel adds, in each pass, a
    convolution of one channel for every layer that reads its space.

    Raises:
        PassError: a kind is unknown, an option is below the least that it can be, the problem has no data, or the graph has no
            free space or no place for the kinds.
        GnGraphError: there is no such curvature, or the loss does not fit what the graph returns.
        MemoryShortError: the curvature has too many factors for the memory of the device.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.kinds:
            raise PassError(f"no kind of candidates is named; choose among {', '.join(PROPOSERS)}")
        for kind in self.kinds:
            if kind not in PROPOSERS:
                raise PassError(f"morphisms of kind '{kind}' are unknown; choose among {', '.join(PROPOSERS)}")
        curvature_named(self.curvature)  # which refuses a name that it does not know

    def check(self, graph: Graph, analyses: AnalysisManager) -> None:
        """Refuse a graph that has no candidates, before anything is learned; as `run` does.

        Args:
            graph: a network.
            analyses: as for `run`.

        Raises:
            PassError: there is no free space or no place for the kinds.
        """
        _Scoring(self, graph, analyses)

    def run(self, graph: Graph, analyses: AnalysisManager) -> Scores:
        """Learn and score every candidate of `graph`."""
        return _Scoring(self, graph, analyses).scores()


class _Scoring:
    def __init__(self, options: GaussNewton, graph: Graph, analyses: AnalysisManager) -> None:
        self.options = options
        self.problem: Problem = analyses.problem
        own = with_plain_weights(with_samples_first(over_samples(graph)))
        self.added = own.nodes.keys() - graph.nodes.keys()
        self.graph = own.to(device=self.problem.device)
        self.spaces = analyses.get(ChannelSpaces, own)
        if not self.spaces.free:
            reasons = "; ".join(f"{s.name}: {s.frozen}" for s in self.spaces)
            raise PassError(f"'{graph.name}' has no free channel space to score ({reasons})")
        self.curvature, note = fallback(self.problem.loss_fn, curvature_named(options.curvature))
        self.notes = [note] if note else []
        self.generator, self.noise = self.problem.stream(), self.problem.stream(self.problem.device)
        self._note_batch_statistics()
        samples = len(self.problem.splits.learn)
        context = Context(self.graph, self.spaces, options, self.generator, samples, self.notes, scope=analyses.scope)
        self.proposers = [
            proposer for kind in options.kinds for proposer in PROPOSERS[kind](context) if self._sees_samples(proposer)
        ]
        if not self.proposers:
            if set(options.kinds) <= {"prune", "merge"}:
                self.notes.append("spaces of one channel keep it")
            raise PassError(f"'{graph.name}' has no place for {', '.join(options.kinds)} ({'; '.join(self.notes)})")
        edges = [edge for proposer in self.proposers for edge in proposer.edges()]
        self.collector = Collector(self.graph, edges, self.problem.loss_fn)
        self.borders = context.borders

    def _sees_samples(self, proposer: Proposer) -> bool:
        """Whether the values at its edges have one row a sample; where windows or steps come first, they have not.

        A proposer that says so (`of_rows`) reads several rows a sample by `Collected.read`, in whichever order they lie.
        """
        first = self.graph.nodes[self.graph.inputs[0]].type
        of_rows = getattr(proposer, "of_rows", False)
        for edge in proposer.edges():
            if edge.of_state:
                continue
            node = self.graph.nodes[edge.value]
            if not edge.reader and node.name in self.added:
                return False  # nothing can stand behind a value that the graph itself has not
            if not (isinstance(node.type, TensorType) and isinstance(first, TensorType)):
                continue
            if node.type.shape[:1] != first.shape[:1] and not (of_rows and has_rows(self.graph, edge)):
                self.notes.append(
                    f"what depends on '{node.module or node.name}' is not scored: its {node.type} is not one row a sample"
                )
                return False
        return True

    def _note_batch_statistics(self) -> None:
        for node in self.graph.nodes.values():
            statistics = lookup(node.op).statistics
            if statistics is not None and not statistics.run(node):
                where = node.module or node.name
                self.notes.append(
                    f"'{where}' normalises by the batch at hand, so samples are not independent: predictions may be off"
                )

    def scores(self) -> Scores:
        for _ in range(self.options.epochs):
            self._pass(self.problem.splits.learn, self.generator, [p.learn for p in self.proposers])
        self._require_same()
        judge, report = self._moments(self.problem.splits.judge), self._moments(self.problem.splits.report)
        model = CostModel(self.graph, self.spaces)
        found = [(*pair, cost) for p in self.proposers for cost in (p.cost(model),) for pair in p.morphisms()]
        judge, report = self._looked([morphism for morphism, _, _ in found], judge, report)
        gains, errors = (-judge.changes()).tolist(), judge.total_errors().tolist()
        candidates = tuple(
            Candidate(morphism, site, gain, error, cost)
            for (morphism, site, cost), gain, error in zip(found, gains, errors, strict=True)
        )
        return Scores(candidates, judge, report, tuple(self.notes))

    def _require_same(self) -> None:
        """Refuse what several processes learned each from its own share alone.

        Raises:
            PassError: the first such kind is named.
        """
        ranks = here()
        for proposer in self.proposers if ranks.size > 1 else ():
            found = hashlib.sha256()
            for morphism, _ in proposer.morphisms():
                for part in tree_leaves(vars(morphism)):
                    if isinstance(part, torch.Tensor):
                        found.update(part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
                    else:
                        found.update(repr(part).encode())
            if len(set(ranks.gathered(found.hexdigest()))) > 1:
                raise PassError(
                    f"'{type(proposer).__name__}' learned something else in each of {ranks.size} processes: have it add up over "
                    f"all samples by Collected.total, or score in one process"
                )

    def _looked(self, morphisms: list[Morphism], judge: Moments, report: Moments) -> tuple[Moments, Moments]:
        """The same moments, with what the model misses of the largest changes added to s."""
        if not self.options.looks:
            return judge, report
        index = judge.second_order().topk(min(self.options.looks, len(morphisms))).indices.tolist()
        candidates = ((morphisms[i], judge.s[:, i], judge.q[:, :, i]) for i in index)
        found = dict(zip(index, looks_at(self.graph, self.spaces, self.problem, candidates), strict=True))
        for moments in (judge, report):
            for i, look in found.items():
                predicted = moments.change_of([i])
                moments.s[:, i] += look.expected(predicted) - predicted
        return replace(judge, looked=found), replace(report, looked=found)

    def _pass(
        self,
        data: Any,
        shuffle: torch.Generator | None,
        observers: Iterable[Callable[[Collected], None]],
    ) -> None:
        batches = self.problem.runner.read(data, self.graph, shuffle=shuffle)
        borders = self.borders if shuffle else ()
        for piece in self.collector.pieces(batches, self.curvature, self.noise, borders):
            for observe in observers:
                observe(piece)
            del piece

    def _moments(self, data: Any) -> Moments:
        # written in place: parts put together at the end would need twice the memory
        found: list[Moments] = []
        done = 0

        def judge(batch: Collected) -> None:
            nonlocal done
            with torch.no_grad():
                effects = [proposer.effect(batch) for proposer in self.proposers]
                s, q = torch.cat([e[0] for e in effects], 1), torch.cat([e[1] for e in effects], 2)
                s, q = batch.ranks.rows(s), batch.ranks.rows(q, 1)
            if not found:
                needed = 2 * (1 + len(q)) * len(data) * s.shape[1] * s.element_size()  # judged, and reported
                of = f"{s.shape[1]:,} candidates on {len(data):,} samples"
                by = f"curvature '{self.curvature}', of {len(q):,} factors,"
                require_fitting(f"effects of {of} by {by}", needed, torch.device("cpu"))
                found.append(Moments(torch.empty(len(data), s.shape[1]), torch.empty(len(q), len(data), s.shape[1])))
            rows = slice(done, done + len(s))
            found[0].s[rows], found[0].q[:, rows] = s, q
            done = rows.stop

        self._pass(data, None, [judge])
        return found[0]
