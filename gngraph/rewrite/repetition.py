"""Repetition of blocks: deeper, by copies of what has been trained, on top of themselves.

Copies of all blocks in their order, behind the last of them, learn sooner than as many new ones (Gong et al., *Efficient Training
of BERT by Progressively Stacking*, ICML 2019; Du et al., *Stacking Your Transformers*, NeurIPS 2024). The function changes.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import takewhile

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.topology import ancestors, nodes_between
from gngraph.errors import PassError
from gngraph.ir import Draft, Graph, Node
from gngraph.ir.types import replace_refs
from gngraph.ops import draft_of
from gngraph.rewrite.building import in_order, keys_of
from gngraph.rewrite.layer_removal import RemovableLayer, removable_layers
from gngraph.rewrite.structure import RepeatBlocks
from gngraph.rewrite.surgery import Rewritten

_NUMBERED = re.compile(r"^(.*?)(\d+)$")


def repeatable_blocks(graph: Graph, spaces: ChannelSpaces) -> tuple[RemovableLayer, ...]:
    """Blocks whose copies can stand behind them, in order: residual ones, which give what they read another value; O(#nodes)."""
    return tuple(
        layer
        for layer in removable_layers(graph, spaces)
        if layer.space == layer.source_space and graph.nodes[layer.source].type == graph.nodes[layer.value].type
    )


def runs_of(blocks: Iterable[RemovableLayer]) -> list[list[RemovableLayer]]:
    """Blocks that follow one another immediately, together.

    Args:
        blocks: in order.
    """
    runs: list[list[RemovableLayer]] = []
    for block in blocks:
        if runs and runs[-1][-1].value == block.source:
            runs[-1].append(block)
        else:
            runs.append([block])
    return runs


def repeat_blocks(graph: Graph, morphism: RepeatBlocks) -> Rewritten:
    """`graph` with copies of all blocks between two values behind the later one; everything that read that reads their result.

    Copies have parameters of their own, but for what others read too. Their modules are called as those that they copy, with the
    next number: a copy of `blocks.0` is `blocks.2` where there are two blocks.

    Args:
        graph: before the rewrite.
        morphism: between which values.

    Raises:
        PassError: no blocks lie between the two.
    """
    blocks = _between(graph, morphism)
    nodes = [node for name, node in graph.nodes.items() if name in _nodes(graph, blocks)]
    homes = _homes(graph, blocks)
    read = dict.fromkeys(param for node in nodes for param in node.params.values())
    own = [param for param in read if any(_readers(graph, param) <= home for home in homes.values())]
    copied, draft = _depending(nodes, morphism.source, own), draft_of(graph)
    last, added, keys = morphism.at, list[str](), dict[str, str]()
    for _ in range(morphism.times):
        paths = _new_paths(graph, [*homes, *own], keys)
        fresh = _copied_keys(graph, copied, own, paths)
        params = _give_params(draft, graph, fresh)
        names = {morphism.source: last}
        for node in copied:
            name = draft.fresh_name(node.name)
            draft.add(replace(_copy(node, names, params, paths), name=name), after=added[-1] if added else last)
            names[node.name] = name
            added.append(name)
        last, keys = names[morphism.at], keys | fresh
    draft.replace_uses(morphism.at, last, except_in=tuple(added))
    deeper = draft.commit()
    deeper = replace(deeper, params=in_order(deeper.params, _in_place(graph, keys)))
    return Rewritten(deeper, {}, {}, {new: old for new, old in keys.items() if new in deeper.params})


def _copied_keys(
    graph: Graph, copied: Iterable[Node], own: Collection[str], paths: Mapping[str, str]
) -> dict[str, str]:
    """Keys of the state_dict that copies have, with those that they are copies of, in order; what is of no block is shared."""
    owners = _owners(graph)
    modules = {node.module for node in copied if not {*own}.isdisjoint(node.params.values())}
    kept = [key for key in keys_of(graph.params) if owners[key] in own or key.rpartition(".")[0] in modules]
    return {new: key for key in kept if (new := _renamed(key, paths)) != key}


def _give_params(draft: Draft, graph: Graph, fresh: Mapping[str, str]) -> dict[str, str]:
    """Copies of the parameters whose names are among some keys, by what they copy; other keys are further names of theirs."""
    owners, copies = _owners(graph), {old: new for new, old in fresh.items() if old in graph.params}
    tied: dict[str, list[tuple[str, int]]] = {}
    for new, old in fresh.items():
        if old not in copies:  # where it stands in the state_dict is found out below
            tied.setdefault(copies.get(owners[old], owners[old]), []).append((new, 0))
    for old, new in copies.items():
        draft.set_param(new, replace(graph.params[old], data=graph.params[old].data.clone(), aliases=()))
    for name, more in tied.items():
        parameter = draft.params[name]
        draft.set_param(name, replace(parameter, aliases=(*parameter.aliases, *more)))
    return copies


def _owners(graph: Graph) -> dict[str, str]:
    """Key of the state_dict -> the parameter that it is a name of."""
    return {key: name for name, p in graph.params.items() for key in (name, *(alias for alias, _ in p.aliases))}


def _in_place(graph: Graph, copies: Mapping[str, str]) -> list[str]:
    """The state_dict with the copies in a module, or list, behind all that they are copies of there."""
    keys, groups = keys_of(graph.params), dict[str, dict[str, str]]()
    for new, old in copies.items():
        same = sum(
            1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(new.split("."), old.split("."), strict=True))
        )
        parts = old.split(".")
        groups.setdefault(".".join(parts[:same]), {})[new] = ".".join(parts[: same + 1])
    for own in groups.values():
        at = max(i for i, key in enumerate(keys, 1) if _inside(key, own.values()))
        keys[at:at] = own
    return keys


