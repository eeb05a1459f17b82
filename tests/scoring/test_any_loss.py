"""Losses on any output of a network: several heads, dictionaries, segmentation, functions of the user's own."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import Dataset

import gngraph
from gngraph.analysis.manager import AnalysisManager
from gngraph.curvature import CrossEntropy, CustomLoss, Heads, MeanSquaredError
from gngraph.data import batches
from gngraph.errors import DataError, GnGraphError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.lowering.to_torch import lower
from gngraph.options import TrainOptions
from gngraph.rewrite.morphism import PruneChannel, SplitChannel, edits_of
from gngraph.rewrite.surgery import rewrite
from gngraph.running.evaluation import evaluate, mean_loss
from gngraph.running.problem import Problem
from gngraph.scoring.gauss_newton import GaussNewton, Scores
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer
from tests.command_line import Commands, write_bars

SIZES: dict[str, Any] = {"learn": 24, "judge": 24, "report": 24, "batch_size": 16, "device": "cpu"}


class TwoHeads(nn.Module):
    """A regression and a second one that also reads the first hidden layer; behind the tanh everything is linear."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.out, self.aux = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = torch.tanh(self.trunk(x))
        return {"out": self.out(y), "aux": self.aux(y)}


class Pair(TwoHeads):
    """The same as a tuple."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        y = torch.tanh(self.trunk(x))
        return self.out(y), self.aux(y)


class Segmenter(nn.Module):
    """As torchvision's segmentation networks: an ordered dictionary of logits [N, K, H, W], upsampled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(4, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU())
        self.head, self.aux = nn.Conv2d(5, 3, 1), nn.Conv2d(4, 3, 1)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        early = self.stem(x)
        result = OrderedDict()
        result["out"] = functional.interpolate(
            self.head(self.body(early)), size=x.shape[-2:], mode="bilinear", align_corners=False
        )
        result["aux"] = functional.interpolate(self.aux(early), size=x.shape[-2:], mode="bilinear", align_corners=False)
        return result


def two_heads(kind: type[TwoHeads] = TwoHeads) -> tuple[Graph, Tensor, dict[str, Tensor]]:
    """The network, samples, and noisy targets for both heads."""
    torch.manual_seed(0)
    net, x = kind().double(), torch.randn(72, 4, dtype=torch.float64)
    y = {"out": torch.randn(72, 3, dtype=torch.float64), "aux": torch.randn(72, 2, dtype=torch.float64)}
    return from_torch(net, x[:2]), x, y


