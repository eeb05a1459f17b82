"""Problem: what it accepts and refuses. AnalysisManager: each analysis runs once a snapshot, and nothing stale is kept."""

from __future__ import annotations

import gc
import weakref
from dataclasses import dataclass

import pytest
import torch
from torch.utils.data import TensorDataset

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.input_means import InputMeans
from gngraph.analysis.manager import AnalysisManager
from gngraph.curvature import MeanSquaredError
from gngraph.data import load_data
from gngraph.errors import DataError, GnGraphError, PassError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.ops import draft_of
from gngraph.running.problem import Problem
from tests.small_networks import build

CALLS: list[str] = []


@dataclass(frozen=True)
class CountNodes:
    """An analysis with an option that notes each run."""

    factor: int = 1

    def run(self, graph: Graph, analyses: AnalysisManager) -> int:
        CALLS.append(graph.name)
        return self.factor * len(graph.nodes)


def pair(count: int = 60) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, 3, 8, 8), torch.arange(count) % 3


def test_a_result_is_computed_once_for_a_snapshot_and_equal_options() -> None:
    CALLS.clear()
    graph, analyses = from_torch(*build("plain")), AnalysisManager()
    size = len(graph.nodes)
    assert [analyses.get(CountNodes(2), graph) for _ in range(3)] == [2 * size] * 3
    assert len(CALLS) == 1
    assert analyses.get(CountNodes(3), graph) == 3 * size
    assert len(CALLS) == 2


def test_an_edited_graph_is_analysed_anew() -> None:
    graph, analyses = from_torch(*build("plain")), AnalysisManager()
    old = analyses.get(ChannelSpaces, graph)
    assert analyses.get(ChannelSpaces, graph) is old
    assert analyses.get(ChannelSpaces, draft_of(graph).commit()) is not old


def test_a_result_goes_with_its_graph() -> None:
    graph, analyses = from_torch(*build("plain")), AnalysisManager()
    result = weakref.ref(analyses.get(ChannelSpaces, graph))
    assert result() is not None
    del graph
    gc.collect()
    assert result() is None


def test_an_analysis_that_fails_is_not_cached() -> None:
    class Failing:
        def run(self, graph: Graph, analyses: AnalysisManager) -> int:
            CALLS.append("failing")
            raise PassError("no")

    CALLS.clear()
    graph, analyses, failing = from_torch(*build("plain")), AnalysisManager(), Failing()
    for _ in range(2):
        with pytest.raises(PassError):
            analyses.get(failing, graph)
    assert len(CALLS) == 2


def test_without_a_problem_whoever_needs_one_says_so() -> None:
    with pytest.raises(PassError, match="no problem was given"):
        AnalysisManager().get(InputMeans, from_torch(*build("plain")))


def test_a_problem_takes_tensors_data_and_anything_with_train_and_test() -> None:
    @dataclass
    class Own:
        train: TensorDataset
        test: TensorDataset

    x, y = pair()
    alone = Problem((x, y))
    assert len(alone.samples) == 60 and len(alone.train) == 40 and len(alone.test) == len(alone.splits.report) == 10
    assert len(Problem(Own(TensorDataset(x, y), TensorDataset(x[:5], y[:5]))).test) == 5
    digits = load_data("digits")
    assert Problem(digits).samples is digits.train and Problem(digits).test is digits.test


def test_splits_are_disjoint_drawn_once_and_follow_the_seed() -> None:
    problem = Problem(pair(), learn=20, judge=20, report=20, seed=1)
    assert problem.splits is problem.splits
    indices = [index for split in problem.splits for index in split.indices]
    assert len(indices) == len(set(indices)) == 60
    again, other = (Problem(pair(), learn=20, judge=20, report=20, seed=seed) for seed in (1, 2))
    assert again.splits.learn.indices == problem.splits.learn.indices != other.splits.learn.indices


def test_a_loss_by_name_or_itself_and_a_device() -> None:
    assert Problem(pair(), loss="mse").loss_fn == Problem(pair(), loss=MeanSquaredError()).loss_fn == MeanSquaredError()
    assert Problem(pair(), device="cpu").device == torch.device("cpu")
    assert Problem(pair()).device == torch.device("cuda" if torch.cuda.is_available() else "cpu")


def test_refusals() -> None:
    x, y = pair()
    with pytest.raises(DataError, match="'60' samples but '59' targets"):
        Problem((x, y[:59]))
    with pytest.raises(DataError, match="type 'Tensor' has no 'train' and 'test'"):
        Problem(x)
    with pytest.raises(GnGraphError, match='unknown loss "hinge"'):
        Problem((x, y), loss="hinge")


def test_input_means_are_what_each_reader_reads_on_average() -> None:
    module, _ = build("batch norm after flatten")
    graph = from_torch(module, torch.randn(2, 3, 8, 8))
    problem = Problem(pair(), learn=20, judge=20, report=20, batch_size=7, device="cpu")
    analyses = AnalysisManager(problem)
    means, spaces = analyses.get(InputMeans, graph), analyses.get(ChannelSpaces, graph)
    x = torch.stack([problem.splits.learn[i][0] for i in range(20)])
    with torch.no_grad():
        reads_flat = module[:4](x)  # type: ignore[index]
    (flat,) = (slot.node for slot in spaces["0"].slots if slot.param == "4.weight")
    torch.testing.assert_close(means.values[flat].float(), reads_flat.mean(0))
    torch.testing.assert_close(means.of_channel(spaces["0"], 2)[flat].float(), reads_flat.mean(0)[18:27])
