"""What must hold of a random network and of every graph that a random sequence of morphisms makes of it.

A pair is a network and a sequence, both given by integers (`tests.random_networks`). A pair fails when something is silently
wrong or breaks; a network that is refused with a sentence does not fail, but is counted.
"""

from __future__ import annotations

import copy
import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn
from torch.utils._pytree import tree_leaves

from gngraph.analysis.channels import ChannelSpace, ChannelSpaces, Role
from gngraph.analysis.cost import CostModel, cost
from gngraph.analysis.equivalence import outputs64
from gngraph.analysis.uncounted import uncounted
from gngraph.errors import PassError, UnsupportedModelError
from gngraph.files.archive import load, save
from gngraph.importing.from_torch import from_torch
from gngraph.importing.surroundings import plain_torch
from gngraph.ir import Graph, format_graph, parse, verify
from gngraph.lowering.probe import probe_of
from gngraph.lowering.to_torch import to_torch
from gngraph.rewrite.folding import fold_target
from gngraph.rewrite.layer_removal import RemovableLayer, removable_layers
from gngraph.rewrite.masking import masked
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import InsertLayer, MergeChannel, Morphism, NewChannel, PruneChannel, SplitChannel
from gngraph.rewrite.structure import InsertSkip, StructureMorphism
from tests.graph_skeleton import skeleton
from tests.local_errors import Found, KeptValues, relative
from tests.morphism_errors import value_masked
from tests.random_morphisms import merge_weights, morphisms_of
from tests.random_networks import Built, build, numbers_of, token_numbers_of
from tests.random_structure import Change, Changed, change_of, of_other_heads, structure_of
from tests.removal_errors import removal_error

_EMPTIED, _UNCUT = "left without a channel", "is no cut point"  # words by which passes refuse
BAR = 1e-10  # largest relative error of outputs in float64
STRUCTURE = 0.4  # share of the sets of morphisms behind which what a layer is changes as well
HEADS = 0.3  # share of the sets of morphisms before which sizes of heads take the place of heads, or heads that of their sizes
CHANGES = 0.3  # share of those behind which the function changes: a skip connection of scale 1, another stride, blocks repeated


