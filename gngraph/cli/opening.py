"""A network and the data that a command names, and what is said of them before anything is done."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gngraph.calling import of_library
from gngraph.cli.options import DataOptions, ModelOptions
from gngraph.cli.parameters import shape_text
from gngraph.environment import Environment

if TYPE_CHECKING:
    from gngraph.data import Data
    from gngraph.ir import Graph
    from gngraph.running.problem import Problem


def open_both(model: str, how: ModelOptions, what: DataOptions) -> tuple[Graph, Problem]:
    """Network and problem, checked to fit each other. An archive's input shape decides how pictures are resized.

    Args:
        model: a file, or pkg.module:factory.
        how: it is read.
        what: it is run on, and for which loss.
    """
    from gngraph.analysis.fit import check_fit
    from gngraph.analysis.reading import reads_of
    from gngraph.data import Preprocess, Reads
    from gngraph.files.archive import recorded_inputs
    from gngraph.files.loading import is_archive, load
    from gngraph.running.problem import WITHHELD, knows_withheld

    if is_archive(model):
        graph = load(model, input_shape=how.input_shape)
        data = what.load(_shape_of(graph), recorded_inputs(model), reads_of(graph))
        _check_tokens(data, recorded_inputs(model))
    else:
        read = what.read(_shape_for(model, how))
        data = read.data(Reads.CHANNELS_FIRST)
        graph = how.open(model, data)
        reads = reads_of(graph)
        if reads is not Reads.CHANNELS_FIRST and isinstance(data.preprocess, Preprocess):
            data = read.data(reads)
    problem = what.problem(data)
    if is_archive(model) and problem.unseen is None and not knows_withheld(problem, recorded_inputs(model)):
        problem = replace(problem, unseen=WITHHELD)
    check_fit(graph, problem)
    return graph, problem


def _shape_of(graph: Graph) -> tuple[int, ...] | None:
    """The shape that samples are brought to for a network; None where it has several inputs, which are taken as they are."""
    from gngraph.ir.inputs import input_shapes_of

    shapes = list(input_shapes_of(graph).values())
    return shapes[0] if len(shapes) == 1 else None


def _shape_for(model: str, how: ModelOptions) -> tuple[int, ...] | None:
    """The shape that samples are brought to for a network that is no archive."""
    from gngraph.zoo import published

    kept = published(model) if how.input_shape is None and of_library(model) else None
    return kept.input_shape if kept is not None else how.input_shape


def source_of(model: str, how: ModelOptions, what: DataOptions, graph: Graph, problem: Problem) -> dict[str, Any]:
    """How `problem_from` finds the problem of `open_both` again, as JSON.

    Args:
        model, how, what: as `open_both` was given them.
        graph, problem: what it gave.
    """
    from gngraph.analysis.reading import reads_of
    from gngraph.files.archive import recorded_inputs
    from gngraph.files.loading import is_archive
    from gngraph.running.problem import WITHHELD

    unseen = WITHHELD if problem.unseen == WITHHELD else what.unseen
    archive = is_archive(model)
    return {
        "command": replace(what, unseen=unseen).as_dict(),
        "shape": _shape_of(graph) if archive else _shape_for(model, how),
        "trained": recorded_inputs(model) if archive else None,
        "reads": reads_of(graph).value,
    }


def problem_from(source: dict[str, Any]) -> Problem:
    """The problem of a run that began on the command line.

    Args:
        source: what `source_of` gave.
    """
    from gngraph.data import Reads

    what = DataOptions.of(source["command"])
    shape = source["shape"]
    reads = Reads(source.get("reads", Reads.CHANNELS_FIRST.value))
    return what.problem(what.load(None if shape is None else tuple(shape), source["trained"], reads))


def _check_tokens(data: Data, trained: Any) -> None:
    """Refuse tokens that stand for something else than those that a network was trained on."""
    from gngraph.errors import DataError

    before = trained.get("preprocess") if isinstance(trained, dict) else None
    now = data.preprocess.record()
    if isinstance(before, dict) and "of" in before and before["of"] != now.get("of"):
        raise DataError(
            f"the network was trained on tokens of '{before['of']}', but '{data.name}' has those of '{now.get('of', 'none')}': "
            f"read it alike (--tokenizer)"
        )


def describe_setting(graph: Graph, problem: Problem) -> str:
    """What a command works on, how samples become inputs, and how good the network is before anything is done."""
    from gngraph.ir.inputs import input_shapes_of
    from gngraph.report.words import percent, perplexity
    from gngraph.running.finite import standing

    shape = " and ".join(shape_text(own) or "one number" for own in input_shapes_of(graph).values())
    samples = f"{len(problem.samples):,} training {_and_test(problem)}samples of {shape}"
    found = standing(graph, problem)
    notes = [*problem.data.notes, *([found.note] if found.note is not None else [])]
    environment, augment = Environment.read().text, problem.augmentation
    changed = "" if augment is None else f", in training changed by {augment} (see --augment)"
    notes += [] if environment is None else [environment]
    return (
        f"{graph.name} with {graph.num_params():,} parameters on {problem.data.name}: {samples}, on {problem.device}\n"
        f"{_judged_by(problem)}\n"
        f"inputs: {problem.data.preprocess.text} (see --normalize){changed}; as given: {problem.tested} loss {found.loss:.4f}"
        f"{perplexity(problem.loss_fn, found.loss)}{percent(f', {problem.tested} accuracy ', found.accuracy)}"
        f"{percent(', mean IoU ', found.overlap)}" + "".join(f"\nnote: {note}" for note in notes)
    )


def _and_test(problem: Problem) -> str:
    return f"and {len(problem.test):,} test " if problem.tested == "test" else ""


def _judged_by(problem: Problem) -> str:
    """Which samples changes are judged by, in the words of the first lines of a command."""
    if not problem.divisible:
        return "too few samples to withhold any from training"
    judge, report = (len(split) for split in (problem.splits.judge, problem.splits.report))
    if not problem.withholds:
        return f"changes are judged by {judge + report:,} samples that nothing is trained on"
    share = (judge + report) / len(problem.samples)
    withheld = f"{judge + report:,} of the training samples ({share:.0%}) are withheld from training"
    what = " and tested" if problem.tested == "held-out" else ""
    return f"{withheld}: changes are judged{what} by them (see --withhold, --unseen)"
