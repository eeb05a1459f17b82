"""Repetition of blocks: deeper, by copies of what has been trained, on top of themselves.

Copies of all blocks in their order, behind the last of them, learn sooner than as many new ones (Gong et al., *Efficient Training
of BERT by Progressively Stacking*, ICML 2019; Du et al., *Stacking Your Transformers*, NeurIPS 2024). The function changes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.topology import nodes_between
from gngraph.errors import PassError
from gngraph.ir import Draft, Graph, Node
from gngraph.ir.types import replace_refs
from gngraph.ops import draft_of
from gngraph.rewrite.blocks import (
    RepeatableBlock,
    homes_of,
    next_path,
    readers_of,
    repeatable_blocks,
    runs_of,
    where_parted,
    within,
)
from gngraph.rewrite.building import in_order, keys_of
from gngraph.rewrite.structure import RepeatBlocks
from gngraph.rewrite.surgery import Rewritten


def repeat_blocks(graph: Graph, morphism: RepeatBlocks) -> Rewritten:
    """`graph` with copies of all blocks between two values behind the later one; everything that read that reads their result.

    Copies have parameters of their own, but for what others read too and for constants. Their modules are called as those that they
    copy, with the next number: a copy of `blocks.0` is `blocks.2` where there are two blocks.

    Args:
        graph: before the rewrite.
        morphism: between which values.

    Raises:
        PassError: no blocks lie between the two.
    """
    blocks = _between(graph, morphism)
    inside = nodes_between(graph, blocks[0].source, blocks[-1].value)
    nodes = [node for name, node in graph.nodes.items() if name in inside]
    homes = homes_of(graph, blocks)
    read = dict.fromkeys(param for node in nodes for param in node.params.values())
    changing = (param for param in read if graph.params[param].kind != "constant")  # whose copy would stay the same
    own = [param for param in changing if any(readers_of(graph, param) <= home for home in homes.values())]
    copied, draft = _depending(nodes, morphism.source, own), draft_of(graph)
    last, added, keys = morphism.at, list[str](), dict[str, str]()
    taken = set[str]()
    for _ in range(morphism.times):
        paths = _new_paths(graph, [*homes, *own], taken)
        taken.update(paths.values())
        fresh = _copied_keys(graph, copied, own, paths)
        params = _give_params(draft, graph, own, fresh)
        names = {morphism.source: last}
        for node in copied:
            name = draft.fresh_name(node.name)
            draft.add(replace(_copy(node, names, params, paths), name=name), after=morphism.at)
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


def _give_params(draft: Draft, graph: Graph, own: Collection[str], fresh: Mapping[str, str]) -> dict[str, str]:
    """Copies of parameters that are a block's own, or nobody's, by what they copy; other keys are names of what is shared."""
    owners, alone = _owners(graph), {*own, *(name for name in graph.params if not graph.readers(name))}
    copies = {old: new for new, old in fresh.items() if old in alone}
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
        _, unit = where_parted(new, old)
        groups.setdefault(unit.rpartition(".")[0], {})[new] = unit
    for own in groups.values():
        at = max(i for i, key in enumerate(keys, 1) if within(key, own.values()))
        keys[at:at] = own
    return keys


def _between(graph: Graph, morphism: RepeatBlocks) -> list[RepeatableBlock]:
    for run in runs_of(repeatable_blocks(graph, ChannelSpaces.of(graph))):
        starts, ends = [block.source for block in run], [block.value for block in run]
        if morphism.source in starts and morphism.at in ends[starts.index(morphism.source) :]:
            return run[starts.index(morphism.source) : ends.index(morphism.at) + 1]
    raise PassError(
        f"between '{morphism.source}' and '{morphism.at}' of '{graph.name}' lie no blocks that can be repeated"
    )


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


def _new_paths(graph: Graph, units: Iterable[str], before: Iterable[str]) -> dict[str, str]:
    """Path of each of some modules and parameters -> that of its copy, which none of the copies before has."""
    taken = {path for node in graph.nodes.values() for path in (node.module, node.scope) if path}
    taken.update(keys_of(graph.params), before)
    made: dict[str, str] = {}
    for unit in units:  # parameters of one block may stand outside its modules, as in a ParameterList
        if not within(unit, made):
            made[unit] = next_path(unit, {*taken, *made.values()})
    return made


def _renamed(path: str, paths: Mapping[str, str]) -> str:
    """A path in the copy of the module that it lies in; itself where it lies in none that is copied."""
    unit = within(path, paths)
    return paths[unit] + path[len(unit) :] if unit else path
