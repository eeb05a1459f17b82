"""Files from strangers: mutated archives and checkpoints, and files made to do harm, each read in a process that is watched.

A file must be refused by a `GnGraphError`, or be read as what was written. Counted are escapes (another exception), crashes of
the process, files that take more than 5 s or 1 GB, code that ran, and files that are read as something else; exits non-zero
where there is one. What no format has a sum for is counted apart: legacy checkpoints, and weights that another program wrote.

    python tools/check_files.py archives 20000       mutated archives, of which some are loaded and run
    python tools/check_files.py checkpoints 10000    mutated modules, state dicts (new and legacy format) and weights
    python tools/check_files.py hostile              every file of tools/hostile_files.py
"""

from __future__ import annotations

import argparse
import faulthandler
import io
import itertools
import json
import os
import random
import select
import signal
import struct
import sys
import tempfile
import time
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gngraph.errors import GnGraphError
from gngraph.files.archive import load, load_history, save
from gngraph.files.checkpoint import load_module
from gngraph.importing.from_torch import from_torch
from gngraph.ir import diff, same_structure
from gngraph.lowering.probe import probe_of
from gngraph.lowering.to_torch import to_torch
from gngraph.source.export import export_source
from gngraph.writing import VALUES_HASH
from gngraph.zoo import build_seed
from tools.hostile_files import MARKER, archive_of, corpus, used, with_member

SECONDS, BYTES = 5.0, 1 << 30
"""Most that reading a file may take, of the processor and of memory."""

HARMLESS = ("refused", "same", "changed where there is no sum", "another file, sums and all")
"""What may come of a file."""


@dataclass(frozen=True)
class File:
    """A file to be read.

    Attributes:
        name: what was done to it.
        file: the name that it has on the disk.
        content: makes its bytes.
        read: reads it and says "same", or in what way it is another.
    """

    name: str
    file: str
    content: Callable[[], bytes]
    read: Callable[[Path], str]


class Watched:
    """A process in which files are read one after the other, and a new one where it ends or hangs."""

    def __init__(self, files: list[File]) -> None:
        self._files = files
        self._child = 0
        self._asked = self._answers = -1

    def verdict(self, index: int) -> str:
        """What came of the file at `index`."""
        if not self._child:
            self._start()
        os.write(self._asked, struct.pack("<I", index))
        ready, _, _ = select.select([self._answers], [], [], 20 * SECONDS)
        answer = os.read(self._answers, 4096).decode(errors="replace") if ready else ""
        if answer:
            return answer
        os.kill(self._child, signal.SIGKILL)
        status = os.waitstatus_to_exitcode(os.waitpid(self._child, 0)[1])
        self._child = 0
        if not ready or status == -signal.SIGPROF:
            return f"hang: more than {SECONDS:g} s"
        return f"crash: the process ended with {status}"

    def _start(self) -> None:
        (asked, self._asked), (self._answers, answers) = os.pipe(), os.pipe()
        self._child = os.fork()
        if not self._child:
            os.close(self._asked)
            faulthandler.disable()
            sys.stderr = open(os.devnull, "w")  # noqa: SIM115  what libraries say of bad files
            with tempfile.TemporaryDirectory() as folder:
                os.chdir(folder)
                while request := os.read(asked, 4):
                    os.write(answers, self._read(self._files[struct.unpack("<I", request)[0]])[:4000].encode())
            os._exit(0)
        os.close(asked)
        os.close(answers)

    @staticmethod
    def _read(file: File) -> str:
        path = Path(file.file)
        path.write_bytes(file.content())
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew from here
        before = _resident("VmRSS")
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of the processor: the machine may be busy with other things
        try:
            verdict = file.read(path)
        except GnGraphError as error:
            verdict = "refused" if "\n" not in str(error) else f"escape: more than one line: {error}"
        except BaseException as error:  # SystemExit among them: this is what is looked for
            verdict = f"escape: {type(error).__name__}: {error}"
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        taken = _resident("VmHWM") - before
        if Path(MARKER).exists():
            return "code ran"
        return f"memory: {taken >> 20} MiB" if taken > BYTES else verdict


def _resident(entry: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(entry)))


# What is mutated.


def _network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))


def _written(write: Callable[[Path], object]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "file")
        write(path)
        return path.read_bytes()


