"""A grown architecture from the start again."""

from __future__ import annotations

import pytest
import torch

from gngraph.analysis.cost import cost
from gngraph.api import grow
from gngraph.errors import OptionError
from gngraph.options import TrainOptions
from gngraph.options.runs import Final
from gngraph.training.restart import restarted
from tests.problems import problem, seed_graph, small_vgg


def test_new_weights_have_the_spread_of_initial_ones_and_repeat() -> None:
    graph = small_vgg()
    before = torch.random.get_rng_state()
    one, again, other = (restarted(graph, seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert cost(one) == cost(graph)
    name = max((n for n, p in graph.params.items() if p.data.dim() == 4), key=lambda n: graph.params[n].data.numel())
    a, b, c = (g.params[name].data for g in (one, again, other))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert float(a.std() / graph.params[name].data.std()) == pytest.approx(1, rel=0.1)


def test_the_rate_falls_as_the_final_training_says() -> None:
    seed, rates = seed_graph(), {}
    for final in ("continue", "cycle", "retrain", "auto"):
        limit = 2 * cost(seed).params
        result = grow(seed, problem(), max_params=limit, rounds=2, epochs=1, final_epochs=2, final=final, depth="keep")
        rates[final] = [epoch["lr"] for record in result.history for epoch in record["epochs"]]
        assert all(record["kind"] in ("round", "final") for record in result.history)
    assert rates["cycle"][0] == rates["cycle"][1] > rates["cycle"][2] > rates["cycle"][3]
    assert rates["retrain"] == rates["cycle"] == rates["auto"]
    assert rates["continue"] == sorted(rates["continue"], reverse=True) and rates["continue"][1] < rates["continue"][0]
    with pytest.raises(
        OptionError, match="option 'final' is 'twice', but must be continue or cycle or retrain or auto"
    ):
        grow(seed, problem(), max_params=limit, rounds=1, epochs=1, final_epochs=1, final="twice")


@pytest.mark.parametrize("final", ["continue", "cycle", "retrain"])
def test_the_rate_rises_through_the_rounds_and_again_after_a_restart(final: Final) -> None:
    seed, rates = seed_graph(), {}
    for warmup in (0.0, 5.0):
        train = TrainOptions(lr=0.01, batch_size=240, warmup=warmup)  # a step an epoch, in the middle of it
        limit = 2 * cost(seed).params
        result = grow(seed, problem(), max_params=limit, rounds=2, epochs=2, final_epochs=4, final=final, train=train)
        rates[warmup] = [epoch["lr"] for record in result.history for epoch in record["epochs"]]
    risen = [a / b for a, b in zip(rates[5.0], rates[0.0], strict=True)]
    again = [0.1, 0.3, 0.5, 0.7] if final == "retrain" else [0.9, 1.0, 1.0, 1.0]
    assert risen == pytest.approx([0.1, 0.3, 0.5, 0.7, *again])
