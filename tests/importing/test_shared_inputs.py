"""Inputs that all samples share: told from those of samples, exact for any values, and kept as the example has them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import gngraph
from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.equivalence import relative_error
from gngraph.analysis.share import share_free_both_ways, share_in_free_spaces
from gngraph.analysis.topology import dominating_values
from gngraph.deploy.to_onnx import export_onnx
from gngraph.deploy.to_pt2 import export_pt2
from gngraph.errors import DataError, IRError, UnsupportedModelError
from gngraph.importing.from_torch import from_torch
from gngraph.ir.inputs import over_samples, values_of_shared
from gngraph.ir.text import format_graph, parse
from gngraph.lowering.to_torch import to_torch
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.morphism import NewChannel, PruneChannel
from gngraph.source.export import export_source
from tests.local_errors import KeptValues
from tests.shared_networks import LENGTH, NETWORKS, WORDS, Attention, Encoder, Seq2Seq, Warm, built, causal, rows, words
from tests.training_steps import Trial


def other_masks(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The same samples with masks that are not the causal one."""
    return tuple(torch.randn_like(x) if x.shape == (LENGTH, LENGTH) else x for x in inputs)


@pytest.fixture
def without_fast_path() -> Iterator[None]:
    """Torch's fused layers take a mask of numbers for one of flags, and give what is not a number."""
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(True)


@pytest.mark.usefixtures("without_fast_path")
@pytest.mark.parametrize("name", NETWORKS)
def test_they_are_told_and_whatever_they_are_the_graph_computes_and_trains_the_same(name: str) -> None:
    (module, example), case = built(name), NETWORKS[name]
    graph = from_torch(module, example)
    shared = {n: str(graph.nodes[n].type) for n in values_of_shared(graph)}
    assert shared == case.shared and all(p.kind == "constant" for n, p in graph.params.items() if n.endswith("_value"))
    lowered = to_torch(graph)
    assert list(inspect.signature(lowered.forward).parameters) == list(inspect.signature(module.forward).parameters)
    assert list(lowered.state_dict()) == list(module.state_dict()) and not list(lowered.buffers())
    batches = [case.inputs(2), other_masks(case.inputs(1)), other_masks(case.inputs(4))]
    module.eval()
    for batch in batches:
        assert torch.equal(lowered(*batch), module(*batch))
    assert list(Trial(batches, of_inputs=False).differences(module, lowered)) == []


@pytest.mark.parametrize("name", [name for name, case in NETWORKS.items() if case.making])
def test_as_much_is_free_and_changes_are_as_exact_as_where_the_forward_makes_them(name: str) -> None:
    module, example = built(name)
    case = NETWORKS[name]
    graph, own = from_torch(module, example), from_torch(cast(Any, case.making)(), case.inputs(3)[_samples(name)])
    spaces, others = ChannelSpaces.of(graph), ChannelSpaces.of(own)
    assert {s.name: s.size for s in spaces.free} == {s.name: s.size for s in others.free}
    for share in (share_in_free_spaces, share_free_both_ways):
        assert share(graph, spaces) == share(own, others)
    assert [*dominating_values(graph)][-1] == [*dominating_values(own)][-1]
    kept = KeptValues(graph, spaces)
    for space in spaces.free:
        errors = kept.errors(space.name, 0)
        found = [errors.split, errors.new, *([errors.prune] if errors.prune else [])]
        assert all(error <= 1e-10 for error, _ in found), (space.name, found)
        wider = morph(graph, spaces, [NewChannel(space.name), NewChannel(space.name)]).graph
        assert relative_error(graph, wider) < 1e-7 and wider.inputs == graph.inputs


def _samples(name: str) -> Any:
    """Of the inputs of a network, those that the one which makes the others takes."""
    return {"attention": slice(1, 2), "translation": slice(0, 2)}.get(name, slice(0, 1))


def test_what_passes_every_path_does_not_pass_a_mask() -> None:
    graph = from_torch(*built("encoder"))
    assert {"embedding", "encoder_layers_0_norm1"} <= set(dominating_values(graph))


@pytest.mark.parametrize("n", [LENGTH, 1])
def test_as_many_samples_as_a_mask_has_rows_are_told_apart_by_other_numbers_of_them(n: int) -> None:
    graph = from_torch(Encoder(), (words(n), causal()))
    assert [str(graph.nodes[name].type) for name in graph.inputs] == [f"i64[N,{LENGTH}]", f"f32[{LENGTH},{LENGTH}]"]


class Added(nn.Module):
    """Two inputs that may both have an entry for each sample."""

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x * 2, y * 3


