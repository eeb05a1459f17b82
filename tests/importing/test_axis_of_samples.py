"""Along which axis samples lie: the one over which what a module gives is independent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import gngraph
from gngraph.analysis.channels import ChannelSpaces
from gngraph.importing.from_samples import from_samples
from gngraph.importing.from_torch import from_torch
from gngraph.importing.inputs import told_by_samples

WORDS = 12


def tokens(*shape: int) -> Tensor:
    return torch.randint(WORDS, shape, generator=torch.Generator().manual_seed(0))


class Recurrent(nn.Module):
    """A language model with tokens in front of the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.cells, self.out = nn.Embedding(WORDS, 8), nn.LSTM(8, 10), nn.Linear(10, WORDS)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.out(self.cells(self.words(x))[0]))


class LastState(Recurrent):
    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.out(self.cells(self.words(x))[0][-1]))


class Backwards(Recurrent):
    """Each token depends on those behind it."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flip(0)).flip(0)


class Mean(nn.Module):
    """Classes of texts, whose tokens are in front."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.hidden, self.out = nn.Embedding(WORDS, 8), nn.Linear(8, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.out(torch.relu(self.hidden(self.words(x))).mean(0)))


class Attending(nn.Module):
    """Torch's layer, as it comes."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.TransformerEncoderLayer(8, 2, 16), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.out(self.layer(x)))


class FromStart(nn.Module):
    """Tracks, whose places are told by where they begin, in front of the samples."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(8, 10), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.out(torch.relu(self.hidden(x - self.start(x)))))

    def start(self, x: Tensor) -> Tensor:
        return x[:1]


class FromEnd(FromStart):
    def start(self, x: Tensor) -> Tensor:
        return x[-1:]


class OfEach(nn.Module):
    """Nothing depends on anything else: samples come first."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.layers(x))


class OfBatch(nn.Module):
    """A norm by the statistics of the batch: samples depend on each other."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.norm = nn.Linear(8, 16), nn.BatchNorm1d(16, track_running_stats=False)
        self.out = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.out(self.norm(self.hidden(x))))


class Words(nn.Module):
    """A word of each, without others beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(WORDS, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.out(torch.relu(self.words(x))))


class First(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells, self.out = nn.GRU(8, 10, batch_first=True), nn.Linear(10, 3)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.out(self.cells(x)[0]))


class Translation(nn.Module):
    """The tutorial's encoder, and decoder with attention, all with tokens in front."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.encoder, self.decoder = nn.Embedding(WORDS, 8), nn.GRU(8, 10), nn.GRU(8, 10)
        self.query, self.out = nn.Linear(10, 10, bias=False), nn.Linear(20, WORDS)

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        read, state = self.encoder(self.words(src))
        said, _ = self.decoder(self.words(tgt), state)
        keys = read.transpose(0, 1)
        weights = torch.softmax(self.query(said).transpose(0, 1) @ keys.transpose(1, 2), -1)
        return cast(Tensor, self.out(torch.cat([said, (weights @ keys).transpose(0, 1)], -1)))


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(WORDS, 8), nn.Linear(8, WORDS)
        self.transformer = nn.Transformer(8, 2, 1, 1, 16)

    def forward(self, src: Tensor, tgt: Tensor, src_mask: Tensor, tgt_mask: Tensor) -> Tensor:
        return cast(Tensor, self.out(self.transformer(self.words(src), self.words(tgt), src_mask, tgt_mask)))


class Weighed(nn.Module):
    """A mean of tokens with weights of their places."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.out = nn.Linear(8, 10), nn.Linear(10, 3)

    def forward(self, weights: Tensor, x: Tensor) -> Tensor:
        weights = weights.view(len(x), 1, 1)
        return cast(Tensor, self.out((torch.relu(self.hidden(x)) * weights).mean(0)))


class Contrasted(nn.Module):
    """Every picture with every text: all samples depend on each other."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return cast(Tensor, self.one(a) @ self.other(b).mT)


def kinds(graph: gngraph.Graph) -> list[str]:
    return [str(graph.nodes[name].type) for name in (*graph.inputs, *graph.outputs)]


@pytest.mark.parametrize(("length", "count"), [(6, 3), (4, 4), (1, 3)])
@pytest.mark.parametrize(
    ("make", "width", "given"),
    [
        (Recurrent, 0, f"f32[{{}},N,{WORDS}]"),
        (LastState, 0, f"f32[N,{WORDS}]"),
        (Backwards, 0, f"f32[{{}},N,{WORDS}]"),
        (Mean, 0, "f32[N,3]"),
        (Attending, 8, "f32[{},N,3]"),
        (FromStart, 8, "f32[{},N,3]"),
        (FromEnd, 8, "f32[{},N,3]"),
    ],
)
def test_of_a_single_input_it_is_told(
    make: Callable[[], nn.Module], width: int, given: str, length: int, count: int
) -> None:
    module = make().eval()
    x = torch.randn(length, count, 8) if width else tokens(length, count)
    graph = from_torch(module, x)
    assert kinds(graph) == [f"f32[{length},N,8]" if width else f"i64[{length},N]", given.format(length)]
    other = torch.randn(length, 5, 8) if width else tokens(length, 5)
    torch.testing.assert_close(gngraph.to_torch(graph)(other), module(other))


