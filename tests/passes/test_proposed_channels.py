"""`new-channels{proposer=gauss-newton}`: the analysis says which channels, and the function stays what it was."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gngraph.analysis.manager import AnalysisManager
from gngraph.errors import PassError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.passes import PassManager
from gngraph.rewrite.morphism import NewChannel
from gngraph.running.problem import Problem
from gngraph.scoring.gauss_newton import GaussNewton


@pytest.fixture(scope="module")
def prepared() -> tuple[Graph, AnalysisManager]:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 3, 3), nn.Flatten(), nn.Linear(48, 2)
    )
    x = torch.randn(150, 2, 6, 6)
    problem = Problem((x, (x[:, 0].mean((1, 2)) > 0).long()), device="cpu", learn=50, judge=50, report=50)
    return from_torch(net.eval(), x[:1]), AnalysisManager(problem)


def test_the_best_candidates_are_added_without_their_out_weights(prepared: tuple[Graph, AnalysisManager]) -> None:
    graph, analyses = prepared
    run = PassManager("new-channels{count=2,proposer=gauss-newton,space=0}", analyses).run(graph).runs[0]
    assert run.error is not None and run.error <= 1e-10 and run.changed
    scores = analyses.get(GaussNewton(kinds=("new",)), graph)
    best = sorted((c for c in scores.candidates if c.morphism.space == "0"), key=lambda c: -c.gain)[:2]
    for candidate, added, row in zip(
        best, run.result.morphisms, run.result.graph.params["0.weight"].data[4:], strict=True
    ):
        assert isinstance(candidate.morphism, NewChannel) and isinstance(added, NewChannel) and not added.out
        assert torch.equal(row, candidate.morphism.rows["0.weight"][0])
    assert not run.result.graph.params["3.weight"].data[:, 4:].any()
    assert (run.result.graph.params["1.running_var"].data[4:] != 1.0).all()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "new-channels{proposer=guess}",
            "'proposer' of pass 'new-channels' is 'guess'; choose one of random, gauss-newton",
        ),
        ("new-channels{proposer=gauss-newton}", "'0' of '1' new channels for space '3'"),
    ],
)
def test_what_it_cannot_do_it_says(prepared: tuple[Graph, AnalysisManager], text: str, words: str) -> None:
    graph, analyses = prepared
    with pytest.raises(PassError) as caught:
        PassManager(text, analyses).run(graph)
    assert words in str(caught.value)


def test_without_a_problem_it_says_what_is_missing(prepared: tuple[Graph, AnalysisManager]) -> None:
    with pytest.raises(PassError, match="no problem was given"):
        PassManager("new-channels{proposer=gauss-newton}").run(prepared[0])
