"""Who may import whom: the layers of ARCHITECTURE.md, enforced on the imports of every source file."""

from __future__ import annotations

import ast
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import networkx as nx
import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = {"gngraph": 400, "passes": 400, "tests": 450, "tools": 450}


@dataclass(frozen=True)
class Layer:
    """What one package of gngraph may import, beside itself and the standard library."""

    gngraph: frozenset[str]
    third_party: frozenset[str]


def layer(gngraph: str = "", third_party: str = "") -> Layer:
    return Layer(frozenset(gngraph.split()), frozenset(third_party.split()))


BELOW_PASSES = (
    "errors calling options ranks ir ops lowering importing source files deploy curvature data zoo running analysis rewrite "
    "scoring"
)
BELOW_GROWTH = f"{BELOW_PASSES} environment passes training search latency inplace"
LAYERS = {
    "errors": layer(),
    "options": layer("errors calling"),
    "calling": layer("errors"),
    "writing": layer("errors"),
    "environment": layer("errors"),
    "ranks": layer("environment errors", "torch"),
    "ir": layer("errors", "torch"),
    "ops": layer("errors ir", "torch torchvision"),
    "lowering": layer("errors ir ops", "torch"),
    "importing": layer("errors ir ops lowering", "torch torchvision"),
    "source": layer("errors writing ir ops lowering", "torch safetensors"),
    "exchange": layer("errors", "torch onnx onnxruntime"),
    "files": layer("errors calling writing ir ops importing zoo exchange", "torch torchvision safetensors"),
    "deploy": layer("errors writing ir lowering", "torch numpy onnx onnxruntime onnxscript"),
    "curvature": layer("errors options", "torch"),
    "data": layer("errors calling options", "PIL torch torchvision numpy sklearn tokenizers pandas polars"),
    "zoo": layer("errors calling options", "torch torchvision timm transformers"),
    "running": layer("errors ranks ir ops lowering curvature data", "torch"),
    "analysis": layer("errors ranks ir ops lowering curvature data running", "torch numpy networkx"),
    "rewrite": layer("errors calling options ir ops lowering analysis", "torch"),
    "latency": layer(
        "errors ranks writing ir ops lowering deploy running analysis rewrite", "torch numpy scipy onnxruntime"
    ),
    "scoring": layer("errors ranks ir ops lowering curvature data running analysis rewrite", "torch"),
    "passes": layer(BELOW_PASSES, "torch networkx"),
    "training": layer(
        "errors calling calling options ranks ir ops lowering curvature data zoo running analysis rewrite", "torch"
    ),
    "search": layer(
        "errors calling options ir ops lowering curvature data running analysis rewrite scoring passes training",
        "torch",
    ),
    "inplace": layer("errors ranks ir ops lowering importing analysis rewrite training", "torch"),
    # what other methods do, for comparison: no other package may import it
    "baselines": layer("errors ir ops analysis rewrite scoring search", "torch"),
    "growth": layer(f"writing {BELOW_GROWTH}", "filelock numpy safetensors torch trackio wandb"),
    "report": layer(f"writing {BELOW_GROWTH} growth", "numpy matplotlib jinja2 markupsafe"),
    # `gngraph` is the package's own root: its public names and version.
    "api": layer(f"{BELOW_GROWTH} growth report", "torch"),
    "repeating": layer(f"{BELOW_GROWTH} growth report api"),
    "cli": layer(f"gngraph {BELOW_GROWTH} growth report api", "torch click rich"),
    "__main__": layer("cli"),
    "__init__": layer(f"{BELOW_GROWTH} growth report api repeating"),
}


def imported_modules(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Yield (line, absolute dotted name) of every import, at any depth and under TYPE_CHECKING too.

    ``from a import b`` yields ``a.b``: whether ``b`` is a module or a name in one, its first parts tell the layer.
    ``package`` is the dotted package that relative imports start from.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parents = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*parents, base] if base else parents)
            for alias in node.names:
                yield node.lineno, f"{base}.{alias.name}"
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in {"import_module", "__import__"}:
                yield node.lineno, str(node.args[0].value)


def violations(source: str, module: str, is_package: bool) -> list[str]:
    """Say which imports of ``source``, the text of ``module`` (such as ``gngraph.ir.graph``), its layer forbids."""
    parts = module.split(".")
    here = "__init__" if module == "gngraph" else parts[1]
    if here not in LAYERS:
        return [f'{module}: the package "{here}" has no layer; give it one in LAYERS of tests/test_layering.py']
    allowed = LAYERS[here]
    package = module if is_package else module.rpartition(".")[0]
    problems = []
    for line, name in imported_modules(ast.parse(source, filename=module), package):
        top, _, rest = name.partition(".")
        if top == "gngraph":
            target = rest.partition(".")[0]
            target = target if target in LAYERS else "gngraph"
            if target != here and target not in allowed.gngraph:
                rule = f"gngraph.{here} may import {', '.join(sorted(allowed.gngraph)) or 'nothing'} of gngraph"
                problems.append(f'{module}:{line} imports "{name}", but {rule}')
        elif top == "passes":
            problems.append(f'{module}:{line} imports "{name}", but the passes are imported as gngraph.passes')
        elif top not in sys.stdlib_module_names and top not in allowed.third_party:
            rule = f"gngraph.{here} may import {', '.join(sorted(allowed.third_party)) or 'nothing'} of third parties"
            problems.append(f'{module}:{line} imports "{name}", but {rule}')
    return problems


