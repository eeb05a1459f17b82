"""What commands print: rich tables for people and the same content as JSON for machines."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from gngraph.cli.speaking import quiet

if TYPE_CHECKING:
    from gngraph.ir import Graph
    from gngraph.scoring.gauss_newton import Scores

LEAST_WORDS = 20
"""Columns of a table that sentences have at least, however narrow the terminal is."""

MOST_COLUMNS = 10_000
"""Of a table, whose words and numbers are whole on a terminal that is too narrow for them too."""

PIPE_WIDTH = 160
"""Columns where the output is no terminal, so that a pipe sees whole reasons."""


class _Console(Console):
    """A console that lets its command end where a reader, such as head, has seen enough."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def console(*, stderr: bool = False, work: bool = False) -> Console:
    """A console that does not break lines at 80 columns when it writes to a file, and writes no codes where NO_COLOR is set.

    Args:
        stderr: whether it writes to standard error.
        work: whether it tells about the work, of which quiet commands say nothing.
    """
    found = _Console(stderr=stderr, highlight=False, quiet=work and quiet())
    width = found.width if found.is_terminal else PIPE_WIDTH
    if found.is_terminal and not os.environ.get("NO_COLOR"):
        return found
    return _Console(
        stderr=stderr, highlight=False, quiet=found.quiet, width=width, force_terminal=False, color_system=None
    )


def print_whole(out: Console, table: Table) -> None:
    """Print a table, wider than the console where that would cut words or numbers."""
    for column in table.columns:
        if column.no_wrap:
            column.min_width = max(cell_len(str(cell)) for cell in (column.header, *column.cells))
    width = out.width
    wide = out.options.update(max_width=MOST_COLUMNS)
    out.width = max(width, Measurement.get(out, wide, table).minimum)
    out.print(table, crop=False)
    out.width = width


def describe(graph: Graph) -> dict[str, Any]:
    """What `gngraph inspect` tells about a network, as JSON values."""
    from gngraph.analysis.channels import ChannelSpaces
    from gngraph.analysis.cost import CostModel, cost
    from gngraph.analysis.share import share_free_both_ways, share_in_free_spaces

    size, spaces = cost(graph), ChannelSpaces.of(graph)
    model = CostModel(graph, spaces)
    return {
        "name": graph.name,
        "inputs": {name: str(graph.nodes[name].type) for name in graph.inputs},
        "outputs": {name: str(graph.nodes[name].type) for name in graph.outputs},
        "params": size.params,
        "flops": size.flops,
        "nodes": len(graph.nodes),
        "share_free": share_in_free_spaces(graph, spaces),
        "share_free_both_ways": share_free_both_ways(graph, spaces),
        "spaces": [
            {
                "name": space.name,
                "size": space.size,
                "frozen": space.frozen,
                "params_per_channel": model.marginal(space.name, model.widths).params,
                "flops_per_channel": model.marginal(space.name, model.widths).flops,
                "slots": [
                    {"param": s.param, "axis": s.axis, "offset": s.offset, "inner": s.inner, "role": s.role.value}
                    for s in space.slots
                ],
            }
            for space in spaces
        ],
    }


def print_description(told: dict[str, Any]) -> None:
    """The result of `describe` as a heading and a table of the channel spaces."""
    out = console()
    shapes = " -> ".join(", ".join(told[side].values()) for side in ("inputs", "outputs"))
    out.print(f"[bold]{told['name']}[/bold]  {shapes}", markup=True)
    flops = f"{told['flops']:,} FLOPs a sample (a multiply-add counts as 2)"
    out.print(f"{told['params']:,} parameters, {flops}, {told['nodes']} nodes")
    table = Table(header_style="bold")
    table.add_column("channel space", no_wrap=True)
    for title in ("channels", "params each", "FLOPs each"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("slots", overflow="fold", min_width=LEAST_WORDS)
    table.add_column("frozen because", overflow="fold", min_width=LEAST_WORDS)
    for space in told["spaces"]:
        numbers = [f"{space[key]:,}" for key in ("size", "params_per_channel", "flops_per_channel")]
        table.add_row(space["name"], *numbers, _slots(space["slots"]), space["frozen"] or "")
    print_whole(out, table)
    free = [space for space in told["spaces"] if space["frozen"] is None]
    channels = sum(space["size"] for space in free)
    out.print(f"{len(free)} of {len(told['spaces'])} channel spaces are free, with {channels:,} channels in all")
    inner = f"{told['share_free_both_ways']:.0%} of the weights between input and output are free along both axes"
    out.print(f"{told['share_free']:.0%} of the parameters lie in them; {inner}")


def _slots(slots: Sequence[dict[str, Any]]) -> str:
    """Weights that write and read the space; what follows it (biases, BatchNorm) is counted."""
    shown = []
    for role, word in (("produce", "written by"), ("consume", "read by")):
        names = list(dict.fromkeys(s["param"].removesuffix(".weight") for s in slots if s["role"] == role))
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            shown.append(f"{word} {', '.join(names[:3])}{more}")
    followers = sum(s["role"] == "follow" for s in slots)
    return "; ".join([*shown, f"{followers} follow"] if followers else shown)


def candidate_rows(scores: Scores, limit: int | None) -> list[dict[str, Any]]:
    """Candidates as JSON values, those with the greatest predicted gain first."""
    order = sorted(scores.candidates, key=lambda candidate: -candidate.gain)
    return [
        {
            **candidate.morphism.record(),
            "site": candidate.site,
            "gain": candidate.gain,
            "standard_error": candidate.error,
            "params": candidate.cost.params,
            "flops": candidate.cost.flops,
        }
        for candidate in order[:limit]
    ]


def print_candidates(rows: Sequence[dict[str, Any]], total: int, notes: Sequence[str]) -> None:
    """The rows of `candidate_rows` as a table.

    Args:
        rows: those to show.
        total: how many candidates there are.
        notes: what was left out, and why.
    """
    out = console()
    title = f"{len(rows)} of {total:,} candidates; FLOPs are of one sample, a multiply-add counts as 2"
    table = Table(header_style="bold", title=title, title_justify="left")
    for title in ("kind", "channel space", "site"):
        table.add_column(title, no_wrap=True)
    for title in ("channel, block or rank", "predicted gain", "standard error", "params", "FLOPs"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        gain, error = f"{row['gain']:+.5f}", f"{row['standard_error']:.5f}"
        channel = str(next((row[key] for key in ("channel", "block", "between") if key in row), ""))
        cost = (f"{row['params']:+,}", f"{row['flops']:+,}")
        table.add_row(row["kind"], row.get("space", ""), row["site"], channel, gain, error, *cost)
    print_whole(out, table)
    for note in notes:
        out.print(f"note: {note}", markup=False)


def print_runs(runs: Sequence[dict[str, Any]], report: Path) -> None:
    """Runs for several budgets as a table.

    Args:
        runs: as `gngraph.cli.networks.run_record` tells of them.
        report: page that compares them.
    """
    out = console()
    table = Table(header_style="bold")
    table.add_column("folder", no_wrap=True)
    for title in ("parameters", "FLOPs a sample", f"{runs[0]['tested']} loss", f"{runs[0]['tested']} accuracy"):
        table.add_column(title, justify="right", no_wrap=True)
    for run in runs:
        accuracy = "" if run["accuracy"] is None else f"{100 * run['accuracy']:.2f} %"
        table.add_row(run["output"], f"{run['params']:,}", f"{run['flops']:,}", f"{run['loss']:.4f}", accuracy)
    print_whole(out, table)
    out.print(f"{report}: the runs beside each other, to be opened in a browser", markup=False, soft_wrap=True)
