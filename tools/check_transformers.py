"""Tiny random networks of transformers: each is taken as its user calls it, in both modes, or refused with a reason.

Encoders, decoders, encoder-decoders, vision, audio, towers and mixtures of experts, each with its default attention, keywords for
inputs, its model output for output, and its cache off. What is taken is trained beside its import: outputs in eval mode, then
outputs, gradients, parameters and buffers of steps of SGD on batches of two sizes, then eval mode again, in float64 and under one
seed (experts in float32). Exits non-zero when one trains in another way, or raises what is no `GnGraphError`.

    python tools/check_transformers.py                         every network, a line each, then counts and reasons
    python tools/check_transformers.py --only bert,gpt2        some
    python tools/check_transformers.py --out rows.csv          goes on where an earlier run stopped

gngraph does not need transformers: install it first.
"""

from __future__ import annotations

import argparse
import csv
import inspect
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, astuple, dataclass, fields, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.share import share_free_both_ways, share_in_free_spaces
from gngraph.errors import GnGraphError
from gngraph.importing.from_torch import from_torch
from gngraph.lowering.to_torch import to_torch
from tests.training_steps import Trial
from tests.transformers_models import MODELS, Tiny

_ROUNDING = 1e-4
"""Largest relative difference of what is compared in float32."""


@dataclass(frozen=True)
class Row:
    """What came of a network.

    Attributes:
        verdict: "taken", "unlike", "refused" or "error".
        nodes: of the graph.
        free: part of the entries of all parameters that lie in a free space.
        both: part of the inner weights that are free along both axes.
        seconds: of the import.
        told: the reason, or in what it is unlike.
    """

    kind: str
    network: str
    verdict: str
    nodes: int
    free: float
    both: float
    seconds: float
    told: str

    def __str__(self) -> str:
        figures = f"{self.nodes:>5} nodes  {self.free:4.2f} {self.both:4.2f}" if self.nodes else " " * 22
        return f"{self.kind:8} {self.network:14} {self.verdict:8} {figures} {self.seconds:6.1f} s  {self.told[:240]}"


def check(name: str) -> Row:
    """Import a network and train it beside its import."""
    tiny = MODELS[name]
    network, given = tiny.build()
    example = dict(
        inspect.signature(network.forward).bind(**given).arguments
    )  # in the order in which positions have them
    if hasattr(network.config, "use_cache"):
        network.config.use_cache = False
    start = time.process_time()
    try:
        graph = from_torch(network, example, output=tiny.output)
    except GnGraphError as error:
        return Row(tiny.kind, name, "refused", 0, 0.0, 0.0, time.process_time() - start, str(error))
    except Exception as error:  # which no public function should raise
        told = f"{type(error).__name__}: {error}".splitlines()[0]
        return Row(tiny.kind, name, "error", 0, 0.0, 0.0, time.process_time() - start, told)
    seconds, spaces = time.process_time() - start, ChannelSpaces.of(graph)
    shares = share_in_free_spaces(graph, spaces), share_free_both_ways(graph, spaces)
    unlike = _training_differences(tiny, network, example, to_torch(graph))
    verdict, told = ("unlike", ", ".join(unlike[:3])) if unlike else ("taken", "")
    return Row(tiny.kind, name, verdict, len(graph.nodes), *shares, seconds, told)


def _training_differences(
    tiny: Tiny, network: nn.Module, example: dict[str, torch.Tensor], lowered: nn.Module
) -> list[str]:
    """In what the lowered graph trains unlike its source, which is trained too; torch has no grouped products in float64.

    Networks that read waves switch gradients of them on by themselves, and run for none that have some.
    """
    original: Any = network.forward

    def forward(*tensors: torch.Tensor) -> Any:
        result = original(**dict(zip(example, tensors, strict=True)))
        return result[tiny.output] if tiny.output else result.get("logits", result)

    network.forward = forward
    batches: Sequence[Sequence[torch.Tensor]] = [
        list(example.values()),
        [torch.cat([x, x[:1]]) for x in example.values()],
    ]
    trial = Trial(batches, of_inputs="input_values" not in example)
    trial = replace(trial, dtype=None, tolerance=_ROUNDING) if tiny.kind == "experts" else trial
    return list(trial.differences(network, lowered))


def _kept(path: Path | None) -> dict[str, Row]:
    """The rows of an earlier run by network."""
    if path is None or not path.exists():
        return {}
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    read: dict[str, Any] = {"int": int, "float": float, "str": str}
    return {row["network"]: Row(**{f.name: read[str(f.type)](row[f.name]) for f in fields(Row)}) for row in rows}


def _keep(row: Row, path: Path) -> None:
    new = not path.exists()
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(asdict(row))
        writer.writerow(astuple(row))


def main() -> int:
    """Run the check; 0 when none trains in another way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="names, with commas between them (default: all)")
    parser.add_argument("--out", type=Path, help="a table of the rows; what it has is not measured again")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    chosen = options.only.split(",") if options.only else list(MODELS)
    if unknown := set(chosen) - set(MODELS):
        parser.error(f"no network '{sorted(unknown)[0]}'; choose from {', '.join(MODELS)}")
    kept, rows = _kept(options.out), []
    for name in chosen:
        row = kept.get(name) or check(name)
        if options.out is not None and name not in kept:
            _keep(row, options.out)
        rows.append(row)
        print(row, flush=True)
    verdicts = Counter(row.verdict for row in rows)
    print(", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common()), f"of {len(rows)} networks")
    taken = [row for row in rows if row.nodes]
    if taken:
        shares = median(row.free for row in taken), median(row.both for row in taken)
        print(f"parameters in free spaces {shares[0]:.2f}, weights free along both axes {shares[1]:.2f} (medians)")
    return 1 if verdicts["unlike"] + verdicts["error"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
