"""The pass manager: promises are checked, a broken one gives nothing back, and passes are text and back."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.manager import AnalysisManager
from gngraph.errors import FunctionChangedError, IRError, PassError
from gngraph.ir import Graph
from gngraph.passes import Cleanup, NewChannels, PruneChannels, SplitChannels
from gngraph.rewrite import graph_pass
from gngraph.rewrite.graph_pass import Effect, Pass, PassResult, register_pass
from gngraph.rewrite.morphism import PruneChannel, edits_of
from gngraph.rewrite.pass_manager import (
    PassManager,
    PassRun,
    Timings,
    format_passes,
    parse_passes,
    printing,
    printing_diffs,
)
from gngraph.rewrite.surgery import rewrite
from tests.small_networks import imported


@dataclass(frozen=True)
class Scale(Pass):
    """Multiplies one weight: a deliberately wrong pass unless the factor is 1."""

    name: ClassVar[str] = "scale"
    effect: ClassVar[Effect] = "preserves"
    factor: float = 1.0

    def run(self, graph: Graph, analyses: AnalysisManager) -> PassResult:
        return PassResult(graph.with_params({"0.weight": graph.params["0.weight"].data * self.factor}))


@dataclass(frozen=True)
class OpenlyScale(Scale):
    """The same, without a promise."""

    name: ClassVar[str] = "openly-scale"
    effect: ClassVar[Effect] = "changes"


@dataclass(frozen=True)
class PruneTheNext(Pass):
    """Removes another channel than the one it reports."""

    name: ClassVar[str] = "prune-the-next"
    effect: ClassVar[Effect] = "masks"

    def run(self, graph: Graph, analyses: AnalysisManager) -> PassResult:
        spaces = analyses.get(ChannelSpaces, graph)
        wrong = rewrite(graph, spaces, edits_of(graph, spaces, [PruneChannel("0", 1)]))
        return PassResult.of(wrong, (PruneChannel("0", 0),))


@dataclass(frozen=True)
class Options(Pass):
    """Every kind of option."""

    name: ClassVar[str] = "options"
    effect: ClassVar[Effect] = "preserves"
    whole: int = 3
    number: float = 0.5
    text: str = "*"
    maybe: int | None = 4
    several: tuple[int, ...] = ()

    def run(self, graph: Graph, analyses: AnalysisManager) -> PassResult:
        return PassResult(graph)


def plain() -> Graph:
    return imported("plain")


def test_a_preserving_pass_is_measured_and_accepted() -> None:
    graph = plain()
    result = PassManager([SplitChannels(count=2), NewChannels(seed=4)]).run(graph)
    assert [run.changed for run in result.runs] == [True, True]
    assert all(run.error is not None and run.error <= 1e-14 for run in result.runs)
    assert result.runs[0].before is graph and result.runs[1].before is result.results[0].graph
    assert result.graph is result.results[1].graph and result.changed
    assert len(result.results[0].morphisms) == 4 and result.results[0].gathers


@pytest.mark.parametrize("factor", [1.01, float("nan"), float("inf")])
def test_a_pass_that_breaks_its_promise_gives_nothing_back(factor: float) -> None:
    graph = plain()
    before = {key: p.data.clone() for key, p in graph.params.items()}
    seen: list[PassRun] = []
    with pytest.raises(FunctionChangedError) as caught:
        PassManager([SplitChannels(), Scale(factor), SplitChannels()], observers=[seen.append]).run(graph)
    assert str(Scale(factor)) in str(caught.value) and "the graph was not changed" in str(caught.value)
    assert caught.value.error > caught.value.tolerance == 1e-10
    assert [run.entry for run in seen] == [SplitChannels()]
    assert all(torch.equal(graph.params[key].data, data) for key, data in before.items())


def test_the_tolerance_is_a_field() -> None:
    graph = plain().to(torch.float64)
    slightly = Scale(1 + 1e-7)
    with pytest.raises(FunctionChangedError):
        PassManager([slightly]).run(graph)
    assert PassManager([slightly], tolerance=1e-6).run(graph).changed


def test_a_pass_that_masks_another_channel_than_it_says_is_refused() -> None:
    with pytest.raises(FunctionChangedError, match=r"'prune-the-next' changed .* the masked network"):
        PassManager([PruneTheNext()]).run(plain())


def test_a_pass_without_a_promise_is_not_compared() -> None:
    (run,) = PassManager([OpenlyScale(3.0)]).run(plain()).runs
    assert run.error is None and run.changed


def test_changed_is_measured() -> None:
    graph = plain()
    same_values, nothing_to_do = PassManager([Scale(1.0), Cleanup()]).run(graph).runs
    assert same_values.result.graph is not graph and not same_values.changed
    assert not nothing_to_do.changed


def test_a_pass_that_returns_a_broken_graph_is_refused() -> None:
    class Break(Scale):
        def run(self, graph: Graph, analyses: AnalysisManager) -> PassResult:
            nodes = dict(graph.nodes)
            del nodes[list(nodes)[1]]
            return PassResult(Graph(graph.name, nodes, graph.params, graph.inputs, graph.output))

    with pytest.raises(IRError, match="does not exist"):
        PassManager([Break()]).run(plain())


def test_observers_print_time_and_diff() -> None:
    lines: list[str] = []
    timings = Timings()
    PassManager("cleanup,split-channels{space=2}", observers=[printing(lines.append), timings]).run(plain())
    assert lines[0].startswith("cleanup: no change, error 0.0e+00, ")
    assert lines[1].startswith("split-channels{space=2}: ") and " parameters, error " in lines[1]
    assert set(timings.seconds) == {"cleanup", "split-channels"}
    PassManager("split-channels{space=2}", observers=[printing_diffs(lines.append)]).run(plain())
    assert "2.weight" in lines[2]


def test_text_names_only_what_differs_from_the_defaults() -> None:
    passes = [SplitChannels("features.*", 8), PruneChannels("features.0", channels=(0, 3)), NewChannels(), Cleanup()]
    text = "split-channels{count=8,space=features.*},prune-channels{channels=0;3,space=features.0},new-channels,cleanup"
    assert format_passes(passes) == str(PassManager(passes)) == text
    assert parse_passes(text) == parse_passes(f"  {text.replace(',', ' , ').replace('=', ' = ')} ") == passes


@given(
    st.builds(
        Options,
        st.integers(),
        st.floats(allow_nan=False),
        st.text("abcXYZ019._*?[]#-", min_size=1),
        st.none() | st.integers(),
        st.lists(st.integers()).map(tuple),
    )
)
def test_every_option_survives_text(entry: Options) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(graph_pass.REGISTRY, Options.name, Options)
        assert parse_passes(str(entry)) == [entry]
        assert parse_passes(f"{entry},cleanup,{entry}") == [entry, Cleanup(), entry]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "split-chanels",
            "no pass 'split-chanels'; did you mean 'split-channels'? Choose from change-stride, cleanup, collapse-layers, ",
        ),
        ("frobnicate", "no pass 'frobnicate'; choose from change-stride, cleanup, "),
        (
            "cleanup,split-channels{cout=1}",
            "no option 'cout'; did you mean 'count'? Choose from channels, count, space",
        ),
        ("cleanup,split-channels{cout=1}", "(at character 24 of the pass text"),
        (
            "split-channels{count=x}",
            "option 'count' of pass 'split-channels' is 'x', but must be a whole number or none",
        ),
        ("split-channels{count=1.5}", "is '1.5', but must be a whole number"),
        ("split-channels{channels=1;a}", "must be a list with ';' between its items, each a whole number"),
        ("split-channels{space=}", "must be a text that is not empty"),
        ("split-channels{count=0}", "is '0', but must be at least 1 (at character 1 "),
        ("split-channels{count=1,channels=0}", "takes either count or channels, not both"),
        ("split-channels{count=1,count=2}", "option 'count' of pass 'split-channels' is given twice"),
        ("split-channels{count=1", "expected ',' or '}' in the options of 'split-channels' (at character 23 "),
        ("split-channels{count}", "expected option=value"),
        ("cleanup cleanup", "expected ',' or the end, not 'c' (at character 9 "),
        ("cleanup}", "expected ',' or the end, not '}'"),
        ("", "expected the name of a pass: one of change-stride, cleanup, "),
        ("cleanup,", "expected the name of a pass"),
    ],
)
def test_bad_text_is_one_sentence_with_position_and_choices(text: str, words: str) -> None:
    with pytest.raises(PassError) as caught:
        parse_passes(text)
    assert words in str(caught.value) and "\n" not in str(caught.value)


@given(st.text("abc-{}=,;0 *", max_size=20))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with contextlib.suppress(PassError):
        parse_passes(text)


def test_two_passes_cannot_have_one_name() -> None:
    class Other(Scale):
        name = "cleanup"

    with pytest.raises(ValueError, match="two passes are called 'cleanup'"):
        register_pass(Other)