def _between(graph: Graph, morphism: RepeatBlocks) -> list[RemovableLayer]:
    for run in runs_of(repeatable_blocks(graph, ChannelSpaces.of(graph))):
        starts, ends = [block.source for block in run], [block.value for block in run]
        if morphism.source in starts and morphism.at in ends[starts.index(morphism.source) :]:
            return run[starts.index(morphism.source) : ends.index(morphism.at) + 1]
    raise PassError(
        f"between '{morphism.source}' and '{morphism.at}' of '{graph.name}' lie no blocks that can be repeated"
    )


def _nodes(graph: Graph, blocks: Sequence[RemovableLayer]) -> frozenset[str]:
    return nodes_between(graph, blocks[0].source, blocks[-1].value)


def _depending(nodes: Iterable[Node], source: str, own: Sequence[str]) -> list[Node]:
    """Nodes that are computed from a value, or from parameters of their own, in order."""
    kept: dict[str, Node] = {}
    for node in nodes:
        if any(name == source or name in kept for name in node.inputs) or not {*own}.isdisjoint(node.params.values()):
            kept[node.name] = node
    return list(kept.values())


def _copy(node: Node, names: Mapping[str, str], params: Mapping[str, str], paths: Mapping[str, str]) -> Node:
    """A node that reads copies where there are some, in a module of its own; one that shares all its parameters shares that."""
    shared = bool(node.params) and params.keys().isdisjoint(node.params.values())
    module = node.module if node.module is None or shared else _renamed(node.module, paths)
    return replace(
        node,
        inputs=tuple(names.get(name, name) for name in node.inputs),
        params={role: params.get(param, param) for role, param in node.params.items()},
        attrs={name: replace_refs(value, names) for name, value in node.attrs.items()},
        scope=_renamed(node.scope, paths),
        module=module,
    )


