"""ONNX files: dynamic batch, provenance, parity in onnxruntime, and nothing left behind on failure."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gngraph.deploy.precision import TOLERANCES
from gngraph.deploy.to_onnx import export_onnx
from gngraph.errors import GnGraphError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.lowering.to_torch import to_torch
from gngraph.zoo import build_seed
from tests.ingredients.modes import NormAct

SHAPE = (1, 8, 8)


def calibrated() -> Graph:
    net = build_seed("vgg11", width=0.1, input_shape=SHAPE)
    with torch.no_grad():
        net.train()(torch.randn(8, *SHAPE))
    return from_torch(net, torch.randn(1, *SHAPE))


def test_export_is_checked_and_agrees(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    graph = calibrated()
    samples = torch.randn(5, *SHAPE)
    report = export_onnx(graph, tmp_path / "net.onnx", samples=samples, metadata={"accuracy": "0.9"})
    assert capfd.readouterr().out == ""
    assert list(tmp_path.iterdir()) == [report.path]
    assert report.parity.batches == (1, 3, 5) and report.opset >= 18 and report.bytes == report.path.stat().st_size
    assert report.parity.max_abs_output > 0 and report.parity.max_abs_difference <= 1e-4 * report.parity.max_abs_output
    assert torch.cuda.is_available() or report.providers == ("CPUExecutionProvider",)

    model = onnx.load(report.path)
    assert report.nodes == len(model.graph.node)
    props = {entry.key: entry.value for entry in model.metadata_props}
    assert props["parameters"] == str(graph.num_params()) and props["accuracy"] == "0.9" and "gngraph_version" in props
    (entry,), (output,) = model.graph.input, model.graph.output
    assert (entry.name, entry.type.tensor_type.shape.dim[0].dim_param) == ("x", "batch")
    assert (output.name, output.type.tensor_type.shape.dim[0].dim_param) == (graph.outputs[0], "batch")

    session = onnxruntime.InferenceSession(str(report.path), providers=["CPUExecutionProvider"])
    x = torch.randn(7, *SHAPE)
    (found,) = session.run(None, {"x": x.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(found), to_torch(graph)(x), rtol=1e-4, atol=1e-5)


class SeenByTraining(nn.Module):
    """A norm that counts its batches, a value that no gradient passes, and a branch of train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.n, self.b = nn.Conv2d(1, 4, 3), NormAct(4), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.n(self.a(x))
        y = y + (torch.round(y * 4) / 4 - y).data
        with torch.no_grad():
            scale = self.b(y).mean((2, 3), keepdim=True)
        y = self.b(y) if self.training else torch.tanh(y)
        out: torch.Tensor = y * scale.sigmoid()
        return out


def test_what_training_alone_sees_is_left_out(tmp_path: Path) -> None:
    graph = from_torch(SeenByTraining(), torch.randn(1, *SHAPE))
    assert {"by_mode", "detach"} <= {node.op for node in graph.nodes.values()}
    assert export_onnx(graph, tmp_path / "net.onnx").parity.max_abs_output > 0


def test_a_difference_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = from_torch(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(1, 3))
    monkeypatch.setitem(TOLERANCES, "float32", -1.0)
    with pytest.raises(GnGraphError, match="differs from it by"):
        export_onnx(graph, tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_samples_fit_one_input_only(tmp_path: Path) -> None:
    class Sum(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
            return a + b

    graph = from_torch(Sum(), (torch.randn(1, 3), torch.randn(1, 3)))
    with pytest.raises(GnGraphError, match="2 inputs"):
        export_onnx(graph, tmp_path / "net.onnx", samples=torch.randn(2, 3))


class ByFunction(nn.Module):
    """A linear layer by its function, the value of which the exporter names as it names that of a module before."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(outputs, inputs)), nn.Parameter(torch.randn(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight, self.bias)


def test_an_output_may_have_a_name_that_the_exporter_gives_a_value_inside(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), ByFunction(6, 5), nn.ReLU(), ByFunction(5, 3))
    graph = from_torch(network, torch.randn(2, 8))
    assert graph.outputs == ("linear_1",)
    export_onnx(graph, tmp_path / "net.onnx")
    assert [value.name for value in onnx.load(tmp_path / "net.onnx").graph.output] == ["linear_1"]
