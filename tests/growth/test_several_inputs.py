"""Networks with several inputs of samples, on data that has as many: a translation, pictures with what is known of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

import gngraph
from gngraph.curvature import NextToken
from gngraph.data.digest import digest
from gngraph.data.inputs import each
from gngraph.deploy.parity import running
from gngraph.deploy.to_onnx import export_onnx
from gngraph.errors import DataError, UnsupportedModelError
from gngraph.growth.checkpoints import Checkpoints
from gngraph.growth.history import without_seconds
from gngraph.running.deployed import accuracy_outside
from gngraph.running.evaluation import evaluate
from tests.data.test_given import Table

WORDS, SOURCE, TARGET, COUNT = 9, 7, 5, 60
SHORT: dict[str, Any] = {"rounds": 1, "epochs": 1, "final_epochs": 1, "depth": "keep"}


class Translator(nn.Module):
    """Torch's transformer between texts of two lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(WORDS, 8), nn.Linear(8, WORDS)
        self.transformer = nn.Transformer(8, 2, 1, 1, 12, 0.0, batch_first=True)

    def forward(self, src: Tensor, tgt: Tensor) -> Tensor:
        return cast(Tensor, self.out(self.transformer(self.words(src), self.words(tgt))))


class Described(nn.Module):
    """Pictures, and numbers that are known of each."""

    def __init__(self) -> None:
        super().__init__()
        self.picture = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU())
        self.numbers = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        self.head = nn.Linear(14, 3)

    def forward(self, image: Tensor, meta: Tensor) -> Tensor:
        return cast(Tensor, self.head(torch.cat([self.picture(image).mean((2, 3)), self.numbers(meta)], 1)))


