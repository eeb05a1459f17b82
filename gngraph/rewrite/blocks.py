"""Blocks of a network: stretches that give a value like the one that they read, and the modules that they lie in."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.topology import ancestors, dominating_values, nodes_between
from gngraph.ir import Graph
from gngraph.rewrite.layer_removal import laid_out, multiplies

_NUMBERED = re.compile(r"^(.*?)(\d+)$")


@dataclass(frozen=True)
class RepeatableBlock:
    """All that lies between two values of one type, whose channels are the same.

    Attributes:
        value: name of the node that it ends at.
        source: name of the node that it starts from.
        nodes: nodes between the two, the first excluded.
        units: paths of the modules that it lies in: one, where all of it is in an entry of a list.
    """

    value: str
    source: str
    nodes: frozenset[str]
    units: tuple[str, ...]

    def names(self, graph: Graph) -> tuple[str, ...]:
        """What it is called by: its modules, those in it, and the node that it ends at."""
        modules = [node.module for name, node in graph.nodes.items() if name in self.nodes and node.module]
        return tuple(dict.fromkeys([*self.units, *modules, self.value]))


def repeatable_blocks(graph: Graph, spaces: ChannelSpaces) -> tuple[RepeatableBlock, ...]:
    """Blocks whose copies can stand behind them, in order.

    Values that all that reaches the output passes are grouped by the entry of a list that what lies before them is in. A group
    that multiplies by weights, and whose ends are alike, is a block. One that does not, such as a norm or a ReLU, belongs to the
    block before it where another block follows, or where the like of it stands between the blocks before. O(#nodes * #parameters).

    >>> import torch, gngraph
    >>> class Residual(torch.nn.Linear):
    ...     def forward(self, x):
    ...         return x + super().forward(x).relu()
    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), Residual(8, 8), Residual(8, 8), torch.nn.Linear(8, 2))
    >>> graph = gngraph.from_torch(net, torch.zeros(1, 4))
    >>> [block.units for block in repeatable_blocks(graph, ChannelSpaces.of(graph))]
    [('1',), ('2',)]
    """
    found: list[RepeatableBlock] = []
    between: RepeatableBlock | None = None
    gaps: list[tuple[str, ...]] = []
    for group in _groups(graph):
        alike = _alike(graph, spaces, group)
        if not alike or group.nodes.intersection(graph.inputs):
            between = None
        elif not any(multiplies(graph, graph.nodes[name]) for name in group.nodes):
            if between is not None and between.value == group.source:
                between = _joined(between, group)
            else:
                between = group if found and found[-1].value == group.source else None
            if between is not None and gaps and _ops(graph, between) == gaps[-1]:
                found[-1], between = _joined(found[-1], between), None
        else:
            if between is not None and between.value == group.source:
                gaps.append(_ops(graph, between))
                found[-1] = _joined(found[-1], between)
            elif not found or found[-1].value != group.source:
                gaps.clear()
            found.append(group)
            between = None
    return tuple(found)


def runs_of(blocks: Iterable[RepeatableBlock]) -> list[list[RepeatableBlock]]:
    """Blocks that follow one another immediately, together.

    Args:
        blocks: in order.
    """
    runs: list[list[RepeatableBlock]] = []
    for block in blocks:
        if runs and runs[-1][-1].value == block.source:
            runs[-1].append(block)
        else:
            runs.append([block])
    return runs


def homes_of(graph: Graph, blocks: Sequence[RepeatableBlock]) -> dict[str, frozenset[str]]:
    """Path of each module that blocks which follow one another lie in -> nodes of its blocks.

    Args:
        graph: has the blocks.
        blocks: in order.
    """
    inside = nodes_between(graph, blocks[0].source, blocks[-1].value)
    outside = [path for name, node in graph.nodes.items() if name not in inside and (path := node.module or node.scope)]
    homes: dict[str, frozenset[str]] = {}
    for block in blocks:
        for unit in block.units:
            home = _widest(unit, outside)
            homes[home] = homes.get(home, frozenset()) | block.nodes
    return homes


def readers_of(graph: Graph, param: str) -> set[str]:
    """Nodes that read a parameter, or what is computed of parameters alone and of it; O(#nodes).

    Args:
        graph: has the parameter.
        param: its name.
    """
    found, pending = set[str](), [name for name, _ in graph.readers(param)]
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += graph.users(name) if ancestors(graph, name).isdisjoint(graph.inputs) else ()
    return found


def next_path(path: str, taken: Iterable[str]) -> str:
    """A path with the number behind the largest one that a path like it has.

    Args:
        path: of a module or parameter.
        taken: paths that there are.

    >>> next_path("blocks.0", ["blocks.0.norm", "blocks.1.norm", "head"]), next_path("inner", ["inner.weight"])
    ('blocks.2', 'inner2')
    """
    above, _, name = path.rpartition(".")
    match = _NUMBERED.match(name)
    stem = f"{above}." * bool(above) + (match[1] if match else name)
    parts = (other[len(stem) :].split(".")[0] for other in taken if other.startswith(stem))
    return f"{stem}{1 + max((int(part) for part in parts if part.isdecimal()), default=1)}"


def where_parted(new: str, old: str) -> tuple[str, str]:
    """Where the names of a copy and of what it is a copy of part: the entries of a list, say, that they lie in.

    Args:
        new, old: paths of as many parts.

    >>> where_parted("blocks.2.norm.weight", "blocks.0.norm.weight")
    ('blocks.2', 'blocks.0')
    """
    one, other = new.split("."), old.split(".")
    at = next(i for i, (a, b) in enumerate(zip(one, other, strict=True), 1) if a != b)
    return ".".join(one[:at]), ".".join(other[:at])


def within(path: str, units: Iterable[str]) -> str:
    """Which of some modules, or parameters, a path is or lies in; "" if none.

    Args:
        path: of a module or parameter.
        units: paths.
    """
    return next((unit for unit in units if path == unit or path.startswith(f"{unit}.")), "")


def _groups(graph: Graph) -> list[RepeatableBlock]:
    """What lies between values that all that reaches the output passes, those in one entry of a list together."""
    found: list[RepeatableBlock] = []
    for before, value in pairwise(dominating_values(graph)):
        nodes = nodes_between(graph, before, value)
        step = RepeatableBlock(value, before, nodes, _units(graph, nodes))
        if found and found[-1].units == step.units:
            found[-1] = _joined(found[-1], step)
        else:
            found.append(step)
    return found


def _alike(graph: Graph, spaces: ChannelSpaces, group: RepeatableBlock) -> bool:
    laid = laid_out(graph, spaces, group.value)
    same = graph.nodes[group.source].type == graph.nodes[group.value].type
    return bool(laid) and same and laid == laid_out(graph, spaces, group.source)


def _ops(graph: Graph, group: RepeatableBlock) -> tuple[str, ...]:
    return tuple(node.op for name, node in graph.nodes.items() if name in group.nodes)


def _joined(block: RepeatableBlock, behind: RepeatableBlock) -> RepeatableBlock:
    units = tuple(dict.fromkeys([*block.units, *behind.units]))
    return RepeatableBlock(behind.value, block.source, block.nodes | behind.nodes, units)


def _units(graph: Graph, nodes: frozenset[str]) -> tuple[str, ...]:
    """The innermost entry of a list that holds all that some nodes have for themselves, or else what that has in common."""
    params = {param for name in nodes for param in graph.nodes[name].params.values()}
    alone = {param for param in params if readers_of(graph, param) <= nodes}
    own = [graph.nodes[name] for name in nodes]
    owners = [n.module if n.module and not alone.isdisjoint(n.params.values()) else n.scope for n in own]
    paths = [path.split(".") for path in owners if path]
    common = [level[0] for level in takewhile(lambda level: len({*level}) == 1, zip(*paths, strict=False))]
    entries = [at for at, name in enumerate(common, 1) if name.isdecimal()]
    entries = entries or [at for at, name in enumerate(common, 1) if _NUMBERED.match(name)]
    path = common[: entries[-1]] if entries else common
    return (".".join(path),) if path else tuple(sorted({path[0] for path in paths}))


def _widest(unit: str, outside: Collection[str]) -> str:
    """A module; where all of a list of lists goes, as of blocks of two parts each, the inner list that it lies in."""
    above = unit.rpartition(".")[0]
    around, _, name = above.rpartition(".")
    if name.isdecimal() and around and not any(within(path, (around,)) for path in outside):
        return _widest(above, outside)
    return unit