@pytest.mark.parametrize(
    ("make", "shape"),
    [(OfEach, (5, 3, 8)), (OfEach, (4, 4, 8)), (OfBatch, (6, 8)), (First, (3, 5, 8)), (First, (1, 4, 8))],
)
def test_samples_stay_in_front_where_nothing_speaks_against_it(
    make: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    graph = from_torch(make(), torch.randn(shape))
    assert kinds(graph)[0].startswith("f32[N,")


@pytest.mark.parametrize(("src", "tgt", "count"), [(7, 5, 3), (6, 6, 3), (7, 4, 4), (4, 7, 4), (4, 4, 4)])
def test_of_two_texts_it_is_told_whatever_their_lengths(src: int, tgt: int, count: int) -> None:
    texts, expected = (tokens(src, count), tokens(tgt, count)), [f"i64[{src},N]", f"i64[{tgt},N]"]
    assert kinds(from_torch(Translation(), texts))[:2] == expected
    causal = nn.Transformer.generate_square_subsequent_mask(tgt)
    masked = from_torch(Masked(), (*texts, torch.zeros(src, src), causal))
    assert kinds(masked) == [*expected, f"f32[{src},{src}]", f"f32[{tgt},{tgt}]", f"f32[{tgt},N,{WORDS}]"]


def test_what_samples_share_may_be_as_long_as_the_tokens_in_front() -> None:
    for given in ((torch.rand(6, 1), torch.randn(6, 3, 8)), (torch.rand(6, 1, 1), torch.randn(6, 3, 8))):
        graph = from_torch(Weighed(), given)
        assert kinds(graph)[1:] == ["f32[6,N,8]", "f32[N,3]"]


def test_where_all_samples_depend_on_each_other_their_number_tells() -> None:
    assert kinds(from_torch(Contrasted(), (torch.randn(4, 8), torch.randn(4, 8))))[:2] == ["f32[N,8]", "f32[N,8]"]


@pytest.mark.parametrize("last", [[3, WORDS - 1], [WORDS - 1, 3], [WORDS - 1, WORDS - 1]])
def test_words_are_changed_to_those_that_a_table_has(last: list[int]) -> None:
    assert kinds(from_torch(Words(), torch.tensor(last).unsqueeze(1))) == ["i64[N,1]", "f32[N,1,3]"]


def test_words_may_be_stored_beside_other_numbers() -> None:
    class Mixed(Mean):
        def forward(self, x: Tensor) -> Tensor:
            words = self.words(x[..., 0].long()) * x[..., 1:]
            return cast(Tensor, self.out(torch.relu(self.hidden(words)).mean(0)))

    x = torch.tensor([[[0.0, 0.5], [WORDS - 1.0, 2.0]]]).repeat(5, 1, 1)
    assert kinds(from_torch(Mixed(), x)) == ["f32[5,N,2]", "f32[N,3]"]


def test_three_runs_tell_of_samples_in_front(monkeypatch: pytest.MonkeyPatch) -> None:
    calls, expected = list[int](), told_by_samples

    def counted(given: Any, names: Any, name: Any, outputs: Any, run: Any) -> Any:
        def counting(values: Any) -> Any:
            calls.append(1)
            return run(values)

        return expected(given, names, name, outputs, counting)

    monkeypatch.setattr("gngraph.importing.proof.told_by_samples", counted)
    from_torch(First(), torch.randn(3, 5, 8))
    assert len(calls) == 3


def test_by_samples_of_data_a_module_with_tokens_in_front_is_called_as_it_is() -> None:
    graph = from_samples(Recurrent(), tokens(2, 6))
    assert kinds(graph) == ["i64[6,N]", f"f32[6,N,{WORDS}]"]
    both = from_samples(Translation(), {"tgt": tokens(2, 5), "src": tokens(2, 7)})
    assert kinds(both)[:2] == ["i64[7,N]", "i64[5,N]"]


def test_a_translation_with_tokens_in_front_is_grown_by_data_that_has_samples_there() -> None:
    src, tgt = tokens(60, 7), tokens(60, 5)
    problem = gngraph.Problem(
        {"tgt": tgt, "src": src, "labels": (src[:, :5] + tgt) % WORDS}, "next-token", device="cpu"
    )
    torch.manual_seed(0)
    module = Translation()
    before = sum(p.numel() for p in module.parameters())
    result = gngraph.grow(module, problem, max_params=before + 200, rounds=1, epochs=1, final_epochs=1, depth="keep")
    assert before < result.graph.num_params() <= before + 200
    assert gngraph.to_torch(result.graph)(src[:3].t(), tgt[:3].t()).shape == (5, 3, WORDS)
    grower = gngraph.Grower(module, problem, max_params=before + 200, rounds=1)
    step = grower.step(torch.optim.SGD(module.parameters(), lr=0.1))
    assert step and step.after.params == sum(p.numel() for p in module.parameters()) > before
    assert ChannelSpaces.of(result.graph).free
