"""What `tools/check_onnx.py` makes of a difference, a refusal, and of the networks that it rewrites."""

from __future__ import annotations

from pathlib import Path

import pytest

from gngraph.analysis.channels import ChannelSpaces
from gngraph.errors import GnGraphError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from tools import check_onnx


def test_networks_enough_and_every_free_space_is_rewritten() -> None:
    assert len(check_onnx.NETWORKS) >= 30
    module, example = check_onnx.NETWORKS["gru"]()
    graph = from_torch(module.eval(), example)
    before, after = ChannelSpaces.of(graph), ChannelSpaces.of(check_onnx.rewritten(graph))
    assert before.free and all(after[space.name].size == space.size + 1 for space in before.free)


def test_a_difference_above_the_bar_and_a_refusal_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = iter((1e-6, 1e-6, 1e-6, 1e-3))
    monkeypatch.setattr(check_onnx, "difference", lambda graph, folder: next(found))
    assert check_onnx.checked("rnn", tmp_path)
    assert not check_onnx.checked("rnn", tmp_path)

    def refuse(graph: Graph, folder: Path) -> float:
        raise GnGraphError("it cannot be written")

    monkeypatch.setattr(check_onnx, "difference", refuse)
    assert not check_onnx.checked("rnn", tmp_path)
    assert "it cannot be written" in capsys.readouterr().out
