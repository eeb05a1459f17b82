"""What is known of values while a network is traced: enough to decide Python control flow on sizes, without any data."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import torch
from torch import fx, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from gngraph.importing.copies import meta_twin, on_meta
from gngraph.importing.inputs import ExampleInputs, InputAxis
from gngraph.importing.plain_numbers import plain_numbers
from gngraph.importing.shapes import Shapes, ShapesSeen, without_values
from gngraph.lowering.counting import CountingInterpreter

SAMPLE_COUNTS = (2, 3)
"""What holds for both of these numbers of samples is taken to hold for all."""

_OF_DEVICES = (getattr, operator.eq, operator.ne)
"""What a forward asks of a device."""


class Undecided(Exception):
    """A value is not known without data, or depends on the number of samples."""


class Shadow:
    """A graph under construction, run on the meta device as far as it is asked for: shapes and dtypes, no numbers.

    Args:
        module: what is traced, as it was before; it is not changed, and none of its tensors is copied.
        root: the copy of it that is traced, in the mode of the trace; it has the constants that were made on the way.
        graph: its graph so far.
        inputs: example inputs.
        known: see `Shapes`.
    """

    def __init__(
        self, module: nn.Module, root: nn.Module, graph: fx.Graph, inputs: ExampleInputs, known: ShapesSeen
    ) -> None:
        self._graph = graph
        self._shapes = Shapes(known)
        self._inputs = inputs
        twin = on_meta(module)
        modes = {path: child.training for path, child in root.named_modules()}
        for path, child in twin.named_modules():
            child.training = modes.get(path, child.training)
        self._run_on: Callable[[Sequence[torch.Tensor]], MetaRun] = partial(MetaRun, twin, root, graph)
        self._runs = [self._run_on(inputs.without_data(count)) for count in SAMPLE_COUNTS]
        self._plain: dict[fx.Node, None] = {}

    def value(self, node: fx.Node) -> Any:
        """The number, flag or text that a node computes.

        Raises:
            Undecided: it is not known without data, or it depends on the number of samples.
        """
        return self._agreed(node, lambda value: value)

    def length(self, node: fx.Node) -> int:
        """How many items a tuple, shape or tensor has.

        Raises:
            Undecided: as for `value`.
        """
        return int(self._agreed(node, len))

    def kind(self, node: fx.Node) -> type:
        """The Python type of what a node computes.

        Raises:
            Undecided: as for `value`.
        """
        found: type = self._agreed(node, type)
        return found

    def both(self, node: fx.Node) -> tuple[Any, Any] | None:
        """What a node computes for each of `SAMPLE_COUNTS`; None where it is not known without data."""
        try:
            with torch.no_grad(), self._shapes:
                first, second = (run.upto(node) for run in self._runs)
        except Exception:  # whatever an op raises that cannot run without data
            return None
        return first, second

    def everything(self) -> list[tuple[Mapping[fx.Node, Any], Mapping[fx.Node, int]]]:
        """Every value of the whole graph, and the multiply-adds that it takes, for each of `SAMPLE_COUNTS`.

        Raises what an op raises that cannot run without data.
        """
        last = next(reversed(self._graph.nodes))
        for run in self._runs:
            with torch.no_grad(), self._shapes, run.counting():
                run.upto(last)
        return [(run.env, run.multiply_adds) for run in self._runs]

    def seen(self) -> list[Mapping[fx.Node, Any]]:
        """The values that were computed so far, for each of `SAMPLE_COUNTS`."""
        return [self._with_plain(run.env) for run in self._runs]

    def values(self, axis: InputAxis, size: int) -> Mapping[fx.Node, Any]:
        """The values of the whole graph where one axis of an input is of another size: all before the first call that fails."""
        sizes = {axis: size}
        run = self._run_on(self._inputs.without_data(SAMPLE_COUNTS[0], sizes))
        with (
            torch.no_grad(),
            self._shapes,
            suppress(Exception),
        ):  # whatever an op raises for such a size, or without data
            run.upto(next(reversed(self._graph.nodes)))
        return self._with_plain(run.env)

    def _agreed(self, node: fx.Node, read: Any) -> Any:
        try:
            with torch.no_grad(), self._shapes:
                first, second = (read(run.upto(node)) for run in self._runs)
        except Exception as error:  # whatever an op raises that cannot run without data
            first, second = self._made_of_sizes(node, error)
        if isinstance(first, torch.Tensor):
            first, second = self._made_of_sizes(node, None)
        if first != second:
            raise Undecided("depends on the number of samples")
        return first

    def _made_of_sizes(self, node: fx.Node, error: Exception | None) -> tuple[Any, Any]:
        """The number that a tensor of one entry holds, for each of `SAMPLE_COUNTS`, where no data enters it."""
        made = [plain_numbers(self._graph, run.env, node, run.modules).get(node) for run in self._runs]
        first, second = (x.item() if isinstance(x, torch.Tensor) and x.numel() == 1 else None for x in made)
        if first is None or second is None:
            raise Undecided("is not known without data") from error
        self._plain[node] = None
        return first, second

    def _with_plain(self, values: Mapping[fx.Node, Any]) -> Mapping[fx.Node, Any]:
        """The values of a run, with the numbers of those that were looked at though they are tensors."""
        if not self._plain:
            return values
        numbers = plain_numbers(self._graph, values, next(reversed(self._plain)), self._runs[0].modules)
        return {**values, **{node: numbers[node].item() for node in self._plain if node in numbers}}


def _of_meta(value: Any) -> Any:
    """Arguments with the meta device in place of any other."""
    return tree_map_only(torch.device, lambda device: torch.device("meta"), value)


def _together(value: Any) -> Any:
    """Arguments without values where one has none: a tensor that a forward makes has its own, unless a device was named."""
    return (
        without_values(value) if any(isinstance(x, torch.Tensor) and x.is_meta for x in tree_leaves(value)) else value
    )


class MetaRun(CountingInterpreter):
    """A run of a graph on the meta device, step by step.

    Args:
        twin: the module, without values.
        source: the module with all the constants that the graph reads.
        graph: what is run.
        inputs: without values.
    """

    def __init__(self, twin: nn.Module, source: nn.Module, graph: fx.Graph, inputs: Sequence[torch.Tensor]) -> None:
        super().__init__(twin, garbage_collect_values=False, graph=graph)
        self._source = source
        self._device = next((x.device for x in (*source.parameters(), *source.buffers())), torch.device("cpu"))
        self._inputs = iter(inputs)
        self._last: fx.Node = graph._root

    def upto(self, node: fx.Node) -> Any:
        """The value of a node, which is computed with all before it where it is not known."""
        while node not in self.env:
            self._last = self._last.next
            self.env[self._last] = self.run_node(self._last)
        return self.env[node]

    @property
    def modules(self) -> Mapping[str, nn.Module]:
        """The leaves by path."""
        return self.submodules

    def placeholder(self, target: Any, args: Any, kwargs: Any) -> Any:
        """The next input, or the default among `args` of an argument; `target` and `kwargs` are not looked at."""
        return next(self._inputs, args[0] if args else None)

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A call of `target` with `args` and `kwargs`; a tensor says that it is where the network is, for a forward may ask."""
        if target is getattr and args[1] == "device" and isinstance(args[0], torch.Tensor):
            return self._device
        if target not in _OF_DEVICES:
            args, kwargs = _of_meta((args, kwargs))
        return super().call_function(target, *_together((args, kwargs)))

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A call of the method `target` with `args` and `kwargs`, where no tensor leaves the meta device."""
        return super().call_method(target, *_together(_of_meta((args, kwargs))))

    # while torch.fx traces, calls of modules and reads of their attributes are recorded: neither may happen here

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        """The leaf `target`, called with `args` and `kwargs`."""
        return self.submodules[str(target)].forward(*args, **kwargs)

    def fetch_attr(self, target: str) -> Any:
        """A tensor that the graph reads by its name."""
        value = _attribute(self._source, target)  # which has also the constants that were made on the way
        if isinstance(value, fx.Proxy):  # a forward has set it anew, as it does to bring a tensor to where its input is
            value = _attribute(self.module, target)
        return meta_twin(value) if isinstance(value, torch.Tensor) else value


def _attribute(module: nn.Module, target: str) -> Any:
    value: Any = module
    for part in target.split("."):
        held = vars(value)
        tables = (held, *(held.get(table, {}) for table in ("_parameters", "_buffers", "_modules")))
        value = next(table[part] for table in tables if part in table)
    return value
