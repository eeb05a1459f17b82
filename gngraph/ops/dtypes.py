"""Dtypes of values by torch's own rules: what it promotes to, and what its functions give for numbers of any kind."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache, reduce
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from gngraph.errors import IRError
from gngraph.ir import Flag, OpaqueType, Ref, TensorType
from gngraph.ir.types import dtype_name, dtype_of
from gngraph.ops.spec import Operands


def promoted(operands: Operands, first: int = 0) -> str:
    """The dtype of an element-wise combination of the inputs from number `first` on and the numbers among the attributes.

    A number, or a tensor without axes, counts as in torch: only where it is of a higher kind than the tensors with axes.

    Raises:
        IRError: in train mode it is another one than in eval mode.
    """
    tensors = [_example(t.dtype, bool(t.shape)) for t in map(operands.tensor, operands.values(first))]
    attrs = operands.node.attrs
    literals = [_number(operands, attrs[name]) for name in ("literal0", "literal1") if attrs.get(name) is not None]
    modes = ([getattr(n, mode) if isinstance(n, Flag) else n for n in literals] for mode in ("on", "off"))
    found = {torch.result_type(whole, whole) for whole in (reduce(_combined, [*tensors, *mode]) for mode in modes)}
    if len(found) > 1:
        raise IRError(
            f"node '{operands.node.name}' ({operands.node.op}) gives another dtype in train mode than in eval mode"
        )
    return dtype_name(found.pop())


def _number(operands: Operands, literal: Any) -> Any:
    """A number of the kind of a literal, which may be a size."""
    if not isinstance(literal, Ref):
        return literal
    type_ = operands.inputs[operands.node.inputs.index(literal.name)]
    if not isinstance(type_, OpaqueType) or type_.text not in ("int", "float"):
        raise IRError(
            f"node '{operands.node.name}' ({operands.node.op}) takes '{literal.name}' for a number, which is '{type_}'"
        )
    return 1 if type_.text == "int" else 1.0


def joined(types: Iterable[TensorType]) -> str:
    """The dtype of a tensor that takes in the entries of several."""
    return dtype_name(reduce(torch.promote_types, (dtype_of(type_.dtype) for type_ in types)))


def is_real(dtype: str) -> bool:
    """Whether it is of real floating-point numbers."""
    return dtype_of(dtype).is_floating_point


def fractional(dtype: str) -> str:
    """The dtype of quotients of numbers of one dtype."""
    return dtype if is_real(dtype) or dtype_of(dtype).is_complex else dtype_name(torch.get_default_dtype())


def given(function: Callable[..., Any], operands: Operands, **options: Any) -> tuple[str, ...]:
    """The dtypes of the tensors that a function of the first input gives; torch is asked, by a small tensor.

    Real floating-point numbers are asked for as f32, which torch computes everything of.

    Args:
        function: of torch; tried on ones.
        operands: the node, of whose first input dtype and rank are taken.
        **options: further arguments of the function.

    Raises:
        IRError: torch does not compute the function of such numbers.
    """
    x = operands.tensor()
    floating = is_real(x.dtype)
    example = torch.ones((2,) * len(x.shape), dtype=torch.float32 if floating else dtype_of(x.dtype))
    try:
        found = tree_leaves(function(example, **options))
    except (RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise IRError(
            f"node '{operands.node.name}' ({operands.node.op}) cannot be computed of '{x}': {reason}"
        ) from None
    return tuple(x.dtype if floating and y.dtype is torch.float32 else dtype_name(y.dtype) for y in found)


@cache
def _example(dtype: str, has_axes: bool) -> torch.Tensor:
    return torch.empty((0,) if has_axes else (), dtype=dtype_of(dtype))


def _combined(a: Any, b: Any) -> torch.Tensor:
    """Something of the dtype that two tensors or numbers have together, with axes if one of them has."""
    axes = any(isinstance(x, torch.Tensor) and x.dim() > 0 for x in (a, b))
    return _example(dtype_name(torch.result_type(a, b)), axes)
