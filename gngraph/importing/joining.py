"""One graph from the traces of both modes: what differs becomes a flag, or a value for each mode."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from operator import itemgetter
from typing import Any

import torch
from torch import fx

from gngraph.errors import UnsupportedModelError
from gngraph.importing.fx_calls import Flags, scopes
from gngraph.importing.norm_counters import COUNTER
from gngraph.importing.tape import data_key
from gngraph.importing.trace import Traced
from gngraph.importing.tracer import WITHOUT_GRADIENT
from gngraph.ir import Flag
from gngraph.ops.modes import by_mode

Part = Callable[[Any], Any]
"""What is kept of a network's output in train mode."""


@dataclass(frozen=True)
class Joined:
    """A forward in both modes.

    Attributes:
        graph: its calls; a value that differs is a call of `by_mode`.
        flags: arguments that differ.
        constants: tensors that the forward makes by itself, by the names under which the graph reads them.
        part: what the graph computes of the output in train mode.
        whole: whether that is all of it.
    """

    graph: fx.Graph
    flags: Flags
    constants: Mapping[str, torch.Tensor]
    part: Part
    whole: bool


class _Differs(Exception):
    """The modes differ in a way that a graph cannot hold."""


def joined(evaluated: Traced, trained: Traced, name: str, *, drop: bool) -> Joined:
    """The forward in both modes, built in the graph of `evaluated`.

    Args:
        evaluated: the trace in eval mode.
        trained: the trace in train mode.
        name: the network's, for messages.
        drop: whether heads may go that give outputs in train mode alone.

    Raises:
        UnsupportedModelError: the modes differ in a way that a graph cannot hold, or by a head and `drop` is not set.
    """
    part: Part | None = None
    constants = _constants(evaluated, trained)
    mine, theirs = (traced.graph.output_node() for traced in (evaluated, trained))
    if not _same_form(mine.args[0], theirs.args[0]):
        part = _best_part(evaluated, trained)
        heads = ", ".join(f"'{path}'" for path in modules_in_train_mode(evaluated, trained)[:8])
        what = f"modules {heads}" if heads else "its outputs differ"
        told = f"'{name}' computes something else in train mode than in eval mode ({what})"
        if part is None:
            raise UnsupportedModelError(
                f"{told}, and returns none of it as in eval mode; return the same in both modes"
            )
        if not drop:
            raise UnsupportedModelError(
                f"{told}; pass train_only='drop' (--drop-train-only) to grow the network without the heads of train mode"
            )
        theirs.args = (part(theirs.args[0]),)
        _without_unused(trained.graph)
    try:
        flags = _Joiner(evaluated.graph, trained.graph).join()
    except _Differs as difference:
        raise UnsupportedModelError(
            f"'{name}' computes something else in train mode than in eval mode: {difference}"
        ) from difference
    return Joined(evaluated.graph, flags, constants, part or (lambda output: output), part is None)


def modules_in_train_mode(evaluated: Traced, trained: Traced) -> list[str]:
    """Paths of the leaf modules that run in train mode alone."""
    in_eval = {node.target for node in evaluated.graph.nodes if node.op == "call_module"}
    return list(
        dict.fromkeys(
            str(node.target) for node in trained.graph.nodes if node.op == "call_module" and node.target not in in_eval
        )
    )


def _constants(evaluated: Traced, trained: Traced) -> dict[str, torch.Tensor]:
    """The constants of both traces; equal ones, of one trace too, get the first name that eval mode has for them."""
    found: dict[str, torch.Tensor] = {}
    names: dict[Hashable, str] = {}
    for traced in (evaluated, trained):
        renamed = {}
        for name, tensor in traced.constants.items():
            key = data_key(tensor)
            if key not in names:
                names[key] = f"{name}_in_training" if traced is trained and name in evaluated.constants else name
                found[names[key]] = tensor
            renamed[name] = names[key]
        _read_once(traced.graph, renamed)
    return found