@dataclass
class Tally:
    """What was seen, summed over pairs.

    Attributes:
        refused: reason -> networks that import refused.
        ops: op -> nodes; foreign ops by what they call.
        kinds: kind of morphism -> how many were applied.
        reasons: reason without its node -> frozen spaces.
        worst: largest relative error.
        not_applied: sets of morphisms that raise an error, or make infinite values, which a pass refuses.
    """

    pairs: int = 0
    steps: int = 0
    free: int = 0
    frozen: int = 0
    not_applied: int = 0
    worst: float = 0.0
    refused: Counter[str] = field(default_factory=Counter)
    ops: Counter[str] = field(default_factory=Counter)
    blocks: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)

    def see(self, state: _State) -> None:
        """Count what a graph holds."""
        self.ops.update(str(n.attrs["target"]) if n.op == "foreign" else n.op for n in state.graph.nodes.values())
        reasons = [space.frozen for space in state.spaces if space.frozen is not None]
        self.free, self.frozen = len(state.spaces.free), len(reasons)
        self.reasons.update(reason.partition(" (node '")[0] for reason in reasons)

    def add(self, other: Tally) -> None:
        """Sum up."""
        for name in ("pairs", "steps", "free", "frozen", "not_applied"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.worst = max(self.worst, other.worst)
        for name in ("refused", "ops", "blocks", "kinds", "reasons"):
            getattr(self, name).update(getattr(other, name))


class PairError(AssertionError):
    """A pair that fails, with the graph and the morphisms it fails at."""

    def __init__(self, what: str, graph: Graph | None = None, morphisms: Sequence[Morphism] = ()) -> None:
        super().__init__(what)
        self.graph, self.morphisms = graph, tuple(morphisms)


class _NotApplied(Exception):
    """A set of morphisms that nobody can apply unseen.

    A new channel behind a division is infinite, as is a masked one behind a logarithm; a removal leaves a width at which a place
    for a layer is none any more, or a norm with nothing to count.
    """


@dataclass(frozen=True)
class _State:
    """A graph that was checked, its spaces, its cost model, and its outputs on two samples."""

    graph: Graph
    spaces: ChannelSpaces
    model: CostModel
    outputs: list[torch.Tensor]


def pair_of(number: int, tokens: bool = False) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The integers of the network and of the steps of pair `number`, of those on `tokens` alone or of all."""
    draw = random.Random(f"steps {number}")
    network = token_numbers_of(number) if tokens else numbers_of(number)
    return network, tuple(draw.randrange(2**31) for _ in range(draw.randint(1, 5)))


def check_pair(network: Sequence[int], steps: Sequence[int]) -> Tally:
    """Build, import, and rewrite step by step, checking everything on the way.

    Raises:
        PairError: something does not hold, or an error that is no refusal is raised.
    """
    tally, built = Tally(pairs=1), build(network)
    tally.blocks.update(built.blocks)
    graph: Graph | None = None
    morphisms: list[Morphism] = []
    try:
        graph = _imported(built).to(torch.float64)
        state = _checked(built, graph)
        tally.see(state)
        _check_lowering(built, graph)
        draw, heads = random.Random(network[0]), random.Random(f"heads {network[0]}")
        tally.worst = max(_check_all(built, state, draw), _check_one(built, state, draw))
        for number in steps:
            others = of_other_heads(graph) if heads.random() < HEADS else None
            if others is not None:
                name, graph = others
                state, error = _handed_over(built, state, graph, heads)
                tally.worst = max(tally.worst, error)
                tally.kinds[name] += 1
            morphisms = morphisms_of(number, graph, state.spaces)
            if not morphisms:
                break
            state, error = _stepped(built, state, morphisms)
            graph = state.graph
            tally.steps += 1
            tally.worst = max(tally.worst, error)
            tally.kinds.update(m.kind for m in morphisms)
            morphism = structure_of(graph, state.spaces, draw) if draw.random() < STRUCTURE else None
            if morphism is not None:
                morphisms = [morphism]
                state, error = _restructured(built, state, morphism)
                graph = state.graph
                tally.worst = max(tally.worst, error)
                tally.kinds[morphism.kind] += 1
            change = change_of(graph, state.spaces, draw) if draw.random() < CHANGES else None
            if change is not None:
                morphisms = [change]
                state, error = _changed(built, state, change)
                graph = state.graph
                tally.worst = max(tally.worst, error)
                tally.kinds["residual" if isinstance(change, InsertSkip) else change.kind] += 1
        if tally.steps:
            _check_lowering(built, graph)
        for layer in _drawn_layer(state, draw):
            tally.worst = max(tally.worst, _check_removal(built, state, layer))
            tally.kinds["remove"] += 1
    except UnsupportedModelError as refusal:
        if graph is not None:
            raise PairError(f"the lowered module is refused: {refusal}", graph, morphisms) from refusal
        tally.refused[str(refusal)] += 1
    except _NotApplied:
        tally.not_applied += 1
    except Exception as failed:
        what = str(failed) if isinstance(failed, PairError) else f"{type(failed).__name__}: {failed}"
        raise PairError(what, graph or getattr(failed, "graph", None), morphisms) from failed
    return tally


def _imported(built: Built) -> Graph:
    """The graph, which agrees bit for bit with the module on samples that the import has not seen, in both modes."""
    graph = from_torch(built.network, built.inputs(0, 2))
    lowered = to_torch(graph)
    if list(lowered.state_dict()) != list(built.network.state_dict()):
        raise PairError("the lowered module has other state_dict keys", graph)
    for training in (False, True):
        try:
            expected = _outputs(built.network, built.inputs(3, 5), training)
        except (RuntimeError, ValueError):
            continue  # in train mode there are too few positions to normalise over
        if not _equal(expected, _outputs(lowered, built.inputs(3, 5), training)):
            raise PairError(f"outputs differ in {'train' if training else 'eval'} mode", graph)
    return graph


def _outputs(module: nn.Module, inputs: tuple[torch.Tensor, ...], training: bool) -> list[torch.Tensor]:
    own = copy.deepcopy(module).train(training)
    with plain_torch(), torch.no_grad():  # the fused path of attention in eval mode rounds otherwise
        torch.manual_seed(0)
        return [leaf for leaf in tree_leaves(own(*inputs)) if isinstance(leaf, torch.Tensor)]


def _equal(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(
        x.shape == y.shape and torch.allclose(x, y, rtol=0, atol=0, equal_nan=True) for x, y in zip(a, b, strict=True)
    )


@contextmanager
def _applicable(*refusals: str) -> Iterator[None]:
    """Morphisms that a pass refuses with one of some words, for what they do together, are not applied."""
    try:
        yield
    except PassError as refusal:
        raise _NotApplied if any(told in str(refusal) for told in refusals) else refusal from refusal


def _stepped(built: Built, state: _State, morphisms: Sequence[Morphism]) -> tuple[_State, float]:
    """What the morphisms make of a graph, checked, and its relative error."""
    with _applicable(_EMPTIED, *((_UNCUT,) if len(morphisms) > 1 else ())):
        new = _checked(built, morph(state.graph, state.spaces, morphisms).graph)
    expected = state.outputs
    if any(isinstance(m, PruneChannel | MergeChannel) for m in morphisms):
        expected = outputs64(masked(state.graph, state.spaces, morphisms), built.inputs(0, 2))
        if not all(bool(x.isfinite().all()) for x in expected):
            raise _NotApplied  # a masked channel has a logarithm, by which nothing can be compared
    error = relative(new.outputs, expected)
    if not error <= BAR:
        raise PairError(f"the outputs are off by {error:.1e}")
    widths = {space.name: space.size for space in state.spaces}
    for m in morphisms:
        if not isinstance(m, InsertLayer):
            widths[m.space] += -1 if isinstance(m, PruneChannel | MergeChannel) else 1
    inserted = sum(p.data.numel() for name, p in new.graph.params.items() if name not in state.graph.params)
    predicted, true = state.model.of(widths), cost(new.graph)
    if predicted.params + inserted != true.params or (predicted.flops != true.flops and not inserted):
        raise PairError(f"{predicted} is predicted, and {inserted} parameters inserted, but {true} is the cost")
    found = _places(new.spaces)
    for place, members in _places(state.spaces).items():
        for space, other in zip(members, found.get(place, ()), strict=False):
            if other.size != widths[space.name] and len(members) == len(found[place]):
                raise PairError(f"'{space.name}' has {other.size} channels, not {widths[space.name]}")
    return new, error


def _handed_over(built: Built, state: _State, graph: Graph, draw: random.Random) -> tuple[_State, float]:
    """A graph other axes of which carry channels, checked, and the largest error of all and of one of its free spaces."""
    new = _checked(built, graph)
    if not _equal(new.outputs, state.outputs):
        raise PairError("what carries channels changes the outputs")
    return new, max(_check_all(built, new, draw), _check_one(built, new, draw))


def _restructured(built: Built, state: _State, morphism: StructureMorphism) -> tuple[_State, float]:
    """What one of the morphisms of structure that preserve the function makes of a graph, checked, and its relative error."""
    new = _checked(built, morph(state.graph, state.spaces, [morphism]).graph)
    error = relative(new.outputs, state.outputs)
    if not error <= BAR:
        raise PairError(f"the outputs are off by {error:.1e}")
    return new, error


def _changed(built: Built, state: _State, morphism: Change) -> tuple[_State, float]:
    """One of those that change the function, and the error against the network before, run as the morphism says."""
    new = _checked(built, morph(state.graph, state.spaces, [morphism]).graph)
    error = relative(new.outputs, Changed(state.graph, morphism).outputs(built.inputs(0, 2)))
    if not error <= BAR:
        raise PairError(f"the outputs are off by {error:.1e}")
    return new, error


def _check_one(built: Built, state: _State, draw: random.Random) -> float:
    """One free space: the largest error of each morphism value by value around it, and of a split that is merged back."""
    free = [space for space in state.spaces.free if not space.tied]  # of which no channel is split
    if not free:
        return 0.0
    space = draw.choice(free)
    channel = draw.randrange(space.size)
    found = {}
    if all(x.is_floating_point() for x in built.samples):  # a probe of equal tokens leaves rounding errors behind norms
        errors = KeptValues(state.graph, state.spaces).errors(space.name, channel)
        found = {"split": errors.split, "new": errors.new, "prune": errors.prune or Found(0.0, "")}
        found["prune with means"] = Found(_with_means(state, space, channel, draw.randrange(2**31)), "output")
    found["split, then merge,"] = Found(_split_and_merged(built, state, space, channel), "output")
    for kind, (error, node) in found.items():
        if not error <= BAR:
            raise PairError(f"{kind} of channel {channel} of '{space.name}' is off by {error:.1e} at '{node}'")
    return max(error for error, _ in found.values())


def _check_all(built: Built, state: _State, draw: random.Random) -> float:
    """All free spaces at once, which a sequence of a few morphisms would not reach: its largest error."""
    channels = {space.name: draw.randrange(space.size) for space in state.spaces.free}
    grown: list[Morphism] = [NewChannel(name) for name in channels]
    grown += [SplitChannel(name, channel) for name, channel in channels.items() if not state.spaces[name].tied]
    fewer = [PruneChannel(name, channel) for name, channel in channels.items() if state.spaces[name].size > 1]
    worst = 0.0
    for morphisms in (grown, fewer):
        with _applicable(_EMPTIED):
            expected = outputs64(masked(state.graph, state.spaces, morphisms), built.inputs(0, 2))
        changed = outputs64(morph(state.graph, state.spaces, morphisms).graph, built.inputs(0, 2))
        error = relative(changed, expected)
        if not all(bool(x.isfinite().all()) for x in changed):
            raise _NotApplied
        if not error <= BAR:
            raise PairError(f"{morphisms[0].kind} of every free space is off by {error:.1e}")
        worst = max(worst, error)
    return worst


def _drawn_layer(state: _State, draw: random.Random) -> list[RemovableLayer]:
    """One of the layers that can be removed, or none."""
    layers = removable_layers(state.graph, state.spaces)
    return [draw.choice(layers)] if layers else []


def _check_removal(built: Built, state: _State, layer: RemovableLayer) -> float:
    """Error of the removal of a layer; what is left is checked as every graph is."""
    shallower, error = removal_error(state.graph, state.spaces, layer, built.inputs(0, 2))
    if not all(bool(x.isfinite().all()) for x in outputs64(shallower, built.inputs(0, 2))):
        raise _NotApplied
    if not error <= BAR:
        raise PairError(f"the removal of '{layer.title(state.graph)}' is off by {error:.1e}")
    _checked(built, shallower)
    _check_lowering(built, shallower)
    return error


def _split_and_merged(built: Built, state: _State, space: ChannelSpace, channel: int) -> float:
    """Error after every reader has rebuilt a copy from its twin: no masking stands between this and the function."""
    if space.tied:  # whose splits are refused
        return 0.0
    twins = morph(state.graph, state.spaces, [SplitChannel(space.name, channel)]).graph
    spaces = ChannelSpaces.of(twins)
    if space.name not in spaces.spaces or spaces[space.name].size != space.size + 1 or spaces[space.name].frozen:
        return 0.0  # another width, another reading
    weights = merge_weights(spaces[space.name], [channel], None)
    merged = morph(twins, spaces, [MergeChannel(space.name, space.size, weights)]).graph
    return relative(outputs64(merged, built.inputs(0, 2)), state.outputs)


def _with_means(state: _State, space: ChannelSpace, channel: int, seed: int) -> float:
    """Error of a prune whose readers keep means, against readers that find the means in the channel's place."""
    graph, means = state.graph, {}
    slots = [slot for slot in space.slots if slot.role is Role.CONSUME]
    # statistics of what stays have no reference by values
    if (
        space.size == 1
        or space.name in state.spaces.counters
        or {role for slot in slots for _, role in graph.readers(slot.param)} != {"weight"}
    ):
        return 0.0
    for slot in slots:
        once = [other.node for other in slots].count(slot.node) == 1
        padding = graph.nodes[slot.node].attrs.get("padding", (0,))  # where zeros are padded, the mean is not found
        if once and fold_target(graph, slot.node) and not any(padding if isinstance(padding, tuple) else (1,)):
            generator = torch.Generator().manual_seed(seed)
            means[slot.node] = torch.randn(slot.inner, generator=generator, dtype=torch.float64)
    pruned = morph(graph, state.spaces, [PruneChannel(space.name, channel, means)]).graph
    return relative(outputs64(pruned, probe_of(graph)), value_masked(graph, state.spaces, space.name, channel, means))


def _places(spaces: ChannelSpaces) -> dict[tuple[tuple[str, int, int], ...], list[ChannelSpace]]:
    """Spaces by the parameter axes that they lie on, with entries a channel, in order of offset.

    A rewrite may leave widths that read otherwise, as when a group is left alone; then there is nothing to compare.
    """
    found: dict[tuple[tuple[str, int, int], ...], list[ChannelSpace]] = {}
    for space in sorted(spaces, key=lambda space: space.slots[0].offset):
        found.setdefault(tuple((slot.param, slot.axis, slot.inner) for slot in space.slots), []).append(space)
    return found


def _checked(built: Built, graph: Graph) -> _State:
    """What holds of every graph: reasons, invariants, cost, and the round trips through text and archive."""
    spaces = ChannelSpaces.of(graph)
    for space in spaces:
        if space.frozen is not None and "(node '" not in space.frozen:
            raise PairError(f"'{space.name}' is frozen without naming the node: {space.frozen}")
    verify(graph)
    text = format_graph(graph)
    if format_graph(parse(text)) != text:
        raise PairError("the text does not parse back to itself")
    model = CostModel(graph, spaces)
    if cost(graph) != model.of(model.widths):
        raise PairError("the cost model does not give the cost of the graph itself")
    with tempfile.TemporaryDirectory() as folder:
        save(graph, Path(folder) / "network.gng")
        loaded = load(Path(folder) / "network.gng")
        _check_same(graph, loaded, "the archive")
        if format_graph(loaded) != text:
            raise PairError("the archive changes the text of the graph")
    outputs = outputs64(graph, built.inputs(0, 2))
    if not all(bool(x.isfinite().all()) for x in outputs):
        raise _NotApplied
    return _State(graph, spaces, model, outputs)


def _check_lowering(built: Built, graph: Graph) -> None:
    """The plain module has as many parameters and FLOPs as the graph counts, and is imported as the same graph."""
    module = to_torch(graph)
    count = sum(parameter.numel() for parameter in module.parameters())
    if cost(graph).params != count or uncounted(graph):
        raise PairError(f"of {count} parameters {cost(graph).params} are counted, of the FLOPs not {uncounted(graph)}")
    inputs = built.inputs(0, 2, torch.float64)
    _check_same(graph, from_torch(module, inputs), "lowering and import")  # which compares the outputs as well
    if not _equal(outputs64(graph, inputs), _outputs(module, inputs, training=False)):
        raise PairError("lowering changes the outputs")


def _check_same(graph: Graph, other: Graph, what: str) -> None:
    mine, theirs = skeleton(graph), skeleton(other)
    if mine != theirs:
        come = [line for line in theirs if line not in mine]
        gone = [line for line in mine if line not in theirs]
        raise PairError(f"{what} changes the graph, from {gone[:3]} to {come[:3]}")
    if not all(torch.equal(parameter.data, other.params[name].data) for name, parameter in graph.params.items()):
        raise PairError(f"{what} changes the parameters")
