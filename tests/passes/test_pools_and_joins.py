"""Passes that move where maps become coarser, and that make one convolution of two."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gngraph
from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import cost
from gngraph.analysis.equivalence import relative_error
from gngraph.analysis.manager import AnalysisManager
from gngraph.deploy.to_onnx import export_onnx
from gngraph.errors import PassError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph, format_graph, parse, same_structure
from gngraph.rewrite import JoinPair, morph
from gngraph.search import structure
from gngraph.source.export import export_source
from tests.passes.test_insert_layer import state_keys
from tests.passes.test_structure import applied, data, squared_error
from tests.problems import seed_graph


class Residual(nn.Module):
    """A block that halves its maps on both of its ways, a pooling, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.branch = nn.Sequential(nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.shortcut, self.pool = nn.Conv2d(6, 8, 1, stride=2), nn.MaxPool2d(2)
        self.head = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(self.pool(self.branch(x) + self.shortcut(x)).mean((2, 3)))  # type: ignore[no-any-return]


class Inverted(nn.Module):
    """An inverted residual behind a stem, and a head.

    Args:
        act: the non-linearity of the block.
        bias: whether its last layer has one, and no norm behind it.
    """

    def __init__(self, act: type[nn.Module] = nn.ReLU6, bias: bool = False) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        expand = [nn.Conv2d(6, 12, 1, bias=False), nn.BatchNorm2d(12), act()]
        depthwise = [nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=False), nn.BatchNorm2d(12), act()]
        project = [nn.Conv2d(12, 6, 1, bias=bias), nn.Identity() if bias else nn.BatchNorm2d(6)]
        self.block, self.head = nn.Sequential(*expand, *depthwise, *project), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head((x + self.block(x)).mean((2, 3)))  # type: ignore[no-any-return]


def taken(module: nn.Module, size: int = 8) -> Graph:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.4)
    module(torch.randn(32, 3, size, size))
    return from_torch(module.eval(), torch.randn(2, 3, size, size)).to(torch.float64)


def ops(graph: Graph) -> list[str]:
    return [node.op for node in graph.nodes.values() if node.op not in ("input", "parameter")]


@pytest.mark.parametrize("size", [7, 8])
def test_a_pooling_in_the_place_of_strides_leaves_all_extents(size: int) -> None:
    module = Residual()
    graph = taken(module, size)
    made = applied(graph, "stride-to-pool{at=*}")
    assert [node.shape for node in made.nodes.values() if node.op == "add"] == [graph.nodes["add"].shape]
    assert list(made.params) == list(graph.params) and ops(made).count("max_pool2d") == 3
    x = torch.randn(2, 3, size, size, dtype=torch.float64)
    module.double()
    module.branch[0].stride = module.shortcut.stride = 1  # type: ignore[assignment]
    y = module.stem(x)
    y = sum(F.max_pool2d(branch(y), 2, ceil_mode=True) for branch in (module.branch, module.shortcut))
    torch.testing.assert_close(gngraph.to_torch(made)(x), module.head(module.pool(y).mean((2, 3))))


def test_a_pooling_comes_and_goes() -> None:
    graph = taken(Residual())
    coarse = applied(graph, "insert-pool{at=stem.0}")
    assert coarse.nodes["add"].shape == ("N", 8, 2, 2) and cost(coarse).flops < cost(graph).flops
    (inserted,) = {node.name for node in coarse.nodes.values() if node.op == "max_pool2d"} - {"pool"}
    assert inserted == "pool_1" and coarse.nodes[inserted].inputs == ("stem_1",)
    assert same_structure(applied(coarse, f"remove-pool{{at={inserted}}}"), graph)
    finer = applied(graph, "remove-pool{at=pool}")
    assert "max_pool2d" not in ops(finer)
    assert relative_error(graph, finer) > 1e-3 < relative_error(graph, coarse)


def test_a_pooling_moves_to_where_less_is_left_to_compute() -> None:
    graph = taken(Residual())
    made = applied(graph, "move-pool{at=pool,to=stem.0}")
    assert [made.nodes[name].shape[2:] for name in ("stem_1", "branch_0", "add", "mean")] == [
        (8, 8),
        (2, 2),
        (2, 2),
        (),
    ]
    assert made.nodes["head"].type == graph.nodes["head"].type and list(made.params) == list(graph.params)
    assert cost(made).flops < cost(graph).flops and ops(made).count("max_pool2d") == 1
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    module = Residual().double().eval()
    module.load_state_dict(gngraph.to_torch(graph).state_dict())
    y = F.max_pool2d(module.stem(x), 2)
    torch.testing.assert_close(
        gngraph.to_torch(made)(x), module.head((module.branch(y) + module.shortcut(y)).mean((2, 3)))
    )


def test_what_lies_between_two_layers_is_dropped_where_it_does_nothing() -> None:
    graph, analyses = taken(Inverted(nn.Identity, bias=True)), data()
    graph = applied(graph, "cleanup")
    made = applied(graph, "join-layers{at=block.6}", analyses)
    assert relative_error(graph, made) < 1e-4, "but for the ridge"
    assert made.params["block.6.weight"].data.shape == (6, 12, 3, 3)
    assert set(graph.params) - set(made.params) == {
        name for name in graph.params if name.startswith(("block.3.", "block.4."))
    }


