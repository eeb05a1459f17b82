"""The recipes of docs/own_training.md run as they stand, each with few added lines, and the user's own network has grown."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

PAGE = Path(__file__).resolve().parents[2] / "docs" / "own_training.md"
MAX_ADDED = 10
NEEDS = {
    "A plain loop": (),
    "Compiled": (),
    "DistributedDataParallel": (),
    "Lightning": ("lightning",),
    "Hugging Face Trainer": ("transformers", "accelerate"),
    "Blocks on top of themselves": (),
}


def recipes() -> dict[str, list[str]]:
    """Heading -> its blocks of Python; what stands before the first heading is under ""."""
    sections = re.split(r"^## (.*)$", PAGE.read_text("utf-8"), flags=re.MULTILINE)
    named = {"": sections[0], **dict(zip(sections[1::2], sections[2::2], strict=True))}
    return {name: blocks for name, text in named.items() if (blocks := re.findall(r"```python\n(.*?)```", text, re.S))}


def test_every_recipe_is_run() -> None:
    assert set(recipes()) == {"", *NEEDS}


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    distributed = torch.distributed
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("recipe", NEEDS)
def test_recipes_run(
    recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    for package in NEEDS[recipe]:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    if recipe == "DistributedDataParallel":
        request.getfixturevalue("process_group")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    blocks = recipes()
    for block in (*blocks[""], *blocks[recipe]):
        exec(compile(block, PAGE.name, "exec"), names)
    assert sum(line.endswith("# added") for block in blocks[recipe] for line in block.splitlines()) <= MAX_ADDED
    model: nn.Module = names["model"]
    grower = names["grower"] if "grower" in names else names["growing"].grower
    assert grower.done and len(grower.history) == 2 and all(grower.history)
    assert 300 < sum(p.numel() for p in model.parameters()) <= 400
    names["torch"]._dynamo.reset()
