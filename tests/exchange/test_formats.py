"""ONNX and torch.export files of torch's exporters as graphs: the function, the names and the freedom of the model itself."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import Tensor, nn

import gngraph
from gngraph.analysis.channels import ChannelSpaces
from gngraph.errors import ModelFileError
from gngraph.exchange import onnx_ops
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.lowering.to_torch import run
from gngraph.passes import PassManager
from tests.exchange.networks import networks, onnx_file, pt2_file

WRITE: dict[str, Callable[..., str]] = {"onnx": onnx_file, "pt2": pt2_file}
MADE = cache(networks)


def free(graph: Graph) -> int:
    return sum(space.frozen is None for space in ChannelSpaces.of(graph))


def assert_computes(graph: Graph, net: nn.Module, x: Tensor) -> None:
    with torch.no_grad():
        torch.testing.assert_close(run(graph, x), net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", WRITE)
@pytest.mark.parametrize("name", ["residual", "tokens", "mlp"])
def test_a_file_becomes_the_graph_of_its_model(name: str, kind: str, tmp_path: Path) -> None:
    net, x = MADE()[name]
    graph = gngraph.load(WRITE[kind](net, x, tmp_path / f"own.{kind}"))
    assert_computes(graph, net, torch.cat([x, x[:1]]))
    assert graph.name == "own"
    own, known = {n for n, p in graph.params.items() if p.kind == "parameter"}, dict(net.named_parameters())
    if kind == "pt2":
        assert own == {*known} and free(graph) == free(from_torch(net, x))
    else:  # norms that were folded into a convolution gave it a bias
        assert own <= {*known, "stem.0.bias"} and len(own) > len(known) - 3
        assert free(graph) == free(from_torch(net, x))
    wider = PassManager("split-channels{count=1}").run(graph).graph
    assert wider.num_params() > graph.num_params()
    assert_computes(wider, net, x)


@pytest.mark.parametrize("kind", WRITE)
def test_a_file_for_two_samples_becomes_a_graph_for_any_number(kind: str, tmp_path: Path) -> None:
    for name in ("residual", "tokens"):
        net, x = MADE()[name]
        graph = gngraph.load(WRITE[kind](net, x, tmp_path / f"{name}.{kind}", dynamic=False))
        assert_computes(graph, net, torch.cat([x, x[:1]]))


def test_norms_and_dropout_train_again(tmp_path: Path) -> None:
    net, x = MADE()["residual"]
    graph = gngraph.load(pt2_file(net, x, tmp_path / "own.pt2"))
    assert sum(node.op == "batch_norm2d" for node in graph.nodes.values()) == 2
    module = gngraph.to_torch(graph).train()
    before = module.state_dict()["norm.running_mean"].clone()
    assert not torch.equal(module(x), module(x))
    assert not torch.equal(before, module.state_dict()["norm.running_mean"])


def test_what_is_read_wrongly_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = MADE()["mlp"]
    path = onnx_file(net, x, tmp_path / "own.onnx")
    monkeypatch.setitem(onnx_ops.ONNX, "Tanh", lambda r, x: r.call(torch.sigmoid, x))
    with pytest.raises(ModelFileError, match=r"differs by \d.* from what it computes"):
        gngraph.load(path)


def of_nodes(path: Path, *nodes: onnx.NodeProto, sizes: tuple[Any, ...] = ("n", 4, 6, 6)) -> str:
    """A file of some nodes from "x" to "y", with weights "w" of 4 convolutions."""
    values = torch.randn(4, 4, 3, 3)
    weights = [helper.make_tensor("w", TensorProto.FLOAT, values.shape, values.flatten().tolist())]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", sizes), ("y", None))]
    graph = helper.make_graph([*nodes], "made", ends[:1], ends[1:], weights)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), str(path))
    return str(path)


def test_pads_of_one_side_and_pieces_are_read(tmp_path: Path) -> None:
    path = of_nodes(
        tmp_path / "a.onnx",
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[0, 1, 2, 1], strides=[2, 2]),
        helper.make_node("MaxPool", ["a"], ["b"], kernel_shape=[2, 2], pads=[0, 0, 1, 1]),
        helper.make_node("Split", ["b"], ["c", "d"], axis=1),
        helper.make_node("Clip", ["c"], ["e"]),
        helper.make_node("Mul", ["e", "d"], ["f"]),
        helper.make_node("ReduceMean", ["f"], ["y"], axes=[2, 3], keepdims=0),
    )
    assert [n for n, p in gngraph.load(path).params.items() if p.kind == "parameter"] == ["w.weight"]


REFUSED: dict[str, tuple[list[onnx.NodeProto], str]] = {
    "an op": ([helper.make_node("Det", ["x"], ["y"], "deter")], "has the op 'Det' at 'deter', which is not known here"),
    "an op of others": ([helper.make_node("Relu", ["x"], ["y"], domain="com.microsoft")], "cannot be read as ONNX"),
    "weights that are computed": (
        [helper.make_node("Relu", ["w"], ["v"]), helper.make_node("Conv", ["x", "v"], ["y"], "c")],
        "'Conv' at 'c', which has weights that are computed",
    ),
    "a mean over samples": ([helper.make_node("ReduceMean", ["x"], ["y"])], "samples of the batch among them"),
    "a constant": ([helper.make_node("Shape", ["x"], ["s"], start=1), helper.make_node("Cast", ["s"], ["y"], to=1)], "constant"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_known_is_refused_by_node_and_op(kind: str, tmp_path: Path) -> None:
    nodes, message = REFUSED[kind]
    path = of_nodes(tmp_path / "a.onnx", *nodes)
    with pytest.raises(ModelFileError, match=message):
        gngraph.load(path)


def test_sizes_that_a_file_leaves_open_are_asked_for(tmp_path: Path) -> None:
    path = of_nodes(tmp_path / "a.onnx", helper.make_node("Conv", ["x", "w"], ["y"]), sizes=("n", 4, "h", "w"))
    with pytest.raises(ModelFileError, match=r"takes inputs of shape '4x\?x\?' .* by --input-shape"):
        gngraph.load(path)
    assert gngraph.load(path, input_shape=(4, 5, 5)).num_params() == 144
    with pytest.raises(ModelFileError, match=r"not '3x5x5'; leave out"):
        gngraph.load(path, input_shape=(3, 5, 5))
    with pytest.raises(ModelFileError, match="holds a network already"):
        gngraph.load(path, arch="mlp")


def changed(path: str, change: Callable[[dict[str, Any]], None], out: Path) -> str:
    """A .pt2 file whose graph was changed by hand."""
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            held = source.read(name)
            if name.endswith("models/model.json"):
                model = json.loads(held)
                change(model)
                held = json.dumps(model).encode()
            target.writestr(name, held)
    return str(out)


def test_a_torch_export_file_runs_nothing_that_it_says(tmp_path: Path) -> None:
    net, x = MADE()["mlp"]
    path, mark = pt2_file(net, x, tmp_path / "own.pt2"), tmp_path / "ran"

    def calls(model: dict[str, Any]) -> None:
        model["graph_module"]["graph"]["nodes"][0]["target"] = "torch.hub.load"

    def evaluates(model: dict[str, Any]) -> None:
        text, honest = json.dumps(model), '"expr_str": "'
        assert honest in text
        model |= json.loads(text.replace(honest, f"{honest}open({str(mark)!r}, 'w') or "))

    with pytest.raises(ModelFileError, match=r"has the op 'torch.hub.load' at '\w+', which is not known"):
        gngraph.load(changed(path, calls, tmp_path / "calls.pt2"))
    gngraph.load(changed(path, evaluates, tmp_path / "evaluates.pt2"))
    assert not mark.exists()
    with pytest.raises(ModelFileError, match="damaged, or of a version"):
        gngraph.load(changed(path, lambda model: model.pop("graph_module"), tmp_path / "empty.pt2"))


def test_a_file_of_train_mode_is_refused(tmp_path: Path) -> None:
    net, x = networks()["residual"]
    with pytest.raises(ModelFileError, match="export the model in eval mode"):
        gngraph.load(pt2_file(net.train(), x, tmp_path / "own.pt2"))
