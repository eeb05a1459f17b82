"""The full check of channel spaces and weight surgery on seven torchvision families; prints a table and exits non-zero on a miss.

Every free space of every network is split, given a new channel and pruned once, and compared in float64: with the
network before (bar 1e-12), and for prunes with the network whose readers find nothing in the channel's place, by masked
weights and by masked values (bar 1e-10).

    python tools/check_families.py                  all seven, about five minutes on one core
    python tools/check_families.py densenet121 --sample 10
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.families import FAMILIES, load, round_trip_differences, sampled, seconds_to_analyse, successive_splits
from tests.morphism_errors import Errors, errors_of

PRESERVED, MASKED = 1e-12, 1e-10
SECONDS_TO_ANALYSE, SECONDS_OF_SPLITS = 1.0, 3.0


def check(name: str, sample: int | None) -> bool:
    """Check one family, print its row, and say whether it meets every bar."""
    family = load(name)
    differences = round_trip_differences(family)
    seconds = seconds_to_analyse(family)
    start = time.perf_counter()
    worst = Errors(0.0, 0.0, 0.0, 0.0)
    chosen = sampled(family.spaces.free, sample)
    graph = family.graph.to(torch.float64)
    for space in chosen:
        worst = worst.worst(errors_of(graph, family.spaces, space.name, space.size // 2))
    print(
        f"{name:20} {len(chosen):>4}/{len(family.spaces.free):<4} {worst.split:9.1e} {worst.new:9.1e} "
        f"{worst.masked:9.1e} {worst.values:9.1e} {1e3 * seconds:9.0f} {time.perf_counter() - start:7.0f}  "
        f"{', '.join(differences) or 'bit-identical'}",
        flush=True,
    )
    good = max(worst.split, worst.new) <= PRESERVED and max(worst.masked, worst.values) <= MASKED
    good = good and not differences and seconds <= SECONDS_TO_ANALYSE
    if name == "densenet121":
        taken, error = successive_splits(family)
        print(f"{'':20} {len(family.spaces.free)} successive splits: {taken:.2f} s, error {error:.1e}", flush=True)
        good = good and taken <= SECONDS_OF_SPLITS and error <= PRESERVED
    return good


def main() -> int:
    """Run the check; 0 when every bar is met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", help=f"which to check, of {', '.join(FAMILIES)} (default: all)")
    parser.add_argument("--sample", type=int, metavar="N", help="check N spaces a family instead of all")
    options = parser.parse_args()
    if unknown := set(options.families) - set(FAMILIES):
        parser.error(f"no family '{sorted(unknown)[0]}'; choose from {', '.join(FAMILIES)}")
    torch.set_num_threads(1)
    print(
        f"{'':20} {'spaces':>9} {'split':>9} {'new':>9} {'masked':>9} {'values':>9} {'trace ms':>9} {'check s':>7}  round trip"
    )
    results = [check(name, options.sample) for name in options.families or FAMILIES]
    print("every bar is met" if all(results) else "a bar is missed")
    return 0 if all(results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
