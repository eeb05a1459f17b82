"""Direct optimisation of splits: it minimises the loss of the split networks, and `tools/fig4.py` compares with it."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from gngraph.analysis.channels import ChannelSpaces
from gngraph.errors import PassError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.rewrite.morphism import SplitChannel
from gngraph.running.problem import Problem
from gngraph.scoring.gauss_newton import GaussNewton
from gngraph.scoring.options import ScoringOptions
from gngraph.scoring.proposer import Context, Proposer
from gngraph.scoring.registry import PROPOSERS
from gngraph.scoring.sites import SplitSite, split_sites
from tests.scoring.test_exact_predictions import setting as exact_setting
from tests.scoring.test_exact_predictions import worst
from tools import fig4
from tools.direct_splits import DirectOptions, DirectSplits
from tools.free_splits import FreeSplits
from tools.measuring import Samples, apply, changes


def setting() -> tuple[Graph, Problem, SplitSite]:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(2, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(5, 4, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(16, 3),
    ).double()  # fmt: skip
    x, y = torch.randn(90, 2, 8, 8, dtype=torch.float64), torch.randint(3, (90,))
    net(x)
    graph = from_torch(net.eval(), x[:1])
    problem = Problem((x, y), device="cpu", learn=40, judge=20, report=20, batch_size=20)
    return graph, problem, next(iter(split_sites(graph, ChannelSpaces.of(graph))))


def direct(opposite: bool = True, trust: float = 0.4, epochs: int = 0) -> tuple[Graph, Problem, DirectSplits]:
    graph, problem, site = setting()
    learn = ScoringOptions(start=0.3, trust=trust)
    found = DirectSplits(graph, site, 5, problem, DirectOptions(epochs, opposite, learn, block=2))
    found.run()
    return graph, problem, found


def test_its_losses_are_those_of_the_split_networks() -> None:
    graph, problem, found = direct(opposite=False, epochs=1)
    held = Samples(problem, problem.splits.judge)
    ((x, y),) = problem.runner.read(problem.splits.judge, graph)
    base = float(held.losses(graph).mean())
    split = [c["judge"].mean for c in changes(graph, (apply(graph, [m]) for m in found.morphisms()), {"judge": held})]
    assert max(map(abs, split)) > 1e-5
    assert (found.losses(x, y) - base).tolist() == pytest.approx(split, abs=1e-12)


def test_its_gradient_is_that_of_its_losses() -> None:
    graph, problem, found = direct()
    ((x, y),) = problem.runner.read(problem.splits.judge, graph)
    gradient, u, step = found.gradient(x, y), found.u, 1e-6
    direction = torch.randn(u.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found.u = u + step * direction
    up = found.losses(x, y)
    found.u = u - step * direction
    slopes = (up - found.losses(x, y)) / (2 * step)
    assert slopes.abs().max() > 1e-5
    assert torch.allclose(slopes, (gradient * direction).flatten(2).sum((0, 2)), atol=1e-8)


def test_it_lowers_the_loss_within_the_trust_region() -> None:
    graph, problem, start = direct()
    ((x, y),) = problem.runner.read(problem.splits.learn, graph, size=1000)
    before = start.losses(x, y)
    reached = {}
    for opposite, trust in ((True, 0.4), (False, 0.4), (True, math.inf)):
        _, _, found = direct(opposite, trust, epochs=15)
        reached[opposite, trust] = float((found.losses(x, y) - before).sum())
        size = found.u.square().flatten(2).mean((0, 2)).sqrt()
        assert float(size.max()) <= trust + 1e-9
        assert torch.equal(found.u[0], -found.u[1]) is opposite
    assert reached[True, 0.4] < -1e-3
    assert reached[False, 0.4] < reached[True, 0.4] and reached[True, math.inf] < reached[True, 0.4]


def test_what_is_read_around_the_tap_is_refused() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.side = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.b(torch.relu(self.a(x))) + self.side(x)
            return out

    x = torch.randn(40, 3)
    graph, problem = from_torch(Around(), x), Problem((x, torch.zeros(40, 2)), loss="mse", device="cpu")
    site = next(s for s in split_sites(graph, ChannelSpaces.of(graph)) if graph.nodes[s.node].module == "a")
    with pytest.raises(PassError, match="'a' cannot be split directly: 'x' goes around "):
        DirectSplits(graph, site, 4, problem, DirectOptions(1, True, ScoringOptions()))


def test_fig4_compares_the_methods(tmp_path: Path) -> None:
    arguments = "--data digits --network mlp --epochs 0 --samples 200 --unseen 200 --width 0.05 --device cpu"
    arguments += " --passes 1 --direct-passes 4"
    out, threads = tmp_path / "figure", torch.get_num_threads()
    chosen = ["--methods", "random,mc,direct,mc-free", "--out", str(out), "--threads", str(threads)]
    result = CliRunner().invoke(fig4.main, [*arguments.split(), *chosen])
    assert result.exit_code == 0, result.output
    assert out.with_suffix(".png").stat().st_size > 5000
    with out.with_suffix(".csv").open() as file:
        rows = list(csv.DictReader(file))
    sums = {name: sum(float(r["learn"]) for r in rows if r["method"] == name) for name in ("random", "mc", "direct")}
    assert sums["direct"] > sums["mc"] > sums["random"]
    result = CliRunner().invoke(fig4.main, [*arguments.split(), "--methods", "guess"])
    assert result.exit_code == 2 and "there is no method 'guess'" in result.output


def test_splits_with_free_copies_are_predicted_exactly_where_the_model_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graph, analyses = exact_setting("residual")
    site = next(iter(split_sites(graph, ChannelSpaces.of(graph))))

    def free(context: Context) -> list[Proposer]:
        return [FreeSplits(context.graph, site, 4, context.options, context.generator)]

    monkeypatch.setitem(PROPOSERS, "split-free", free)
    options = GaussNewton("exact", epochs=5, start=0.3, trust=1.0, kinds=("split-free",))
    scores = analyses.get(options, graph)
    deviation, size = worst(graph, analyses, scores, "split")
    assert deviation < 2e-6 * max(1.0, size) and size > 1e-3
    for candidate in scores.candidates:
        split = candidate.morphism
        assert isinstance(split, SplitChannel) and split.d1 is not None and split.d2 is not None
        assert float((split.d1 + split.d2).norm()) > 0.1 * float(split.d1.norm())
