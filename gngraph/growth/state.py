"""The state of a run between two of its steps, and its form as JSON and tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

import torch

from gngraph.growth.history import Lineage, Record
from gngraph.ir import Graph, parse
from gngraph.ir.text import format_graph
from gngraph.ir.types import dtype_name, dtype_of
from gngraph.training.gradients import WHOLE
from gngraph.training.optimizer_state import OptimizerState
from gngraph.training.progress import EpochRecord, PartEpoch, Progress

Point = Literal["begin", "train", "depth", "recover", "decide"]
"""What comes next in a round."""


@dataclass
class RunState:
    """What a run is at one moment, beside its account (`Journal`): the rest of it follows from its task.

    Attributes:
        graph: the network.
        optimizer: what its optimiser remembers.
        lineage: where its channels come from.
        share: of new initial weights that are mixed in after rewrites.
        doubted: see `GrowthResult`.
        number: of the round, from 1.
        point: what comes next in it.
        record: of the round, as far as it is known.
        restructured: layers that went in the round, and what others became, see `morphism_entries`.
        epochs_done: of training.
        borrowed: epochs of the final training that a recovery took.
        rises_from: see `Stretch`.
        rate_share: of the full learning rate; halved where training diverged after a rewrite.
        rewritten: by what the network was, the last time, in words.
        slowed: whether the stretch of training that comes or goes on is at half the rate, for it diverged before.
        piece: see `Trainer`.
        at_a_time: samples a batch of analyses, less than the problem asks for where memory ran out; None: as it asks.
        notes: that the record of the round will have.
        worths: see `WorthRecord`.
        allocation: rule that a lookahead found; None: it did not yet, or there is none.
        progress: of a stretch of training that began with `graph` and `optimizer`.
    """

    graph: Graph
    optimizer: OptimizerState
    lineage: Lineage
    share: float
    doubted: bool
    number: int = 1
    point: Point = "begin"
    record: Record = field(default_factory=dict)
    restructured: dict[str, Record] = field(default_factory=dict)
    epochs_done: int = 0
    borrowed: int = 0
    rises_from: int = 0
    rate_share: float = 1.0
    rewritten: str = ""
    slowed: bool = False
    piece: int = WHOLE
    at_a_time: int | None = None
    notes: list[str] = field(default_factory=list)
    worths: dict[str, float] = field(default_factory=dict)
    allocation: str | None = None
    progress: Progress | None = None

    def packed(self) -> tuple[Record, dict[str, torch.Tensor]]:
        """The state as JSON and tensors; these share memory with it."""
        record: Record = {name: getattr(self, name) for name in _plain()}
        record |= {"graph": format_graph(self.graph).splitlines(), "lineage": self.lineage.as_dict(), "progress": None}
        record["optimizer"], tensors = _packed(self.graph, self.optimizer, "")
        if self.progress is not None:
            part = self.progress.part
            own: Record = {"epochs": [asdict(epoch) for epoch in self.progress.epochs], "part": None}
            own["optimizer"], inside = _packed(self.progress.graph, self.progress.state, "training/")
            tensors |= inside
            for kind in _BESIDE:
                named = getattr(self.progress, kind)
                own[kind] = list(named)
                tensors |= {f"{kind}/{name}": tensor for name, tensor in named.items()}
            if part is not None:
                tensors |= {f"part/{name}": tensor for name, tensor in (*part.sums.items(), *part.random.items())}
                plain = {name: getattr(part, name) for name in ("steps", "samples", "total", "rate", "seconds")}
                own["part"] = plain | {"sums": list(part.sums), "random": list(part.random)}
            record["progress"] = own
        return record, tensors

    @classmethod
    def unpacked(cls, record: Record, tensors: Mapping[str, torch.Tensor]) -> RunState:
        """The state that `packed` gave.

        Args:
            record: the JSON.
            tensors: beside it.
        """
        graph, optimizer = _unpacked(parse("\n".join(record["graph"])), record["optimizer"], tensors, "")
        state = cls(
            **{name: record[name] for name in _plain()},
            graph=graph,
            optimizer=optimizer,
            lineage=Lineage.of(record["lineage"]),
        )
        own = record["progress"]
        if own is not None:
            now = _unpacked(graph, own["optimizer"], tensors, "training/")
            epochs = tuple(EpochRecord(**epoch) for epoch in own["epochs"])
            beside = ({name: tensors[f"{kind}/{name}"] for name in own[kind]} for kind in _BESIDE)
            state.progress = Progress(*now, epochs, _part(own["part"], tensors), *beside)
        return state


_BESIDE = ("average", "best", "scaling")
"""Fields of a `Progress` that are tensors by name, the last ones, in order."""


def _plain() -> list[str]:
    """Fields of a state that are JSON as they are."""
    return [own.name for own in fields(RunState) if own.name not in ("graph", "optimizer", "lineage", "progress")]


def _packed(graph: Graph, state: OptimizerState, under: str) -> tuple[Record, dict[str, torch.Tensor]]:
    """What an optimiser remembers as JSON, and its tensors and those of the network; the names of both begin alike."""
    tensors = {f"{under}graph/{name}": p.data for name, p in graph.params.items()}
    tensors |= {f"{under}optimizer/{p}/{key}": t for p, own in state.entries.items() for key, t in own.items()}
    return {"entries": {name: list(own) for name, own in state.entries.items()}, "powers": dict(state.powers)}, tensors


def _unpacked(
    graph: Graph, kept: Record, tensors: Mapping[str, torch.Tensor], under: str
) -> tuple[Graph, OptimizerState]:
    graph = graph.with_params({name: tensors[f"{under}graph/{name}"] for name in graph.params})
    entries = {p: {k: tensors[f"{under}optimizer/{p}/{k}"] for k in own} for p, own in kept["entries"].items()}
    return graph, OptimizerState(entries, kept["powers"])


def _part(kept: dict[str, Any] | None, tensors: Mapping[str, torch.Tensor]) -> PartEpoch | None:
    if kept is None:
        return None

    def named(names: Iterable[str]) -> dict[str, torch.Tensor]:
        return {name: tensors[f"part/{name}"] for name in names}

    return PartEpoch(**kept | {"sums": named(kept["sums"]), "random": named(kept["random"])})


def laid_out(tensors: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], Record]:
    """Tensors as safetensors takes them, contiguous and apart, and how those lay in memory that were not.

    Strides are kept, and which tensors share memory: rounding may depend on the one, training on the other.

    >>> a = torch.arange(6.0).reshape(2, 3)
    >>> kept, layouts = laid_out({"a": a, "b": a.T, "c": torch.zeros(2)})
    >>> list(kept), layouts["b"]["stride"]
    (['memory/a', 'c'], [1, 3])
    >>> found = as_laid_out(kept, layouts)
    >>> torch.equal(found["b"], a.T), found["b"].data_ptr() == found["a"].data_ptr()
    (True, True)
    """
    here = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    owners: dict[int, list[str]] = {}
    for name, tensor in here.items():
        owners.setdefault(tensor.untyped_storage().data_ptr(), []).append(name)
    kept: dict[str, torch.Tensor] = {}
    layouts: Record = {}
    for name, tensor in here.items():
        own = owners[tensor.untyped_storage().data_ptr()]
        if tensor.is_contiguous() and (len(own) == 1 or not tensor.numel()):
            kept[name] = tensor
            continue
        memory = f"memory/{own[0]}"
        kept[memory] = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
        layouts[name] = {
            "memory": memory,
            "dtype": dtype_name(tensor.dtype),
            "offset": tensor.storage_offset(),
            "shape": list(tensor.shape),
            "stride": list(tensor.stride()),
        }
    return kept, layouts


def as_laid_out(kept: Mapping[str, torch.Tensor], layouts: Record) -> dict[str, torch.Tensor]:
    """The tensors that `laid_out` took.

    Args:
        kept, layouts: what it gave.
    """
    found = {name: tensor for name, tensor in kept.items() if not name.startswith("memory/")}
    for name, own in layouts.items():
        empty = torch.empty(0, dtype=dtype_of(own["dtype"]))
        memory = kept[own["memory"]].untyped_storage()
        found[name] = empty.set_(memory, own["offset"], own["shape"], own["stride"])
    return found
