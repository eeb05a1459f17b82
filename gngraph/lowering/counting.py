"""Multiply-adds of a run, node by node, by torch's own counter."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from gngraph.lowering.interpreter import Interpreter

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode


class CountingInterpreter(Interpreter):
    """An interpreter that counts the multiply-adds of each node that it runs under `counting`.

    They are those of convolutions, products of matrices and attention, as torch.utils.flop_counter counts them, and of what it
    leaves out: products with vectors, `addbmm`, bilinear forms, distances and deformable convolutions. Everything else is free.

    Attributes:
        multiply_adds: fx node -> number.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.multiply_adds: dict[fx.Node, int] = {}
        self._counter: FlopCounterMode | None = None

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count inside."""
        from torch.nn.attention import SDPBackend, sdpa_kernel
        from torch.utils.flop_counter import FlopCounterMode  # a tenth of a second, for those who count alone

        # of fused attention on a CPU torch's counter knows nothing
        with (
            sdpa_kernel(SDPBackend.MATH),
            FlopCounterMode(display=False, custom_mapping=_formulas()) as self._counter,
        ):
            yield
        self._counter = None

    def run_node(self, n: fx.Node) -> Any:
        """The value of a node."""
        if self._counter is None:
            return super().run_node(n)
        before = self._counter.get_total_flops()
        result = super().run_node(n)
        self.multiply_adds[n] = (self._counter.get_total_flops() - before) // 2
        return result


def _formulas() -> dict[Any, Callable[..., int]]:
    """FLOPs, from shapes, of what torch's counter has no formula for."""
    aten = torch.ops.aten
    formulas: dict[Any, Callable[..., int]] = {
        aten.mv: lambda matrix, vector, **_: 2 * math.prod(matrix),
        aten.addmv: lambda bias, matrix, vector, **_: 2 * math.prod(matrix),
        aten.dot: lambda a, b, **_: 2 * a[0],
        aten.vdot: lambda a, b, **_: 2 * a[0],
        aten.addbmm: lambda bias, a, b, **_: 2 * math.prod(a) * b[-1],
        aten._trilinear: lambda a, weight, b, *_, **__: 2 * a[0] * math.prod(weight),  # bilinear calls it so
        aten._cdist_forward: _distances,
        aten._euclidean_dist: _distances,
    }
    if hasattr(torch.ops.torchvision, "deform_conv2d"):  # torchvision is loaded, as it is by a graph that calls it
        formulas[torch.ops.torchvision.deform_conv2d] = lambda x, weight, *_, out_shape, **__: (
            2 * out_shape[0] * math.prod(out_shape[2:]) * math.prod(weight)
        )
    return formulas


def _distances(a: tuple[int, ...], b: tuple[int, ...], *_: object, out_shape: tuple[int, ...], **__: object) -> int:
    return 2 * math.prod(out_shape) * a[-1]
