"""Networks as people draw them: text, pictures, and two on one page."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

import networkx as nx
import torch
from torch import Tensor, nn

import gngraph
from gngraph.analysis.diff import diff
from gngraph.analysis.outline import outline, to_networkx
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.passes import PassManager
from gngraph.report.diagram import as_text, diagram, rows_of
from gngraph.report.difference import write_difference

EVIL = "</script><img src=x onerror=alert(2)>"


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.inner, self.back = nn.Conv2d(8, 6, 3, padding=1), nn.Conv2d(6, 8, 3, padding=1)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.back(torch.relu(self.inner(x)))
        out: Tensor = self.head(x.mean((2, 3)))
        return out


def net() -> Graph:
    return from_torch(Net(), torch.zeros(1, 3, 8, 8))


def rewritten(graph: Graph) -> Graph:
    return PassManager("split-channels{count=3,space=inner},prune-channels{count=2,space=stem}").run(graph).graph


def test_layers_have_what_belongs_to_them_and_what_they_read() -> None:
    graph = net()
    found = {layer.name: layer for layer in outline(graph)}
    assert list(found) == ["x", "stem", "inner", "back", "add", "head"]
    assert found["x"].width == 3 and found["stem"].shape == "8x8x8"
    assert found["stem"].params == 3 * 8 * 9 + 8 + 16, "its norm belongs to it"
    assert sum(layer.params for layer in found.values()) == graph.num_params()
    assert set(found["add"].reads) == {"stem", "back"} and found["back"].reads == ("inner",)
    assert found["head"].frozen is not None and found["inner"].frozen is None


def test_an_axis_of_several_spaces_has_the_width_of_all() -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 1), nn.Conv2d(9, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.c(torch.cat([self.a(x), self.b(x)], 1))
            return out

    found = {layer.op: layer for layer in outline(from_torch(Dense(), torch.zeros(1, 3, 4, 4)))}
    assert (found["cat"].width, found["cat"].space) == (9, None)


def test_a_recurrent_layer_is_as_wide_as_what_is_read_of_it() -> None:
    class Reader(nn.Module):
        def __init__(self, state: bool) -> None:
            super().__init__()
            self.state, self.body, self.head = state, nn.LSTM(3, 5, batch_first=True), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            values, (last, _) = self.body(x)
            out: Tensor = self.head(last[-1] if self.state else values.mean(1))
            return out

    for state, shape in ((False, "7x5"), (True, "1x5")):
        (layer,) = [one for one in outline(from_torch(Reader(state), torch.zeros(2, 7, 3))) if one.op == "lstm"]
        assert (layer.width, layer.shape, layer.space) == (5, shape, "body") and layer.frozen is None


def test_text_shows_widths_and_changes() -> None:
    before = net()
    lines = as_text(rows_of(rewritten(before), before)).splitlines()
    inner = next(line for line in lines if line.startswith("inner"))
    assert "6 -> 9" in inner and "+" in inner
    stem = next(line for line in lines if line.startswith("stem"))
    assert "8 -> 6" in stem and "-" in stem.split("8 -> 6")[0]
    assert "reads stem, back" in "\n".join(lines) or "reads back, stem" in "\n".join(lines)


def test_layers_that_come_and_go_stand_where_they_were(tmp_path: Path) -> None:
    deeper = from_torch(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(1, 4))
    flat = from_torch(nn.Sequential(nn.Linear(4, 2)), torch.zeros(1, 4))
    changes = {row.layer.name: row.change for row in rows_of(deeper, flat)}
    assert "added" in changes.values() and next(iter(changes)) == deeper.inputs[0]
    gone = [row.change for row in rows_of(flat, deeper)]
    assert gone[-1] == "removed"
    picture = diagram(rows_of(flat, deeper), "both")
    assert "removed" in picture.reading
    picture.write(tmp_path / "both", "svg")
    assert ET.parse(tmp_path / "both").getroot().tag.endswith("svg")


def test_two_networks_on_a_page_that_asks_for_nothing(tmp_path: Path) -> None:
    before = net()
    after = rewritten(before)
    path = write_difference(tmp_path / "diff.html", (EVIL, before), ("after", after), diff(before, after))
    text = path.read_text("utf-8")
    assert "<img" not in text and "http:" not in text.replace("http://www.w3.org", "") and "default-src 'none'" in text
    assert "<td>6</td><td>9</td><td>+3</td>" in text and "<td>8</td><td>6</td><td>-2</td>" in text
    assert "of 6 layers, inputs and joins" in text.lower()


def test_values_that_move_are_measured() -> None:
    before = net()
    weight = before.params["head.weight"].data
    after = before.with_params({"head.weight": 1.5 * weight, "head.bias": torch.full((4,), torch.nan)})
    found = diff(before, after)
    assert abs(found.distances["head.weight"] - 0.5) < 1e-6 and found.distances["head.bias"] == float("inf")
    assert "head.weight  values moved by 50.0%" in found.stat()
    assert found.to_json()["distances"]["head.bias"] is None
    assert diff(before, before).stat() == "no differences"


def test_networkx_finds_what_is_in_the_graph() -> None:
    graph = net()
    found = gngraph.to_networkx(graph)
    assert set(found) == set(graph.nodes) and nx.is_directed_acyclic_graph(found)
    assert sum(told["params"] for _, told in found.nodes(data=True)) == graph.num_params()
    assert nx.has_path(to_networkx(graph), graph.inputs[0], graph.outputs[0])
