"""Public functions of three or more arguments say what each of them is, and name none that they do not have.

A docstring says an argument in an Args section, where "a, b: both" says two, or in its sentences, in backticks, where it has none.
What a base class or a protocol says holds for all that keep to it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = [path for folder in ("gngraph", "passes") for path in sorted((ROOT / folder).rglob("*.py"))]
FEW = 3
"""Arguments from which on a function says them."""

BASES: dict[str, tuple[str, ...]] = {}
"""Class -> its bases, by their last name."""
METHODS: dict[str, set[tuple[str, str]]] = {}
"""Class -> methods that its own body defines, with their arguments."""
for _path in FILES:
    for _node in ast.walk(ast.parse(_path.read_text("utf-8"))):
        if isinstance(_node, ast.ClassDef):
            BASES[_node.name] = tuple(re.split(r"[.\[]", ast.unparse(base))[0] for base in _node.bases)
            METHODS[_node.name] = {
                (item.name, ast.unparse(item.args)) for item in _node.body if isinstance(item, ast.FunctionDef)
            }


@dataclass(frozen=True)
class Function:
    """A public function or method."""

    where: str
    node: ast.FunctionDef
    owner: ast.ClassDef | None

    @property
    def arguments(self) -> list[str]:
        """Their names, without self and those that are not used."""
        given = self.node.args
        names = [entry.arg for entry in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
        names += [entry.arg for entry in (given.vararg, given.kwarg) if entry is not None]
        return [name for name in names if name not in ("self", "cls") and not name.startswith("_")]

    @property
    def made(self) -> bool:
        """Whether it is a constructor, whose arguments may stand among the attributes of its class."""
        return self.node.name == "__init__"

    @property
    def text(self) -> str:
        """The docstring, a constructor's with that of its class."""
        own = ast.get_docstring(self.node) or ""
        outer = ast.get_docstring(self.owner) if self.owner and self.made else None
        return f"{outer or ''}\n\n{own}"


def functions(tree: ast.AST, where: str, owner: ast.ClassDef | None = None) -> Iterator[Function]:
    """Public functions of a module, and public methods of its public classes."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            yield from functions(node, f"{where}::{node.name}", node)
        elif isinstance(node, ast.FunctionDef) and public(node) and not inherited(node, owner):
            yield Function(f"{where}::{node.name}", node, owner)


def public(node: ast.FunctionDef) -> bool:
    """Whether people read the docstring of a function: that of a command is its help, as are its options' own texts."""
    command = any("command" in ast.unparse(decorator) for decorator in node.decorator_list)
    return not command and (node.name == "__init__" or not node.name.startswith("_"))


def inherited(node: ast.FunctionDef, owner: ast.ClassDef | None) -> bool:
    """Whether a base of the class, or a protocol that it keeps to, says what the arguments are."""
    if owner is None:
        return False
    above, known = list(BASES[owner.name]), {"Protocol"}
    while above:
        known.add(name := above.pop())
        above += [base for base in BASES.get(name, ()) if base not in known]
    own = (node.name, ast.unparse(node.args))
    protocols = {name for name, bases in BASES.items() if "Protocol" in bases and name != owner.name}
    return any(own in METHODS.get(name, ()) for name in known | protocols) or "click" in known


def section(text: str, heading: str = "Args") -> set[str]:
    """Names that a section explains.

    >>> sorted(section("What it does.\\n\\nArgs:\\n    a, b: two\\n        numbers: both\\n    *c: more\\n\\nRaises:\\n    X: no"))
    ['a', 'b', 'c']
    """
    found = re.findall(rf"^{heading}:\n((?:(?:    .*)?\n?)*)", text, re.MULTILINE)
    named = [re.match(r"    ((?:\*{0,2}\w+)(?:, \*{0,2}\w+)*):", line) for part in found for line in part.splitlines()]
    return {name.strip(" *") for line in named if line for name in line[1].split(",")}


def quoted(text: str) -> set[str]:
    """Names that a docstring speaks of in its sentences."""
    return {word for part in re.findall(r"`([^`\n]*)`", text) for word in re.findall(r"\w+", part)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_public_functions_say_their_arguments(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    wrong = []
    for function in functions(tree, path.name):
        names, explained = function.arguments, section(function.text)
        said = section(function.text, "Attributes") if function.made else set()
        missing = set(names) - explained - said - (set() if explained else quoted(function.text))
        if len(names) >= FEW and missing:
            wrong.append(f"{function.where} does not say {', '.join(sorted(missing))}")
        if unknown := explained - set(names):
            wrong.append(f"{function.where} has no {', '.join(sorted(unknown))}")
    assert not wrong, "\n".join(wrong)
