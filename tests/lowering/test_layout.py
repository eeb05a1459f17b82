"""Images are handed to a graph in the layout in which its convolutions are fast, where nothing that it computes depends on it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import gngraph
from gngraph import from_torch
from gngraph.analysis.manager import AnalysisManager
from gngraph.data import batches
from gngraph.lowering.layout import layout_of, training_layout_of
from gngraph.options import TrainOptions
from gngraph.running.evaluation import mean_loss
from gngraph.running.problem import Problem
from gngraph.running.seeding import mixed
from gngraph.scoring.gauss_newton import GaussNewton
from gngraph.training.optimizers import fresh_optimizer
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer


class Network(nn.Module):
    """A convolution of 2x4x4 images and a layer that reads all that it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(64, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(torch.relu(self.features(x)).flatten(1))
        return y


class Viewed(Network):
    """Flattens as it can only where every sample lies in order in memory."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(torch.relu(self.features(x)).view(x.size(0), -1))
        return y


class Foreign(Network):
    """Calls an op that gngraph does not know."""

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(torch.relu(self.features(x)).view(torch.float32).flatten(1))
        return y


class Projected(Network):
    """Halves its images by a 1x1 convolution of few channels, as the shortcut of a narrow ResNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.shortcut, self.head = nn.Conv2d(4, 6, 1, stride=2), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.head(torch.relu(self.shortcut(self.features(x))).flatten(1))
        return y


def problem() -> Problem:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(80, 2, 4, 4, generator=generator)
    return Problem((x, torch.randint(3, (80,), generator=generator)), batch_size=2, device="cpu")


def imported(network: type[nn.Module]) -> gngraph.Graph:
    torch.manual_seed(0)
    return from_torch(network(), torch.zeros(2, 2, 4, 4))


def test_images_are_laid_out_channels_last_and_nothing_else_is() -> None:
    assert layout_of(imported(Network)) is torch.channels_last
    assert layout_of(from_torch(nn.Linear(4, 2), torch.zeros(2, 4))) is torch.preserve_format
    assert layout_of(from_torch(nn.Conv1d(2, 3, 3), torch.zeros(2, 2, 8))) is torch.preserve_format
    assert layout_of(from_torch(nn.Conv3d(2, 3, 3), torch.zeros(2, 2, 4, 4, 4))) is torch.preserve_format


@pytest.mark.parametrize("network", [Viewed, Foreign])
def test_a_network_that_may_depend_on_memory_gets_its_samples_as_they_are(network: type[nn.Module]) -> None:
    graph = imported(network)
    assert layout_of(graph) is torch.preserve_format
    assert ("foreign" in {node.op for node in graph.nodes.values()}) is (network is Foreign)


@pytest.mark.parametrize(
    ("channels", "stride", "layout"),
    [(4, 2, torch.preserve_format), (15, (1, 2), torch.preserve_format), (16, 2, torch.channels_last), (4, 1, torch.channels_last)],
)  # fmt: skip
def test_a_narrow_projection_that_strides_is_trained_in_the_order(
    channels: int, stride: int | tuple[int, int], layout: torch.memory_format
) -> None:
    for kind in (nn.Conv2d(channels, 20, 1, stride=stride), nn.ConvTranspose2d(20, channels, 1, stride=stride)):
        graph = from_torch(kind, torch.zeros(2, kind.in_channels, 8, 8))
        assert training_layout_of(graph) is layout
        assert layout_of(graph) is torch.channels_last  # its weights alone must not be differentiated


@pytest.mark.parametrize("network", [Network, Viewed, Foreign, Projected])
def test_training_does_not_depend_on_the_layout(network: type[nn.Module]) -> None:
    task, graph, options = problem(), imported(network), TrainOptions(lr=0.1, batch_size=2)
    module = gngraph.to_torch(graph).train()
    with torch.no_grad():
        plain = torch.cat([task.loss_fn.per_sample(module(x), y) for x, y in batches(task.train, 2)]).mean()
    assert mean_loss(graph, task, task.train) == pytest.approx(float(plain), rel=1e-5)

    trained = Trainer(task, options).train(graph, Stretch(1)).graph
    optimizer = fresh_optimizer(options, module.parameters())
    for x, y in batches(task.train, 2, generator=torch.Generator().manual_seed(mixed(task.seed, 0))):
        optimizer.zero_grad()
        task.loss_fn.per_sample(module(x), y).mean().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for name, value in module.state_dict().items():
        torch.testing.assert_close(trained.params[name].data, value, rtol=1e-4, atol=1e-5)
        assert trained.params[name].data.is_contiguous()


class WeightGradients(TorchDispatchMode):
    """Keeps, of every weight gradient of a 1x1 convolution that strides, whether what it reads lies in order."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.in_order: list[bool] = []

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.convolution_backward.default and args[-1][1]:
            _, x, weight, _, stride = args[:5]
            if weight.shape[2:] == (1, 1) and max(stride) > 1:
                self.in_order.append(x.is_contiguous())
        return func(*args, **(kwargs or {}))


def test_what_is_learned_of_a_narrow_projection_is_differentiated_in_the_order() -> None:
    graph = imported(Projected)
    with WeightGradients() as seen:
        scores = AnalysisManager(problem()).get(GaussNewton(), graph)
    assert seen.in_order and all(seen.in_order)
    assert len(scores.candidates)


@pytest.mark.parametrize("network", [Network, Viewed])
def test_networks_are_scored_in_either_layout(network: type[nn.Module]) -> None:
    scores = AnalysisManager(problem()).get(GaussNewton(), imported(network))
    expected = AnalysisManager(problem()).get(GaussNewton(), imported(Network))
    for own, other in zip(scores.candidates, expected.candidates, strict=True):
        assert own.gain == pytest.approx(other.gain, rel=1e-3, abs=1e-6)
