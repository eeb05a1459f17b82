"""Lookahead: the rule that trains best is found and followed, at a cost that is counted, and the run itself stays as it is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from click.testing import CliRunner

import gngraph
from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget, cost
from gngraph.analysis.manager import AnalysisManager
from gngraph.api import grow
from gngraph.cli import gngraph as group
from gngraph.data import Data
from gngraph.errors import PassError, TrainingError
from gngraph.growth.history import without_seconds
from gngraph.growth.jobs import Task
from gngraph.growth.loop import grow_by
from gngraph.growth.result import GrowthResult
from gngraph.ir import Graph
from gngraph.options import RunOptions, TrainOptions
from gngraph.report.words import describe_round
from gngraph.rewrite.morphism import NewChannel
from gngraph.running.problem import Problem
from gngraph.scoring.gauss_newton import GaussNewton
from gngraph.search import allocations, lookahead
from gngraph.search.allocations import Proportions
from gngraph.search.lookahead import Lookahead, decided_by
from gngraph.search.situation import Plan, Situation, unscored
from gngraph.search.strategy import GaussNewtonGrowth
from gngraph.training.optimizer_state import OptimizerState
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trained, Trainer
from tests.problems import problem, seed_graph, small_vgg
from tests.test_bench_growth import run_of

TRAIN = TrainOptions(batch_size=16)
PLAIN = GaussNewtonGrowth(None)


@dataclass(frozen=True)
class OneSpace:
    """All new channels go into one space, where they are of no use: the layers before it stay as narrow as they are."""

    index: int
    measures: ClassVar[bool] = False

    def widths(self, situation: Situation, plan: Plan) -> None:
        """None."""

    def fill(self, situation: Situation, plan: Plan) -> list[NewChannel]:
        name, count = list(situation.spaces.free)[self.index].name, 0
        now, total = dict(plan.selection.widths), plan.selection.cost
        while situation.target.allows(total + (more := situation.model.marginal(name, now))):
            now[name] += 1
            total += more
            count += 1
        return [NewChannel(name)] * count


@pytest.fixture
def useless(monkeypatch: pytest.MonkeyPatch) -> str:
    """The rule "last-alone" widens the last hidden layer behind one of two channels."""
    known = {**allocations.ALLOCATIONS, "last-alone": OneSpace(-1), "even": Proportions(lambda space: 1.0)}
    monkeypatch.setattr("gngraph.search.strategy.ALLOCATIONS", known)
    monkeypatch.setattr(lookahead, "ALLOCATIONS", known)
    return "last-alone"


def narrow() -> Graph:
    """Two hidden layers of 2 channels."""
    return seed_graph(width=0.008)


def situation_of(graph: Graph, factor: float, own: Problem) -> Situation:
    """Of a first round that may use half of what the run may."""
    analyses, size = AnalysisManager(own), cost(graph).params
    generator = torch.Generator().manual_seed(5)
    half, whole = Budget(int(size * factor / 2)), Budget(int(size * factor))
    return Situation(graph, analyses, unscored(), {}, half, whole, generator)


def looked(seed: Graph, strategy: Lookahead, factor: float = 6.0, out: Path | None = None) -> GrowthResult:
    limit = Budget(int(factor * cost(seed).params))
    options = RunOptions(rounds=2, epochs=1, final_epochs=1, perturb=0.0, depth="keep", train=TRAIN)
    return grow_by(Task(strategy, limit, options), seed, problem(), out=out)


def tensors(graph: Graph) -> dict[str, torch.Tensor]:
    return {name: p.data.clone() for name, p in graph.params.items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("first", [True, False])
def test_of_a_useful_and_a_useless_rule_the_useful_one_is_found_and_followed(first: bool, useless: str) -> None:
    rules = ("uniform", useless) if first else (useless, "uniform")
    result = looked(narrow(), Lookahead(PLAIN, rules, epochs=3))
    found = result.history[0]["lookahead"]
    assert found["losses"]["uniform"][0] < found["losses"][useless][0] - 0.1
    assert found["epochs"] == 2 * 3
    assert [record["allocation"] for record in result.history[:2]] == ["uniform", "uniform"]
    assert "lookahead" not in result.history[1]
    widths = [space.size for space in ChannelSpaces.of(result.graph).free]
    assert max(widths) - min(widths) <= 2


def test_halving_trains_those_that_are_left_for_longer(useless: str) -> None:
    """Three different networks: two are left after the first leg, and trained for twice as long; a twin costs nothing."""
    own = problem()
    seed = Trainer(own, TRAIN).train(seed_graph("mlp", 0.02), Stretch(2)).graph
    rules = (useless, "uniform", "even", "random-twins")
    found = Lookahead(PLAIN, rules).choose(situation_of(seed, 4.0, own), OptimizerState({}), TRAIN, 2)
    assert tuple(found.losses) == rules and found.losses["even"] == found.losses["uniform"]
    legs = {rule: len(losses) for rule, losses in found.losses.items() if rule != "even"}
    assert sorted(legs.values()) == [1, 2, 2] and found.epochs == 3 * 1 + 2 * 2
    best = min((losses[-1], rule) for rule, losses in found.losses.items() if len(losses) == 2)
    assert found.losses[found.strategy.allocation][-1] == best[0]
    (dropped,) = [rule for rule, count in legs.items() if count == 1]
    assert found.losses[dropped][0] == max(losses[0] for losses in found.losses.values())


def test_rules_that_agree_are_not_trained() -> None:
    """Without an analysis all that "worth" knows is what the spaces cost."""
    situation = situation_of(narrow(), 2.0, problem())
    found = Lookahead(PLAIN, ("worth", "equal-worths")).choose(situation, OptimizerState({}), TRAIN, 0)
    assert found.record() == {"losses": {"worth": [], "equal-worths": []}, "epochs": 0}
    assert found.strategy == replace(PLAIN, allocation="worth")


def test_the_judge_split_is_not_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    own, seen = problem(), list[Problem]()
    original = Trainer

    def spied(given: Problem, options: TrainOptions) -> Trainer:
        seen.append(given)
        return original(given, options)

    monkeypatch.setattr("gngraph.search.lookahead.Trainer", spied)
    Lookahead(PLAIN, ("uniform", "random-twins")).choose(
        situation_of(small_vgg(), 2.0, own), OptimizerState({}), TRAIN, 0
    )
    (rest,) = seen
    assert isinstance(own.data, Data)
    judge = own.splits.judge
    rows = {tuple(x.flatten().tolist()) for x, _ in (judge[i] for i in range(len(judge)))}
    trained = [tuple(rest.train[i][0].flatten().tolist()) for i in range(len(rest.train))]
    assert len(trained) == len(own.train) and not rows & set(trained)
    assert (rest.loss, rest.seed, rest.device) == (own.loss, own.seed, own.device)


def test_the_rate_goes_on_rising_where_the_run_left_it(monkeypatch: pytest.MonkeyPatch) -> None:
    stretches, train = list[Stretch](), Trainer.train

    def spied(self: Trainer, graph: Graph, stretch: Stretch, *args: Any, **options: Any) -> Trained:
        stretches.append(stretch)
        return train(self, graph, stretch, *args, **options)

    monkeypatch.setattr(Trainer, "train", spied)
    options = replace(TRAIN, warmup=4.0)
    Lookahead(PLAIN, ("uniform", "random-twins")).choose(
        situation_of(small_vgg(), 2.0, problem()), OptimizerState({}), options, 1
    )
    assert [stretch.factor(0.0) for stretch in stretches] == [0.25, 0.25]


def test_the_seed_the_optimiser_and_random_numbers_stay_as_they_were() -> None:
    own = problem()
    before = Trainer(own, TRAIN).train(small_vgg(), Stretch(1))
    kept = tensors(before.graph)
    entries = {f"{n} {k}": v.clone() for n, e in before.state.entries.items() for k, v in e.items()}
    situation = situation_of(before.graph, 3.0, own)
    drawn, state = torch.get_rng_state(), situation.generator.get_state()
    found = Lookahead(PLAIN, ("uniform", "random-twins")).choose(situation, before.state, TRAIN, 1)
    assert found.epochs == 2
    assert same(kept, tensors(before.graph))
    assert same(entries, {f"{n} {k}": v for n, e in before.state.entries.items() for k, v in e.items()})
    assert torch.equal(drawn, torch.get_rng_state()) and torch.equal(state, situation.generator.get_state())


def test_a_run_goes_on_as_if_it_had_known_the_rule() -> None:
    """The rule that was found, named at once, gives the same network bit for bit, and a second lookahead the same run."""
    seed = seed_graph(width=0.02)
    limit = 3 * cost(seed).params

    def run(allocation: str) -> GrowthResult:
        return grow(
            seed,
            problem(),
            max_params=limit,
            rounds=2,
            epochs=1,
            final_epochs=1,
            depth="keep",
            kinds=("prune",),
            allocation=allocation,
            train=TRAIN,
        )

    first, second = run("lookahead"), run("lookahead")
    assert without_seconds(first.history) == without_seconds(second.history)
    assert same(tensors(first.graph), tensors(second.graph))
    rule = first.history[0]["allocation"]
    known = run(rule)
    assert same(tensors(first.graph), tensors(known.graph))
    found = first.history[0].pop("lookahead")
    assert without_seconds(first.history) == without_seconds(known.history)
    assert tuple(found["losses"]) == lookahead.TRIED and 0 < found["epochs"] <= 8
    legs = max(map(len, found["losses"].values()))
    assert found["losses"][rule][-1] == min(losses[-1] for losses in found["losses"].values() if len(losses) == legs)


def test_the_benchmark_counts_it_as_search(tmp_path: Path) -> None:
    """An epoch of lookahead costs more than a forward and a weight gradient of a network as large as the run's last."""
    run, plain = (run_of("search", tmp_path, Budget(2000)) for _ in range(2))
    seed = run.design("uniform", Budget(500))
    options = run.growing(2, 1, 0)
    result = run.grow(Task(Lookahead(PLAIN, ("uniform", "random-twins")), run.budget, options), seed)
    found, last = result.history[0], result.history[1]["flops"]
    assert found["lookahead"]["epochs"] == 2 and run.meter.epochs == 2 + 2
    plain.grow(Task(replace(PLAIN, allocation=found["allocation"]), plain.budget, options), seed)
    assert plain.meter.epochs == 2 and plain.meter.training == run.meter.training and plain.meter.search == 0
    samples = len(run.problem.train)
    assert 2 * last * samples * 2 < run.meter.search < 5 * last * samples * 2
    assert run.meter.search_seconds >= found["seconds"]["lookahead"] > 0


