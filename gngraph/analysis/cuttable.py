"""A union-find over variables that may be cut in two, or coarsened: which stretches of axes hold the same channels.

A variable stands for the channels of a stretch of an axis, and a layout is a row of such stretches. Where a stretch ends inside
a variable it is cut; where several neighbouring channels can only change together (the entries of an attention head, say) they
become one. What must not change is frozen, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from gngraph.ops import Layout, Segment


class Cuttable:
    """Variables, what they were united, cut or coarsened to, and why they are frozen.

    Attributes:
        sizes: channels of each variable.
        reasons: variable -> why it is frozen, the first reason that was given.
        place: what reasons end in: where it is that something is frozen.
    """

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.reasons: dict[int, str] = {}
        self.place = ""
        self._parent: list[int] = []
        self._parts: dict[int, Layout] = {}
        # id of a layout -> (that layout, what it resolves to): long concatenations are passed on by many nodes
        self._resolved: dict[int, tuple[Layout, Layout]] = {}

    def new(self, size: int) -> int:
        """A variable of `size` channels."""
        self._parent.append(len(self._parent))
        self.sizes.append(size)
        return len(self._parent) - 1

    def resolve(self, layout: Layout) -> Layout:
        """The layout in terms of roots that are not cut; the same object while it need not change."""
        known = self._resolved.get(id(layout))
        if known is not None:
            return known[1]
        result: list[Segment] = []
        for segment in layout:
            root = self._find(segment.var)
            if root in self._parts:
                parts = self.resolve(self._parts[root])
                result += [Segment(p.var, p.size, p.inner * segment.inner) for p in parts]
            else:
                result.append(segment if root == segment.var else Segment(root, segment.size, segment.inner))
        new = tuple(result)
        new = layout if new == layout else new
        self._resolved[id(layout)] = (layout, new)
        self._resolved[id(new)] = (new, new)
        return new

    def amounts(self, layout: Layout | None) -> dict[int, Fraction]:
        """Entries of an axis (or size) that each channel of each variable accounts for."""
        amounts: dict[int, Fraction] = {}
        for segment in self.resolve(layout or ()):
            amounts[segment.var] = amounts.get(segment.var, Fraction(0)) + segment.inner
        return amounts

    def freeze(self, layout: Layout | None, reason: str) -> None:
        """No variable of `layout` may change, because of `reason`."""
        for segment in self.resolve(layout or ()):
            self.reasons.setdefault(segment.var, f"{reason} ({self.place})")

    def frozen(self, layout: Layout | None) -> bool:
        """Whether every variable of `layout` is frozen."""
        return all(segment.var in self.reasons for segment in self.resolve(layout or ()))

    def unify(self, layouts: Sequence[Layout | None]) -> Layout | None:
        """One layout for axes that must agree entry by entry; freezes them where they cannot."""
        known = [self.resolve(layout) for layout in layouts if layout is not None]
        if len(known) < len(layouts):
            for layout in known:
                self.freeze(layout, "it is combined with a value of fixed size")
        for other in known[1:]:
            self._unify_pair(self.resolve(known[0]), self.resolve(other))
        return self.resolve(known[0]) if known else None

    def divide(self, layout: Layout | None, lengths: Sequence[int], reason: str) -> list[Layout | None]:
        """Consecutive stretches of an axis; freezes it, because of `reason`, where a stretch would end inside a channel."""
        if layout is None:
            return [None] * len(lengths)
        whole, rest = layout, self.resolve(layout)
        parts: list[Layout | None] = []
        for length in lengths:
            taken = self._take(rest, length)
            if taken is None:
                self.freeze(whole, reason)
                return [None] * len(lengths)
            parts.append(taken)
            rest = self.resolve(whole)[self._count(whole, sum(lengths[: len(parts)])) :]
        return [None if part is None else self.resolve(part) for part in parts]

    def group(self, layout: Layout | None, entries: int, reason: str) -> Layout | None:
        """The layout of an axis whose every entry stands for `entries` consecutive ones; channels that own fewer are bundled."""
        if layout is None or entries == 1:
            return layout
        for i in range(len(self.resolve(layout))):
            var, size, inner = self.resolve(layout)[i]
            times, rest = divmod(entries, inner)
            if inner % entries == 0:
                continue
            if rest or size % times:
                self.freeze(layout, reason)
                return None
            self._coarsen(var, times)
        return tuple(Segment(s.var, s.size, s.inner // entries) for s in self.resolve(layout))

    # --- variables

    def _find(self, var: int) -> int:
        while self._parent[var] != var:
            self._parent[var] = self._parent[self._parent[var]]
            var = self._parent[var]
        return var

    def _cut(self, var: int, size: int) -> None:
        """Cut a variable into its first `size` channels and the rest."""
        self._resolved.clear()
        first, second = self.new(size), self.new(self.sizes[var] - size)
        self._parts[var] = (Segment(first, size), Segment(second, self.sizes[var] - size))
        if var in self.reasons:
            self.reasons[first] = self.reasons[second] = self.reasons[var]

    def _coarsen(self, var: int, times: int) -> int:
        """Make `times` neighbouring channels of a variable one channel; the new variable."""
        self._resolved.clear()
        coarse = self.new(self.sizes[var] // times)
        self._parts[var] = (Segment(coarse, self.sizes[coarse], times),)
        if var in self.reasons:
            self.reasons[coarse] = self.reasons[var]
        return coarse

    def _take(self, layout: Layout, length: int) -> Layout | None:
        """The first `length` entries of a resolved layout, cutting the last segment if it must be; None when it cannot."""
        taken: list[Segment] = []
        for segment in layout:
            if length == 0:
                break
            if segment.length <= length:
                taken.append(segment)
                length -= segment.length
                continue
            channels, rest = divmod(length, segment.inner)
            if rest:
                return None
            self._cut(segment.var, channels)
            return self._take(self.resolve((*taken, segment)), sum(s.length for s in taken) + length)
        return tuple(taken) if length == 0 else None

    def _count(self, layout: Layout, length: int) -> int:
        """How many segments of a layout, as it resolves now, make up its first `length` entries."""
        for count, segment in enumerate(self.resolve(layout)):
            if length == 0:
                return count
            length -= segment.length
        return len(self.resolve(layout))

    def _unify_pair(self, a: Layout, b: Layout) -> None:
        """Make two layouts of equal length agree channel by channel, cutting segments where they must be."""
        while a and b:
            x, y = a[0], b[0]
            if x.inner != y.inner and self._match_inner(x, y):
                a, b = self.resolve(a), self.resolve(b)
                continue
            if x.inner != y.inner:
                for layout in (a, b):
                    self.freeze(layout, "axes are combined whose channels own different numbers of entries")
                return
            if x.size > y.size and x.var != y.var:
                self._cut(x.var, y.size)
            elif y.size > x.size and x.var != y.var:
                self._cut(y.var, x.size)
            elif x.size != y.size:
                self.freeze((x,), "it is combined with a part of itself")
                return
            else:
                self._union(x.var, y.var)
                a, b = a[1:], b[1:]
            a, b = self.resolve(a), self.resolve(b)
        if a or b:
            self.freeze(a or b, "axes of different length are combined")

    def _match_inner(self, x: Segment, y: Segment) -> bool:
        """Make the finer of two segments as coarse as the other; False when its channels cannot be bundled so."""
        fine, coarse = (x, y) if x.inner < y.inner else (y, x)
        times, rest = divmod(coarse.inner, fine.inner)
        if rest or fine.size % times or fine.var == coarse.var:
            return False
        self._coarsen(fine.var, times)
        return True

    def _union(self, a: int, b: int) -> None:
        if a == b:
            return
        self._resolved.clear()
        keep, gone = min(a, b), max(a, b)
        self._parent[gone] = keep
        if gone in self.reasons:
            self.reasons.setdefault(keep, self.reasons.pop(gone))
