"""What a network takes: inputs that lie per sample, and those that all samples share; samples to trace with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch

from gngraph.errors import DataError
from gngraph.ir.graph import Graph
from gngraph.ir.types import BATCH, Node, TensorType, replace_refs

SHARED_VALUE = "value"
"""Role of the values that an input which all samples share has where none is given: those of the example."""

SHARED = "shared"
"""Op of such an input where a network takes samples alone: it is what it has for values, and its axes belong to no space."""

WITHIN_NETWORK = "within"
"""Attribute of an input that is a value within a network, of which a part is run."""

_SAMPLES_FIRST = "_samples_first"
"""Behind the name of an input whose samples lie along its second axis, where they are taken batch first."""

_over_samples: WeakKeyDictionary[Graph, Graph] = WeakKeyDictionary()


def example(input_shape: tuple[int, ...]) -> torch.Tensor:
    """Two random samples to trace with, f32 [2, *input_shape]; always the same ones."""
    return torch.randn(2, *input_shape, generator=torch.Generator().manual_seed(0))


def is_shared(node: Node) -> bool:
    """Whether all samples share an input, such as a mask for all of them: its type has no axis of samples."""
    return BATCH not in node.shape


def of_samples(graph: Graph) -> tuple[str, ...]:
    """Names of the inputs that have an entry for each sample along one of their axes."""
    return tuple(name for name in graph.inputs if not is_shared(graph.nodes[name]))


def named_by_data(graph: Graph) -> tuple[str, ...]:
    """Names by which data has the inputs of samples, in order: those of the network, also of a graph that `over_samples` gave."""
    return tuple(name.partition(_SAMPLES_FIRST)[0] for name in of_samples(graph))


def values_of_shared(graph: Graph) -> Mapping[str, str]:
    """Input that all samples share -> the parameter that has its values of the example."""
    held = {name: graph.nodes[name].params.get(SHARED_VALUE) for name in graph.inputs}
    return {name: param for name, param in held.items() if param is not None}


def over_samples(graph: Graph) -> Graph:
    """A graph that takes samples alone, and takes and gives them batch first.

    What they share is held at the values of the example, as a buffer would hold it. Nodes and parameters keep their names. It is
    the graph itself where that is so anyway, and else the same one every time.
    """
    held, behind = values_of_shared(graph), any(samples_behind(graph.nodes[name]) for name in graph.inputs)
    if not held and not behind:
        return graph
    if graph not in _over_samples:
        nodes: dict[str, Node] = {}
        for name, node in graph.nodes.items():
            turned = name in graph.inputs and samples_behind(node)
            if turned:
                first = _turned(node, _free_name(graph, f"{name}{_SAMPLES_FIRST}"))
                nodes[first.name] = replace(first, op="input", inputs=(), attrs=node.attrs)
                node = replace(_turned(first, name), scope=node.scope)
            nodes[name] = replace(node, op=SHARED, attrs={}) if name in held else node
        gives = {
            name: _turned(graph.nodes[name], _free_name(graph, f"{name}_given"))
            for name in graph.outputs
            if behind and samples_behind(graph.nodes[name])
        }
        nodes |= {node.name: node for node in gives.values()}
        inputs = tuple(name for name, node in nodes.items() if node.op == "input")
        output = replace_refs(graph.output, {name: node.name for name, node in gives.items()})
        _over_samples[graph] = replace(graph, nodes=nodes, inputs=inputs, output=output, arguments=None)
    return _over_samples[graph]


def samples_behind(node: Node) -> bool:
    """Whether samples lie along the second axis of a value."""
    return node.shape[1:2] == (BATCH,) and WITHIN_NETWORK not in node.attrs


def _turned(node: Node, name: str) -> Node:
    """A node, of that name, that swaps the first two axes of another."""
    assert isinstance(node.type, TensorType)
    one, other, *rest = node.shape
    return Node(
        name, "transpose", (node.name,), {}, {"dim0": 0, "dim1": 1}, TensorType(node.type.dtype, (other, one, *rest))
    )


def _free_name(graph: Graph, name: str) -> str:
    """A name that no node has."""
    while name in graph.nodes:
        name += "_"
    return name


def without_shared_values(graph: Graph) -> Graph:
    """A graph whose inputs have no values, as a module is that is given all of them."""
    held = values_of_shared(graph)
    if not held:
        return graph
    nodes = {name: replace(node, params={}) if name in held else node for name, node in graph.nodes.items()}
    gone = set(held.values())
    return replace(graph, nodes=nodes, params={name: p for name, p in graph.params.items() if name not in gone})


def with_shared(graph: Graph, x: torch.Tensor | tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """All inputs of a network, on the CPU: beside those of samples what these share, at the example's values.

    Args:
        graph: the network.
        x: the samples, [N, ...]; several such of a network with several inputs of samples, in its order.
    """
    given = {name: graph.params[param].data for name, param in values_of_shared(graph).items()}
    pairs = zip(of_samples(graph), x if isinstance(x, tuple) else (x,), strict=True)
    own = {name: one.transpose(0, 1) if samples_behind(graph.nodes[name]) else one for name, one in pairs}
    return tuple((given | own)[name].detach().cpu() for name in graph.inputs)


def reads_tokens(graph: Graph) -> bool:
    """Whether the only input of samples is of whole numbers."""
    types = [graph.nodes[name].type for name in of_samples(graph)]
    return len(types) == 1 and isinstance(types[0], TensorType) and types[0].dtype in ("i64", "i32", "u8")


def input_shape_of(graph: Graph) -> tuple[int, ...]:
    """Shape of one sample of the only input of samples.

    Raises:
        DataError: there are several, or as `input_shapes_of` does.
    """
    found = input_shapes_of(graph)
    if len(found) == 1:
        return next(iter(found.values()))
    raise DataError(
        f"network '{graph.name}' has the inputs {', '.join(found)} of samples, and not one alone, to have a shape"
    )


def input_shapes_of(graph: Graph) -> dict[str, tuple[int, ...]]:
    """Shape of one sample of each input of samples, by its name, in order.

    Raises:
        DataError: there is none, sizes are not fixed, or an input that all samples share has no values.
    """
    valued = values_of_shared(graph)
    bare = [name for name in graph.inputs if is_shared(graph.nodes[name]) and name not in valued]
    if bare:
        raise DataError(
            f"input '{bare[0]}' of network '{graph.name}' is for all samples and has no values, which data sets do not give: "
            f"import the network with an example of it"
        )
    found = {name: [size for size in graph.nodes[name].shape if size != BATCH] for name in of_samples(graph)}
    if not found or not all(isinstance(size, int) for sizes in found.values() for size in sizes):
        types = [graph.nodes[name].type for name in graph.inputs]
        raise DataError(f"network '{graph.name}' has the inputs {types}; data sets are for networks that take samples")
    return {name: tuple(int(size) for size in sizes) for name, sizes in found.items()}
