"""The plain design of the grown size is trained beside a run, and nothing of the run is another for it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import gngraph
from gngraph.analysis.cost import Budget, cost
from gngraph.growth import rounds
from gngraph.growth.comparison import UNIFORM, plain_design
from gngraph.growth.history import read_history
from gngraph.growth.run_folder import COMPARISON_FILE, REPORT_FILE
from gngraph.ir.fingerprint import fingerprint
from tests.problems import problem, seed_graph

SMALL: dict[str, Any] = {"max_params": 1500, "rounds": 1, "epochs": 1, "final_epochs": 1, "depth": "keep", "perturb": 0}


def test_the_plain_design_has_the_proportions_of_the_seed_and_the_size_of_what_grew() -> None:
    seed, grown = seed_graph("vgg11", 1 / 64), seed_graph("vgg11", 1 / 16)
    most = cost(grown)
    plain = plain_design(seed, grown, Budget(max_params=10 * most.params))
    assert 0.9 * most.params < cost(plain).params <= most.params
    before, after = ({s.name: s.size for s in gngraph.ChannelSpaces.of(g).free} for g in (seed, plain))
    factor = math.sqrt(most.params / cost(seed).params)
    assert all(abs(after[name] - factor * size) < 0.15 * factor * size + 1.5 for name, size in before.items())
    # a seed that ended smaller than it began stands for itself
    assert cost(plain_design(grown, seed, Budget(max_params=10**6))).params <= most.params


def test_it_changes_nothing_of_the_run_and_is_made_again_after_an_interruption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = gngraph.grow(seed_graph(), problem(), **SMALL)
    beside = gngraph.grow(seed_graph(), problem(), compare="uniform", **SMALL)
    assert alone.comparison == [] and fingerprint(beside.graph) == fingerprint(alone.graph)
    (record,) = beside.comparison
    assert (record["name"], record["epochs"], record["tested"]) == (UNIFORM, 2, "test")
    assert 0 <= record["accuracy"] <= 1 and record["params"] <= cost(alone.graph).params

    def interrupted(*args: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(rounds, "trained_beside", interrupted)
        gngraph.grow(seed_graph(), problem(), compare="uniform", out=tmp_path, **SMALL)
    resumed = gngraph.resume(tmp_path, problem())
    assert resumed.comparison == beside.comparison and fingerprint(resumed.graph) == fingerprint(alone.graph)
    assert read_history(tmp_path / COMPARISON_FILE) == beside.comparison
    page = (tmp_path / REPORT_FILE).read_text("utf-8")
    assert f"The {UNIFORM}, trained for as long, has accuracy" in page
