"""The archives of a run: its seed, the network after each round, and the last."""

from __future__ import annotations

import re
from pathlib import Path

from gngraph.errors import ModelFileError

SEED_FILE = "seed.gng"
MODEL_FILE = "model.gng"
ROUNDS = "rounds"
"""Folder of the networks after each round, within that of the run."""

_ROUND = re.compile(r"(.+)@(\d+)", re.DOTALL)


def round_file(folder: Path, number: int) -> Path:
    """Where the network after a round is, trained, rewritten and not yet trained on; after 0 rounds it is the seed.

    Args:
        folder: of the run.
        number: of the round, from 1; 0: before the first.
    """
    return folder / ROUNDS / f"{number}.gng" if number else folder / SEED_FILE


def archive_named(word: str) -> str:
    """The archive that a word stands for: of `run`, a folder, the last network; of `run@3` the one after the third round.

    Any other word stays as it is.

    Args:
        word: what a network is to be read from.

    Raises:
        ModelFileError: the run has no such round.
    """
    if (Path(word) / MODEL_FILE).is_file():
        return str(Path(word) / MODEL_FILE)
    found = _ROUND.fullmatch(word)
    if found is None or Path(word).exists() or not Path(found[1]).is_dir():
        return word
    folder, number = Path(found[1]), int(found[2])
    file = round_file(folder, number)
    if not file.is_file():
        kept = sorted(int(path.stem) for path in (folder / ROUNDS).glob("*.gng") if path.stem.isdigit())
        which = f"it has {', '.join(map(str, kept))}, and 0 for the seed" if kept else "nothing of its rounds is kept"
        raise ModelFileError(f"the run in '{folder}' has no network of round {number}: {which}")
    return str(file)
