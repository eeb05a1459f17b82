"""Source written from graphs: it loads without gngraph, has the same keys and computes the same bits."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from gngraph.errors import IRError, ModelFileError
from gngraph.files.checkpoint import load_module
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph, Parameter
from gngraph.lowering.to_torch import lower, to_torch
from gngraph.source.export import export_source, to_source
from gngraph.source.proof import execute, prove
from gngraph.zoo import build_seed
from tests.ingredients.modes import NormAct

SEEDS = {"vgg11": (1, 8, 8), "resnet20": (3, 16, 16), "mobilenet": (3, 16, 16), "mlp": (5,)}
TORCHVISION = ["resnet18", "densenet121", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0"]


def calibrated(net: nn.Module, *shape: int) -> Graph:
    """The graph of `net` once BatchNorm has seen data, so that outputs depend on every layer."""
    with torch.no_grad():
        net.train()(torch.randn(4, *shape))
    return from_torch(net, torch.randn(1, *shape))


def check(graph: Graph, text: str, *shape: int) -> nn.Module:
    """The network that `text` defines, once it is the graph's in keys, outputs and in train mode."""
    assert "import gngraph" not in text and "from gngraph" not in text
    reference = to_torch(graph)
    net: nn.Module = execute(text)[graph.name]()
    net.load_state_dict(reference.state_dict())
    assert list(net.state_dict()) == list(reference.state_dict())
    x = torch.randn(3, *shape)
    for training in (False, True):
        outputs = []
        for module in (net, reference):
            torch.manual_seed(1)
            outputs.append(module.train(training)(x))
        assert torch.equal(*outputs)
    for key, value in net.state_dict().items():
        assert torch.equal(value, reference.state_dict()[key]), key  # running statistics moved alike
    return net


@pytest.mark.parametrize("name", SEEDS)
def test_seeds(name: str) -> None:
    shape = SEEDS[name]
    graph = calibrated(build_seed(name, width=0.1, input_shape=shape), *shape)
    check(graph, to_source(graph), *shape)


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvision(name: str) -> None:
    graph = calibrated(torchvision.models.get_model(name, weights=None, num_classes=10), 3, 64, 64)
    check(graph, to_source(graph), 3, 64, 64)


def test_resnet_reads_as_written_by_hand() -> None:
    graph = calibrated(torchvision.models.resnet18(num_classes=10), 3, 64, 64)
    text = to_source(graph)
    assert classes(text) == ["ResidualBlock", "ResidualBlockWithDownsample", "ResNet"]
    assert "nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)" in text
    assert "self.layer1 = nn.Sequential(ResidualBlock(64), ResidualBlock(64))" in text
    assert "        y = self.relu(self.bn1(self.conv1(x)))\n" in text
    assert "        return self.relu(y + self.downsample(x))\n" in text
    assert "        return self.fc(torch.flatten(self.avgpool(x), 1))\n" in text


def classes(text: str) -> list[str]:
    return [node.name for node in ast.parse(text).body if isinstance(node, ast.ClassDef)]


