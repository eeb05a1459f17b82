"""Random rewrites of small random networks: whether the diff by space names exactly the spaces that were changed.

A rewrite is of a random network from the whole op table (`tests/random_networks.py`), with channels of some of its spaces split,
pruned and new, in numbers that add up to any width, the one before among them. It depends on its number alone. Told where channels
come from the diff must name the spaces that were rewritten; told nothing, those whose width is another. No axis may be left over.

Exits non-zero where one names another set.

    python tools/check_diff.py                          1,000 rewrites
    python tools/check_diff.py --seed 47 --rewrites 1   rewrite number 47 again
"""

from __future__ import annotations

import random
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import click
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.diff import diff
from gngraph.errors import PassError, UnsupportedModelError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import Morphism, NewChannel, PruneChannel, SplitChannel
from gngraph.rewrite.surgery import Rewritten
from tests.random_networks import build, numbers_of

SHARE, MOST = 0.4, 3
"""Share of the spaces that are rewritten, and channels of each kind that come and go at most."""


def drawn(spaces: ChannelSpaces, draw: random.Random) -> list[Morphism]:
    """Morphisms of some of the free spaces, one at least.

    Args:
        spaces: of the network.
        draw: what is drawn from.
    """
    found = list[Morphism]()
    chosen = [space for space in spaces.free if draw.random() < SHARE] or [draw.choice(spaces.free)]
    for space in chosen:
        channels = draw.sample(range(space.size), space.size)
        split = [channels.pop() for _ in range(draw.randint(0, min(MOST, len(channels))))]
        pruned = [channels.pop() for _ in range(draw.randint(0, min(MOST, len(channels) - (not split))))]
        new = draw.randint(0, MOST) if split or pruned else 1
        found += [SplitChannel(space.name, channel) for channel in split]
        found += [PruneChannel(space.name, channel) for channel in pruned]
        found += [NewChannel(space.name)] * new
    return found


@dataclass(frozen=True)
class Rewrite:
    """A network, the spaces that are rewritten, and what is made of it."""

    graph: Graph
    spaces: frozenset[str]
    made: Rewritten


def rewrite(number: int) -> Rewrite | None:
    """A rewrite by its number; None where the network or the morphisms are refused, or nothing may change.

    Args:
        number: of the rewrite.
    """
    built, draw = build(numbers_of(number)), random.Random(f"diff {number}")
    try:
        graph = from_torch(built.network, built.inputs(0, 2))
        spaces = ChannelSpaces.of(graph)
        morphisms = drawn(spaces, draw) if spaces.free else []
        made = morph(graph, spaces, morphisms) if morphisms else None
    except (PassError, UnsupportedModelError):
        return None
    return None if made is None else Rewrite(graph, frozenset(m.space for m in morphisms), made)


def wrong(tried: Rewrite) -> str | None:
    """What the diff tells other than it should; None: nothing.

    Args:
        tried: a rewrite.
    """
    before, after = tried.graph, tried.made.graph
    lineage = {name: edit.map.source for name, edit in tried.made.edits.items()}
    wider = {name for name, edit in tried.made.edits.items() if len(edit.map.source) != edit.map.size}
    for told, found, wanted in (
        ("told where channels come from", diff(before, after, lineage=lineage), tried.spaces),
        ("told nothing", diff(before, after), wider),
    ):
        named = {space.name for space in found.spaces}
        if named != wanted:
            return f"{told} it names {sorted(named)}, where {sorted(wanted)} were rewritten"
        if found.unassigned:
            return f"{told} it leaves {found.unassigned[0]} over"
    return None


@click.command(help=__doc__)
@click.option("--rewrites", type=click.IntRange(1), default=1000, show_default=True, help="How many.")
@click.option("--seed", default=0, show_default=True, help="Number of the first.")
def main(rewrites: int, seed: int) -> None:
    """Check, print every one that fails, and exit with 1 where one does."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    tried = failed = refused = changed = 0
    while tried < rewrites:
        made = rewrite(seed + tried + refused)
        if made is None:
            refused += 1
            continue
        what, tried, changed = wrong(made), tried + 1, changed + len(made.spaces)
        if what is not None:
            failed += 1
            click.echo(f"rewrite {seed + tried - 1 + refused}: {what}")
    click.echo(
        f"{tried:,} rewrites of {changed:,} spaces: exactly these named in {tried - failed:,}; "
        f"{refused:,} networks or rewrites refused"
    )
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
