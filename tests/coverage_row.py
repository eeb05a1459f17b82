"""One row of the coverage matrix: everything that is measured on one torchvision model."""

from __future__ import annotations

import copy
import ctypes
import gc
import math
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from gngraph.analysis.channels import ChannelSpace, ChannelSpaces
from gngraph.analysis.cost import cost
from gngraph.analysis.share import share_free_both_ways, share_in_free_spaces
from gngraph.analysis.topology import cut_points
from gngraph.errors import GnGraphError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.lowering.probe import probe_of
from gngraph.lowering.to_torch import lower, to_torch
from gngraph.rewrite.layer_removal import RemovableLayer, removable_layers
from gngraph.rewrite.masking import masked
from gngraph.rewrite.morphism import Morphism, NewChannel, PruneChannel, SplitChannel
from tests.coverage_models import Model, outputs_of
from tests.families import sampled
from tests.local_errors import Found, relative
from tests.merge_errors import MergedValues, merges_of_all, multiplications
from tests.morphism_errors import applied
from tests.removal_errors import removal_error
from tests.training_steps import Trial

T = TypeVar("T")

BAR = 1e-11
"""Largest relative error of a morphism, in float64."""

SECONDS = 3.0
"""Longest trace and analysis."""

MEMORY = 2.6
"""Largest growth of the resident set while tracing and analysing, which work on a copy of the model; see `Row.memory`."""

NODE = 24 * 1024
"""Bytes of Python objects that a trace and its proof may take for each node, where neither ratio meets the bar.

They do not grow with the width: of a narrow network they are more than its parameters, and the row says so.
"""

LARGE = 100_000_000
"""Parameters above which a sample of the spaces may be checked, and training is compared in the network's own dtype."""

ROUNDING = 1e-4
"""Largest relative difference of what is compared in float32."""

PLACES = 8
"""Most spaces in which a merge, and most cut points at which an insertion is checked by itself."""

REMOVALS = 4
"""Most layers that are removed, each by itself: two passes through the whole network."""

AFFORDABLE = 200_000_000
"""Most multiplications of a layer that is inserted; a cut point where it takes more is left out."""


@dataclass
class Row:
    """What is known of one model; None and "" stand for what was not reached.

    Attributes:
        trace_s: processor seconds of trace and analysis on one thread, with one sample, which the import runs to prove
            itself; the fewest of three where the first were too many.
        memory: growth of the resident set while tracing and analysing, at its peak, in multiples of the model's own bytes; the
            least of three where the first was too much.
        memory_run: the same in multiples of the model's bytes and what one forward pass of the module itself takes. As import
            runs the module to prove the graph, no import can take less than the second; where `memory` is over the bar, it is
            this that has to be within.
        flops: of one sample, as `cost` and torch's own counter agree; where they do not, the row fails.
        training: "alike" where two steps of SGD make the same of source and lowered graph, else in what they differ.
        share: part of the entries of all parameters that lie on an axis of a free space.
        both: part of the entries of inner weights that lie on free spaces along both axes.
        checked: free spaces of which a split, a new channel and a prune are checked.
        split, new, prune: worst local error over the checked spaces.
        merged: free spaces of which a merge is checked, `PLACES` at most, spread over the network.
        merge: worst local error of a split channel that is merged back into its twin, and of a merge with random weights.
        cut_points: places for a layer; inserted: those that are checked, `PLACES` at most and only `AFFORDABLE` ones.
        insert: worst local error of a zero residual block, and of an identity layer where values cannot be negative.
        removable: layers that can go; removed: those whose removal is checked, `REMOVALS` at most.
        remove: worst error at the outputs of a removal that rebuilds each channel from a random one before the layer.
        all_split, all_new, all_prune, all_merge: error at the outputs after one morphism of every free space at once.
        seconds: processor seconds of the whole row, building the model included.
        reasons: frozen space -> why.
    """

    family: str
    model: str
    input: str
    params: int | None = None
    nodes: int | None = None
    trace_s: float | None = None
    memory: float | None = None
    memory_run: float | None = None
    flops: int | None = None
    round_trip: str = ""
    training: str = ""
    free: int | None = None
    frozen: int | None = None
    share: float | None = None
    both: float | None = None
    checked: int | None = None
    split: float | None = None
    new: float | None = None
    prune: float | None = None
    merged: int | None = None
    merge: float | None = None
    cut_points: int | None = None
    inserted: int | None = None
    insert: float | None = None
    removable: int | None = None
    removed: int | None = None
    remove: float | None = None
    all_split: float | None = None
    all_new: float | None = None
    all_prune: float | None = None
    all_merge: float | None = None
    seconds: float = 0.0
    verdict: str = ""
    note: str = ""
    reasons: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def passes(self) -> bool:
        """Whether every bar is met."""
        return self.verdict == "pass"

    @property
    def frozen_reasons(self) -> str:
        """Frozen spaces counted by reason, without the nodes."""
        counts = Counter(reason.partition(" (node")[0] for reason in self.reasons.values())
        return "; ".join(f"{count} x {reason}" for reason, count in counts.most_common())


