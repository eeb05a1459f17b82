"""Whatever a user hands to a public function is taken, or refused by a GnGraphError of one sentence: nothing else leaves it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gngraph
from gngraph.analysis.manager import AnalysisManager
from gngraph.errors import GnGraphError
from gngraph.ir import format_graph
from gngraph.options import TrainOptions
from gngraph.scoring.gauss_newton import GaussNewton

X = torch.randn(48, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(48) % 3
SHORT: dict[str, Any] = {"max_params": 60, "rounds": 1, "epochs": 1, "final_epochs": 1}


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def normed() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3))


class Returns(nn.Module):
    """Layers, of which a function gives the outputs."""

    def __init__(self, function: Callable[[Any, Tensor], Any]) -> None:
        super().__init__()
        self.a, self.b, self.function = nn.Linear(4, 5), nn.Linear(5, 3), function

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)

    def layers(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x)))  # type: ignore[no-any-return]


def graph() -> gngraph.Graph:
    return gngraph.from_torch(net(), X)


def without_values() -> gngraph.Graph:
    return gngraph.parse(format_graph(graph()))


def imported(function: Callable[[Any, Tensor], Any], x: Any = X) -> gngraph.Graph:
    return gngraph.from_torch(Returns(function), x)


def grown(x: Any, y: Any, **options: Any) -> Any:
    return gngraph.grow(net(), gngraph.Problem((x, y), device="cpu", **options), **SHORT)


def an_error(*_: Any) -> Any:
    raise ZeroDivisionError("division by zero")


def module() -> Any:
    return net()


def number() -> Any:
    return 3


anything: Any = gngraph
REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "a set is returned": (lambda _: imported(lambda net, x: {net.layers(x)}), "set"),
    "an object is returned": (lambda _: imported(lambda net, x: object()), "object"),
    "a generator is returned": (lambda _: imported(lambda net, x: (y for y in [x])), "generator"),
    "an array is returned": (lambda _: imported(lambda net, x: net.layers(x).detach().numpy()), "numpy"),
    "numbers as keys": (lambda _: imported(lambda net, x: {0: net.layers(x)}), "keys must be text"),
    "forward raises": (lambda _: imported(an_error), "division by zero"),
    "forward raises in train mode": (
        lambda _: imported(lambda net, x: an_error() if net.training else net.layers(x)), "division by zero"
    ),
    "no forward": (lambda _: gngraph.from_torch(nn.ModuleList([nn.Linear(4, 5)]), X), "forward"),
    "an input of another dtype": (lambda _: gngraph.from_torch(net(), X.double()), "f64"),
    "an input of another shape": (lambda _: gngraph.from_torch(net(), X[:, :3]), "does not run"),
    "an input without samples": (lambda _: gngraph.from_torch(net(), X[:0]), "at least one sample"),
    "an input of 8 bits": (lambda _: gngraph.from_torch(net(), X.to(torch.float8_e4m3fn)), "float8"),
    "an input of text": (lambda _: gngraph.from_torch(net(), "4x4"), "'str'"),
    "an input of numbers": (lambda _: gngraph.from_torch(net(), [[1.0, 2.0]]), "no tensor"),
    "a data set": (lambda _: gngraph.from_torch(net(), torch.utils.data.TensorDataset(X)), "TensorDataset"),
    "to_torch of a module": (lambda _: anything.to_torch(net()), "from_torch"),
    "to_torch without values": (lambda _: gngraph.to_torch(without_values()), "no values"),
    "save of a module": (lambda at: anything.save(net(), at / "a.gng"), "from_torch"),
    "save to nothing": (lambda _: anything.save(graph(), None), "a path is text"),
    "save to a folder": (lambda at: gngraph.save(graph(), at), "folder"),
    "save to no folder": (lambda at: gngraph.save(graph(), at / "none" / "a.gng"), "cannot be written"),
    "save of what is no JSON": (lambda at: gngraph.save(graph(), at / "a.gng", history={"a": X}), "JSON"),
    "load of nothing": (lambda _: anything.load(None), "a path is text"),
    "load of a number": (lambda _: anything.load(3), "a path is text"),
    "load of a folder": (lambda at: gngraph.load(at), "folder"),
    "load of what is not there": (lambda at: gngraph.load(at / "a.gng"), "no file"),
    "load of a zero byte": (lambda _: gngraph.load("a\0b"), "zero bytes"),
    "load with a number for a shape": (lambda at: anything.load(at / "a.gng", input_shape=4), "no tuple of sizes"),
    "export to nothing": (lambda _: anything.export_onnx(graph(), None), "a path is text"),
    "export of a module": (lambda at: anything.export_onnx(net(), at / "a.onnx"), "from_torch"),
    "export with other samples": (
        lambda at: gngraph.export_onnx(graph(), at / "a.onnx", samples=X[:, :3]), r"takes 'f32\[N,4\]'"
    ),
    "export with samples of numbers": (
        lambda at: anything.export_onnx(graph(), at / "a.onnx", samples=[[1.0]]), "samples are a tensor"
    ),
    "export without samples": (lambda at: gngraph.export_onnx(graph(), at / "a.onnx", samples=X[:0]), "at least one"),
    "diff with nothing": (lambda _: anything.diff(graph(), None), "a Graph is wanted"),
    "diff of modules": (lambda _: anything.diff(net(), net()), "from_torch"),
    "no passes": (lambda _: anything.PassManager(None), "passes are their text"),
    "a number for a pass": (lambda _: anything.PassManager([3]), "a pass is a Pass or its text"),
    "passes of a module": (lambda _: anything.PassManager("cleanup").run(net()), "from_torch"),
    "passes without values": (lambda _: gngraph.PassManager("split-channels").run(without_values()), "no values"),
    "passes without parameters": (
        lambda _: gngraph.PassManager("split-channels").run(gngraph.from_torch(nn.ReLU(), X)), "no channel space"
    ),
    "text of nothing": (lambda _: anything.parse(None), "is a str"),
    "text of bytes": (lambda _: anything.parse(b"graph"), "is a str"),
    "analysis of a module": (
        lambda _: AnalysisManager(gngraph.Problem((X, Y), device="cpu")).get(GaussNewton(), module()), "from_torch"
    ),
    "a number for a problem": (lambda _: AnalysisManager(number()), "is a Problem"),
    "data of no samples": (lambda _: gngraph.Problem((torch.tensor(1.0), torch.tensor(1))), "a row a sample"),
    "sparse data": (lambda _: gngraph.Problem((X.to_sparse(), Y)), "dense"),
    "data without values": (lambda _: gngraph.Problem((X.to("meta"), Y)), "with values"),
    "data in an array of objects": (lambda _: gngraph.Problem((X.numpy().astype(object), Y.numpy())), "are numbers"),
    "no device": (lambda _: gngraph.Problem((X, Y), device="tpu9"), "no device of torch"),
    "a device that is not there": (lambda _: gngraph.Problem((X, Y), device="cuda:77"), "is not there"),
    "text for a number of samples": (lambda _: grown(X, Y, batch_size="8"), "number of samples"),
    "no seed": (lambda _: grown(X, Y, seed=None), "the seed is None"),
    "a loss that raises": (lambda _: grown(X, Y, loss=an_error), "division by zero"),
    "one sample": (lambda _: grown(X[:1], Y[:1]), "at least 24"),
    "batches of one": (
        lambda _: gngraph.grow(
            normed(), gngraph.Problem((X, Y), device="cpu"), **SHORT, train=TrainOptions(batch_size=1)
        ),
        "cannot be trained on a batch of 1: .* at least two",
    ),
    "a folder that is a number": (
        lambda _: anything.grow(net(), gngraph.Problem((X, Y), device="cpu"), out=3, **SHORT), "the path of a folder"
    ),
    "shrink to nothing": (
        lambda _: gngraph.shrink(net(), gngraph.Problem((X, Y), device="cpu"), to=0.0001, epochs=1), "parameters"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_it_is_refused_in_one_sentence(kind: str, tmp_path: Path) -> None:
    call, message = REFUSED[kind]
    with pytest.raises(GnGraphError, match=message) as refused:
        call(tmp_path)
    assert "\n" not in str(refused.value)


TAKEN: dict[str, Callable[[], gngraph.Graph]] = {
    "None is returned too": lambda: imported(lambda net, x: {"a": net.layers(x), "b": None}),
    "text is returned too": lambda: imported(lambda net, x: (net.layers(x), "a", 3)),
    "nested outputs": lambda: imported(lambda net, x: ((net.layers(x),), [{"a": x}])),
    "no layers": lambda: gngraph.from_torch(nn.Sequential(), X),
    "no parameters": lambda: gngraph.from_torch(nn.ReLU(), X),
    "an input with gradients": lambda: gngraph.from_torch(net(), X.clone().requires_grad_()),
    "an input of a computation": lambda: gngraph.from_torch(net(), X.clone().requires_grad_() * 2),
    "an input out of order": lambda: gngraph.from_torch(net(), torch.randn(4, 6).t()),
    "a repeated input": lambda: gngraph.from_torch(net(), X[:1].expand(5, 4)),
    "a parameter as input": lambda: gngraph.from_torch(net(), nn.Parameter(X)),
    "one sample": lambda: gngraph.from_torch(normed(), X[:1]),
    "half precision": lambda: gngraph.from_torch(net().bfloat16(), X.bfloat16()),
    "complex numbers": lambda: imported(lambda net, x: net.layers(x.real), torch.complex(X, X)),
    "flags": lambda: imported(lambda net, x: net.layers(x.float()), X > 0),
}


@pytest.mark.parametrize("kind", TAKEN)
def test_it_is_taken(kind: str, tmp_path: Path) -> None:
    made = TAKEN[kind]()
    gngraph.save(made, tmp_path / "a.gng")
    gngraph.to_torch(gngraph.load(tmp_path / "a.gng"))


def test_a_module_made_in_inference_mode_is_taken() -> None:
    with torch.inference_mode():
        made = net()
        inside = gngraph.from_torch(made, X)
    assert inside.num_params() == gngraph.from_torch(made, X).num_params() == 43
