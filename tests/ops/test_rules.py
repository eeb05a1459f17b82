"""Type rules against torch's own shapes, FLOPs against torch's counter, and channel rules by their reasons."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import CostModel, cost
from gngraph.errors import IRError, UnsupportedModelError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import BATCH, Graph, Node, TensorType
from gngraph.lowering.to_torch import lower
from gngraph.ops import OpSpec, draft_of, lookup, register, spec_of_module
from gngraph.zoo import build_seed

FAMILIES = ["resnet18", "densenet121", "mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1"]


@cache
def imported(name: str) -> tuple[Graph, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(2, 3, 64, 64)
    return from_torch(torchvision.models.get_model(name, num_classes=10), x[:1]), x


@pytest.mark.parametrize("name", FAMILIES)
def test_inferred_types_are_the_true_ones(name: str) -> None:
    graph, x = imported(name)
    lowered = lower(graph)
    seen: dict[str, Tensor] = {}
    interpreter = torch.fx.Interpreter(lowered.module)
    values = {fx_node: node for node, fx_node in lowered.values.items()}
    with torch.no_grad():
        env: dict[torch.fx.Node, object] = {}
        for fx_node in lowered.module.graph.nodes:
            if fx_node.op == "output":
                break
            interpreter.env = env
            env[fx_node] = x if fx_node.op == "placeholder" else interpreter.run_node(fx_node)
            value = env[fx_node]
            if fx_node in values and isinstance(value, Tensor):
                seen[values[fx_node]] = value
    compared = 0
    for node in graph.nodes.values():
        if isinstance(node.type, TensorType) and node.name in seen:
            expected = tuple(2 if d == BATCH else d for d in node.type.shape)
            if all(isinstance(d, int) for d in expected):
                assert tuple(seen[node.name].shape) == expected, node
                compared += 1
    assert compared > 0.6 * len(graph.nodes)  # the rest are sizes, tuples, parameters


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121"])
def test_flops_are_torchs(name: str) -> None:
    graph, x = imported(name)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        lower(graph).module(x[:1])
    assert cost(graph).flops == counter.get_total_flops()
    spaces = ChannelSpaces.of(graph)
    model = CostModel(graph, spaces)
    assert model.of(model.widths) == cost(graph)


@pytest.mark.parametrize("name", ["vgg11", "resnet20", "mobilenet", "mlp"])
def test_every_seed_has_free_spaces_and_frozen_ones_say_why(name: str) -> None:
    graph = from_torch(build_seed(name, width=0.25), torch.zeros(1, 3, 32, 32))
    spaces = ChannelSpaces.of(graph)
    assert len(spaces.free) >= 2
    frozen = [s for s in spaces if s.frozen]
    assert len(frozen) == 1 and "the network's output" in str(frozen[0].frozen)


def reason(module: nn.Module, *shape: int) -> str:
    spaces = ChannelSpaces.of(from_torch(module, torch.randn(1, *shape)))
    return "; ".join(s.frozen for s in spaces if s.frozen and "output" not in s.frozen)


def test_reasons_name_the_rule_and_the_node() -> None:
    grouped = nn.Sequential(nn.Conv2d(4, 8, 1, groups=2), nn.ReLU(), nn.Conv2d(8, 2, 1))
    assert "the 2 groups that write it read a value that belongs to no channel space (node '0')" in reason(
        grouped, 4, 4, 4
    )
    normed = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm((3, 8)), nn.Linear(8, 2))
    assert "LayerNorm normalises across it and others (node '1')" in reason(normed, 3, 4)
    soft = nn.Sequential(nn.Linear(4, 8), nn.Softmax(1), nn.Linear(8, 2))
    assert "softmax normalises across it (node '1')" in reason(soft, 4)

    class Sliced(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.b(self.a(x)[:, [0, 1, 2, 3, 4, 5]])
            return out

    assert "no op of the table" in reason(Sliced(), 4) and "getitem" in reason(Sliced(), 4)


def test_a_network_that_does_not_fit_its_input_is_refused() -> None:
    with pytest.raises(UnsupportedModelError, match="does not run on an input of shape"):
        from_torch(torchvision.models.vgg11(), torch.zeros(1, 3, 8, 8)[:, :, :1, :1])


def test_the_table_refuses_doubles_and_unknown_names() -> None:
    spec = lookup("relu")
    assert isinstance(spec, OpSpec)
    with pytest.raises(IRError, match="'relu' is registered already"):
        register(spec)
    with pytest.raises(IRError, match="'relux' is not an op"):
        lookup("relux")


def test_a_subclass_with_its_own_forward_is_traced_through() -> None:
    class Plain(nn.Conv2d):
        pass

    class Scaled(nn.Conv2d):
        def forward(self, input: Tensor) -> Tensor:
            return super().forward(input) * 2

    found = spec_of_module(Plain(1, 1, 1))
    assert found is not None and found[0].name == "conv2d"
    assert spec_of_module(Scaled(1, 1, 1)) is None


def test_edits_that_break_a_type_rule_are_refused() -> None:
    graph = from_torch(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(1, 4))
    draft = draft_of(graph)
    draft.add(Node("extra", "linear", (graph.inputs[0],), {"weight": "2.weight"}))
    with pytest.raises(IRError, match=r"'extra' .linear. reads 4 features, but its weight is for 8"):
        draft.commit()
