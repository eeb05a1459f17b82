"""The history of a run: one JSON record a round, written as the rounds end, and where every channel comes from."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import NANOSECONDS, Budget
from gngraph.errors import GnGraphError
from gngraph.rewrite.channel_map import ChannelMap
from gngraph.rewrite.morphism import InsertLayer, Morphism, NewChannel, RemoveLayer
from gngraph.rewrite.structure import StructureMorphism
from gngraph.rewrite.surgery import SpaceEdit
from gngraph.training.progress import EpochRecord
from gngraph.writing import replacing

Record = dict[str, Any]
"""One round as JSON; the keys are those that `gngraph.growth.loop` writes. Only entries called "seconds" differ between
two runs with one seed."""

HISTORY_FILE = "history.jsonl"


def epoch_entries(epochs: Iterable[EpochRecord]) -> list[Record]:
    """Epochs as JSON."""
    return [asdict(epoch) for epoch in epochs]


def morphism_entries(morphisms: Iterable[Morphism]) -> dict[str, Record]:
    """Morphisms by space and kind.

    The channels that were split or removed, how many are new, which blocks were inserted, whether the layer that ends there was
    removed, and whether what it is has changed.

    >>> morphism_entries([NewChannel("0"), NewChannel("0")])
    {'0': {'new': 2}}
    """
    table: dict[str, Record] = {}
    for morphism in morphisms:
        entry = table.setdefault(morphism.space, {})
        if isinstance(morphism, NewChannel):
            entry["new"] = entry.get("new", 0) + 1
        elif isinstance(morphism, InsertLayer):
            entry.setdefault(morphism.kind, []).append(morphism.block)
        elif isinstance(morphism, RemoveLayer | StructureMorphism):
            entry[morphism.kind] = 1
        else:
            entry.setdefault(morphism.kind, []).append(morphism.channel)
    return table


def joined_entries(*tables: dict[str, Record]) -> dict[str, Record]:
    """Entries of morphisms of several rewrites, see `morphism_entries`.

    Args:
        tables: of each rewrite.

    >>> joined_entries({"a": {"remove": True}}, {"a": {"new": 2}, "b": {"new": 1}})
    {'a': {'remove': True, 'new': 2}, 'b': {'new': 1}}
    """
    spaces = dict.fromkeys(space for table in tables for space in table)
    return {space: {kind: what for table in tables for kind, what in table.get(space, {}).items()} for space in spaces}


def sides_record(budget: Budget) -> Record:
    """What a budget allows, None where that is open.

    >>> sides_record(Budget(max_params=1000))
    {'params': 1000, 'flops': None, 'milliseconds': None}
    """
    most = budget.max_nanoseconds
    return {
        "params": budget.max_params,
        "flops": budget.max_flops,
        "milliseconds": None if most is None else most / NANOSECONDS,
    }


def morphisms_text(entries: Mapping[str, Record], most: int = 6) -> str:
    """What `morphism_entries` gave, in a few words.

    >>> morphisms_text({"0": {"split": [1, 2], "new": 3}, "2": {"prune": [0]}})
    '0: 2 split, 3 new; 2: 1 prune'
    """
    told = [
        f"{space}: {', '.join(f'{what if isinstance(what, int) else len(what)} {kind}' for kind, what in entry.items())}"
        for space, entry in entries.items()
    ]
    return "; ".join(told[:most]) + (f"; and {len(told) - most} more" if len(told) > most else "")


def without_seconds(value: Any) -> Any:
    """A record without its wall-clock times, at any depth: what must repeat for the same seed."""
    if isinstance(value, Mapping):
        return {key: without_seconds(item) for key, item in value.items() if key != "seconds"}
    return [without_seconds(item) for item in value] if isinstance(value, list) else value


def replace_records(path: Path, records: Iterable[Record]) -> Path:
    """Write records at once, in place of those that a file holds."""
    with replacing(path) as (written,):
        written.write_text("".join(map(_line, records)), encoding="utf-8")
    return path


class HistoryWriter:
    """Adds records to `history.jsonl`, each on the disk before the next round starts; the file is whole at any moment.

    Args:
        folder: of the run.
        before: records of the run, which goes on after them: what the file has beyond them, or instead, goes. None: it begins.

    Raises:
        GnGraphError: the folder holds the history of another run, or cannot be written.
    """

    def __init__(self, folder: Path, before: Iterable[Record] | None = None) -> None:
        self.path = folder / HISTORY_FILE
        self._lines = [*map(_line, before or ())]
        if before is not None:
            replace_records(self.path, before)
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.path.touch(exist_ok=False)
        except FileExistsError:
            raise GnGraphError(
                f"folder '{folder}' holds the history of another run; name another folder, or go on with "
                f"that run (gngraph resume)"
            ) from None
        except OSError as error:
            raise GnGraphError(f"folder '{folder}' cannot be written: {error.strerror or error}") from error

    def append(self, record: Record) -> None:
        """Write one record as one line."""
        self._lines.append(_line(record))
        with replacing(self.path) as (written,):
            written.write_text("".join(self._lines), encoding="utf-8")


def _line(record: Record) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


def read_history(path: Path) -> list[Record]:
    """The records of a `history.jsonl`, in order.

    Raises:
        GnGraphError: the file cannot be read or is not one JSON object a line.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GnGraphError(f"history '{path}' cannot be read: {error}") from error
    records: list[Record] = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise GnGraphError(f"line {number} of history '{path}' is not JSON: {error}") from error
        if not isinstance(record, dict):
            raise GnGraphError(f"line {number} of history '{path}' is not a JSON object; one record a line is expected")
        records.append(record)
    return records


