"""What training does right after the search for a depth took layers, before anything else is decided.

Networks are grown with and without it, for as many epochs in all: what is not trained then is trained at the end.

    tools/bench_recovery.py --data digits --network vgg16 --network vgg19 --width 0.06 --seeds 3
"""

from __future__ import annotations

import sys
from pathlib import Path
from unittest.mock import patch

import click
import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gngraph.analysis.cost import cost
from gngraph.api import grow
from gngraph.growth import rounds
from gngraph.growth.history import Record
from gngraph.options import GrowOptions
from tools.experiment import Experiment, experiment_options
from tools.measuring import untrained

console = Console(width=150)
SHARES = (0.0, rounds.RECOVERY)
"""Of the epochs before the search, what may be trained after it."""


def grown(experiment: Experiment, larger: float, final_epochs: int) -> list[Record]:
    """A row for each network, seed and share: layers that went, losses on the judge split, and how the run ended."""
    rows: list[Record] = []
    for network, problem in experiment.problems():
        seed = untrained(network, experiment.width, problem)
        options = GrowOptions(
            rounds=1, epochs=experiment.epochs, final_epochs=final_epochs, depth="search",
            max_params=round(larger * cost(seed).params),
        )  # fmt: skip
        for share in SHARES:
            with patch.object(rounds, "RECOVERY", share):
                first, last = grow(seed, problem, options).history
            found = first["depth"]
            losses = found.get("recovery", {"losses": []})["losses"]
            rows.append({
                "network": network, "seed": problem.seed, "share": share, "removed": len(found["removed"]), "losses": losses,
                "doubt": any("guessed" in note for note in first["notes"]), "accuracy": last["accuracy"], "loss": last["loss"],
            })  # fmt: skip
            console.print(rows[-1])
    return rows


@click.command()
@experiment_options(networks=("vgg16", "vgg19"), width=0.06, epochs=5, seeds=3, samples="400,400,400", device="cpu")
@click.option("--larger", default=6.0, show_default=True, help="budget as a multiple of the network's parameters")
@click.option("--final-epochs", default=20, show_default=True, help="of the training at the end")
def main(experiment: Experiment, larger: float, final_epochs: int) -> None:
    """Print a row for each run, and the means of those in which layers went."""
    rows = grown(experiment, larger, final_epochs)
    table = Table("trained after layers went", "runs", "judge loss when the round is decided", "accuracy %", "loss")
    for share in SHARES:
        own = [row for row in rows if row["share"] == share and row["removed"]]
        if own:
            decided, accuracy, loss = (
                float(torch.tensor(values).mean())
                for values in ([r["losses"][-1] for r in own], [r["accuracy"] for r in own], [r["loss"] for r in own])
            )
            name = "yes" if share else "no"
            table.add_row(name, str(len(own)), f"{decided:.3f}", f"{100 * accuracy:.2f}", f"{loss:.4f}")
    console.print(table)


if __name__ == "__main__":
    main()
