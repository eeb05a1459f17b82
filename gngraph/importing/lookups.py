"""What stands for a value as a key of a table: Python asks for its hash, and answers a default where none is found."""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable
from functools import cache
from types import CodeType
from typing import Any

import torch
from torch import fx

from gngraph.errors import UnsupportedModelError
from gngraph.importing.concrete import Shadow
from gngraph.importing.decided import Look
from gngraph.importing.surroundings import is_users

_ASKING = {"__contains__", "__getitem__", "add", "discard", "fromkeys", "get", "hash", "pop", "remove", "setdefault"}
"""Names by which a forward asks for a hash in a call; that of a function without any of them is a cache of its results."""
_BY_TEXT = {"get", "getattr", "hasattr", "pop"}
"""Names by which a forward asks for something by a text, and goes on where there is none."""
_CALLS = {dis.opmap[name] for name in dis.opmap if name.startswith("CALL")}
_CONTAINS, _STORES = dis.opmap["CONTAINS_OP"], dis.opmap["STORE_SUBSCR"]


class Lookups:
    """The values that were asked for in tables while a forward was traced.

    What is written into a table by the same key afterwards is a cache of what the forward makes, and decides nothing.
    """

    def __init__(self) -> None:
        self._looked_up: dict[fx.Node, str] = {}
        self._of_samples: dict[fx.Node, str] = {}
        self._written: set[fx.Node] = set()

    def hash_of(self, node: fx.Node, known: Callable[[Callable[[Shadow], Any]], Any], where: str) -> int | None:
        """The hash of what a node computes, of which Python's caller is in a table; None for that of an object.

        Args:
            node: it is a size, say, a dtype or a tensor.
            known: reads what is known of values.
            where: the module whose forward runs now, for messages.
        """
        frame = sys._getframe(3)
        code = frame.f_code.co_code[frame.f_lasti]
        if not is_users(frame) or (code in _CALLS and _ASKING.isdisjoint(frame.f_code.co_names)):
            return None
        both = known(lambda shadow: shadow.both(node))
        if both is None or any(isinstance(value, torch.Tensor) for value in both):
            return None
        first, second = both
        asked = self._looked_up if first == second else self._of_samples
        if code == _STORES:
            self._written.add(node)
        asked[node] = where
        return hash(first if first == second else both)

    def text_of(self, node: fx.Node, known: Callable[[Callable[[Shadow], Any]], Any], where: str) -> Any:
        """What a node computes, where a forward writes it as text, by which it may look something up; None where that is not known.

        Args:
            node, known, where: see `hash_of`.
        """
        frame = sys._getframe(3)
        both = known(lambda shadow: shadow.both(node)) if is_users(frame) else None
        if both is None or any(isinstance(value, torch.Tensor) for value in both):
            return None
        if both[0] != both[1]:
            if _asks_by_text(frame.f_code):
                self._of_samples[node] = where
            return None
        self._looked_up[node] = where
        return both[0]

    def looks(self) -> list[Look]:
        """What was looked up in tables that were given.

        Raises:
            UnsupportedModelError: it depends on the number of samples.
        """
        for node, where in self._of_samples.items():
            if node not in self._written:
                raise UnsupportedModelError(
                    f"{where} looks up the number of samples (node '{node.name}') in a table, which a graph leaves open; let its "
                    f"forward do the same for every number of samples"
                )
        return [Look(node, "number") for node in self._looked_up if node not in self._written]


@cache
def _asks_by_text(code: CodeType) -> bool:
    """Whether a function may ask by a text for what need not be there, and keeps nothing by it; elsewhere a text is to be read."""
    steps = {step.opcode for step in dis.get_instructions(code)}
    return _STORES not in steps and (_CONTAINS in steps or not _BY_TEXT.isdisjoint(code.co_names))
