"""One run, one folder: whoever writes into it has locked it, and a second is told so before it reads anything."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from gngraph.errors import GnGraphError
from gngraph.files.runs import MODEL_FILE, ROUNDS, SEED_FILE
from gngraph.growth.channel_records import CHANNELS_FILE
from gngraph.growth.checkpoints import CHECKPOINTS
from gngraph.growth.history import HISTORY_FILE
from gngraph.growth.run_folder import BEGUN_FILE, CONFIG_FILE, ONNX_FILE, REPORT_FILE
from gngraph.ranks import here
from gngraph.source.export import CODE_FILE, WEIGHTS_FILE
from gngraph.writing import remove_unfinished

_LOCK_FILE = ".lock"
_WRITTEN = (
    *(CONFIG_FILE, SEED_FILE, MODEL_FILE, ONNX_FILE, HISTORY_FILE, CHANNELS_FILE, REPORT_FILE),
    *(CODE_FILE, WEIGHTS_FILE, BEGUN_FILE),
)


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """The folder of a run, made if need be, belongs to this run until the block ends; the system frees it where a process dies.

    What a killed run left of files that it was writing is removed. Of several processes the first one has it, for all.

    Args:
        folder: of the run. It goes again where nothing was written into it and it is new.

    Raises:
        GnGraphError: another run has it, or it cannot be made.
    """
    with ExitStack() as held:
        here().only_first(lambda: held.enter_context(_locked(folder)))
        yield


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    if folder.exists() and not folder.is_dir():
        raise GnGraphError(f"'{folder}' is a file, not a folder; name another folder")
    made, unlocked = not folder.exists(), not (folder / _LOCK_FILE).exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK_FILE, timeout=0)
        lock.acquire()
    except Timeout:
        raise GnGraphError(
            f"folder '{folder}' is in use by another run; wait until it ends, or name another folder"
        ) from None
    except OSError as error:
        raise GnGraphError(f"folder '{folder}' cannot be written: {error.strerror or error}") from error
    try:
        remove_unfinished(folder, _WRITTEN)
        remove_unfinished(folder / ROUNDS, ("*",))
        with suppress(OSError):  # an empty one is of a run that was killed while it ended
            (folder / CHECKPOINTS).rmdir()
        yield
    finally:
        if unlocked and not (folder / HISTORY_FILE).exists():  # no run has begun
            (folder / _LOCK_FILE).unlink()
            if made and not any(folder.iterdir()):
                folder.rmdir()
        lock.release()


def is_free(folder: Path) -> bool:
    """Whether a folder holds nothing but its lock; it need not exist.

    Args:
        folder: of a run.
    """
    return not folder.exists() or all(path.name == _LOCK_FILE for path in folder.iterdir())


def require_free_folder(folder: Path) -> None:
    """Refuse a folder that holds anything but its lock.

    Args:
        folder: of a run; it need not exist.

    Raises:
        GnGraphError: it is not empty.
    """
    if (folder / CHECKPOINTS).is_dir():
        raise GnGraphError(
            f"folder '{folder}' holds a run that was interrupted; go on with it by gngraph resume {shlex.quote(str(folder))}, name "
            f"another folder, or pass --force to replace it"
        )
    if not is_free(folder):
        raise GnGraphError(
            f"folder '{folder}' is not empty; name another one, or pass --force to replace the run in it"
        )
