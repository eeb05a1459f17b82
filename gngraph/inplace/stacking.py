"""Blocks of a user's module repeated in place: copies stand behind them in the lists that they lie in, and optimisers know them."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from gngraph.errors import UnsupportedModelError
from gngraph.inplace.hosts import tensors_of, without_hooks
from gngraph.ir import Graph
from gngraph.rewrite.blocks import where_parted

Host = nn.ModuleList | nn.Sequential | nn.ParameterList
"""What has a place behind its last entry."""


class Stacked:
    """Copies of blocks in the lists of a module, until they are taken out again.

    Args:
        module: the user's; its lists are appended to.
        graph: of the module as it was.
        copies: name of each parameter that is to come -> that of the one that it is a copy of.

    Raises:
        UnsupportedModelError: the blocks are the last entries of no list, or cannot be copied; the module is as it was.
    """

    def __init__(self, module: nn.Module, graph: Graph, copies: Mapping[str, str]) -> None:
        self._hosts: list[Host] = []
        tensors = tensors_of(module, graph)
        shared = {id(t): t for name, t in tensors.items() if name not in copies.values()}
        pairs = dict.fromkeys(where_parted(new, old) for new, old in copies.items())
        parts = {path for pair in pairs for path in pair}
        try:
            for new, old in pairs:
                host = module.get_submodule(new.rpartition(".")[0])
                if not isinstance(host, Host) or not _is_next(new, len(host), parts):
                    raise UnsupportedModelError(
                        f"'{old}' of '{graph.name}' is not among the last blocks of a ModuleList or Sequential, so that no copy of "
                        f"it can stand behind them in place; apply the pass repeat-blocks to its graph instead"
                    )
                host.append(_copy(host[int(old.rpartition(".")[2])], old, shared))
                self._hosts.append(host)
        except BaseException:
            self.undo()
            raise

    def undo(self) -> None:
        """Take the copies out."""
        while self._hosts:
            host = self._hosts.pop()
            if isinstance(host, nn.ParameterList):
                del host._parameters[str(len(host) - 1)]
                host._size -= 1
            else:
                del host[len(host) - 1]


def remember(optimizer: torch.optim.Optimizer, pairs: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Give an optimiser parameters that are copies of others: in the groups of these, with copies of what it remembers of them.

    Args:
        optimizer: of the others.
        pairs: (copy, what it is a copy of).
    """
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    for new, old in pairs:
        if id(old) in groups:
            groups[id(old)]["params"].append(new)
        if old in optimizer.state:
            held = optimizer.state[old]
            optimizer.state[new] = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in held.items()}


def forget(optimizer: torch.optim.Optimizer, tensors: Sequence[torch.Tensor]) -> None:
    """Take parameters out of an optimiser's groups and memory.

    Args:
        optimizer: which may hold them.
        tensors: the parameters.
    """
    gone = {id(tensor) for tensor in tensors}
    for group in optimizer.param_groups:
        group["params"] = [p for p in group["params"] if id(p) not in gone]
    for tensor in tensors:
        optimizer.state.pop(tensor, None)


def _is_next(new: str, size: int, parts: Collection[str]) -> bool:
    """Whether a copy comes next in a list of some size, whose last entry is copied or a copy, so that nothing else follows."""
    above, _, key = new.rpartition(".")
    return key == str(size) and f"{above}.{size - 1}".lstrip(".") in parts


def _copy(part: Any, name: str, shared: Mapping[int, torch.Tensor]) -> Any:
    """A copy that shares tensors which others use too, without hooks, which are of the block that they were given to."""
    if isinstance(part, nn.Parameter):
        return nn.Parameter(part.detach().clone(), part.requires_grad)
    try:
        with without_hooks(part):
            made = copy.deepcopy(part, dict(shared))
    except Exception as error:  # whatever a module of the user's raises
        raise UnsupportedModelError(f"block '{name}' cannot be copied: {error}") from error
    for parameter in made.parameters():
        if id(parameter) not in shared:
            parameter.grad = None
    return made
