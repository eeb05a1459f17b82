"""The benchmark of the ranking prints a row a network."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner

from tools.bench_ranking import Ranked, main


def test_a_network_is_ranked_in_every_depth() -> None:
    threads = str(torch.get_num_threads())
    found = CliRunner().invoke(main, ["--depths", "14,20", "--samples", "8", "--threads", threads])
    assert found.exit_code == 0, found.output
    rows = [
        [cell.strip() for cell in line.split("│")[1:4]] for line in found.output.splitlines() if line.startswith("│")
    ]
    assert rows == [["14", "57", "4"], ["20", "81", "7"]]


def test_the_power_is_that_of_the_nodes() -> None:
    first, second, third = (Ranked(0, n, 0, 0.0, 0.0, 0.0, s) for n, s in ((100, 0.5), (200, 1.0), (300, 4.5)))
    assert second.growth(first) == pytest.approx(1.0) and third.growth(first) == pytest.approx(2.0)
