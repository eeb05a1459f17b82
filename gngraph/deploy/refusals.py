"""What other people's exporters and runtimes raise, as one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gngraph.errors import GnGraphError


@contextmanager
def refusals(what: str, instead: str) -> Iterator[None]:
    """A block in which an exporter or a runtime works.

    Args:
        what: what cannot be done where it fails.
        instead: what to do then.

    Raises:
        GnGraphError: whatever else the block raises, or a package that is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise GnGraphError(
            f"{what}: it needs the package '{error.name}'; install it (pip install onnx onnxscript onnxruntime), or {instead}"
        ) from error
    except GnGraphError:
        raise
    except Exception as error:  # the exporter, onnx and onnxruntime each have their own classes
        reason = (str(error).strip().splitlines() or [""])[0].rstrip(".")
        raise GnGraphError(f"{what}: {type(error).__name__}: {reason}; {instead}") from error