class Clock:
    def __init__(self) -> None:
        self.stages: list[str] = []

    def stage_started(self, number: int, stage: str) -> None:
        self.stages.append(f"{number} {stage}")


def test_it_is_a_stage_of_the_first_round_and_its_line_says_what_it_chose() -> None:
    seed, clock = narrow(), Clock()
    result = gngraph.grow(
        seed,
        problem(),
        max_params=4 * cost(seed).params,
        rounds=2,
        epochs=0,
        final_epochs=0,
        kinds=("prune",),
        allocation="lookahead",
        observer=clock,
        train=TRAIN,
    )
    assert [stage for stage in clock.stages if "lookahead" in stage] == ["1 lookahead"]
    assert clock.stages.index("1 analyse") < clock.stages.index("1 lookahead") < clock.stages.index("1 select")
    first, second, final = result.history
    assert first["seconds"]["lookahead"] > 0 and second["seconds"]["lookahead"] == final["seconds"]["lookahead"] == 0
    assert f"widths by '{first['allocation']}', the best of 4 allocations after" in describe_round(first)
    assert "lookahead" not in describe_round(second) and "allocation" not in final


def test_a_name_that_is_unknown_is_refused_with_the_choices() -> None:
    with pytest.raises(PassError, match=r"allocation 'best' is unknown; choose one of worth, .*, lookahead$"):
        grow(narrow(), problem(), max_params=1000, allocation="best")
    with pytest.raises(PassError, match="allocation 'best' is unknown; choose one of worth, "):
        Lookahead(PLAIN, ("uniform", "best"))
    with pytest.raises(PassError, match="a lookahead needs a rule to try; choose some of worth, "):
        Lookahead(PLAIN, ())
    with pytest.raises(TrainingError, match="cannot compare networks after '0' epochs"):
        Lookahead(PLAIN, epochs=0)


def test_the_command_knows_the_same_names() -> None:
    names = ("worth", "none", "equal-worths", "uniform", "proportional", "lookahead")
    assert all(decided_by(name, GaussNewton(), "joint") for name in names)
    assert f"[{'|'.join(names)}]" in CliRunner().invoke(group, ["grow", "--help"]).output


def test_a_loss_that_is_not_finite_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookahead, "mean_loss", lambda *_: float("nan"))
    situation = situation_of(narrow(), 3.0, problem())
    with pytest.raises(TrainingError, match="became 'nan' while a lookahead tried the allocation 'uniform'; lower the"):
        Lookahead(PLAIN, ("uniform", "random-twins")).choose(situation, OptimizerState({}), TRAIN, 0)
