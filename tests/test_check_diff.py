"""What `tools/check_diff.py` checks by the thousand, and that it finds what a diff leaves out."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gngraph.analysis.diff import diff
from tools import check_diff
from tools.check_diff import rewrite, wrong


@pytest.mark.parametrize(
    "number", [8, 12, 384]
)  # one weight holds queries, keys and values; a part of a wider layer is rewritten
def test_the_diff_names_exactly_the_spaces_that_were_rewritten(number: int) -> None:
    tried = rewrite(number)
    assert tried is not None and wrong(tried) is None


def test_what_a_diff_leaves_out_or_adds_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = rewrite(12)
    assert tried is not None
    assert "were rewritten" in str(wrong(replace(tried, spaces=tried.spaces | {"another"})))
    monkeypatch.setattr(check_diff, "diff", lambda a, b, **told: replace(diff(a, b, **told), spaces=()))
    assert "names []" in str(wrong(tried))
