"""What is packaged, without building anything; `tools/wheel_smoke.py` builds the wheel and uses it."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import gngraph
import gngraph.passes

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("tools/demo", "tools/test", "tools/venv", ".ci/run")


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """The [project] table of pyproject.toml."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def test_versions_agree(project: dict[str, Any]) -> None:
    assert gngraph.__version__ == project["version"] == importlib.metadata.version("gngraph")


def test_the_command_exists(project: dict[str, Any]) -> None:
    assert project["scripts"] == {"gngraph": "gngraph.cli:main"}
    (entry,) = importlib.metadata.entry_points(group="console_scripts", name="gngraph")
    assert callable(entry.load())


@pytest.mark.parametrize(
    ("sys_platform", "platform_machine", "expected"),
    [
        ("linux", "x86_64", "onnxruntime-gpu"),
        ("win32", "AMD64", "onnxruntime-gpu"),
        ("linux", "aarch64", "onnxruntime"),
        ("win32", "ARM64", "onnxruntime"),
        ("darwin", "arm64", "onnxruntime"),
        ("darwin", "x86_64", "onnxruntime"),
    ],
)
def test_one_onnxruntime_a_platform(
    project: dict[str, Any], sys_platform: str, platform_machine: str, expected: str
) -> None:
    requirements = [Requirement(text) for text in project["dependencies"]]
    environment = {"sys_platform": sys_platform, "platform_machine": platform_machine}
    chosen = [
        requirement.name
        for requirement in requirements
        if requirement.name.startswith("onnxruntime")
        and (requirement.marker is None or requirement.marker.evaluate(environment))
    ]
    assert chosen == [expected]


def test_the_installed_onnxruntime_is_alone() -> None:
    installed = {dist.name.lower().replace("_", "-") for dist in importlib.metadata.distributions()}
    assert len(installed & {"onnxruntime", "onnxruntime-gpu"}) == 1


def test_passes_is_one_folder_under_one_name() -> None:
    link = ROOT / "gngraph" / "passes"
    assert link.is_symlink()
    assert os.readlink(link) == os.path.join("..", "passes")
    assert Path(gngraph.passes.__path__[0]).resolve() == (ROOT / "passes").resolve()


def test_passes_refuses_its_second_name() -> None:
    done = subprocess.run([sys.executable, "-c", "import passes"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "import gngraph.passes, not passes" in done.stderr


def test_types_are_shipped() -> None:
    assert (Path(gngraph.__path__[0]) / "py.typed").is_file()


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_parse_and_are_executable(script: str) -> None:
    assert os.access(ROOT / script, os.X_OK)
    subprocess.run(["bash", "-n", script], cwd=ROOT, check=True)
