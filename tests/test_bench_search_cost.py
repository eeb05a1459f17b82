"""A search for the depth lowers each graph once; its benchmark prints the ratio beside its bar."""

from __future__ import annotations

from dataclasses import replace

import torch
from click.testing import CliRunner

from gngraph.lowering import lower, to_torch
from tests.problems import problem, seed_graph
from tools.bench_search_cost import lowered, main, measured


def test_a_search_lowers_each_graph_once() -> None:
    found = measured(seed_graph("resnet20", 1 / 8), problem(), epochs=1, larger=2.0, repeats=1)
    layers, trials = 7, len(found.found.trials)
    # the seed, the seed and what is left of it without each layer by new statistics, and three for each trial
    assert found.lowerings == found.distinct == 1 + (1 + layers) + 3 * trials


def test_a_graph_that_is_lowered_twice_is_told() -> None:
    graph = seed_graph("resnet20", 1 / 8)
    weight = next(name for name, p in graph.params.items() if p.kind == "parameter")
    with lowered() as computed:
        lower(graph)
        to_torch(graph)  # the same weights elsewhere
        lower(replace(graph))
        lower(graph.with_params({weight: graph.params[weight].data + 1}))
    assert (len(computed), len(set(computed))) == (4, 2)


def test_the_benchmark_prints_the_ratio_beside_its_bar() -> None:
    threads = str(torch.get_num_threads())
    options = ["--network", "resnet20", "--width", "0.125", "--epochs", "1", "--repeats", "1", "--samples", "32"]
    found = CliRunner().invoke(main, [*options, "--threads", threads])
    assert found.exit_code == 0, found.output
    assert "ratio (bar 8)" in found.output
