"""The check of transformers on one network, and that it says what is wrong; `tools/check_transformers.py` runs all of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.transformers_models import MODELS
from tools import check_transformers

pytest.importorskip("transformers")


def test_a_network_is_taken_and_its_row_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, words = tmp_path / "rows.csv", ["check_transformers.py", "--only", "bert"]
    monkeypatch.setattr("sys.argv", [*words, "--out", str(rows)])
    assert check_transformers.main() == 0
    monkeypatch.setattr(check_transformers, "check", lambda name: pytest.fail("what is kept is measured again"))
    assert check_transformers.main() == 0
    assert rows.read_text().splitlines()[1].startswith("encoder,bert,taken,")


def test_there_are_as_many_as_the_page_says() -> None:
    page = (Path(__file__).parent.parent / "docs" / "results.md").read_text()
    assert f"{len(MODELS)} tiny networks of transformers" in page
