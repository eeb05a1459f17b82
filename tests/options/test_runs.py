"""Every option of a run is a keyword in Python, an option of its command and a key of a file, with one default and one check."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import gngraph
from gngraph.cli import gngraph as group
from gngraph.cli.parameters import flag
from gngraph.errors import GnGraphError, OptionError, PassError
from gngraph.options import (
    Entry,
    ExtendOptions,
    GrowOptions,
    Options,
    ReshapeOptions,
    ScoreOptions,
    ShrinkOptions,
    TrainOptions,
)
from gngraph.options.values import choices, shown
from gngraph.scoring.registry import PROPOSERS
from gngraph.scoring.second_look import LOOKS
from gngraph.scoring.selection import RULES
from gngraph.search.allocations import ALLOCATIONS
from gngraph.search.lookahead import LOOKAHEAD
from tests.problems import problem, seed_graph

JOBS: dict[str, type[Options]] = {
    "grow": GrowOptions,
    "extend": ExtendOptions,
    "reshape": ReshapeOptions,
    "shrink": ShrinkOptions,
}
COMMANDS = {**JOBS, "score": ScoreOptions, "train": TrainOptions}
BUDGET = {"max_params": 2000}


def flat(record: type[Options]) -> Iterator[Entry]:
    for entry in record.entries():
        yield from flat(entry.part) if entry.part else [entry]


def other(entry: Entry) -> Any:
    """Another value than the default."""
    default = entry.default
    if isinstance(default, tuple):
        return next(((word,) for word in choices(entry.hint) if word not in default), ("0",))
    if isinstance(default, str):
        return next((word for word in choices(entry.hint) if word != default), 0.5)
    if default is None and choices(entry.hint):
        return choices(entry.hint)[0]
    return default / 2 + 0.125 if isinstance(default, float) else (default or 0) + 1


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_one_of_its_command(name: str) -> None:
    command = group.commands[name]
    options = {option.name: option for option in command.params}
    text = CliRunner().invoke(group, [name, "--help"]).output
    for entry in flat(COMMANDS[name]):
        if entry.default is not None:
            assert options[entry.name].default == shown(entry.default, entry.hint), entry.name
        assert f"{flag(entry.name)} " in text, entry.name


@pytest.mark.parametrize("name", JOBS)
def test_every_option_is_a_keyword_and_a_key(name: str) -> None:
    record, function = JOBS[name], getattr(gngraph, name)
    signature, needed = inspect.signature(function).parameters, BUDGET if name == "grow" else {}
    for entry in record.entries():
        assert signature[entry.name].default == entry.default and f"{entry.name}: {entry.help}" in function.__doc__
        value = {"lr": 0.25} if entry.part else other(entry)
        changed = record.of({**needed, entry.name: value})
        assert changed != record.of(needed) and record.of(changed.as_dict()) == changed, entry.name
        with pytest.raises(OptionError, match=f"'{entry.name}'|training"):
            function(seed_graph(), problem(), **{**needed, entry.name: object()})


def test_what_is_said_to_be_known_is() -> None:
    hints = {entry.name: entry.hint for entry in GrowOptions.entries()}
    assert set(choices(hints["allocation"])) <= {*ALLOCATIONS, LOOKAHEAD}
    assert set(choices(hints["kinds"])) <= set(PROPOSERS)
    assert choices(hints["selection"]) == RULES
    assert ScoreOptions().looks == LOOKS


def test_an_object_a_mapping_and_keywords_give_the_same_run() -> None:
    seed = seed_graph()
    given: dict[str, Any] = {"max_params": "1.2k", "rounds": 1, "epochs": 0, "final_epochs": 0, "depth": "keep"}
    results = [
        gngraph.grow(seed, problem(), **given),
        gngraph.grow(seed, problem(), given),
        gngraph.grow(seed, problem(), GrowOptions.of(given)),
        gngraph.grow(seed, problem(), GrowOptions.of(given, max_params=900), max_params=1200),
    ]
    first = results[0].graph.params
    for result in results:
        assert first.keys() == result.graph.params.keys()
        assert all(torch.equal(first[name].data, p.data) for name, p in result.graph.params.items())


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"max_parms": 2000}, OptionError, "grow has no option 'max_parms'; did you mean 'max_params'"),
        ({"max_params": -3}, OptionError, "option 'max_params' is '-3', but must be a count"),
        (
            {"max_params": 2000, "train": lambda: None},
            OptionError,
            "the options of training are TrainOptions or a table",
        ),
        ({}, OptionError, "growth needs a budget: give max_params"),
        (
            {"max_params": 2000, "curvature": "foo"},
            GnGraphError,
            "there is no curvature 'foo'; choose from exact, mc, rank1",
        ),
        (
            {"max_params": 2000, "kinds": ("splt",)},
            PassError,
            "morphisms of kind 'splt' are unknown; choose among split",
        ),
        ({"max_params": 2000, "allocation": "best"}, PassError, "allocation 'best' is unknown; choose one of worth"),
    ],
)
def test_nothing_is_trained_or_written_with_a_wrong_option(
    given: dict[str, Any], error: type[GnGraphError], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gngraph.training.training.Trainer.train", lambda *_: pytest.fail("it was trained"))
    with pytest.raises(error, match=message) as refused:
        gngraph.grow(seed_graph(), problem(), out=tmp_path / "run", **given)
    assert "\n" not in str(refused.value) and not (tmp_path / "run").exists()