def circles(sources: Mapping[str, tuple[str, bool]]) -> set[frozenset[str]]:
    """Groups of modules that import each other in a circle; ``sources`` is module -> (its text, whether it is a package).

    An import counts as one of the file that is named in it: that Python runs the packages around it first is not held
    against a file, or none could be in a package that names it.
    """
    edges = nx.DiGraph()
    for module, (source, is_package) in sources.items():
        package = module if is_package else module.rpartition(".")[0]
        for _, name in imported_modules(ast.parse(source, filename=module), package):
            while name and name not in sources:
                name = name.rpartition(".")[0]
            if name and name != module:
                edges.add_edge(module, name)
    return {frozenset(group) for group in nx.strongly_connected_components(edges) if len(group) > 1}


def files(*roots: str) -> list[Path]:
    """Every file below the roots, links to folders not followed: passes/ is seen once."""
    found = [ROOT / root for root in roots if (ROOT / root).is_file()]
    for root in roots:
        for folder, subfolders, names in os.walk(ROOT / root):
            subfolders[:] = sorted(name for name in subfolders if name != "__pycache__" and not name.startswith("."))
            found += [Path(folder, name) for name in sorted(names)]
    return found


def python_files(*roots: str) -> list[Path]:
    return [path for path in files(*roots) if path.suffix == ".py"]


