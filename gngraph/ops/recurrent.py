"""Recurrent layers and cells as whole modules: their gates are bands of one space, the hidden state.

Torch's layers have one hidden size for all of their layers and directions, so that these are one space too: a channel of it is a
unit of each. A new one is read with zeros, by its own layer among others, which leaves all that was there as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import fx, nn

from gngraph.errors import IRError
from gngraph.ir import Node, TensorType, TupleType, Type
from gngraph.ops.rules import read_attrs, set_each
from gngraph.ops.sizes import sizes_of
from gngraph.ops.spec import Call, ChannelRules, Emitter, Factor, Layout, Operands, OpSpec, signature
from gngraph.ops.stepwise import OWN_STATE, PASSED_BY, stepwise
from gngraph.ops.table import register

_MODULES: dict[str, type[nn.RNNBase]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn": nn.RNN}
GATES = {"lstm": 4, "gru": 3, "rnn": 1, "lstm_cell": 4, "gru_cell": 3, "rnn_cell": 1}
"""Gates of each unit, each with a row of the weights, by op."""
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
    node, layout = operands.node, rules.layout(0, 2)
    for axis in (0, 1):
        rules.freeze(rules.layout(0, axis), f"the {node.op} goes along it")
    rules.measure(("input_size",), layout)
    _, _, directions = _sizes(node)
    suffixes = [
        (layer, f"l{layer}{end}")
        for layer in range(int(node.attrs["num_layers"]))
        for end in ("", "_reverse")[:directions]
    ]
    state = _state(rules, operands, [f"_{suffix}" for _, suffix in suffixes])
    rules.measure(("hidden_size",), state)
    given = state
    if node.attrs.get("proj_size"):
        projected = [rules.produce(f"weight_hr_{suffix}", 0) for _, suffix in suffixes]
        given = rules.unify([*projected])
        for _, suffix in suffixes:
            rules.consume(f"weight_hr_{suffix}", 1, state)
        for held in (state, given):
            rules.freeze(held, "the state is projected, which torch allows to a smaller size alone")
    for layer, suffix in suffixes:
        rules.consume(f"weight_ih_{suffix}", 1, layout if layer == 0 else (given or ()) * directions)
        rules.consume(f"weight_hh_{suffix}", 1, given)
    _unify_states(rules, operands, given)
    rules.set(2, (given or ()) * directions)
    if not node.attrs.get("proj_size"):
        rules.set(2, given, 1)


def _state(rules: ChannelRules, operands: Operands, suffixes: Sequence[str]) -> Layout | None:
    """The hidden state, of which each gate has a band in the rows of the weights, and in the biases."""
    gates = GATES[operands.node.op]
    hidden = int(operands.params[f"weight_hh{suffixes[0]}"].shape[0]) // gates
    found: list[Layout | None] = []
    for suffix in suffixes:
        for role in (f"weight_ih{suffix}", f"weight_hh{suffix}"):
            found += rules.divide(rules.produce(role, 0), [hidden] * gates, "a gate cuts through its channels")
    state = rules.unify(found)
    for suffix in suffixes:
        for role in (f"bias_ih{suffix}", f"bias_hh{suffix}"):
            if role in operands.params:
                rules.follow(role, 0, (state or ()) * gates, "zeros")
    return state


def _unify_states(rules: ChannelRules, operands: Operands, state: Layout | None) -> None:
    """The states that are handed in have the channels of those that come out."""
    for i, type_ in enumerate(operands.inputs[1:], start=1):
        for item in range(len(type_.items) if isinstance(type_, TupleType) else 1):
            given = rules.item_layouts(i, item)
            last = _last_axis(type_.items[item] if isinstance(type_, TupleType) else type_)
            for axis, layout in given.items():
                if axis != last:
                    rules.freeze(layout, f"it is no channel of a state of the {operands.node.op}")
            rules.unify([state, given.get(last)])


def _last_axis(type_: Type) -> int:
    """Axis of the channels in a state, or in those that a tuple of them holds."""
    first = type_.items[0] if isinstance(type_, TupleType) else type_
    return len(first.shape) - 1 if isinstance(first, TensorType) else -1


def _emit(emitter: Emitter, node: Node) -> fx.Node:
    make: Any = _MODULES[node.op]
    options = {name: value for name, value in node.attrs.items() if name != "hx"}
    state = {} if node.attrs["hx"] is None else {"hx": emitter.resolve(node.attrs["hx"])}
    return emitter.module(lambda: make(device="meta", **options), emitter.value(node.inputs[0]), **state)


def _reads(node: Node, role: str) -> int | None:
    return 0 if role in ("weight_ih_l0", "weight_ih_l0_reverse") else OWN_STATE


def _products(operands: Operands) -> tuple[tuple[Factor, ...], ...]:
    """Products of each layer's weights with what it reads and with its state, at every place of every sequence."""
    places = sizes_of(operands, 0, (0, 1))
    weights = (role for role in operands.params if role.startswith("weight"))
    return tuple((*places, (role, 0), (role, 1)) for role in weights)


