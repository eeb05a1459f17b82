"""An architecture from the start again: new initial weights."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn

from gngraph.ir import Graph, Node, Parameter
from gngraph.lowering.to_torch import to_torch
from gngraph.ops import lookup
from gngraph.ops.starts import OF_OPERAND
from gngraph.ops.traits import Start
from gngraph.zoo.spec import initialise_convolutions


def restarted(graph: Graph, seed: int) -> Graph:
    """`graph` with new initial weights: He's for convolutions over maps, for every other layer those of its own `reset_parameters`.

    How a user initialised the network cannot be read from it. What no module of torch draws is drawn as the op that reads it is
    (`OpSpec.starts`): raw weights as layers', scales of one size, shifts of 0, tables of positions normal. What cannot be known is
    normal with the mean and the deviation of its values, see `guessed`. Constants stay constant, and what training holds stays.
    Torch's global random state is left as it was.
    """
    return _drawn(graph, seed)[0]


def guessed(graph: Graph) -> list[str]:
    """What to tell of the parameters whose initial values cannot be known; nothing where all can."""
    names = _drawn(graph, 0)[1]
    if not names:
        return []
    which = ", ".join(f"'{name}'" for name in names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return [
        f"how {which} started cannot be known, so that new initial values are drawn with the mean and the deviation of those that "
        f"are there; a single number stays"
    ]


@torch.no_grad()
def _drawn(graph: Graph, seed: int) -> tuple[Graph, list[str]]:
    """The graph with new initial weights, and the names of those that were guessed."""
    module = to_torch(graph)
    held, names = module.state_dict(keep_vars=True), _free(graph)
    known, unknown = set[int](), list[str]()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for part in reversed(list(module.modules())):  # what a module of several sets of its parts counts
            own = [p for p in part._parameters.values() if p is not None]
            before = [p.clone() for p in own]
            if _reset(part):
                known.update(
                    id(p) for p, old in zip(own, before, strict=True) if not (torch.equal(p, old) and _varies(p))
                )
        initialise_convolutions(module)
        for name in names:
            values = held[name]
            if id(values) not in known and not _drawn_by_reader(graph, name, values):
                if _varies(values):
                    values.copy_(values.mean() + values.std() * torch.randn_like(values))
                if _varies(values) or (values.numel() == 1 and graph.params[name].kind == "parameter"):
                    unknown.append(name)
    statistics = [n for n, p in graph.params.items() if p.kind == "buffer"]
    return graph.with_params({n: held[n].detach().clone() for n in (*names, *statistics)}), unknown


def _free(graph: Graph) -> list[str]:
    """Names of the parameters that training moves."""
    return [n for n, p in graph.params.items() if p.kind == "parameter" and p.trainable and _is_number(p)]


def _is_number(parameter: Parameter) -> bool:
    return parameter.data.is_floating_point() or parameter.data.is_complex()


def _varies(values: torch.Tensor) -> bool:
    return values.numel() > 1 and not bool((values == values.flatten()[0]).all())


def _reset(part: nn.Module) -> bool:
    """Have a module draw its parameters; whether it can."""
    reset = getattr(part, "reset_parameters", getattr(part, "_reset_parameters", None))
    if reset is not None:
        reset()
    return reset is not None


def _drawn_by_reader(graph: Graph, name: str, values: torch.Tensor) -> bool:
    """Whether something that reads a parameter says how it starts; then it is drawn so."""
    for node, role, start in _starts(graph, name):
        weight = graph.params[node.params["weight"]].data if "weight" in node.params else values
        if start(node, values, values if role == "weight" else weight) is not None:
            return True
    return False


def _starts(graph: Graph, name: str) -> Iterator[tuple[Node, str, Start]]:
    """How the readers of a parameter have it start: those that have a role for it, then those that read it as a value."""
    readers = [(graph.nodes[node], role) for node, role in graph.readers(name)]
    for node, role in readers:
        if role in lookup(node.op).starts:
            yield node, role, lookup(node.op).starts[role]
    own, given = {node.name for node, _ in readers if node.op == "parameter"}, set(graph.inputs)
    for node in graph.nodes.values():  # what is made of the parameter without the input, up to where it meets that
        if given.intersection(node.inputs):
            given.add(node.name)
        if not own.intersection(node.inputs):
            continue
        if node.name not in given:
            if not node.params and lookup(node.op).is_linear(node, own):
                own.add(node.name)
        elif OF_OPERAND in lookup(node.op).starts:
            yield node, OF_OPERAND, lookup(node.op).starts[OF_OPERAND]
