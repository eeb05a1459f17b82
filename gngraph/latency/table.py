"""Times that were measured, in a file: what was measured once on a machine is not measured again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from gngraph.writing import replacing


class TimeTable:
    """Times by what was timed.

    Args:
        folder: where tables are kept; None: this one is not.
        identity: what the times depend on beside; each has a file of its own.
    """

    def __init__(self, folder: Path | None, identity: Mapping[str, str]) -> None:
        name = hashlib.sha256(json.dumps(dict(identity), sort_keys=True).encode()).hexdigest()[:16]
        self._path = None if folder is None else folder / f"{name}.json"
        self._identity = dict(identity)
        self._times = self._read()
        self._new = 0

    def get(self, what: str) -> list[float] | None:
        """What was measured of something, in seconds; None: nothing yet.

        Args:
            what: a name of it.
        """
        return self._times.get(what)

    def add(self, what: str, seconds: list[float]) -> None:
        """Keep what was measured; it is in the file after `save`.

        Args:
            what: a name of it.
            seconds: the time, and whatever belongs to it.
        """
        self._times[what] = seconds
        self._new += 1

    def save(self) -> None:
        """Write the file, with what other processes wrote meanwhile, where there is anything new."""
        if self._path is None or not self._new:
            return
        self._times = self._read() | self._times
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(self._path) as (written,):
            written.write_text(json.dumps({"of": self._identity, "seconds": self._times}), encoding="utf-8")
        self._new = 0

    def _read(self) -> dict[str, list[float]]:
        if self._path is None:
            return {}
        try:
            kept = json.loads(self._path.read_text(encoding="utf-8"))
            return {str(what): [float(number) for number in numbers] for what, numbers in kept["seconds"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # there is none, or it is damaged
            return {}