def row_of(model: Model, sample: int) -> Row:
    """Measure `model`; never raises for what gngraph refuses or gets wrong, which the verdict says.

    Args:
        sample: spaces to check of a model with more than `LARGE` parameters; all are checked of any other.
    """
    row = Row(model.family, model.name, "x".join(str(size) for size in model.shape))
    if model.has_train_only_heads:
        row.note = "built without auxiliary heads; with them import asks to drop what runs in train mode alone"
    start = time.process_time()
    gc.freeze()  # so that collecting, which is done often, need not walk through all of torch
    try:
        _fill(row, model, sample)
    except Exception as error:  # one model must not hide the others
        row.failures.append(_told(error))
    finally:
        gc.unfreeze()
    row.seconds = time.process_time() - start
    row.verdict = "pass" if not row.failures else "; ".join(row.failures[:3])
    return row


def _told(error: Exception) -> str:
    """The error in one line; with the place where it arose, unless gngraph raised it on purpose."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = "" if isinstance(error, GnGraphError) else f" ({Path(place.filename).name}:{place.lineno})"
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}{where}"


def _fill(row: Row, model: Model, sample: int) -> None:
    network, example = model.build()
    row.params = sum(p.numel() for p in network.parameters())
    for _ in range(2):  # the first time loads what torch and Python load at first use
        analyse(_FirstUse(), torch.zeros(1, 3))
        _, pass_growth, _ = measured(outputs_of, network, example[:1], training=False)
    (graph, spaces), growth, row.trace_s = measured(analyse, network, example[:1])
    row.nodes = len(graph.nodes)
    own = sum(t.numel() * t.element_size() for t in network.state_dict().values())
    for _ in range(2):  # on a busy machine the processor's seconds grow, and an allocator keeps what others let go
        if row.trace_s > SECONDS or growth > MEMORY * own:
            _, again, seconds = measured(analyse, network, example[:1])
            growth, row.trace_s = min(growth, again), min(row.trace_s, seconds)
    row.memory, row.memory_run = growth / own, growth / (own + max(0, pass_growth))
    row.free, row.frozen = len(spaces.free), len(spaces.spaces) - len(spaces.free)
    row.share, row.both = share_in_free_spaces(graph, spaces), share_free_both_ways(graph, spaces)
    row.reasons = {space.name: space.frozen for space in spaces if space.frozen}
    row.flops, counted = cost(graph).flops, flops_by_torch(network, example)
    if row.flops != counted:
        row.failures.append(f"{row.flops:,} FLOPs are counted of {counted:,}")
    differences = round_trip_differences(network, example, graph)
    row.round_trip = ", ".join(differences) or "bit-identical"
    row.failures += differences
    if min(row.memory, row.memory_run) > MEMORY:
        told = f"trace and analysis take {row.memory:.2f} times the memory of the model"
        if growth - NODE * row.nodes > MEMORY * own:
            row.failures.append(told)
        else:
            small = f"{told}, for it is small: {(growth - own) / row.nodes / 1024:.1f} KiB a node"
            row.note = "; ".join(filter(None, (row.note, small)))
    if row.trace_s > SECONDS:
        row.failures.append(f"trace and analysis take {row.trace_s:.1f} s")
    differences = training_differences(network, example, graph)
    row.training = ", ".join(differences) or "alike"
    row.failures += [f"it trains in another way: {difference}" for difference in differences]
    if not spaces.free:
        row.failures.append("no space is free")
        return
    del network
    gc.collect()  # lowered modules refer to themselves, and hold the parameters of a whole network
    graph = graph.to(torch.float64)
    _check_spaces(row, graph, spaces, sample if row.params > LARGE else None)


class _FirstUse(nn.Module):
    """A module, and a function that torch looks up."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.flatten(self.layer(x), 1)


