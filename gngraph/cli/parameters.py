"""Kinds of words on the command line: counts, shapes, files to read and to write; checked before torch is imported."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from gngraph.errors import GnGraphError

_SHAPE = re.compile(r"[1-9][0-9]*(x[1-9][0-9]*)*")


class Count(click.ParamType[int]):
    """A positive whole number such as 250k, 1.5M or 40M."""

    name = "count"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number."""
        if isinstance(value, int):
            return value
        from gngraph.analysis.cost import parse_count

        try:
            return parse_count(str(value))
        except GnGraphError as error:
            self.fail(str(error), param, ctx)


class Shape(click.ParamType[tuple[int, ...]]):
    """The shape of one sample, such as 3x32x32."""

    name = "shape"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """The sizes."""
        if isinstance(value, tuple):
            return value
        if not _SHAPE.fullmatch(str(value)):
            self.fail(f"'{value}' is not a shape; write the sizes of one sample, such as 3x32x32", param, ctx)
        return tuple(int(size) for size in str(value).split("x"))


class Model(click.ParamType[str]):
    """What a network is read from: a file that is there, or pkg.module:factory."""

    name = "model"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The word itself."""
        from gngraph.files import require_there

        require_there(str(value))
        return str(value)


class ArchiveFile(click.ParamType[Path]):
    """A gngraph archive to be written: checked before the work starts, not after it."""

    name = "file"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """The path."""
        path = Path(value)
        if path.suffix != ".gng":
            self.fail(f"'{path}' must end in .gng: gngraph writes its own archive (see gngraph export)", param, ctx)
        if path.is_dir() or not path.absolute().parent.is_dir():
            self.fail(f"'{path}' cannot be written: its folder must exist and it must not be a folder", param, ctx)
        return path


class Device(click.ParamType[str]):
    """A torch device that works here, or auto."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The device's name."""
        if value == "auto":
            return "auto"
        import torch

        try:
            torch.empty(0, device=str(value))
        except (RuntimeError, AssertionError) as error:
            reason = (str(error).splitlines() or [""])[0].rstrip(".")
            self.fail(f"device '{value}' cannot be used here: {reason}", param, ctx)
        return str(value)
