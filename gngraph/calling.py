"""Code of the user's own by its name, `pkg.module:function`: found, also beside the working directory, and called."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import reduce
from typing import Any

_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def is_factory(text: str) -> bool:
    """Whether `text` reads `pkg.module:factory`.

    >>> is_factory("mynets.small:make"), is_factory("model.pt")
    (True, False)
    """
    return _NAME.fullmatch(text) is not None


def named(text: str) -> Any:
    """What `pkg.module:name` names.

    Raises:
        Exception: whatever the import of the user's own code raises.

    >>> named("math:pi")
    3.141592653589793
    """
    module_name, _, name = text.partition(":")
    return reduce(getattr, name.split("."), importlib.import_module(module_name))


@contextmanager
def importable_from_here() -> Iterator[None]:
    """Let imports find modules in the working directory, as `python -m` does and an installed command does not."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        # The code that ran may have changed the path itself.
        if here in sys.path:
            sys.path.remove(here)
