"""Products over axes: matmul, einsum, scaled dot-product attention; of two values, or of a value and a raw parameter.

Each axis of each operand has a letter, as in einsum. A raw parameter is a weight: a letter that it shares with the value is
read (and, if the result has it too, accompanied), a letter that only it has is written. A matmul may read it transposed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx
from torch.nn import functional as F

from gngraph.errors import IRError
from gngraph.ir import Dim, Node, Ref, TensorType, Type
from gngraph.ops.sizes import hold_size, scaled, sizes_of
from gngraph.ops.spec import Call, ChannelRules, Emitter, Factor, Layout, Operands, OpSpec, signature
from gngraph.ops.starts import within
from gngraph.ops.table import register
from gngraph.ops.traits import of_each

WEIGHT = "weight"
"""Role of a raw parameter among the operands."""


@dataclass(frozen=True)
class _Terms:
    """Letters of each operand's axes and of the result's. The operand at `weight` is the parameter, if any."""

    operands: tuple[tuple[str, ...], ...]
    result: tuple[str, ...]
    weight: int | None

    def values(self) -> list[tuple[str, ...]]:
        """Letters of the operands that are values, in order."""
        return [letters for i, letters in enumerate(self.operands) if i != self.weight]


def _shapes(operands: Operands) -> list[tuple[Dim, ...]]:
    shapes: list[tuple[Dim, ...]] = [operands.tensor(i).shape for i in range(len(operands.inputs))]
    at = operands.node.attrs["weight_at"]
    if at is not None:
        shapes.insert(at, operands.params[WEIGHT].shape)
    return shapes


def _matmul_terms(operands: Operands) -> _Terms:
    shapes = _shapes(operands)
    if len(shapes) != 2 or min(len(shape) for shape in shapes) < 1:
        raise IRError(f"node '{operands.node.name}' (matmul) needs two operands of at least one axis")
    batches = [[f"batch{i}" for i in range(len(shape) - 2, 0, -1)] for shape in shapes]
    row, column = (("row",) if len(shapes[0]) > 1 else ()), (("column",) if len(shapes[1]) > 1 else ())  # of no vector
    terms = [(*batches[0], *row, "inner"), (*batches[1], "inner", *column)]
    at = operands.node.attrs["weight_at"]
    if operands.node.attrs.get("transposed"):
        if at is None or len(terms[at]) != 2:
            raise IRError(f"node '{operands.node.name}' (matmul) can transpose only a raw parameter of two axes")
        terms[at] = terms[at][::-1]
    return _Terms((terms[0], terms[1]), (*max(batches, key=len), *row, *column), at)


def _einsum_terms(operands: Operands) -> _Terms:
    node, shapes = operands.node, _shapes(operands)
    inputs, arrow, result = str(node.attrs["equation"]).replace(" ", "").partition("->")
    terms = inputs.split(",")
    if len(terms) != len(shapes):
        raise IRError(f"node '{node.name}' (einsum) has {len(shapes)} operands for '{inputs}'")
    if not arrow:
        count = Counter(inputs.replace(",", "").replace(".", ""))
        result = ("..." if "..." in inputs else "") + "".join(sorted(c for c in count if count[c] == 1))
    hidden = 0
    expanded = []
    for term, shape in zip(terms, shapes, strict=True):
        missing = len(shape) - len(term.replace("...", ""))
        hidden = max(hidden, missing if "..." in term else 0)
        letters = _expanded(term, missing)
        if len(letters) != len(shape) or len(set(letters)) != len(letters):
            raise IRError(f"node '{node.name}' (einsum) reads {tuple(shape)} as '{term}'")
        expanded.append(letters)
    return _Terms(tuple(expanded), _expanded(result, hidden), node.attrs["weight_at"])


def _expanded(term: str, hidden: int) -> tuple[str, ...]:
    before, dots, after = term.partition("...")
    return (*before, *(f"batch{i}" for i in range(hidden, 0, -1) if dots), *after)


def _infer_of(terms_of: Callable[[Operands], _Terms]) -> Callable[[Operands], Type]:
    def infer(operands: Operands) -> Type:
        terms = terms_of(operands)
        sizes: dict[str, Dim] = {}
        for letters, shape in zip(terms.operands, _shapes(operands), strict=True):
            for letter, size in zip(letters, shape, strict=True):
                known = sizes.setdefault(letter, size)
                if known == 1:
                    sizes[letter] = size
                elif size not in (known, 1):
                    raise IRError(
                        f"node '{operands.node.name}' ({operands.node.op}) multiplies axes of sizes '{known}' and '{size}'"
                    )
        return TensorType(operands.tensor().dtype, tuple(sizes[letter] for letter in terms.result))

    return infer


def _channels_of(terms_of: Callable[[Operands], _Terms]) -> Callable[[ChannelRules, Operands], None]:
    def channels(rules: ChannelRules, operands: Operands) -> None:
        terms = terms_of(operands)
        weight = terms.operands[terms.weight] if terms.weight is not None else ()
        for letter in dict.fromkeys(letter for letters in terms.operands for letter in letters):
            layout = _of_values(rules, operands, terms, letter)
            used = any(letter in letters for letters in terms.values())
            kept = letter in terms.result
            if letter in weight:
                axis = weight.index(letter)
                if not used and kept:
                    layout = rules.produce(WEIGHT, axis)
                elif used and kept:
                    rules.follow(WEIGHT, axis, layout, "random")
                elif used:
                    rules.consume(WEIGHT, axis, layout)
            elif not kept:
                _sum_over(rules, operands, terms, letter)
            if kept:
                rules.set(terms.result.index(letter), layout)

    return channels


def _sum_over(rules: ChannelRules, operands: Operands, terms: _Terms, letter: str) -> None:
    """What a product of two values sums over is written by the one and read by the other; of any other it stays."""
    places = [(i, letters.index(letter)) for i, letters in enumerate(terms.values()) if letter in letters]
    reason = f"{operands.node.op} sums over it"
    if len(places) == 2 and len({operands.tensor(i).shape[axis] for i, axis in places}) == 1:
        rules.contract(places, reason)
        return
    for i, axis in places:
        rules.freeze(rules.layout(i, axis), reason)


def _of_values(rules: ChannelRules, operands: Operands, terms: _Terms, letter: str) -> Layout | None:
    """The common layout of the value axes with a letter; an axis of 1 that is broadcast must stay so."""
    axes = [(i, letters.index(letter)) for i, letters in enumerate(terms.values()) if letter in letters]
    sizes = [operands.tensor(i).shape[axis] for i, axis in axes]
    if len(set(sizes)) > 1:
        for (i, axis), size in zip(axes, sizes, strict=True):
            if size == 1:
                rules.freeze(rules.layout(i, axis), "its single channel is broadcast")
        axes = [place for place, size in zip(axes, sizes, strict=True) if size != 1]
    return rules.unify([rules.layout(i, axis) for i, axis in axes]) if axes else None


def _contracted(terms: _Terms) -> Iterator[tuple[str, ...]]:
    """The letters of each product that is summed over, operand by operand from the left, as torch multiplies them.

    What only one of the two has, and nothing later reads, is summed before; a product of which nothing is summed is as free as
    any other element-wise one.
    """
    left = terms.operands[0]
    for place, right in enumerate(terms.operands[1:], start=2):
        later = {*terms.result, *(letter for letters in terms.operands[place:] for letter in letters)}
        letters = tuple(
            letter
            for letter in dict.fromkeys((*left, *right))
            if letter in later or (letter in left and letter in right)
        )
        left = tuple(letter for letter in letters if letter in later)
        if left != letters:
            yield letters


def _factors(operands: Operands, terms: _Terms, letters: Iterable[str]) -> tuple[Factor, ...]:
    """The sizes of `letters`, as axes of the values."""
    axes = [(i, axis, letter) for i, letters in enumerate(terms.values()) for axis, letter in enumerate(letters)]
    places: dict[str, tuple[int, int]] = {}
    for i, axis, letter in sorted(axes, key=lambda at: operands.tensor(at[0]).shape[at[1]] == 1):  # broadcast last
        places.setdefault(letter, (i, axis))
    found = [places[letter] for letter in letters]
    return tuple(factor for i, axis in found for factor in sizes_of(operands, i, (axis,)))


def _positions_of(terms_of: Callable[[Operands], _Terms]) -> Callable[[Operands, Type], tuple[Factor, ...]]:
    def positions(operands: Operands, result: Type) -> tuple[Factor, ...]:
        terms = terms_of(operands)
        if terms.weight is None or not any(_contracted(terms)):
            return (0,)
        others = {letter for letters in terms.values() for letter in letters}.difference(terms.operands[terms.weight])
        return _factors(operands, terms, sorted(others))

    return positions


def _products_of(terms_of: Callable[[Operands], _Terms]) -> Callable[[Operands], tuple[tuple[Factor, ...], ...]]:
    def products(operands: Operands) -> tuple[tuple[Factor, ...], ...]:
        terms = terms_of(operands)
        found = () if terms.weight is not None else _contracted(terms)
        return tuple(_factors(operands, terms, letters) for letters in found)

    return products


def _emit_with(emit: Callable[[Emitter, Node, list[fx.Node]], fx.Node]) -> Callable[[Emitter, Node], fx.Node]:
    def emitted(emitter: Emitter, node: Node) -> fx.Node:
        values = [emitter.value(name) for name in node.inputs]
        if node.attrs["weight_at"] is not None:
            weight = emitter.param(node.params[WEIGHT])
            values.insert(
                node.attrs["weight_at"], emitter.method("t", weight) if node.attrs.get("transposed") else weight
            )
        return emit(emitter, node, values)

    return emitted


def _read(node: Node, weight: torch.Tensor) -> int:
    """How many entries of a raw weight are multiplied and summed up in each entry of the value."""
    if node.op == "matmul":
        rows = (node.attrs["weight_at"] == 1) != bool(node.attrs.get("transposed"))
        return weight.shape[-2 if rows and weight.dim() > 1 else -1]
    inputs, arrow, result = str(node.attrs["equation"]).replace(" ", "").partition("->")
    before, dots, after = inputs.split(",")[node.attrs["weight_at"]].partition("...")
    letters = (*before, *("" for _ in range(weight.dim() - len(before + after)) if dots), *after)
    count = Counter(inputs)
    kept = (letter in result if arrow else count[letter] == 1 for letter in letters)
    return math.prod(size for size, own in zip(weight.shape, kept, strict=True) if not own)


for _name, _terms, _emit in (
    ("matmul", _matmul_terms, lambda emitter, node, values: emitter.call(torch.matmul, *values)),
    (
        "einsum",
        _einsum_terms,
        lambda emitter, node, values: emitter.call(torch.einsum, node.attrs["equation"], *values),
    ),
):
    register(
        OpSpec(
            _name,
            _infer_of(_terms),
            _channels_of(_terms),
            _emit_with(_emit),
            positions=_positions_of(_terms),
            products=_products_of(_terms),
            linear=of_each,
            starts={WEIGHT: within(_read)},
        )
    )


def _infer_attention(operands: Operands) -> Type:
    query, value = operands.tensor(0), operands.tensor(2)
    return TensorType(query.dtype, (*query.shape[:-1], value.shape[-1]))


def _attention_channels(rules: ChannelRules, operands: Operands) -> None:
    """Heads and other batch axes go along, and so does the width of the values; along theirs queries and keys are summed over.

    Where a head of keys and values serves several of queries, these are its entries.
    """
    rank = len(operands.tensor().shape)
    for axis in range(rank - 2):
        layouts = [rules.layout(i, axis) for i in range(3)]
        if axis == rank - 3 and operands.node.attrs.get("enable_gqa"):
            times = int(operands.tensor().shape[axis]) // int(operands.tensor(1).shape[axis])
            layouts[1:] = [None if layout is None else scaled(layout, times) for layout in layouts[1:]]
        elif isinstance(operands.tensor().shape[axis], int):
            layouts = [own for i, own in enumerate(layouts) if not _is_broadcast(rules, operands, i, axis)]
        if isinstance(operands.node.attrs["attn_mask"], Ref):
            mask = operands.tensor(3)
            own = axis - rank + len(mask.shape)
            if own >= 0 and mask.shape[own] != 1:
                layouts.append(rules.layout(3, own))
        rules.set(axis, rules.unify(layouts))
    hold_size(rules, operands, ("scale",), None)
    rules.contract([(0, rank - 1), (1, rank - 1)], "queries and keys are compared along it")
    for i in (1, 2):
        rules.freeze(rules.layout(i, rank - 2), "it is attended over")
    rules.set(rank - 2, rules.layout(0, rank - 2))
    rules.set(rank - 1, rules.layout(2, rank - 1))


def with_scale(node: Node, entries: int) -> Node:
    """The same node, but for attention that scales by the entries of a query: that with the scale for so many, as a number.

    Args:
        node: any.
        entries: of a query.
    """
    if node.op != "attention" or node.attrs["scale"] is not None:
        return node
    return replace(node, attrs={**node.attrs, "scale": 1 / math.sqrt(entries)})


def _is_broadcast(rules: ChannelRules, operands: Operands, index: int, axis: int) -> bool:
    """Whether an operand of attention has one entry along an axis, for all that the queries have there; it must stay one."""
    if operands.tensor(index).shape[axis] != 1 or operands.tensor().shape[axis] == 1:
        return False
    rules.freeze(rules.layout(index, axis), "its single channel is broadcast")
    return True


def _emit_attention(emitter: Emitter, node: Node) -> fx.Node:
    options: dict[str, Any] = {key: emitter.resolve(node.attrs[key]) for key in ("dropout_p", "is_causal", "scale")}
    mask = node.attrs["attn_mask"]
    if node.attrs.get("enable_gqa"):
        options["enable_gqa"] = True
    if isinstance(mask, Ref):
        options["attn_mask"] = emitter.value(mask.name)
    return emitter.call(F.scaled_dot_product_attention, *(emitter.value(name) for name in node.inputs[:3]), **options)


ATTENTION = Call(
    signature("query key value attn_mask=None dropout_p=0.0 is_causal=False scale=None enable_gqa=False"),
    operands=("query", "key", "value"),
)


def _attention_products(operands: Operands) -> tuple[tuple[Factor, ...], ...]:
    rank = len(operands.tensor().shape)
    whole = sizes_of(operands, 0, range(rank - 1))
    return ((*whole, (0, rank - 1), (1, rank - 2)), (*whole, (2, rank - 1), (1, rank - 2)))


register(
    OpSpec(
        "attention",
        _infer_attention,
        _attention_channels,
        _emit_attention,
        products=_attention_products,
        linear=lambda node, positions: positions <= {2},  # in the values that are attended to
    )
)
