"""New modules in a graph: nodes one behind the other, and parameters where the state_dict has them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from gngraph.ir import Attr, Graph, Node, Parameter
from gngraph.ops import draft_of


class Building:
    """A draft of a graph to which modules are added behind a value, in its scope.

    Args:
        graph: before.
        behind: name of the node behind which the new ones stand.
    """

    def __init__(self, graph: Graph, behind: str) -> None:
        self.graph, self.draft = graph, draft_of(graph)
        self.scope, self._last = graph.nodes[behind].scope, behind
        self._like = next(p.data for p in graph.params.values() if p.data.is_floating_point())
        self._added: dict[str, Parameter] = {}
        self._nodes: list[str] = []

    @property
    def last(self) -> str:
        """The node that was added last, or the one that all stand behind."""
        return self._last

    def free_path(self, stem: str) -> str:
        """A module path in the scope that nothing has: `stem` with the first number that is free."""
        taken = {*self.graph.params, *(alias for p in self.graph.params.values() for alias, _ in p.aliases)}
        taken |= {path for node in self.graph.nodes.values() for path in (node.module, node.scope) if path}
        number = 1
        while True:
            path = f"{self.scope}.{stem}{number}" if self.scope else f"{stem}{number}"
            if not any(name == path or name.startswith(f"{path}.") for name in taken):
                return path
            number += 1

    def call(self, stem: str, op: str, *inputs: str, **attrs: Attr) -> str:
        """A node without parameters; its name.

        Args:
            stem: of its name.
            op: what it computes.
            inputs: names of the nodes that it reads.
            attrs: its attributes.
        """
        return self._add(stem, Node("", op, inputs, attrs=attrs))

    def module(
        self, path: str, op: str, source: str, attrs: Mapping[str, Attr], tensors: Mapping[str, torch.Tensor]
    ) -> str:
        """A module of its own; its name.

        Args:
            path: of the module.
            op: what it computes.
            source: name of the node that it reads.
            attrs: its attributes.
            tensors: its parameters by role, of the graph's dtype afterwards; those of a norm's statistics are buffers.
        """
        params = {role: self._param(f"{path}.{role}", role, data) for role, data in tensors.items()}
        return self._add(path, Node("", op, (source,), params=params, attrs=attrs, module=path))

    def raw(self, path: str, data: torch.Tensor) -> str:
        """A parameter that no module of torch has, as a value; its name.

        Args:
            path: of the parameter.
            data: its values, of the graph's dtype afterwards.
        """
        return self._add(path, Node("", "parameter", (), params={"value": self._param(path, "value", data)}))

    def behind(self, value: str) -> Graph:
        """The graph where everything that read `value` reads what was added last; parameters stand at the end of the scope."""
        self.draft.replace_uses(value, self._last, except_in=tuple(self._nodes))
        made, keys = self.draft.commit(), keys_of(self.graph.params)
        at = _end_of(self.scope, self.graph.params, keys)
        return replace(made, params=in_order(made.params, [*keys[:at], *self._added, *keys[at:]]))

    def instead(self, node: str) -> Graph:
        """The graph where what was added last stands in for a node, which goes; so do the new parameters for its own."""
        gone = set(self.graph.nodes[node].params.values())
        self.draft.replace_uses(node, self._last)
        self.draft.remove(node)
        made, keys = self.draft.commit(), keys_of(self.graph.params)
        owners = {
            name.rpartition(".")[0] for name in gone
        }  # what lies in them stands behind what they have by themselves
        at = max((i for i, key in enumerate(keys, 1) if key.rpartition(".")[0] in owners), default=len(keys))
        kept = [key for key in keys[:at] if key not in gone], [key for key in keys[at:] if key not in gone]
        return replace(made, params=in_order(made.params, [*kept[0], *self._added, *kept[1]]))

    def _param(self, name: str, role: str, data: torch.Tensor) -> str:
        statistic = role in ("running_mean", "running_var", "num_batches_tracked")
        dtype = self._like.dtype if data.is_floating_point() else data.dtype
        data = data.to(self._like.device, dtype, copy=True)  # two parameters share no memory
        self._added[name] = Parameter(data, "buffer" if statistic else "parameter", trainable=not statistic)
        self.draft.set_param(name, self._added[name])
        return name

    def _add(self, stem: str, node: Node) -> str:
        stem = stem.replace(".", "_")
        name = self.draft.fresh_name(f"_{stem}" if stem[0].isdigit() else stem)  # an identifier, as torch.fx makes it
        self.draft.add(replace(node, name=name, scope=self.scope), after=self._last)
        self._nodes.append(name)
        self._last = name
        return name


def keys_of(params: Mapping[str, Parameter]) -> list[str]:
    """Names of parameters and their aliases, in the order of the state_dict."""
    keys = list(params)
    for position, alias in sorted((at, alias) for p in params.values() for alias, at in p.aliases):
        keys.insert(position, alias)
    return keys


def in_order(params: Mapping[str, Parameter], keys: Sequence[str]) -> dict[str, Parameter]:
    """Parameters in the order of some keys, and their aliases where these have them.

    Args:
        params: all of them.
        keys: their names and aliases, and nothing else.
    """
    places = {key: at for at, key in enumerate(keys)}
    found = {}
    for key in keys:
        if key in params:
            own = ((alias, places[alias]) for alias, _ in params[key].aliases)
            aliases = tuple(sorted(own, key=lambda named: named[1]))
            found[key] = replace(params[key], aliases=aliases) if aliases else params[key]
    return found


def _end_of(scope: str, params: Mapping[str, Parameter], keys: Sequence[str]) -> int:
    """Where the parameters of the last child of the module `scope` stand, of whatever it lies in that has some."""
    container = scope
    while container:
        inside = [at for at, key in enumerate(keys) if key.startswith(f"{container}.")]
        if inside:
            return inside[-1] + 1
        container = container.rpartition(".")[0]
    # constants come last, for they are in no state_dict
    return next((at for at, key in enumerate(keys) if key in params and params[key].kind == "constant"), len(keys))
