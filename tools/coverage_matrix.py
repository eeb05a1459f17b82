"""The coverage matrix: every torchvision model through import, analysis, surgery and lowering, one row a model.

A row tells parameters, FLOPs of a sample (a multiply-add counts as 2), on which gngraph and torch's own counter must agree,
nodes, seconds and memory of trace and analysis, whether the lowered graph is bit-identical in eval and train mode, whether it
trains alike, how much of the network is free to grow, and the worst error of a split, a new channel and a prune over every free
space, of merges and inserted layers at up to eight places each, and of up to four removed layers, in float64 (local_errors.py,
merge_errors.py and removal_errors.py in tests/ say what is compared with what). Exits non-zero when a row does not pass.

What trains alike makes the same of two steps of SGD on batches of two sizes: outputs, gradients of parameters and inputs,
parameters and buffers, and outputs in eval mode before and after; in float64, above 100 M parameters in float32
(training_steps.py in tests/, which knows nothing of the importer's own proof).

Memory is the growth of the resident set at its peak, over the model's own bytes ("mem."), and over the model's bytes and what
one forward pass of the module itself takes ("+run"): import works on a copy, and runs module and graph to prove that they
agree, in training too. One of the two must be at most 2.6. Of a narrow network the Python objects of the trace weigh more than
the parameters: where neither ratio is met, up to 24 KiB a node are taken off, and the row says so. A fixed cost, what Python
and torch load at first use, is not counted: a tiny network is imported before, and the module has run.

Each model has a process of its own, so that its memory can be measured. Needs Linux.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import multiprocessing
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkProcess
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.coverage_models import FAMILIES, Model, models_of
from tests.coverage_row import BAR, LARGE, MEMORY, SECONDS, Row, row_of

_COLUMNS = [f.name for f in dataclasses.fields(Row) if f.name not in ("reasons", "failures")] + ["frozen_reasons"]


def rows_of(models: Sequence[Model], sample: int, jobs: int) -> Iterator[Row]:
    """The rows of `models` as they are finished, `jobs` at a time, large models first and never two of them at once."""
    waiting = sorted(models, key=lambda model: -model.published_parameters)
    running: dict[Connection, tuple[Model, ForkProcess]] = {}
    while waiting or running:
        busy = any(_is_large(model) for model, _ in running.values())
        ready = [model for model in waiting if not (busy and _is_large(model))]
        if len(running) < jobs and ready:
            waiting.remove(ready[0])
            receiver, process = _start(ready[0], sample)
            running[receiver] = ready[0], process
            continue
        for connection in wait(list(running)):
            assert isinstance(connection, Connection)
            model, process = running.pop(connection)
            yield _finished(connection, model, process)


def _is_large(model: Model) -> bool:
    return model.published_parameters > LARGE


def _start(model: Model, sample: int) -> tuple[Connection, ForkProcess]:
    receiver, sender = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_work, args=(sender, model, sample), daemon=True)
    process.start()
    sender.close()  # so that the end of the process ends the pipe
    return receiver, process


def _work(sender: Connection, model: Model, sample: int) -> None:
    sender.send(row_of(model, sample))


def _finished(receiver: Connection, model: Model, process: ForkProcess) -> Row:
    try:
        row = receiver.recv()
        assert isinstance(row, Row)
    except EOFError:
        process.join()
        row = Row(model.family, model.name, "", verdict=f"the process ended with status {process.exitcode}")
    process.join()
    receiver.close()
    return row


def _text(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.3g}"
    return "" if value is None else str(value)


def _error(error: float | None) -> str:
    return f"{'' if error is None else f'{error:.1e}':>9}"


def _line(row: Row) -> str:
    spaces = f"{_text(row.checked)}/{_text(row.free)}"
    share, both = ("" if part is None else f"{100 * part:.1f}" for part in (row.share, row.both))
    millions, flops = ("" if count is None else f"{count / 1e6:.2f}" for count in (row.params, row.flops))
    kinds = "".join(map(_error, (row.split, row.new, row.prune, row.all_split, row.all_new, row.all_prune)))
    merges = f"{_text(row.merged):>5}{_error(row.merge)}{_error(row.all_merge)}"
    places = f"{_text(row.inserted)}/{_text(row.cut_points)}"
    layers = f"{_text(row.removed)}/{_text(row.removable)}"
    trip = "" if not row.round_trip else "identical" if row.round_trip == "bit-identical" else "DIFFERS"
    training = "" if not row.training else "alike" if row.training == "alike" else "DIFFERS"
    memory = f"{_text(row.memory):>6}{_text(row.memory_run):>6}"
    return (
        f"{row.model:29}{millions:>7}{flops:>8}{_text(row.nodes):>6}{_text(row.trace_s):>7}{memory} {trip:>9} {training:>7}"
        f"{spaces:>9}{_text(row.frozen):>6}{share:>6}{both:>6}{kinds}"
        f"{merges}{places:>8}{_error(row.insert)}{layers:>7}{_error(row.remove)}{row.seconds:>6.0f}  {row.verdict}"
    )


_HEADER = (
    f"{'model':29}{'M par.':>7}{'MFLOPs':>8}{'nodes':>6}{'s':>7}{'mem.':>6}{'+run':>6} {'r. trip':>9} {'trains':>7}"
    f"{'spaces':>9}{'froz.':>6}"
    f"{'% fr.':>6}{'both':>6}{'split':>9}{'new':>9}{'prune':>9}{'all spl.':>9}{'all new':>9}{'all pr.':>9}"
    f"{'mrg.':>5}{'merge':>9}{'all mrg.':>9}{'places':>8}{'insert':>9}{'layers':>7}{'remove':>9}{'check':>6}  verdict"
)


def _report(row: Row, reasons: bool) -> None:
    print(_line(row))
    for note in filter(None, (row.note, row.frozen_reasons)):
        print(f"    {note}")
    for failure in row.failures[3:]:
        print(f"    {failure}")
    if reasons:
        for space, reason in row.reasons.items():
            print(f"    frozen '{space}': {reason}")
    sys.stdout.flush()


def _written(path: Path | None) -> dict[str, bool]:
    """Models that the CSV file has a row of, and whether it passes."""
    if path is None or not path.exists():
        return {}
    with path.open(newline="") as file:
        return {entry["model"]: entry["verdict"] == "pass" for entry in csv.DictReader(file)}


def _append(path: Path, row: Row) -> None:
    fresh = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if fresh:
            writer.writerow(_COLUMNS)
        writer.writerow([_text(getattr(row, column)) for column in _COLUMNS])


def _chosen(options: argparse.Namespace, parser: argparse.ArgumentParser) -> list[Model]:
    models = models_of(options.family)
    unknown = set(options.models) - {model.name for model in models}
    if unknown:
        parser.error(f"no model '{sorted(unknown)[0]}' in family '{options.family}'")
    return [model for model in models if not options.models or model.name in options.models]


def main() -> int:
    """Run the matrix; 0 when every row passes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "models", nargs="*", help="names as torchvision lists them (default: every model of the family)"
    )
    parser.add_argument("--family", choices=[*FAMILIES, "all"], default="all", help="which models (default: all)")
    parser.add_argument(
        "--sample",
        type=int,
        default=12,
        metavar="N",
        help="spaces checked of a model over 100 M parameters (default: 12)",
    )
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count(), metavar="N", help="models at a time (default: cores)"
    )
    parser.add_argument("--out", type=Path, metavar="CSV", help="write the rows here as they are finished")
    parser.add_argument("--resume", action="store_true", help="skip the models that the CSV file has a row of")
    parser.add_argument("--reasons", action="store_true", help="list every frozen space with its reason")
    options = parser.parse_args()
    models = _chosen(options, parser)
    if options.resume and options.out is None:
        parser.error("--resume needs --out, the file to resume from")
    if options.out is not None and not options.resume:
        options.out.unlink(missing_ok=True)
    results = _written(options.out)
    torch.set_num_threads(1)  # one core a model; also, a forked process must not inherit a pool of threads
    start = time.perf_counter()
    print(_HEADER, flush=True)
    reasons: Counter[str] = Counter()
    for row in rows_of([model for model in models if model.name not in results], options.sample, options.jobs):
        results[row.model] = row.passes
        reasons.update(reason.partition(" (node")[0] for reason in row.reasons.values())
        _report(row, options.reasons)
        if options.out is not None:
            _append(options.out, row)
    print(f"frozen spaces by reason: {'; '.join(f'{n} x {reason}' for reason, n in reasons.most_common()) or 'none'}")
    passed = [results[model.name] for model in models]
    print(
        f"{sum(passed)} of {len(passed)} models pass (errors at most {BAR:.0e} in float64, bit-identical round trips, trace and "
        f"analysis at most {SECONDS:g} s and {MEMORY:g} times the memory of the model, or of the model and its own run) after "
        f"{time.perf_counter() - start:.0f} s"
    )
    return 0 if all(passed) else 1


if __name__ == "__main__":
    raise SystemExit(main())
