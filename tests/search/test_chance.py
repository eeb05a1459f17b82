"""Networks that have learned nothing are told from those that have, whatever the loss, and a growth run says so."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import cost
from gngraph.api import grow
from gngraph.cli.progress import RunProgress
from gngraph.curvature import CrossEntropy, CustomLoss, Heads
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.lowering.to_torch import to_torch
from gngraph.options import GrowOptions, RunOptions, TrainOptions
from gngraph.rewrite.layer_removal import removable_layers
from gngraph.running.constant import constant_loss
from gngraph.running.problem import Problem
from gngraph.search.chance import is_trained, known, luck, no_better_than_chance
from gngraph.search.depth import Found
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer

TRAIN = TrainOptions("adamw", 0.02, batch_size=32)


class TwoHeads(nn.Module):
    """A class and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.kind, self.size = nn.Linear(5, 8), nn.Linear(8, 3), nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Both of them."""
        h = torch.relu(self.body(x))
        return {"kind": self.kind(h), "size": self.size(h)[:, 0]}


def cases() -> dict[str, tuple[nn.Module, Problem]]:
    """Networks with problems that they can learn."""
    torch.manual_seed(0)
    x = torch.randn(600, 5)
    kind, size = (x @ torch.randn(5, 3)).argmax(1), x @ torch.randn(5)
    sizes = {"device": "cpu", "learn": 200, "judge": 200, "report": 200}
    loss = CustomLoss(
        "cubic", lambda output, target: (output - target).abs() ** 3 - 9.0
    )  # below zero, which a loss may be
    both = Heads({"kind": CrossEntropy(), "size": ("mse", 0.5)})
    chain = [nn.Linear(5, 8), nn.ReLU()]
    return {
        "classes": (nn.Sequential(*chain, nn.Linear(8, 3)), Problem((x, kind), **sizes)),  # type: ignore[arg-type]
        "numbers": (nn.Sequential(*chain, nn.Linear(8, 1)), Problem((x, size[:, None]), "mse", **sizes)),  # type: ignore[arg-type]
        "own": (nn.Sequential(*chain, nn.Linear(8, 1), nn.Flatten(0)), Problem((x, size), loss, **sizes)),  # type: ignore[arg-type]
        "heads": (TwoHeads(), Problem((x, {"kind": kind, "size": size}), both, **sizes)),  # type: ignore[arg-type]
    }


def traced(module: nn.Module) -> Graph:
    return from_torch(module, torch.zeros(2, 5))


def blind(module: nn.Module) -> Graph:
    """The network with weights that read nothing of its input."""
    graph = traced(module)
    first = next(name for name, p in graph.params.items() if p.data.dim() == 2)
    return graph.with_params({first: torch.zeros_like(graph.params[first].data)})


@pytest.mark.parametrize("name", cases())
def test_a_network_that_sees_nothing_of_its_input_is_told_from_one_that_has_learned(name: str) -> None:
    module, problem = cases()[name]
    told = no_better_than_chance(blind(module), problem)
    assert told is not None and "no better than by chance" in told and "train it longer" in told
    trained = Trainer(problem, TRAIN).train(traced(module), Stretch(3, "constant")).graph
    assert no_better_than_chance(trained, problem) is None


@pytest.mark.parametrize("name", cases())
def test_a_trained_network_is_told_from_a_fresh_one_as_it_is_given(name: str) -> None:
    module, problem = cases()[name]
    fresh = traced(module)
    trained = Trainer(problem, TRAIN).train(fresh, Stretch(8, "constant")).graph
    assert is_trained(trained, problem, known(trained, problem))
    assert not is_trained(fresh, problem, known(fresh, problem))


def test_a_network_that_fits_numbers_by_luck_is_not_taken_for_trained() -> None:
    """A fresh MLP fits a linear map as often as its opposite, and by more than a tenth of its loss in one of six runs."""
    lucky = taken = 0
    for seed in range(24):
        torch.manual_seed(seed)
        x = torch.randn(600, 5)
        problem = Problem((x, (x @ torch.randn(5))[:, None]), "mse", device="cpu", seed=seed)
        graph = traced(nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 1)))
        found = known(graph, problem)
        lucky += found.gain > 0.1
        taken += is_trained(graph, problem, found)
    assert lucky >= 3 and taken <= 1


def test_weights_that_cannot_be_drawn_anew_are_compared_with_nothing() -> None:
    module, problem = cases()["classes"]
    trained = Trainer(problem, TRAIN).train(traced(module), Stretch(3, "constant")).graph
    graph = from_torch(to_torch(trained).requires_grad_(False), torch.zeros(2, 5))
    assert luck(graph, problem) == 0 and is_trained(graph, problem, known(graph, problem))


def test_samples_of_a_batch_size_of_one_are_still_exchanged() -> None:
    module, whole = cases()["classes"]
    problem = Problem(whole.data, device="cpu", learn=200, judge=200, report=200, batch_size=1)
    trained = Trainer(problem, TRAIN).train(traced(module), Stretch(3, "constant")).graph
    assert no_better_than_chance(trained, problem) is None


def test_a_growth_run_says_once_that_its_network_had_learned_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    module, problem = cases()["classes"]
    seed = blind(module)
    progress = RunProgress(RunOptions(rounds=1, epochs=0, final_epochs=3))
    with progress:
        result = grow(
            seed, problem, max_params=2 * cost(seed).params, rounds=1, epochs=0, final_epochs=3, train=TRAIN,
            observer=progress,
        )  # fmt: skip
        progress.round_finished(result.history[0])
    (note,) = (note for note in result.history[0]["notes"] if "by chance" in note)
    assert capsys.readouterr().out.count(note) == 1


def test_a_growth_run_says_nothing_where_something_was_learned() -> None:
    module, problem = cases()["classes"]
    result = grow(traced(module), problem, max_params=150, rounds=1, epochs=3, final_epochs=0, train=TRAIN)
    assert not any("by chance" in note for note in result.history[0]["notes"])


def test_targets_that_are_all_alike_are_named() -> None:
    graph = from_torch(nn.Linear(5, 3), torch.zeros(2, 5))
    told = no_better_than_chance(graph, Problem((torch.randn(80, 5), torch.ones(80, dtype=torch.int64)), device="cpu"))
    assert told is not None and "all the same target" in told


def test_the_best_constant_output_is_that_of_the_frequencies_or_the_mean() -> None:
    found = {name: (problem, constant_loss(traced(module), problem)) for name, (module, problem) in cases().items()}
    problem, loss = found["classes"]
    learn, judge = (
        torch.tensor([problem.samples[i][1] for i in s.indices]) for s in (problem.splits.learn, problem.splits.judge)
    )
    shares = learn.bincount(minlength=3) / len(learn)
    assert loss == pytest.approx(float(-shares[judge].log().mean()), rel=1e-3)
    problem, loss = found["numbers"]
    learn, judge = (
        torch.stack([problem.samples[i][1] for i in s.indices]) for s in (problem.splits.learn, problem.splits.judge)
    )
    assert loss == pytest.approx(float((judge - learn.mean()).square().mean()), rel=1e-3)
    assert 0 < found["heads"][1] < 10 and found["own"][1] == float("inf"), "outputs of a loss of one's own may be bound"


def test_a_wrecked_network_that_still_tells_samples_apart_is_no_guide() -> None:
    module, problem = cases()["classes"]
    trained = Trainer(problem, TRAIN).train(traced(module), Stretch(3, "constant")).graph
    last = [name for name, p in trained.params.items() if p.data.dim() == 2][-1]
    wrecked = trained.with_params({last: 900 * trained.params[last].data})
    assert not known(wrecked, problem).chance, "targets of other samples fit worse still"
    told = no_better_than_chance(wrecked, problem)
    assert told is not None and "is above that of the best constant output" in told


def test_a_network_is_trained_after_layers_went_by_epochs_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    _, problem = cases()["classes"]
    seed = traced(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)))

    def shallow(graph: Graph, *rest: object) -> Found:
        (layer,) = removable_layers(graph, ChannelSpaces.of(graph))[:1]
        return Found((layer,), (layer,), (), 0)

    monkeypatch.setattr("gngraph.growth.restructuring.searched", shallow)
    for worst, final, epochs in ((10.0, 5, 1), (0.0, 5, 3), (0.0, 3, 2)):
        options = GrowOptions(rounds=2, epochs=3, final_epochs=final, depth="search", train=TRAIN, max_params=300)
        monkeypatch.setattr("gngraph.growth.rounds.constant_loss", lambda graph, problem, worst=worst: worst)
        history = grow(seed, problem, options).history
        recovery = history[0]["depth"]["recovery"]
        assert recovery["epochs"] == epochs and len(recovery["losses"]) == epochs + 1
        assert recovery["losses"][-1] < recovery["losses"][0]
        numbers = [entry["epoch"] for record in history for entry in record["epochs"]]
        assert numbers == list(range(1, options.whole + 1)), "the run takes the epochs that it was given"
        assert len(history[0]["epochs"]) == 3 + epochs
        assert len(history[-1]["epochs"]) == final - epochs > 0, "what was grown is trained at last"
