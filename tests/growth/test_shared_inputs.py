"""Networks with inputs that all samples share, on data that has samples alone: scored, grown and exported, and grown in place."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

import gngraph
from gngraph.deploy.parity import running
from gngraph.deploy.to_onnx import export_onnx
from gngraph.errors import DataError, OptionError
from gngraph.running.deployed import accuracy_outside
from gngraph.running.evaluation import evaluate, mean_loss
from tests.command_line import Commands
from tests.shared_networks import LENGTH, WORDS, Attention, Gpt, Warm, built, causal, rows, words


def language() -> gngraph.Problem:
    """Words, each behind its predecessor."""
    x = words(48)
    return gngraph.Problem((x, (x + 1) % WORDS), "next-token", device="cpu")


def classes() -> gngraph.Problem:
    """Vectors whose mean tells the class."""
    y = torch.arange(48) % 3
    return gngraph.Problem((rows(48) + y.view(-1, 1, 1), y), device="cpu")


def test_candidates_are_scored_as_where_a_buffer_holds_the_mask() -> None:
    class Held(Attention):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("held", torch.randn(LENGTH, LENGTH, generator=torch.Generator().manual_seed(1)))

        def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
            return super().forward(self.get_buffer("held"), x)

    torch.manual_seed(0)
    held, plain = Held(), Attention()
    plain.load_state_dict(held.state_dict(), strict=False)
    problem, found = classes(), []
    for graph in (
        gngraph.from_torch(held, rows(2)),
        gngraph.from_torch(plain, (held.get_buffer("held"), rows(2))),
    ):
        analyses = gngraph.AnalysisManager(problem)
        scores = analyses.get(gngraph.GaussNewton(kinds=("split", "prune", "new", "merge")), graph)
        found.append({str(c.morphism): c.gain for c in scores.candidates})
        found[-1]["loss"] = mean_loss(graph, problem, problem.test)
    assert found[0].keys() == found[1].keys() and found[0] == pytest.approx(found[1], rel=1e-4, abs=1e-6)


def test_a_run_trains_by_the_values_of_the_example_and_keeps_the_signature(tmp_path: Path) -> None:
    module, example = built("gpt")
    graph, problem = gngraph.from_torch(module, example), language()
    result = gngraph.grow(
        graph,
        problem,
        max_params=1600,
        rounds=1,
        epochs=2,
        final_epochs=2,
        out=tmp_path / "run",
        kinds=("split", "new"),
    )
    assert result.graph.num_params() > graph.num_params() and result.history[-1]["loss"] < 2.6
    loaded = gngraph.load(tmp_path / "run" / "model.gng")
    grown = gngraph.to_torch(loaded)
    assert loaded.inputs == graph.inputs
    for held in ("positions_value", "mask_value"):
        assert torch.equal(loaded.params[held].data, graph.params[held].data)
    x = problem.data.train.x[:5]
    early, late = x.clone(), x.clone()
    late[:, -1] = (late[:, -1] + 1) % WORDS
    _, positions, mask = example
    with torch.no_grad():
        seen, unseen = (grown(y, positions, mask)[:, :-1] for y in (early, late))
        torch.testing.assert_close(seen, unseen)
        assert not torch.allclose(grown(early, positions, torch.ones_like(mask))[:, 0], seen[:, 0])


def test_data_is_batch_first_for_a_network_with_tokens_in_front_too(tmp_path: Path) -> None:
    module, (src, mask) = built("tokens first")
    graph, problem = gngraph.from_torch(module, (src, mask)), language()
    result = gngraph.grow(
        graph, problem, max_params=1700, rounds=1, epochs=1, final_epochs=1, depth="keep", out=tmp_path / "run"
    )
    assert result.graph.num_params() > graph.num_params()
    assert gngraph.to_torch(result.graph)(src, mask).shape == (LENGTH, 3, WORDS)
    report = export_onnx(result.graph, tmp_path / "net.onnx", samples=words(4))
    assert report.parity.batches == (1, 3, 4)
    run = running(gngraph.to_torch(result.graph))
    assert accuracy_outside(run, result.graph, problem) == evaluate(result.graph, problem, problem.test)[1]
    grower = gngraph.Grower(module, problem, example_inputs=(src, mask), max_params=1700, rounds=1)
    assert grower.step()


@pytest.mark.parametrize("name", ["gpt", "temperature"])
def test_a_grower_takes_them_as_example_inputs(name: str) -> None:
    module, example = built(name)
    problem = language() if name == "gpt" else classes()
    if name == "temperature":
        problem = gngraph.Problem((torch.randn(48, 5), torch.arange(48) % 3), device="cpu")
    optimizer = torch.optim.AdamW(module.parameters())
    before = sum(p.numel() for p in module.parameters())
    grower = gngraph.Grower(module, problem, example_inputs=example, max_params=int(1.3 * before), rounds=1)
    step = grower.step(optimizer)
    assert step and step.after.params == sum(p.numel() for p in module.parameters()) > before
    others = (example[0][:2], *example[1:])
    assert module(*others).shape[0] == 2
    grower.undo()
    assert sum(p.numel() for p in module.parameters()) == before


def test_a_grower_of_torchs_encoder_widens_its_layers() -> None:
    module, example = built("encoder")
    grower = gngraph.Grower(module, language(), example_inputs=example, max_params=2000, rounds=1)
    assert not {"encoder.layers.0.linear1", "encoder.layers.1.linear1"} & grower.held.keys()
    step = grower.step()
    assert step and torch.isfinite(module(words(2), causal())).all()


def test_what_a_grower_does_not_take_is_refused() -> None:
    with pytest.raises(OptionError, match="the tensors that forward takes"):
        gngraph.Grower(Gpt(), language(), example_inputs=(words(2), None), max_params=2000)  # type: ignore[arg-type]


class Handing(Dataset[Any]):
    """Samples that hand over what they share."""

    def __len__(self) -> int:
        return 48

    def __getitem__(self, index: int) -> tuple[tuple[Tensor, Tensor], int]:
        return (torch.randn(5), torch.tensor(3.0)), index % 3


def test_data_that_hands_them_over_is_refused_and_not_passed_by() -> None:
    graph = gngraph.from_torch(Warm(), (torch.randn(2, 5), torch.tensor(2.0)))
    with pytest.raises(DataError, match=r"has 2 inputs without names.*'temperature', it has from the example"):
        gngraph.grow(graph, Handing(), max_params=100)


def test_data_of_one_input_is_refused_where_a_network_takes_two() -> None:
    graph = gngraph.from_torch(*built("translation"))
    with pytest.raises(DataError, match="takes 'src', 'tgt' of each sample, but the data has 1 input"):
        gngraph.grow(graph, language(), max_params=5000)


def test_a_factory_gives_example_inputs_beside_the_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "warm_factory.py").write_text(
        "import torch\n"
        "from tests.shared_networks import Warm\n\n\n"
        "def make():\n"
        "    return Warm(), (torch.randn(2, 5), torch.tensor(2.0))\n\n\n"
        "def data():\n"
        "    y = torch.arange(60) % 3\n"
        "    return torch.randn(60, 5) + y.view(-1, 1), y\n\n\n"
        "def wrong():\n"
        "    return 3, 4\n"
    )
    command = Commands(capsys)
    assert "f32[N,5], f32[]" in command("inspect", "warm_factory:make").out
    words_ = ("--max-params", 100, "--rounds", 1, "--epochs", 1, "--final-epochs", 1)
    done = command("grow", "warm_factory:make", "--data", "warm_factory:data", *words_, "-o", "run")
    assert done.status == 0, done.err
    assert command("evaluate", "run/model.gng", "--data", "warm_factory:data").status == 0
    assert command("verify", "run/model.onnx", "--against", "run/model.gng").status == 0
    refused = command("inspect", "warm_factory:wrong")
    assert refused.status == 1 and "or one and its example inputs" in refused.err


def test_numbers_of_samples_are_told_of_a_module_that_holds_its_parts() -> None:
    class Parts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.warm = Warm()

        def forward(self, batch: dict[str, Tensor], temperature: Tensor) -> Tensor:
            return cast(Tensor, self.warm(batch["x"], temperature))

    graph = gngraph.from_torch(Parts(), ({"x": torch.randn(3, 5)}, torch.tensor([2.0])))
    y = torch.arange(48) % 3
    result = gngraph.grow(graph, (torch.randn(48, 5), y), max_params=100, rounds=1, epochs=1, final_epochs=1)
    assert gngraph.to_torch(result.graph)({"x": torch.randn(2, 5)}, torch.tensor([1.0])).shape == (2, 3)
