"""A network that is put together call by call: an `fx.GraphModule` whose tensors have names of a state dict."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx, nn

_PART = re.compile(r"\W+")


class Program:
    """Calls of torch's functions and modules, as they follow each other.

    Attributes:
        batch: samples that the file was written for; None where it takes any number.
    """

    def __init__(self, batch: int | None) -> None:
        self.batch = batch
        self._graph, self._root = fx.Graph(), nn.Module()

    def input(self, name: str) -> fx.Node:
        """An input, in order."""
        return self._graph.placeholder(_PART.sub("_", name) or "x")

    def call(self, function: Callable[..., Any] | str, *args: Any, **kwargs: Any) -> fx.Node:
        """A call of a function of torch, or of a method by its name.

        Args:
            function: it.
            args: by position, also within tuples and slices.
            kwargs: by name.
        """
        if isinstance(function, str):
            return self._graph.call_method(function, args, kwargs)
        return self._graph.call_function(function, args, kwargs)

    def tensor(self, name: str, value: Tensor, *, trained: bool) -> fx.Node:
        """A parameter or a buffer.

        Args:
            name: in the state dict; where another has it, a number is put behind it.
            value: it.
            trained: whether it is a parameter.
        """
        parent, last, path = self._place(name)
        if trained:
            parent.register_parameter(last, nn.Parameter(value))
        else:
            parent.register_buffer(last, value)
        return self._graph.get_attr(path)

    def module(self, name: str, module: nn.Module, *args: Any) -> fx.Node:
        """A call of a module of torch.

        Args:
            name: where it is put.
            module: it.
            args: what it reads.
        """
        parent, last, path = self._place(name)
        if last in parent._modules:  # what is there holds a parameter of its own
            parent, last, path = self._place(f"{name}_1")
        parent.add_module(last, module)
        return self._graph.call_module(path, args)

    def finished(self, output: Any) -> fx.GraphModule:
        """The module, which returns `output`."""
        self._graph.output(output)
        self._graph.eliminate_dead_code(is_impure_node=lambda node: node.op in ("placeholder", "output"))
        return fx.GraphModule(self._root, self._graph)

    def any_batch(self, x: Any, shape: Any) -> Any:
        """A shape that x is brought to, whose first size is that of the batch where it was in the file."""
        sizes = tuple(shape)
        if self.batch is None or not sizes or sizes[0] != self.batch or len(sizes) == 1:
            return sizes
        return (self.call("size", x, 0), *sizes[1:])

    def _place(self, name: str) -> tuple[nn.Module, str, str]:
        """The module that holds a name, its last part, and its path, which no other tensor has."""
        parts = [_PART.sub("_", part) or "_" for part in name.split(".")]
        parent = self._root
        for number, part in enumerate(parts[:-1]):
            if part in parent._parameters or part in parent._buffers:
                parts[number] = part = f"{part}_"
            if part not in parent._modules:
                parent.add_module(part, nn.Module())
            parent = parent._modules[part]  # type: ignore[assignment]
        last, count = parts[-1], 0
        while last in parent._parameters or last in parent._buffers or hasattr(nn.Module, last):
            count += 1
            last = f"{parts[-1]}_{count}"
        return parent, last, ".".join((*parts[:-1], last))


def batch_norm(rank: int, tensors: tuple[Tensor, ...], eps: float, momentum: float) -> nn.Module:
    """A norm over the batch as a module, which trains by the batch.

    Args:
        rank: axes of what it reads.
        tensors: weight, bias, running mean and variance.
        eps: added to the variance.
        momentum: share of a batch in the running statistics.
    """
    kinds = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    norm = kinds[rank](len(tensors[0]), eps=eps, momentum=momentum)
    with torch.no_grad():
        for name, value in zip(("weight", "bias", "running_mean", "running_var"), tensors, strict=True):
            getattr(norm, name).copy_(value)
    return norm.eval()
