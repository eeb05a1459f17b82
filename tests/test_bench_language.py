"""The benchmark of language models counts training and search, and goes on where it was; clones compute what they were made of."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tools.bench_language import STORE, main, spent
from tools.language_runs import METHODS, Setting, Start, cloned, network, optimizer_of, rate, stacked

SETTING = Setting(width=0.5, length=8, steps=8, batch=4, lr=1e-3, samples=24, measured=8, text="")


def test_every_method_is_run_once(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_bytes(b"".join(f"{i} and {i * i} are numbers.\n".encode() for i in range(9000)))
    words = "--width 0.5 --length 8 --steps 8 --batch 4 --samples 24 --measured 8 --once 0.5 --twice 0.25,0.5"
    methods = ["full", "shorter", "grown-twice", "cloned", "stacked", "stacked-twice"]
    arguments = [
        *words.split(),
        "--data",
        str(corpus),
        "--threads",
        str(torch.get_num_threads()),
        "--out",
        str(tmp_path),
    ]
    first = CliRunner().invoke(main, [*arguments, "--methods", ",".join(methods)])
    assert first.exit_code == 0, first.output
    lines = {
        line["method"]: line for line in map(json.loads, (tmp_path / STORE).read_text(encoding="utf-8").splitlines())
    }
    assert list(lines) == methods
    full, shorter, grown = (lines[name] for name in ("full", "shorter", "grown-twice"))
    assert full["params"] == lines["cloned"]["params"] == lines["stacked"]["params"] == lines["stacked-twice"]["params"]
    assert 0.8 * full["params"] < grown["params"] <= full["params"] and grown["mflops"] <= full["mflops"]
    assert shorter["training_flops"] == 0.75 * full["training_flops"]
    assert lines["stacked-twice"]["training_flops"] < lines["stacked"]["training_flops"] < full["training_flops"]
    assert full["search_flops"] == lines["cloned"]["search_flops"] == 0 < grown["search_flops"]
    assert len(grown["steps"]) == 2
    again = CliRunner().invoke(main, [*arguments, "--methods", ",".join(methods)])
    assert again.output.splitlines()[-5:] == first.output.splitlines()[-5:]
    assert len((tmp_path / STORE).read_text(encoding="utf-8").splitlines()) == len(methods)


def test_clones_compute_the_same_and_part() -> None:
    x = torch.randint(256, (3, 8), generator=torch.Generator().manual_seed(0))
    small = network(SETTING, 0, Start(0.5))
    optimizer = optimizer_of(small, SETTING)
    small(x).square().mean().backward()
    optimizer.step()
    wide, after = cloned(small, optimizer, SETTING, 0)
    assert torch.allclose(wide(x), small(x), atol=1e-5)
    assert all(after.state[p]["exp_avg"].shape == p.shape for p in wide.parameters())
    wide(x).square().mean().backward()
    after.step()
    first, second = wide.get_parameter("blocks.0.up.weight").detach().chunk(2)
    assert not torch.allclose(first, second, atol=1e-5)


def test_stacked_blocks_are_copies_of_their_own() -> None:
    small = network(SETTING, 0, Start(blocks=0.5))
    optimizer = optimizer_of(small, SETTING)
    small(torch.zeros(1, 8, dtype=torch.int64)).sum().backward()
    optimizer.step()
    deep, after = stacked(small, optimizer, SETTING, 0)
    a, b = deep.get_parameter("blocks.1.up.weight"), deep.get_parameter("blocks.3.up.weight")
    assert torch.equal(a, b) and a.data_ptr() != b.data_ptr()
    assert torch.equal(after.state[a]["exp_avg"], after.state[b]["exp_avg"])
    assert len(list(deep.parameters())) == len(list(network(SETTING, 0).parameters()))


def test_what_a_loss_cost_lies_between_measurements() -> None:
    assert spent([(0, 3.0), (10, 2.0), (20, 1.0)], 1.5) == pytest.approx(15)
    assert spent([(5, 1.0)], 2.0) == 5 and math.isinf(spent([(0, 3.0)], 2.0))
    assert rate(0.5, 2.0) == 2.0 and rate(1.0, 2.0) == 0.0


def test_no_method_is_unknown() -> None:
    result = CliRunner().invoke(main, ["--methods", "nothing", "--out", "."])
    assert result.exit_code == 2 and METHODS[0] in result.output
