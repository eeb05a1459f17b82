"""What `tools/check_exchange.py` makes of a network that comes back from its file, and of one that does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tools import check_exchange


def test_a_network_that_computes_something_else_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(check_exchange, "WRITERS", {"export.pt2": check_exchange.WRITERS["export.pt2"]})
    assert check_exchange.checked("mlp", tmp_path) and "2 of   2 spaces free" in capsys.readouterr().out
    monkeypatch.setattr(check_exchange, "difference", lambda net, graph: 1e-3)
    assert not check_exchange.checked("mlp", tmp_path)
    monkeypatch.setattr(
        check_exchange, "WRITERS", {"older.onnx": lambda net, x, path: path.write_bytes(b"\x08\x09:\x00")}
    )
    assert not check_exchange.checked("mlp", tmp_path) and "refused" in capsys.readouterr().out
