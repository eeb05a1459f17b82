"""Networks that take dictionaries, lists and further arguments: called as the module is, in every form that they are written in."""

from __future__ import annotations

import io
from collections import OrderedDict, UserDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import gngraph
from gngraph.errors import GnGraphError, UnsupportedModelError
from gngraph.ir import same_structure
from gngraph.ir.text import format_graph, parse
from gngraph.source.export import export_source, to_source

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
Y = torch.randn(3, 4, generator=torch.Generator().manual_seed(1))


class Pair(NamedTuple):
    """Two values by name."""

    left: Tensor
    right: Tensor


class Base(nn.Module):
    """Two layers and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.h = nn.Linear(4, 5), nn.Linear(4, 5), nn.Linear(5, 2)

    def joined(self, x: Tensor, y: Tensor) -> Tensor:
        return self.h(torch.relu(self.a(x)) + torch.relu(self.b(y)))  # type: ignore[no-any-return]


class Dictionary(Base):
    def forward(self, batch: Any) -> Tensor:
        return self.joined(batch["image"], batch["other"])


class Sequence_(Base):
    def forward(self, items: Any) -> Tensor:
        return self.joined(items[0], items[1])


class Unpacked(Base):
    def forward(self, items: Any) -> Tensor:
        x, y = items
        return self.joined(x, y)


class Named(Base):
    def forward(self, pair: Any) -> Tensor:
        return self.joined(pair.left, pair.right)


class KeywordOnly(Base):
    def forward(self, x: Tensor, *, other: Tensor) -> Tensor:
        return self.joined(x, other)


class Hiding(Base):
    def forward(self, torch: Tensor) -> Tensor:
        return self.joined(torch, torch)


class Variadic(Base):
    def forward(self, *xs: Tensor) -> Tensor:
        return self.joined(xs[0], xs[-1]) if len(xs) > 1 else self.joined(xs[0], xs[0])


class Keywords(Base):
    def forward(self, x: Tensor, **more: Any) -> Tensor:
        return self.joined(x, more.get("y", x))


class Everything(Base):
    def forward(self, x: Tensor, *rest: Tensor, scale: Tensor, **more: Tensor) -> Tensor:
        return self.joined(x, rest[0]) * scale + more["shift"]


class Optional_(Base):
    def forward(self, x: Tensor, mask: Tensor | None = None, negative: bool = False, y: Tensor | None = None) -> Tensor:
        out = self.joined(x, x if y is None else y)
        out = out if mask is None else out * mask
        return -out if negative else out


class Nested(Base):
    def forward(self, batch: Any, mode: str, pairs: Any) -> Tensor:
        out = self.joined(batch["views"][0]["image"], pairs[1][0])
        return out if mode == "plain" else out * batch["factor"]


class Builtin(Base):
    def forward(self, input: Tensor, type: Tensor) -> Tensor:
        return self.joined(input, type)


class PositionalOnly(Base):
    def forward(self, x: Tensor, /, y: Tensor) -> Tensor:
        return self.joined(x, y)


class Scalar(Base):
    def forward(self, x: Tensor, temperature: Tensor) -> Tensor:
        return self.joined(x, x) / temperature


Call = tuple[tuple[Any, ...], dict[str, Any]]
NETWORKS: dict[str, tuple[Callable[[], nn.Module], Any, Call]] = {
    "dictionary": (Dictionary, ({"image": X, "other": Y},), (({"image": Y, "other": X},), {})),
    "dictionary by keyword": (Dictionary, {"batch": {"image": X, "other": Y}}, ((), {"batch": {"image": Y, "other": X}})),
    "dictionary of another kind": (Dictionary, (OrderedDict(image=X, other=Y),), (({"image": Y, "other": X},), {})),
    "dictionary by attribute": (Dictionary, (UserDict(image=X, other=Y),), ((UserDict(image=Y, other=X),), {})),
    "list": (Sequence_, ([X, Y],), (([Y, X],), {})),
    "tuple": (Sequence_, ((X, Y),), (((Y, X),), {})),
    "unpacked": (Unpacked, ([X, Y],), (([Y, X],), {})),
    "named tuple": (Named, (Pair(X, Y),), ((Pair(Y, X),), {})),
    "keyword only": (KeywordOnly, {"x": X, "other": Y}, ((Y,), {"other": X})),
    "two of *args": (Variadic, (X, Y), ((Y, X), {})),
    "one of *args": (Variadic, X, ((Y,), {})),
    "**kwargs given": (Keywords, {"x": X, "y": Y}, ((Y,), {"y": X})),
    "**kwargs left out": (Keywords, X, ((Y,), {})),
    "None": (Optional_, (X, None), ((Y, None), {})),
    "a flag": (Optional_, {"x": X, "negative": True}, ((Y,), {"negative": True})),
    "defaults left out": (Optional_, (X, None, False), ((Y,), {})),
    "constants before a tensor": (Optional_, (X, None, False, Y), ((Y, None, False, X), {})),
    "arguments out of order": (Optional_, {"y": Y, "x": X}, ((), {"x": Y, "y": X})),
    "nested": (
        Nested, ({"views": [{"image": X}], "factor": 2.0}, "scaled", (0, (Y,))),
        (({"views": [{"image": Y}], "factor": 2.0}, "scaled", (0, (X,))), {}),
    ),
    "names of functions": (Builtin, {"input": X, "type": Y}, ((), {"input": Y, "type": X})),
    "positional only": (PositionalOnly, (X, Y), ((Y, X), {})),
    "no axes": (Scalar, (X, torch.tensor(2.0)), ((Y, torch.tensor(3.0)), {})),
    "a tuple of one": (Sequence_, ((X, X),), (((Y, Y),), {})),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_the_same_call_everywhere(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    make, example, (args, kwargs) = NETWORKS[name]
    net = make().eval()
    graph = gngraph.from_torch(net, example)
    expected = net(*args, **kwargs)
    lowered = gngraph.to_torch(graph)
    assert torch.equal(lowered(*args, **kwargs), expected)
    assert list(lowered.state_dict()) == list(net.state_dict())

    grown = gngraph.PassManager("split-channels{count=1},new-channels").run(graph).graph
    assert torch.allclose(gngraph.to_torch(grown)(*args, **kwargs), expected, atol=1e-5)

    gngraph.save(graph, tmp_path / "net.gng")
    loaded = gngraph.load(tmp_path / "net.gng")
    assert same_structure(graph, loaded) and same_structure(graph, parse(format_graph(graph)))
    assert torch.equal(gngraph.to_torch(loaded)(*args, **kwargs), expected)

    files = export_source(graph, tmp_path)
    namespace: dict[str, Any] = {"__name__": "model", "__file__": str(files.model)}
    exec(files.model.read_text(), namespace)
    assert torch.equal(namespace["load"]()(*args, **kwargs), expected)

    example = ((X, Y),) if name == "named tuple" else example
    again = gngraph.from_torch(lowered, example)
    assert torch.equal(gngraph.to_torch(again)(*args, **kwargs), expected)


def test_what_torch_saves_is_called_so_too() -> None:
    net = Dictionary().eval()
    lowered = gngraph.to_torch(gngraph.from_torch(net, ({"image": X, "other": Y},)))
    buffer = io.BytesIO()
    torch.save(lowered, buffer)
    buffer.seek(0)
    again = torch.load(buffer, weights_only=False)
    assert torch.equal(again({"image": Y, "other": X}), net({"image": Y, "other": X}))


@pytest.mark.parametrize(
    ("name", "args", "message"),
    [
        ("a flag", (X, False), r"negative must be True"),
        ("None", (X, Y), r"mask must be None"),
        ("dictionary", ({"image": X, "other": Y, "third": X},), r"batch must have 2 entries, image, other"),
        ("list", ([X, Y, X],), r"items must have 2 items"),
        ("two of *args", (X, Y, X), r"xs must have 2 items"),
        ("nested", ({"views": [{"image": X}], "factor": 3.0}, "scaled", (0, (Y,))), r"batch\['factor'\] must be 2.0"),
    ],
)
def test_what_the_graph_was_not_made_for_is_said(name: str, args: tuple[Any, ...], message: str) -> None:
    make, example, _ = NETWORKS[name]
    if name == "a flag":
        args, kwargs = args[:1], {"negative": args[1]}
    else:
        kwargs = {}
    graph = gngraph.from_torch(make(), example)
    namespace: dict[str, Any] = {"__name__": "model"}
    exec(to_source(graph), namespace)
    for module in (gngraph.to_torch(graph), namespace[graph.name]().eval()):
        with pytest.raises(AssertionError, match=message):
            module(*args, **kwargs)


def test_inputs_of_an_onnx_file_are_the_tensors_by_name(tmp_path: Path) -> None:
    import onnxruntime

    net = Nested().eval()
    graph = gngraph.from_torch(net, NETWORKS["nested"][1])
    gngraph.export_onnx(graph, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "net.onnx"))
    assert [entry.name for entry in session.get_inputs()] == ["batch_views_0_image", "pairs_1_0"] == list(graph.inputs)
    args, _ = NETWORKS["nested"][2]
    (found,) = session.run(None, {"batch_views_0_image": Y.numpy(), "pairs_1_0": X.numpy()})
    assert torch.allclose(torch.from_numpy(found), net(*args), atol=1e-5)


def test_a_network_that_reads_one_tensor_of_a_dictionary_trains(tmp_path: Path) -> None:
    class Image(Base):
        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return self.joined(batch["image"], batch["image"])

    graph = gngraph.from_torch(Image(), ({"image": X},))
    data = gngraph.Problem((torch.randn(48, 4), torch.arange(48) % 2), device="cpu")
    grown = gngraph.grow(graph, data, max_params=200, rounds=1, epochs=1, final_epochs=1).graph
    assert gngraph.to_torch(grown)({"image": X}).shape == (3, 2)


@pytest.mark.parametrize(
    ("make", "example", "message"),
    [
        (Dictionary, {"image": X, "other": Y}, r"takes the inputs \['batch'\].*stands in a tuple"),
        (Dictionary, (X.numpy(),), "ndarray.*torch.as_tensor"),
        (Dictionary, X.numpy(), "ndarray.*torch.as_tensor"),
        (Dictionary, None, "of type 'NoneType'"),
        (Dictionary, "image", "of type 'str'"),
        (Dictionary, (None,), "hold no tensor"),
        (Dictionary, (), "0 example inputs were given"),
        (Dictionary, ({1: X},), "the key '1', but keys must be text"),
        (Dictionary, ({"image": object(), "other": X},), "'batch_image' .* is a 'object'"),
        (Dictionary, ({"image": X},), "does not run"),
        (
            Dictionary,
            ({"image": X, "other": torch.eye(4)},),
            r"does not run on an input of shape \(3, 4\), f32, \(4, 4\), f32",
        ),
        (Variadic, (), "hold no tensor"),
        (Builtin, (X, Y, X), "too many positional arguments"),
        (Scalar, (X, X.to_sparse()), "dense"),
        (Scalar, (X, X.to("meta")), "meta device"),
        (Scalar, (X[:0], torch.tensor(1.0)), "at least one sample"),
        (Scalar, (torch.tensor(2.0), torch.tensor(1.0)), "have no axis, and samples lie along one"),
        (Hiding, (X,), "an input of 'Hiding' is called 'torch'"),
        (Keywords, {"x": X, "torch": X}, "an input of 'Keywords' is called 'torch'"),
    ],
)
def test_inputs_that_cannot_be_taken_are_refused_in_a_sentence(
    make: Callable[[], nn.Module], example: Any, message: str
) -> None:
    with pytest.raises(UnsupportedModelError, match=message) as refused:
        gngraph.from_torch(make(), example)
    assert isinstance(refused.value, GnGraphError)
