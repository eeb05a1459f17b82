"""Random networks and random morphisms, or random modules: how many were tried, and every one in which something is wrong.

A pair is a random network from the whole op table and one to five random sets of morphisms, each applied to what the last one
left. After each of them the function must be preserved (or be that of the masked network) in float64, and the graph must survive
text, archive, lowering and import; `tests/random_checks.py` says what is checked. A pair depends on its number alone. A pair that
fails is shrunk, by leaving out blocks and morphisms, and printed as a graph with the morphisms.

A module is made of what an import may lose: gradients that are stopped or changed, modes that are held, random numbers, buffers
that move, changes in place, computed and shared weights (`tests.ingredients`). It is refused with a sentence, or its import trains
as it does: outputs, gradients, parameters and buffers of SGD's steps on batches of two sizes, in eval mode before and after, in
float64. Whatever comes of it, the module, its input and all random streams are left as they were (`tests/random_modules.py`).

Exits non-zero when one fails.

    python tools/check_random.py                            10,000 pairs on every core
    python tools/check_random.py --seed 4711 --pairs 1      pair number 4711 again
    python tools/check_random.py --tokens                   10,000 pairs of networks on tokens
    python tools/check_random.py --modules 2000             2,000 modules
    python tools/check_random.py --seed 4711 --modules 1    module number 4711 again
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gngraph.ir import format_graph
from gngraph.ops.table import _TABLE
from tests.random_checks import PairError, Tally, check_pair, pair_of
from tests.random_modules import ModuleError, Seen, make
from tests.random_modules import check as check_module

CHUNK = 20
"""Pairs or modules that a process takes at a time."""

POOL = 1000
"""Pairs or modules after which the processes are replaced: torch.fx keeps the source of every module that it ever generated."""


@dataclass(frozen=True)
class Failure:
    """A pair that fails, in words, with the integers of the smallest pair that still fails."""

    number: int
    what: str
    network: tuple[int, ...]
    steps: tuple[int, ...]
    graph: str
    morphisms: tuple[str, ...]

    def __str__(self) -> str:
        morphisms = "\n".join(self.morphisms) or "(none: the network alone)"
        return (
            f"pair {self.number}: {self.what}\n{self.graph}{morphisms}\n"
            f"again: check_pair({list(self.network)}, {list(self.steps)})\n"
        )


def check(numbers: Iterable[int], tokens: bool = False) -> tuple[Tally, list[Failure]]:
    """Check some pairs, of networks on `tokens` alone or of all."""
    warnings.simplefilter("ignore")
    tally, failures = Tally(), []
    for number in numbers:
        try:
            tally.add(check_pair(*pair_of(number, tokens)))
        except Exception as error:  # one pair must not hide the others
            tally.pairs += 1
            failures.append(failure_of(number, error, tokens))
    return tally, failures


def failure_of(number: int, error: Exception, tokens: bool = False) -> Failure:
    """The smallest pair that still fails, found by leaving out one block or one set of morphisms at a time."""
    network, steps = pair_of(number, tokens)
    smaller = True
    while smaller:
        smaller = False
        for i in range(1, len(network) + len(steps)):
            fewer = (*network[:i], *network[i + 1 :]) if i < len(network) else network
            left = steps if i < len(network) else (*steps[: i - len(network)], *steps[i - len(network) + 1 :])
            found = _fails(fewer, left)
            if found is not None:
                network, steps, error, smaller = fewer, left, found, True
                break
    graph = error.graph if isinstance(error, PairError) else None
    morphisms = error.morphisms if isinstance(error, PairError) else ()
    return Failure(
        number,
        str(error) or type(error).__name__,
        network,
        steps,
        format_graph(graph) if graph is not None else "",
        tuple(str(m.record()) for m in morphisms),
    )


def _fails(network: Sequence[int], steps: Sequence[int]) -> Exception | None:
    try:
        check_pair(network, steps)
    except Exception as error:
        return error
    return None


@dataclass(frozen=True)
class Wrong:
    """A module of which something is wrong, in words.

    Attributes:
        kind: "silent" for an import that trains in another way, "changed" for a module that is not left as it was, "error" for
            what is raised and is no `GnGraphError`, "source" for written source that trains in another way.
    """

    number: int
    kind: str
    what: str
    ingredients: tuple[str, ...]

    def __str__(self) -> str:
        return f"module {self.number} ({', '.join(self.ingredients)}): {self.what}\n"


def check_modules(numbers: Iterable[int]) -> tuple[Seen, list[Wrong]]:
    """Check some modules."""
    warnings.simplefilter("ignore")
    seen, found = Seen(), []
    for number in numbers:
        try:
            seen.add(check_module(number))
        except Exception as error:  # one module must not hide the others
            seen.modules += 1
            kind = error.kind if isinstance(error, ModuleError) else "error"
            what = str(error) if isinstance(error, ModuleError) else traceback.format_exc(limit=-3)
            found.append(Wrong(number, kind, what, make(number).ingredients))
    return seen, found


def summary_of_modules(seen: Seen, found: Sequence[Wrong]) -> str:
    """How many were taken and refused, and why, and what is wrong."""
    refused, kinds = sum(seen.reasons.values()), Counter(wrong.kind for wrong in found)
    shares = {
        name: seen.taken[name] / (seen.taken[name] + seen.refused[name])
        for name in sorted({*seen.taken, *seen.refused})
    }
    return "\n".join(
        [
            f"{seen.modules:,} modules: {seen.all_taken:,} taken ({seen.all_taken / seen.modules:.1%}), {refused:,} refused",
            f"{kinds['silent']} trained in another way, {kinds['changed']} modules changed, {kinds['error']} other exceptions",
            f"{seen.sources} written as source, of which {kinds['source']} trained in another way",
            f"{seen.unrun} of those taken do not run themselves",
            *(f"  {n:>4} x {_shortened(why)} (module {seen.examples[why]})" for why, n in seen.reasons.most_common(40)),
            "taken, by what they are made of:",
            *(f"  {share:>4.0%} {name}" for name, share in sorted(shares.items(), key=lambda entry: entry[1])),
        ]
    )


def summary(tally: Tally, failures: Sequence[Failure]) -> str:
    """Everything that was counted, in a few lines."""
    refused = sum(tally.refused.values())
    lines = [
        f"{tally.pairs:,} pairs: {tally.steps:,} rewrites by {_counts(tally.kinds)}",
        f"largest error {tally.worst:.1e}; {len(failures)} pairs fail; {tally.not_applied} sets of morphisms refused",
        f"{refused} networks refused ({refused / max(1, tally.pairs):.2%})",
        *(f"  {count:>4} x {_shortened(reason)}" for reason, count in _by_kind(tally.refused).most_common(10)),
        f"{tally.free:,} spaces free, {tally.frozen:,} frozen",
        *(f"  {count:>4} x {reason}" for reason, count in tally.reasons.most_common(12)),
        f"ops: {_counts(Counter({op: n for op, n in tally.ops.items() if op in _TABLE}))}",
        f"foreign: {_counts(Counter({op: n for op, n in tally.ops.items() if op not in _TABLE}))}",
        f"of the op table never seen: {', '.join(sorted(set(_TABLE) - set(tally.ops) - {'foreign'})) or 'none'}",
        f"blocks: {_counts(tally.blocks)}",
    ]
    return "\n".join(lines)


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counter.most_common())


def _by_kind(refused: Counter[str]) -> Counter[str]:
    kinds: Counter[str] = Counter()
    for reason, count in refused.items():
        kinds[reason.partition("; ")[0]] += count
    return kinds


def _shortened(text: str) -> str:
    return text if len(text) <= 150 else f"{text[:147]}..."


def _checked(
    check_some: Callable[[Iterable[int]], tuple[Any, list[Any]]], first: int, end: int, jobs: int
) -> Iterator[tuple[Any, list[Any]]]:
    """The results of numbers `first` to `end`, in chunks, as they are finished."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        chunks = [range(start, min(start + CHUNK, end)) for start in range(first, end, CHUNK)]
        for done in as_completed([pool.submit(check_some, chunk) for chunk in chunks]):
            yield done.result()


