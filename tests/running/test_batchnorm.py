"""Re-estimated BatchNorm statistics are the plain averages over batches."""

from __future__ import annotations

import torch

from gngraph.options import TrainOptions
from gngraph.running.batchnorm import reestimate
from gngraph.running.evaluation import mean_loss
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer
from tests.problems import dropping, problem, seed_graph, small_vgg


def test_the_first_layer_gets_the_mean_and_variance_of_its_inputs() -> None:
    graph, task = dropping(), problem(batch_size=240)  # one batch: the average is that batch's own
    measured = reestimate(graph, task)
    x = torch.stack([task.train[i][0] for i in range(240)]).flatten(1)
    y = x @ graph.params["first.weight"].data.T + graph.params["first.bias"].data
    torch.testing.assert_close(measured.params["norm.running_mean"].data, y.mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(measured.params["norm.running_var"].data, y.var(0), rtol=1e-4, atol=1e-5)


def test_nothing_but_the_statistics_changes_and_the_result_repeats() -> None:
    graph, task = dropping(), problem()
    first, second = reestimate(graph, task), reestimate(graph, task)
    changed = {name for name in graph.params if not torch.equal(graph.params[name].data, first.params[name].data)}
    assert changed == {"norm.running_mean", "norm.running_var"}
    assert all(torch.equal(first.params[name].data, second.params[name].data) for name in changed)


def test_a_network_without_batchnorm_is_returned_as_it_is() -> None:
    graph = seed_graph()
    assert reestimate(graph, problem()) is graph


def test_statistics_that_lag_behind_training_are_repaired() -> None:
    task = problem()
    trained = Trainer(task, TrainOptions(batch_size=64)).train(small_vgg(), Stretch(4)).graph
    assert mean_loss(reestimate(trained, task), task, task.train) < mean_loss(trained, task, task.train)
