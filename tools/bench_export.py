"""Exports of large networks beside torch.export: seconds of the CPU and memory, each in a process of its own.

The networks are those of `tools/bench_large.py`. "torch.export" exports the module itself, with a dynamic batch axis, and saves
it. The others start from the graph that the module was imported to, and end with a file that was read again and compared:
`export_pt2`, `export_onnx`, and `save` of an archive; "import" is `from_torch`. Seconds are given as multiples of those of
torch.export, memory as how much more a process took at its peak than before, in multiples of the parameters' bytes.

    tools/bench_export.py --network gpt --network vit_b_16
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import click
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gngraph.deploy.to_onnx import export_onnx
from gngraph.deploy.to_pt2 import export_pt2
from gngraph.files.archive import save
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from tools.bench_large import highest, module_of, problem_of

console = Console(width=120)

SECONDS, MEMORY = 3.0, 2.5
"""The bars: seconds as a multiple of those of torch.export, memory as one of the parameters' bytes."""

WITH = "torch.export"
"""What the others are compared with."""


def exported(module: nn.Module, x: torch.Tensor, path: Path) -> None:
    """What a user would call who has torch alone."""
    program = torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    torch.export.save(program, path)


WAYS: Mapping[str, tuple[str, Callable[[Graph, Path], object]]] = {
    "export_pt2": (".pt2", export_pt2),
    "export_onnx": (".onnx", export_onnx),
    "save": (".gng", save),
}
"""What is made of a graph, by name, with the suffix of its file."""


@dataclass(frozen=True)
class Measured:
    """Bytes of the parameters, bytes more at the peak, and seconds of the processor."""

    own: int
    more: float
    seconds: float


def measured(network: str, way: str, threads: int) -> Measured:
    """One way, in a process of its own."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    module = module_of(network).eval()
    x = torch.stack([problem_of(network, (2, 2, 2)).samples[number][0] for number in range(2)])
    own = sum(p.numel() * p.element_size() for p in module.parameters())
    graph = from_torch(module, x) if way in WAYS else None
    with tempfile.TemporaryDirectory() as folder:
        suffix, make = WAYS.get(way, (".pt2", None))
        path = Path(folder, "file").with_suffix(suffix)
        highest()
        before, start = highest(), time.process_time()
        if graph is not None and make is not None:
            make(graph, path)
        elif way == "import":
            from_torch(module, x)
        else:
            exported(module, x, path)
        return Measured(own, (highest() - before) * 2**20, time.process_time() - start)


def apart(network: str, way: str, threads: int) -> Measured:
    """The same from a new process."""
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        return pool.submit(measured, network, way, threads).result()


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n") if __doc__ else None)
@click.option("--network", "networks", multiple=True, default=("gpt", "vit_b_16"), show_default=True,
              help="gpt, or one of torchvision's")  # fmt: skip
@click.option("--threads", default=1, show_default=True, help="CPU threads")
def main(networks: tuple[str, ...], threads: int) -> None:
    """Print what exports take."""
    table = Table(
        "network", "params, M", "way", "seconds", f"of {WITH}'s (bar {SECONDS:g})", f"memory (bar {MEMORY:g})"
    )
    for network in networks:
        beside = apart(network, WITH, threads)
        for way in (WITH, "import", *WAYS):
            found = beside if way == WITH else apart(network, way, threads)
            figures = f"{found.seconds:.1f}", f"{found.seconds / beside.seconds:.2f}", f"{found.more / found.own:.2f}"
            table.add_row(network, f"{found.own / 4e6:.1f}", way, *figures)
    console.print(table)


if __name__ == "__main__":
    main()
