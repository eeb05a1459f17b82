"""`Draft`: the only way to change a graph. Edits are validated one by one, types and invariants at commit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from gngraph.errors import IRError
from gngraph.ir.graph import Graph
from gngraph.ir.types import Attr, Node, Parameter, Type, refs_in, replace_refs
from gngraph.ir.verify import verify

InferType = Callable[[Node, tuple[Type, ...], Mapping[str, Parameter]], Type]
"""The type of a node's value, from the node, the types of its inputs and the graph's parameters."""


class Draft:
    """A mutable copy of a graph's tables.

    `commit` gives a new, verified graph and leaves the base as it was; a draft that fails is simply dropped.
    Types are inferred anew only downstream of what changed. `gngraph.ops.draft_of` makes drafts that follow the op table.

    Args:
        base: the graph to start from.
        infer_type: the type rule of every op; what it raises, `commit` raises.

    >>> from gngraph.ir.types import Node, TensorType, Ref
    >>> x = Node("x", "input", type=TensorType("f32", ("N", 4)))
    >>> base = Graph("Net", {"x": x}, {}, ("x",), Ref("x"))
    >>> draft = Draft(base, lambda node, inputs, params: inputs[0])
    >>> draft.add(Node("y", "relu", ("x",)), after="x")
    >>> draft.set_output(Ref("y"))
    >>> str(draft.commit()["y"].type)
    'f32[N,4]'
    """

    def __init__(self, base: Graph, infer_type: InferType) -> None:
        self._base = base
        self._infer_type = infer_type
        self._nodes: dict[str, Node] = dict(base.nodes)
        self._params: dict[str, Parameter] = dict(base.params)
        self._inputs = base.inputs
        self._output = base.output
        self._dirty: set[str] = set()
        self._pending: dict[str | None, list[Node]] = {}

    @property
    def params(self) -> Mapping[str, Parameter]:
        """The parameters as edited so far."""
        return MappingProxyType(self._params)

    def node(self, name: str) -> Node:
        """The node `name` as edited so far; IRError if there is none."""
        if name not in self._nodes:
            raise IRError(f"draft of '{self._base.name}' has no node '{name}'")
        return self._nodes[name]

    def fresh_name(self, stem: str) -> str:
        """`stem`, or `stem_1`, `stem_2`, ...: the first that no node has."""
        name, count = stem, 0
        while name in self._nodes:
            count += 1
            name = f"{stem}_{count}"
        return name

    def add(self, node: Node, *, after: str | None = None) -> None:
        """Add `node` directly behind node `after` in the order (None: at the end). Its type is inferred at commit.

        Raises:
            IRError: the name is taken, `after`, an input or a parameter does not exist.
        """
        if node.name in self._nodes:
            raise IRError(f"node '{node.name}' exists already; take a name from fresh_name('{node.name}')")
        if after is not None:
            self.node(after)
        self._require_read(node)
        self._nodes[node.name] = node
        self._pending.setdefault(after, []).append(node)
        self._dirty.add(node.name)

    def remove(self, name: str) -> None:
        """Remove a node that nothing reads.

        Raises:
            IRError: it is read by a node or by the output.
        """
        self.node(name)
        users = [n.name for n in self._nodes.values() if name in n.inputs]
        if users or name in refs_in(self._output):
            raise IRError(f"node '{name}' is still read by {users or 'the output'}; replace its uses first")
        self._take_out(name)

    def remove_unread(self, names: Iterable[str]) -> None:
        """Remove those of some nodes that neither the output nor a node that stays reads; O(#nodes)."""
        reads = Counter(source for node in self._nodes.values() for source in set(node.inputs))
        reads.update(set(refs_in(self._output)))
        left = set(names)
        pending = [name for name in left if not reads[name]]
        while pending:
            sources = set(self.node(pending[-1]).inputs)
            self._take_out(pending.pop())
            reads.subtract(sources)
            pending += [name for name in sources if name in left and not reads[name]]

    def _take_out(self, name: str) -> None:
        self._reanchor(name)
        del self._nodes[name]
        for nodes in self._pending.values():
            nodes[:] = [n for n in nodes if n.name != name]

    def _reanchor(self, name: str) -> None:
        """What was added behind `name` stays in its place: behind what `name` itself stands behind."""
        behind = self._pending.pop(name, None)
        if not behind:
            return
        for nodes in self._pending.values():
            for i, node in enumerate(nodes):
                if node.name == name:
                    nodes[i + 1 : i + 1] = behind
                    return
        base = [n for n in self._base.nodes if n in self._nodes]
        before = base[base.index(name) - 1]  # an input comes first and is never removed
        self._pending.setdefault(before, [])[:0] = behind

    def replace_uses(self, old: str, new: str, *, except_in: tuple[str, ...] = ()) -> None:
        """Make every reader of `old` (nodes not in `except_in`, and the output) read `new`; O(#nodes)."""
        self.node(old)
        self.node(new)
        for node in list(self._nodes.values()):
            if old in node.inputs and node.name not in except_in:
                inputs = tuple(new if i == old else i for i in node.inputs)
                attrs = {key: replace_refs(value, {old: new}) for key, value in node.attrs.items()}
                self._nodes[node.name] = replace(node, inputs=inputs, attrs=MappingProxyType(attrs))
                self._dirty.add(node.name)
        self._output = replace_refs(self._output, {old: new})

    def put(self, node: Node) -> None:
        """Put `node` in the place of the one of its name. Its type is inferred at commit.

        Raises:
            IRError: there is no such node, or an input or a parameter does not exist.
        """
        self.node(node.name)
        self._require_read(node)
        self._nodes[node.name] = node
        self._dirty.add(node.name)

    def _require_read(self, node: Node) -> None:
        """What a node reads is there."""
        for source in node.inputs:
            self.node(source)
        for role, param in node.params.items():
            if param not in self._params:
                raise IRError(f"node '{node.name}' reads parameter '{param}' as '{role}', which does not exist")

    def set_attrs(self, name: str, **attrs: Attr) -> None:
        """Set attributes of a node."""
        node = self.node(name)
        self._nodes[name] = replace(node, attrs=MappingProxyType({**node.attrs, **attrs}))
        self._dirty.add(name)

    def set_params(self, name: str, params: Mapping[str, str]) -> None:
        """Set which parameters a node reads (role -> parameter name)."""
        for role, param in params.items():
            if param not in self._params:
                raise IRError(f"node '{name}' cannot read parameter '{param}' as '{role}': it does not exist")
        self._nodes[name] = replace(self.node(name), params=MappingProxyType(dict(params)))
        self._dirty.add(name)

    def set_param(self, name: str, parameter: Parameter) -> None:
        """Set or add parameter `name`. A change of shape re-infers the types of everything behind its readers."""
        old = self._params.get(name)
        self._params[name] = parameter
        if old is None or old.data.shape != parameter.data.shape or old.data.dtype != parameter.data.dtype:
            readers = self._base._reader_table.get(name, ()) if old is not None else ()
            self._dirty.update(node for node, _ in readers if node in self._nodes)

    def remove_param(self, name: str) -> None:
        """Remove a parameter; commit fails if a node still reads it."""
        if name not in self._params:
            raise IRError(f"draft of '{self._base.name}' has no parameter '{name}'")
        del self._params[name]

    def set_output(self, output: Attr) -> None:
        """Set what the network returns."""
        for name in refs_in(output):
            self.node(name)
        self._output = output

    def commit(self) -> Graph:
        """A new graph: order restored, types inferred, every invariant verified.

        Raises:
            IRError: a type rule or an invariant is broken; the message names the node. The base is unchanged.
        """
        nodes = self._infer(self._ordered())
        graph = replace(self._base, nodes=nodes, params=dict(self._params), inputs=self._inputs, output=self._output)
        verify(graph)
        return graph

    def _ordered(self) -> dict[str, Node]:
        if not self._pending:
            return self._nodes
        order: dict[str, Node] = {}

        def place(names: list[str]) -> None:
            for name in names:
                order[name] = self._nodes[name]
                place([n.name for n in self._pending.get(name, ())])

        added = {n.name for group in self._pending.values() for n in group}
        place([name for name in self._nodes if name not in added])
        place([n.name for n in self._pending.get(None, ())])
        return order

    def _infer(self, nodes: dict[str, Node]) -> dict[str, Node]:
        dirty = set(self._dirty)
        if not dirty:
            return nodes
        result: dict[str, Node] = {}
        changed: set[str] = set()
        for name, node in nodes.items():
            if name in dirty or not changed.isdisjoint(node.inputs):
                missing = [i for i in node.inputs if i not in result]
                if missing:
                    raise IRError(f"node '{name}' reads '{missing[0]}', which is not computed before it")
                new = self._infer_type(node, tuple(result[i].type for i in node.inputs), self._params)
                if new != node.type:
                    node = replace(node, type=new)
                    changed.add(name)
            result[name] = node
        return result