def main() -> int:
    """Run the check; 0 when none fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10_000, metavar="N", help="how many pairs (default: 10,000)")
    parser.add_argument("--tokens", action="store_true", help="pairs whose networks read tokens, or words, alone")
    parser.add_argument("--modules", type=int, metavar="N", help="how many modules, in place of pairs")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="number of the first (default: 0)")
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="processes (default: all cores)"
    )
    options = parser.parse_args()
    wanted = options.pairs if options.modules is None else options.modules
    if min(wanted, options.jobs) < 1:
        parser.error("--pairs, --modules and --jobs must be at least 1")
    end, start = options.seed + wanted, time.perf_counter()
    tally: Any = Tally() if options.modules is None else Seen()
    of_pairs = partial(check, tokens=options.tokens)
    failures, told, tried = [], start, 0
    for first in range(options.seed, end, POOL):
        last = min(first + POOL, end)
        for part, found in _checked(of_pairs if options.modules is None else check_modules, first, last, options.jobs):
            tally.add(part)
            tried += CHUNK
            failures += found
            for failure in found:
                print(failure, flush=True)
            if time.perf_counter() - told > 30:
                told = time.perf_counter()
                print(f"{tried:,} after {told - start:.0f} s, {len(failures)} fail", file=sys.stderr, flush=True)
    print(summary(tally, failures) if options.modules is None else summary_of_modules(tally, failures))
    print(f"{time.perf_counter() - start:.0f} s; {f'{len(failures)} fail' if failures else 'none fails'}")
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
