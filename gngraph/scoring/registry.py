"""The kinds of candidates: `register_proposer` makes one known by name, gngraph's own and a user's alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gngraph.errors import PassError
from gngraph.scoring.proposer import Context, Proposer

Propose = Callable[[Context], Iterable[Proposer]]
"""Maps what proposers are made from to those of one kind for that graph."""

PROPOSERS: dict[str, Propose] = {}
"""Kind of candidate -> its proposers for a graph; `gngraph.scoring.proposers` fills it with gngraph's own."""


def register_proposer(kind: str, propose: Propose) -> None:
    """Make a kind of candidate known to `GaussNewton(kinds=...)`.

    Args:
        kind: its name. Candidates of one analysis are told apart by their morphisms alone, so a name that begins with that of
            the morphism, as "split-random" does, says what they do.
        propose: called once an analysis; gives proposers, one for each place, and notes what it leaves out.

    Raises:
        PassError: the name is taken.

    >>> register_proposer("split", lambda context: ())
    Traceback (most recent call last):
    gngraph.errors.PassError: kind 'split' of candidates is registered already; give this one another name
    """
    if kind in PROPOSERS:
        raise PassError(f"kind '{kind}' of candidates is registered already; give this one another name")
    PROPOSERS[kind] = propose
