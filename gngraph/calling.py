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


LIBRARIES = ("torchvision", "timm", "hf")
"""What stands before the colon in names of networks of other libraries: those of torchvision, timm, and Hugging Face."""


def of_library(text: str) -> bool:
    """Whether `text` names a network of another library.

    >>> of_library("timm:resnet18"), of_library("mynets.small:make"), of_library("timm.layers:make")
    (True, False, False)
    """
    return text.startswith(tuple(f"{name}:" for name in LIBRARIES))


def is_factory(text: str) -> bool:
    """Whether `text` reads `pkg.module:factory`, and names no network of another library.

    >>> is_factory("mynets.small:make"), is_factory("model.pt"), is_factory("timm:resnet18")
    (True, False, False)
    """
    return _NAME.fullmatch(text) is not None and not of_library(text)


def named(text: str) -> Any:
    """What `pkg.module:name` names.

    Raises:
        Exception: whatever the import of the user's own code raises.

    >>> named("math:pi")
    3.141592653589793
    """
    module_name, _, name = text.partition(":")
    return reduce(getattr, name.split("."), importlib.import_module(module_name))


def name_of(thing: Any) -> str:
    """The name `pkg.module:function` by which something that can be called is found again.

    Raises:
        ValueError: it has none, as a lambda, or what is defined within a function.

    >>> import math
    >>> name_of(math.sqrt)
    'math:sqrt'
    """
    text = f"{getattr(thing, '__module__', None)}:{getattr(thing, '__qualname__', None)}"
    if not is_factory(text):
        raise ValueError
    try:
        found = named(text)
    except (ImportError, AttributeError) as error:
        raise ValueError from error
    if found is not thing:
        raise ValueError
    return text


class CallError(Exception):
    """Code of the user's own could not be imported or called; the message says what it raised, without a full stop."""


def called(text: str, *args: Any, made: type | tuple[()] = (), **kwargs: Any) -> Any:
    """What the function that `pkg.module:function` names returns, be it of a module in the working directory.

    Args:
        text: its name.
        made: what is of this type already is given as it is.
        args: what it is called with.
        kwargs: the same by name.

    Raises:
        CallError: the import or the call raises, whatever it is, or ends the process.

    >>> called("math:sqrt", 9.0)
    3.0
    >>> called("math:sqrt", -1.0)
    Traceback (most recent call last):
    gngraph.calling.CallError: ValueError: math domain error
    """
    with importable_from_here():
        found = resolved(text)
        try:
            return found if isinstance(found, made) else found(*args, **kwargs)
        except (Exception, SystemExit) as error:
            raise CallError(_told(error)) from error


def resolved(text: str) -> Any:
    """What `pkg.module:name` names, be it of a module in the working directory.

    Args:
        text: the name.

    Raises:
        CallError: the import raises, whatever it is, or ends the process.
    """
    with importable_from_here():
        try:
            return named(text)
        except (Exception, SystemExit) as error:
            raise CallError(_told(error)) from error


def _told(error: BaseException) -> str:
    reason = (str(error).splitlines() or [""])[0].rstrip(".")
    return f"{type(error).__name__}: {reason}"


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
