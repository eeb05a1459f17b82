"""Timing on this machine: every unit of a network as a runtime computes it within the whole, and the whole."""

from __future__ import annotations

import json
import re
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gngraph.deploy.parity import Batch, random_inputs
from gngraph.deploy.refusals import refusals
from gngraph.deploy.to_onnx import written_onnx
from gngraph.ir import Graph
from gngraph.latency.networks import UNIT, in_units
from gngraph.latency.setting import LatencySetting
from gngraph.latency.units import TimedUnit
from gngraph.lowering.to_torch import reading_inputs
from gngraph.running.threads import with_threads

UNIT_BLOCKS, UNIT_RUNS = 7, 6
"""A network whose units are timed runs in so many blocks of so many runs. Of a block the shortest time of each unit counts, as
other processes only slow it down, but not that of the first run, which finds the caches as another network left them."""

NETWORK_BLOCKS, NETWORK_RUNS, NETWORK_SECONDS = 5, 10, 0.1
"""A whole network runs in so many blocks, each of at least so many runs and seconds; the median of their shortest runs counts."""


class _Network(Protocol):
    def begin(self) -> None:
        """Forget the runs so far."""

    def run(self) -> None:
        """Once."""

    def seconds(self) -> NDArray[np.float64]:
        """Of every unit in every run since `begin`: [runs, units]."""
        ...


class _TorchNetwork:
    def __init__(self, module: torch.fx.GraphModule, count: int, batch: Batch, setting: LatencySetting) -> None:
        self._module, self._batch, self._count = module, batch, count
        self._now, self._started = _time_of(setting), 0.0
        self._seconds: list[list[float]] = []
        for number in range(count):
            unit = module.get_submodule(f"{UNIT}{number}")
            unit.register_forward_pre_hook(lambda *_: self._start())
            unit.register_forward_hook(lambda *_, number=number: self._stop(number))

    def _start(self) -> None:
        self._started = self._now()

    def _stop(self, number: int) -> None:
        self._seconds[-1][number] = self._now() - self._started

    def begin(self) -> None:
        self._seconds = []

    def run(self) -> None:
        self._seconds.append([0.0] * self._count)
        with torch.inference_mode():
            self._module(*self._batch)

    def seconds(self) -> NDArray[np.float64]:
        return np.array(self._seconds)


class _OnnxNetwork:
    def __init__(
        self, module: torch.fx.GraphModule, count: int, batch: Batch, setting: LatencySetting, path: Path
    ) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # this exporter is the older one: it takes a tenth of the time, and keeps units apart
            names = [f"x{i}" for i in range(len(batch))]
            torch.onnx.export(module, batch, path, input_names=names, dynamo=False)
        self._feed = {name: x.numpy() for name, x in zip(names, batch, strict=True)}
        self._path, self._count, self._setting = path, count, setting

    def begin(self) -> None:
        self._session, self._runs = _session(self._path, self._setting, profile=self._path.with_suffix("")), 0
        given = {entry.name for entry in self._session.get_inputs()}  # one that is not read is dropped
        self._given = {name: x for name, x in self._feed.items() if name in given}

    def run(self) -> None:
        self._session.run(None, self._given)
        self._runs += 1

    def seconds(self) -> NDArray[np.float64]:
        written = Path(self._session.end_profiling())
        events = json.loads(written.read_text(encoding="utf-8"))
        written.unlink()
        kernels = [e for e in events if e["cat"] == "Node" and e["name"].endswith("_kernel_time")]
        each, number, found = len(kernels) // self._runs, 0, np.zeros((self._runs, self._count + 1))
        for place in range(each):
            name = re.search(rf"{UNIT}(\d+)", kernels[place]["name"])
            # what has no name, such as another layout of a value in memory, is of the unit before
            number = number if name is None else min(int(name[1]), self._count)
            found[:, number] += [1e-6 * event["dur"] for event in kernels[place::each]]
        return found[:, :-1]


