"""Pictures say what the history says."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gngraph.growth.history import Record
from gngraph.report.drawing import BLUE
from gngraph.report.figures import draw, pictures
from gngraph.report.pareto import pareto
from gngraph.report.predictions import TICKS, agreement, gain_curves, predicted_vs_actual, reading
from gngraph.report.runs import ReportedRun, measured_on
from gngraph.report.training import training, trials
from gngraph.report.widths import widths
from tests.report.made_runs import made_run


def run(spaces: int = 5, accuracy: float | None = 0.5) -> ReportedRun:
    return made_run({f"features.{i}": 12 for i in range(spaces)}, accuracy=accuracy)


@pytest.mark.parametrize("spaces", [1, 5, 60])
def test_every_picture_is_drawn_for_few_and_many_spaces(tmp_path: Path, spaces: int) -> None:
    paths = draw(run(spaces), tmp_path / "pictures")
    drawn = {path.name for path in paths}
    for name in ("training", "widths", "predicted_vs_actual", "selection"):
        assert {f"{name}.png", f"{name}.svg"} <= drawn
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in paths if p.suffix == ".png")
    assert all(ET.parse(p).getroot().tag.endswith("svg") for p in paths if p.suffix == ".svg")


def test_a_run_without_rounds_or_channels_draws_what_there_is(tmp_path: Path) -> None:
    only = ReportedRun("run", run().history[-1:])
    assert {path.stem for path in draw(only, tmp_path)} == {"training", "widths"}


def test_an_element_of_a_page_has_its_own_names_and_the_pages_ink() -> None:
    found = [picture.svg() for picture in pictures(run())]
    for text in found:
        assert text.startswith("<svg ") and ">training, d" in "".join(found) and "#000000" not in text
        assert "currentColor" in text and "<image" not in text
    names = [name for text in found for name in ET.fromstring(text).iter() if name.get("id")]
    own = [element.get("id") for element in names]
    assert len(own) == len(set(own))
    assert found == [picture.svg() for picture in pictures(run())], "the same run gives the same page"


def test_rounds_and_single_changes_are_drawn_with_what_became_of_them() -> None:
    made = run()
    picture = predicted_vs_actual(made.rounds, made.channels)
    assert picture.figure.axes[0].get_xscale() == "symlog"
    labels = picture.figure.axes[0].get_legend_handles_labels()[1]
    assert any(label.startswith("round, refused") for label in labels)
    assert any(label.startswith("single change") for label in labels)
    assert "The prediction of round 2 failed: -0.05 ± 0.01 was predicted, +0.2 came." in picture.reading
    assert "of 24 single changes that were tried came within 2" in picture.reading


def test_rounds_that_came_true_are_said_to() -> None:
    rounds = [r for r in run().rounds if r["round"] != 2]
    assert reading(rounds, []) == "All 2 rounds came within 2 standard errors of what was predicted."


@pytest.mark.parametrize("points", [[], [(1.0, 1.0)], [(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)], [(-1, -1), (0, 0), (1, 1)]])
def test_no_correlation_is_claimed_where_there_is_none(points: list[tuple[float, float]]) -> None:
    assert "too few" in agreement(points, "rounds")
    alike = [(-0.1 - 0.001 * i, float(i)) for i in range(8)]
    assert "alike within their errors" in agreement(alike, "rounds", error=0.01)


def test_curves_end_where_the_selection_stopped() -> None:
    made = run()
    picture = gain_curves(made.channels)
    assert picture is not None and "20 of 100 in round 1, 20 of 100 in round 2" in picture.reading
    assert (
        gain_curves([{"round": 1, "spaces": {}, "selection": {"candidates": 3, "judge": [0.0], "report": [0.0]}}])
        is None
    )


def test_widths_are_written_into_the_cells_and_removed_spaces_are_none() -> None:
    history: list[Record] = [dict(record) for record in run(2).history]
    history[0]["trained"] = {**history[0]["trained"], "widths": {"gone": 4, **history[0]["trained"]["widths"]}}
    axes = widths(history).figure.axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["seed", "1", "2", "3"]
    cells = axes.collections[0].get_array()
    assert cells is not None
    shown = np.ma.getmaskarray(cells).reshape(3, 4)
    assert shown[0].tolist() == [False, True, True, True] and not shown[1:].any()
    assert axes.texts[0].get_text() == "4"
    crosses = axes.lines[0]
    assert np.asarray(crosses.get_xdata()).tolist() == [1, 2, 3] and np.asarray(crosses.get_ydata()).tolist() == [
        0,
        0,
        0,
    ]


def test_training_shows_accuracy_budget_and_all_that_was_done() -> None:
    picture = training(run().history)
    accuracy, loss, params, flops = picture.figure.axes
    assert (accuracy.get_ylabel(), loss.get_ylabel()) == ("accuracy", "loss")
    assert picture.title.startswith("Held-out accuracy 58.00% with")
    assert [text.get_text() for text in params.texts] == ["budget 1G"] and not flops.texts
    assert np.asarray(accuracy.lines[0].get_xdata()).tolist() == list(range(1, 9))
    marks = {line.get_label(): np.asarray(line.get_xdata()).tolist() for line in accuracy.lines}
    assert marks["new weights mixed in"] == [2, 4, 6] and marks["search for the depth"] == [2]


def test_training_accuracy_is_drawn_as_it_was_measured() -> None:
    history = run().history
    for record in history:
        record["trained"] = {**record["trained"], "training": {"loss": 0.5, "accuracy": 0.75}}
    labels = training(history).figure.axes[0].get_legend_handles_labels()[1]
    assert "training, measured as held-out is" in labels


def test_a_regression_shows_its_loss() -> None:
    picture = training(run(accuracy=None).history)
    assert [axes.get_ylabel() for axes in picture.figure.axes] == ["loss", "parameters", "FLOPs"]
    assert picture.title.startswith("Held-out loss 0.25 with")


def test_trials_are_drawn_with_what_was_taken() -> None:
    history = [dict(record) for record in run().history]
    history[0]["lookahead"] = {"losses": {"worth": [1.5, 1.2], "uniform": [1.6]}, "epochs": 3}
    forecast = {"losses": {"32": 1.5, "64": 1.2}, "forecast": {"loss": 0.5, "interval": [0.4, 0.7]}}
    ways = {"continued": forecast, "retrained": {"losses": {"32": None, "64": None}, "forecast": None}}
    history[-1]["ending"] = {"chosen": "continued", "samples": 1024, "ways": ways}
    depth, rules, ending = trials(history)
    assert ending.reading.startswith("Taken: continued.") and len(ending.figure.axes[0].containers) == 1
    assert depth.reading.startswith("Removed: features.1. Each trial was trained on 640 samples")
    assert rules.figure.axes[0].get_legend_handles_labels()[1] == ["worth, taken", "uniform"]


def test_names_are_never_taken_for_formulas(tmp_path: Path) -> None:
    odd = made_run({"a$\\frac$<b>": 9, "c&d": 9})
    assert draw(odd, tmp_path)
    text = next(picture.svg() for picture in pictures(odd) if picture.name == "widths")
    assert "a$\\frac$&lt;b&gt;" in text and "<b>" not in text
    assert replace(odd, name="x").name == "x"


def test_runs_beside_each_other_are_compared_where_they_were_measured_on_the_same_samples(tmp_path: Path) -> None:
    good, bad = run(accuracy=0.8), run(accuracy=0.5)
    for samples, told in (((None, "ab"), "No other run is as good"), (("ab", "cd"), "measured on different samples")):
        pair = [replace(one, tested=tested) for one, tested in zip((good, bad), samples, strict=True)]
        picture = pareto(pair)
        joined = [line.get_color() for axes in picture.figure.axes for line in axes.lines]
        assert told in picture.reading and (BLUE in joined) == ("No other" in told)
    assert measured_on(tmp_path) is None
    (tmp_path / "begun.json").write_text('{"identity": {"test samples": "12 with SHA-256 ab"}}\n')
    assert measured_on(tmp_path) == "12 with SHA-256 ab"


def test_numbers_along_an_axis_are_there_and_keep_apart() -> None:
    made = run()
    across = pareto([made, made]).figure.axes[0]
    low, high = across.get_xlim()
    numbers = [tick for tick in across.get_xticks() if low <= tick <= high]
    assert len(numbers) >= 2 and all(across.xaxis.get_major_formatter()(tick) for tick in numbers)
    small = [{**record, "predicted": 1e-9, "actual": 3.0} for record in made.rounds]
    assert len(predicted_vs_actual(small).figure.axes[0].get_xticks()) <= TICKS + 1
