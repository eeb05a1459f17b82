"""Pictures say what the history says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gngraph.growth.history import Record
from gngraph.report.figures import agreement, draw_history, predicted_vs_actual, training, widths


def record(kind: str, number: int, spaces: int = 5, accuracy: float | None = 0.5) -> Record:
    names = [f"features.{i}" for i in range(spaces)]
    before = {"params": 100 * number, "flops": 1000 * number, "loss": 1.0 / number, "accuracy": accuracy}
    epochs = [
        {"epoch": 2 * number - 1 + i, "loss": 1.0, "accuracy": accuracy, "lr": 0.1, "seconds": 1.0} for i in range(2)
    ]
    grown: Record = {
        "predicted": -0.1 * number,
        "predicted_error": 0.01,
        "actual": -0.2 * number,
        "refused": "it harms" if number == 2 else None,
    }
    return {
        "kind": kind,
        "round": number,
        "epochs": epochs,
        "trained": {**before, "widths": dict.fromkeys(names, 4 * number)},
        **before,
        "params": 100 * number + (100 if kind == "round" else 0),
        "widths": dict.fromkeys(names, 4 * number + 3),
        "budget": {"params": 1000, "flops": None},
        **(grown if kind == "round" else {}),
    }


def history(spaces: int = 5, accuracy: float | None = 0.5) -> list[Record]:
    return [record("round", n, spaces, accuracy) for n in (1, 2, 3)] + [record("final", 4, spaces, accuracy)]


@pytest.mark.parametrize("spaces", [1, 5, 60])
def test_every_picture_is_drawn_for_few_and_many_spaces(tmp_path: Path, spaces: int) -> None:
    paths = draw_history(history(spaces), tmp_path / "pictures")
    assert len(paths) == 3 and all(p.read_bytes().startswith(b"\x89PNG") for p in paths)


def test_a_history_without_rounds_or_records_draws_what_there_is(tmp_path: Path) -> None:
    assert draw_history([], tmp_path) == []
    assert len(draw_history([record("final", 1)], tmp_path)) == 2


def test_the_scatter_names_slope_and_correlation() -> None:
    title = predicted_vs_actual(history()).axes[0].get_title()
    assert title == "Predicted against actual: r = 1.00, slope 2.00, 3 rounds"
    alike = [{**entry, "predicted": -0.1 - 0.001 * i} for i, entry in enumerate(history())]
    assert "alike within their errors" in predicted_vs_actual(alike).axes[0].get_title()
    several = predicted_vs_actual(history(), [(-0.1, -0.05), (-0.2, -0.1), (0.0, 0.0), (0.1, 0.05)])
    assert several.axes[0].get_title().endswith("r = 1.00, slope 0.50, 4 morphisms")


def test_refused_rounds_are_told_apart() -> None:
    labels = predicted_vs_actual(history()).axes[0].get_legend_handles_labels()[1]
    assert any(label.startswith("round, refused") for label in labels)


@pytest.mark.parametrize("points", [[], [(1.0, 1.0)], [(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)]])
def test_no_correlation_is_claimed_where_there_is_none(points: list[tuple[float, float]]) -> None:
    assert "too few" in agreement(points, "rounds")


def test_widths_are_written_into_the_cells() -> None:
    axes = widths(history(2)).axes[0]
    assert [text.get_text() for text in axes.texts] == ["4", "7", "11", "15"] * 2
    assert [label.get_text() for label in axes.get_xticklabels()] == ["seed", "1", "2", "3"]


def test_training_shows_accuracy_budget_and_rewrites() -> None:
    figure = training(history())
    upper, middle, lower = figure.axes
    assert upper.get_title() == "Held-out accuracy 50.00% with 400 parameters"
    assert [text.get_text() for text in middle.texts] == ["budget 1k"] and not lower.texts
    assert np.asarray(upper.lines[0].get_xdata()).tolist() == list(range(1, 9))


def test_a_regression_shows_its_loss() -> None:
    upper = training(history(accuracy=None)).axes[0]
    assert upper.get_ylabel() == "loss" and upper.get_title().startswith("Held-out loss 0.25 with")
