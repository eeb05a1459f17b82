"""Training FLOPs of a GPT on bytes to one loss: grown to its full size, or that size from the start, cloned, stacked.

Every method makes as many steps on the same batches at the same rates. "full" has the full size from the start; "shorter" makes
three quarters of the steps, along the whole schedule of rates. The others begin smaller. In "grown" the stream is whole, heads
and hidden channels are a quarter (one head at least), and `gngraph.Grower` widens these in proportion, within the full size's
parameters and FLOPs; "grown-worth" begins so too, and becomes as wide as widths are measured to be worth; "grown-halves" has
half of every width, and is widened in proportion. "grown-deeper" begins with half of the blocks, of half of the heads and
hidden channels: `Grower.repeat` stacks the blocks, and then widths grow in proportion. "cloned" has half of every width, and
copies all channels (Chen et al., *Net2Net*, 2016; exact, outputs are shared out unevenly so that copies part); "stacked" has
half of the blocks, and copies them on top of themselves (Gong et al., *Efficient training of BERT by progressively stacking*,
2019). Behind these names "-twice" stands for two rewrites, of "cloned", "stacked" and the blocks of "grown-deeper" from a
quarter. All carry what the optimizer remembers. What counts are the FLOPs of training, search and rewrites at which the loss on
withheld files is as low as "full" ends. The text is the source of Python's standard library, or --data. A finished run is a
line of OUT/language.jsonl and is not made again.

    tools/bench_language.py --out docs/results
    tools/bench_language.py --width 1.5 --steps 4000 --seeds 3 --data corpus.txt --out language/
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import click
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.language_runs import METHODS, Run, Setting, Text, rewrites_of, sources, text_of

console = Console(width=150)

STORE = "language.jsonl"

BAR = 0.75
"""Share of the full size's FLOPs in which its loss is to be reached."""


class Bench:
    """Lines that are there, and those that are still to be made.

    Args:
        setting: of the table.
        text: the bytes.
        times: shares of the steps before the rewrites of methods, by how many they make.
        out: folder of the lines.
    """

    def __init__(self, setting: Setting, text: Text, times: Mapping[int, Sequence[float]], out: Path) -> None:
        self.setting, self.text, self.times, self.path = setting, text, times, out / STORE
        out.mkdir(parents=True, exist_ok=True)
        self.of = json.loads(json.dumps(asdict(setting)))
        kept = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        self.lines = [line for line in map(json.loads, kept) if line["setting"] == self.of]

    def line(self, method: str, seed: int) -> dict[str, Any]:
        """The line of a run, made if there is none."""
        at = list(self.times[rewrites_of(method)])
        known = [line for line in self.lines if (line["method"], line["seed"], line["at"]) == (method, seed, at)]
        if known:
            return dict(known[0])
        found = Run(self.setting, self.text, seed, method, at).record()
        made = {
            "method": method,
            "seed": seed,
            "at": at,
            "setting": self.of,
            "python": platform.python_version(),
            **found,
        }
        self.lines.append(made)
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(made) + "\n")
        console.print(f"{method}, seed {seed}: {made['loss']:.4f} in {made['training_flops']:.3e} FLOPs", style="dim")
        return made


def spent(curve: Sequence[Sequence[float]], loss: float) -> float:
    """FLOPs at which a curve of (FLOPs, loss) is first as low as a loss, on straight lines between its points; inf: never.

    >>> spent([(0, 3.0), (10, 2.0), (20, 1.0)], 1.5), spent([(0, 3.0), (10, 2.0)], 1.5)
    (15.0, inf)
    """
    before = curve[0]
    for point in curve:
        if point[1] <= loss:
            share = (before[1] - loss) / (before[1] - point[1]) if before[1] > point[1] else 1.0
            return float(before[0] + share * (point[0] - before[0]))
        before = point
    return math.inf


def table(lines: Sequence[Mapping[str, Any]]) -> Table:
    """A row a method, beside "full" of the same seed."""
    made = Table(
        "method", "params", "FLOPs of the full size's", "search", "loss, median", "above full, each seed",
        f"FLOPs to full's loss (bar {BAR:g})", "each seed",
        title="nats a byte of withheld text",
    )  # fmt: skip
    full = {line["seed"]: line for line in lines if line["method"] == "full"}
    for method, at in dict.fromkeys((line["method"], tuple(line["at"])) for line in lines):
        own = [line for line in lines if (line["method"], tuple(line["at"])) == (method, at) and line["seed"] in full]
        if not own:
            continue
        pairs = [(line, full[line["seed"]]) for line in own]
        shares = [line["training_flops"] / base["training_flops"] for line, base in pairs]
        reached = [spent(line["curve"], base["loss"]) / base["training_flops"] for line, base in pairs]
        made.add_row(
            " ".join([method, *map(str, at)]),
            f"{median(line['params'] for line in own):,.0f}",
            f"{median(shares):.3f}",
            f"{median(line['search_flops'] / line['training_flops'] for line in own):.1%}",
            f"{median(line['loss'] for line in own):.4f}",
            " ".join(f"{line['loss'] - base['loss']:+.4f}" for line, base in pairs),
            _told(median(reached)),
            " ".join(map(_told, reached)),
        )
    return made


def _told(share: float) -> str:
    return f"{share:.3f}" if math.isfinite(share) else "never"


def _numbers(ctx: click.Context, param: click.Parameter, value: str) -> tuple[float, ...]:
    return tuple(float(part) for part in value.split(","))


@click.command(help=__doc__.replace("\n\n", "\n\n\b\n") if __doc__ else None)
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="file or folder of text; default: see above")
@click.option("--megabytes", default=8.0, show_default=True, help="of the text that are used")
@click.option("--methods", default=",".join(METHODS), show_default=True, help="with commas between them")
@click.option("--width", default=0.5, show_default=True, help="multiplier of the seed gpt at its full size")
@click.option("--length", default=64, show_default=True, help="tokens of a window")
@click.option("--steps", default=600, show_default=True, help="of training")
@click.option("--batch", default=32, show_default=True, help="windows a step")
@click.option("--lr", default=6e-3, show_default=True, help="highest rate")
@click.option("--once", default=0.5, show_default=True, help="share of the steps before the one rewrite")
@click.option("--twice", callback=_numbers, default="0.25,0.5", show_default=True, help="the same for two")
@click.option("--samples", default=256, show_default=True, help="windows that growth learns on, and is judged by")
@click.option("--measured", default=512, show_default=True, help="withheld windows that the loss is measured on")
@click.option("--seeds", default=1, show_default=True)
@click.option("--threads", default=1, show_default=True, help="of the CPU")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="folder for the lines")
def main(
    data: Path | None, megabytes: float, methods: str, once: float, twice: tuple[float, ...], seeds: int, threads: int, out: Path,
    **given: Any,
) -> None:  # fmt: skip
    """Make what is missing, and print the table."""
    torch.set_num_threads(threads)
    wanted = methods.split(",")
    if unknown := set(wanted) - set(METHODS):
        raise click.UsageError(f"there is no method {', '.join(sorted(unknown))}: choose among {', '.join(METHODS)}")
    files = sources(data, megabytes)
    setting = Setting(**given, text=hashlib.sha256(b"\0".join(files)).hexdigest()[:16])
    times = {0: (), 1: (once,), 2: twice}
    bench = Bench(setting, text_of(files, setting.length, setting.samples, setting.measured), times, out)
    for seed in range(seeds):
        for method in wanted:
            bench.line(method, seed)
    console.print(table([line for line in bench.lines if line["seed"] < seeds]))


if __name__ == "__main__":
    main()
