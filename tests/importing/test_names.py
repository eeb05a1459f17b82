"""Modules, parameters and buffers under names that mean something in Python: taken in every form, or refused by that name."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gngraph
from gngraph.errors import UnsupportedModelError
from gngraph.source.export import export_source

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))


class Held(nn.Module):
    """A layer that a container holds under a name, or whose weight a parameter or buffer is."""

    def __init__(self, kind: str, name: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.name, self.head = kind, name, nn.Linear(5, 3)
        if kind == "module":
            self.add_module(name, nn.Linear(6, 5))
        elif kind == "dict":
            self.held = nn.ModuleDict({name: nn.Linear(6, 5)})
        elif kind == "deep":
            self.held = nn.ModuleDict({name: nn.Sequential(nn.ModuleDict({name: nn.Linear(6, 5)})[name], nn.ReLU())})
        elif kind == "parameters":
            self.held = nn.ParameterDict({name: nn.Parameter(torch.randn(5, 6))})  # type: ignore[assignment]
        elif kind == "parameter":
            self.register_parameter(name, nn.Parameter(torch.randn(5, 6)))
        else:
            self.register_buffer(name, torch.randn(5, 6))

    def forward(self, x: Tensor) -> Tensor:
        held: Any = getattr(self, self.name) if self.kind in ("module", "parameter", "buffer") else self.held[self.name]
        return self.head(torch.relu(held(x) if isinstance(held, nn.Module) else x @ held.t()))  # type: ignore[no-any-return]


KINDS = ("module", "dict", "deep", "parameters", "parameter", "buffer")


@pytest.mark.parametrize(
    "name", ["class", "lambda", "None", "import", "my-layer", "1x", "self", "torch", "nn", "input", "print"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_taken_in_every_form(kind: str, name: str, tmp_path: Path) -> None:
    net = Held(kind, name).eval()
    graph = gngraph.from_torch(net, X)
    lowered = gngraph.to_torch(graph)
    assert list(lowered.state_dict()) == list(net.state_dict())
    assert torch.equal(lowered(X), net(X))
    assert torch.equal(copy.deepcopy(lowered)(X), net(X))

    gngraph.save(graph, tmp_path / "net.gng")
    assert torch.equal(gngraph.to_torch(gngraph.load(tmp_path / "net.gng"))(X), net(X))

    files = export_source(graph, tmp_path)
    namespace: dict[str, Any] = {"__name__": "model", "__file__": str(files.model)}
    exec(files.model.read_text(), namespace)
    assert torch.equal(namespace["load"]()(X), net(X))

    if kind != "buffer":
        grown = gngraph.PassManager("split-channels{count=1}").run(graph).graph
        assert torch.allclose(gngraph.to_torch(grown)(X), net(X), atol=1e-5)


@pytest.mark.parametrize("kind", ["dict", "parameter"])
def test_it_is_written_as_onnx(kind: str, tmp_path: Path) -> None:
    report = gngraph.export_onnx(gngraph.from_torch(Held(kind, "class"), X), tmp_path / "net.onnx")
    assert report.parity.max_abs_difference < 1e-4


@pytest.mark.parametrize("name", ["a/b", "a+b", "__x", "a:b"])
def test_what_cannot_be_written_is_refused_by_its_name(name: str) -> None:
    with pytest.raises(UnsupportedModelError) as refused:
        gngraph.from_torch(Held("dict", name), X)
    assert name in str(refused.value)
