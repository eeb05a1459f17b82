"""Data that a function of the user's own gives, by its name: `pkg.module:function`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from gngraph.calling import CallError, called
from gngraph.data.dataset import Data
from gngraph.data.inputs import parted
from gngraph.data.several import from_several
from gngraph.data.sources.named_arrays import ARRAYS, NamedArrays
from gngraph.data.sources.request import Request
from gngraph.errors import DataError

_FORMS = (
    "a gngraph.data.Data, (x, y), ((x, x), y) or (x, x, y) of several inputs, (x_train, y_train, x_test, y_test), "
    f"((x_train, y_train), (x_test, y_test)), or a dictionary of such arrays ({', '.join(ARRAYS)})"
)


def load_function(request: Request) -> Data | NamedArrays:
    """Calls the function that `request.spec` names, without arguments, and reads the arrays or tensors that it returns.

    Raises:
        DataError: the import or the call fails, or it returns something else.
    """
    text = request.spec
    try:
        made = called(text)
    except CallError as error:
        raise DataError(
            f"'{text}' could not be called: {error}; it must name a function without required arguments that returns data"
        ) from error
    if isinstance(made, Data):
        return made
    if _is_several(made):
        x, y = parted(made)
        return from_several(text, {"train": (x, y)}, val_split=request.val_split)
    return NamedArrays(text, f"what '{text}' returned", _arrays(text, made))


def _is_several(made: Any) -> bool:
    """Whether what was returned is (x, x, y), or ((x, x), y) where the inputs may have names."""
    if not isinstance(made, tuple | list) or len(made) not in (2, 3):
        return False
    return len(made) == 3 or (
        isinstance(made[0], tuple | list | Mapping) and not isinstance(made[1], tuple | list | Mapping)
    )


def _arrays(text: str, made: Any) -> dict[str, Any]:
    """What was returned, as an .npz file holds it."""
    if (
        isinstance(made, tuple | list)
        and len(made) == 2
        and all(isinstance(part, tuple) and len(part) == 2 for part in made)
    ):
        made = (*made[0], *made[1])
    if isinstance(made, tuple | list) and len(made) in (2, 4):
        made = dict(zip(ARRAYS, made, strict=False))
    if not isinstance(made, Mapping):
        raise DataError(f"'{text}' returned a '{type(made).__name__}', but it must return {_FORMS}")
    return {str(name): _array(f"'{name}' of what '{text}' returned", part) for name, part in made.items()}


def _array(what: str, part: Any) -> Any:
    try:
        array = part.numpy(force=True) if isinstance(part, Tensor) else np.asarray(part)
    except ValueError as error:
        raise DataError(f"{what} is no array: {error}") from error
    if array.dtype == object:
        raise DataError(f"{what} holds Python objects, but it must hold numbers")
    return array