def _archives() -> Iterator[tuple[bytes, Callable[[Path], str]]]:
    networks = {
        "plain": (_network(), torch.zeros(1, 1, 4, 4)),
        "mlp": (build_seed("mlp", width=0.05, classes=2, input_shape=(3,)), torch.zeros(1, 3)),
        "attention": (nn.TransformerEncoderLayer(4, 2, 4, batch_first=True), torch.zeros(1, 3, 4)),
    }
    for name, (module, example) in networks.items():
        graph, history = from_torch(module, example), {"name": name, "rounds": [{"loss": 0.5}]}

        def read(path: Path, graph: object = graph, history: object = history) -> str:
            found, record = load(path), load_history(path)
            if record == history and same_structure(found, graph) and not diff(found, graph).weights.differing:  # type: ignore[arg-type]
                return "same"
            to_torch(found)(*probe_of(found, samples=1, dtype=None))
            return "changed"

        yield _written(partial(_saved_archive, graph, history)), read


def _saved_archive(graph: object, history: object, path: Path) -> None:
    save(graph, path, history=history)  # type: ignore[arg-type]


def _checkpoints() -> Iterator[tuple[bytes, Callable[[Path], str]]]:
    """With what is known of the sums in each: zips have them, weights by gngraph too."""
    network, seed = _network(), build_seed("mlp", width=0.05, classes=2, input_shape=(3,))

    def reader(original: nn.Module, changed: str, arch: str | None) -> Callable[[Path], str]:
        def read(path: Path) -> str:
            loaded = (
                load_module(path, arch=arch, width=0.05, classes=2, input_shape=(3,)) if arch else load_module(path)
            )
            return "same" if _alike(original, loaded) else changed

        return read

    unknown = "changed where there is no sum"
    for legacy in (False, True):
        saved = partial(torch.save, _use_new_zipfile_serialization=not legacy)
        told = unknown if legacy else "changed"
        yield _written(partial(saved, network)), reader(network, told, None)
        yield _written(partial(saved, seed.state_dict())), reader(seed, told, "mlp")
    foreign = safetensors.torch.save({k: v.contiguous() for k, v in seed.state_dict().items()}, {"format": "pt"})
    yield foreign, reader(seed, unknown, "mlp")
    with tempfile.TemporaryDirectory() as folder:
        own = export_source(from_torch(seed, torch.zeros(1, 3)), folder).weights.read_bytes()
    yield own, partial(_of_own_weights, reader(seed, "changed", "mlp"))


def _of_own_weights(read: Callable[[Path], str], path: Path) -> str:
    """Without its sum such a file is as any other program's."""
    verdict = read(path)
    with safetensors.safe_open(path, "pt") as opened:
        summed = VALUES_HASH in (opened.metadata() or {})
    return "changed where there is no sum" if verdict == "changed" and not summed else verdict


def _alike(original: nn.Module, loaded: nn.Module) -> bool:
    """Whether tensors, and what computes with them, are the same."""
    own, found = original.state_dict(), loaded.state_dict()
    same = list(own) == list(found) and all(
        a.dtype == found[key].dtype and a.shape == found[key].shape and torch.equal(a, found[key])
        for key, a in own.items()
    )
    return same and repr(original) == repr(loaded)


# Mutations.


def _damaged(content: bytes, generator: random.Random) -> bytes:
    """Bits flipped, bytes replaced, stretches cut out, doubled, moved or zeroed, or the end cut off."""
    data = bytearray(content)
    for _ in range(generator.choice((1, 1, 1, 2, 5))):
        place, length = generator.randrange(len(data)), generator.randrange(1, 40)
        match generator.randrange(7):
            case 0 | 1:
                data[place] ^= 1 << generator.randrange(8)
            case 2:
                data[place] = generator.randrange(256)
            case 3:
                del data[place : place + length]
            case 4:
                data[place:place] = data[place : place + length]
            case 5:
                data[place : place + length] = bytes(len(data[place : place + length]))
            case _:
                other = generator.randrange(len(data))
                data[place : place + length] = data[other : other + length]
        data = data or bytearray(b"\0")
    return bytes(data[: generator.randrange(len(data))] if generator.random() < 0.05 else data)


def _repaired(content: bytes, generator: random.Random) -> bytes:
    """A member of a zip is damaged, and the zip written again with the checksums of what it then holds."""
    with zipfile.ZipFile(io.BytesIO(content)) as old:
        name = generator.choice(old.namelist())
        member = old.read(name)
    return with_member(content, name, _damaged(member or b"\0", generator))


