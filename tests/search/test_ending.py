"""The choice between a network as it is and one with new initial weights, by forecasts."""

from __future__ import annotations

import json

import pytest
import torch

from gngraph.analysis.cost import cost
from gngraph.api import grow
from gngraph.growth.history import without_seconds
from gngraph.ir import Graph
from gngraph.options import TrainOptions
from gngraph.report.words import describe_round
from gngraph.search import ending as ending_of
from gngraph.search.ending import CONTINUED, RETRAINED, ended
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer
from tests.problems import problem, seed_graph, small_vgg

TRAIN = TrainOptions(batch_size=8, lr=0.02)


def scaled(graph: Graph, factor: float) -> Graph:
    return graph.with_params({name: p.data * factor for name, p in graph.params.items() if p.data.dim() > 1})


def test_a_trained_network_is_continued_and_one_that_is_stuck_is_not() -> None:
    seed = seed_graph("mlp", 0.1)
    trained = Trainer(problem(), TRAIN).train(seed, Stretch(6, "cosine")).graph
    found = ended({CONTINUED: trained, RETRAINED: seed}, problem(), TRAIN, 64)
    assert found.chosen == CONTINUED
    assert found.forecasts[CONTINUED].loss < found.forecasts[RETRAINED].loss
    assert found.samples == 64 * len(problem().train) and len(found.curves[CONTINUED]) == 2
    silent = scaled(trained, 0.0)  # no signal comes through it, nor any gradient
    assert ended({CONTINUED: silent, RETRAINED: seed}, problem(), TRAIN, 64).chosen == RETRAINED


def test_what_is_too_short_to_be_forecast_goes_on() -> None:
    seed = seed_graph("mlp", 0.1)
    found = ended({CONTINUED: seed, RETRAINED: seed}, problem(), TRAIN, 4)
    assert found.chosen == CONTINUED and not found.curves and not found.forecasts


def test_a_way_that_diverges_is_not_taken() -> None:
    seed = seed_graph("mlp", 0.1)
    found = ended({CONTINUED: scaled(seed, 1e6), RETRAINED: seed}, problem(), TRAIN, 64)
    assert found.chosen == RETRAINED and CONTINUED not in found.forecasts
    record = json.loads(json.dumps(found.record()))
    assert record["ways"][CONTINUED]["forecast"] is None and None in record["ways"][CONTINUED]["losses"].values()


def test_a_run_takes_the_way_that_it_forecasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ending_of, "STILL_SHORT", 1.0)
    seed = small_vgg()

    def made(final: str) -> Graph:
        limit = 2 * cost(seed).params
        result = grow(
            seed,
            problem(),
            max_params=limit,
            rounds=1,
            epochs=1,
            final_epochs=4,
            final=final,
            depth="keep",
            train=TRAIN,
        )
        records.append(result.history[-1])
        return result.graph

    records = list[dict[str, object]]()
    auto = made("auto")
    ending = records[-1]["ending"]
    assert isinstance(ending, dict)
    same = made({CONTINUED: "cycle", RETRAINED: "retrain"}[ending["chosen"]])
    assert all(torch.equal(p.data, same.params[name].data) for name, p in auto.params.items())
    assert f"{ending['chosen']}: a loss of" in describe_round(records[0])
    again = dict(without_seconds(records[0]))
    del again["ending"]
    assert again == without_seconds(records[1])
