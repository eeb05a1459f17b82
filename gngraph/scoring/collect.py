"""Collection: one forward and a few activation-only backward passes give gradients at every edge that a site needs."""

from __future__ import annotations

import itertools
import math
import operator
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn
from torch.fx.node import map_arg
from torch.utils._pytree import tree_leaves, tree_map_only

from gngraph.curvature import Curvature, Loss, Outputs, gradient, leaves, pull_back, replaced, unstacked
from gngraph.data.inputs import SampleInputs, count_of, each
from gngraph.errors import GnGraphError
from gngraph.ir import Graph, Node, TensorType, TupleType, Type
from gngraph.lowering.interpreter import Interpreter
from gngraph.lowering.layout import layout_of
from gngraph.lowering.to_torch import lower
from gngraph.ops import BatchStatistics, lookup
from gngraph.ranks import ALONE, Ranks, here
from gngraph.running.memory import require_fitting
from gngraph.scoring.rows import arranged, has_rows, rows_by_sample
from gngraph.scoring.sites import Band, Edge
from gngraph.scoring.stepping import Stepwise

PIECE, VALUES = 64, 2**22
"""Samples of a batch that are collected at once, and numbers in the values of all nodes up to which they are more: the first bounds
the memory, the second is for small networks, whose time is that of calls (docs/results.md#pieces)."""

PIECE_BYTES = 2**30
"""Bytes of values and gradients up to which samples are collected at once: of large networks a few, and at least one
(docs/results.md#large-networks)."""


MEASURED_BY = 2
"""Samples by which it is found how many fit: a norm that counts the batch refuses one."""