def module_name(path: Path) -> str:
    """``passes/cleanup.py`` is ``gngraph.passes.cleanup``; a package's ``__init__.py`` has the package's name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "gngraph" else ("gngraph", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def product() -> dict[str, tuple[str, bool]]:
    """Every module of gngraph and passes -> (its text, whether it is a package)."""
    found = {
        module_name(path): (path.read_text(encoding="utf-8"), path.name == "__init__.py")
        for path in python_files("gngraph", "passes")
    }
    assert len(found) > 10, "the walk over gngraph/ and passes/ found hardly any file"
    return found


def test_imports_follow_the_layers() -> None:
    problems = [
        problem
        for module, (source, is_package) in product().items()
        for problem in violations(source, module, is_package)
    ]
    assert not problems, "\n".join(problems)


def test_files_form_no_circle() -> None:
    found = [", ".join(sorted(group)) for group in circles(product())]
    assert not found, "these import each other in a circle:\n" + "\n".join(found)


@pytest.mark.parametrize(
    "back",
    [
        "from gngraph.ir.graph import Graph",
        "from gngraph.ir import graph",
        "from . import graph",
        "def f():\n    from gngraph.ir.graph import Graph",
        "if TYPE_CHECKING:\n    from .graph import Graph",
        "importlib.import_module('gngraph.ir.graph')",
    ],
)
def test_a_circle_is_seen(back: str) -> None:
    graph = ("from gngraph.ir.draft import Draft", False)
    package = ("from gngraph.ir.graph import Graph\nfrom gngraph.ir.draft import Draft", True)
    straight = {"gngraph.ir": package, "gngraph.ir.graph": graph, "gngraph.ir.draft": ("import torch", False)}
    assert circles(straight) == set()
    assert circles(straight | {"gngraph.ir.draft": (back, False)}) == {
        frozenset({"gngraph.ir.draft", "gngraph.ir.graph"})
    }


def test_layers_form_no_cycle() -> None:
    seen = {"gngraph"}
    pending = dict(LAYERS)
    while pending:
        free = [name for name, entry in pending.items() if entry.gngraph <= seen]
        assert free, f"these layers allow imports in a circle: {sorted(pending)}"
        seen.update(free)
        for name in free:
            del pending[name]


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("gngraph.ir.graph", "import gngraph.ops.spec", "gngraph.ir may import errors"),
        ("gngraph.ir.graph", "from gngraph import ops", "gngraph.ir may import errors"),
        ("gngraph.ir.graph", "from ..ops import spec", "gngraph.ir may import errors"),
        ("gngraph.ir.graph", "from .. import ops", "gngraph.ir may import errors"),
        ("gngraph.ir.graph", "from gngraph import Graph", "gngraph.ir may import errors"),
        ("gngraph.ir.graph", "def f():\n    import networkx", "gngraph.ir may import torch"),
        ("gngraph.ir.graph", "if TYPE_CHECKING:\n    from gngraph.growth import loop", "gngraph.ir may import errors"),
        ("gngraph.curvature.models", "from gngraph.ir import Graph", "gngraph.curvature may import errors"),
        ("gngraph.curvature.models", "import numpy as np", "gngraph.curvature may import torch"),
        ("gngraph.rewrite.surgery", "from gngraph.passes import SplitChannels", "gngraph.rewrite may import"),
        ("gngraph.growth.loop", "from gngraph.report import figures", "gngraph.growth may import"),
        ("gngraph.cli.learning", "import gngraph.baselines", "gngraph.cli may import"),
        ("gngraph.growth.loop", "importlib.import_module('gngraph.cli')", "gngraph.growth may import"),
        ("gngraph.growth.loop", "from passes import split_channels", "imported as gngraph.passes"),
        ("gngraph.errors", "import torch", "gngraph.errors may import nothing"),
        ("gngraph.novel", "import torch", "has no layer"),
    ],
)
def test_the_checker_refuses(module: str, source: str, complaint: str) -> None:
    (problem,) = violations(source, module, is_package=False)
    assert complaint in problem


@pytest.mark.parametrize(
    ("module", "is_package", "source"),
    [
        ("gngraph.ir.graph", False, "from .types import Type\nfrom gngraph.errors import IRError\nimport torch, re"),
        ("gngraph.ir", True, "from .graph import Graph\nfrom ..errors import IRError"),
        ("gngraph.passes.cleanup", False, "from gngraph import ir, rewrite\nfrom gngraph.analysis.cost import flops"),
        ("gngraph.cli", False, "import click\nfrom gngraph import __version__, growth"),
        ("gngraph", True, "from gngraph.growth import grow\nfrom .ir import Graph"),
    ],
)
def test_the_checker_allows(module: str, is_package: bool, source: str) -> None:
    assert violations(source, module, is_package) == []


def test_no_file_is_too_long() -> None:
    long = []
    for path in python_files(*MAX_LINES):
        lines, file = len(path.read_text(encoding="utf-8").splitlines()), path.relative_to(ROOT)
        if lines > MAX_LINES[file.parts[0]]:
            long.append(f"{file.as_posix()}: {lines} lines")
    assert not long, f"too long ({MAX_LINES}), each a place where two ideas may share a file:\n" + "\n".join(long)


def test_no_module_is_a_grab_bag() -> None:
    names = {"utils", "util", "helpers", "misc", "common"}
    bags = [str(path.relative_to(ROOT)) for path in python_files(*SOURCE_ROOTS) if {path.stem, *path.parts} & names]
    assert not bags, f"name these after what they are about: {bags}"


def defined_names(source: str) -> set[str]:
    """Public names of classes, types and constants that a file defines at its top level.

    Functions are left out: `diff` of two graphs, of two networks and on the command line is one verb at three doors.
    """
    names: set[str] = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {part.id for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def shared_names(sources: Mapping[str, tuple[str, bool]]) -> dict[str, list[str]]:
    """Names that several modules define -> these modules."""
    homes: dict[str, list[str]] = {}
    for module, (source, _) in sources.items():
        for name in defined_names(source):
            homes.setdefault(name, []).append(module)
    return {name: modules for name, modules in homes.items() if len(modules) > 1}


def test_a_name_means_one_thing() -> None:
    found = shared_names(product())
    shared = [f"{name}: {', '.join(modules)}" for name, modules in found.items()]
    assert not shared, "name one of the two otherwise, or define it once and import it:\n" + "\n".join(shared)


def test_a_shared_name_is_seen() -> None:
    first = "class Heads: ...\ndef run(): ...\n_SIZE = 1\nRULES, LEAST = (), 1"
    second = (
        "Heads = Literal['drop']\ndef run(): ...\n_SIZE = 2\nRULES: tuple[str, ...] = ()\nfor LEAST_SIZE in (): ..."
    )
    found = shared_names({"gngraph.a": (first, False), "gngraph.b": (second, False)})
    assert found == {"Heads": ["gngraph.a", "gngraph.b"], "RULES": ["gngraph.a", "gngraph.b"]}


SOURCE_ROOTS = ("gngraph", "passes", "tests", "tools")
TEXT_ROOTS = (*SOURCE_ROOTS, ".ci", "pyproject.toml", "README.md", "ARCHITECTURE.md", "CHANGELOG.md")
# The brackets keep this line from matching itself.
MACHINE_PATH = re.compile(r"(?<![\w.-])/(?:w[o]rk|r[o]ot|f[a]rm|t[m]p|h[o]me|U[s]ers|o[p]t)/\w")


def test_no_path_of_one_machine() -> None:
    found = []
    for path in files(*TEXT_ROOTS):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:  # a binary golden file
            continue
        for number, line in enumerate(text.splitlines(), 1):
            if match := MACHINE_PATH.search(line):
                found.append(f'{path.relative_to(ROOT)}:{number} names "{match[0]}..."')
    assert not found, "\n".join(found)


def test_the_path_check_can_fail() -> None:
    assert MACHINE_PATH.search('open("/' + 'tmp/x.pt")')
    assert not MACHINE_PATH.search("see https://example.org/" + "opt/x, and ./" + "tmp/x")