def analyse(network: nn.Module, example: torch.Tensor) -> tuple[Graph, ChannelSpaces]:
    """Trace and analyse."""
    graph = from_torch(network, example)
    return graph, ChannelSpaces.of(graph)


def measured(function: Callable[..., T], *args: Any, **kwargs: Any) -> tuple[T, int, float]:
    """What the function returns, bytes by which the resident set grew at its peak (Linux's VmHWM), processor seconds."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free already must not hide what is taken
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
    before, start = _resident("VmRSS"), time.process_time()
    result = function(*args, **kwargs)
    seconds = time.process_time() - start
    return result, _resident("VmHWM") - before, seconds


def _resident(entry: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(entry)))


def flops_by_torch(network: nn.Module, example: torch.Tensor) -> int:
    """FLOPs of one sample by torch's own counter, from shapes alone."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # of which it counts nothing
    memo: dict[int, Any] = {}
    for tensor in (*network.parameters(), *network.buffers()):
        twin = torch.empty_like(tensor, device="meta")
        memo[id(tensor)] = nn.Parameter(twin, requires_grad=False) if isinstance(tensor, nn.Parameter) else twin
    twin_network = copy.deepcopy(network, memo).eval()
    try:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            twin_network(example[:1].to("meta"))
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
    return int(counter.get_total_flops())


def round_trip_differences(network: nn.Module, example: torch.Tensor, graph: Graph) -> list[str]:
    """In what the lowered graph differs from the source: keys, outputs in both modes, buffers after a train step."""
    lowered = to_torch(graph)
    differences = [] if list(lowered.state_dict()) == list(network.state_dict()) else ["state_dict keys differ"]
    for training in (False, True):
        pairs = zip(*(outputs_of(m, example, training=training) for m in (network, lowered)), strict=True)
        if not all(torch.equal(a, b) for a, b in pairs):
            differences.append(f"outputs differ in {'train' if training else 'eval'} mode")
    own = lowered.state_dict()
    if not all(torch.equal(tensor, own[key]) for key, tensor in network.state_dict().items() if key in own):
        differences.append("buffers differ after a train step")
    return differences


def training_differences(network: nn.Module, example: torch.Tensor, graph: Graph) -> list[str]:
    """In what the lowered graph trains unlike the source, which is trained too: see `Trial`; in float64, if it is not large.

    Two steps of SGD, with `example` and with another number of samples, and eval mode before and after.
    """
    lowered = to_torch(graph)
    held = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    with torch.no_grad():  # not load_state_dict, in which MNASNet changes its layers
        for name, tensor in lowered.state_dict().items():
            if name in held:
                held[name].copy_(tensor)
    batches = [[example], [torch.randn(len(example) + 1, *example.shape[1:])]]
    large = sum(p.numel() for p in network.parameters()) > LARGE
    trial = Trial(batches, dtype=None, tolerance=ROUNDING) if large else Trial(batches)
    return list(trial.differences(network, lowered))


