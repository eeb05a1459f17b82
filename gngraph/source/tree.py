"""The module tree of a lowered graph, and which of its modules can have a `forward` of their own."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from torch import fx, nn

from gngraph.ir import Graph, Node
from gngraph.lowering.to_torch import Lowered

Kind = Literal["leaf", "sequence", "block", "list", "holder"]
"""A torch module; an nn.Sequential; a class with a forward; an nn.ModuleList; a class without a forward."""


@dataclass(frozen=True)
class Item:
    """One step of a forward: an operation, or a call of a module that has a forward of its own.

    Attributes:
        value: the fx node of the result.
        operands: fx nodes of the values it reads, with repetitions; parameters are not values.
        target: path of the module that it calls, if any.
    """

    value: fx.Node
    operands: tuple[fx.Node, ...]
    target: str | None


@dataclass(frozen=True)
class Region:
    """The steps of one forward.

    Attributes:
        items: the steps in order.
        inputs: values from outside, in the order of their first use.
        output: what the forward returns: an fx node, or for the root tuples and dictionaries of them.
    """

    items: tuple[Item, ...]
    inputs: tuple[fx.Node, ...]
    output: Any

    def uses(self, value: fx.Node) -> list[int]:
        """Numbers of the items that read `value`, once for each time; the return counts as one more item."""
        return self._use_table.get(value, [])

    @cached_property
    def _use_table(self) -> dict[fx.Node, list[int]]:
        table: dict[fx.Node, list[int]] = {}
        for index, operands in enumerate((*(item.operands for item in self.items), nodes_in(self.output))):
            for operand in operands:
                table.setdefault(operand, []).append(index)
        return table


def nodes_in(value: Any) -> Iterator[fx.Node]:
    """The fx nodes in an argument, in order, with repetitions."""
    found: list[fx.Node] = []
    fx.node.map_arg(value, found.append)
    yield from found


def values_read(node: fx.Node) -> tuple[fx.Node, ...]:
    """The values among the arguments of `node`: parameters and flags, which a forward reads from `self`, left out."""
    return tuple(arg for arg in nodes_in((node.args, node.kwargs)) if arg.op != "get_attr")


class Tree:
    """The modules of a lowered graph by path.

    Attributes:
        lowered: the lowered graph.
        origins: fx node -> the IR node that it was lowered from.
        arguments: what the network takes, see `Graph.arguments`.
    """

    def __init__(self, graph: Graph, lowered: Lowered) -> None:
        self.lowered = lowered
        self.arguments = graph.arguments
        self.origins: dict[fx.Node, Node] = {}
        self._modules = dict(lowered.module.named_modules(remove_duplicate=False))
        for name, steps in lowered.steps.items():
            self.origins.update(dict.fromkeys(steps, graph.nodes[name]))
        self._steps = [n for n in lowered.module.graph.nodes if n.op not in ("placeholder", "get_attr", "output")]
        self._spans = dict(self._callable_spans())
        self._regions: dict[str, Region] = {}

    @cached_property
    def function_names(self) -> set[str]:
        """Names of the functions that are called anywhere; no variable may hide them."""
        return {getattr(n.target, "__name__", "") for n in self._steps if n.op == "call_function"}

    def module(self, path: str) -> nn.Module | None:
        """The module at `path`; None for one that only computes and holds nothing."""
        return self._modules.get(path)

    def kind(self, path: str) -> Kind:
        """What is written for the module at `path`."""
        names = [child.rpartition(".")[2] for child in self.children(path)]
        numbered = bool(names) and names == [str(i) for i in range(len(names))]
        if self.is_leaf(path):
            return "leaf"
        if path and path in self._spans:
            return "sequence" if numbered and self.is_chain(path) else "block"
        return "block" if not path else "list" if numbered and not self._holds_tensors(path) else "holder"

    def is_leaf(self, path: str) -> bool:
        """Whether the module is one of torch's, or another library's."""
        return bool(path) and type(self._modules.get(path, nn.Module())) is not nn.Module

    def inside(self, path: str) -> list[str]:
        """Paths of the modules that hang in a leaf, and are called beside it: an activation in a norm that brings its own."""
        return self._inside.get(path, [])

    def has_forward(self, path: str) -> bool:
        """Whether its steps stand together, with one result, and read no parameters from elsewhere."""
        return path in self._spans

    def is_chain(self, path: str) -> bool:
        """Whether each child is called once, in order, on the result of the one before, and nothing else happens."""
        region = self.region(path)
        if [item.target for item in region.items] != self.children(path) or self._holds_tensors(path):
            return False
        results = [*region.inputs, *(item.value for item in region.items)]
        links = zip(region.items, results, strict=False)
        return (
            len(region.inputs) == 1
            and region.output is results[-1]
            and all(item.operands == (source,) for item, source in links)
        )

    def region(self, path: str) -> Region:
        """The steps of the forward at `path`; inner modules with a forward are one step each."""
        if path not in self._regions:
            self._regions[path] = self._read_region(path)
        return self._regions[path]

    def children(self, path: str) -> list[str]:
        """Paths of the child modules in the order they are constructed.

        Those with tensors keep the order of the state_dict; the others stand where they are called.
        """
        below = self._below.get(path, [])
        if path not in self._spans:
            ordered = sorted(below, key=_number)
            stateful = [child for child in below if child in self._stateful]
            return ordered if [child for child in ordered if child in self._stateful] == stateful else below
        prefix = f"{path}." if path else ""
        called = [item.target for item in self.region(path).items if item.target is not None]
        called = list(dict.fromkeys(prefix + target.removeprefix(prefix).split(".")[0] for target in called))
        ordered = [child for child in below if child in self._stateful]
        for index, child in enumerate(called):
            if child not in self._stateful:
                ordered.insert(ordered.index(called[index - 1]) + 1 if index else 0, child)
        return ordered + [child for child in below if child not in ordered]

    def tensors(self, path: str) -> Iterator[tuple[str, Any]]:
        """Names and tensors that the module at `path` itself registers, parameters first."""
        module = self._modules.get(path)
        if module is not None:
            yield from (*module._parameters.items(), *module._buffers.items())

    def is_constant(self, path: str, name: str) -> bool:
        """Whether the tensor `name` of the module at `path` is outside the state_dict."""
        module = self._modules.get(path)
        return module is not None and name in module._non_persistent_buffers_set

    def _holds_tensors(self, path: str) -> bool:
        return any(True for _ in self.tensors(path))

    @cached_property
    def _below(self) -> Mapping[str, list[str]]:
        """Children by path, in the order of the state_dict; what leaves hold inside is theirs."""
        table: dict[str, list[str]] = {}
        for path in [*self._modules, *self._spans]:
            for child in _prefixes(path):
                parent = child.rpartition(".")[0]
                if not self.is_leaf(parent) and child not in table.setdefault(parent, []):
                    table[parent].append(child)
        return table

    @cached_property
    def _inside(self) -> dict[str, list[str]]:
        """What is called inside of leaves, by the path of the leaf."""
        table: dict[str, list[str]] = {}
        for step in self._steps:
            for child in _prefixes(str(step.target)) if step.op == "call_module" else ():
                parent = child.rpartition(".")[0]
                if self.is_leaf(parent) and child not in table.setdefault(parent, []):
                    table[parent].append(child)
        return table

    @cached_property
    def _stateful(self) -> set[str]:
        """Modules with an entry of the state_dict."""
        keys = self.lowered.module.state_dict().keys()
        return {prefix for key in keys for prefix in _prefixes(key.rpartition(".")[0])}

    def _callable_spans(self) -> Iterator[tuple[str, tuple[int, int]]]:
        yield "", (0, len(self._steps))
        found: dict[str, list[int]] = {}
        for index, step in enumerate(self._steps):
            for path in _prefixes(self.origins[step].scope):
                found.setdefault(path, []).append(index)
        for path, indices in found.items():
            span = indices[0], indices[-1] + 1
            together = span[1] - span[0] == len(indices)
            closed = all(read == "training" or read.startswith(f"{path}.") for read in self._reads(span))
            if together and closed and not self.is_leaf(path) and len(self._results(span)) == 1:
                yield path, span

    def _reads(self, span: tuple[int, int]) -> Iterator[str]:
        """Paths of the modules and parameters that the steps call and read."""
        for step in self._steps[slice(*span)]:
            yield from (str(arg.target) for arg in nodes_in((step.args, step.kwargs)) if arg.op == "get_attr")
            if step.op == "call_module":
                yield str(step.target)

    def _results(self, span: tuple[int, int]) -> list[fx.Node]:
        inside = set(self._steps[slice(*span)])
        return [step for step in self._steps[slice(*span)] if any(user not in inside for user in step.users)]

    def _read_region(self, path: str) -> Region:
        start, end = self._spans[path]
        prefix = f"{path}." if path else ""
        starts: dict[int, list[str]] = {}
        for inner, span in self._spans.items():
            if inner.startswith(prefix) and inner != path:
                starts.setdefault(span[0], []).append(inner)
        items, index = [], start
        while index < end:
            step = self._steps[index]
            inner_paths = starts.get(index)
            if inner_paths:
                inner = min(inner_paths, key=len)
                span = self._spans[inner]
                items.append(Item(self._results(span)[0], self._inputs(span), inner))
                index = span[1]
            else:
                target = str(step.target) if step.op == "call_module" else None
                items.append(Item(step, values_read(step), target))
                index += 1
        if not path:
            graph = self.lowered.module.graph
            inputs = tuple(n for n in graph.nodes if n.op == "placeholder")
            return Region(tuple(items), inputs, graph.output_node().args[0])
        return Region(tuple(items), self._inputs((start, end)), self._results((start, end))[0])

    def _inputs(self, span: tuple[int, int]) -> tuple[fx.Node, ...]:
        steps = self._steps[slice(*span)]
        inside = set(steps)
        return tuple(dict.fromkeys(arg for step in steps for arg in values_read(step) if arg not in inside))


def _prefixes(path: str) -> list[str]:
    """A path and those of what it lies in, the outermost first.

    >>> _prefixes("a.b.c")
    ['a', 'a.b', 'a.b.c']
    """
    parts = path.split(".") if path else []
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _number(path: str) -> int:
    """The number that the last part of `path` is; names come after all numbers."""
    name = path.rpartition(".")[2]
    return int(name) if name.isdecimal() else sys.maxsize