def pictures(count: int = 96) -> tuple[Tensor, Tensor]:
    """Noisy pictures [N, 2, 8, 8] of three regions, labels [N, 8, 8], a quarter of them unknown (255)."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(3, (count, 1, 2, 2), generator=generator)
    labels = functional.interpolate(coarse.float(), size=(8, 8)).long().squeeze(1)
    x = torch.stack([labels == 1, labels == 2], 1).float() + 0.3 * torch.randn(count, 2, 8, 8, generator=generator)
    unknown = torch.rand(labels.shape, generator=generator) < 0.25
    return x, torch.where(unknown, 255, labels)


def segmenter() -> Graph:
    torch.manual_seed(1)
    return from_torch(Segmenter(), torch.zeros(2, 2, 8, 8))


def segmentation(**given: Any) -> Problem:
    known = CrossEntropy(ignore_index=255)
    loss = Heads({"out": known, "aux": (known, 0.4)})
    return Problem(pictures(), **{"loss": loss, **SIZES, **given})


def scored(graph: Graph, problem: Problem, curvature: str) -> Scores:
    return AnalysisManager(problem).get(GaussNewton(curvature, epochs=0, start=1.0, trust=2.0), graph)


def report_deviation(graph: Graph, problem: Problem, scores: Scores) -> tuple[float, float]:
    """Largest deviation of a predicted from an actual change of the report loss, and the largest actual change."""
    analyses = AnalysisManager(problem)
    spaces = analyses.get(gngraph.ChannelSpaces, graph)
    report = problem.splits.report
    base, pairs = mean_loss(graph, problem, report), []
    for candidate, predicted in zip(scores.candidates, scores.report.changes().tolist(), strict=True):
        assert isinstance(candidate.morphism, SplitChannel | PruneChannel)
        after = rewrite(graph, spaces, edits_of(graph, spaces, [candidate.morphism])).graph
        pairs.append((predicted, mean_loss(after, problem, report) - base))
    return max(abs(p - a) for p, a in pairs), max(abs(a) for _, a in pairs)


@pytest.mark.parametrize("kind", [TwoHeads, Pair])
def test_a_sum_over_two_heads_is_predicted_exactly(kind: type[TwoHeads]) -> None:
    graph, x, y = two_heads(kind)
    named = kind is TwoHeads
    loss = Heads({"out": "mse", "aux": ("mse", 0.4)} if named else {0: "mse", 1: ("mse", 0.4)})
    problem = Problem((x, y if named else (y["out"], y["aux"])), loss=loss, **SIZES)
    scores = scored(graph, problem, "exact")
    deviation, size = report_deviation(graph, problem, scores)
    assert size > 1e-3 and deviation < 1e-6
    with torch.no_grad():
        reference = lower(graph).module(x)
    out, aux = (reference["out"], reference["aux"]) if named else reference
    expected = functional.mse_loss(out, y["out"]) + 0.4 * functional.mse_loss(aux, y["aux"])
    assert mean_loss(graph, problem, problem.samples) == pytest.approx(float(expected))
    loss_alone, accuracy = evaluate(graph, problem, problem.samples)
    assert loss_alone == pytest.approx(float(expected)) and accuracy is None


@pytest.mark.parametrize(("kind", "output"), [(TwoHeads, "aux"), (Pair, 1)])
def test_one_named_output_is_read_and_the_other_is_not(kind: type[TwoHeads], output: str | int) -> None:
    graph, x, y = two_heads(kind)
    problem = Problem((x, y["aux"]), loss="mse", output=output, **SIZES)
    scores = scored(graph, problem, "exact")
    deviation, size = report_deviation(graph, problem, scores)
    assert size > 1e-3 and deviation < 1e-6


@pytest.mark.parametrize("problem_of", ["heads", "segmentation"])
def test_sampled_factors_agree_with_exact_ones(problem_of: str) -> None:
    if problem_of == "heads":
        graph, x, y = two_heads()
        problem = Problem((x, y), loss=Heads({"out": "mse", "aux": ("mse", 0.4)}), **SIZES)
    else:
        graph, problem = segmenter(), segmentation(output=None)
    exact = scored(graph, problem, "exact")
    draws = 200 if problem_of == "heads" else 50
    sampled = scored(graph, problem, f"mc{{draws={draws}}}")
    torch.testing.assert_close(sampled.report.s, exact.report.s, rtol=1e-4, atol=1e-6)
    second = exact.report.q.square().sum(0).mean(0)  # over samples, for each candidate
    terms = sampled.report.q.square() * len(sampled.report.q)
    drawn = terms.mean(1)  # of each draw
    error = drawn.std(0) / len(drawn) ** 0.5
    assert float(second.max()) > 1e-4
    assert ((drawn.mean(0) - second).abs() < 5 * error + 1e-9).all()


def test_a_function_is_a_loss_and_a_sampler_gives_it_sampled_curvature() -> None:
    graph, x, y = two_heads()

    def misfit(outputs: dict[str, Tensor], targets: dict[str, Tensor]) -> Tensor:
        first, second = ((outputs[key] - targets[key]).square().mean(1) for key in ("out", "aux"))
        return first + 0.4 * second

    plain = Problem((x, y), loss=misfit, **SIZES)
    scores = scored(graph, plain, "mc")
    assert scores.notes == ('loss "misfit" does not support curvature "mc": "rank1" is used instead',)

    squares = MeanSquaredError()

    def sampler(outputs: dict[str, Tensor], targets: dict[str, Tensor], noise: torch.Generator) -> dict[str, Tensor]:
        return {
            "out": squares.sample_factor(outputs["out"], targets["out"], noise),
            "aux": 0.4**0.5 * squares.sample_factor(outputs["aux"], targets["aux"], noise),
        }

    sampled = scored(graph, Problem((x, y), loss=CustomLoss("misfit", misfit, sampler), **SIZES), "mc{draws=400}")
    exact = scored(graph, Problem((x, y), loss=Heads({"out": "mse", "aux": ("mse", 0.4)}), **SIZES), "exact")
    assert sampled.notes == ()
    torch.testing.assert_close(sampled.report.s, exact.report.s)
    torch.testing.assert_close(sampled.report.changes(), exact.report.changes(), rtol=0.1, atol=2e-3)


def test_a_segmentation_network_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gngraph.report.page.tell", lambda result, folder: (folder / "report.html", ()))
    problem = segmentation()
    seed = segmenter()
    options = TrainOptions(lr=0.1, batch_size=16)
    result = gngraph.grow(
        seed, problem, max_params=3 * seed.num_params(), rounds=1, epochs=2, final_epochs=3, train=options, out=tmp_path
    )
    grown, last = result.graph, result.history[-1]
    assert seed.num_params() < grown.num_params() <= 3 * seed.num_params()
    assert last["loss"] < 0.7 * mean_loss(seed, problem, problem.test)
    with torch.no_grad():
        outputs = lower(grown).module(problem.train[0][0].unsqueeze(0))
    assert list(outputs) == ["out", "aux"] and outputs["out"].shape == (1, 3, 8, 8)
    x, y = next(batches(problem.test, len(problem.test)))
    with torch.no_grad():
        hits = (lower(grown).module(x)["out"].argmax(1) == y)[y != 255].float().mean()
    assert last["accuracy"] == pytest.approx(float(hits), abs=0.02) and last["accuracy"] > 0.6


class Named(Dataset[Any]):
    """A data set whose targets are a dictionary with a tensor and a number."""

    def __init__(self, x: Tensor, y: dict[str, Tensor]) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> Any:
        return self.x[index], {"out": self.y["out"][index], "aux": float(self.y["aux"][index, 0])}


class Both:
    def __init__(self, samples: Dataset[Any]) -> None:
        self.train = self.test = samples


def test_a_data_set_may_give_several_targets() -> None:
    graph, x, y = two_heads()
    loss = Heads({"out": "mse", "aux": CustomLoss("first", lambda o, t: (o[:, 0] - t).square())})
    problem = Problem(Both(Named(x, y)), loss=loss, **SIZES)
    trained = Trainer(problem, TrainOptions(lr=0.05, batch_size=16)).train(graph, Stretch(3, "constant", 0.0, 0))
    assert mean_loss(trained.graph, problem, problem.train) < mean_loss(graph, problem, problem.train)
    scores = scored(graph, problem, "mc")
    assert scores.notes[0].endswith('"rank1" is used instead')


def scalar(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs - targets).square().mean()


def blind(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.detach() - targets).square().mean(1)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"output": "head"}, 'the network has no output "head": it returns "out" and "aux", so name one of these'),
        ({"output": 0}, 'the network has no output "0": it returns "out" and "aux", so name one of these'),
        ({}, 'loss "mse" reads one tensor, but the outputs are "out" and "aux": name one'),
        ({"output": "out", "loss": scalar}, 'loss "scalar" returned shape "scalar" for 2 samples: it must return one'),
        ({"loss": lambda o, t: o["head"] - t}, "for a regression): KeyError, 'head'"),
        ({"output": "out", "loss": "hinge"}, 'unknown loss "hinge": choose one of'),
        ({"output": "aux"}, "loss 'mse(aux)' cannot compare the outputs of network 'TwoHeads', 'out' of type"),
        (
            {"output": "out", "loss": CustomLoss("l", MeanSquaredError().per_sample, lambda o, t, g: o[0])},
            'the sampler of loss "l" returned shape "3" for outputs of shape "2x3"',
        ),
    ],
)
def test_what_does_not_fit_is_said_before_anything_runs(given: dict[str, Any], message: str) -> None:
    graph, x, y = two_heads()
    with pytest.raises(GnGraphError) as caught:
        gngraph.grow(graph, Problem((x, y["out"]), **{"loss": "mse", **SIZES, **given}), max_params=100)
    assert message in str(caught.value)


def picture_heads() -> nn.Module:
    """Two heads on flattened 8 x 8 pictures, for the command line."""
    net = TwoHeads()
    net.trunk = nn.Linear(64, 6)
    return nn.Sequential(nn.Flatten(), net)


def test_the_command_line_names_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data, command = write_bars(tmp_path / "bars.npz"), Commands(capsys)
    gngraph.save(from_torch(picture_heads(), torch.zeros(2, 1, 8, 8)), tmp_path / "net.gng")
    line = command.refused("score", "net.gng", "--data", data)
    assert 'the outputs are "out" and "aux": name one (Problem(output=...), --loss-output)' in line
    assert "'Sequential' has '2' outputs" in command.refused("score", "net.gng", "--data", data, "--loss-output", "aux")
    assert "split" in command.ok("score", "net.gng", "--data", data, "--loss-output", "out")


def test_a_loss_without_gradient_is_refused() -> None:
    graph, x, y = two_heads()
    with pytest.raises(GnGraphError, match=r'loss "blind\(out\)" has no gradient with respect to the outputs'):
        scored(graph, Problem((x, y["out"]), output="out", loss=blind, **SIZES), "rank1")


def test_labels_are_checked_but_for_those_ignored() -> None:
    x, y = pictures()
    with pytest.raises(DataError, match=r"label '255' of sample 0 in 'the data, training set' is outside 0\.\.2"):
        gngraph.grow(segmenter(), Problem((x, y), output="out", **SIZES), max_params=10_000)


def test_targets_of_several_lengths_are_refused() -> None:
    with pytest.raises(DataError, match="the data has '4' samples but '3' targets"):
        Problem((torch.zeros(4, 2), {"a": torch.zeros(4), "b": torch.zeros(3)}))