def unit_seconds(
    present: Graph, others: Iterable[Graph], units: Sequence[TimedUnit], setting: LatencySetting
) -> Iterator[list[float]]:
    """How long every unit takes within some networks, one network after the other.

    Each runs in turns with the present one, and by how much that is slower meanwhile than at first, its times are shortened.

    Args:
        present: the network, with values.
        others: the same at other widths.
        units: of all of them.
        setting: runtime, batch and threads.

    Raises:
        GnGraphError: the runtime does not take one.
    """
    with _refusals(present, setting), with_threads(setting.threads), tempfile.TemporaryDirectory() as name:
        batch, folder = random_inputs(present, setting.batch), Path(name)

        def ready(graph: Graph, label: str) -> _Network:
            module = in_units(graph, units)
            if setting.runtime == "torch":
                return _TorchNetwork(module, len(units), batch, setting)
            return _OnnxNetwork(module, len(units), batch, setting, folder / f"{label}.onnx")

        known = ready(present, "present")
        (first,) = _in_turns([known])
        for graph in others:
            now, own = _in_turns([known, ready(graph, "other")])
            yield [float(seconds) for seconds in own * (first.sum() / now.sum())]


def _in_turns(networks: Sequence[_Network]) -> list[NDArray[np.float64]]:
    for network in networks:
        network.begin()
    for _ in range(UNIT_BLOCKS):
        for network in networks:
            for _ in range(UNIT_RUNS):
                network.run()
    return [_settled(network.seconds()) for network in networks]


def _settled(seconds: NDArray[np.float64]) -> NDArray[np.float64]:
    """A time a unit of those of all runs: the mean over the blocks but the best and the worst."""
    blocks = np.sort(seconds.reshape(UNIT_BLOCKS, UNIT_RUNS, -1)[:, 1:].min(1), 0)
    return np.asarray(blocks[1:-1].mean(0))


def _time_of(setting: LatencySetting) -> Callable[[], float]:
    """What time is told by: of one thread its own, which stands still while other processes have the processor."""
    return time.thread_time if setting.threads == 1 else time.perf_counter


def _session(path: Path, setting: LatencySetting, profile: Path | None = None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads, options.inter_op_num_threads = setting.threads, 1
    if profile is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(profile)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


class WholeNetwork:
    """A network as it is deployed, made ready to run when it first does.

    Args:
        graph: the network, with values.
        setting: runtime, batch and threads.
    """

    def __init__(self, graph: Graph, setting: LatencySetting) -> None:
        self.graph, self.setting = graph, setting

    @cached_property
    def run(self) -> Callable[[], object]:
        """Runs it once.

        Raises:
            GnGraphError: the runtime does not take it.
        """
        batch = random_inputs(self.graph, self.setting.batch)
        if self.setting.runtime == "torch":
            return torch.inference_mode()(partial(reading_inputs(self.graph).eval(), *batch))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "network.onnx"
            written_onnx(self.graph, path)
            session = _session(path, self.setting)
        feed = {entry.name: x.numpy() for entry, x in zip(session.get_inputs(), batch, strict=True)}
        return partial(session.run, None, feed)


def network_seconds(network: WholeNetwork, known: tuple[WholeNetwork, float] | None = None) -> tuple[float, float]:
    """How long a network takes, and how far that is uncertain: half of the interquartile range of its blocks of runs.

    Args:
        network: that is measured.
        known: another, with the seconds that it took; it runs in turns with this one, and by how much it is slower now, this one
            is taken for as much faster.

    Raises:
        GnGraphError: the runtime does not take it.
    """
    setting = network.setting
    with _refusals(network.graph, setting), with_threads(setting.threads):
        found = _repeated([network.run] if known is None else [network.run, known[0].run], setting)
    scale = 1.0 if known is None else known[1] / statistics.median(found[1])
    blocks, quarter = sorted(scale * seconds for seconds in found[0]), NETWORK_BLOCKS // 4
    return statistics.median(blocks), (blocks[-1 - quarter] - blocks[quarter]) / 2


def _repeated(runs: Sequence[Callable[[], object]], setting: LatencySetting) -> list[list[float]]:
    """The shortest times of some things, in seconds, in every block of their runs; the blocks take turns.

    Args:
        runs: each does a thing once.
        setting: says how many threads they take.
    """
    now, found = _time_of(setting), [list[float]() for _ in runs]
    for run in runs:
        for _ in range(NETWORK_RUNS):
            run()
    for _ in range(NETWORK_BLOCKS):
        for blocks, run in zip(found, runs, strict=True):
            run()  # the caches are another's
            blocks.append(_block(run, now))
    return found


def _block(run: Callable[[], object], now: Callable[[], float]) -> float:
    times = list[float]()
    while len(times) < NETWORK_RUNS or sum(times) < NETWORK_SECONDS:
        started = now()
        run()
        times.append(now() - started)
    return min(times)


def _refusals(graph: Graph, setting: LatencySetting) -> AbstractContextManager[None]:
    return refusals(f"graph '{graph.name}' cannot be timed on {setting.runtime}", "measure on torch")
