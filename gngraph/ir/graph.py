"""`Graph`: an immutable snapshot of a network."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType

import torch

from gngraph.errors import IRError
from gngraph.ir.casting import cast, node_as
from gngraph.ir.types import Attr, Items, Node, Parameter, refs_in


@dataclass(frozen=True, eq=False)
class Graph:
    """An immutable network: nodes in topological order and the parameters they read.

    Two graphs are equal only when they are the same object, so that a result cached for a snapshot can never be stale.
    Graphs that differ by an edit share everything that the edit did not touch.

    `print(graph)` shows a line a node, `gngraph.ir.format_graph` writes the whole of it.

    >>> from gngraph.ir.types import Ref, TensorType
    >>> nodes = {"x": Node("x", "input", type=TensorType("f32", ("N", 4)))}
    >>> nodes["y"] = Node("y", "linear", ("x",), {"weight": "head"}, type=TensorType("f32", ("N", 2)))
    >>> graph = Graph("Net", nodes, {"head": Parameter(torch.ones(2, 4))}, ("x",), Ref("y"))
    >>> graph
    <Graph Net(%x) -> %y: 2 nodes, 8 parameters>
    >>> print(graph)
    Net(%x) -> %y: 2 nodes, 8 parameters
      %x = input() : f32[N,4]
      %y = linear(%x) : f32[N,2], 8 parameters

    Attributes:
        name: name of the source's class; names the generated class too.
        nodes: node name -> node, in topological order; inputs come first.
        params: parameter name -> parameter, in state_dict order.
        inputs: names of the input nodes (op "input"), in calling order.
        output: what the network returns: a `Ref`, or tuples / `Items` of them.
        arguments: what `forward` takes, by name, each a `Ref` of an input, a constant, or tuples / `Listed` / `Items` of them;
            None where every input is an argument of its name.
    """

    name: str
    nodes: Mapping[str, Node]
    params: Mapping[str, Parameter]
    inputs: tuple[str, ...]
    output: Attr
    arguments: Items | None = None

    def __post_init__(self) -> None:
        for name in ("nodes", "params"):
            value = getattr(self, name)
            if not isinstance(value, MappingProxyType):
                object.__setattr__(self, name, MappingProxyType(dict(value)))

    def __repr__(self) -> str:
        return f"<Graph {self._summary()}>"

    def __str__(self) -> str:
        return "\n".join((self._summary(), *map(self._line, self.nodes.values())))

    def _summary(self) -> str:
        size = f"{len(self.nodes)} nodes, {self.num_params():,} parameters"
        return f"{self.name}({_values(self.inputs)}) -> {_values(self.outputs)}: {size}"

    def _line(self, node: Node) -> str:
        count = sum(self.params[name].count for name in dict.fromkeys(node.params.values()))
        size = f", {count:,} parameters" if count else ""
        return f"  %{node.name} = {node.op}({_values(node.inputs)}) : {node.type}{size}"

    @cached_property
    def _user_table(self) -> dict[str, tuple[str, ...]]:
        table: dict[str, list[str]] = {name: [] for name in self.nodes}
        for node in self.nodes.values():
            for source in dict.fromkeys(node.inputs):
                table[source].append(node.name)
        return {name: tuple(users) for name, users in table.items()}

    @cached_property
    def _reader_table(self) -> dict[str, tuple[tuple[str, str], ...]]:
        table: dict[str, list[tuple[str, str]]] = {name: [] for name in self.params}
        for node in self.nodes.values():
            for role, param in node.params.items():
                table[param].append((node.name, role))
        return {name: tuple(readers) for name, readers in table.items()}

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the values that the network returns."""
        return tuple(refs_in(self.output))

    def __getitem__(self, name: str) -> Node:
        """The node called `name`.

        Raises:
            IRError: no such node.
        """
        try:
            return self.nodes[name]
        except KeyError:
            raise IRError(f"graph '{self.name}' has no node '{name}'") from None

    def users(self, name: str) -> tuple[str, ...]:
        """Names of the nodes that read value `name`, in topological order (the output is not a node)."""
        self[name]
        return self._user_table[name]

    def readers(self, param: str) -> tuple[tuple[str, str], ...]:
        """(node name, role) of every use of parameter `param`."""
        return self._reader_table[param]

    def with_params(self, data: Mapping[str, torch.Tensor]) -> Graph:
        """This graph with the tensors of `data` in place of its own; O(#parameters).

        Raises:
            IRError: a name is unknown or a shape differs (use a draft to change widths).
        """
        params = dict(self.params)
        for name, tensor in data.items():
            if name not in params:
                raise IRError(f"graph '{self.name}' has no parameter '{name}'")
            if params[name].data.shape != tensor.shape:
                raise IRError(
                    f"parameter '{name}' has shape {tuple(params[name].data.shape)} and cannot take shape "
                    f"{tuple(tensor.shape)}; change widths through a draft"
                )
            params[name] = replace(params[name], data=tensor)
        return replace(self, params=params)

    def to(self, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Graph:
        """This graph with every floating-point number as `dtype`, and every parameter on `device`.

        Parameters become `dtype`, and so does what the forward casts to a floating-point dtype or makes in one: unlike a module,
        in which `x.float()` stays what it is, a graph in float64 computes in float64 alone. Integers and flags stay.

        Raises:
            IRError: a parameter has no values (the graph was parsed from text), and is to be moved to where it must have some.
        """
        placed = device is not None and torch.device(device).type != "meta"
        for name, parameter in self.params.items():
            if placed and parameter.data.is_meta:
                raise IRError(
                    f"parameter '{name}' has no values; load an archive, or set them by graph.with_params(...)"
                )

        def moved(tensor: torch.Tensor) -> torch.Tensor:
            return tensor.to(device=device, dtype=None if dtype is None else cast(tensor.dtype, dtype))

        params = {k: replace(p, data=moved(p.data)) for k, p in self.params.items()}
        nodes = self.nodes if dtype is None else {k: node_as(node, dtype) for k, node in self.nodes.items()}
        return replace(self, nodes=nodes, params=params)

    def num_params(self) -> int:
        """Number of entries of all nn.Parameters (buffers are not counted)."""
        return sum(p.count for p in self.params.values())


def checked(graph: Graph) -> Graph:
    """The graph itself.

    Raises:
        IRError: something else was given.
    """
    if not isinstance(graph, Graph):
        raise IRError(
            f"a Graph is wanted, but a '{type(graph).__name__}' was given; gngraph.from_torch(module, example_inputs) makes one "
            f"of a module"
        )
    return graph


def _values(names: Iterable[str]) -> str:
    return ", ".join(f"%{name}" for name in names)
