"""History: records on the disk, morphisms by space, and the origin of every channel."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gngraph.analysis.channels import ChannelSpaces
from gngraph.errors import GnGraphError
from gngraph.growth.history import HistoryWriter, Lineage, morphism_entries, read_history, without_seconds
from gngraph.rewrite.morphism import Morphism, NewChannel, PruneChannel, SplitChannel, edits_of
from gngraph.rewrite.surgery import rewrite
from tests.problems import seed_graph


def test_records_come_back_in_order(tmp_path: Path) -> None:
    writer = HistoryWriter(tmp_path / "run")
    for number in (1, 2):
        writer.append({"round": number, "loss": 0.1 * number})
        assert len(read_history(writer.path)) == number
    assert read_history(writer.path)[1] == {"round": 2, "loss": 0.2}


def test_the_history_of_another_run_is_not_overwritten(tmp_path: Path) -> None:
    HistoryWriter(tmp_path)
    with pytest.raises(GnGraphError, match="holds the history of another run"):
        HistoryWriter(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"), [("{}\n{", "line 2 of history .* is not JSON"), ("3", "not a JSON object")]
)
def test_a_damaged_history_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text(text)
    with pytest.raises(GnGraphError, match=message):
        read_history(path)
    with pytest.raises(GnGraphError, match="cannot be read"):
        read_history(tmp_path / "none.jsonl")


def test_seconds_are_left_out_at_any_depth() -> None:
    record = {"seconds": {"train": 1.0}, "epochs": [{"loss": 1.0, "seconds": 2.0}], "round": 1}
    assert without_seconds(record) == {"epochs": [{"loss": 1.0}], "round": 1}


def test_morphisms_are_listed_by_space_and_kind() -> None:
    morphisms: list[Morphism] = [SplitChannel("a", 3), NewChannel("a"), PruneChannel("b", 1), SplitChannel("a", 0)]
    assert morphism_entries(morphisms) == {"a": {"split": [3, 0], "new": 1}, "b": {"prune": [1]}}


def test_lineage_follows_channels_through_two_rewrites() -> None:
    graph = seed_graph()
    spaces = ChannelSpaces.of(graph)
    width = spaces["hidden.0"].size
    lineage = Lineage.begun(spaces)
    marked = graph.params["hidden.0.bias"].data.clone()
    marked[:] = torch.arange(width)
    graph = graph.with_params({"hidden.0.bias": marked})
    steps: list[list[Morphism]] = [
        [SplitChannel("hidden.0", 2), NewChannel("hidden.0", {"hidden.0.bias": torch.tensor([-1.0])})],
        [PruneChannel("hidden.0", 0), SplitChannel("hidden.0", width)],
    ]
    for morphisms in steps:
        spaces = ChannelSpaces.of(graph)
        edits = edits_of(graph, spaces, morphisms)
        graph = rewrite(graph, spaces, edits).graph
        lineage.follow(edits, ChannelSpaces.of(graph))
    sources = lineage.sources()
    assert sources["hidden.0"] == [int(value) for value in graph.params["hidden.0.bias"].data]
    assert sources["hidden.0"] == [*range(1, width), 2, -1, 2]
    assert sources["hidden.2"] == list(range(spaces["hidden.2"].size))