def _homes(graph: Graph, blocks: Sequence[RemovableLayer]) -> dict[str, frozenset[str]]:
    """Path of each module that blocks lie in -> their nodes. Blocks of a module, as attention and an MLP, are parts of one."""
    inside, homes = _nodes(graph, blocks), dict[str, frozenset[str]]()
    outside = [path for name, node in graph.nodes.items() if name not in inside and (path := node.module or node.scope)]
    for block in blocks:
        for unit in _units(graph, block):
            home = _widest(unit, outside)
            homes[home] = homes.get(home, frozenset()) | block.nodes
    return homes


def _new_paths(graph: Graph, units: Iterable[str], copies: Iterable[str]) -> dict[str, str]:
    """Path of each of some modules and parameters -> that of its copy, which none of the copies before has."""
    taken = {path for node in graph.nodes.values() for path in (node.module, node.scope) if path} | {*graph.params}
    made: dict[str, str] = {}
    for unit in units:  # parameters of one block may stand outside its modules, as in a ParameterList
        if not _inside(unit, made):
            made[unit] = _next(unit, {*taken, *copies, *made.values()})
    return made


def _units(graph: Graph, block: RemovableLayer) -> list[str]:
    """The innermost module with a number at its end that holds all that is a block's own, or else what that has in common."""
    alone = {p for name in block.nodes for p in graph.nodes[name].params.values() if _within(graph, p, block)}
    nodes = [graph.nodes[name] for name in block.nodes]
    owners = [n.module if n.module and not alone.isdisjoint(n.params.values()) else n.scope for n in nodes]
    paths = [path.split(".") for path in owners if path]
    common = list(takewhile(lambda level: len({*level}) == 1, zip(*paths, strict=False)))
    numbered = [at for at, level in enumerate(common, 1) if _NUMBERED.match(level[0])]
    path = [level[0] for level in (common[: numbered[-1]] if numbered else common)]
    return [".".join(path)] if path else sorted({path[0] for path in paths})


def _within(graph: Graph, param: str, block: RemovableLayer) -> bool:
    """Whether nothing outside a block reads a parameter."""
    return _readers(graph, param) <= block.nodes


def _readers(graph: Graph, param: str) -> set[str]:
    """Nodes that read a parameter, or what is computed of parameters alone and of it."""
    found, pending = set[str](), [name for name, _ in graph.readers(param)]
    while pending:
        name = pending.pop()
        if name not in found:
            found.add(name)
            pending += graph.users(name) if ancestors(graph, name).isdisjoint(graph.inputs) else ()
    return found


def _widest(unit: str, outside: Collection[str]) -> str:
    """A module; where all of a list of lists goes, as of blocks of two parts each, the inner list that it lies in."""
    above = unit.rpartition(".")[0]
    around, _, name = above.rpartition(".")
    if _NUMBERED.match(name) and around and not any(_inside(path, (around,)) for path in outside):
        return _widest(above, outside)
    return unit


def _next(path: str, taken: Iterable[str]) -> str:
    """A path with the number behind the largest one that a path like it has.

    >>> _next("blocks.0", ["blocks.0.norm", "blocks.1.norm", "head"]), _next("inner", ["inner.weight"])
    ('blocks.2', 'inner2')
    """
    above, _, name = path.rpartition(".")
    match = _NUMBERED.match(name)
    stem = f"{above}." * bool(above) + (match[1] if match else name)
    parts = (other[len(stem) :].split(".")[0] for other in taken if other.startswith(stem))
    return f"{stem}{1 + max((int(part) for part in parts if part.isdecimal()), default=1)}"


def _renamed(path: str, paths: Mapping[str, str]) -> str:
    """A path in the copy of the module that it lies in; itself where it lies in none that is copied."""
    unit = _inside(path, paths)
    return paths[unit] + path[len(unit) :] if unit else path


def _inside(path: str, units: Iterable[str]) -> str:
    """Which of some modules, or parameters, a path is or lies in; "" if none."""
    return next((unit for unit in units if path == unit or path.startswith(f"{unit}.")), "")
