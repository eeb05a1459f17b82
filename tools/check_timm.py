"""Every family of timm: its smallest network is taken as it is, in both modes, or refused with a reason.

A family is the letters that names begin with. Its smallest network is built without weights, for small images where it allows
them, imported as it is, and trained beside its import: outputs in eval mode, then outputs, gradients of parameters and inputs,
parameters and buffers of steps of SGD on batches of two sizes, then eval mode again, in float64 (above 100 M parameters in float32)
and under one seed. Exits non-zero when one trains in another way, or raises what is no `GnGraphError`.

    python tools/check_timm.py                   every family, a line each, and why what is refused is refused
    python tools/check_timm.py resnet nfnet      some families
    python tools/check_timm.py --up-to 1000      of any size; one of 100 M parameters takes 6 GB of memory

gngraph does not need timm: install it first.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gngraph.errors import GnGraphError
from gngraph.importing.from_torch import from_torch
from tests.coverage_row import training_differences

SIZES = (64, 128, 224, 256)
"""Heights and widths of images that are tried."""

_LARGE = re.compile(
    r"large|huge|giant|base|gigantic|so400m|_x+l|_[bhlg](_|\d|$)|[12]\d\d$|384|448|512|1024|b[4-8]$|m4[89]"
)
"""Names of networks that are not the smallest of their family."""
_TRIED = 12
"""Networks of a family whose parameters are counted."""


@dataclass(frozen=True)
class Result:
    """What came of a family.

    Attributes:
        verdict: "alike", "unlike", "refused", "error", "unbuilt" for what timm itself does not build or run, or "large".
    """

    family: str
    network: str
    verdict: str
    told: str
    seconds: float


def _timm() -> Any:
    """The package, which is imported when it is needed."""
    return import_module("timm")


def families() -> dict[str, list[str]]:
    """The names of timm's networks by family."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in _timm().list_models():
        letters = re.match(r"[a-z]+", name)
        assert letters is not None
        found[letters.group()].append(name)
    return dict(found)


def smallest(names: list[str]) -> tuple[str, int]:
    """The network with the fewest parameters, of those that are not called large, and how many it has."""
    counts = {}
    for name in ([name for name in names if not _LARGE.search(name)] or names)[:_TRIED]:
        with torch.device("meta"):
            counts[name] = sum(p.numel() for p in _timm().create_model(name).parameters())
    return min(counts.items(), key=lambda item: item[1])


def built(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A network and images of the smallest size that it runs on."""
    errors: list[Exception] = []
    for size in SIZES:
        for options in ({"img_size": size}, {}):
            try:
                torch.manual_seed(0)
                network = _timm().create_model(name, num_classes=10, **options)
                example = torch.randn(2, 3, size, size)
                with torch.no_grad():
                    network.eval()(example)
            except Exception as error:  # whatever timm raises for images of another size
                errors.append(error)
                continue
            return network, example
    raise errors[-1]


def check(family: str, names: list[str], largest: float) -> Result:
    """Import the smallest network of a family, of at most `largest` parameters, and train it beside its import."""
    start, name = time.process_time(), names[0]
    try:
        name, parameters = smallest(names)
        if parameters > largest:
            return Result(family, name, "large", f"{parameters / 1e6:.0f} M parameters", 0.0)
        network, example = built(name)
    except Exception as error:  # whatever timm raises
        return Result(family, name, "unbuilt", f"{type(error).__name__}: {error}".splitlines()[0], 0.0)
    try:
        graph = from_torch(network, example)
        unlike = training_differences(network, example, graph)
        verdict, told = ("unlike", ", ".join(unlike[:3])) if unlike else ("alike", f"{len(graph.nodes)} nodes")
    except GnGraphError as error:
        verdict, told = "refused", str(error)
    except Exception as error:  # which no public function should raise, or of the network itself
        verdict, told = "error", f"{type(error).__name__}: {error}".splitlines()[0]
    return Result(family, name, verdict, told, time.process_time() - start)


def _causes(results: list[Result]) -> Iterator[str]:
    reasons = Counter(re.sub(r"'[^']*'", "'...'", r.told) for r in results if r.verdict == "refused")
    yield from (f"  {count:>3} x {reason[:200]}" for reason, count in reasons.most_common())


def main() -> int:
    """Run the check; 0 when none trains in another way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help="which (default: all)")
    parser.add_argument("--up-to", type=float, default=100, metavar="M", help="millions of parameters (default: 100)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    known = families()
    if unknown := set(options.families) - set(known):
        parser.error(f"no family '{sorted(unknown)[0]}'; choose from {', '.join(sorted(known))}")
    results = []
    for family in options.families or sorted(known):
        result = check(family, known[family], options.up_to * 1e6)
        results.append(result)
        print(
            f"{family:16} {result.network:40} {result.verdict:8} {result.seconds:6.1f} s  {result.told[:160]}",
            flush=True,
        )
    verdicts = Counter(result.verdict for result in results)
    print(", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common()), f"of {len(results)} families")
    print("\n".join(_causes(results)))
    return 1 if verdicts["unlike"] + verdicts["error"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