@dataclass(frozen=True)
class Collected:
    """What N samples gave: a batch or a piece of it, or the share of one that a process takes.

    Attributes:
        values: node -> value, detached.
        gradient: edge -> gradient of the per-sample losses there.
        factors: edge -> [R, ...]: gradients of the curvature's R factors there.
        losses: [N] per-sample losses.
        replay: what recomputes parts of the graph.
        samples: of the piece, in all processes.
        rows: which of them these are.
        share: N as a share of the batch.
        last: whether this is the last piece of its batch.
        ranks: who has the others.
        arranged: edge -> value [N, F, K], of K rows a sample (`gngraph.scoring.rows`), as its gradients are.
    """

    values: Mapping[str, Any]
    gradient: Mapping[Edge, torch.Tensor]
    factors: Mapping[Edge, torch.Tensor]
    losses: torch.Tensor
    replay: Replay = field(repr=False)
    samples: int
    rows: slice
    share: float = 1.0
    last: bool = True
    ranks: Ranks = ALONE
    arranged: Mapping[Edge, torch.Tensor] = field(default_factory=dict)

    def read(self, edge: Edge) -> torch.Tensor:
        """What is read over an edge at which gradients were asked for, with one row a sample."""
        own: torch.Tensor = self.arranged.get(edge, self.values[edge.value])
        return own

    def total(self, *sums: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Sums over all samples of the piece, of sums over these; whoever learns from some samples learns from all by it."""
        return self.ranks.total(*sums)

    def recompute(self, nodes: Sequence[str], changed: dict[str, torch.Tensor]) -> None:
        """Recompute `nodes` with the values in `changed` in place of the recorded ones; results go into `changed`."""
        self.replay.run(nodes, changed, self.values)


class _Through(Interpreter):
    """Lets gradients pass where a network detaches a value: a change before it changes the loss, though it is not trained."""

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The value itself where it is detached; else as always."""
        return args[0] if target == "detach" else super().call_method(target, args, kwargs)


class Replay:
    """Runs single nodes of a graph in eval mode, on recorded values; parameters get no gradients."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.lowered = lower(graph)
        module = self.lowered.module.requires_grad_(False)
        for node in graph.nodes.values():
            statistics = lookup(node.op).statistics
            if node.module and statistics is not None and statistics.run(node):
                module.set_submodule(node.module, _Affine(graph, node, statistics))
        self.interpreter = _Through(self.lowered.module)

    def run(self, nodes: Iterable[str], changed: dict[str, torch.Tensor], values: Mapping[str, Any]) -> None:
        """Recompute `nodes` with the values in `changed` in place of the recorded ones; results go into `changed`.

        Args:
            nodes: in the order of the graph.
            changed: node -> value in place of the recorded one; what is computed is added.
            values: node -> recorded value, for whatever else is read.
        """
        env = self.interpreter.env
        env.clear()
        for name in nodes:
            for source in self.graph.nodes[name].inputs:
                env[self.lowered.values[source]] = changed[source] if source in changed else values[source]
            for step in self.lowered.steps[name]:
                env[step] = self.interpreter.run_node(step)
            changed[name] = env[self.lowered.values[name]]

    def outputs(self, values: Mapping[str, Any]) -> Outputs:
        """What the graph returns, put together from the values of its nodes."""
        names = {step: name for name, step in self.lowered.values.items()}
        returned = self.lowered.module.graph.output_node().args[0]
        return map_arg(returned, lambda step: values[names[step]])


class _Affine(nn.Module):
    """A norm as it is in eval mode, of which torch's backward pass sums up gradients of statistics that nobody asks for."""

    def __init__(self, graph: Graph, norm: Node, statistics: BatchStatistics) -> None:
        super().__init__()
        self.held = {role: graph.params[param].data for role, param in norm.params.items()}  # which may be written to
        self.roles, self.eps, self.axis = statistics, norm.attrs[statistics.eps], lookup(norm.op).channel_axis

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the norm gives for x."""
        held, roles = self.held, self.roles
        scale = (held[roles.variance] + self.eps).rsqrt()
        scale = scale * held[roles.scale] if roles.scale in held else scale
        shift = -held[roles.mean] * scale
        shift = shift + held[roles.shift] if roles.shift in held else shift
        wide = (-1, *[1] * (x.dim() - 1 - self.axis % x.dim()))
        return torch.addcmul(shift.view(wide), x, scale.view(wide))


class Collector:
    """Runs a graph in eval mode and differentiates by activations; parameters get no gradients.

    Cost of a batch: one forward pass, and 1 + R backward passes without weight gradients (about a third of a training
    step each). Memory: the activations of one piece, and 1 + R gradients at the edges asked for.

    Args:
        graph: on the device of the data.
        edges: where gradients are asked for.
        loss: of a sample each.
    """

    def __init__(self, graph: Graph, edges: Iterable[Edge], loss: Loss) -> None:
        self.graph = graph
        self.loss = loss
        self.replay = Replay(graph)
        edges = set(edges)
        self._layout = layout_of(graph)
        self._piece = max(PIECE, VALUES // sum(_values(node.type) for node in graph.nodes.values()))
        self._wanted = tuple(sorted(edges, key=lambda e: (e.value, e.reader)))
        # a value with a single reader has the same gradient on its edge as in itself: no view is needed
        self._plain = {e for e in edges if not e.of_state and (not e.reader or self._single(e))}
        readers = {edge.reader for edge in edges if edge.of_state}
        self._stepwise = {name: Stepwise(graph, graph.nodes[name]) for name in readers}

    def _single(self, edge: Edge) -> bool:
        reads = self.graph.nodes[edge.reader].inputs.count(edge.value)
        return self.graph.users(edge.value) == (edge.reader,) and reads == 1 and edge.value not in self.graph.outputs

    def pieces(
        self,
        batches: Iterable[tuple[SampleInputs, Any]],
        curvature: Curvature,
        generator: torch.Generator,
        borders: Collection[int] = (),
    ) -> Iterator[Collected]:
        """Values and gradients of a stream of batches, piece by piece; the former piece should be let go of before the next.

        Args:
            batches: samples [N, ...], on the device of the graph, with their targets, as the loss reads them.
            curvature: which factors, and how many.
            generator: of the samples' device, for curvatures that draw.
            borders: numbers of samples of the stream behind which a piece ends (`Context.settled`).

        Raises:
            GnGraphError: the loss is not finite.
            MemoryShortError: a single sample does not fit into the memory of the device.
        """
        seen = size = 0
        for x, y in batches:
            size = size or self._fitting(x, y, curvature)
            inside = (border - seen for border in borders if seen < border < seen + count_of(x))
            cuts = sorted({*range(0, count_of(x), size), *inside, count_of(x)})
            for own in itertools.starmap(slice, itertools.pairwise(cuts)):
                some, targets = tree_map_only(torch.Tensor, operator.itemgetter(own), (x, y))
                found = self.collect(some, targets, curvature, generator)
                yield replace(found, share=len(found.losses) / count_of(x), last=own.stop == count_of(x))
                del found
            seen += count_of(x)

    def _fitting(self, x: SampleInputs, y: Any, curvature: Curvature) -> int:
        """Samples of a piece in all processes, found from some of a batch."""
        x, y = tree_map_only(torch.Tensor, operator.itemgetter(slice(MEASURED_BY)), (x, y))
        with torch.no_grad():
            values, held = self._forward(x)
            count = curvature.count(self.loss, self.replay.outputs(values), y)
        own = {parameter.data.untyped_storage().data_ptr() for parameter in self.graph.params.values()}
        storages = [t.untyped_storage() for t in tree_leaves(values) if isinstance(t, torch.Tensor)]
        kept = sum({s.data_ptr(): s.nbytes() for s in storages if s.data_ptr() not in own}.values()) // count_of(x)
        gradients = (1 + count) * sum(tensor.numel() * tensor.element_size() for tensor in held.values()) // count_of(x)
        require_fitting(
            f"an analysis of a single sample of '{self.graph.name}' by curvature '{curvature}', of {count:,} factors,",
            kept + gradients,
            each(x)[0].device,
        )
        own_share = max(1, PIECE_BYTES // max(1, kept + gradients))
        return max(1, min(self._piece, own_share * here().size))

    def collect(self, x: SampleInputs, y: Any, curvature: Curvature, generator: torch.Generator) -> Collected:
        """Values and gradients for some samples, with R factors of the curvature; of several processes each takes a share.

        Factors are found from the outputs of all, so that what is drawn is the same as in one process.

        Args:
            x: samples [N, ...], on the device of the graph.
            y: their targets, as the loss reads them.
            curvature: which factors, and how many.
            generator: of the samples' device, for curvatures that draw.

        Raises:
            GnGraphError: the loss is not finite.
        """
        ranks = here().of(count_of(x))
        rows = ranks.share(count_of(x))
        some, targets = tree_map_only(torch.Tensor, operator.itemgetter(rows), (x, y))
        values, held = self._forward(some)
        outputs = self.replay.outputs(values)
        losses, slope = gradient(self.loss, outputs, targets)
        if not bool(torch.isfinite(ranks.rows(losses)).all()):
            raise GnGraphError(
                f"the loss of '{self.graph.name}' is not finite on the data; train it with a lower rate first"
            )
        wanted = [held[edge] for edge in self._wanted]
        whole = replaced(outputs, {path: ranks.rows(tensor) for path, tensor in leaves(outputs).items()})
        factors = curvature.factors(self.loss, whole, y, generator)
        own = replaced(factors, {path: stack[:, rows] for path, stack in leaves(factors).items()})
        passes = [slope, *unstacked(own)]
        order = self._rows(outputs, slope, held, len(losses))
        grads = [pull_back(outputs, v, wanted, retain_graph=v is not passes[-1]) for v in passes]
        filled = [[torch.zeros_like(w) if g is None else g for g, w in zip(row, wanted, strict=True)] for row in grads]
        found = {name: tree_map_only(torch.Tensor, torch.Tensor.detach, v) for name, v in values.items()}
        first = dict(zip(self._wanted, filled[0], strict=True))
        second = {e: _stacked([row[i] for row in filled[1:]]) for i, e in enumerate(self._wanted)}
        for table in (first, second):
            table.update({edge: arranged(table[edge], own) for edge, own in order.items()})
        sorted_ = {edge: arranged(found[edge.value], own) for edge, own in order.items()}
        return Collected(found, first, second, losses, self.replay, count_of(x), rows, ranks=ranks, arranged=sorted_)

    def _rows(
        self, outputs: Outputs, slope: Outputs, held: Mapping[Edge, torch.Tensor], count: int
    ) -> dict[Edge, torch.Tensor]:
        """The rows of each sample, for the edges over which rows are read that lie in another order."""
        edges = [edge for edge in self._wanted if has_rows(self.graph, edge)]
        found = rows_by_sample(outputs, slope, [held[edge] for edge in edges], count) if edges else []
        return dict(zip(edges, found, strict=True))

    def _forward(self, x: SampleInputs) -> tuple[dict[str, Any], dict[Edge, torch.Tensor]]:
        lowered, interpreter = self.replay.lowered, self.replay.interpreter
        env = interpreter.env
        env.clear()
        held: dict[Edge, torch.Tensor] = {}
        values: dict[str, Any] = {}
        by_reader: dict[str, list[Edge]] = {}
        for edge in self._wanted:
            if edge not in self._plain and not edge.of_state:
                by_reader.setdefault(edge.reader, []).append(edge)
        marks = {edge.value for edge in self._plain}
        given = dict(zip(self.graph.inputs, each(x), strict=True))
        for name in self.graph.nodes:
            if name in given:
                value: Any = given[name].to(memory_format=self._layout)
                env[lowered.values[name]] = value
            else:
                original = {}
                for edge in by_reader.get(name, ()):
                    key = lowered.values[edge.value]
                    original[key] = env[key]
                    env[key] = _tracked(env[key])
                    held[edge] = env[key]
                if name in self._stepwise:  # each call of a module that is called several times reads states of its own
                    lowered.module.set_submodule(self.graph.nodes[name].module or "", self._stepwise[name])
                for step in lowered.steps[name]:
                    env[step] = interpreter.run_node(step)
                env.update(original)
                if name in self._stepwise:
                    for role, state, probe in self._stepwise[name].taken():
                        values[f"{name}:{role}"] = state
                        held[Edge(f"{name}:{role}", name)] = probe
                value = env[lowered.values[name]]
            if name in marks and not value.requires_grad:
                value.requires_grad_(True)
            values[name] = value
        held.update({edge: values[edge.value] for edge in self._plain})
        return values, held


def _values(kind: Type) -> int:
    """Numbers that a value of a node holds of a sample, at least 1."""
    if isinstance(kind, TupleType):
        return sum(_values(item) for item in kind.items) or 1
    if not isinstance(kind, TensorType):
        return 1
    return math.prod(size for size in kind.shape if isinstance(size, int))


def _stacked(factors: list[torch.Tensor]) -> torch.Tensor:
    return factors[0].unsqueeze(0) if len(factors) == 1 else torch.stack(factors)  # no copy of a single one


def _tracked(value: torch.Tensor) -> torch.Tensor:
    return value.view_as(value) if value.requires_grad else value.detach().requires_grad_(True)


def per_channel(product: torch.Tensor, band: Band, lead: int) -> torch.Tensor:
    """Sum of a product over everything but `lead` leading axes and the band's channels.

    Args:
        product: [*lead, ...] with the band's axis counted from the batch axis, which is the last of the leading ones.
        band: an axis of the value and the stretch of it that has the channels.
        lead: leading axes, the batch among them.

    Returns:
        [*lead, band.size]
    """
    part = product.narrow(band.axis + lead - 1, band.start, band.size * band.inner).movedim(band.axis + lead - 1, lead)
    if part.dim() > lead + 1:
        part = part.sum(tuple(range(lead + 1, part.dim())))
    return part.reshape(*part.shape[:lead], band.size, band.inner).sum(-1) if band.inner > 1 else part


def entries(value: torch.Tensor, band: Band, lead: int) -> torch.Tensor:
    """A value's part in a band as [*lead, channels, entries, positions], the batch axis the last of the leading ones.

    Args:
        value: [*lead, ...] of a node, or a gradient of its shape.
        band: an axis of it and the stretch of that axis; the axis counts from the batch axis.
        lead: leading axes, the batch among them.
    """
    axis = band.axis + lead - 1
    part = value.narrow(axis, band.start, band.size * band.inner).movedim(axis, lead)
    return part.reshape(*part.shape[:lead], band.size, band.inner, -1)
