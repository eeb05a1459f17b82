"""Recurrent layers as whole modules: what they read can grow, their hidden state keeps its width."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import fx, nn

from gngraph.errors import IRError
from gngraph.ir import Node, TensorType, TupleType, Type
from gngraph.ops.rules import read_attrs
from gngraph.ops.sizes import sizes_of
from gngraph.ops.spec import Call, ChannelRules, Emitter, Factor, Operands, OpSpec, register, signature

_MODULES: dict[str, type[nn.RNNBase]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
_GATES = {"lstm": 4, "gru": 3, "rnn": 1}
_OPTIONS = ("input_size", "hidden_size", "num_layers", "bias", "batch_first", "dropout", "bidirectional")
_OWN = {"lstm": ("proj_size",), "gru": (), "rnn": ("nonlinearity",)}


def _sizes(node: Node) -> tuple[int, int, int]:
    """Width of the hidden state, width of what a layer gives in one direction, and number of directions."""
    hidden, projected = int(node.attrs["hidden_size"]), int(node.attrs.get("proj_size", 0))
    return hidden, projected or hidden, 1 + bool(node.attrs["bidirectional"])


def _infer(operands: Operands) -> Type:
    node, x = operands.node, operands.tensor()
    if len(x.shape) != 3 or x.shape[2] != operands.params["weight_ih_l0"].shape[1]:
        width = operands.params["weight_ih_l0"].shape[1]
        raise IRError(f"node '{node.name}' ({node.op}) needs batches of sequences of {width} features, not '{x}'")
    hidden, given, directions = _sizes(node)
    batch = x.shape[0 if node.attrs["batch_first"] else 1]
    layers = directions * int(node.attrs["num_layers"])
    out = TensorType(x.dtype, (*x.shape[:2], given * directions))
    state: Type = TensorType(x.dtype, (layers, batch, given))
    if node.op == "lstm":
        state = TupleType((state, TensorType(x.dtype, (layers, batch, hidden))))
    return TupleType((out, state))


def _channels(rules: ChannelRules, operands: Operands) -> None:
    layout = rules.layout(0, 2)
    for axis in (0, 1):
        rules.freeze(rules.layout(0, axis), f"the {operands.node.op} goes along it")
    for role in ("weight_ih_l0", "weight_ih_l0_reverse"):
        if role in operands.params:
            rules.consume(role, 1, layout)
    rules.measure(("input_size",), layout)
    for i, type_ in enumerate(operands.inputs[1:], start=1):
        for item in range(len(type_.items) if isinstance(type_, TupleType) else 1):
            for state in rules.item_layouts(i, item).values():
                rules.freeze(state, f"it is a state of the {operands.node.op}")


def _emit(emitter: Emitter, node: Node) -> fx.Node:
    make: Any = _MODULES[node.op]
    options = {name: value for name, value in node.attrs.items() if name != "hx"}
    state = {} if node.attrs["hx"] is None else {"hx": emitter.resolve(node.attrs["hx"])}
    return emitter.module(lambda: make(device="meta", **options), emitter.value(node.inputs[0]), **state)


def _products(operands: Operands) -> tuple[tuple[Factor, ...], ...]:
    """Products of each layer's weights with what it reads and with its state, at every place of every sequence."""
    node = operands.node
    hidden, given, directions = _sizes(node)
    places = sizes_of(operands, 0, (0, 1))
    rows = _GATES[node.op] * hidden * directions

    def layers() -> Iterator[tuple[Factor, ...]]:
        for layer in range(int(node.attrs["num_layers"])):
            yield (*places, rows, (0, 2) if layer == 0 else given * directions)
            yield (*places, rows, given)
            if given != hidden:
                yield (*places, hidden * directions, given)

    return tuple(layers())


for _name, _module in _MODULES.items():
    register(
        OpSpec(
            _name,
            _infer,
            _channels,
            _emit,
            products=_products,
            modules={_module: read_attrs(*_OPTIONS, *_OWN[_name])},
            call=Call(signature("input hx=None")),
            evaluated=lambda node: replace(node, attrs={**node.attrs, "dropout": 0.0}),
        )
    )