class Lineage:
    """Where every channel comes from: space -> for each channel now its source in the seed, or -1 for a new one.

    Args:
        maps: from the channels of the seed to those of now.
        recent: from those of the last time that `recent` was asked for.
    """

    def __init__(self, maps: Mapping[str, ChannelMap], recent: Mapping[str, ChannelMap]) -> None:
        self._maps, self._recent = maps, recent

    @classmethod
    def begun(cls, spaces: ChannelSpaces) -> Lineage:
        """The lineage of a seed, which has these spaces."""
        return cls(_identities(spaces), _identities(spaces))

    @classmethod
    def of(cls, kept: Mapping[str, Any]) -> Lineage:
        """The lineage that `as_dict` gave."""
        return cls(
            *(
                {name: ChannelMap(size, tuple(source), tuple(weight)) for name, (size, source, weight) in maps.items()}
                for maps in (kept["maps"], kept["recent"])
            )
        )

    def as_dict(self) -> Record:
        """The lineage as JSON."""
        return {
            name: {space: [whole.size, list(whole.source), list(whole.weight)] for space, whole in maps.items()}
            for name, maps in (("maps", self._maps), ("recent", self._recent))
        }

    def follow(self, edits: Mapping[str, SpaceEdit], spaces: ChannelSpaces) -> None:
        """Take in one rewrite, after which the graph has `spaces`; those of inserted layers come from nowhere."""
        self._maps = _followed(self._maps, edits, spaces)
        self._recent = _followed(self._recent, edits, spaces)

    def sources(self) -> dict[str, list[int]]:
        """The lineage as `gngraph.ir.diff` takes it."""
        return _sources(self._maps)

    def recent(self, spaces: ChannelSpaces) -> dict[str, list[int]]:
        """The lineage since this was last asked for, or else since the seed, of a graph that now has `spaces`."""
        found, self._recent = _sources(self._recent), _identities(spaces)
        return found


def _identities(spaces: ChannelSpaces) -> dict[str, ChannelMap]:
    return {space.name: ChannelMap.identity(space.size) for space in spaces.free}


def _followed(
    maps: Mapping[str, ChannelMap], edits: Mapping[str, SpaceEdit], spaces: ChannelSpaces
) -> dict[str, ChannelMap]:
    known = {**maps, **{name: maps[name].then(edit.map) for name, edit in edits.items()}}
    found = {}
    for space in spaces.free:
        old = known.get(space.name)
        same = old is not None and len(old.source) == space.size
        found[space.name] = old if old and same else ChannelMap.fresh(space.size)
    return found


def _sources(maps: Mapping[str, ChannelMap]) -> dict[str, list[int]]:
    return {name: list(whole.source) for name, whole in maps.items()}