@pytest.mark.parametrize("name", ["resnet20", "mobilenet"])
def test_text_is_formatted_and_clean(name: str, tmp_path: Path) -> None:
    file = tmp_path / "model.py"
    file.write_text(to_source(calibrated(build_seed(name, width=0.1), 3, 32, 32)))
    for command in (["format", "--check"], ["check", "--select", "E,F,I,W,B,UP"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--isolated", "--no-cache", str(file)]
        done = subprocess.run(ruff, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_files_load_without_gngraph(tmp_path: Path) -> None:
    graph = calibrated(build_seed("resnet20", width=0.2), 3, 32, 32)
    numbers = {"scale": 255.0, "mean": [0.5, 0.4, 0.3], "std": [0.25, 0.25, 0.25]}
    files = export_source(graph, tmp_path / "out", inputs={"preprocess": numbers, "classes": ["cat", "dog's"]})
    assert sorted(tmp_path.joinpath("out").iterdir()) == [files.model, files.weights]
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = to_torch(graph)(x)
    torch.save((x, expected), tmp_path / "case.pt")
    code = (
        "import sys; sys.modules['gngraph'] = None\n"
        "import torch; from model import CLASSES, PREPROCESSING, ResNet, load\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        "net = load(); x, expected = torch.load(sys.argv[1])\n"
        "assert isinstance(net, ResNet) and not net.training and PREPROCESSING['scale'] == 255.0\n"
        "assert CLASSES == ['cat', \"dog's\"]\n"
        "assert torch.equal(net(x), expected)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "case.pt")]
    done = subprocess.run(command, cwd=tmp_path / "out", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encode = nn.Linear(6, 6, bias=False)
        self.decode = nn.Linear(6, 6)
        self.decode.weight = self.encode.weight
        self.head = nn.Linear(6, 2)
        self.head.weight.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.decode(F.relu(self.encode(x))))  # type: ignore[no-any-return]


def test_a_flipped_bit_in_the_weights_is_found(tmp_path: Path) -> None:
    """By the file itself, which needs no gngraph, and where gngraph reads the values; values of one's own have no sum."""
    graph = from_torch(build_seed("mlp", width=0.25, classes=3, input_shape=(4,)), torch.zeros(1, 4))
    files = export_source(graph, tmp_path)
    load = execute(files.model.read_text())["load"]
    own = load(files.weights)
    damaged = bytearray(files.weights.read_bytes())
    damaged[-3] ^= 1
    files.weights.write_bytes(damaged)
    with pytest.raises(ValueError, match="is damaged; copy it again"):
        load(files.weights)
    with pytest.raises(ModelFileError, match="are not those that were written; copy or download it again"):
        load_module(files.weights, arch="mlp", width=0.25, input_shape=(4,))
    save_file(own.state_dict(), files.weights)
    assert all(map(torch.equal, load(files.weights).parameters(), own.parameters()))


def test_tied_and_frozen_weights(tmp_path: Path) -> None:
    graph = from_torch(Tied(), torch.randn(1, 6))
    net: Any = check(graph, to_source(graph), 6)
    assert net.decode.weight is net.encode.weight
    assert not net.head.weight.requires_grad and net.head.bias.requires_grad
    files = export_source(graph, tmp_path)
    loaded = execute(files.model.read_text())["load"](files.weights)
    assert loaded.decode.weight is loaded.encode.weight


class Scaled(nn.Module):
    """Parameters, buffers and constants used without a module; width and literal differ between instances."""

    def __init__(self, size: int, power: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size, size))
        self.shift = nn.Buffer(torch.randn(size))
        self.power = power

    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight) + self.shift
        return F.rrelu(y * self.power - x / 3, training=self.training)


class Raw(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(4))
        self.small = torch.tensor([0.1, float("inf"), -2.0, 3.0])
        self.large = torch.randn(80, 4)
        self.first = Scaled(4, 0.5)
        self.second = Scaled(8, -2.0)
        self.layers = nn.ModuleList([nn.Linear(4, 8), nn.Linear(8, 8)])
        self.norms = nn.ParameterList([torch.randn(8)])

    def forward(self, x: Tensor) -> dict[str, Any]:
        x = torch.minimum(self.first(x * self.scale), self.small)
        x = self.second(self.layers[0](x + F.linear(x, self.large)[:, :4]))
        return {"out": self.layers[1](x) * self.norms[0], "parts": (x, x[:, 1:3])}


def test_raw_parameters_constants_and_structured_outputs(tmp_path: Path) -> None:
    graph = from_torch(Raw(), torch.randn(1, 4))
    text = to_source(graph)  # proves itself
    assert classes(text) == ["First", "Norms", "Raw"]  # one class for both scaled modules
    assert "F.rrelu(" in text and "training=self.training" in text
    files = export_source(graph, tmp_path)
    net = execute(files.model.read_text())["load"](files.weights)
    x = torch.randn(5, 4)
    assert list(net.state_dict()) == list(to_torch(graph).state_dict())
    assert torch.equal(net(x)["out"], to_torch(graph)(x)["out"])


class Twice(nn.Module):
    """A block that is called at two places cannot have the one forward of its region; a chain of unnamed parts can."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
        self.middle = nn.Linear(4, 4)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.block(self.middle(self.block(x)) + y)  # type: ignore[no-any-return]


def test_a_norm_that_brings_its_activation_keeps_it_inside() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3)])
            self.norms = nn.ModuleList([NormAct(4), NormAct(6)])

        def forward(self, x: Tensor) -> Tensor:
            for conv, norm in zip(self.convs, self.norms, strict=True):
                x = norm(conv(x))
            return x.mean((2, 3))

    graph = calibrated(Net(), 3, 8, 8)
    text = to_source(graph)
    assert "nn.BatchNorm2d(4), drop=nn.Identity(), act=nn.ReLU()" in text
    assert isinstance(check(graph, text, 3, 8, 8).get_submodule("norms.1.act"), nn.ReLU)


def test_shared_block_is_written_inline() -> None:
    graph = from_torch(Twice(), (torch.randn(1, 4), torch.randn(1, 4)))
    text = to_source(graph)
    assert text.count("self.block[0](") == 2


def test_root_sequence_and_double_precision() -> None:
    graph = from_torch(nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), torch.randn(1, 3))
    text = to_source(graph)
    assert "class Network(nn.Sequential):" in text and "super().__init__(" in text
    double = Graph(graph.name, graph.nodes, graph.to(torch.float64).params, graph.inputs, graph.output)
    inputs = from_torch(to_torch(double), torch.randn(1, 3, dtype=torch.float64))
    assert "self.to(torch.float64)" in to_source(inputs)


def test_a_difference_is_an_error() -> None:
    graph = from_torch(nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)), torch.randn(1, 3))
    text, reference = to_source(graph), lower(graph).module
    for old, new, complaint in (
        ("nn.Linear(4, 2)", "nn.Linear(4, 2, bias=False)", "'2.bias'"),
        ("nn.Linear(4, 2)", "nn.Linear(4, 3)", "'2.weight' is torch.float32 of shape"),
        ("nn.Dropout()", "nn.Tanh()", "differs in eval mode"),
        ("nn.Dropout()", "nn.Dropout(p=0.4)", "differs in train mode"),
        ("super().__init__(", "super().__init__(nn.Identity(), ", "'0.bias'"),
    ):
        assert old in text
        with pytest.raises(IRError, match=complaint):
            prove(text.replace(old, new), "Network", graph, reference)


class Odd(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleDict({"a-b": nn.Linear(3, 4), "0": nn.Linear(4, 2)})

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts.values():
            x = part(x)
        return x


def test_module_names_that_are_no_python_names() -> None:
    odd = from_torch(Odd(), torch.randn(1, 3))
    check(odd, to_source(odd), 3)


def test_names_cannot_inject_code() -> None:
    graph = from_torch(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), torch.randn(1, 3))
    hostile = Graph('x"""\nraise SystemExit(1)\n"""', graph.nodes, graph.params, graph.inputs, graph.output)
    assert classes(to_source(hostile)) == ["XRaiseSystemExit1"]


def test_values_are_needed_for_files(tmp_path: Path) -> None:
    graph = from_torch(nn.Sequential(nn.Linear(3, 4)), torch.randn(1, 3))
    params = {name: Parameter(p.data.to("meta")) for name, p in graph.params.items()}
    bare = Graph(graph.name, graph.nodes, params, graph.inputs, graph.output)
    assert to_source(bare) == to_source(graph)
    with pytest.raises(IRError, match="has no values"):
        export_source(bare, tmp_path)
    assert not list(tmp_path.iterdir())
