"""torch.export, fewer bits, timing, and whether a file is the network that it is said to be."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import onnx
import pytest
import torch
from torch import Tensor, nn

from gngraph.deploy.parity import random_inputs, running
from gngraph.deploy.precision import CALIBRATION
from gngraph.deploy.speed import speed
from gngraph.deploy.to_onnx import export_onnx
from gngraph.deploy.to_pt2 import export_pt2
from gngraph.deploy.verifying import verify
from gngraph.errors import GnGraphError
from gngraph.files.archive import load, save
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.ir.fingerprint import fingerprint
from gngraph.lowering.to_torch import to_torch

SHAPE = (1, 8, 8)


def calibrated() -> Graph:
    """A small network with BatchNorm that has seen samples."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(576, 10))
    net.train()(torch.randn(8, *SHAPE))
    return from_torch(net.eval(), torch.randn(2, *SHAPE))


def test_a_torch_export_file_is_equal_bit_for_bit_and_needs_torch_alone(tmp_path: Path) -> None:
    graph = calibrated()
    report = export_pt2(graph, tmp_path / "net.pt2", metadata={"accuracy": "0.9"})
    assert list(tmp_path.iterdir()) == [report.path] and report.parity.max_abs_difference == 0.0
    x = torch.randn(7, *SHAPE)
    loaded = torch.export.load(report.path).module()
    assert torch.equal(loaded(x), to_torch(graph)(x))
    with pytest.raises(GnGraphError, match=r"end it in \.pt2"):
        export_pt2(graph, tmp_path / "net.zip")


def test_fewer_bits_take_less_room_and_are_near(tmp_path: Path) -> None:
    graph, samples = calibrated(), torch.randn(64, *SHAPE)
    sizes = {}
    for precision in ("float32", "float16", "int8"):
        report = export_onnx(graph, tmp_path / f"{precision}.onnx", samples=samples, precision=precision, opset=20)
        sizes[precision] = sum(tensor.ByteSize() for tensor in onnx.load(report.path).graph.initializer)
        assert (report.precision, report.opset) == (precision, 20)
        assert report.parity.max_abs_difference < 0.5 * report.parity.max_abs_output
        assert verify(report.path, graph, samples).passed
    assert sizes["float16"] < 0.6 * sizes["float32"] and sizes["int8"] < 0.6 * sizes["float32"]
    with pytest.raises(GnGraphError, match="calibrated on real samples"):
        export_onnx(graph, tmp_path / "int8.onnx", precision="int8")


class Weighed(nn.Module):
    """A mean over tokens in front of the samples, with weights that all samples share."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, weights: Tensor, x: Tensor) -> Tensor:
        return cast(Tensor, self.out((torch.relu(self.hidden(x)) * weights).mean(0)))


def weighed() -> Graph:
    torch.manual_seed(0)
    return from_torch(Weighed(), (torch.rand(40, 1, 1), torch.randn(40, 3, 4)))


def test_integers_are_calibrated_by_pieces_of_samples_wherever_these_lie(tmp_path: Path) -> None:
    graph, samples = weighed(), torch.randn(2 * CALIBRATION + 1, 40, 4)
    assert [str(graph.nodes[name].type) for name in graph.inputs] == ["f32[40,1,1]", "f32[40,N,4]"]
    report = export_onnx(graph, tmp_path / "net.onnx", samples=samples, precision="int8")
    assert report.parity.max_abs_difference < 0.1 * report.parity.max_abs_output


def test_a_file_of_another_network_does_not_pass(tmp_path: Path) -> None:
    graph = calibrated()
    name = next(name for name, p in graph.params.items() if p.kind == "parameter")
    other = graph.with_params({name: graph.params[name].data * 1.5})
    for path in (tmp_path / "net.onnx", tmp_path / "net.pt2"):
        export_onnx(graph, path) if path.suffix == ".onnx" else export_pt2(graph, path)
        save(graph, tmp_path / "net.gng")
        own, found = verify(path, load(tmp_path / "net.gng")), verify(path, other)
        assert own.passed and own.recorded_sha256 == own.network_sha256 == fingerprint(graph)
        assert not found.passed and found.parity is None and len(found.problems) == 2
        assert found.problems[0].startswith("it says that it was written from the network ")
        assert found.record()["passed"] is False
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    for bad in ("bad.onnx", "none.onnx", "net.gng"):
        with pytest.raises(GnGraphError, match=rf"{bad}|cannot be written|Protobuf"):
            verify(tmp_path / bad, graph)


def test_milliseconds_of_a_batch() -> None:
    graph = calibrated()
    found = speed(running(to_torch(graph).eval()), random_inputs(graph, 4), 4)
    assert found.batch == 4 and 0 < found.median <= found.p95
