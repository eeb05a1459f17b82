"""Which part of what a module returns the graph gives: a model output, or another record, holds more than one trains by."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch

from gngraph.errors import GnGraphNote, UnsupportedModelError

_LEADING = ("logits", "last_hidden_state", "pooler_output")
"""Names of what is wanted of a record, if nobody says what, the first first; each may name the only tensor there is."""


def chosen(network: str, result: Any, asked: str | None) -> str | None:
    """The name of the part that is kept of what a module returns; None for all of it.

    Of a dataclass, as transformers' model outputs are, it is `logits`, else `last_hidden_state`, else `pooler_output`, else the
    only tensor, and a `GnGraphNote` says which. Dictionaries and tuples are kept as they are.

    Args:
        network: its name, for messages.
        result: what it returned.
        asked: the part that the user names, of a record or dictionary; a tensor alone goes by each of those three names.

    Raises:
        UnsupportedModelError: there is no such part, or it is no tensor.
    """
    tensors = [name for name, part in _parts(result).items() if isinstance(part, torch.Tensor)]
    if asked is not None:
        alone = not tensors and asked in _LEADING and isinstance(_alone(result), torch.Tensor)
        if asked not in tensors and not alone:
            told = f"the tensors {', '.join(tensors)}" if tensors else f"a '{type(result).__name__}'"
            raise UnsupportedModelError(f"'{network}' returns {told}, and no '{asked}'; name one that it returns")
        return asked
    if not is_dataclass(result):
        return None
    found = next((name for name in _LEADING if name in tensors), tensors[0] if len(tensors) == 1 else None)
    if found is not None:
        others = [name for name in tensors if name != found]
        besides = f" and leaves out {', '.join(others)}; output=... names another" if others else ""
        warnings.warn(
            GnGraphNote(f"'{network}' returns a {type(result).__name__}, of which the graph gives '{found}'{besides}"),
            stacklevel=2,
        )
    return found


def taken(result: Any, name: str | None) -> Any:
    """The part called `name` of what a module returns; without a name all of it, records as dictionaries of what they hold."""
    if name is not None:
        return _parts(result).get(name, _alone(result))
    if is_dataclass(result) and not isinstance(result, type):
        return {key: taken(part, None) for key, part in _parts(result).items() if part is not None}
    return result


def _alone(result: Any) -> Any:
    """What is returned, or the one item of a tuple, as models of transformers return it without records."""
    return result[0] if isinstance(result, (tuple, list)) and len(result) == 1 else result


def _parts(result: Any) -> dict[str, Any]:
    """What has a name in a record, a dictionary or a named tuple."""
    if is_dataclass(result) and not isinstance(result, type):
        return {field.name: getattr(result, field.name) for field in fields(result)}
    if isinstance(result, Mapping):
        return {name: part for name, part in result.items() if isinstance(name, str)}
    if isinstance(result, tuple) and hasattr(result, "_fields"):
        return dict(zip(result._fields, result, strict=True))
    return {}
