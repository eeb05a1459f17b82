"""Pass text: `split-channels{count=8},prune-channels{channels=0;3,space=features.0}` and back."""

from __future__ import annotations

from collections.abc import Iterable

from gngraph.errors import PassError
from gngraph.options.text import Vocabulary
from gngraph.rewrite.graph_pass import REGISTRY, Pass

PASSES = Vocabulary("pass", REGISTRY, PassError)


def format_passes(passes: Iterable[Pass]) -> str:
    """The text of a pipeline; `parse_passes` reads it back."""
    return ",".join(str(entry) for entry in passes)


def parse_passes(text: str) -> list[Pass]:
    """The passes that a text describes, in order.

    A pass is its name, then options in braces; `;` separates the items of a list, `none` is no value.

    Raises:
        PassError: a pass or option is unknown, or a value does not fit; the message gives the position and the choices.

    >>> import gngraph.passes
    >>> parse_passes("split-channels{count=2},new-channels")
    [SplitChannels(space='*', count=2, channels=()), NewChannels(space='*', count=1, proposer='random', seed=0)]
    """
    return PASSES.several(text)
