"""The benchmarks that shrink transformers: what is compared is the same network, within the same limits, and made once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest
import torch
from click.testing import CliRunner

from gngraph.analysis.cost import Budget, cost
from gngraph.importing.from_torch import from_torch
from gngraph.zoo import build_seed
from gngraph.zoo.transformer import GPT, ViT
from tools import growth_transformers
from tools.bench_language_shrink import METHODS, STORE, main
from tools.growth_transformers import Attention, Way, finer, pruned_within, small_vit, values_of, with_values

TRIES = 5
"""Ratios that Torch-Pruning is asked for here."""

X = torch.linspace(-1, 1, 2 * 3 * 8 * 8).view(2, 3, 8, 8)


def of_zoo() -> ViT:
    return cast(ViT, build_seed("vit", width=0.25, classes=5, input_shape=(3, 8, 8)))


def test_attention_that_reads_its_widths_off_computes_what_the_zoos_does() -> None:
    model = of_zoo()
    before = model(X)
    assert torch.allclose(finer(model)(X), before, atol=1e-6)
    small = small_vit(0.25, 5, (3, 8, 8))
    assert [part.heads for part in small.modules() if isinstance(part, Attention)] == [2] * 4
    assert small.positions.shape == (1, 17, 32)
    graph = from_torch(small, X)
    other = cast(ViT, with_values(small_vit(0.5, 5, (3, 8, 8)), values_of(graph)))
    assert torch.allclose(other(X), small(X), atol=1e-6) and other.patches.out_channels == 32


@pytest.mark.parametrize("way", [Way(heads=True), Way(inside=True)])
def test_torch_pruning_ends_within_a_budget(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    tp = pytest.importorskip("torch_pruning")
    monkeypatch.setattr(growth_transformers, "TRIES", TRIES)
    small = small_vit(0.25, 5, (3, 8, 8))
    size = cost(from_torch(small, X))
    limit = Budget(int(0.7 * size.params), int(0.7 * size.flops))
    made = pruned_within(small, tp.importance.GroupMagnitudeImportance(), X, limit, way)
    assert limit.allows(cost(from_torch(made, X))) and cost(from_torch(small, X)) == size
    heads = [part.heads for part in made.modules() if isinstance(part, Attention)]
    assert (heads == [1] * 4) == way.heads
    assert (made.head.in_features == 32) == way.inside


def test_a_pruned_gpt_still_reads_its_table_of_tokens_as_its_head(monkeypatch: pytest.MonkeyPatch) -> None:
    tp = pytest.importorskip("torch_pruning")
    monkeypatch.setattr(growth_transformers, "TRIES", TRIES)
    model, x = (
        cast(GPT, build_seed("gpt", width=0.25, classes=9, input_shape=(4,))),
        torch.zeros(2, 4, dtype=torch.long),
    )
    finer(model)
    size = cost(from_torch(model, x))
    limit = Budget(size.params // 2, size.flops // 2)
    made = pruned_within(model, tp.importance.RandomImportance(), x, limit, Way())
    assert isinstance(made, GPT) and made.head.weight is made.tokens.weight


def test_every_method_is_run_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torch_pruning")
    monkeypatch.setattr(growth_transformers, "TRIES", TRIES)
    corpus = tmp_path / "corpus.txt"
    corpus.write_bytes(b"".join(f"{i} and {i * i} are numbers.\n".encode() for i in range(9000)))
    methods = ["same", "gngraph", "gngraph-low-rank", "tp-taylor", "narrower", "smaller", "smaller-longer"]
    words = "--width 0.5 --length 8 --steps 4 --batch 4 --samples 24 --measured 8"
    threads = str(torch.get_num_threads())
    arguments = [*words.split(), "--data", str(corpus), "--threads", threads, "--out", str(tmp_path), "--methods"]
    first = CliRunner().invoke(main, [*arguments, ",".join(methods)])
    assert first.exit_code == 0, first.output
    lines = {line["method"]: line for line in map(json.loads, (tmp_path / STORE).read_text().splitlines())}
    assert list(lines) == methods
    same, own, longer = lines["same"], lines["gngraph"], lines["smaller-longer"]
    assert all(lines[m]["params"] <= same["params"] // 2 for m in methods[1:])
    assert all(lines[m]["mflops"] <= same["mflops"] / 2 for m in methods[1:])
    assert same["loss_rewritten"] == pytest.approx(same["loss_before"]) == lines["tp-taylor"]["loss_before"]
    assert own["steps"] == 1 and lines["smaller"]["steps"] == 4 and longer["steps"] >= 8
    again = CliRunner().invoke(main, [*arguments, ",".join(methods)])
    assert again.output == first.output and len((tmp_path / STORE).read_text().splitlines()) == len(methods)
    only = CliRunner().invoke(main, [*arguments, "gngraph-heads"])
    assert "raise the budget" in only.output.replace("\n", " ")  # heads alone are too little
    wrong = CliRunner().invoke(main, [*arguments, "nothing"])
    assert wrong.exit_code == 2 and METHODS[0] in wrong.output
