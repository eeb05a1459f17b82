"""Running torch.fx graphs node by node."""

from __future__ import annotations

from typing import Any

from torch import fx


class Interpreter(fx.Interpreter):
    """An fx interpreter that hands lists on as lists, as generated code does: some functions write into theirs.

    Errors say what they say, without a trace of the graph behind it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.extra_traceback = False

    def fetch_args_kwargs_from_env(self, n: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of a node."""
        args, kwargs = super().fetch_args_kwargs_from_env(n)
        return tuple(_plain(arg) for arg in args), {key: _plain(arg) for key, arg in kwargs.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if type(value) is tuple:
        return tuple(_plain(item) for item in value)
    return value
