"""`write_report`: runs on one page that needs nothing beside itself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gngraph.analysis.diff import diff
from gngraph.growth.comparison import UNIFORM
from gngraph.growth.history import Record
from gngraph.growth.result import GrowthResult
from gngraph.growth.run_folder import REPORT_FILE
from gngraph.report.architecture import packed
from gngraph.report.figures import draw, pictures
from gngraph.report.pareto import pareto
from gngraph.report.runs import ReportedRun
from gngraph.report.template import chart_of, rendered
from gngraph.report.words import count, describe_given, percent, round_told
from gngraph.writing import replacing


def write_report(runs: Sequence[ReportedRun], path: Path) -> Path:
    """Write one file about runs, in place of one that is there; O(1 s) a run.

    Args:
        runs: at least one; several are compared first.
        path: of the file.
    """
    with replacing(path) as (written,):
        written.write_text(page(runs), encoding="utf-8")
    return path


def tell(result: GrowthResult, folder: Path) -> tuple[Path, list[Path]]:
    """What people look at of a run that ended: its report, and the same pictures as files.

    Args:
        result: of the run.
        folder: of the run.

    Returns:
        path of the report, and those of the pictures.
    """
    run = ReportedRun.of(result, folder)
    return write_report([run], folder / REPORT_FILE), draw(run, folder)


def page(runs: Sequence[ReportedRun]) -> str:
    """The same as text, HTML.

    Args:
        runs: at least one.
    """
    return rendered(
        "report.html",
        title=runs[0].name if len(runs) == 1 else f"{len(runs)} runs",
        runs=[_run(run, number) for number, run in enumerate(runs, 1)],
        compared=_compared(runs) if len(runs) > 1 else None,
    )


def _compared(runs: Sequence[ReportedRun]) -> dict[str, Any]:
    rows = [
        {
            "id": f"run-{number}",
            "name": run.name,
            "params": f"{run.history[-1]['params']:,}",
            "flops": count(run.history[-1]["flops"]),
            "quality": _quality(run.history[-1], bare=True),
        }
        for number, run in enumerate(runs, 1)
    ]
    return {"measure": _measure(runs[0].history[-1]), "rows": rows, "chart": chart_of(pareto(runs))}


def _run(run: ReportedRun, number: int) -> dict[str, Any]:
    first, last = run.history[0], run.history[-1]
    return {
        "id": f"run-{number}",
        "title": run.name,
        "measure": _measure(last),
        "lead": _lead(run, first["trained"], last),
        "cards": _cards(run, first["trained"], last),
        "remarks": [_sentence(describe_given(first["given"]))] if "given" in first else [],
        "comparison": _comparison(run, last),
        "architecture": packed(run.channels, run.history) if run.channels else None,
        "charts": [chart_of(picture) for picture in pictures(run)],
        "rounds": [_round(record) for record in run.history],
        "frozen": _frozen(run),
        "difference": _difference(run),
    }


def _comparison(run: ReportedRun, last: Record) -> list[dict[str, Any]]:
    """What was trained beside it, and the run itself; nothing where nothing was."""
    if not run.comparison:
        return []
    own = {**last, "name": "grown network", "epochs": sum(len(record["epochs"]) for record in run.history)}
    return [
        {
            "name": record["name"],
            "params": f"{record['params']:,}",
            "flops": count(record["flops"]),
            "epochs": record["epochs"],
            "quality": _quality(record, bare=True),
            "grown": record is own,
        }
        for record in (*run.comparison, own)
    ]


def _lead(run: ReportedRun, start: Record, last: Record) -> str:
    verb = "Grown" if last["params"] >= start["params"] else "Shrunk"
    rounds = len(run.rounds)
    bounds = [f"{limit:,} {unit}" for unit, limit in _limits(last) if limit is not None]
    asked = f", within the {' and '.join(bounds)} that were asked for" if bounds else ""
    going = "" if last["kind"] == "final" else " The run has not ended: this is what it has done so far."
    return (
        f"{verb} from {start['params']:,} to {last['params']:,} parameters in {rounds} round{'s' * (rounds != 1)}{asked}; "
        f"{_quality(last)} on data that neither training nor growth has seen.{_beside(run)}{going}"
    )


def _beside(run: ReportedRun) -> str:
    """A sentence on the plain design, where one was trained."""
    found = [record for record in run.comparison if record["name"] == UNIFORM]
    return f" The {UNIFORM}, trained for as long, has {_quality(found[0])}." if found else ""


def _cards(run: ReportedRun, start: Record, last: Record) -> list[dict[str, str]]:
    """What was given, asked and reached, and what it took."""
    training = _seconds(run.history, "train")
    whole = sum(sum(record["seconds"].values()) for record in run.history)
    epochs = sum(len(record["epochs"]) for record in run.history)
    before = len(run.history[0]["epochs"])
    plural = "s" * (before != 1)
    cards = [
        (_measure(last), _quality(last, bare=True),
         f"{_quality(start, bare=True)} before the first rewrite, after {before} epoch{plural}"),
        ("parameters", f"{last['params']:,}", _against(last, start, "params")),
        ("FLOPs a sample", count(last["flops"]), _against(last, start, "flops")),
        *_timing_card(run, last),
        *((record["name"], _quality(record, bare=True), f"{record['params']:,} parameters, {record['epochs']} epochs")
          for record in run.comparison),
        ("training", _time(training), f"{epochs} epochs"),
        ("search", _time(whole - training), f"{100 * (whole - training) / max(whole, 1e-9):.0f} % of the run"),
    ]  # fmt: skip
    return [{"label": label, "value": value, "more": more} for label, value, more in cards]


def _timing_card(run: ReportedRun, last: Record) -> list[tuple[str, str, str]]:
    """Milliseconds, where the run bounded them."""
    timed = [record["latency"] for record in run.history if "latency" in record]
    if not timed:
        return []
    asked, predicted = last["budget"]["milliseconds"], timed[-1]["predicted"]
    more = f"± {timed[-1]['noise']:.2g} of {asked:.3g} asked, {predicted:.3g} predicted; {timed[-1]['setting']}"
    return [("milliseconds", f"{last['milliseconds']:.3g}", more)]


def _against(last: Record, start: Record, side: str) -> str:
    limit = last["budget"][side]
    asked = f"{100 * last[side] / limit:.1f} % of {count(limit)}; " if limit else ""
    return f"{asked}{count(start[side])} at the start"


def _round(record: Record) -> dict[str, Any]:
    grew = record["kind"] == "round"
    happened: list[str] = []
    if record["perturbed"]:
        happened.append(f"{record['perturbed']:g} of new initial weights mixed in before training")
    if grew:
        if record["refused"]:
            happened.append(f"refused: {record['refused']}; exact new channels instead")
        happened += round_told(record)
        happened += record["notes"]
    return {
        "name": str(record["round"]) if grew else "final training",
        "params": f"{record['params']:,}",
        "flops": count(record["flops"]),
        "predicted": f"{record['predicted']:+.3g} ± {record['predicted_error']:.2g}" if grew else "",
        "actual": f"{record['actual']:+.3g}" if grew else "",
        "quality": _quality(record, bare=True),
        "seconds": f"{sum(record['seconds'].values()):.1f}",
        "happened": happened,
    }


def _frozen(run: ReportedRun) -> list[dict[str, Any]]:
    spaces = run.channels[-1]["spaces"] if run.channels else {}
    return [
        {"name": name, "size": entry["size"], "reason": entry["frozen"]}
        for name, entry in spaces.items()
        if entry["frozen"] is not None
    ]


def _difference(run: ReportedRun) -> str | None:
    if run.seed is None or run.graph is None:
        return None
    return diff(run.seed, run.graph, lineage=run.lineage).render()


def _limits(record: Record) -> list[tuple[str, float | None]]:
    sides = (("parameters", "params"), ("FLOPs", "flops"), ("ms", "milliseconds"))
    return [(unit, record["budget"].get(side)) for unit, side in sides]


def _measure(record: Record) -> str:
    return "held-out loss" if record["accuracy"] is None else "held-out accuracy"


def _quality(record: Record, *, bare: bool = False) -> str:
    if record["accuracy"] is None:
        return f"{record['loss']:.4f}" if bare else f"loss {record['loss']:.4f}"
    return percent("" if bare else "accuracy ", record["accuracy"]) + percent(", mean IoU ", record.get("iou"))


def _seconds(history: Sequence[Record], stage: str) -> float:
    return float(sum(record["seconds"].get(stage, 0.0) for record in history))


def _time(seconds: float) -> str:
    """Seconds for people.

    >>> _time(9.31), _time(75), _time(7322)
    ('9.3 s', '1 min 15 s', '2 h 2 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = int(seconds) // 60
    return f"{minutes} min {int(seconds) % 60} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + "."
