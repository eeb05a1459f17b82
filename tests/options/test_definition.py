"""A record of options: read from keywords, mappings and files, kept as a file keeps it, refused in one sentence."""

from __future__ import annotations

import json
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gngraph.errors import OptionError
from gngraph.options import Options, TrainOptions, option
from gngraph.options.values import Count, Named, Share, Within, choices, described, read, shown


@dataclass(frozen=True)
class Walk(Options):
    """Every kind of option."""

    title: ClassVar[str] = "walk"

    steps: Annotated[int, Within(least=1)] = option(3, "How many.")
    share: Share | Literal["auto"] = option("auto", "How much.")
    limit: Count | None = option(None, "How far.")
    pace: Literal["slow", "fast"] = option("slow", "How fast.")
    names: tuple[Annotated[str, Named(("a", "b"))], ...] = option((), "With whom.")
    loud: bool = option(False, "Whether heard.")
    place: Path | None = option(None, "Where to.")
    train: TrainOptions = option(TrainOptions(), "How trained.")


walks = st.builds(
    Walk,
    st.integers(1, 10**6),
    st.floats(0, 1) | st.just("auto"),
    st.none() | st.integers(1, 10**12),
    st.sampled_from(["slow", "fast"]),
    st.lists(st.text("xyz;. ", min_size=1)).map(tuple),
    st.booleans(),
    st.none() | st.just(Path("far/away")),
    st.builds(TrainOptions, st.just("adamw"), st.floats(1e-6, 1)),
)


def toml(table: dict[str, Any]) -> str:
    """A table as TOML: plain values are written as in JSON, tables follow."""
    plain = [f"{key} = {json.dumps(value)}\n" for key, value in table.items() if not isinstance(value, dict)]
    return "".join(plain) + "".join(
        f"[{key}]\n{toml(value)}" for key, value in table.items() if isinstance(value, dict)
    )


@given(walks)
def test_a_record_survives_a_mapping_and_a_file(walk: Walk) -> None:
    kept = walk.as_dict()
    assert Walk.of(kept) == walk
    assert Walk.of(tomllib.loads(toml(kept))) == walk
    assert Walk.of(walk) == walk


def test_values_are_brought_to_their_types() -> None:
    walk = Walk.of(limit="1.5k", share=1, steps=np.int64(4), names=["a", "b"], place="x", train={"lr": 1})
    assert walk == Walk(4, 1.0, 1500, names=("a", "b"), place=Path("x"), train=TrainOptions(lr=1.0))
    assert type(walk.steps) is int and type(walk.share) is float and type(walk.train.lr) is float
    assert Walk.of(walk, steps=5) == replace(walk, steps=5) and Walk.of({"steps": 2}, steps=5).steps == 5


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"stesp": 3},
            "walk has no option 'stesp'; did you mean 'steps'? Choose from limit, loud, names, pace, place, ",
        ),
        ({"train": {"rate": 3}}, "training has no option 'rate'; choose from accumulate, batch_size, clip, ema, "),
        ({"steps": 0}, "option 'steps' is '0', but must be a whole number of at least 1"),
        ({"steps": 2.5}, "option 'steps' is '2.5', but must be a whole number of at least 1"),
        ({"steps": True}, "option 'steps' is 'True', but must be a whole number of at least 1"),
        ({"steps": "3"}, "option 'steps' is '3', but must be a whole number of at least 1"),
        ({"share": 1.5}, "option 'share' is '1.5', but must be a number of at least 0 and at most 1 or auto"),
        ({"share": float("nan")}, "option 'share' is 'nan', but must be a number of at least 0"),
        ({"limit": -3}, "option 'limit' is '-3', but must be a count such as 250k or 1.5M or none"),
        ({"limit": "many"}, "option 'limit' is 'many', but must be a count such as 250k or 1.5M or none"),
        ({"pace": "Slow"}, "option 'pace' is 'Slow', but must be slow or fast"),
        ({"names": "ab"}, "option 'names' is 'ab', but must be a list, each a text that is not empty"),
        ({"loud": 1}, "option 'loud' is '1', but must be true or false"),
        ({"train": {"lr": 0}}, "option 'lr' is '0', but must be a number above 0 or none"),
        ({"train": lambda: None}, "the options of training are TrainOptions or a table, not of type 'function'"),
        ({"pace": len}, "option 'pace' is of type 'builtin_function_or_method', but must be slow or fast"),
        (TrainOptions(), "the options of walk are Walk or a table, not of type 'TrainOptions'"),
        (3, "the options of walk are Walk or a table, not of type 'int'"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(given: Any, message: str) -> None:
    with pytest.raises(OptionError) as refused:
        Walk.of(given)
    assert message in str(refused.value) and "\n" not in str(refused.value)


def test_a_record_that_is_made_directly_is_checked_as_well() -> None:
    with pytest.raises(OptionError, match="option 'steps' is '0'"):
        Walk(0)
    with pytest.raises(OptionError, match="option 'pace' is 'idle'"):
        replace(Walk(), pace="idle")  # type: ignore[arg-type]


@given(walks)
def test_a_value_is_read_back_from_its_text(walk: Walk) -> None:
    for entry in Walk.entries():
        value = getattr(walk, entry.name)
        if entry.part is None and not (entry.name == "names" and (value == () or any(n.strip() != n for n in value))):
            assert read(shown(value, entry.hint), entry.hint, text=True) == value


@pytest.mark.parametrize("text", ["", "3.5", "0", "-2", "1e3", "three", " ", "0x3"])
def test_text_that_is_no_such_value_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        read(text, Annotated[int, Within(least=1)], text=True)


def test_bounds_say_themselves_and_hold() -> None:
    assert described(Annotated[float, Within(least=0, below=1)]) == "a number of at least 0 and below 1"
    hint = Annotated[float, Within(least=0, below=1)]
    assert [read(v, hint) for v in (0, 0.5)] == [0.0, 0.5]
    for wrong in (1, -1e-9, float("inf"), float("nan")):
        with pytest.raises(ValueError):
            read(wrong, hint)
    assert choices(Share | Literal["auto"]) == ("auto",)
