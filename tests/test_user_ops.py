"""A user's own op: registered in ten lines, it is imported, grown, lowered and saved like any other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn

import gngraph
from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.manager import AnalysisManager
from gngraph.errors import TrainingError, UnsupportedModelError
from gngraph.ops import BatchStatistics, Call, OpSpec, register, signature
from gngraph.ops.rules import all_axes, emit_simple, read_attrs, same_type
from gngraph.ops.table import _FUNCTIONS, _MODULES, _TABLE
from gngraph.rewrite.folding import fold_target
from gngraph.running.batchnorm import reestimate
from gngraph.running.problem import Problem
from gngraph.scoring.collect import Replay
from gngraph.scoring.gauss_newton import GaussNewton
from gngraph.training.perturbation import perturbed
from tests.morphism_errors import errors_of


def soft_clip(x: torch.Tensor, bound: float = 1.0) -> torch.Tensor:
    """A user's function."""
    if bool((x > 1e9).any()):  # control flow that tracing could not look into
        raise ValueError("too large")
    return bound * torch.tanh(x / bound)


class Snake(nn.Module):
    """A user's module with a parameter a channel, whose control flow cannot be traced."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.rand(channels, 1, 1) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if bool(torch.isnan(x).any()) else x + torch.sin(self.alpha * x).square() / self.alpha


class Doubled(nn.BatchNorm1d):
    """A user's norm, which gives something else than the one it derives from."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2.0 * super().forward(x)


class Whitening(nn.Module):
    """A user's own BatchNorm, of no class of torch's and with names of its own; its control flow cannot be traced."""

    middle: torch.Tensor
    spread: torch.Tensor

    def __init__(self, channels: int, fuzz: float = 1e-5) -> None:
        super().__init__()
        self.gain, self.offset = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.register_buffer("middle", torch.zeros(channels))
        self.register_buffer("spread", torch.ones(channels))
        self.fuzz, self.momentum = fuzz, 0.1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        middle, spread = self.middle, self.spread
        if self.training and not bool(torch.isnan(x).any()):
            middle, spread = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
            self.middle.lerp_(middle.detach(), self.momentum)
            self.spread.lerp_(x.detach().var((0, 2, 3)), self.momentum)
        y: torch.Tensor = (x.movedim(1, -1) - middle) / (spread + self.fuzz).sqrt() * self.gain + self.offset
        return y.movedim(-1, 1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.snake, self.head = nn.Conv2d(3, 4, 3), Snake(4), nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, self.head(soft_clip(self.snake(self.conv(x)), 0.7)))


@pytest.fixture
def own_ops() -> Iterator[None]:
    """Both ops, for one test."""
    tables = [dict(table) for table in (_TABLE, _MODULES, _FUNCTIONS)]
    register(
        OpSpec(
            "soft_clip",
            infer=same_type,
            channels=all_axes,
            emit=emit_simple(None, soft_clip),
            channelwise=True,
            functions={soft_clip: Call(signature("x bound=1.0"), operands=("x",))},
        )
    )

    def follow(rules: gngraph.ops.ChannelRules, operands: gngraph.ops.Operands) -> None:
        rules.follow("alpha", 0, rules.layout(0, 1), "ones")
        all_axes(rules, operands)

    register(
        OpSpec(
            "snake",
            infer=same_type,
            channels=follow,
            emit=lambda emitter, node: emitter.module(
                lambda: Snake(emitter.shape(node.params["alpha"])[0]), emitter.value(node.inputs[0])
            ),
            channelwise=True,
            modules={Snake: lambda module: {}},
        )
    )
    norm = nn.BatchNorm1d(1).state_dict()

    def follow_norm(rules: gngraph.ops.ChannelRules, operands: gngraph.ops.Operands) -> None:
        for role in norm:
            if role != "num_batches_tracked":
                rules.follow(role, 0, rules.layout(0, 1), "ones")
        all_axes(rules, operands)

    register(
        OpSpec(
            "doubled_norm",
            infer=same_type,
            channels=follow_norm,
            emit=lambda emitter, node: emitter.module(
                lambda: Doubled(emitter.shape(node.params["weight"])[0]), emitter.value(node.inputs[0])
            ),
            channelwise=True,
            modules={Doubled: lambda module: {}},
        )
    )
    roles = ("middle", "spread", "gain", "offset")

    def follow_statistics(rules: gngraph.ops.ChannelRules, operands: gngraph.ops.Operands) -> None:
        for role in roles:
            rules.follow(role, 0, rules.layout(0, 1), "zeros" if role in ("middle", "offset") else "ones")
        all_axes(rules, operands)

    register(
        OpSpec(
            "whitening",
            infer=same_type,
            channels=follow_statistics,
            emit=lambda emitter, node: emitter.module(
                lambda: Whitening(emitter.shape(node.params["gain"])[0], node.attrs["fuzz"]),
                emitter.value(node.inputs[0]),
            ),
            channelwise=True,
            linear=True,
            statistics=BatchStatistics("middle", "spread", "gain", "offset", "fuzz"),
            modules={Whitening: read_attrs("fuzz")},
        )
    )
    yield
    for table, before in zip((_TABLE, _MODULES, _FUNCTIONS), tables, strict=True):
        table.clear()  # type: ignore[attr-defined]
        table.update(before)  # type: ignore[attr-defined]


