"""The benchmark of perturbation runs, and grows what it says."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from tools import bench_perturbation
from tools.bench_perturbation import NETWORKS, main


def test_a_network_is_grown_with_every_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_perturbation, "ROUNDS", 1)
    threads = str(torch.get_num_threads())
    arguments = ["--data", "digits", "--seeds", "1", "--epochs", "2", "--samples", "64,64,64", "--threads", threads]
    result = CliRunner().invoke(main, [*arguments, "--network", "mixer", "--shares", "0,0.5"])
    assert result.exit_code == 0, result.output
    for line in ("mixer, seed 0, share 0:", "mixer, seed 0, share 0.5:"):
        assert line in result.output
    refused = CliRunner().invoke(main, [*arguments, "--network", "vgg11"])
    assert refused.exit_code == 2 and "no network 'vgg11': choose among plain, normed, mixer" in refused.output


def test_networks_differ_by_their_norms() -> None:
    norms = {
        name: {type(m).__name__ for m in make(1, 8, 10).modules() if isinstance(m, nn.BatchNorm2d | nn.LayerNorm)}
        for name, (_, make) in NETWORKS.items()
    }
    assert norms == {"plain": set(), "normed": {"BatchNorm2d"}, "mixer": {"LayerNorm"}}
