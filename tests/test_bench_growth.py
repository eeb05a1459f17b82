"""The growth benchmark: designs fit their budget, costs are counted, and a table continues where it was."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from gngraph.analysis.cost import Budget, cost
from gngraph.data import load_data
from gngraph.errors import BudgetError
from gngraph.lowering.to_torch import reading_inputs
from gngraph.running.problem import Problem
from tools import bench_growth
from tools.growth_designs import DESIGNS, SHAPES, designed, family, widths_of
from tools.growth_jobs import JOBS, size_of
from tools.growth_report import front
from tools.growth_runs import Counter, Run, Settings, key_of

WORDS = "search --data digits --train 120 --network mlp --epochs 2 --rounds 1 --samples 40 --device cpu"


@pytest.mark.parametrize("design", DESIGNS)
def test_designs_use_up_a_budget(design: str) -> None:
    data, budget = load_data("digits"), Budget(30_000)
    graph = designed(design, "vgg11", data, budget)
    assert 0.97 * 30_000 < cost(graph).params <= 30_000
    widths = list(widths_of(graph).values())
    if design == "uniform":
        assert max(widths) - min(widths) <= 1
    elif design == "pyramid":
        assert widths[-1] / widths[0] == pytest.approx(8, rel=0.35)
    with pytest.raises(BudgetError, match=r"the narrowest '.*' has .* parameters"):
        designed(design, "vgg11", data, Budget(20))


def test_a_design_has_the_widths_of_its_shape() -> None:
    assert SHAPES["pyramid"](4) == 4.0
    made = designed("uniform", "vgg11", load_data("digits"), Budget(20_000))
    assert max(widths_of(made).values()) - min(widths_of(made).values()) <= 1


def test_flops_are_counted_forwards_and_backwards() -> None:
    layers, x = nn.Sequential(nn.Linear(6, 8, bias=False), nn.Linear(8, 2, bias=False)), torch.randn(5, 6)
    with Counter() as counter:
        y = layers(x)
    assert counter.flops == 2 * 5 * (6 * 8 + 8 * 2)
    with Counter() as counter:
        torch.autograd.grad(y.sum(), list(layers.parameters()))
    assert counter.flops == 2 * 5 * (6 * 8 + 2 * 8 * 2)  # the input needs no gradient


@pytest.mark.parametrize("network", ["vgg11", "resnet20"])
def test_a_module_costs_what_its_graph_does(network: str) -> None:
    graph = family(network, load_data("digits"), 0.1)
    assert size_of(reading_inputs(graph), torch.zeros(1, 1, 8, 8)) == cost(graph)


def test_front() -> None:
    assert front([(1.0, 0.5), (1.0, 0.6), (2.0, 0.6), (3.0, 0.9)]) == [(1.0, 0.6), (3.0, 0.9)]


def test_a_table_continues(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    threads = str(torch.get_num_threads())
    arguments = [*WORDS.split(), "--budget", "4k", "--threads", threads, "--out", str(tmp_path)]
    first = CliRunner().invoke(bench_growth.main, [*arguments, "--methods", "uniform,fresh"])
    assert first.exit_code == 0, first.output
    lines = [json.loads(line) for line in (tmp_path / "runs.jsonl").read_text().splitlines()]
    assert [line["method"] for line in lines] == ["uniform", "fresh", "fresh:scratch", "fresh:equal"]
    uniform, grown, scratch, equal = lines
    assert grown["widths"] == scratch["widths"] == equal["widths"] and grown["params"] <= 4000
    assert grown["training_flops"] < scratch["training_flops"] and grown["search_flops"] == 0 and grown["epochs"] == 2
    assert uniform["training_flops"] == 2 * 3 * uniform["flops"] * 120 + uniform["flops"] * 120
    text = (tmp_path / "runs.jsonl").read_text()
    (tmp_path / "runs.jsonl").write_text(text[: text.rindex('"widths"')])  # cut off within the last line
    second = CliRunner().invoke(bench_growth.main, [*arguments, "--methods", "uniform,fresh"])
    assert second.exit_code == 0, second.output
    assert "fresh:equal: accuracy" in second.output and "fresh: accuracy" not in second.output
    assert (tmp_path / "growth.png").stat().st_size > 0 and len((tmp_path / "growth.csv").read_text().splitlines()) == 5
    monkeypatch.setattr(bench_growth, "PAYER", "fresh")
    third = CliRunner().invoke(bench_growth.main, [*arguments, "--methods", "uniform,fresh"])
    assert third.exit_code == 0, third.output
    paid = json.loads((tmp_path / "runs.jsonl").read_text().splitlines()[-1])
    assert paid["method"] == "uniform:equal" and paid["widths"] == uniform["widths"]
    assert paid["epochs"] == max(1, round(grown["training_flops"] / (3 * uniform["flops"] * 120)))
    wrong = CliRunner().invoke(bench_growth.main, [*arguments, "--methods", "magic"])
    assert wrong.exit_code == 2 and "job 'search' has no method 'magic'" in wrong.output


def test_layers_that_growth_left_are_trained_at_uniform_widths(tmp_path: Path) -> None:
    settings = replace(run_of("search", tmp_path, Budget(2000)).settings, network="vgg11")
    bench = bench_growth.Bench(settings, bench_growth.shrunken(load_data("digits"), 4, 200), "cpu", tmp_path)
    line = bench.run(bench_growth.Cell("gngraph:uniform", 0, Budget(8000)))
    grown = bench.store.find(key_of({**line, "method": "gngraph"}))
    assert grown is not None and list(line["widths"]) == list(grown["widths"])
    assert max(line["widths"].values()) - min(line["widths"].values()) <= 1 and line["params"] <= 8000


def run_of(job: str, folder: Path, budget: Budget) -> Run:
    settings = Settings(
        job=job, network="mlp", data="digits", size=0, train=0, epochs=1, tuning=1, rounds=1, growing=0.5,
        final="cycle", perturb=0.5,
        design="uniform", start=0.5, extension=0.5, shrinkage=0.5, params_left=1.0, optimizer="sgd", lr=None,
        tuning_lr=None, weight_decay=5e-4,
        batch_size=64, samples=60,
    )  # fmt: skip
    data = bench_growth.shrunken(load_data("digits"), 4, 200)
    assert data.input_shape == (1, 4, 4) and len(data.train) == 200
    problem = Problem(data, device="cpu", learn=60, judge=60, report=60, batch_size=64)
    return Run(settings, problem, budget, folder, "base")


@pytest.mark.parametrize("method", ["gngraph", "paper", "firefly", "gradmax", "tiny", "random-split", "net2net"])
def test_growth_keeps_to_its_budget_and_pays_for_its_search(method: str, tmp_path: Path) -> None:
    run = run_of("search", tmp_path, Budget(2000))
    graph = JOBS["search"][method](run)
    size = cost(graph)
    assert size.params <= 2000 and (method == "paper" or size.params > 1900)
    assert run.meter.epochs == 1
    scored = method not in ("random-split", "net2net")
    assert (run.meter.search > 2 * 60 * 300) == scored and run.meter.search_seconds < run.meter.seconds


@pytest.mark.parametrize(
    ("job", "method", "params", "flops"),
    [("extend", "gngraph", 1.5, 9.0), ("reshape", "gngraph", 1.0, 1.0), ("reshape", "towards-soft-pyramid", 1.0, 1.0),
     ("shrink", "gn-prune", 1.0, 0.5), ("shrink", "gn-prune-rebuilt", 1.0, 0.5), ("shrink", "narrower", 1.0, 0.5),
     ("shrink", "narrower-rebuilt", 0.45, 0.5), ("shrink", "gngraph", 0.45, 0.5), ("shrink", "gngraph-low-rank", 0.45, 0.5)],
)  # fmt: skip
def test_jobs_start_from_one_trained_network(
    job: str, method: str, params: float, flops: float, tmp_path: Path
) -> None:
    run = run_of(job, tmp_path, Budget(2000))
    run.settings = replace(run.settings, params_left=min(1.0, params))
    made = cost(JOBS[job][method](run))
    base = run.kept("base")
    assert base is not None
    before = cost(base)
    assert made.params <= params * before.params and made.flops <= flops * before.flops
    assert max(made.params / (params * before.params), made.flops / (flops * before.flops)) > 0.9
    assert run.meter.epochs == 1 and run.notes["loss_before"] > 0  # training the base is not charged


@pytest.mark.parametrize(("method", "kinds"), [("gngraph-hidden", {"up"}), ("gngraph-stream", {"patches"})])
def test_a_kind_of_widths_of_a_vit_changes_alone(method: str, kinds: set[str], tmp_path: Path) -> None:
    run = run_of("shrink", tmp_path, Budget(40_000))
    run.settings = replace(run.settings, network="small-vit", design="family", shrinkage=0.8)
    made = widths_of(JOBS["shrink"][method](run))
    base = run.kept("base")
    assert base is not None
    changed = {name for name, width in widths_of(base).items() if made[name] != width}
    assert changed and {name.rpartition(".")[2] for name in changed} == kinds
