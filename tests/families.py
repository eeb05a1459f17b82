"""Seven torchvision families, calibrated: what the test suite samples and `tools/check_families.py` checks in full."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
import torchvision
from torch import nn

from gngraph.analysis.channels import ChannelSpace, ChannelSpaces
from gngraph.analysis.equivalence import relative_error
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.lowering.to_torch import to_torch
from gngraph.rewrite.morphism import SplitChannel
from tests.morphism_errors import applied
from tests.small_networks import calibrated

FAMILIES = {
    "vgg11_bn": 32,
    "resnet18": 32,
    "resnet50": 32,
    "densenet121": 32,
    "mobilenet_v2": 32,
    "mobilenet_v3_small": 32,
    "efficientnet_b0": 32,
}
"""Name -> height and width of its inputs."""


@dataclass(frozen=True)
class Family:
    """A calibrated network, its graph and its spaces."""

    network: nn.Module
    example: torch.Tensor
    graph: Graph
    spaces: ChannelSpaces


def load(name: str) -> Family:
    """The calibrated network `name` with random weights and 10 classes."""
    torch.manual_seed(0)
    size = FAMILIES[name]
    network = calibrated(torchvision.models.get_model(name, weights=None, num_classes=10), 3, size, size)
    example = torch.randn(2, 3, size, size)
    graph = from_torch(network, example)
    return Family(network, example, graph, ChannelSpaces.of(graph))


def seconds_to_analyse(family: Family) -> float:
    """Seconds to trace and analyse: the fastest of three, for the machine may be busy and memory is cold at first."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        ChannelSpaces.of(from_torch(family.network, family.example))
        seconds.append(time.perf_counter() - start)
    return min(seconds)


def round_trip_differences(family: Family) -> list[str]:
    """In what the lowered graph differs from the source: keys, outputs in eval mode, outputs and buffers in train mode."""
    copy = to_torch(family.graph)
    differences = [] if list(copy.state_dict()) == list(family.network.state_dict()) else ["state_dict keys"]
    for training in (False, True):
        outputs = []
        for module in (family.network, copy):
            torch.manual_seed(3)
            with torch.no_grad():
                outputs.append(module.train(training)(family.example))
        if not torch.equal(*outputs):
            differences.append(f"outputs in {'train' if training else 'eval'} mode")
    tensors = zip(family.network.state_dict().values(), copy.state_dict().values(), strict=True)
    if not all(torch.equal(a, b) for a, b in tensors):
        differences.append("buffers after a step in train mode")
    family.network.eval()
    return differences


def sampled(spaces: tuple[ChannelSpace, ...], count: int | None) -> list[ChannelSpace]:
    """All of `spaces`, or `count` of them spread evenly from the first to the last."""
    if count is None or count >= len(spaces):
        return list(spaces)
    return [spaces[round(i * (len(spaces) - 1) / max(1, count - 1))] for i in range(count)]


def successive_splits(family: Family) -> tuple[float, float]:
    """Split channel 0 of every space, one after another with a fresh analysis each: seconds, and the error at the end."""
    start = time.perf_counter()
    graph = family.graph
    for space in family.spaces.free:
        graph = applied(graph, ChannelSpaces.of(graph), [SplitChannel(space.name, 0)])
    return time.perf_counter() - start, relative_error(family.graph, graph)
