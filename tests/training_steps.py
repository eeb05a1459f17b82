"""In what two modules differ when they are trained: outputs, gradients and buffers of steps in float64, by running both."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

TOLERANCE = 1e-8


def steps_differ(
    module: nn.Module, other: nn.Module, *inputs: Tensor, part: Callable[[Any], Any] = lambda output: output
) -> list[str]:
    """What differs after one forward in eval mode and three in train mode, each with the backward of a random projection.

    Both start from the same seeds, and run as copies. `part` is what is compared of the output of `module` in train mode.
    """
    first, second = (copy.deepcopy(m).double() for m in (module, other))
    doubles = [x.double() if x.is_floating_point() else x for x in inputs]
    found = []
    for number in range(4):
        training = number > 0
        one, two = (_step(m, doubles, number, training, p) for m, p in ((first, part), (second, lambda output: output)))
        found += [f"{key} in step {number}" for key in one if not _close(one[key], two.get(key))]
    return found


def _step(
    module: nn.Module, inputs: list[Tensor], seed: int, training: bool, part: Callable[[Any], Any]
) -> dict[str, Tensor | None]:
    module.train(training)
    torch.manual_seed(seed)
    leaves = [x.clone().requires_grad_(x.is_floating_point()) for x in inputs]
    result = module(*(x.clone() for x in leaves))
    outputs = [x for x in tree_leaves(part(result) if training else result) if isinstance(x, Tensor)]
    values: dict[str, Tensor | None] = {f"output {i}": x.detach() for i, x in enumerate(outputs)}
    if training:
        generator = torch.Generator().manual_seed(seed)
        passing = [x for x in outputs if x.requires_grad]
        loss = sum((x * torch.randn(x.shape, generator=generator, dtype=x.dtype)).sum() for x in passing)
        module.zero_grad()
        if isinstance(loss, Tensor):
            torch.autograd.backward(loss)
        values |= {f"gradient of {name}": p.grad for name, p in module.named_parameters()}
        values |= {f"gradient of input {i}": x.grad for i, x in enumerate(leaves)}
    values |= {name: buffer.clone() for name, buffer in module.named_buffers()}
    return values


def _close(a: Tensor | None, b: Tensor | None) -> bool:
    if a is None or b is None:
        return a is None and b is None
    if a.shape != b.shape or not a.is_floating_point():
        return torch.equal(a, b)
    scale = max(1.0, float(a.abs().max()) if a.numel() else 0.0)
    return bool(torch.allclose(a, b, rtol=0, atol=TOLERANCE * scale, equal_nan=True))