class Padded(nn.Module):
    """Words of which a mask of each sample says which count, the mask first."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.hidden, self.out = nn.Embedding(WORDS, 8), nn.Linear(8, 12), nn.Linear(12, 3)

    def forward(self, attention_mask: Tensor, input_ids: Tensor) -> Tensor:
        x = F.relu(self.hidden(self.words(input_ids)))
        mask = attention_mask.unsqueeze(-1).to(x.dtype)
        return cast(Tensor, self.out((x * mask).sum(1) / mask.sum(1)))


class Samples(Dataset[Any]):
    """Samples of one form or another."""

    def __init__(self, *samples: Any) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, row: int) -> Any:
        return self.samples[row]


def texts() -> tuple[Tensor, Tensor, Tensor]:
    stream = torch.Generator().manual_seed(0)
    src = torch.randint(1, WORDS, (COUNT, SOURCE), generator=stream)
    tgt = torch.randint(1, WORDS, (COUNT, TARGET), generator=stream)
    labels = (src[:, :TARGET] + tgt) % WORDS
    labels[:, 3:] = -100
    return src, tgt, labels


def pictures() -> tuple[Tensor, Tensor, Tensor]:
    stream, y = torch.Generator().manual_seed(0), torch.arange(COUNT) % 3
    image = torch.randn(COUNT, 3, 6, 6, generator=stream) + y.view(-1, 1, 1, 1)
    return image, torch.randn(COUNT, 4, generator=stream), y


def made(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return kind()


def graph_of(kind: type[nn.Module], *inputs: Tensor) -> gngraph.Graph:
    return gngraph.from_torch(made(kind), tuple(x[:2] for x in inputs))


def forms() -> Iterator[tuple[str, Any]]:
    src, tgt, y = texts()
    yield "tensors", ((src, tgt), y)
    yield "three tensors", (src, tgt, y)
    yield "arrays by name", {"tgt": tgt.numpy(), "labels": y.numpy(), "src": src.numpy()}
    yield "a tensor data set", TensorDataset(src, tgt, y)
    yield "nested samples", Samples(*(((a, b), c) for a, b, c in zip(src, tgt, y, strict=True)))
    yield "flat samples", Samples(*zip(src, tgt, y, strict=True))
    yield "dictionaries", Samples(*({"tgt": b, "src": a, "y": c} for a, b, c in zip(src, tgt, y, strict=True)))
    yield "a table", Table(tgt=tgt.tolist(), src=src.tolist(), labels=y.tolist())


def test_all_forms_of_data_are_the_same() -> None:
    graph, found = graph_of(Translator, *texts()[:2]), {}
    for name, data in forms():
        problem = gngraph.Problem(data, "next-token", device="cpu")
        scores = gngraph.AnalysisManager(problem).get(gngraph.GaussNewton(kinds=("split", "prune", "merge")), graph)
        found[name] = evaluate(graph, problem, problem.test), [c.gain for c in scores.candidates]
    assert len(found) == 8 and all(own == found["tensors"] for own in found.values())


def test_padding_does_not_count() -> None:
    graph, (src, tgt, y) = graph_of(Translator, *texts()[:2]), texts()
    ignored = gngraph.Problem(((src, tgt), y), "next-token", device="cpu")
    cut = gngraph.Problem(
        ((src, tgt), y[:, :3]), lambda o, t: F.cross_entropy(o[:, :3].mT, t, reduction="none").mean(1)
    )
    other = gngraph.Problem(((src, tgt), y.where(y >= 0, 0)), NextToken(ignore_index=0), device="cpu")
    assert evaluate(graph, ignored, ignored.test)[0] == pytest.approx(evaluate(graph, cut, cut.test)[0])
    assert evaluate(graph, other, other.test)[0] != evaluate(graph, ignored, ignored.test)[0]  # a word of this number


def test_a_translation_is_grown_in_a_folder_and_goes_on_from_its_checkpoints(tmp_path: Path) -> None:
    src, tgt, y = texts()
    data = {"tgt": tgt, "labels": y, "src": src}
    problem, before = gngraph.Problem(data, "next-token", device="cpu"), made(Translator)
    keep, count = Checkpoints.keep, 0

    def stopping(self: Checkpoints, *arguments: Any) -> None:
        nonlocal count
        keep(self, *arguments)
        count += 1
        if count == 4:
            raise KeyboardInterrupt

    options: dict[str, Any] = {"max_params": 2400, "checkpoint_every": 0, **SHORT}
    whole = gngraph.grow(before, problem, **options)
    with pytest.MonkeyPatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Checkpoints, "keep", stopping)
        gngraph.grow(before, problem, out=tmp_path / "run", **options)
    resumed = gngraph.resume(tmp_path / "run", gngraph.Problem(data, "next-token", device="cpu"))
    assert without_seconds(resumed.history) == without_seconds(whole.history)
    grown = gngraph.load(tmp_path / "run" / "model.gng")
    assert grown.inputs == ("src", "tgt") and grown.num_params() > sum(p.numel() for p in before.parameters())
    module = gngraph.to_torch(grown)
    report = export_onnx(grown, tmp_path / "net.onnx", samples=(src[:4], tgt[:4]))
    assert report.parity.batches == (1, 3, 4)
    assert accuracy_outside(running(module), grown, problem) == evaluate(grown, problem, problem.test)[1]
    other = gngraph.Problem(data | {"src": src.flip(0)}, "next-token", device="cpu")
    assert digest(other.samples) != digest(problem.samples)


def test_pictures_with_numbers_are_grown_augmented_and_shrunk() -> None:
    image, meta, y = pictures()
    graph, seen = graph_of(Described, image, meta), list[tuple[str, ...]]()

    def noisy(x: Any, y: Tensor) -> Any:
        seen.append(tuple(x))
        return {name: part + 0.1 * torch.randn_like(part) for name, part in x.items()}, y

    problem = gngraph.Problem({"meta": meta, "image": image, "label": y}, device="cpu", augment=noisy)
    result = gngraph.grow(graph, problem, max_params=330, **SHORT)
    assert graph.num_params() < result.graph.num_params() <= 330 and set(seen) == {("meta", "image")}
    smaller = gngraph.shrink(graph, problem, to=0.8)
    assert smaller.graph.num_params() < graph.num_params()
    with pytest.raises(DataError, match="samples of one input, but these have several"):
        gngraph.grow(graph, gngraph.Problem(((image, meta), y), device="cpu", augment="mixup"), max_params=330)


def test_masks_of_samples_go_by_their_names_as_in_hugging_faces_tables() -> None:
    ids = texts()[0]
    mask = (torch.arange(SOURCE) < torch.arange(COUNT).view(-1, 1) % SOURCE + 1).long()
    table = Table(input_ids=ids.tolist(), attention_mask=mask.tolist(), label=(ids[:, 0] % 3).tolist())
    model = made(Padded)
    optimizer = torch.optim.AdamW(model.parameters())
    grower = gngraph.Grower(model, table, max_params=300, rounds=1)
    step = grower.step(optimizer)
    assert step and step.after.params > step.before.params
    assert model(mask[:2], ids[:2]).shape == (2, 3)
    problem = gngraph.Problem(((mask, ids), ids[:, 0] % 3), device="cpu")
    rows = gngraph.Problem(table, device="cpu")
    graph = gngraph.from_torch(model, (mask[:2], ids[:2]))
    assert evaluate(graph, problem, problem.samples) == evaluate(graph, rows, rows.samples)


def test_a_network_is_given_its_inputs_in_its_own_order() -> None:
    image, meta, y = pictures()
    problem = gngraph.Problem({"meta": meta, "image": image, "y": y}, device="cpu")
    graph = graph_of(Described, image, meta)
    x, _ = next(problem.runner.read(problem.samples, graph))
    assert [part.shape[1:] for part in each(x)] == [image.shape[1:], meta.shape[1:]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda i, m, y: (i, y), "takes 'image', 'meta' of each sample, but the data has 1 input without names"),
        (lambda i, m, y: ((m, i), y), "takes 'image' of shape '3x6x6', but the data has it of shape '4'"),
        (lambda i, m, y: {"img": i, "meta": m, "y": y}, "but the data has 'img', 'meta'"),
        (lambda i, m, y: {"image": i, "meta": m}, "one of them must be called label, labels, target"),
        (lambda i, m, y: ((i, m[:5]), y), "inputs of '60' samples and of '5'"),
        (lambda i, m, y: ((i, m / 0), y), "'x.1' holds"),
        (lambda i, m, y: Samples(*zip(i, map(str, m), y, strict=True)), "input '1' becomes a 'tuple'"),
        (lambda i, m, y: Samples(*zip(i, strict=True)), "a sample is 1 entry"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(data: Any, message: str) -> None:
    image, meta, y = pictures()
    with pytest.raises(DataError, match=message):
        gngraph.grow(graph_of(Described, image, meta), data(image, meta, y), max_params=330)


def test_a_grower_says_which_inputs_its_model_does_not_take() -> None:
    image, meta, y = pictures()
    with pytest.raises(DataError, match="forward of 'Described' does not take"):
        gngraph.Grower(made(Described), {"image": image, "size": meta, "y": y}, max_params=330)
    with pytest.raises(UnsupportedModelError, match="takes the inputs"):
        gngraph.Grower(made(Described), (image, y), max_params=330)
