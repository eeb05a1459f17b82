"""README and docs/ keep their promises: Python runs as it stands, commands exist with these options, links lead somewhere."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

from gngraph.cli import gngraph as group
from gngraph.ops import lookup
from gngraph.ops.table import _TABLE
from tests.test_layering import LAYERS

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
PAGES = {str(path.relative_to(ROOT)): path.read_text("utf-8") for path in (README, *sorted(ROOT.glob("docs/**/*.md")))}
NOTEBOOKS = sorted(ROOT.glob("docs/notebooks/*.ipynb"))
OWN_TRAINING = "docs/own_training.md"
"""Its recipes are run one by one in tests/growth/test_own_training.py."""
MAX_LINES = 150
MAX_BLOCK = 15


def fenced(page: str, language: str) -> list[str]:
    """The blocks of a page in a language."""
    return re.findall(rf"```{language}\n(.*?)```", PAGES[page], re.DOTALL)


def commands(page: str) -> list[list[str]]:
    """Words of every command of a page, continuation lines joined and remarks dropped."""
    lines = "".join(fenced(page, "sh")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


GNGRAPH = [
    (page, words[words.index("gngraph") + 1 :])
    for page in PAGES
    for words in commands(page)
    if words[0] in ("gngraph", "torchrun")
]
TOOLS = [(page, words[1:]) for page in PAGES for words in commands(page) if words[0] == "python"]


def heading_names(text: str) -> set[str]:
    """Anchors of the headings of a page, as GitHub and mkdocs make them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_architecture_names_every_room() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    rooms = {path.parent.name for path in (ROOT / "gngraph").glob("*/__init__.py")}
    assert {name for name in rooms if f"| `{name}`" not in text} == {"cli"}  # which stands beside `api`
    order = re.findall(r"`(\w+)`", "\n".join(re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)))
    for room, may in LAYERS.items():
        if room in order:
            later = {name for name in may.gngraph if name in order and order.index(name) > order.index(room)}
            assert not later, f"{room} may import {later}, which stand below it"
    for path in re.findall(r"`((?:[a-z_]+/)+[a-z_]+\.py)`", text):
        assert (ROOT / path).is_file() or (ROOT / "gngraph" / path).is_file(), path


def test_readme_is_short() -> None:
    assert len(PAGES["README.md"].splitlines()) <= MAX_LINES


@pytest.mark.parametrize("page", [name for name in PAGES if name != OWN_TRAINING])
def test_python_blocks_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    script = ModuleType("script")  # where a function is known by its name, as in a script of one's own
    monkeypatch.setitem(sys.modules, "script", script)
    monkeypatch.setattr("gngraph.ops.table._TABLE", dict(_TABLE))  # a page adds an op of its own
    names: dict[str, object] = script.__dict__
    for block in fenced(page, "python"):
        assert len([line for line in block.splitlines() if line.strip()]) <= MAX_BLOCK
        exec(compile(block, page, "exec"), names)
    if page == "README.md":
        assert (tmp_path / "grown.gng").is_file()
    elif page == "docs/recipes.md":
        assert lookup("squash").channelwise
        assert "0: 4 -> 6" in names["gngraph"].diff(names["graph"], names["wider"]).render()  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_and_hold_no_outputs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    cells = [cell for cell in json.loads(path.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
    assert cells and not any(cell["outputs"] for cell in cells)
    for cell in cells:
        exec(compile("".join(cell["source"]), path.name, "exec"), names)
    result = names["result"]
    assert result.seed.num_params() < result.graph.num_params()


def test_every_command_is_of_a_known_kind() -> None:
    found = [words for page in PAGES for words in commands(page)]
    assert len(found) == len(GNGRAPH) + len(TOOLS)
    assert len(GNGRAPH) > 10 and len(TOOLS) > 20


@pytest.mark.parametrize(("page", "words"), GNGRAPH, ids=lambda value: value[0] if isinstance(value, list) else value)
def test_commands_exist(page: str, words: list[str]) -> None:
    known = group.commands[words[0]]
    with click.Context(known) as context:
        _, _, order = known.make_parser(context).parse_args(words[1:])
    assert order


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    folder = (ROOT / page).parent
    for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", PAGES[page]):
        path = folder / target if target else ROOT / page
        assert path.exists(), target
        assert not anchor or anchor in heading_names(path.read_text("utf-8")), f"{target}#{anchor}"
        # A site is made of docs/ alone.
        assert page == "README.md" or path.resolve().is_relative_to(ROOT / "docs"), target
