"""Commands that tell of runs: report."""

from __future__ import annotations

from pathlib import Path

import click

from gngraph.cli.parameters import GroupedCommand
from gngraph.cli.speaking import answer, force_option, require_free


@click.command(cls=GroupedCommand, short_help="Write a page about runs.")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "-o", "--output", type=click.Path(path_type=Path, dir_okay=False), help="File to write; by default RUN/report.html."
)
@force_option
def report(runs: tuple[Path, ...], output: Path | None) -> None:
    """Write what happened in RUNS, folders that gngraph wrote, on one page that needs no network.

    A run may still go on: the page then has the rounds so far. Several runs are compared first, and need --output.
    """
    from gngraph.growth.run_folder import REPORT_FILE
    from gngraph.report.page import write_report
    from gngraph.report.runs import read_run

    if output is None and len(runs) > 1:
        raise click.UsageError("several runs go on one page: name its file with --output")
    path = output if output is not None else runs[0] / REPORT_FILE
    require_free(output)
    if not path.absolute().parent.is_dir():
        raise click.UsageError(f"'{path}' cannot be written: its folder does not exist")
    written = write_report([read_run(folder) for folder in runs], path)
    size = written.stat().st_size
    answer(
        {"output": str(written), "runs": [str(folder) for folder in runs], "bytes": size},
        f"{written}: {len(runs)} run{'s' * (len(runs) != 1)}, {size:,} bytes",
    )
