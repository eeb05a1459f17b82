"""Networks that return records: the graph gives the tensor that is named, or the leading one, and says so."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from gngraph.errors import GnGraphNote, UnsupportedModelError
from gngraph.importing.from_torch import from_torch
from gngraph.lowering.to_torch import to_torch

X = torch.randn(3, 6, generator=torch.Generator().manual_seed(0))


@dataclass
class Record:
    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden: Tensor | None = None
    cache: object = None


@dataclass
class States(OrderedDict[str, Any]):
    """As transformers' model outputs: a dictionary too."""

    last_hidden_state: Tensor
    pooler_output: Tensor

    def __post_init__(self) -> None:
        self.update(last_hidden_state=self.last_hidden_state, pooler_output=self.pooler_output)


@dataclass
class Both:
    left: Tensor
    right: Tensor
    nothing: Tensor | None = None


class Named(NamedTuple):
    first: Tensor
    second: Tensor


class Net(nn.Module):
    """Returns the record that it is made with."""

    def __init__(self, kind: Any, *names: str) -> None:
        super().__init__()
        self.a, self.b, self.kind, self.names = nn.Linear(6, 4), nn.Linear(4, 2), kind, names

    def forward(self, x: Tensor) -> Any:
        y = torch.relu(self.a(x))
        return self.kind(**dict(zip(self.names, (self.b(y), y), strict=True)))


def kept(network: Net, output: str | None = None) -> tuple[Any, Any]:
    """What the network returns under a name, and what its import does."""
    graph = from_torch(network, X, output=output)
    return to_torch(graph)(X), network.eval()(X)


def test_the_leading_tensor_is_kept_and_a_note_says_which() -> None:
    said = "'Net' returns a Record, of which the graph gives 'logits' and leaves out hidden; output=... names another"
    with pytest.warns(GnGraphNote, match=said):
        found, record = kept(Net(Record, "logits", "hidden"))
    assert torch.equal(found, record.logits)
    with pytest.warns(GnGraphNote, match="'last_hidden_state' and leaves out pooler_output"):
        found, record = kept(Net(States, "last_hidden_state", "pooler_output"))
    assert torch.equal(found, record.last_hidden_state)


def test_any_tensor_of_a_record_a_dictionary_or_a_named_tuple_can_be_kept() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", GnGraphNote)
        found, record = kept(Net(Record, "logits", "hidden"), "hidden")
        assert torch.equal(found, record.hidden)
        found, dictionary = kept(Net(dict, "left", "right"), "right")
        assert torch.equal(found, dictionary["right"])
        found, pair = kept(Net(Named, "first", "second"), "second")
        assert torch.equal(found, pair[1])


def test_a_record_that_no_tensor_leads_is_a_dictionary_of_what_it_holds() -> None:
    found, record = kept(Net(Both, "left", "right"))
    assert list(found) == ["left", "right"]
    assert torch.equal(found["right"], record.right)


@pytest.mark.parametrize("kind, told", [(dict, "the tensors left, right, and no 'logits'"), (Both, "no 'logits'")])
def test_what_is_not_there_is_refused(kind: Any, told: str) -> None:
    with pytest.raises(UnsupportedModelError, match=f"'Net' returns .*{told}; name one that it returns"):
        from_torch(Net(kind, "left", "right"), X, output="logits")


@pytest.mark.parametrize("kind", [lambda first, second: first, lambda first, second: (first,)])
def test_a_tensor_alone_goes_by_the_names_of_what_leads(kind: Any) -> None:
    network = Net(kind, "first", "second")
    assert isinstance(to_torch(from_torch(network, X, output="logits"))(X), Tensor)
    with pytest.raises(
        UnsupportedModelError, match=r"returns a '(Tensor|tuple)', and no 'scores'; name one that it returns"
    ):
        from_torch(network, X, output="scores")