for _name, _module in _MODULES.items():
    register(
        OpSpec(
            _name,
            _infer,
            _channels,
            _emit,
            products=_products,
            reads=_reads,
            channel_axis=-1,
            stepwise=stepwise,
            modules={_module: read_attrs(*_OPTIONS, *_OWN[_name])},
            call=Call(signature("input hx=None")),
            evaluated=lambda node: replace(node, attrs={**node.attrs, "dropout": 0.0}),
        )
    )


_CELLS: dict[str, type[nn.RNNCellBase]] = {"lstm_cell": nn.LSTMCell, "gru_cell": nn.GRUCell, "rnn_cell": nn.RNNCell}


def _infer_cell(operands: Operands) -> Type:
    node, x, width = operands.node, operands.tensor(), operands.params["weight_ih"].shape[1]
    if len(x.shape) != 2 or x.shape[1] != width:
        raise IRError(f"node '{node.name}' ({node.op}) needs a batch of {width} features, not '{x}'")
    state = TensorType(x.dtype, (x.shape[0], operands.params["weight_hh"].shape[1]))
    return TupleType((state, state)) if node.op == "lstm_cell" else state


def _cell_channels(rules: ChannelRules, operands: Operands) -> None:
    layout = rules.layout(0, 1)
    rules.measure(("input_size",), layout)
    rules.consume("weight_ih", 1, layout)
    state = _state(rules, operands, [""])
    rules.measure(("hidden_size",), state)
    rules.consume("weight_hh", 1, state)
    _unify_states(rules, operands, state)
    set_each(rules, operands, 1, state)


def _emit_cell(emitter: Emitter, node: Node) -> fx.Node:
    make: Any = _CELLS[node.op]
    options = {name: value for name, value in node.attrs.items() if name != "hx"}
    state = {} if node.attrs["hx"] is None else {"hx": emitter.resolve(node.attrs["hx"])}
    return emitter.module(lambda: make(device="meta", **options), emitter.value(node.inputs[0]), **state)


def _cell_reads(node: Node, role: str) -> int | None:
    if role == "weight_ih":
        return 0
    if len(node.inputs) == 1:
        return None  # its first state is zero
    return PASSED_BY if node.op == "gru_cell" else 1


def _cell_products(operands: Operands) -> tuple[tuple[Factor, ...], ...]:
    return tuple(((role, 0), (role, 1)) for role in operands.params if role.startswith("weight"))


for _name, _cell in _CELLS.items():
    _options = ("input_size", "hidden_size", "bias", *(("nonlinearity",) if _name == "rnn_cell" else ()))
    register(
        OpSpec(
            _name,
            _infer_cell,
            _cell_channels,
            _emit_cell,
            products=_cell_products,
            reads=_cell_reads,
            channel_axis=-1,
            modules={_cell: read_attrs(*_options)},
            call=Call(signature("input hx=None")),
        )
    )
