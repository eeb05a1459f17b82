"""Which axes of its inputs a node hands on along an axis of its value, as its channel rule says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from gngraph.ir import Dim
from gngraph.ops.spec import AttrPath, Fresh, Layout, Operands, Segment
from gngraph.ops.table import lookup


class HandedOn(NamedTuple):
    """An axis of an input of a node: the number of the input, the item of it where it is a tuple, else 0, and the axis."""

    operand: int
    item: int
    axis: int


def handed_on(operands: Operands, item: int, axis: int) -> Iterator[HandedOn]:
    """The axes of inputs whose channels an axis of a node's value has.

    Args:
        operands: the node.
        item: of its value where that is a tuple, else 0.
        axis: of the value, or of that item, counted from 0.
    """
    followed = _Followed(operands)
    lookup(operands.node.op).channels(followed, operands)
    for token in dict.fromkeys(segment.var for segment in followed.found.get((item, axis), ())):
        yield followed.places[token]


class _Followed:
    """Implements `gngraph.ops.ChannelRules` for one node, to see which axes it hands on: each has a variable of its own."""

    def __init__(self, operands: Operands) -> None:
        self.operands = operands
        self.places: list[HandedOn] = []
        self.found: dict[tuple[int, int], Layout] = {}

    def _place(self, operand: int, item: int, axis: int) -> Layout:
        self.places.append(HandedOn(operand, item, axis))
        return (Segment(len(self.places) - 1, 1),)

    def layout(self, operand: int, axis: int) -> Layout | None:
        return self._place(operand, 0, axis)

    def item_layouts(self, operand: int, item: int) -> Mapping[int, Layout]:
        rank = len(self.operands.node.shape)
        return {axis: self._place(operand, item, axis) for axis in range(rank)}

    def produce(self, role: str, axis: int) -> Layout:
        return ()

    def see(self, role: str, axis: int) -> Layout | None:
        return None

    def follow(self, role: str, axis: int, layout: Layout | None, fresh: Fresh) -> None: ...

    def consume(self, role: str, axis: int, layout: Layout | None) -> None: ...

    def unify(self, layouts: list[Layout | None]) -> Layout | None:
        return tuple(segment for layout in layouts for segment in layout or ())

    def join(self, layouts: Sequence[Layout | None], sizes: Sequence[Dim]) -> Layout | None:
        return self.unify(list(layouts))

    def divide(self, layout: Layout | None, lengths: Sequence[int], reason: str) -> list[Layout | None]:
        return [layout] * len(lengths)

    def group(self, layout: Layout | None, entries: int, reason: str) -> Layout | None:
        return layout

    def blank(self, size: int) -> Layout:
        return ()

    def same_amount(self, a: Layout | None, b: Layout | None) -> bool:
        return True

    def contract(self, axes: Sequence[tuple[int, int]], reason: str) -> None: ...

    def sum_factors(self, axis: int, reason: str, *, counts: bool) -> bool:
        return False

    def freeze(self, layout: Layout | None, reason: str) -> None: ...

    def held(self, layout: Layout | None) -> bool:
        return False

    def count(self, axis: int) -> None: ...

    def only_counted(self, axis: int) -> bool:
        return False

    def unread(self) -> bool:
        return False

    def measure(self, path: AttrPath, layout: Layout | None) -> None: ...

    def set(self, axis: int, layout: Layout | None, item: int = 0) -> None:
        self.found[item, axis] = layout or ()
