"""Whether a report keeps its promises, in a real browser: its size, how fast it opens and draws, and what it asks for.

The report is of a run that never was, as large as they get: 20 rounds of a VGG-19 at full width, which has 5,504 channels at the
start and a tenth more at the end; --run measures one of your own. "CPU" is what all processes of the browser computed, which other
work on the machine hardly changes; the rest of the seconds, and of the frames that are missing to 60, is waiting.

It needs chromium and playwright (`pip install playwright`), and, for what people with disabilities meet, axe-core (`npm install
axe-core`, then --axe node_modules/axe-core/axe.min.js).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import click
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from gngraph.cli.tables import console
from gngraph.report.page import write_report
from gngraph.report.runs import read_run
from tests.report.browser import FRAMES, Visit, computed, missing, opened, running
from tests.report.made_runs import vgg19_run

SECONDS = 3.0


def violations(visit: Visit, axe: Path) -> list[str]:
    """What axe-core finds that is serious or critical."""
    visit.page.evaluate(axe.read_text("utf-8"))
    found: dict[str, Any] = visit.page.evaluate("() => axe.run()")
    grave = [v for v in found["violations"] if v["impact"] in {"serious", "critical"}]
    return [f"{v['id']} ({len(v['nodes'])}): {v['help']}; {v['nodes'][0]['html'][:200]}" for v in grave]


@click.command(help=__doc__)
@click.option("--rounds", default=20, show_default=True, help="Of the run that is made up.")
@click.option("--run", type=click.Path(path_type=Path, exists=True, file_okay=False), help="Folder of a run instead.")
@click.option("--axe", type=click.Path(path_type=Path, exists=True), help="axe.min.js of axe-core.")
@click.option(
    "--screenshots", type=click.Path(path_type=Path, file_okay=False), help="Folder for pictures of the page."
)
def main(rounds: int, run: Path | None, axe: Path | None, screenshots: Path | None) -> None:
    """The table."""
    if reason := missing():
        sys.exit(f"check_report: {reason}")
    out = console()
    table = Table(header_style="bold")
    timed = ("opens in s", "CPU s", "frames a second", "CPU ms a frame")
    for title in ("window", "MB", *timed, "console errors", "requests", "axe: serious"):
        table.add_column(title, justify="right")
    grave: list[str] = []
    with tempfile.TemporaryDirectory(prefix="gngraph-report-") as folder, running() as browser:
        told = read_run(run) if run is not None else vgg19_run(rounds)
        path = write_report([told], Path(folder) / "report.html")
        for width, dark in ((1400, False), (1400, True), (400, False), (400, True)):
            with opened(browser, path, width, dark=dark) as visit:
                found = violations(visit, axe) if axe is not None else None
                if screenshots is not None:
                    screenshots.mkdir(parents=True, exist_ok=True)
                    name = f"report-{width}{'-dark' * dark}.png"
                    visit.page.screenshot(path=screenshots / name, full_page=True)
                before = computed(browser)
                frames, took = visit.page.evaluate(FRAMES, SECONDS)
                each = (computed(browser) - before) / frames
                timed = (f"{visit.seconds:.2f}", f"{visit.cpu:.2f}", f"{frames / took:.0f}", f"{1000 * each:.1f}")
                counts = (str(len(visit.complaints)), str(len(visit.requests)))
                window, size = f"{width}, {'dark' if dark else 'light'}", f"{path.stat().st_size / 1e6:.2f}"
                table.add_row(window, size, *timed, *counts, "not asked" if found is None else str(len(found)))
                grave += [text for text in found or () if text not in grave]
    out.print(table)
    for text in grave:
        out.print(text, markup=False, soft_wrap=True)


if __name__ == "__main__":
    main()