def _read_once(graph: fx.Graph, names: Mapping[str, str]) -> None:
    """Constants by their `names`, each read by one node, as an attribute of the network is."""
    first: dict[tuple[str, Any], fx.Node] = {}
    for node in list(graph.nodes):
        if node.op != "get_attr" or node.target not in names:
            continue
        node.target = names[str(node.target)]
        reads = first.setdefault((node.target, node.meta.get(WITHOUT_GRADIENT)), node)
        if reads is not node:
            node.replace_all_uses_with(reads)
            graph.erase_node(node)


# --- outputs


def _same_form(a: Any, b: Any) -> bool:
    """Whether two outputs are structures of the same form."""
    if isinstance(a, fx.Node) or isinstance(b, fx.Node):
        return isinstance(a, fx.Node) and isinstance(b, fx.Node)
    if isinstance(a, Mapping):
        return isinstance(b, Mapping) and list(a) == list(b) and all(_same_form(a[key], b[key]) for key in a)
    if isinstance(a, (tuple, list)):
        return isinstance(b, (tuple, list)) and len(a) == len(b) and all(map(_same_form, a, b))
    return bool(a == b)


def _best_part(evaluated: Traced, trained: Traced) -> Part | None:
    """What takes from the outputs of train mode that which eval mode returns: the part that is computed most like it."""
    wanted = evaluated.graph.output_node().args[0]
    given = trained.graph.output_node().args[0]
    of_eval = Counter(_keys(evaluated.graph, _needed(wanted)))
    found: list[tuple[int, Part]] = []
    for part in _parts(wanted, given):
        of_train = Counter(_keys(trained.graph, _needed(part(given))))
        found.append((sum(((of_eval - of_train) + (of_train - of_eval)).values()), part))
    return min(found, key=lambda pair: pair[0])[1] if found else None


def _parts(wanted: Any, given: Any) -> Iterator[Part]:
    """Every part of the form of `wanted`: an item, an item of an item, or some entries of a mapping."""
    if isinstance(wanted, Mapping) and isinstance(given, Mapping) and set(wanted) < set(given):
        keys = list(wanted)
        if all(_same_form(wanted[key], given[key]) for key in keys):
            yield _some_entries(keys)
    if isinstance(wanted, (tuple, list)) and isinstance(given, (tuple, list)) and len(wanted) < len(given):
        count = len(wanted)
        if all(map(_same_form, wanted, given)):
            yield itemgetter(slice(count))
    items: Sequence[Any] = ()
    if isinstance(given, Mapping):
        items = list(given)
    elif isinstance(given, (tuple, list)):
        items = range(len(given))
    for key in items:
        if _same_form(wanted, given[key]):
            yield itemgetter(key)
        else:
            for inner in _parts(wanted, given[key]):
                yield _of_item(key, inner)


def _some_entries(keys: Sequence[Any]) -> Part:
    return lambda output: {key: output[key] for key in keys}


def _of_item(key: Any, part: Part) -> Part:
    return lambda output: part(output[key])


def _needed(value: Any) -> set[fx.Node]:
    """The nodes that a value is computed from, with those of the value."""
    waiting: list[fx.Node] = []
    fx.map_arg(value, waiting.append)
    found: set[fx.Node] = set()
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += node.all_input_nodes
    return found


def _without_unused(graph: fx.Graph) -> None:
    needed = _needed(graph.output_node().args[0])
    for node in reversed(graph.nodes):
        if node not in needed and node.op not in ("placeholder", "output"):
            graph.erase_node(node)


# --- nodes


def _keys(graph: fx.Graph, nodes: set[fx.Node] | None = None) -> list[tuple[Any, ...]]:
    """What must be the same of nodes that are one in both modes."""
    place = scopes(graph)
    return [
        (node.op, node.target, len(node.args), tuple(sorted(node.kwargs)), place[node])
        for node in graph.nodes
        if nodes is None or node in nodes
    ]