class Compared(nn.Module):
    """Queries with documents that all of them share."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.d = nn.Linear(5, 4), nn.Linear(5, 4)

    def forward(self, queries: Tensor, documents: Tensor) -> Tensor:
        return cast(Tensor, self.q(queries) @ self.d(documents).t())


def test_what_the_output_has_one_of_each_for_are_the_samples() -> None:
    graph = from_torch(Compared(), (torch.randn(3, 5), torch.randn(7, 5)))
    assert [str(graph.nodes[name].type) for name in graph.inputs] == ["f32[N,5]", "f32[7,5]"]


def translated(n: int) -> tuple[Tensor, ...]:
    """Inputs of a translation of `n` samples from 5 words to 6."""
    padding = torch.zeros(n, 5).bool()
    padding[0, -1] = True
    masks = torch.zeros(5, 5).bool(), causal().isinf(), padding, torch.zeros(n, LENGTH).bool()
    return words(n)[:, :5].t(), words(n).t(), *masks


def test_samples_may_lie_behind_tokens_of_one_input_and_before_those_of_another() -> None:
    torch.manual_seed(0)
    module = Seq2Seq().eval()
    graph = from_torch(module, translated(3))
    types = [str(graph.nodes[name].type) for name in graph.inputs]
    assert types == ["i64[5,N]", "i64[6,N]", "bool[5,5]", "bool[6,6]", "bool[N,5]", "bool[N,6]"]
    assert {"embedding", "transformer.decoder.layers.0.multihead_attn"} <= {
        s.name for s in ChannelSpaces.of(graph).free
    }
    batch = translated(2)
    assert torch.equal(to_torch(graph)(*batch), module(*batch))


def test_a_graph_over_samples_takes_and_gives_them_in_front() -> None:
    module, (src, mask) = built("tokens first")
    held = over_samples(from_torch(module, (src, mask)))
    assert [str(held.nodes[name].type) for name in (*held.inputs, *held.outputs)] == ["i64[N,6]", "f32[N,6,11]"]
    assert torch.equal(to_torch(held)(src.t()), module.eval()(src, mask).transpose(0, 1))
    assert over_samples(held) is held


@pytest.mark.parametrize(
    ("make", "inputs", "says"),
    [
        (Added, (torch.randn(2, 3), torch.randn(5, 3)), "'x' of 'Added' may be .* and so may 'y'"),
        (Warm, (torch.randn(2, 5), torch.randn(7, 1)[:3]), "does not run"),
    ],
)
def test_what_cannot_be_told_is_refused_with_what_to_do(
    make: Callable[[], nn.Module], inputs: tuple[Tensor, ...], says: str
) -> None:
    with pytest.raises(UnsupportedModelError, match=says):
        from_torch(make(), inputs)


def test_their_sizes_are_held() -> None:
    lowered = to_torch(from_torch(*built("encoder")))
    with pytest.raises(DataError, match="'src_mask' must have 6 entries along axis 0"):
        lowered(words(2)[:, :4], causal()[:4, :4])


@pytest.mark.parametrize("name", ["gpt", "scalar", "tokens first"])
def test_text_archive_source_and_files_of_other_runtimes_have_them(name: str, tmp_path: Path) -> None:
    module, example = built(name)
    graph = from_torch(module, example)
    assert format_graph(parse(format_graph(graph))) == format_graph(graph)
    gngraph.save(graph, tmp_path / "net.gng")
    again = gngraph.load(tmp_path / "net.gng")
    assert gngraph.diff(graph, again).is_empty and relative_error(graph, again) == 0
    for held in values_of_shared(graph).values():
        assert torch.equal(again.params[held].data, graph.params[held].data)
    code = export_source(graph, tmp_path / "source").model.read_text()
    assert "for all samples" in code and "_value" not in code
    export_pt2(graph, tmp_path / "net.pt2")


def test_an_onnx_file_takes_any_number_of_samples_beside_one_mask(tmp_path: Path) -> None:
    module, example = built("attention")
    graph = from_torch(module, example)
    report = export_onnx(graph, tmp_path / "net.onnx", samples=rows(5))
    assert report.parity.batches == (1, 3, 5)
    session = pytest.importorskip("onnxruntime").InferenceSession(tmp_path / "net.onnx")
    shapes = {entry.name: entry.shape for entry in session.get_inputs()}
    assert shapes == {"mask": [LENGTH, LENGTH], "x": ["batch", LENGTH, 5]}
    mask, x = torch.randn(LENGTH, LENGTH), rows(4)
    (found,) = session.run(None, {"mask": mask.numpy(), "x": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), module.eval()(mask, x), atol=1e-5, rtol=1e-4)


def test_a_graph_over_samples_holds_the_values_and_changes_nothing_else() -> None:
    module, example = built("attention")
    graph = from_torch(module, example)
    held = over_samples(graph)
    assert held.inputs == ("x",) and over_samples(graph) is held and over_samples(held) is held
    assert torch.equal(to_torch(held)(example[1]), module.eval()(*example))
    other = torch.randn(LENGTH, LENGTH)
    changed = over_samples(graph.with_params({"mask_value": other}))
    assert torch.equal(to_torch(changed)(example[1]), module(other, example[1]))
    assert {s.name: s.size for s in ChannelSpaces.of(held).free} == {
        s.name: s.size for s in ChannelSpaces.of(graph).free
    }


def test_text_whose_values_do_not_fit_is_refused() -> None:
    text = format_graph(from_torch(Warm(), (torch.randn(2, 5), torch.tensor([2.0]))))
    graph = parse(text.replace("constant @temperature_value : f32[1]", "constant @temperature_value : f32[2]"))
    with pytest.raises(IRError, match="its value is of 'f32\\[2\\]'"):
        to_torch(graph.with_params({name: torch.zeros(p.data.shape) for name, p in graph.params.items()}))


class Masked(Attention):
    """A module with a buffer of the name that the values would have."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mask_value", torch.ones(WORDS))


def test_their_values_hide_nothing_of_the_module() -> None:
    graph = from_torch(Masked(), (causal(), rows(3)))
    assert values_of_shared(graph) == {"mask": "mask_value_"} and len(graph.params["mask_value"].data) == WORDS


def test_pruning_promises_hold_by_the_values_of_the_example() -> None:
    graph = from_torch(*built("gpt"))
    spaces = ChannelSpaces.of(graph)
    smaller = morph(graph, spaces, [PruneChannel("blocks.0.mlp.0", 1)]).graph
    assert gngraph.PassManager("cleanup").run(smaller).graph.inputs == ("idx", "positions", "mask")
