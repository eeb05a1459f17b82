"""How far each morphism of a space is from what it promises, in float64, by two independent routes for prunes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import fx

from gngraph.analysis.channels import ChannelSpaces, Role, Slot
from gngraph.analysis.equivalence import error_between, outputs64
from gngraph.ir import Graph, Node
from gngraph.lowering.probe import probe_of
from gngraph.lowering.to_torch import lower
from gngraph.ops import lookup
from gngraph.ops.stepwise import OF_SEVERAL, OWN_STATE, PASSED_BY
from gngraph.rewrite.masking import masked
from gngraph.rewrite.morphism import Morphism, NewChannel, PruneChannel, SplitChannel, edits_of
from gngraph.rewrite.surgery import rewrite


@dataclass(frozen=True)
class Errors:
    """Relative output errors: of a split, of a new channel, and of a prune against masked weights and masked values."""

    split: float
    new: float
    masked: float
    values: float

    def worst(self, other: Errors) -> Errors:
        """The larger of each."""
        return Errors(*(max(getattr(self, f), getattr(other, f)) for f in ("split", "new", "masked", "values")))


class _ValueMask(fx.Interpreter):
    """Runs a graph in which each reader of one channel finds constants in its place; no weight is touched."""

    def __init__(self, graph: Graph, spaces: ChannelSpaces, space: str, channel: int, kept: Mapping[str, torch.Tensor]):
        lowered = lower(graph)
        # kept, for of the several steps of a call the last may not read what is patched
        super().__init__(lowered.module, garbage_collect_values=False)
        self.steps: dict[fx.Node, tuple[Node, dict[str, list[int]]]] = {}
        self.params = {name: p.data for name, p in graph.params.items()}
        for slot in spaces[space].slots:
            for name, role in graph.readers(slot.param):
                node = graph.nodes[name]
                if slot.role is Role.CONSUME and lookup(node.op).reads(node, role) == OWN_STATE:
                    (step,) = (s for s in lowered.steps[name] if s.op == "call_module")
                    gone = self.steps.setdefault(step, (node, {}))[1].setdefault(role, [])
                    gone.extend(range(slot.offset + channel * slot.inner, slot.offset + (channel + 1) * slot.inner))
        self.patches: dict[fx.Node, list[tuple[fx.Node, int, int, torch.Tensor]]] = {}
        for reader in spaces[space].nodes(Role.CONSUME):
            for call, place in {
                use for slot in spaces[space].slots if slot.node == reader for use in _calls(graph, slot)
            }:
                source = graph.nodes[call].inputs[place]
                for axis, start, inner in _stretches(spaces, source, space, channel):
                    for step in lowered.steps[call]:
                        constant = kept.get(call, torch.zeros(inner, dtype=torch.float64))
                        self.patches.setdefault(step, []).append((lowered.values[source], axis, start, constant))

    def run_node(self, n: fx.Node) -> Any:
        originals = dict(self.env)
        for source, axis, start, constant in self.patches.get(n, ()):
            patched = self.env[source].clone()
            shape = [-1 if i == axis else 1 for i in range(patched.dim())]
            patched.narrow(axis, start, len(constant)).copy_(
                constant.view(shape).expand_as(patched.narrow(axis, start, len(constant)))
            )
            self.env[source] = patched
        result = self.stepped(n) if n in self.steps else super().run_node(n)
        self.env.update({key: originals[key] for key, *_ in self.patches.get(n, ())})
        return result

    def stepped(self, n: fx.Node) -> Any:
        """A recurrent layer whose weights find zeros in its own states."""
        node, gone = self.steps[n]
        run = lookup(node.op).stepwise
        assert run is not None
        args, kwargs = self.fetch_args_kwargs_from_env(n)

        def read(role: str, state: torch.Tensor, step: int | None) -> torch.Tensor:
            return state.index_fill(-1, torch.tensor(gone.get(role, []), dtype=torch.long), 0.0)

        held = {role: self.params[param] for role, param in node.params.items()}
        return run(node, held, args[0], kwargs.get("hx"), read)


def _calls(graph: Graph, slot: Slot) -> Iterator[tuple[str, int]]:
    """The nodes that read values by a weight, each with the position of the input that it reads."""
    for product, side, _ in slot.across:
        yield product, graph.nodes[product].inputs.index(side.value)
    for name, role in graph.readers(slot.param):
        node = graph.nodes[name]
        place = lookup(node.op).reads(node, role)
        # what a cell hands on of a unit that nothing reads is not read either; several weights read one input
        place = {PASSED_BY: 1, OF_SEVERAL: 0}.get(place, place) if place is not None else None
        if (
            not slot.across
            and role.startswith("weight")
            and node.op != "parameter"
            and place is not None
            and place >= 0
        ):
            yield name, place


def _stretches(spaces: ChannelSpaces, value: str, space: str, channel: int) -> Iterable[tuple[int, int, int]]:
    for (name, axis), segments in spaces.layouts.items():
        start = 0
        for owner, size, inner in segments:
            if name == value and owner == space:
                yield axis, start + channel * inner, inner
            start += size * inner


def value_masked(
    graph: Graph, spaces: ChannelSpaces, space: str, channel: int, kept: Mapping[str, torch.Tensor] | None = None
) -> list[torch.Tensor]:
    """Outputs (as `outputs64` gives them) when readers of a channel find 0, or what `kept` says, in its place."""
    graph = graph.to(torch.float64)
    with torch.no_grad():
        result = _ValueMask(graph, spaces, space, channel, kept or {}).run(*probe_of(graph))
    return [leaf for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]


def difference(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> float:
    """Largest |a - b| / max |a| over the outputs."""
    assert [x.shape for x in a] == [x.shape for x in b]
    return max(float((x - y).abs().max() / x.abs().max()) for x, y in zip(a, b, strict=True))


def applied(graph: Graph, spaces: ChannelSpaces, morphisms: Sequence[Morphism]) -> Graph:
    """`graph` after `morphisms`."""
    return rewrite(graph, spaces, edits_of(graph, spaces, morphisms)).graph


@lru_cache(maxsize=2)
def _in_float64(graph: Graph) -> tuple[Graph, tuple[torch.Tensor, ...], list[torch.Tensor]]:
    """A graph in float64, a probe, and what the graph gives for it."""
    probe = probe_of(graph)
    return graph.to(torch.float64), probe, outputs64(graph, probe)


def errors_of(graph: Graph, spaces: ChannelSpaces, space: str, channel: int = 0) -> Errors:
    """All four errors for one channel of one space; a space of one channel cannot be pruned, which counts as 0."""
    graph, probe, before = _in_float64(graph)
    split, new = (
        error_between(before, outputs64(applied(graph, spaces, [morphism]), probe))
        for morphism in (SplitChannel(space, channel), NewChannel(space))
    )
    if spaces[space].size == 1:
        return Errors(split, new, 0.0, 0.0)
    prune = PruneChannel(space, channel)
    pruned = outputs64(applied(graph, spaces, [prune]), probe)
    reference = masked(graph, spaces, [prune])
    held = any(owner == space for segments in spaces.layouts.values() for owner, _, _ in segments)
    # statistics leave the channel out; what lies within a weight is no value
    counted = reference if space in spaces.counters or not held else graph
    return Errors(
        split,
        new,
        difference(outputs64(reference, probe), pruned),
        difference(value_masked(counted, spaces, space, channel), pruned),
    )
