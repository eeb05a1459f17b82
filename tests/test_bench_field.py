"""The tables at the size of the field, of a few small pictures: each runs, goes on in pieces, and tells what it is about."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import cost
from gngraph.data import Data
from gngraph.errors import BudgetError
from tools import growth_jobs
from tools.bench_field import PARTS, Part, beside_random, main, of_family, shares_of_seconds, shrinking
from tools.growth_cells import WIDTHS, budget_of_cells, cells_graph, random_cells, sizes_of
from tools.growth_jobs import JOBS

SPACE = cast(Data, SimpleNamespace(input_shape=(3, 16, 16), outputs=10))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Pictures of two classes, bright above or below."""
    path = tmp_path_factory.mktemp("pictures") / "pictures.npz"
    draw = np.random.default_rng(0)
    x = draw.integers(0, 60, (120, 16, 16, 3), dtype=np.uint8)
    y = np.arange(120) % 2
    x[y == 0, :8] += 120
    x[y == 1, 8:] += 120
    np.savez(path, x_train=x[:80], y_train=y[:80], x_test=x[80:], y_test=y[80:])
    return str(path)


def made(table: str, data: str, out: Path, words: str) -> str:
    threads = ["--threads", str(torch.get_num_threads()), "--device", "cpu", "--seeds", "1", "--samples", "16"]
    arguments = [table, "--data", data, "--out", str(out), *threads, *words.split()]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts of a network that takes no time."""
    monkeypatch.setattr(growth_jobs, "PRUNING_STEPS", 20)
    lengths = {"long": 1.0, "short": 0.7}
    budget, own = of_family("mlp", 0.2), {"network": "mlp"}
    growth = {name: Part("family,gngraph", budget, 4, share, own) for name, share in lengths.items()}
    for table, parts in (("shrink", {"small": shrinking("mlp", "uniform", 0.47)}), ("growth", growth)):
        monkeypatch.setitem(cast(dict[str, Mapping[str, Part]], PARTS), table, parts)


@pytest.mark.usefixtures("small")
def test_shrinking_has_all_its_rows_in_pieces(pictures: str, tmp_path: Path) -> None:
    pytest.importorskip("torch_pruning")
    words = "--width 0.2 --epochs 1 --tuning 1 --size 4 --methods"
    rows = "gngraph,tp-hessian-uniform,smaller,gngraph:scratch"
    lines = tmp_path / "lines" / "field.jsonl"
    first = made("shrink", pictures, tmp_path, f"{words} {rows} --lines {lines} --minutes 0")
    assert "4 runs are left: give the command again" in first and not lines.exists()
    second = made("shrink", pictures, tmp_path, f"{words} {rows} --lines {lines} --minutes 9")
    found = [json.loads(line) for line in lines.read_text().splitlines()]
    assert [line["method"] for line in found] == rows.split(",") and "are left" not in second
    pruned, scratch = found[0], found[3]
    assert scratch["widths"] == pruned["widths"] and pruned["settings"]["data"] == "pictures.npz"
    for line in found:
        assert line["max_params"] and line["params"] <= 0.47 * line["max_params"]


@pytest.mark.usefixtures("small")
def test_growth_tells_its_share_of_the_seconds(pictures: str, tmp_path: Path) -> None:
    told = made("growth", pictures, tmp_path, "--size 4 --epochs 4")
    assert "family, 4 epochs: " in told and "100% of the seconds" in told
    assert "gngraph, 3 epochs: " in told.replace("\n", " ")


def test_search_stands_beside_random_architectures(pictures: str, tmp_path: Path) -> None:
    words = "--size 4 --width 0.5 --epochs 3 --parts nats-0.1M --methods gngraph-all-layers,random-1,random-2"
    words += f" --lines {tmp_path / 'lines.jsonl'}"
    assert "best of 2 random" in made("search", pictures, tmp_path, words).replace("\n", " ")
    again = made("search", pictures, tmp_path / "new", words)  # whose folder no run makes, for none is left
    assert "best of 2 random" in again.replace("\n", " ")


def test_what_there_is_not_is_refused(pictures: str, tmp_path: Path) -> None:
    arguments = ["search", "--data", pictures, "--out", str(tmp_path), "--parts"]
    wrong = CliRunner().invoke(main, [*arguments, "nats"])
    assert wrong.exit_code == 2 and "has no part 'nats'" in wrong.output
    alone = CliRunner().invoke(main, [*arguments, "vgg19", "--methods", "gngraph:scratch"])
    assert alone.exit_code == 2 and "needs the row 'gngraph'" in alone.output


def test_all_rows_are_of_their_jobs() -> None:
    for table, parts in PARTS.items():
        known = JOBS["shrink" if table == "shrink" else "search"]
        for part in parts.values():
            assert all(row.partition(":")[0] in known for row in part.methods.split(","))


def test_shares_are_of_the_longest_training_of_the_seed() -> None:
    lines = [
        {"method": m, "seed": s, "epochs": e, "settings": {"epochs": e}, "seconds": t, "accuracy": a}
        for m, s, e, t, a in [
            ("family", 0, 140, 70.0, 0.6), ("family", 0, 200, 100.0, 0.7), ("family", 1, 200, 200.0, 0.7),
            ("gngraph", 0, 200, 60.0, 0.71), ("gngraph", 1, 200, 130.0, 0.69),
        ]
    ]  # fmt: skip
    assert shares_of_seconds(lines) == [
        "family, 140 epochs: 0.6000, 70% of the seconds",
        "family, 200 epochs: 0.7000, 100% of the seconds",
        "gngraph, 200 epochs: 0.7000, 62% of the seconds",
    ]


def test_the_best_of_random_ones_is_of_a_size_and_a_seed() -> None:
    lines = [
        {"budget": "100k params", "seed": 0, "method": m, "accuracy": a}
        for m, a in [("gngraph", 0.9), ("random-1", 0.8), ("random-2", 0.85), ("random-3", 0.7)]
    ]
    (told,) = beside_random(lines)
    assert told == "100k params, seed 0: best of 3 random 0.8500, median 0.8000; gngraph 0.9000"


@pytest.mark.parametrize("widths", [(8, 16, 24, 32, 40), (64, 8, 32, 16, 48)])
def test_sizes_of_the_space_are_those_of_its_graphs(widths: tuple[int, ...]) -> None:
    graph = cells_graph(widths, SPACE)
    assert sizes_of(SPACE.input_shape, SPACE.outputs)[widths] == cost(graph)
    own = {space.size for space in ChannelSpaces.of(graph).free}
    assert own == set(widths)


def test_random_architectures_have_the_size_and_are_different() -> None:
    budget = budget_of_cells(200_000, SPACE)
    drawn = [random_cells(number, budget, SPACE) for number in (1, 2, 1)]
    for graph in drawn:
        size = cost(graph)
        assert 0.9 * 200_000 <= size.params <= 200_000 and budget.allows(size)
        assert {space.size for space in ChannelSpaces.of(graph).free} <= set(WIDTHS)
    shapes = [[tuple(p.data.shape) for p in graph.params.values()] for graph in drawn]
    assert shapes[0] != shapes[1] and shapes[0] == shapes[2]
    with pytest.raises(BudgetError, match=r"no architecture of the size space has some 5,000"):
        budget_of_cells(5_000, SPACE)
