"""`ChannelMap`: laws that hold for every sequence of splits, growths and prunes, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.equivalence import relative_error
from gngraph.errors import IRError
from gngraph.rewrite.channel_map import NEW, ChannelMap
from gngraph.rewrite.surgery import SpaceEdit, rewrite
from tests.small_networks import imported


@st.composite
def maps(draw: st.DrawFn, size: int | None = None, grows: bool = True) -> ChannelMap:
    """A map from a few random steps."""
    result = ChannelMap.identity(draw(st.integers(1, 6)) if size is None else size)
    for _ in range(draw(st.integers(0, 4))):
        count = len(result.source)
        step = draw(st.sampled_from(["split", "prune", "grow"] if grows else ["split", "prune"]))
        channels = draw(st.lists(st.integers(0, count - 1), max_size=3))
        if step == "split":
            result = result.split(channels)
        elif step == "grow":
            result = result.grow(draw(st.integers(0, 2)))
        elif len(set(channels)) < count:
            result = result.prune(channels)
    return result


def as_reader(m: ChannelMap) -> torch.Tensor:
    """What the map does to a reader's weights, as a matrix [before, after]."""
    matrix = torch.zeros(m.size, len(m.source), dtype=torch.float64)
    for j, (source, weight) in enumerate(zip(m.source, m.weight, strict=True)):
        if source != NEW:
            matrix[source, j] = weight
    return matrix


@given(st.data())
def test_then_is_matrix_multiplication_with_the_identity_as_one(data: st.DataObject) -> None:
    a = data.draw(maps())
    b = data.draw(maps(len(a.source)))
    c = data.draw(maps(len(b.source)))
    torch.testing.assert_close(as_reader(a.then(b)), as_reader(a) @ as_reader(b), rtol=0, atol=0)
    assert a.then(b).then(c) == a.then(b.then(c))
    assert ChannelMap.identity(a.size).then(a) == a == a.then(ChannelMap.identity(len(a.source)))


def test_a_fresh_map_is_of_new_channels_alone() -> None:
    assert ChannelMap.fresh(3) == ChannelMap(0, (NEW, NEW, NEW), (1.0, 1.0, 1.0))
    assert ChannelMap.identity(2).prune([0]).grow(1).then(ChannelMap(2, (1, 0), (1.0, 1.0))).source == (NEW, 1)


@given(maps())
def test_preserves_function_says_whether_readers_see_the_same_sum(m: ChannelMap) -> None:
    sums = as_reader(m).sum(1)
    assert m.preserves_function() == bool((sums == 1).all())


@given(st.lists(st.integers(0, 4), max_size=6))
def test_splits_always_preserve_the_function(channels: list[int]) -> None:
    assert ChannelMap.identity(5).split(channels).preserves_function()


def test_examples() -> None:
    three = ChannelMap.identity(3)
    assert three.split([1, 1]) == ChannelMap(3, (0, 1, 2, 1, 1), (1.0, 0.25, 1.0, 0.5, 0.25))
    assert three.grow(2) == ChannelMap(3, (0, 1, 2, NEW, NEW), (1.0,) * 5)
    assert three.prune([1]) == ChannelMap(3, (0, 2), (1.0, 1.0))
    assert not three.prune([1]).preserves_function()
    assert three.split([0]).prune([0]) == ChannelMap(3, (1, 2, 0), (1.0, 1.0, 0.5))


@pytest.mark.parametrize(
    ("size", "source", "weight", "words"),
    [
        (3, (0, 1), (1.0,), "2 sources but 1 weights"),
        (3, (), (), "at least one channel"),
        (3, (0, 3), (1.0, 1.0), "names the source 3"),
        (3, (0, -2), (1.0, 1.0), "names the source -2"),
    ],
)
def test_refusals(size: int, source: tuple[int, ...], weight: tuple[float, ...], words: str) -> None:
    with pytest.raises(IRError, match=words):
        ChannelMap(size, source, weight)


def test_a_map_cannot_follow_one_of_another_width() -> None:
    with pytest.raises(IRError, match="of 3 channels cannot follow one that leaves 4"):
        ChannelMap.identity(3).grow(1).then(ChannelMap.identity(3))


@given(st.data())
def test_one_rewrite_by_the_composition_equals_two_rewrites(data: st.DataObject) -> None:
    name = data.draw(
        st.sampled_from(["dense", "batch norm after flatten", "cat with itself", "depthwise multiplier 2"])
    )
    graph = imported(name).to(torch.float64)
    spaces = ChannelSpaces.of(graph)
    space = data.draw(st.sampled_from(spaces.free))
    first = data.draw(maps(space.size, grows=False))
    second = data.draw(maps(len(first.source), grows=False))
    once = rewrite(graph, spaces, {space.name: SpaceEdit(first.then(second))}).graph
    halfway = rewrite(graph, spaces, {space.name: SpaceEdit(first)}).graph
    twice = rewrite(halfway, ChannelSpaces.of(halfway), {space.name: SpaceEdit(second)}).graph
    assert all(torch.equal(p.data, twice.params[key].data) for key, p in once.params.items())
    assert relative_error(once, twice) == 0.0
