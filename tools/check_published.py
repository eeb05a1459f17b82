"""Networks of timm or torchvision: taken as they are, in both modes, and trained as they train, or refused with a reason.

Of timm the smallest network of every family, which is the letters that names begin with; of torchvision every model. They are
built without weights, for small images where they allow them, imported, and trained beside their imports: outputs in eval mode,
then outputs, gradients of parameters and inputs, parameters and buffers of steps of SGD on batches of two sizes, then eval mode
again, in float64 (above 100 M parameters in float32) and under one seed. Told are the parts of the parameters in free spaces, and
of the inner weights that are free along both axes. Exits non-zero when one trains in another way, or raises what is no
`GnGraphError`.

    python tools/check_published.py timm                   every family, a line each, and why what is refused is refused
    python tools/check_published.py timm resnet nfnet      some families
    python tools/check_published.py torchvision            every model, of few parameters first
    python tools/check_published.py timm --up-to 1000      of any size; one of 100 M parameters takes 6 GB of memory

gngraph does not need timm: install it first.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.share import share_free_both_ways, share_in_free_spaces
from gngraph.errors import GnGraphError
from gngraph.importing.from_torch import from_torch
from tests.coverage_models import Model, models_of
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
    """What came of a family of timm's, or of a model of torchvision's.

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


@dataclass(frozen=True)
class Entry:
    """A network to be checked.

    Attributes:
        label: what its line begins with.
        named: gives its name, and how many parameters it has.
        build: gives it, and an example for it; what it raises is not gngraph's.
    """

    label: str
    named: Callable[[], tuple[str, int]]
    build: Callable[[str], tuple[nn.Module, torch.Tensor]]


def of_timm() -> dict[str, Entry]:
    """The smallest network of every family."""
    return {family: Entry(family, partial(smallest, names), built) for family, names in sorted(families().items())}


def of_torchvision() -> dict[str, Entry]:
    """Every model, of few parameters first."""
    models = sorted(models_of("all"), key=lambda model: (model.published_parameters, model.name))
    return {model.name: _entry_of(model) for model in models}


def _entry_of(model: Model) -> Entry:
    return Entry(model.family, lambda: (model.name, model.published_parameters), lambda _: model.build())


LIBRARIES = {"timm": of_timm, "torchvision": of_torchvision}


def check(entry: Entry, largest: float) -> Result:
    """Import a network of at most `largest` parameters, and train it beside its import."""
    start, name = time.process_time(), entry.label
    try:
        name, parameters = entry.named()
        if parameters > largest:
            return Result(entry.label, name, "large", f"{parameters / 1e6:.0f} M parameters", 0.0)
        network, example = entry.build(name)
    except Exception as error:  # whatever the library raises
        return Result(entry.label, name, "unbuilt", f"{type(error).__name__}: {error}".splitlines()[0], 0.0)
    try:
        graph = from_torch(network, example)
        unlike = training_differences(network, example, graph)
        spaces = ChannelSpaces.of(graph)
        shares = f"free {share_in_free_spaces(graph, spaces):.2f}, both ways {share_free_both_ways(graph, spaces):.2f}"
        told = f"{len(graph.nodes)} nodes, {shares}"
        verdict, told = ("unlike", ", ".join(unlike[:3])) if unlike else ("alike", told)
    except GnGraphError as error:
        verdict, told = "refused", str(error)
    except Exception as error:  # which no public function should raise, or of the network itself
        verdict, told = "error", f"{type(error).__name__}: {error}".splitlines()[0]
    return Result(entry.label, name, verdict, told, time.process_time() - start)


def _causes(results: list[Result]) -> Iterator[str]:
    reasons = Counter(re.sub(r"'[^']*'", "'...'", r.told) for r in results if r.verdict == "refused")
    yield from (f"  {count:>3} x {reason[:200]}" for reason, count in reasons.most_common())


def main() -> int:
    """Run the check; 0 when none trains in another way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=LIBRARIES, help="whose networks")
    parser.add_argument("names", nargs="*", help="families of timm, or models of torchvision (default: all)")
    parser.add_argument("--up-to", type=float, default=100, metavar="M", help="millions of parameters (default: 100)")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    known = LIBRARIES[options.library]()
    if unknown := set(options.names) - set(known):
        parser.error(f"there is no '{sorted(unknown)[0]}'; choose from {', '.join(known)}")
    results = []
    for name in options.names or known:
        result = check(known[name], options.up_to * 1e6)
        results.append(result)
        print(
            f"{result.family:16} {result.network:40} {result.verdict:8} {result.seconds:6.1f} s  {result.told[:160]}",
            flush=True,
        )
    verdicts = Counter(result.verdict for result in results)
    print(", ".join(f"{count} {verdict}" for verdict, count in verdicts.most_common()), f"of {len(results)}")
    print("\n".join(_causes(results)))
    return 1 if verdicts["unlike"] + verdicts["error"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
