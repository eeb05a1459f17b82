"""Each op in a small network: exact morphisms of every space that is free, and flags that say what the op does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.equivalence import probe_of, relative_error
from gngraph.files import archive
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph, TensorType, format_graph, parse, same_structure
from gngraph.lowering.to_torch import lower
from gngraph.ops import lookup, spec
from gngraph.ops.rules import all_axes
from gngraph.rewrite.morphism import NewChannel, SplitChannel
from gngraph.scoring.sites import PRODUCTS
from gngraph.source.export import to_source
from tests.coverage_row import round_trip_differences
from tests.morphism_errors import applied, errors_of
from tests.op_networks import CASES, build


@pytest.mark.parametrize("name", CASES)
def test_free_spaces_and_exact_morphisms(name: str) -> None:
    graph = from_torch(*build(name))
    assert tuple(n.attrs["target"] for n in graph.nodes.values() if n.op == "foreign") == CASES[name].foreign
    spaces = ChannelSpaces.of(graph)
    assert {s.name: s.size for s in spaces.free} == CASES[name].free, [(s.name, s.size, s.frozen) for s in spaces]
    assert all(space.frozen is None or space.frozen.isprintable() for space in spaces)
    for space in spaces.free:
        for channel in {0, space.size - 1}:
            errors = errors_of(graph, spaces, space.name, channel)
            assert max(errors.split, errors.new, errors.masked, errors.values) < 1e-12, (space.name, channel, errors)


@pytest.mark.parametrize("name", CASES)
def test_round_trips(name: str, tmp_path: Path) -> None:
    network, example = build(name)
    graph = from_torch(network, example)
    assert round_trip_differences(network, example, graph) == []
    grown = graph
    for _ in range(2):  # what grew once must grow again
        spaces = ChannelSpaces.of(grown)
        grown = applied(grown, spaces, [m for s in spaces.free for m in (SplitChannel(s.name, 0), NewChannel(s.name))])
    assert relative_error(graph, grown.to(torch.float64)) < 1e-5
    for each in (graph, grown):
        archive.save(each, tmp_path / "graph.gng")
        assert same_structure(archive.load(tmp_path / "graph.gng"), each)
        assert same_structure(parse(format_graph(each)), each)
        to_source(each)  # proves that what it writes computes the same


@pytest.mark.parametrize("name", CASES)
def test_types_and_flags_are_true(name: str) -> None:
    """Inferred types are the computed ones; a channelwise op keeps channels apart, a linear one is affine."""
    graph = from_torch(*build(name)).to(torch.float64)
    spaces = ChannelSpaces.of(graph)
    lowered = lower(graph)
    interpreter = fx.Interpreter(lowered.module, garbage_collect_values=False)
    with torch.no_grad():
        interpreter.run(*probe_of(graph))
        values = {name: interpreter.env[step] for name, step in lowered.values.items()}
        for node in graph.nodes.values():
            if isinstance(node.type, TensorType):
                assert values[node.name].shape == tuple(2 if d == "N" else d for d in node.type.shape), node
                if node.op not in ("input", "parameter"):
                    _check_flags(graph, spaces, node.name, values)


def _check_flags(graph: Graph, spaces: ChannelSpaces, name: str, values: dict[str, Tensor]) -> None:
    node, flags = graph.nodes[name], lookup(graph.nodes[name].op)
    inputs = [i for i in dict.fromkeys(node.inputs) if isinstance(values[i], Tensor) and values[i].is_floating_point()]
    if flags.linear and node.op not in PRODUCTS and len(node.inputs) == len(inputs):
        other = {i: torch.randn_like(values[i]) for i in inputs}
        middle = {i: 0.3 * values[i] + 0.7 * other[i] for i in inputs}
        mixed = 0.3 * values[name] + 0.7 * _run(graph, name, values | other)
        assert torch.allclose(_run(graph, name, values | middle), mixed, atol=1e-10), f"{node.op} is not linear"
    if flags.channelwise:
        for space in spaces.free:
            if any(own == space.name for own, _, _ in _segments(spaces, name)):
                changed = {i: _changed(spaces, i, space.name, values[i]) for i in inputs}
                mask = _changed(spaces, name, space.name, torch.zeros_like(values[name]).double()) == 0
                difference = (_run(graph, name, values | changed).double() - values[name].double())[mask]
                assert float(difference.abs().max()) < 1e-10, f"{node.op} mixes the channels of '{space.name}'"


def _segments(spaces: ChannelSpaces, value: str) -> list[tuple[str, int, int]]:
    return [segment for (name, _), segments in spaces.layouts.items() if name == value for segment in segments]


def _changed(spaces: ChannelSpaces, value: str, space: str, tensor: Tensor) -> Tensor:
    """`tensor` with other numbers in the entries of channel 0 of a space."""
    tensor = tensor.clone()
    for (name, axis), segments in spaces.layouts.items():
        start = 0
        for own, size, inner in segments:
            if (name, own) == (value, space):
                part = tensor.narrow(axis, start, inner)
                part.add_(torch.rand_like(part) + 0.5)
            start += size * inner
    return tensor


def _run(graph: Graph, name: str, values: dict[str, Tensor]) -> Tensor:
    """The value of a node, computed from `values`."""
    lowered = lower(graph)
    interpreter = fx.Interpreter(lowered.module)
    for source in graph.nodes[name].inputs:
        interpreter.env[lowered.values[source]] = values[source]
    for step in lowered.steps[name]:
        interpreter.env[step] = interpreter.run_node(step)
    result: Tensor = interpreter.env[lowered.values[name]]
    return result


@pytest.mark.parametrize(
    ("case", "op", "message"),
    [
        ("prelu", "prelu", "prelu is not linear"),
        ("local response norm", "local_response_norm", "local_response_norm mixes the channels of 'first'"),
    ],
)
def test_a_false_flag_is_seen(case: str, op: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    claimed = replace(lookup(op), channels=all_axes, channelwise=True, linear=op == "prelu")
    monkeypatch.setitem(spec._TABLE, op, claimed)
    with pytest.raises(AssertionError, match=message):
        test_types_and_flags_are_true(case)
