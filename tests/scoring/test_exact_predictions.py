"""Where everything behind the tap is linear and the loss is a square, the exact model is not an approximation at all."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.manager import AnalysisManager
from gngraph.errors import GnGraphError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph, TensorType
from gngraph.lowering.to_torch import lower
from gngraph.rewrite.morphism import MergeChannel, PruneChannel, SplitChannel, edits_of
from gngraph.rewrite.surgery import rewrite
from gngraph.running.memory import MemoryShortError
from gngraph.running.problem import Problem
from gngraph.scoring.collect import Collected, Collector
from gngraph.scoring.gauss_newton import GaussNewton, Scores


class Concat(nn.Module):
    """A concatenation whose parts meet their non-linearity behind it, as in DenseNet."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 3, 3, padding=1, bias=False)
        self.b = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(7)
        self.head = nn.Conv2d(7, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.cat([self.a(x), self.b(x)], 1)
        out: Tensor = self.head(torch.relu(self.norm(y))).flatten(1)
        return out


class Residual(nn.Module):
    """Two layers that write one space; the non-linearity follows the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.side = nn.Conv2d(2, 4, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.tanh(self.norm(self.stem(x)) + self.side(x))
        out: Tensor = self.head(y.mean((2, 3)))
        return out


class Twice(nn.Module):
    """One layer reads the space twice, through different non-linearities and so with different means."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 4, 1)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        out: Tensor = self.head(torch.cat([torch.relu(y), torch.sigmoid(y)], 1)).flatten(1)
        return out


class Pooled(nn.Module):
    """Pooling behind the non-linearity, whose greatest entries are not where those of the unsplit channel are."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 4, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.pool(torch.tanh(self.a(x)))).flatten(1)
        return out


class Square(nn.Module):
    """A product of a value with itself is a non-linearity."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(2, 4, 1)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        out: Tensor = self.head(y * y).flatten(1)
        return out


def chain() -> nn.Module:
    """Zero padding, flatten to linear, and a reader with neither bias nor BatchNorm."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3, padding=1, bias=False),
        nn.BatchNorm2d(5),
        nn.Flatten(),
        nn.Linear(5 * 36, 3),
    )


def padded() -> nn.Module:
    """A reader with zero padding and a bias: the folded mean is wrong at the border, and the prediction knows it."""
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.SiLU(), nn.Conv2d(4, 3, 3, padding=1), nn.Flatten())


def depthwise() -> nn.Module:
    """A depthwise layer inside the space, which is a site of its own."""
    return nn.Sequential(
        nn.Conv2d(2, 6, 1), nn.Conv2d(6, 6, 3, padding=1, groups=6), nn.ReLU6(), nn.Conv2d(6, 2, 1), nn.Flatten()
    )


class Gated(nn.Module):
    """A gated linear unit by chunk: a channel owns two rows of the layer, and its change is a product of two."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x).chunk(2, 1)
        out: Tensor = self.head(a * torch.sigmoid(b)).flatten(1)
        return out


class GateReadTwice(nn.Module):
    """A gate that takes part in a product, and is read beside it as well."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Conv2d(2, 4, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        gate = torch.sigmoid(y)
        out: Tensor = self.head(torch.cat([y * gate, gate], 1)).flatten(1)
        return out


def grouped_reader() -> nn.Module:
    """A grouped convolution reads a space: a channel has an entry in every group."""
    return nn.Sequential(nn.Conv2d(2, 8, 1), nn.Tanh(), nn.Conv2d(8, 4, 3, padding=1, groups=2), nn.Flatten())


def grouped_writer() -> nn.Module:
    """A grouped convolution writes a space, by a row in every group."""
    return nn.Sequential(
        nn.Conv2d(2, 8, 1), nn.Tanh(), nn.Conv2d(8, 4, 3, groups=2), nn.Tanh(), nn.Conv2d(4, 2, 1), nn.Flatten()
    )


class Normed(nn.Module):
    """A norm over the channels, whose statistics a removal changes, and a reader beside it."""

    def __init__(self, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(2, 5, 3), norm(5)
        self.head, self.side = nn.Linear(5, 2), nn.Linear(5, 2, bias=False)
        for parameter in self.norm.parameters():
            nn.init.normal_(parameter, 1.0, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).permute(0, 2, 3, 1)
        out: Tensor = self.head(self.norm(y)) + self.side(y)
        return out.flatten(1)


class WhollyNormed(nn.Module):
    """A norm over channels and positions together, and a reader beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm = nn.Conv2d(2, 5, 3), nn.GroupNorm(1, 5)
        self.head, self.side = nn.Conv2d(5, 2, 1), nn.Conv2d(5, 2, 1, bias=False)
        for parameter in self.norm.parameters():
            nn.init.normal_(parameter, 1.0, 0.5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        out: Tensor = self.head(self.norm(y)) + self.side(y)
        return out.flatten(1)


class Centred(nn.Module):
    """Means, sums, variances, deviations and norms over the channels, and means over positions with them, each read by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Conv2d(2, 5, 3), nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        out: Tensor = (
            self.head(y) + y.mean(1, keepdim=True) + y.var(1).unsqueeze(1) + y.mean((1, 2, 3)).view(-1, 1, 1, 1)
        )
        out = out + y.std(1, keepdim=True) - y.std(1, unbiased=False).unsqueeze(1) + y.sum((1, 2), keepdim=True) / 8
        out = out + y.norm(dim=1, keepdim=True) - torch.linalg.vector_norm(y, 3, (1, 3), keepdim=True)
        return out.flatten(1)


class Extreme(nn.Module):
    """The largest and the smallest of the channels, read beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.head = nn.Conv2d(2, 5, 3), nn.Conv2d(5, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        out: Tensor = self.head(y) + y.amax(1, keepdim=True) - y.amin(1).unsqueeze(1)
        return out.flatten(1)


class Most(Extreme):
    """The same by the functions that say where they stand too."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        least, _ = torch.min(y, 1)
        out: Tensor = self.head(y) + torch.max(y, 1, keepdim=True)[0] - least.unsqueeze(1)
        return out.flatten(1)


COUNTED: dict[str, Callable[[], nn.Module]] = {
    "layer norm": lambda: Normed(nn.LayerNorm),
    "rms norm": lambda: Normed(nn.RMSNorm),
    "plain norm": lambda: Normed(lambda width: nn.LayerNorm(width, elementwise_affine=False)),
    "whole norm": WhollyNormed,
    "means": Centred,
    "extrema": Extreme,
    "extrema by max": Most,
}
"""Networks whose spaces norms and means count: removals alone are predicted there."""


CASES: dict[str, Callable[[], nn.Module]] = {
    "chain": chain,
    "concat": Concat,
    "residual": Residual,
    "padded": padded,
    "depthwise": depthwise,
    "pooled": Pooled,
    "square": Square,
    "twice": Twice,
    "gated": Gated,
    "gate read twice": GateReadTwice,
    "grouped reader": grouped_reader,
}


def setting(name: str) -> tuple[Graph, AnalysisManager]:
    torch.manual_seed(0)
    module = (CASES | COUNTED)[name]()
    x = torch.randn(96, 2, 6, 6)
    module.train()
    with torch.no_grad():
        for _ in range(20):
            module(x + 0.1)
        outputs = module.eval()(x)
    taught = 6 * x.mean((2, 3)) @ torch.randn(2, outputs[0].numel())  # something to learn, of which few samples tell
    y = outputs + taught.view_as(outputs) + 0.3 * torch.randn_like(outputs)
    graph = from_torch(module, x[:1]).to(torch.float64)
    problem = Problem((x.double(), y.double()), loss="mse", device="cpu", learn=48, judge=24, report=24, batch_size=16)
    return from_double(graph), AnalysisManager(problem)


def from_double(graph: Graph) -> Graph:
    """The graph with types that say float64, as an import of the float64 module would give."""
    return from_torch(lower(graph).module, torch.zeros(1, 2, 6, 6, dtype=torch.float64))


def report_loss(graph: Graph, analyses: AnalysisManager) -> float:
    report = analyses.problem.splits.report
    x = torch.stack([report[i][0] for i in range(len(report))])
    y = torch.stack([report[i][1] for i in range(len(report))])
    with torch.no_grad():
        return float((lower(graph).module(x) - y).square().mean())


def after(graph: Graph, morphism: object) -> Graph:
    spaces = ChannelSpaces.of(graph)
    assert isinstance(morphism, (SplitChannel, PruneChannel, MergeChannel))
    return rewrite(graph, spaces, edits_of(graph, spaces, [morphism])).graph


def worst(graph: Graph, analyses: AnalysisManager, scores: Scores, kind: str) -> tuple[float, float]:
    """Largest deviation of predicted from actual, and largest actual change, over all candidates of a kind."""
    base = report_loss(graph, analyses)
    predicted = scores.report.changes()
    pairs = [
        (float(predicted[i]), report_loss(after(graph, c.morphism), analyses) - base)
        for i, c in enumerate(scores.candidates)
        if c.morphism.kind == kind
    ]
    assert pairs
    return max(abs(p - a) for p, a in pairs), max(abs(a) for _, a in pairs)


@pytest.mark.parametrize("kind", ["split", "prune"])
@pytest.mark.parametrize("name", list(CASES))
def test_exact_curvature_predicts_exactly(name: str, kind: str) -> None:
    graph, analyses = setting(name)
    scores = analyses.get(GaussNewton("exact", epochs=3, start=1.0, trust=2.0), graph)
    if name == "chain":  # the second space is behind a linear chain up to the loss: its splits are no candidates
        spaces = {c.morphism.space for c in scores.candidates if isinstance(c.morphism, SplitChannel)}
        assert spaces == {"0"} and any("without a non-linearity" in note for note in scores.notes)
    deviation, size = worst(graph, analyses, scores, kind)
    assert size > 1e-4, "nothing happens, so nothing is proved"
    assert deviation < 2e-6 * max(1.0, size)  # moments are kept in float32


@pytest.mark.parametrize("name", list(COUNTED))
def test_what_statistics_do_without_a_channel_is_predicted_exactly(name: str) -> None:
    graph, analyses = setting(name)
    scores = analyses.get(GaussNewton("exact", kinds=("prune",), epochs=3), graph)
    deviation, size = worst(graph, analyses, scores, "prune")
    assert size > 1e-3, "nothing happens, so nothing is proved"
    assert deviation < 2e-6 * max(1.0, size)


def test_a_merge_is_predicted_with_what_statistics_do_without_the_channel() -> None:
    graph, analyses = setting("layer norm")
    scores = analyses.get(GaussNewton("exact", kinds=("merge",), epochs=3), graph)
    deviation, size = worst(graph, analyses, scores, "merge")
    assert size > 1e-3 and deviation < 0.3 * size  # what is rebuilt from channels that the norm changes is left out


def test_channels_that_a_norm_counts_are_neither_split_nor_found() -> None:
    graph, analyses = setting("layer norm")
    with pytest.raises(GnGraphError, match=r"not followed through 'norm'.*'norm' \(layer_norm\) counts its channels"):
        analyses.get(GaussNewton("exact", kinds=("split", "new"), epochs=1), graph)


def test_a_grouped_layer_is_a_site(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CASES, "grouped writer", grouped_writer)
    graph, analyses = setting("grouped writer")
    scores = analyses.get(GaussNewton("exact", epochs=0, start=8.0, trust=9.0), graph)
    own = [c for c in scores.candidates if c.site == "2" and c.morphism.kind == "split"]
    assert len(own) == 2  # two groups of two channels: one more channel is one in every group
    base, predicted = report_loss(graph, analyses), scores.report.changes()
    for i, candidate in enumerate(scores.candidates):
        if candidate in own:
            actual = report_loss(after(graph, candidate.morphism), analyses) - base
            assert abs(actual) > 1e-5 and abs(float(predicted[i]) - actual) < 2e-6


def test_scores_do_not_depend_on_the_size_of_a_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, analyses = setting("residual")
    scoring = GaussNewton("exact", epochs=2, start=1.0, trust=2.0)
    collected: list[int] = []
    collect = Collector.collect

    def counted(self: Collector, x: Tensor, *rest: Any) -> Collected:
        collected.append(len(x))
        return collect(self, x, *rest)

    monkeypatch.setattr(Collector, "collect", counted)
    whole = analyses.get(scoring, graph)
    assert collected == [16] * 6 + [16, 8] * 2
    collected.clear()
    monkeypatch.setattr("gngraph.scoring.collect.PIECE", 3)
    shapes = [node.type.shape for node in graph.nodes.values() if isinstance(node.type, TensorType)]
    held = sum(math.prod(int(size) for size in shape[1:]) for shape in shapes)
    monkeypatch.setattr("gngraph.scoring.collect.VALUES", 5 * held)
    pieces = AnalysisManager(analyses.problem).get(scoring, graph)
    assert collected == [5, 5, 5, 1] * 6 + [5, 5, 5, 1, 5, 3] * 2
    torch.testing.assert_close(pieces.report.changes(), whole.report.changes(), atol=1e-6, rtol=1e-4)
    collected.clear()
    monkeypatch.setattr("gngraph.scoring.collect.PIECE_BYTES", 1)  # of a large network
    pieces = AnalysisManager(analyses.problem).get(replace(scoring, epochs=0), graph)
    assert collected == [1] * 48 and torch.isfinite(pieces.report.changes()).all()


def test_what_memory_does_not_suffice_for_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, analyses = setting("residual")
    there = [10_000]
    monkeypatch.setattr("gngraph.running.memory.total_memory", lambda device: there[0])
    exact = GaussNewton("exact", epochs=0)
    with pytest.raises(
        MemoryShortError, match=r"single sample of '.*' by curvature 'exact', of 3 factors, takes .* but cpu has"
    ):
        analyses.get(exact, graph)
    there[0] = 15_000
    with pytest.raises(
        MemoryShortError, match="effects of 12 candidates on 24 samples by curvature 'exact', of 3 factors,"
    ):
        analyses.get(exact, graph)
    assert analyses.get(GaussNewton("mc", epochs=0), graph).candidates


def test_learning_lowers_the_predicted_loss() -> None:
    graph, analyses = setting("residual")
    first = analyses.get(GaussNewton("exact", epochs=0), graph)
    later = analyses.get(GaussNewton("exact", epochs=30, trust=2.0), graph)

    def total(scores: Scores) -> float:
        return sum(c.gain for c in scores.candidates if c.morphism.kind == "split")

    assert total(later) > total(first)


@pytest.mark.parametrize("curvature", ["mc{draws=64}", "rank1"])
def test_other_curvatures_agree_to_first_order(curvature: str) -> None:
    graph, analyses = setting("padded")
    exact = analyses.get(GaussNewton("exact", epochs=0, start=1.0, trust=2.0), graph)
    other = analyses.get(GaussNewton(curvature, epochs=0, start=1.0, trust=2.0), graph)
    assert torch.allclose(exact.report.s, other.report.s, atol=1e-6)
    if curvature.startswith("mc"):
        a, b = exact.report.changes(), other.report.changes()
        assert float(torch.corrcoef(torch.stack([a, b]))[0, 1]) > 0.98


def test_a_depthwise_layer_is_a_site_of_its_own() -> None:
    graph, analyses = setting("depthwise")
    sites = {c.site for c in analyses.get(GaussNewton(epochs=0), graph).candidates if c.morphism.kind == "split"}
    assert sites == {"0", "1"}


def test_batch_statistics_are_noted_and_a_loss_on_an_unnamed_output_refused() -> None:
    problem = Problem((torch.randn(60, 3), torch.arange(60) % 2), device="cpu", learn=20, judge=20, report=20)
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.ReLU(), nn.Linear(4, 2))
    scores = AnalysisManager(problem).get(GaussNewton(), from_torch(net, torch.randn(2, 3)))
    assert any("'1' normalises by the batch at hand" in note for note in scores.notes)

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = torch.relu(self.a(x))
            return self.b(y), x

    with pytest.raises(GnGraphError, match='reads one tensor, but the outputs are "0" and "1": name one'):
        AnalysisManager(problem).get(GaussNewton(), from_torch(Two(), torch.randn(1, 3)))
