"""The public names: all there, all documented, and cheap to import."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from types import ModuleType

import gngraph

PROMISED = {
    "AnalysisManager",
    "Budget",
    "ChannelSpaces",
    "GaussNewton",
    "Graph",
    "PassManager",
    "Problem",
    "diff",
    "export_onnx",
    "from_torch",
    "grow",
    "load",
    "parse",
    "save",
    "to_torch",
}


def packages() -> list[ModuleType]:
    """``gngraph`` and every package below it, ``gngraph.passes`` among them."""
    below = [entry.name for entry in pkgutil.walk_packages(gngraph.__path__, "gngraph.") if entry.ispkg]
    assert "gngraph.passes" in below
    return [gngraph, *map(importlib.import_module, below)]


def own_docstring(thing: object) -> str:
    """The docstring a person wrote: not one inherited from ``object``, nor the signature a dataclass makes up."""
    if not inspect.isclass(thing):
        return inspect.getdoc(thing) or ""
    written = vars(thing).get("__doc__") or ""
    made_up = dataclasses.is_dataclass(thing) and written.startswith(f"{thing.__name__}(")
    return "" if made_up else written


def public_methods(cls: type) -> Iterator[tuple[str, object]]:
    """Methods and properties that the class itself defines. An override may inherit its docstring."""
    for name, value in vars(cls).items():
        function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if not name.startswith("_") and (inspect.isfunction(function) or isinstance(function, property)):
            yield name, getattr(cls, name)


def undocumented(where: str, thing: object) -> list[str]:
    """Dotted names of what lacks a docstring: ``thing`` itself and, if it is a class of gngraph, its public methods."""
    if not (inspect.isclass(thing) or inspect.isroutine(thing)):
        return []  # a constant or a type alias
    missing = [] if own_docstring(thing).strip() else [where]
    if inspect.isclass(thing) and thing.__module__.startswith("gngraph"):
        missing += [f"{where}.{name}" for name, method in public_methods(thing) if not inspect.getdoc(method)]
    return missing


def each_package(check: Callable[[ModuleType], list[str]]) -> list[str]:
    return [problem for package in packages() for problem in check(package)]


def test_every_promised_name_is_public() -> None:
    missing = PROMISED - set(gngraph.__all__)
    assert not missing, f"not in gngraph.__all__: {sorted(missing)}"


def test_every_package_lists_its_public_names() -> None:
    def check(package: ModuleType) -> list[str]:
        names = getattr(package, "__all__", None)
        if not names:
            return [f"{package.__name__} has no __all__, or an empty one"]
        absent = [f"{package.__name__}.{name} does not exist" for name in names if not hasattr(package, name)]
        return absent + [f"{package.__name__}.{name} is listed twice" for name in set(names) if names.count(name) > 1]

    problems = each_package(check)
    assert not problems, "\n".join(problems)


def test_every_public_name_is_documented() -> None:
    def check(package: ModuleType) -> list[str]:
        own = [] if (package.__doc__ or "").strip() else [package.__name__]
        names = getattr(package, "__all__", [])
        return own + [w for n in names for w in undocumented(f"{package.__name__}.{n}", getattr(package, n))]

    missing = each_package(check)
    assert not missing, "no docstring:\n" + "\n".join(missing)


def test_the_docstring_check_can_fail() -> None:
    @dataclasses.dataclass
    class Bare:
        size: int

        def work(self) -> int:
            return self.size

    Bare.__module__ = "gngraph.sample"
    assert undocumented("Bare", Bare) == ["Bare", "Bare.work"]
    assert undocumented("packages", packages) == []
    assert undocumented("MAXIMUM", 3) == []


def test_import_does_not_load_what_few_commands_need() -> None:
    """``gngraph --help`` must answer at once: exporters and plots are imported where they are used."""
    heavy = ["matplotlib", "onnx", "onnxruntime", "onnxscript", "sklearn"]
    code = f"import sys, gngraph, gngraph.passes; print(*[name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [], "import gngraph also loads these"