def _rewritten(content: bytes, generator: random.Random) -> bytes:
    """An archive whose text, weights or history are others, with sums to fit: what an attacker would make."""
    with zipfile.ZipFile(io.BytesIO(content)) as old:
        weights, record = old.read("weights.safetensors"), old.read("history.json")
        lines = json.loads(old.read("graph.json"))["text"]
    match generator.randrange(6):
        case 0:
            weights = _damaged(weights, generator)
        case 1:
            lines = _damaged("\n".join(lines).encode(), generator).decode(errors="replace").splitlines()
        case _:
            lines = _other_text(lines, generator)
    return archive_of(lines, weights, record)


def _other_text(lines: list[str], generator: random.Random) -> list[str]:
    """A word or number in a line is replaced by another of the file, or by an extreme one."""
    words = sorted(
        {word for line in lines for word in line.replace("(", " ").replace(",", " ").replace("=", " ").split()}
    )
    extremes = ["-1", "0", "1e308", str(2**63), str(-(2**63)), "inf", '""', "()", "True", "None", "3.5", "99999"]
    lines = list(lines)
    for _ in range(generator.choice((1, 1, 2, 3))):
        at = generator.randrange(len(lines))
        found = [word for word in words if word in lines[at]]
        if found:
            lines[at] = lines[at].replace(generator.choice(found), generator.choice(words + extremes), 1)
    return lines


def mutated_archives(count: int) -> Iterator[File]:
    """Archives that are damaged (half), damaged with their zip's checksums repaired (a quarter), or made anew, sums and all."""
    bases = list(_archives())
    for seed in range(count):
        content, read = bases[seed % len(bases)]
        change = (_damaged, _damaged, _repaired, _rewritten)[seed // len(bases) % 4]
        reader = _of_another if change is _rewritten else read
        yield File(
            f"{change.__name__[1:]} archive {seed}", "net.gng", partial(change, content, random.Random(seed)), reader
        )


def _of_another(path: Path) -> str:
    used(path)
    return "another file, sums and all"


def mutated_checkpoints(count: int) -> Iterator[File]:
    """Checkpoints that are damaged; of those that are zips a third with their checksums repaired."""
    bases = list(_checkpoints())
    for seed in range(count):
        content, read = bases[seed % len(bases)]
        repaired = content.startswith(b"PK") and seed // len(bases) % 3 == 0
        change = _repaired if repaired else _damaged
        reader = partial(_with_its_sums, read) if repaired else read
        yield File(
            f"{change.__name__[1:]} checkpoint {seed}",
            "model.pt",
            partial(change, content, random.Random(seed)),
            reader,
        )


def _with_its_sums(read: Callable[[Path], str], path: Path) -> str:
    verdict = read(path)
    return "another file, sums and all" if verdict == "changed" else verdict


def hostile(count: int) -> Iterator[File]:
    """The files that were made to do harm: some may be read, if nothing comes of it."""
    for one in itertools.islice(corpus(), count):

        def read(path: Path, one_reads: Callable[[Path], object] = one.read) -> str:
            one_reads(path)
            return "taken"

        yield File(one.name, one.file, partial(bytes, one.content), read)


KINDS: Mapping[str, Callable[[int], Iterator[File]]] = {
    "archives": mutated_archives,
    "checkpoints": mutated_checkpoints,
    "hostile": hostile,
}


def check(kind: str, count: int) -> int:
    """Print what comes of files of a kind; the number of those that do harm.

    Args:
        kind: of `KINDS`.
        count: most files.
    """
    files = list(KINDS[kind](count))
    watched, verdicts, harm = Watched(files), Counter[str](), 0
    allowed = (*HARMLESS, "taken") if kind == "hostile" else HARMLESS
    start = time.monotonic()
    for index, file in enumerate(files):
        verdict = watched.verdict(index)
        verdicts[verdict.partition(":")[0]] += 1
        if verdict not in allowed:
            harm += 1
            print(f"{file.name}: {verdict[:300]}", flush=True)
        elif verdict == "taken":
            print(f"{file.name}: read, and nothing comes of it", flush=True)
        if (index + 1) % 1000 == 0:
            print(f"{index + 1} files after {time.monotonic() - start:.0f} s", flush=True)
    told = ", ".join(f"{number} {verdict}" for verdict, number in verdicts.most_common())
    print(f"{len(files)} {kind}: {told}; {harm} do harm")
    return harm


def main() -> int:
    """Run the check; 0 where no file does harm."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("count", type=int, nargs="?", default=10_000, help="files (default: 10,000)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    return 1 if check(options.kind, options.count) else 0


if __name__ == "__main__":
    sys.exit(main())
