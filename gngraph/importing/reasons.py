"""Why a forward cannot be traced: what an error says, and what to write instead of the function that raised it."""

from __future__ import annotations

from collections.abc import Mapping
from traceback import walk_tb

_INSTEAD: Mapping[str, str] = {
    "torch._functorch": "write out what it does by torch's plain functions, for all samples at once",
    "torch.nn.utils.rnn": "let its layers read every position, and leave out the padded ones of what they give by a mask",
}
"""Modules of torch whose functions take no values that are traced, with what to write in their place."""
_LEGACY = ("new() received an invalid combination of arguments", "not a storage")
"""What torch.FloatTensor(...) and its like say where sizes of values are handed to them."""


def reason_of(error: BaseException) -> str:
    """The first line of what an error says, or the function that it came from where that takes no traced values."""
    name, _ = _function_behind(error)
    if name is not None:
        return f"its forward calls '{name}', which is not traced"
    first = str(error).strip().splitlines()
    if first and first[0].startswith(_LEGACY):
        return "a constructor such as torch.FloatTensor(...) is not traced where it is given sizes of values"
    return first[0].rstrip(".") if first else type(error).__name__


def hint_of(error: BaseException) -> str | None:
    """What to write instead of the function that an error came from; None where that is not known."""
    legacy = str(error).startswith(_LEGACY)
    return "write torch.zeros(...) or torch.empty(...)" if legacy else _function_behind(error)[1]


def _function_behind(error: BaseException) -> tuple[str | None, str | None]:
    """The first function of such a module that was running when the error was raised, and what to write in its place."""
    for frame, _ in walk_tb(error.__traceback__):
        place: str = frame.f_globals.get("__name__", "")
        hint = next((hint for module, hint in _INSTEAD.items() if f"{place}.".startswith(f"{module}.")), None)
        if hint is not None:
            return frame.f_code.co_qualname.partition(".")[0], hint
    return None, None
