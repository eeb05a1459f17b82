"""Timing on this machine: a layer as a runtime computes it within a network, and a whole network."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from gngraph.deploy.parity import Batch, random_inputs
from gngraph.deploy.refusals import refusals
from gngraph.deploy.to_onnx import written_onnx
from gngraph.ir import Graph
from gngraph.latency.setting import LatencySetting
from gngraph.lowering.to_torch import reading_inputs
from gngraph.running.threads import with_threads

LAYER_RUNS = 12
"""Runs of a layer, of which the first is not counted and the shortest is: other processes only slow it down."""

NETWORK_BLOCKS, NETWORK_RUNS, NETWORK_SECONDS = 5, 10, 0.1
"""A network runs in so many blocks, each of at least so many runs and seconds; the median of the shortest runs of each counts."""

LAYOUTS = frozenset({"ReorderInput", "ReorderOutput"})
"""What onnxruntime does at the ends of a layer that stands alone, not between layers."""


class RunningLayer(Protocol):
    """A layer that is ready to run."""

    def run(self) -> None:
        """Once."""

    def seconds(self) -> float:
        """Of a run, from all but the first so far; it runs no more afterwards."""
        ...


class _TorchLayer:
    def __init__(self, graph: Graph, batch: Batch, setting: LatencySetting) -> None:
        self._module = reading_inputs(graph).eval()
        self._batch = batch
        self._now = _time_of(setting)
        self._seconds: list[float] = []

    def run(self) -> None:
        with torch.inference_mode():
            started = self._now()
            self._module(*self._batch)
            self._seconds.append(self._now() - started)

    def seconds(self) -> float:
        return min(self._seconds[1:])


class _OnnxLayer:
    def __init__(self, graph: Graph, batch: Batch, folder: Path, setting: LatencySetting) -> None:
        path = folder / "layer.onnx"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # this exporter is the older one, which takes a hundredth of the time
            names = [f"x{i}" for i in range(len(batch))]
            torch.onnx.export(reading_inputs(graph).eval(), batch, path, input_names=names, dynamo=False)
        self._session = _session(path, setting, profile=folder / "profile")
        self._feed = {name: x.numpy() for name, x in zip(names, batch, strict=True)}
        given = {entry.name for entry in self._session.get_inputs()}  # one that is not read is dropped
        self._feed = {name: x for name, x in self._feed.items() if name in given}
        self._runs = 0

    def run(self) -> None:
        self._session.run(None, self._feed)
        self._runs += 1

    def seconds(self) -> float:
        events = json.loads(Path(self._session.end_profiling()).read_text(encoding="utf-8"))
        kernels = [e for e in events if e["cat"] == "Node" and e["name"].endswith("_kernel_time")]
        each = len(kernels) // self._runs
        own = [kernels[i::each][1:] for i in range(each) if kernels[i]["args"]["op_name"] not in LAYOUTS]
        return 1e-6 * sum(float(min(e["dur"] for e in runs)) for runs in own)


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


def layer_seconds(graph: Graph, setting: LatencySetting, swept: int) -> float:
    """How long a layer takes.

    Before each run as much memory is read as the rest of a network has weights, so that caches hold what they hold there.

    Args:
        graph: the layer, with values.
        setting: runtime, batch and threads.
        swept: bytes that are read.

    Raises:
        GnGraphError: the runtime does not take it.
    """
    sweep = np.ones(swept // 4, np.float32)
    with _refusals(graph, setting), with_threads(setting.threads), tempfile.TemporaryDirectory() as folder:
        batch = random_inputs(graph, setting.batch)
        layer: RunningLayer
        if setting.runtime == "torch":
            layer = _TorchLayer(graph, batch, setting)
        else:
            layer = _OnnxLayer(graph, batch, Path(folder), setting)
        for _ in range(1 + LAYER_RUNS):
            sweep.sum()
            for x in batch:
                x.sum()  # what the layer before just wrote
            layer.run()
        return layer.seconds()


def network_seconds(graph: Graph, setting: LatencySetting) -> tuple[float, float]:
    """How long a network takes, and how far that is uncertain, see `repeated`.

    Args:
        graph: the network, with values.
        setting: runtime, batch and threads.

    Raises:
        GnGraphError: the runtime does not take it.
    """
    with _refusals(graph, setting), with_threads(setting.threads), tempfile.TemporaryDirectory() as folder:
        batch = random_inputs(graph, setting.batch)
        run = _whole(graph, batch, setting, Path(folder))
        for _ in range(NETWORK_RUNS):
            run()
        return repeated(run, setting)


def repeated(run: Callable[[], object], setting: LatencySetting) -> tuple[float, float]:
    """How long something takes, in seconds, and half of the interquartile range of repeated blocks of runs.

    Args:
        run: does it once.
        setting: says how many threads it takes.
    """
    now = _time_of(setting)
    blocks = sorted(_block(run, now) for _ in range(NETWORK_BLOCKS))
    quarter = NETWORK_BLOCKS // 4
    return statistics.median(blocks), (blocks[-1 - quarter] - blocks[quarter]) / 2


def _whole(graph: Graph, batch: Batch, setting: LatencySetting, folder: Path) -> Callable[[], object]:
    if setting.runtime == "torch":
        module = reading_inputs(graph).eval()

        def run() -> object:
            with torch.inference_mode():
                return module(*batch)

        return run
    path = folder / "network.onnx"
    written_onnx(graph, path)
    return onnx_run(path, batch, setting)


def onnx_run(path: Path, batch: Batch, setting: LatencySetting) -> Callable[[], object]:
    """What runs an ONNX file once.

    Args:
        path: of the file.
        batch: its inputs, in order.
        setting: threads.
    """
    session = _session(path, setting)
    feed = {entry.name: x.numpy() for entry, x in zip(session.get_inputs(), batch, strict=True)}
    return lambda: session.run(None, feed)


def _block(run: Callable[[], object], now: Callable[[], float]) -> float:
    times = list[float]()
    while len(times) < NETWORK_RUNS or sum(times) < NETWORK_SECONDS:
        started = now()
        run()
        times.append(now() - started)
    return min(times)


def _refusals(graph: Graph, setting: LatencySetting) -> AbstractContextManager[None]:
    return refusals(f"graph '{graph.name}' cannot be timed on {setting.runtime}", "measure on torch")
