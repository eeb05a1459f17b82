"""Which spaces and channels a pass acts on."""

from __future__ import annotations

from fnmatch import fnmatchcase

import torch

from gngraph.analysis.channels import ChannelSpace, ChannelSpaces, Role
from gngraph.errors import PassError, choices
from gngraph.ir import Graph


def matching_spaces(name: str, spaces: ChannelSpaces, pattern: str) -> tuple[ChannelSpace, ...]:
    """The free spaces whose names match `pattern` (as file names do: `*`, `?`, `[abc]`).

    Frozen spaces are left out when free ones match too.

    Args:
        name: of the pass, for messages.
        spaces: of the graph that the pass acts on.
        pattern: as file names have them: `*`, `?`, `[abc]`.

    Raises:
        PassError: no space matches, or only frozen ones; the message gives their reasons.
    """
    matching = [space for space in spaces if fnmatchcase(space.name, pattern)]
    if not matching:
        known = [space.name for space in spaces.free]
        raise PassError(f"pass '{name}' found no channel space that matches '{pattern}'{choices(pattern, known)}")
    free = tuple(space for space in matching if space.frozen is None)
    if not free:
        reasons = "; ".join(f"'{space.name}' because {space.frozen}" for space in matching)
        raise PassError(
            f"pass '{name}' may change none of the spaces that match '{pattern}', they are frozen: {reasons}"
        )
    return free


def out_norms(graph: Graph, space: ChannelSpace) -> torch.Tensor:
    """Norm of all weights that read each channel, float64 [channels]; a shared weight counts once."""
    total = torch.zeros(space.size, dtype=torch.float64)
    for slot in space.slots:
        if slot.role is Role.CONSUME:
            weight = graph.params[slot.param].data.detach().abs().to("cpu", torch.float64)
            part = weight.narrow(slot.axis, slot.offset, space.size * slot.inner).movedim(slot.axis, 0)
            total += part.reshape(space.size, -1).square().sum(1)
    return total.sqrt()


def weakest(name: str, graph: Graph, space: ChannelSpace, count: int) -> tuple[int, ...]:
    """The `count` channels with the smallest out-weight norm, of which at least one must be left, in order of number.

    Args:
        name: of the pass, for messages.
        graph: the network, whose weights are ranked.
        space: one of its spaces.
        count: how many; at least one channel must be left.

    Raises:
        PassError: the space has too few channels.
    """
    require_at_most(name, space, count, space.size - 1)
    return tuple(sorted(out_norms(graph, space).argsort(stable=True)[:count].tolist()))


def require_positive(name: str, option: str, value: int | None) -> None:
    """PassError unless `value` is None or at least 1.

    Args:
        name: of the pass, for messages.
        option: its name, for messages.
        value: None where the option was not given.
    """
    if value is not None and value < 1:
        raise PassError(f"option '{option}' of pass '{name}' is '{value}', but must be at least 1")


def require_at_most(name: str, space: ChannelSpace, count: int, most: int) -> None:
    """PassError when `count` channels of `space` are more than `most`.

    Args:
        name: of the pass, for messages.
        space: for messages.
        count, most: asked for and allowed.
    """
    if count > most:
        raise PassError(
            f"pass '{name}' would take '{count}' channels of space '{space.name}', which allows '{most}' of its "
            f"'{space.size}'; lower count, or narrow the space pattern"
        )
