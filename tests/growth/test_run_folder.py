"""A run folder holds the network in every form, its history, and pictures."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch

import gngraph
from gngraph.analysis.cost import cost
from gngraph.errors import GnGraphError
from gngraph.files.archive import load
from gngraph.growth.history import read_history
from gngraph.growth.jobs import JOBS
from gngraph.growth.loop import grow_by
from gngraph.growth.result import GrowthResult
from gngraph.growth.run_folder import RunFiles, write_run_folder
from gngraph.lowering.to_torch import run
from gngraph.options import GrowOptions, TrainOptions
from gngraph.report.page import tell
from tests.problems import digits, problem, small_vgg


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[GrowthResult, RunFiles, torch.Tensor]:
    folder = tmp_path_factory.mktemp("runs") / "first"
    seed = small_vgg()
    train = TrainOptions(batch_size=32)
    options = GrowOptions(max_params=2 * cost(seed).params, rounds=1, epochs=1, final_epochs=1, train=train)
    result = grow_by(JOBS["grow"].task(options, seed), seed, problem(), out=folder)
    data = digits()
    samples = torch.stack([data.test[i][0] for i in range(4)])
    files = write_run_folder(
        result,
        folder,
        draw=tell,
        samples=samples,
        inputs=data.inputs_record(),
    )
    return result, files, samples


def test_archives_hold_the_seed_and_the_result(finished: tuple[GrowthResult, RunFiles, torch.Tensor]) -> None:
    result, files, x = finished
    assert torch.equal(run(load(files.model), x), run(result.graph, x))
    assert torch.equal(run(load(files.seed), x), run(result.seed, x))


def test_the_source_needs_no_gngraph_and_computes_the_same(
    finished: tuple[GrowthResult, RunFiles, torch.Tensor],
) -> None:
    result, files, x = finished
    spec = importlib.util.spec_from_file_location("grown_model", files.source)
    assert spec is not None and spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert "gngraph" not in "".join(line for line in files.source.read_text().splitlines() if "import" in line)
    with torch.no_grad():
        torch.testing.assert_close(module.load()(x), run(result.graph, x))


def test_onnx_history_and_pictures_are_there(finished: tuple[GrowthResult, RunFiles, torch.Tensor]) -> None:
    result, files, _ = finished
    assert files.onnx.path.is_file() and 4 in files.onnx.parity.batches and files.weights.is_file()
    assert read_history(files.history) == result.history
    names = {p.stem for p in files.pictures}
    assert {"predicted_vs_actual", "training", "widths"} <= names
    assert sorted(p.name for p in files.pictures) == sorted(f"{n}.{kind}" for n in names for kind in ("png", "svg"))
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in files.pictures if p.suffix == ".png")
    assert files.report.name == "report.html" and "<!doctype html>" in files.report.read_text()


def test_every_round_leaves_its_network(finished: tuple[GrowthResult, RunFiles, torch.Tensor]) -> None:
    result, files, x = finished
    folder = files.model.parent
    seed, first, last = (gngraph.load(f"{folder}{round}") for round in ("@0", "@1", ""))
    assert torch.equal(run(seed, x), run(result.seed, x)) and torch.equal(run(last, x), run(result.graph, x))
    assert cost(first).params == result.history[0]["params"] == cost(last).params
    assert not torch.equal(run(first, x), run(last, x))  # it was trained on
    with pytest.raises(GnGraphError, match=r"has no network of round 2: it has 1, and 0 for the seed"):
        gngraph.load(f"{folder}@2")


def test_channels_are_followed_from_round_to_round(finished: tuple[GrowthResult, RunFiles, torch.Tensor]) -> None:
    result, files, _ = finished
    kept = read_history(files.history.with_name("channels.jsonl"))
    assert kept == result.channels and [record["round"] for record in kept] == [0, 1, 2]
    seed, scored, grown = (record["spaces"] for record in kept)
    assert {n: e["size"] for n, e in grown.items() if not e["frozen"]} == result.history[-1]["widths"]
    for name, entry in grown.items():
        if entry["frozen"] is None:
            through = [scored[name]["source"][c] if c >= 0 else -1 for c in entry["source"]]
            assert through == result.lineage[name] and max(through) < seed[name]["size"]
            assert len(scored[name]["split"]["gain"]) == scored[name]["size"]
            assert ("prune" in scored[name]) == (scored[name]["size"] > 1)
    selection = kept[1]["selection"]
    assert selection["judge"][-1] == pytest.approx(result.history[0]["judge"]["predicted"], rel=1e-3)
    assert selection["report"][-1] == pytest.approx(result.history[0]["predicted"], rel=1e-3, abs=1e-6)


def test_a_second_run_into_the_folder_is_refused(finished: tuple[GrowthResult, RunFiles, torch.Tensor]) -> None:
    result, files, _ = finished
    before = files.model.read_bytes()
    with pytest.raises(GnGraphError, match="holds the history of another run; name another folder"):
        gngraph.grow(result.seed, problem(), max_params=10**6, out=Path(files.model.parent))
    assert files.model.read_bytes() == before
