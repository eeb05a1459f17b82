"""The examples that the help of every command shows do what it says."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from gngraph.cli.examples import EXAMPLES
from tests.command_line import COMMANDS, Commands

SHORT = """
[train]
epochs = 1
[grow]
rounds = 1
epochs = 1
final_epochs = 0
"""
"""Less is learned than by the examples alone, and the same is done."""


def test_every_example_runs(command: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    def told(result: object, folder: Path) -> tuple[Path, tuple[()]]:
        page = folder / "report.html"
        page.write_text("made by the example of gngraph report")
        return page, ()

    monkeypatch.setattr("gngraph.report.page.tell", told)
    Path("seed.gng").unlink()  # of the other tests
    Path("gngraph.toml").write_text(SHORT)
    assert (*EXAMPLES,) == COMMANDS
    for name, examples in EXAMPLES.items():
        for example in examples:
            program, *words = shlex.split(example)
            done = command(*words)
            assert (program, words[0]) == ("gngraph", name)
            if name == "resume":
                assert "has ended: there is nothing to go on with" in done.out + done.err
            else:
                assert done.status == (name == "diff"), (example, done.err)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_examples_whole(command: Commands, name: str) -> None:
    told = command.ok(name, "--help")
    assert "Examples:" in told and all(f"  {example}\n" in told for example in EXAMPLES[name])
