"""Indices counted from the end of a channel axis follow the channels that they read."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from gngraph.analysis.channels import ChannelSpaces
from gngraph.importing.from_torch import from_torch
from gngraph.lowering.to_torch import run
from gngraph.rewrite.morphism import NewChannel, PruneChannel, SplitChannel, edits_of
from gngraph.rewrite.surgery import rewrite
from tests.morphism_errors import errors_of


class Cut(nn.Module):
    """Two layers side by side, cut apart again."""

    def __init__(self, cut: Callable[[Tensor], Tensor], width: int) -> None:
        super().__init__()
        self.a, self.b, self.cut, self.head = nn.Linear(3, 4), nn.Linear(3, 2), cut, nn.Linear(width, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.cut(torch.cat([self.a(x), self.b(x)], 1)).relu())
        return out


CUTS: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
    "all but the last two": (lambda h: h[:, :-2], 4),
    "the last two": (lambda h: h[:, -2:], 2),
    "from the end to the end": (lambda h: h[:, -6:-2], 4),
    "from the start to the end": (lambda h: h[:, 0:-2], 4),
    "from the end to a number": (lambda h: h[:, -6:4], 4),
    "last axis": (lambda h: h[..., -2:], 2),
}


@pytest.mark.parametrize("name", CUTS)
def test_surgery_keeps_which_channels_are_read(name: str) -> None:
    cut, width = CUTS[name]
    torch.manual_seed(0)
    graph = from_torch(Cut(cut, width), torch.randn(2, 3)).to(torch.float64)
    x = torch.randn(5, 3, dtype=torch.float64)
    spaces = ChannelSpaces.of(graph)
    read = "a" if width == 4 else "b"
    assert {space.name for space in spaces.free} == {read}
    errors = errors_of(graph, spaces, read)
    assert max(errors.split, errors.new, errors.masked) < 1e-12
    for morphism in (SplitChannel(read, 1), PruneChannel(read, 0), NewChannel(read)):
        grown = rewrite(graph, spaces, edits_of(graph, spaces, [morphism])).graph
        index = next(node for node in grown.nodes.values() if node.op == "index")
        assert index.shape[-1] == width + (-1 if isinstance(morphism, PruneChannel) else 1)
        if not isinstance(morphism, PruneChannel):
            assert torch.allclose(run(grown, x), run(graph, x), rtol=0, atol=1e-12)
        errors = errors_of(grown, ChannelSpaces.of(grown), read)
        assert max(errors.split, errors.new, errors.masked) < 1e-12


def test_a_slice_beyond_the_channels_is_frozen() -> None:
    graph = from_torch(Cut(lambda h: h[:, :100], 6), torch.randn(2, 3))
    frozen = {space.frozen or "" for space in ChannelSpaces.of(graph)}
    assert any(reason.startswith("a slice reaches beyond its channels") for reason in frozen)
    assert not ChannelSpaces.of(graph).free
