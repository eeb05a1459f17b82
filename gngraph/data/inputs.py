"""What networks read of samples, a tensor or several; and what is input and what is target in a sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

from torch import Tensor

from gngraph.errors import DataError

SampleInputs = Any
"""A tensor with the samples along its first axis; or several such, in the order of a network's inputs, or by their names."""

TARGETS = ("label", "labels", "target", "targets", "y")
"""Names of what a network is to say, among the columns of a table or the entries of a sample."""


def quoted(names: Iterable[Any]) -> str:
    """Names as a message lists them.

    >>> quoted(["src", "tgt"]), quoted([])
    ("'src', 'tgt'", 'nothing')

    Args:
        names: in order.
    """
    return ", ".join(f"'{name}'" for name in names) or "nothing"


def each(x: SampleInputs) -> tuple[Tensor, ...]:
    """The tensors of inputs, in order."""
    if isinstance(x, Tensor):
        return (x,)
    return tuple(x.values() if isinstance(x, dict) else x)


def count_of(x: SampleInputs) -> int:
    """How many samples there are."""
    return len(each(x)[0])


def in_order(x: SampleInputs, names: Sequence[str]) -> Tensor | tuple[Tensor, ...]:
    """Inputs in the order in which a network takes them.

    Args:
        x: of samples; the names of a dictionary are among `names`.
        names: of the network's inputs.

    Raises:
        DataError: there is no input of such a name, or none for a name.

    >>> import torch
    >>> a, b = torch.zeros(2), torch.ones(2)
    >>> in_order({"mask": a, "ids": b}, ("ids", "mask"))
    (tensor([1., 1.]), tensor([0., 0.]))
    """
    if not isinstance(x, dict):
        return cast("Tensor | tuple[Tensor, ...]", x)
    if sorted(x) != sorted(names):
        raise DataError(
            f"samples have the inputs {quoted(x)}, but the network takes {quoted(names)}: name them as its forward does, "
            f"and leave out what it does not take"
        )
    return x[names[0]] if len(names) == 1 else tuple(x[name] for name in names)


def parted(sample: Any) -> tuple[Any, Any]:
    """Inputs and targets of one sample, or of many whose tensors are stacked.

    Args:
        sample: (x, y), where x may hold several inputs; (x, x, ..., y); or a dictionary, of whose entries one is called as
            `TARGETS` says.

    Raises:
        DataError: it is none of these.

    >>> parted((1, 2, 3)), parted(((1, 2), 3)), parted({"ids": 1, "mask": 2, "labels": 3})
    (((1, 2), 3), ((1, 2), 3), ({'ids': 1, 'mask': 2}, 3))
    """
    if isinstance(sample, Mapping):
        target = next((name for name in TARGETS if name in sample), None)
        x = {str(name): part for name, part in sample.items() if name != target}
        if target is None or not x:
            raise DataError(
                f"a sample has the entries {quoted(sample)}: one of them must be called {', '.join(TARGETS)}, for the target, and "
                f"the others as the inputs of the network"
            )
        return next(iter(x.values())) if len(x) == 1 else x, sample[target]
    if not isinstance(sample, tuple | list) or len(sample) < 2:
        what = f"{len(sample)} entry" if isinstance(sample, tuple | list) else f"a '{type(sample).__name__}'"
        raise DataError(
            f"a sample is {what}, but must be (x, y), (x, x, y) of several inputs, or a dictionary of them and a target"
        )
    *first, y = sample
    own = first[0] if len(first) == 1 else first
    if isinstance(own, Mapping):
        return {str(name): part for name, part in own.items()}, y
    return (tuple(own) if isinstance(own, tuple | list) else own), y