class _Joiner:
    """Brings the nodes of `trained` into `evaluated`."""

    def __init__(self, evaluated: fx.Graph, trained: fx.Graph) -> None:
        self.graph = evaluated
        self.trained = trained
        self.joint: dict[fx.Node, fx.Node] = {}
        self.choices: dict[tuple[fx.Node, fx.Node], fx.Node] = {}
        self.flags: dict[tuple[str, int | str], Flag] = {}
        self.in_eval_alone: set[fx.Node] = set()

    def join(self) -> Flags:
        mine, theirs = list(self.graph.nodes), list(self.trained.nodes)
        matcher = SequenceMatcher(None, _keys(self.graph), _keys(self.trained), autojunk=False)
        last = self.graph._root
        for kind, a, a_end, b, b_end in matcher.get_opcodes():
            if kind == "equal":
                for x, y in zip(mine[a:a_end], theirs[b:b_end], strict=True):
                    last = self.joint[y] = self.one(x, y)
                continue
            for x in mine[a:a_end]:
                self.in_eval_alone.add(x)
                last = x
            for y in theirs[b:b_end]:
                with self.graph.inserting_after(last):
                    last = self.joint[y] = self.graph.node_copy(y, lambda node: self.joint[node])
        for x in self.in_eval_alone:
            if x.op in ("placeholder", "output"):
                raise _Differs("its arguments or outputs differ")
        return self.flags

    def one(self, x: fx.Node, y: fx.Node) -> fx.Node:
        """What stands for `y` of train mode: `x`, made that of both modes, or one beside it where one reads a number."""
        try:
            args = [self.argument(x, i, a, b) for i, (a, b) in enumerate(zip(x.args, y.args, strict=True))]
            kwargs = {key: self.argument(x, key, x.kwargs[key], y.kwargs[key]) for key in x.kwargs}
        except _Differs:
            if x.op not in ("call_function", "call_method"):
                raise
            self.flags = {place: flag for place, flag in self.flags.items() if place[0] != x.name}
            with self.graph.inserting_after(x):
                return self.graph.node_copy(y, lambda node: self.joint[node])
        x.args, x.kwargs = tuple(args), kwargs
        if y.meta.pop(WITHOUT_GRADIENT, False):
            x.meta[WITHOUT_GRADIENT] = True
        else:
            x.meta.pop(WITHOUT_GRADIENT, None)
        if COUNTER in y.meta:
            x.meta[COUNTER] = y.meta[COUNTER]
        return x

    def argument(self, node: fx.Node, key: int | str, a: Any, b: Any) -> Any:
        """What stands in both modes for `a` in eval mode and `b` in train mode."""
        if isinstance(a, (bool, int, float)) and isinstance(b, (bool, int, float)) and (type(a), a) != (type(b), b):
            self.flags[node.name, key] = Flag("training", on=b, off=a)
            return a
        return self.both(node, a, b)

    def both(self, node: fx.Node, a: Any, b: Any) -> Any:
        if isinstance(a, fx.Node) and isinstance(b, fx.Node):
            return self.choice(node, a, self.joint[b])
        if isinstance(a, slice) and isinstance(b, slice):
            parts = zip((a.start, a.stop, a.step), (b.start, b.stop, b.step), strict=True)
            return slice(*(self.both(node, x, y) for x, y in parts))
        if isinstance(a, Mapping) and isinstance(b, Mapping) and list(a) == list(b):
            return {key: self.both(node, a[key], b[key]) for key in a}
        if isinstance(a, (tuple, list)) and isinstance(b, (tuple, list)) and len(a) == len(b):
            items = [self.both(node, x, y) for x, y in zip(a, b, strict=True)]
            return type(a)(*items) if hasattr(a, "_fields") else items if isinstance(a, list) else tuple(items)
        if isinstance(a, fx.Node) or isinstance(b, fx.Node) or type(a) is not type(b) or a != b:
            raise _Differs(f"node '{node.name}' reads '{a}' in eval mode, but '{b}' in train mode")
        return a

    def choice(self, node: fx.Node, a: fx.Node, b: fx.Node) -> fx.Node:
        reads_one = (a.op, b.op) == ("get_attr", "get_attr") and a.target == b.target
        if a is b or (reads_one and a.meta.get(WITHOUT_GRADIENT) == b.meta.get(WITHOUT_GRADIENT)):
            return a  # which `node` reads, so that it stands before it
        if (a, b) not in self.choices:
            with self.graph.inserting_before(node):
                self.choices[a, b] = self.graph.call_function(by_mode, (a, b))
        return self.choices[a, b]
