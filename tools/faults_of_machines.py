"""Faults of numbers at a step, memory, disks and signals."""

from __future__ import annotations

import errno
import os
import resource
import signal
import threading
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gngraph.importing.from_torch import from_torch
from gngraph.options import TrainOptions
from gngraph.running.problem import Problem
from gngraph.scoring.collect import Collector
from gngraph.training.gradients import Gradients
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer
from tools.fault_table import CLASSES, GROW, command, fault, grow, told, train, write


def poisoned(at: int, times: int) -> None:
    """Have a weight become NaN at some steps."""
    honest, steps = Gradients.__call__, [0]

    def call(self: Gradients, x: torch.Tensor, y: Any) -> Any:
        steps[0] += 1
        if at <= steps[0] and times > steps[0] - at:
            next(iter(self.module.parameters())).data[0] = float("nan")
        return honest(self, x, y)

    Gradients.__call__ = call  # type: ignore[method-assign]


@fault(1, r"the training loss became 'nan' at step 3 of epoch 1")
def nan_at_step() -> int:
    """Nan at step 3."""
    write()
    poisoned(3, 1)
    return grow()


@fault(0, r"since the last rewrite \(.*at half the rate")
def nan_after_rewrite() -> int:
    """Nan once after the rewrite."""
    write()
    poisoned(20, 1)
    return grow()


@fault(1, r"since the last rewrite \(\S+: \d+ .*\), at half the rate once more")
def nan_again() -> int:
    """Nan again and again after the rewrite."""
    write()
    poisoned(20, 10**6)
    return grow()


def short(kind: type, method: str, most: int, error: Exception) -> None:
    """Have memory run out in a method where it is given more than so many samples."""
    honest = getattr(kind, method)

    def limited(self: Any, x: torch.Tensor, *others: Any) -> Any:
        if len(x) > most:
            raise error
        return honest(self, x, *others)

    setattr(kind, method, limited)


@fault(0, r"memory ran out in a step of training: it goes on with 16 samples")
def short_in_training() -> int:
    """Memory of a GPU runs out in training."""
    write()
    short(Gradients, "_passes", 16, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    return grow()


@fault(0, r"memory ran out in an analysis: it goes on with 32 samples")
def short_in_analysis() -> int:
    """Memory of the machine runs out in the analysis."""
    write()
    short(Collector, "collect", 32, RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate"))
    return grow()


@fault(1, r"memory ran out in a step of training, with \d samples at a time too")
def short_of_all() -> int:
    """Memory runs out whatever is done."""
    write()
    short(Gradients, "_passes", 0, MemoryError())
    return train()


@fault(0, r"memory ran out in a step of training: it goes on with \d+ samples")
def limited_memory() -> int:
    """A limit on the memory of the process."""
    torch.manual_seed(0)
    x, y = torch.randn(256, 3, 64, 64), torch.randint(CLASSES, (256,))
    net = nn.Sequential(
        nn.Conv2d(3, 256, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 3)
    )
    problem, graph = Problem((x, y), device="cpu", batch_size=8), from_torch(net, x[:2])
    used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (used + 700 * 2**20, resource.RLIM_INFINITY))
    warnings.simplefilter("always")
    warnings.showwarning = lambda message, *place: print(message)
    return told(lambda: Trainer(problem, TrainOptions(batch_size=128)).train(graph, Stretch(1)))


@fault(1, r"to train these takes [\d,]+ GiB, where 'cpu' has")
def absurd_budget() -> int:
    """A budget of 1e15 parameters."""
    write()
    return command("grow", "nets:net", "--data", "data.npz", "--max-params", "1000000G", "-o", "run")


@fault(1, r"File too large")
def limited_files() -> int:
    """A limit on the size of files."""
    write()
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
    return grow()


@fault(1, r"No space left on device")
def full_disk() -> int:
    """A full disk in the middle of a run."""
    write()
    honest, done = os.fsync, [0]

    def synced(fd: Any) -> None:
        done[0] += 1
        if done[0] > 4:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        honest(fd)

    os.fsync = synced
    return grow()


@fault(1, r"'/proc/gngraph")
def read_only() -> int:
    """A folder that cannot be written."""
    write()
    return command("grow", "nets:net", *GROW, "-o", "/proc/gngraph-run")


@fault(1, r"No such file or directory|not a folder|is gone")
def folder_gone() -> int:
    """A folder that goes away."""
    write()
    honest = Trainer.train

    def gone(self: Trainer, *args: Any, **options: Any) -> Any:
        os.rename("run", "elsewhere")
        Trainer.train = honest  # type: ignore[method-assign]
        return honest(self, *args, **options)

    Trainer.train = gone  # type: ignore[method-assign]
    return grow()


def signalled(number: int, seconds: float) -> None:
    """Send this process a signal after some time of training."""
    honest = Trainer.train

    def begun(self: Trainer, *args: Any, **options: Any) -> Any:
        threading.Timer(seconds, os.kill, (os.getpid(), number)).start()
        Trainer.train = honest  # type: ignore[method-assign]
        return honest(self, *args, **options)

    Trainer.train = begun  # type: ignore[method-assign]


@fault(1, r"interrupted; go on with it by gngraph resume run")
def interrupted() -> int:
    """Ctrl-C in the middle of training."""
    write()
    signalled(signal.SIGINT, 0.3)
    return grow("nets:net", "--epochs", "5000")


@fault(1, r"interrupted; go on with it by gngraph resume run")
def terminated() -> int:
    """SIGTERM in the middle of training."""
    write()
    signalled(signal.SIGTERM, 0.3)
    return grow("nets:net", "--epochs", "5000")