def test_an_inverted_residual_becomes_a_plain_one_that_is_near(tmp_path: Path) -> None:
    graph, analyses = taken(Inverted()), data()
    dense = applied(graph, "join-layers{at=block.6}", analyses)
    assert ops(dense).count("relu6") == 2 and ops(dense).count("conv2d") == 3
    plain = applied(dense, "join-layers{at=block.6}", analyses)
    between = ops(plain)
    assert between[between.index("add") - 3 : between.index("add")] == ["conv2d", "batch_norm2d", "relu6"]
    assert ops(plain).count("relu6") == 1 and plain.params["block.6.weight"].data.shape == (6, 6, 3, 3)
    weight, spaces = dense.params["block.6.weight"].data, ChannelSpaces.of(graph)
    least = squared_error(graph, dense, "block_6", "block_6_1", analyses)
    for other in (0 * weight, 1.05 * weight, weight + 0.05 * torch.randn_like(weight)):
        made = morph(graph, spaces, [JoinPair("block_6", other)]).graph
        assert squared_error(graph, made, "block_6", "block_6_1", analyses) > least
    assert least < 0.8 * squared_error(
        graph, morph(graph, spaces, [JoinPair("block_6", 0 * weight)]).graph, "block_6", "block_6_1", analyses
    )
    for made in (dense, plain):
        assert ChannelSpaces.of(made).free and gngraph.diff(graph, made).render()
        again = gngraph.to_torch(made)
        assert list(again.state_dict()) == state_keys(made)
        assert same_structure(parse(format_graph(made)), made)
        gngraph.save(made, tmp_path / "network.gng")
        assert relative_error(gngraph.load(tmp_path / "network.gng"), made) == 0.0
        export_source(made, tmp_path)
        traced = from_torch(again, torch.zeros(2, 3, 8, 8, dtype=torch.float64))
        assert cost(traced) == cost(made)
        export_onnx(made.to(torch.float32), tmp_path / "network.onnx")
    again(torch.randn(4, 3, 8, 8, dtype=torch.float64)).sum().backward()
    assert bool(again.get_parameter("block.6.weight").grad.abs().max() > 0)  # type: ignore[union-attr]


def test_a_family_of_inverted_residuals_becomes_a_chain() -> None:
    graph, analyses = seed_graph("mobilenet", 1 / 16), data()
    small = torch.nn.functional.avg_pool2d(torch.randn(240, 1, 10, 10), 3, 1)
    analyses = AnalysisManager(
        gngraph.Problem((small, torch.arange(240) % 10), device="cpu", learn=80, judge=80, report=80)
    )
    for change in ("dense", "no-expansion"):
        graph = structure.restructured(graph, analyses, change)[-1].graph
    kernels = [
        tuple(graph.params[node.params["weight"]].data.shape[2:])
        for node in graph.nodes.values()
        if node.op == "conv2d"
    ]
    assert kernels == [*[(3, 3)] * 18, (1, 1)] and not any("depthwise" in op for op in ops(graph))


@pytest.mark.parametrize(
    ("passes", "told"),
    [
        ("insert-pool{at=head}", "'.*' has no maps of channels along axis 1"),
        ("insert-pool{at=stem.0,size=9}", "its maps of 8 x 8 are smaller than the window"),
        ("insert-pool{at=stem.0,size=8}", "what is behind it does not take maps of other extents"),
        ("insert-pool{at=stem.0,size=0}", "'size' of pass 'insert-pool' is '0', but must be at least 1"),
        ("insert-pool{at=shortcut}", "what is behind it does not take maps of other extents"),
        ("remove-pool{at=poole}", "found no layer that matches 'poole'; did you mean 'pool'"),
        ("move-pool{at=pool,to=branch.0}", "what is behind it does not take maps of other extents"),
        ("move-pool{at=pool,to=head}", "'head' has no maps as it has"),
        ("move-pool{at=pool,to=sten.0}", "finds no layer 'sten.0' to pool behind; did you mean 'stem.0'"),
        ("stride-to-pool{at=stem.0}", "'stem.0' because its stride is 1"),
        ("stride-to-pool{at=head}", "'head' because it is no convolution"),
        ("join-layers{at=stem.0}", "it does not read a layer, its norm and its non-linearity"),
        ("join-layers{at=shortcut}", "neither it nor 'stem.0' is a 1 x 1 convolution"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(passes: str, told: str) -> None:
    with pytest.raises(PassError, match=told):
        applied(taken(Residual()), passes, data())


@pytest.mark.parametrize(
    ("passes", "told"),
    [
        ("join-layers{at=block.3}", "'block.3' because it does not see all channels at each of its outputs"),
        ("join-layers{at=block.6}", "learns its weights from data, but no data was given"),
        ("join-layers{at=block.0}", "neither it nor|not it alone reads"),
    ],
)
def test_layers_that_are_not_joined_are_named(passes: str, told: str) -> None:
    with pytest.raises(PassError, match=told):
        applied(taken(Inverted()), passes)


def test_a_join_of_another_width_is_refused() -> None:
    graph = taken(Inverted())
    with pytest.raises(PassError, match=r"take a weight of \(6, 12, 3, 3\), but one of \(6, 11, 3, 3\) was learned"):
        morph(graph, ChannelSpaces.of(graph), [JoinPair("block_6", torch.zeros(6, 11, 3, 3))])