def _check_spaces(row: Row, graph: Graph, spaces: ChannelSpaces, sample: int | None) -> None:
    kept = MergedValues(graph, spaces)
    chosen = sampled(spaces.free, sample)
    worst = dict.fromkeys(("split", "new", "prune"), 0.0)
    row.checked = 0
    for space in chosen:
        try:
            errors = kept.errors(space.name, space.size // 2)
        except Exception as error:  # one space must not hide the others
            row.failures.append(f"space '{space.name}': {_told(error)}")
            continue
        finally:
            gc.collect()
        row.checked += 1
        for kind, found in (("split", errors.split), ("new", errors.new), ("prune", errors.prune or Found(0.0, ""))):
            worst[kind] = max(worst[kind], found.error)
            if found.error > BAR:
                row.failures.append(f"space '{space.name}': {kind} is off by {found.error:.1e} at node '{found.node}'")
    row.split, row.new, row.prune = worst["split"], worst["new"], worst["prune"]
    _check_merges(row, kept, chosen)
    _check_insertions(row, kept)
    kept.check_untouched()
    expected = kept.outputs()
    del kept
    gc.collect()
    _check_removals(row, graph, spaces)
    _check_all_at_once(row, graph, spaces, expected)


def _check_merges(row: Row, kept: MergedValues, spaces: Sequence[ChannelSpace]) -> None:
    """Merges of some spaces, one at a time."""
    chosen = _spread(spaces, PLACES)
    checks = {f"space '{s.name}': merge": partial(kept.merged, s.name, s.size // 2) for s in chosen}
    row.merged, row.merge = _each(row, checks)


def _check_insertions(row: Row, kept: MergedValues) -> None:
    """Layers at some cut points, one at a time."""
    points = cut_points(kept.graph, kept.spaces)
    chosen = _spread([point for point in points if multiplications(point) <= AFFORDABLE], PLACES)
    checks = {f"insertion at '{point.value}'": partial(kept.inserted, point) for point in chosen}
    row.cut_points = len(points)
    row.inserted, row.insert = _each(row, checks)


def _check_removals(row: Row, graph: Graph, spaces: ChannelSpaces) -> None:
    """Removals of some layers, one at a time."""

    def without(layer: RemovableLayer) -> Found:
        return Found(removal_error(graph, spaces, layer, probe_of(graph))[1], graph.outputs[0])

    layers = removable_layers(graph, spaces)
    checks = {
        f"removal of the layer at '{layer.value}'": partial(without, layer) for layer in _spread(layers, REMOVALS)
    }
    row.removable = len(layers)
    row.removed, row.remove = _each(row, checks)


def _each(row: Row, checks: Mapping[str, Callable[[], Found | None]]) -> tuple[int, float]:
    """How many of the checks found something, and the worst error; what is wrong goes to the failures of the row."""
    count, worst = 0, 0.0
    for name, check in checks.items():
        try:
            found = check()
        except Exception as error:  # one check must not hide the others
            row.failures.append(f"{name}: {_told(error)}")
            continue
        finally:
            gc.collect()
        if found is not None:
            count, worst = count + 1, max(worst, found.error)
            if found.error > BAR:
                row.failures.append(f"{name} is off by {found.error:.1e} at node '{found.node}'")
    return count, worst


def _spread(places: Sequence[T], most: int) -> Sequence[T]:
    """At most so many of them, evenly spread."""
    return places[:: max(1, math.ceil(len(places) / most))]


def _check_all_at_once(row: Row, graph: Graph, spaces: ChannelSpaces, expected: list[torch.Tensor]) -> None:
    """One morphism of every free space at once, compared at the outputs."""
    names = {space.name: space.size // 2 for space in spaces.free}
    row.all_split = _error_after(graph, spaces, [SplitChannel(name, c) for name, c in names.items()], expected)
    row.all_new = _error_after(graph, spaces, [NewChannel(name) for name in names], expected)
    prunes = [PruneChannel(name, channel) for name, channel in names.items() if spaces[name].size > 1]
    reference = _outputs(masked(graph, spaces, prunes))
    row.all_prune = _error_after(graph, spaces, prunes, reference)
    merges = merges_of_all(spaces)
    row.all_merge = _error_after(graph, spaces, merges, _outputs(masked(graph, spaces, merges)))
    for kind in ("split", "new", "prune", "merge"):
        error = getattr(row, f"all_{kind}")
        if error > BAR:
            row.failures.append(f"{kind} of every space at once is off by {error:.1e}")


def _error_after(
    graph: Graph, spaces: ChannelSpaces, morphisms: Sequence[Morphism], expected: list[torch.Tensor]
) -> float:
    return relative(_outputs(applied(graph, spaces, morphisms)), expected)


def _outputs(graph: Graph) -> list[torch.Tensor]:
    with torch.no_grad():
        result = lower(graph).module(*probe_of(graph))
    gc.collect()
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
