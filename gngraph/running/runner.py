"""`Runner`: runs networks over data on one device, and keeps what running takes."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import torch
from torch import fx
from torch.utils.data import Subset
from torch.utils.weak import WeakTensorKeyDictionary

from gngraph.data import Augment, HeldDataset, MapDataset, Sample, batches
from gngraph.data.held import as_tensors, read_whole, repeats, unwound
from gngraph.data.inputs import SampleInputs, each, in_order
from gngraph.ir import Graph
from gngraph.ir.inputs import named_by_data, over_samples
from gngraph.lowering.interpreter import Interpreter
from gngraph.lowering.layout import layout_of, training_layout_of
from gngraph.lowering.to_torch import Lowered, lower
from gngraph.ranks import here

OfBatch = TypeVar("OfBatch")

HELD_BYTES = 2**30
"""Bytes of samples that a runner keeps on its device, beside those that lie there anyway. What goes beyond is read every time."""


class Runner:
    """Lowered networks, each lowered once, and samples, read and moved once, on one device.

    Nobody else holds the modules that it runs: they stay in eval mode, without hooks, and share memory with their graphs. What
    changes a module (training, statistics that are measured anew) lowers one of its own. A network and samples are let go of with
    the graph and the data set that they belong to. Not for several threads.

    Args:
        device: where networks run and samples lie.
        batch_size: samples a batch, where nothing else is asked for.
        memory: see `HELD_BYTES`.
    """

    def __init__(self, device: torch.device, batch_size: int, memory: int = HELD_BYTES) -> None:
        self.device = device
        self.batch_size = batch_size
        self.memory = memory
        self._lowered: weakref.WeakKeyDictionary[Graph, Lowered] = weakref.WeakKeyDictionary()
        self._tensors = WeakTensorKeyDictionary()
        self._held: weakref.WeakKeyDictionary[MapDataset, HeldDataset | None] = weakref.WeakKeyDictionary()
        self._copied: weakref.WeakKeyDictionary[HeldDataset, int] = weakref.WeakKeyDictionary()

    def __reduce__(self) -> tuple[Any, ...]:
        """A copy, as another process gets it with a problem, holds nothing yet."""
        return Runner, (self.device, self.batch_size, self.memory)

    def outputs(self, graph: Graph, x: SampleInputs) -> Any:
        """What `graph` returns in eval mode, without gradients, for samples on the device, with inputs in the graph's order."""
        return self._run(graph, *each(x))

    def function(self, graph: Graph) -> Callable[..., Any]:
        """`outputs` of one graph, called with its inputs one by one."""
        return partial(self._run, graph)

    @torch.no_grad()
    def _run(self, graph: Graph, *inputs: Any) -> Any:
        return self._network(graph).module(*inputs)

    @torch.no_grad()
    def watch(self, graph: Graph, x: SampleInputs, seen: Callable[[str, Any], None]) -> None:
        """Run `graph` in eval mode, and call `seen` with the name and the value of every node, when it is computed.

        Args:
            graph: whose values are asked for.
            x: samples on the device, batch first.
            seen: keeps what it needs: values are let go of when nothing else reads them.
        """
        _Watcher(self._network(graph), seen).run(*each(x))

    def read(
        self,
        samples: MapDataset,
        graph: Graph,
        *,
        size: int | None = None,
        shuffle: torch.Generator | None = None,
        own: slice = slice(None),
    ) -> Iterator[Sample]:
        """Batches of some samples that `graph` is measured on, lying in memory as it reads them fastest.

        All are read once and kept, as far as they fit into the memory, so that what is measured twice is measured on the same
        samples even where a data set draws them anew.

        Args:
            samples: the data set, or the split of one.
            graph: what is to read them.
            size: samples a batch; None: the runner's own.
            shuffle: None: in order; else shuffled by it, and its state advances.
            own: which of the batches.

        Raises:
            DataError: see `gngraph.data.batches`.
        """
        held = self._samples(samples, anew=False)
        found = batches(
            held, size or self.batch_size, generator=shuffle, device=self.device, layout=layout_of(graph), own=own
        )
        return _in_order(found, graph)

    def over(
        self,
        samples: MapDataset,
        graph: Graph,
        work: Callable[[Any, Any], OfBatch],
        *,
        size: int | None = None,
    ) -> list[OfBatch]:
        """What `work` gives for each batch of some samples, in their order. Processes that work together take turns.

        Args:
            samples: the data set, or the split of one.
            graph: what is to read them.
            work: called with x and y; what it gives pickles, and has its tensors on the CPU.
            size: samples a batch; None: the runner's own.

        Raises:
            DataError: see `gngraph.data.batches`.
        """
        turns = slice(here().rank, None, here().size)
        return here().joined(work(x, y) for x, y in self.read(samples, graph, size=size, own=turns))

    def read_to_train(
        self,
        samples: MapDataset,
        graph: Graph,
        generator: torch.Generator,
        *,
        augment: Augment | None,
        size: int | None = None,
        done: int = 0,
    ) -> Iterator[Sample]:
        """Batches of some samples that `graph` is trained on, shuffled and augmented.

        They are kept where they are known to be the same at every reading: what a data set of the user's own draws anew is to be
        drawn anew.

        Args:
            samples: the data set, or a part of one.
            graph: what is to read them.
            generator: for the order and for the augmentation; its state advances.
            augment: applied to each batch.
            size: samples a batch; None: the runner's own.
            done: batches to leave out, the first ones.

        Raises:
            DataError: see `gngraph.data.batches`.
        """
        held = self._samples(samples, anew=True)
        found = batches(
            held,
            size or self.batch_size,
            generator=generator,
            augment=augment,
            device=self.device,
            layout=training_layout_of(graph),
            own=slice(done, None),
        )
        return _in_order(found, graph)

    def placed(self, graph: Graph) -> Graph:
        """`graph` with its parameters on the device, each moved there once, in whichever graphs it is."""
        return replace(graph, params={name: replace(p, data=self._there(p.data)) for name, p in graph.params.items()})

    def _there(self, tensor: torch.Tensor) -> torch.Tensor:
        if tensor.device == self.device:
            return tensor
        if tensor not in self._tensors:
            self._tensors[tensor] = tensor.to(self.device)
        there: torch.Tensor = self._tensors[tensor]
        return there

    def _network(self, graph: Graph) -> Lowered:
        if graph not in self._lowered:
            self._lowered[graph] = lower(self.placed(over_samples(graph)))
        return self._lowered[graph]

    def _samples(self, dataset: MapDataset, anew: bool) -> MapDataset:
        """The samples as they are kept; `anew`: where that may make a difference, as they are."""
        root, rows = unwound(dataset)
        there = self._kept(root, self._moved) if as_tensors(root, self.device) is not None else None
        if there is not None:
            return there if rows is None else Subset(there, rows)
        if anew and not repeats(root):
            return dataset
        return self._kept(dataset, self._read) or dataset

    def _kept(self, dataset: MapDataset, hold: Callable[[MapDataset], HeldDataset | None]) -> HeldDataset | None:
        try:
            if dataset not in self._held:
                self._held[dataset] = hold(dataset)
            return self._held[dataset]
        except TypeError:  # it cannot be told when it is let go of, as with a list
            return None

    def _moved(self, dataset: MapDataset) -> HeldDataset | None:
        there = as_tensors(dataset, self.device)
        assert there is not None
        if there.device == self.device:
            return there
        return self._counted(there.to(self.device)) if there.nbytes <= self._room() else None

    def _read(self, dataset: MapDataset) -> HeldDataset | None:
        return self._counted(read_whole(dataset, self.device, self._room()))

    def _room(self) -> int:
        return self.memory - sum(self._copied.values())

    def _counted(self, held: HeldDataset | None) -> HeldDataset | None:
        if held is not None:
            self._copied[held] = held.nbytes
        return held


def _in_order(stream: Iterator[Sample], graph: Graph) -> Iterator[Sample]:
    """Batches with their inputs in the order in which a graph takes them."""
    names = named_by_data(graph)
    return ((in_order(x, names), y) for x, y in stream)


class _Watcher(Interpreter):
    """Runs a lowered graph and tells of the value of every node."""

    def __init__(self, lowered: Lowered, seen: Callable[[str, Any], None]) -> None:
        super().__init__(lowered.module)
        self._seen = seen
        self._names: dict[fx.Node, list[str]] = {}
        for name, step in lowered.values.items():
            self._names.setdefault(step, []).append(name)

    def run_node(self, n: fx.Node) -> Any:
        """Run one step."""
        value = super().run_node(n)
        for name in self._names.get(n, ()):
            self._seen(name, value)
        return value
