"""What an import leaves behind: no torch.fx nodes, and no memory that is free but not given back."""

from __future__ import annotations

import gc
import platform
from pathlib import Path

import pytest
import torch
from torch import fx, nn

from gngraph.importing.freeing import return_free_memory, take_apart
from gngraph.importing.from_torch import from_torch


def _resident() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmRSS")))


def _nodes() -> int:
    return sum(type(held) is fx.Node for held in gc.get_objects())


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator")
def test_what_is_free_between_small_blocks_is_given_back() -> None:
    blocks = [torch.ones(2**12) for _ in range(2048)]  # 32 MiB, each block too small for a mapping of its own
    kept = blocks[::64]
    del blocks
    before = _resident()
    return_free_memory()
    assert before - _resident() > 2**24
    assert all(bool((block == 1).all()) for block in kept)


def test_a_trace_that_is_taken_apart_is_free_without_the_collector() -> None:
    net = nn.Sequential(*(nn.Linear(2, 2) for _ in range(100)))
    gc.collect()
    gc.disable()
    try:
        before = _nodes()
        graph = fx.Tracer().trace(net)
        assert _nodes() >= before + 100
        take_apart(graph)
        assert _nodes() <= before + 1
    finally:
        gc.enable()


def test_an_import_leaves_no_traces_behind() -> None:
    net = nn.Sequential(*(nn.Linear(2, 2) for _ in range(100)))
    gc.collect()
    gc.disable()
    try:
        before = _nodes()
        graph = from_torch(net, torch.zeros(1, 2))
        assert len(graph.nodes) == 101
        assert _nodes() < before + 250  # of four graphs, each with a node a layer, those of the two lowered ones
    finally:
        gc.enable()
