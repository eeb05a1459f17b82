"""Proof that written source computes what its graph does: it is executed and compared, bit for bit."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gngraph.errors import IRError
from gngraph.ir import Graph, Items, Ref
from gngraph.ir.arguments import call_of
from gngraph.lowering.probe import probe_of

_BATCH = 2
"""Samples in the probe; with fewer, BatchNorm cannot run in train mode."""


def prove(source: str, name: str, graph: Graph, reference: nn.Module) -> None:
    """Execute `source` and compare its class with the lowered graph.

    Compared are the state_dict's keys, shapes, dtypes, tied and frozen tensors; outputs in eval mode with the graph's
    own values; outputs and buffers in eval and train mode with drawn values, so that no zero weight hides a difference.

    Args:
        source: the text of the file.
        name: the class of the network in it.
        graph: what it was written from.
        reference: the lowered graph's module; it ends in eval mode.

    Raises:
        IRError: what differs.
    """
    try:
        net = execute(source)[name]()
    except Exception as error:  # a name or argument that its base class or torch refuses
        raise _defect(graph, f"it does not run: {error}") from error
    _compare_structure(graph, reference, net)
    own = _state(reference)
    inputs = probe_of(graph, samples=_BATCH, dtype=None)
    if not any(tensor.is_meta for tensor in own.values()):
        _compare_runs(graph, reference, net, own, inputs, training=False)
    drawn = _drawn(own)
    for training in (False, True):
        _compare_runs(graph, reference, net, drawn, inputs, training=training)
    reference.eval()


def prove_loading(source: str, graph: Graph, reference: nn.Module, weights: Path) -> None:
    """Execute `source`, call its `load` on the file `weights` and compare every tensor, and the mode.

    Args:
        source: text of the module.
        graph: for messages.
        reference: the lowered graph, whose state the loaded one must have.
        weights: the file that was written beside the source.

    Raises:
        IRError: what differs.
    """
    net = execute(source)["load"](weights)
    loaded, own = _state(net), _state(reference)
    for key, tensor in own.items():
        if not _equal(loaded[key], tensor):
            raise _defect(graph, f"'{key}' has other values after loading")
    if any(module.training for module in net.modules()):
        raise _defect(graph, "the loaded network is in train mode")


def execute(source: str) -> dict[str, Any]:
    """The names that `source` defines."""
    namespace: dict[str, Any] = {"__name__": "model", "__file__": "model.py"}
    exec(compile(source, "model.py", "exec", dont_inherit=True), namespace)
    return namespace


def _defect(graph: Graph, difference: str) -> IRError:
    return IRError(
        f"the source written for graph '{graph.name}' differs from it: {difference}; nothing was written, this is a "
        f"defect of gngraph or an op that cannot be written as source (use the archive or ONNX instead)"
    )


def _compare_structure(graph: Graph, reference: nn.Module, net: nn.Module) -> None:
    expected, found = (list(m.state_dict(keep_vars=True).items()) for m in (reference, net))
    keys = [[key for key, _ in entries] for entries in (expected, found)]
    if keys[0] != keys[1]:
        odd = sorted(set(keys[0]) ^ set(keys[1]))
        raise _defect(graph, f"its state_dict differs in '{odd[0]}'" if odd else "its state_dict has another order")
    if {n for n, _ in reference.named_buffers()} != {n for n, _ in net.named_buffers()}:
        raise _defect(graph, "its buffers have other names")
    firsts: tuple[dict[int, str], dict[int, str]] = ({}, {})
    for (key, a), (_, b) in zip(expected, found, strict=True):
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            raise _defect(graph, f"'{key}' is {b.dtype} of shape {tuple(b.shape)}, not {a.dtype} of {tuple(a.shape)}")
        if a.requires_grad != b.requires_grad or isinstance(a, nn.Parameter) != isinstance(b, nn.Parameter):
            raise _defect(graph, f"'{key}' is trainable in one alone")
        if firsts[0].setdefault(id(a), key) != firsts[1].setdefault(id(b), key):
            raise _defect(graph, f"'{key}' is tied in one alone")


def _compare_runs(
    graph: Graph,
    reference: nn.Module,
    net: nn.Module,
    state: Mapping[str, Tensor],
    inputs: tuple[Tensor, ...],
    *,
    training: bool,
) -> None:
    mode = "train" if training else "eval"
    results = []
    values = dict(zip(graph.inputs, inputs, strict=True))
    arguments = graph.arguments or Items(tuple((name, Ref(name)) for name in graph.inputs))
    for module, (args, named) in ((reference, (inputs, {})), (net, call_of(arguments, values))):
        used = {key: tensor.clone() for key, tensor in state.items()}
        module.train(training)
        with torch.no_grad(), _seeded():
            try:
                output = torch.func.functional_call(module, used, args, named)
            except Exception as error:  # whatever the network's own operations raise
                if not training:
                    raise _defect(graph, f"it fails in {mode} mode on a batch of {_BATCH}: {error}") from error
                output = torch.zeros(0)  # both must fail in train mode, if one does
        results.append(({} if output is None else _tensors(output, "output"), used))
    for a, b in zip(*results, strict=True):
        if a.keys() != b.keys():
            raise _defect(graph, f"it returns another structure in {mode} mode")
        for key in a:
            if not _equal(a[key], b[key]):
                raise _defect(graph, f"'{key}' differs in {mode} mode")


@contextmanager
def _seeded() -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


def _tensors(value: Any, where: str) -> dict[str, Tensor]:
    if isinstance(value, Tensor):
        return {where: value}
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, (tuple, list)) else ()
    return {key: t for k, item in pairs for key, t in _tensors(item, f"{where}[{k!r}]").items()}


def _equal(a: Tensor, b: Tensor) -> bool:
    """Equality of every bit, on the CPU."""
    if (a.shape, a.dtype) != (b.shape, b.dtype):
        return False
    bits = [t.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for t in (a, b)]
    return torch.equal(*bits)


def _state(module: nn.Module) -> dict[str, Tensor]:
    """Every tensor of `module` on the CPU, in plain memory order, once each."""
    named = (*module.named_parameters(), *module.named_buffers())
    return {key: (t.detach() if t.is_meta else t.detach().cpu().contiguous()) for key, t in named}


def _drawn(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Random values that keep signals finite: matrices scaled by their fan-in, everything else between 0.5 and 1.5."""
    drawn = {}
    with _seeded():
        for key, tensor in state.items():
            if not tensor.is_floating_point():
                drawn[key] = torch.zeros(tensor.shape, dtype=tensor.dtype) if tensor.is_meta else tensor
            elif tensor.ndim > 1:
                drawn[key] = (torch.randn(tensor.shape) / max(tensor[0].numel(), 1) ** 0.5).to(tensor.dtype)
            else:
                drawn[key] = (torch.rand(tensor.shape) + 0.5).to(tensor.dtype)
    return drawn