@pytest.mark.usefixtures("own_ops")
def test_own_ops_grow_and_are_saved(tmp_path: Path) -> None:
    module, example = Net(), torch.randn(2, 3, 8, 8)
    graph = gngraph.from_torch(module, example)
    assert [n.op for n in graph.nodes.values()] == ["input", "conv2d", "snake", "soft_clip", "conv2d"]
    spaces = ChannelSpaces.of(graph)
    assert [s.name for s in spaces.free] == ["conv"]
    errors = errors_of(graph, spaces, "conv", 2)
    assert max(errors.split, errors.new, errors.masked, errors.values) < 1e-12
    gngraph.save(graph, tmp_path / "net.gng")
    loaded = gngraph.load(tmp_path / "net.gng")
    assert torch.equal(gngraph.to_torch(loaded)(example), module(example))


def test_without_registration_the_user_is_told_which_module() -> None:
    with pytest.raises(UnsupportedModelError, match=r"module 'snake' \(Snake\) cannot be traced"):
        gngraph.from_torch(Net(), torch.randn(2, 3, 8, 8))


@pytest.mark.usefixtures("own_ops")
def test_an_own_norm_is_scored_as_what_it_computes() -> None:
    net = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), Doubled(4), nn.ReLU(), nn.Linear(4, 2))
    x = torch.randn(6, 3)
    graph = gngraph.from_torch(net.eval(), x)
    assert any(node.op == "doubled_norm" for node in graph.nodes.values())
    replay, values = Replay(graph), dict[str, torch.Tensor]()
    replay.run([name for name in graph.nodes if name not in graph.inputs], values, {graph.inputs[0]: x})
    torch.testing.assert_close(replay.outputs(values), net(x))


def normed(make: Callable[[int], nn.Module]) -> tuple[gngraph.Graph, Problem]:
    """A network on images with a norm of one kind behind each layer, and images."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3, bias=False), make(6), nn.ReLU(),
        nn.Conv2d(6, 5, 3, bias=False), make(5), nn.ReLU(), nn.Flatten(), nn.Linear(80, 3),
    )  # fmt: skip
    x, y = torch.randn(90, 1, 8, 8) + 0.5, torch.randint(3, (90,))
    return gngraph.from_torch(net, x[:2]), Problem((x, y), device="cpu", batch_size=16)


@pytest.mark.usefixtures("own_ops")
def test_an_own_batch_norm_is_measured_perturbed_and_scored_as_torchs() -> None:
    (own, problem), (torchs, _) = normed(Whitening), normed(nn.BatchNorm2d)
    names = dict(
        zip(("running_mean", "running_var", "weight", "bias"), ("middle", "spread", "gain", "offset"), strict=True)
    )

    assert fold_target(own, "_0") == ("1.middle", -1.0)
    measured, expected = reestimate(own, problem), reestimate(torchs, problem)
    for layer, role in product(("1", "4"), ("running_mean", "running_var")):
        found = measured.params[f"{layer}.{names[role]}"].data
        torch.testing.assert_close(found, expected.params[f"{layer}.{role}"].data, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(found, own.params[f"{layer}.{names[role]}"].data, atol=1e-2)
    drawn, also = perturbed(measured, 0.3, 1), perturbed(expected, 0.3, 1)
    for name in ("0.weight", "3.weight"):
        torch.testing.assert_close(drawn.params[name].data, also.params[name].data)
    scoring = GaussNewton(kinds=("split", "prune", "new"))
    ours, theirs = (AnalysisManager(problem).get(scoring, graph) for graph in (measured, expected))
    assert [c.morphism.kind for c in ours.candidates] == [c.morphism.kind for c in theirs.candidates]
    found, wanted = (torch.tensor([c.gain for c in scores.candidates]) for scores in (ours, theirs))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)
    assert float(wanted.abs().max()) > 1e-3


@pytest.mark.usefixtures("own_ops")
def test_a_norm_that_cannot_be_told_how_to_move_its_statistics_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, problem = normed(Whitening)
    made = Whitening.__init__

    def without(self: Whitening, *args: Any) -> None:
        made(self, *args)
        del self.momentum

    monkeypatch.setattr(Whitening, "__init__", without)
    with pytest.raises(TrainingError, match=r"module '1' has running statistics but no attribute 'momentum'"):
        reestimate(graph, problem)
