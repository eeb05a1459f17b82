"""What was read from a file of another format, held against what that file computes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from gngraph.errors import ModelFileError

DIFFERENCE = 1e-4
"""Largest difference of outputs in float32, of the largest output: another library adds up in another order."""

OPEN = 2
"""Samples of an example where the file does not say how many."""


@dataclass(frozen=True, eq=False)
class Foreign:
    """A network of a file.

    Attributes:
        module: computes what the file says.
        examples: of its inputs, [2 or more, ...] each.
    """

    module: fx.GraphModule
    examples: tuple[Tensor, ...]


@dataclass(frozen=True)
class Input:
    """An input as a file declares it.

    Attributes:
        name: of it.
        sizes: of its axes, the first those of the batch; None where any is taken.
        dtype: of its numbers.
    """

    name: str
    sizes: tuple[int | None, ...]
    dtype: torch.dtype

    def example(self, count: int, path: str, shape: tuple[int, ...] | None) -> Tensor:
        """Random samples, the same ones every time.

        Args:
            count: how many.
            path: of the file, for messages.
            shape: of a sample, where the user says it.

        Raises:
            ModelFileError: the shape is another than that in the file, or not known.
        """
        own = self.sizes[1:]
        if shape is not None and (
            len(own) != len(shape) or any(a not in (None, b) for a, b in zip(own, shape, strict=True))
        ):
            raise ModelFileError(
                f"'{path}' takes inputs of shape '{_text(own)}', not '{_text(shape)}'; leave out the input shape"
            )
        known = shape or tuple(size for size in own if size is not None)
        if not self.sizes or len(known) < len(own):
            raise ModelFileError(
                f"'{path}' takes inputs of shape '{_text(own)}' (? is any); say which, by --input-shape, such as 3x32x32"
            )
        generator = torch.Generator().manual_seed(0)
        if self.dtype.is_floating_point:
            return torch.randn((count, *known), generator=generator).to(self.dtype)
        return torch.randint(2, (count, *known), generator=generator).to(self.dtype)


def batch_of(inputs: Sequence[Input], path: str) -> int | None:
    """Samples that a file was written for; None where it takes any number.

    Args:
        inputs: of the network.
        path: of the file.

    Raises:
        ModelFileError: there is no input, or they differ in that.
    """
    counts = {own.sizes[0] if own.sizes else 0 for own in inputs}
    if len(counts) != 1 or 0 in counts:
        raise ModelFileError(
            f"'{path}' has {len(inputs)} inputs whose first axis is no batch that they share, so that it is none to be trained"
        )
    return counts.pop()


def require_same(
    module: fx.GraphModule, examples: tuple[Tensor, ...], batch: int, run: Callable[..., Sequence[Tensor]], path: str
) -> None:
    """Hold what was read against what a file computes, part by part where it takes a certain number of samples.

    Args:
        module: what was read.
        examples: of its inputs.
        batch: samples at a time that the file takes.
        run: what the file computes of some.
        path: of the file.

    Raises:
        ModelFileError: they differ.
    """
    with torch.no_grad():
        found = module.eval()(*examples)
        found = found if isinstance(found, tuple | list) else (found,)
        parts = [run(*(x[at : at + batch] for x in examples)) for at in range(0, len(examples[0]), batch)]
    for own, *others in zip(found, *parts, strict=True):
        wanted = torch.cat([*others]) if batch < len(examples[0]) else others[0]
        same = own.shape == wanted.shape
        error = float((own.double() - wanted.double()).abs().max()) if same and own.numel() else 0.0
        if not same or not error <= DIFFERENCE * max(1.0, float(wanted.abs().max())):
            told = f"by {error:.2g}" if same else f"in shape, {tuple(own.shape)} and {tuple(wanted.shape)}"
            raise ModelFileError(
                f"'{path}' was not understood: what was read from it differs {told} from what it computes; export it with a "
                f"dynamic batch, or give the model that it was exported from"
            )


def _text(sizes: Sequence[int | None]) -> str:
    return "x".join("?" if size is None else str(size) for size in sizes)
