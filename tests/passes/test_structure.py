"""Passes that change what layers are: exact where they say so, nearest where not, and complete networks in every form."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import gngraph
from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import cost
from gngraph.analysis.equivalence import relative_error
from gngraph.analysis.manager import AnalysisManager
from gngraph.deploy.to_onnx import export_onnx
from gngraph.errors import IRError, PassError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph, format_graph, parse, same_structure
from gngraph.lowering.to_torch import to_torch
from gngraph.ops import draft_of
from gngraph.rewrite import Factorise, InsertNorm, ResizeKernel, morph
from gngraph.running.problem import Problem
from gngraph.scoring.factors import low_rank, narrowed, separable
from gngraph.scoring.layer_moments import output_moments, patch_moments, patches
from gngraph.source.export import export_source
from gngraph.training.optimizer_state import OptimizerState, carry_state
from tests.passes.test_insert_layer import state_keys
from tests.small_networks import build, conv_block, imported

EXACT = (
    ("residual", "widen-kernel{at=*,kernel=5}"),
    ("two outputs", "insert-squeeze-excite{at=*,reduction=2}"),
    ("layer scale", "insert-skip{at=*}"),
    ("residual", "separable{at=*}|collapse-layers{at=*pointwise}"),
    ("shared module", "low-rank{at=*,rank=2}|collapse-layers{at=*expand}"),
)
"""Networks, and passes of which the last preserves the function."""

CONVOLUTIONS = [
    nn.Conv2d(4, 6, 3, padding=1),
    nn.Conv2d(4, 6, (3, 5), stride=2, padding=(1, 4), dilation=(1, 2)),
    nn.Conv2d(4, 6, 3, padding="same", dilation=2),
    nn.Conv2d(4, 6, 3, padding=1, groups=2, padding_mode="circular"),
    nn.Conv2d(4, 8, 3, padding=1, groups=4, padding_mode="reflect"),
    nn.Conv2d(4, 6, 3, padding=3, bias=False),
    nn.Conv1d(4, 6, 3, padding=2),
]
"""Convolutions of every kind, over 4 channels."""


class Chain(nn.Module):
    """Convolutions of one width, the first of which has a norm, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.head = conv_block(3, 6), nn.Conv2d(6, 6, 3, padding=1), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(torch.relu(self.inner(self.stem(x))).mean((2, 3)))  # type: ignore[no-any-return]


def chain() -> Graph:
    torch.manual_seed(0)
    network = Chain()
    network(torch.randn(16, 3, 8, 8))
    return from_torch(network.eval(), torch.randn(2, 3, 8, 8)).to(torch.float64)


def data(dtype: torch.dtype = torch.float64) -> AnalysisManager:
    """Samples whose channels and positions depend on one another, as those of pictures do."""
    generator = torch.Generator().manual_seed(0)
    x = F.avg_pool2d(torch.randn(240, 3, 10, 10, generator=generator, dtype=torch.float64), 3, 1)
    x = torch.einsum("oc,nchw->nohw", torch.randn(3, 3, generator=generator, dtype=torch.float64), x) + 0.3
    return AnalysisManager(Problem((x.to(dtype), torch.arange(240) % 3), device="cpu", learn=80, judge=80, report=80))


def applied(graph: Graph, passes: str, analyses: AnalysisManager | None = None) -> Graph:
    return gngraph.PassManager(passes, analyses).run(graph).graph


@pytest.mark.parametrize(("name", "passes"), EXACT)
def test_what_preserves_is_exact_and_complete_in_every_form(name: str, passes: str, tmp_path: Path) -> None:
    module, example = build(name)
    before = graph = from_torch(module, example).to(torch.float64)
    for step in passes.split("|"):
        before, graph = graph, applied(graph, step)
    assert relative_error(before, graph) < 1e-13
    spaces = ChannelSpaces.of(graph)
    assert "|" in passes or len(spaces.free) >= len(ChannelSpaces.of(before).free) - passes.count("skip")
    again = gngraph.to_torch(graph)
    assert list(again.state_dict()) == state_keys(graph)
    assert same_structure(parse(format_graph(graph)), graph)
    gngraph.save(graph, tmp_path / "network.gng")
    assert relative_error(gngraph.load(tmp_path / "network.gng"), graph) == 0.0
    export_source(graph, tmp_path)  # runs what it wrote, and compares
    traced = from_torch(again, example.double())
    assert cost(traced) == cost(graph) and state_keys(traced) == state_keys(graph)
    assert gngraph.diff(before, graph).render()


@pytest.mark.parametrize("layer", CONVOLUTIONS, ids=str)
def test_wider_kernels_give_the_same_and_narrow_back(layer: nn.Module) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, *[12] * (layer.weight.dim() - 2), dtype=torch.float64)  # type: ignore[operator]
    graph = from_torch(nn.Sequential(layer, nn.ReLU()).double(), x)
    kernel = tuple(graph.params["0.weight"].data.shape[2:])
    name, spaces = next(iter(set(graph.nodes) & {"_0"})), ChannelSpaces.of(graph)
    wide = morph(graph, spaces, [ResizeKernel(name, tuple(size + 2 for size in kernel))])
    assert relative_error(graph, wide.graph) < 1e-14 and cost(wide.graph).flops > cost(graph).flops
    back = morph(wide.graph, ChannelSpaces.of(wide.graph), [ResizeKernel(name, kernel)]).graph
    assert back.nodes[name].type == graph.nodes[name].type
    assert torch.equal(back.params["0.weight"].data, graph.params["0.weight"].data)
    state = OptimizerState({"0.weight": {"momentum_buffer": torch.ones_like(graph.params["0.weight"].data)}})
    carried = carry_state(state, graph, wide).entries["0.weight"]["momentum_buffer"]
    assert carried.shape == wide.graph.params["0.weight"].data.shape
    assert float(carried.sum()) == graph.params["0.weight"].data.numel()


@pytest.mark.parametrize("layer", CONVOLUTIONS, ids=str)
def test_patches_are_what_a_convolution_multiplies(layer: nn.Module) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4, *[12] * (layer.weight.dim() - 2), dtype=torch.float64)  # type: ignore[operator]
    graph = from_torch(nn.Sequential(layer).double(), x)
    node = next(node for node in graph.nodes.values() if node.params)
    found = patches(node, x, layer.weight)  # type: ignore[arg-type]
    rows = layer.weight.flatten(1).reshape(found.shape[0], -1, found.shape[1])  # type: ignore[operator]
    given = layer(x) if layer.bias is None else layer(x) - layer.bias.view(-1, *[1] * (x.dim() - 2))  # type: ignore[operator]
    torch.testing.assert_close((rows @ found).flatten(0, 1), given.transpose(0, 1).flatten(1))


class Called(nn.Module):
    """A convolution by torch's function, with one number for all axes."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 4, 3))
        self.last = nn.Conv1d(6, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(F.relu(F.conv1d(x, self.weight, stride=2, padding=1, dilation=1)))  # type: ignore[no-any-return]


@pytest.mark.parametrize("text", ["low-rank{at=conv1d,rank=3}", "separable{at=conv1d}"])
def test_factors_of_a_call_are_modules_as_torch_has_them(text: str) -> None:
    torch.manual_seed(0)
    graph = applied(from_torch(Called().double(), torch.randn(2, 4, 9, dtype=torch.float64)), text)
    again = from_torch(to_torch(graph), torch.randn(2, 4, 9, dtype=torch.float64))
    assert format_graph(again).splitlines()[1:] == format_graph(graph).splitlines()[1:]


def test_a_lower_rank_loses_what_the_directions_that_go_carry() -> None:
    graph, analyses = chain(), data()
    given = output_moments(graph, analyses, ["inner"])["inner"]
    values = torch.linalg.eigvalsh(given.covariance)
    for rank in (2, 4, 6):
        morphism = low_rank(graph, "inner", rank, given)
        smaller = morph(graph, ChannelSpaces.of(graph), [morphism]).graph
        lost = squared_error(graph, smaller, "inner", "inner_expand", analyses)
        assert lost == pytest.approx(float(values[: 6 - rank].sum()), rel=1e-6, abs=1e-12)
        plain = morph(graph, ChannelSpaces.of(graph), [low_rank(graph, "inner", rank, None)]).graph
        assert rank == 6 or squared_error(graph, plain, "inner", "inner_expand", analyses) > 1.02 * lost
    assert morphism.record() == {"kind": "low-rank", "at": "inner", "between": 6}
    space = ChannelSpaces.of(smaller)["inner.reduce"]
    assert space.size == 6 and space.frozen is None
    assert list(smaller.params).index("inner.expand.bias") + 1 == list(smaller.params).index("head.weight")


def test_a_metric_says_which_directions_count() -> None:
    graph, analyses = chain(), data()
    given = output_moments(graph, analyses, ["inner"])["inner"]
    metric = torch.zeros(6, 6, dtype=torch.float64)
    metric[2, 2] = 1e6
    smaller = morph(graph, ChannelSpaces.of(graph), [low_rank(graph, "inner", 1, given, metric)]).graph
    before, after = (_values(g, name, analyses)[:, 2] for g, name in ((graph, "inner"), (smaller, "inner_expand")))
    assert float((before - after).square().mean()) < 0.02 * float(before.var())
    with pytest.raises(PassError, match="takes factors of"):
        morph(
            graph,
            ChannelSpaces.of(graph),
            [Factorise("inner", "low-rank", torch.zeros(2, 5, 3, 3), torch.zeros(6, 2, 1, 1))],
        )


def test_what_is_separable_is_found_so_and_the_rest_is_nearest() -> None:
    graph, analyses = chain(), data()
    read = patch_moments(graph, analyses, "inner")
    spaces = ChannelSpaces.of(graph)
    learned = morph(graph, spaces, [separable(graph, "inner", read)]).graph
    plain = morph(graph, spaces, [separable(graph, "inner", None)]).graph
    lost, more = (squared_error(graph, g, "inner", "inner_pointwise", analyses) for g in (learned, plain))
    assert 0 < lost < 0.9 * more
    whole = applied(learned, "collapse-layers{at=inner.pointwise}")
    assert list(whole.params) == list(graph.params) and relative_error(learned, whole) < 1e-13
    found = morph(
        whole, ChannelSpaces.of(whole), [separable(whole, "inner", patch_moments(whole, analyses, "inner"))]
    ).graph
    assert squared_error(whole, found, "inner", "inner_pointwise", analyses) < 1e-6 * lost


def test_a_narrower_kernel_makes_up_for_what_it_no_longer_sees() -> None:
    graph, analyses = chain(), data()
    spaces, read = ChannelSpaces.of(graph), patch_moments(graph, analyses, "inner")
    learned, cut = (morph(graph, spaces, [narrowed(graph, "inner", (1, 1), m)]).graph for m in (read, None))
    assert torch.equal(cut.params["inner.weight"].data, graph.params["inner.weight"].data[:, :, 1:2, 1:2])
    assert cut.nodes["inner"].attrs["padding"] == (0, 0)
    assert squared_error(graph, learned, "inner", "inner", analyses) < 0.8 * squared_error(
        graph, cut, "inner", "inner", analyses
    )
    network = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1, groups=3), nn.Flatten(), nn.Linear(192, 3)).double()
    depthwise = from_torch(network, torch.zeros(2, 3, 8, 8, dtype=torch.float64))
    assert applied(depthwise, "narrow-kernel{at=0}", analyses).params["0.weight"].data.shape == (3, 1, 1, 1)


def _values(graph: Graph, name: str, analyses: AnalysisManager) -> torch.Tensor:
    module, learn = gngraph.to_torch(graph), analyses.problem.splits.learn
    x = torch.stack([learn[i][0] for i in range(len(learn))]).to(torch.float64)
    found: list[torch.Tensor] = []
    module.get_submodule(graph.nodes[name].module or "").register_forward_hook(lambda m, a, y: found.append(y.detach()))
    module(x)
    return found[0]


def squared_error(before: Graph, after: Graph, one: str, other: str, analyses: AnalysisManager) -> float:
    """Squared difference of what a layer gives, summed over channels, mean over samples and positions."""
    difference = _values(before, one, analyses) - _values(after, other, analyses)
    return float(difference.square().sum(1).mean())


def test_a_norm_gives_what_it_reads_and_in_train_mode_what_the_batch_says() -> None:
    graph, analyses = chain(), data()
    normed = applied(graph, "insert-norm{at=*}", analyses)
    assert [n.name for n in normed.nodes.values() if n.op == "batch_norm2d"] == ["stem_1", "norm1"]
    assert relative_error(graph, normed) < 1e-13
    learn = analyses.problem.splits.learn
    x = torch.stack([learn[i][0] for i in range(80)]).double()
    before, after = gngraph.to_torch(graph).eval(), gngraph.to_torch(normed).eval()
    after.get_submodule("norm1").train()
    torch.testing.assert_close(after(x), before(x))  # the batch is all samples of which the statistics are
    assert float((after(x[:4]) - before(x[:4])).detach().abs().max()) > 1e-4
    small = applied(graph.to(torch.float32), "insert-norm{at=inner}", data(torch.float32))
    assert 0 < relative_error(graph.to(torch.float32), small) < 1e-6
    with pytest.raises(PassError, match="it has 6 channels, but the statistics are of 5"):
        morph(graph, ChannelSpaces.of(graph), [InsertNorm("inner", torch.zeros(5), torch.ones(5))])


def test_a_skip_connection_that_goes_leaves_what_was_before_it_came() -> None:
    graph = chain()
    skipped = applied(graph, "insert-skip{at=inner}")
    assert list(skipped.params)[-3:] == ["head.weight", "head.bias", "skip1.scale"]
    spaces = ChannelSpaces.of(skipped)
    assert spaces.axes["inner.weight", 0][0][0] == spaces.axes["stem.0.weight", 0][0][0]
    assert same_structure(applied(skipped, "remove-skip{at=skip1_add}"), graph)
    around = applied(skipped, "insert-skip{at=inner,source=stem.0}")
    assert around.nodes["skip2_mul"].inputs[0] == "stem_2"
    skipped = skipped.with_params({"skip1.scale": torch.ones_like(skipped.params["skip1.scale"].data)})
    assert relative_error(skipped, graph) > 1e-2


def test_a_residual_layer_adds_what_it_reads() -> None:
    graph = chain()
    made = applied(graph, "make-residual{at=inner}")
    exact = applied(graph, "insert-skip{at=inner}")
    ones = {"skip1.scale": torch.ones_like(exact.params["skip1.scale"].data)}
    assert relative_error(exact.with_params(ones), made) < 1e-12 < relative_error(graph, made)


def test_a_stride_makes_all_maps_behind_it_coarser() -> None:
    graph = chain()
    made = applied(graph, "change-stride{at=stem.0}")
    assert [made.nodes[name].shape[2:] for name in ("stem_0", "inner")] == [(4, 4), (4, 4)]
    assert same_structure(applied(made, "change-stride{at=stem.0,stride=1}"), graph)
    assert relative_error(graph, made) > 1e-3


class Twice(nn.Module):
    """A convolution that runs twice, with one stride."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.head(self.layer(torch.relu(self.layer(x))).mean((2, 3)))
        return y


def test_a_module_that_runs_twice_has_one_stride() -> None:
    graph = from_torch(Twice().eval(), torch.randn(2, 3, 8, 8))
    with pytest.raises(PassError, match=r"'layer\.weight' is also that of 'layer_1'"):
        applied(graph, "change-stride{at=layer}")
    draft = draft_of(graph)
    draft.set_attrs("layer_1", stride=(2, 2))
    with pytest.raises(IRError, match="'layer_1' and another are both module 'layer', but not of the same attributes"):
        to_torch(draft.commit())


def test_a_stride_stops_at_what_was_recorded_for_maps_of_one_extent() -> None:
    class Foreign(Chain):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.stem(x)
            return self.head(torch.relu(self.inner(torch.rsub(y, y * y))).mean((2, 3)))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    graph = from_torch(Foreign().eval(), torch.randn(2, 3, 8, 8))
    with pytest.raises(PassError, match=r"nothing says what 'torch.rsub' \(node 'rsub'\) gives of them"):
        applied(graph, "change-stride{at=stem.0}")


@pytest.mark.parametrize("tracked", [False, True])
def test_a_stride_leaves_a_norm_within_a_sample_something_to_count(tracked: bool) -> None:
    torch.manual_seed(0)
    norm = nn.InstanceNorm2d(4, track_running_stats=tracked)
    small = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), norm, nn.Conv2d(4, 2, 2), nn.Flatten())
    graph = from_torch(small.eval(), torch.randn(2, 3, 2, 2))
    with pytest.raises(PassError, match=r"'_1' \(instance_norm2d\) normalises '.*', which has one position"):
        applied(graph, "change-stride{at=0}")


def test_all_of_it_at_once_trains_and_survives_onnx(tmp_path: Path) -> None:
    graph, analyses = chain().to(torch.float32), data(torch.float32)
    text = "insert-norm{at=inner},insert-skip{at=inner},insert-squeeze-excite{at=inner},widen-kernel{at=inner,kernel=5}"
    graph = applied(graph, f"{text},low-rank{{at=inner,rank=3}},separable{{at=stem.0}},split-channels", analyses)
    export_onnx(graph, tmp_path / "network.onnx")
    module = gngraph.to_torch(graph).train()
    module(torch.randn(4, 3, 8, 8)).square().sum().backward()
    for name in (
        "skip1.scale",
        "squeeze_excite1.excite.weight",
        "inner.reduce.weight",
        "inner.expand.weight",
        "norm1.weight",
    ):
        gradient = module.get_parameter(name).grad
        assert gradient is not None and bool(gradient.abs().max() > 0), name


@pytest.mark.parametrize(
    ("passes", "told"),
    [
        ("low-rank{rank=2}", r"does not say which layer changes: name it, such as low-rank\{at=stem.0\}"),
        ("low-rank{at=iner}", "found no layer that matches 'iner'; did you mean 'inner'"),
        ("low-rank{at=inner,rank=7}", "'inner' because its rank is at most 6"),
        ("low-rank{at=inner,rank=0}", "'rank' of pass 'low-rank' is '0', but must be at least 1"),
        ("separable{at=head}", "'head' because it has no kernel to be separated"),
        ("widen-kernel{at=inner,kernel=4}", "none of 4 x 4 has the same middle"),
        ("widen-kernel{at=inner,kernel=3}", "its kernel is 3 x 3 already"),
        ("widen-kernel{at=head}", "'head' because it is no convolution"),
        ("narrow-kernel{at=inner,kernel=5}", "its kernel of 3 x 3 is smaller; use widen-kernel"),
        ("insert-norm{at=inner}", "takes its statistics from data, but no data was given"),
        ("insert-norm{at=stem.0}", "'stem.1' normalises it already"),
        ("change-stride{at=inner,stride=1}", "'inner' because its stride is 1 x 1 already"),
        ("change-stride{at=head}", "'head' because it is no convolution"),
        ("insert-skip{at=stem.0}", "do not have their channels along one and the same axis"),
        ("insert-skip{at=inner,source=stm.0}", "finds no source 'stm.0'; did you mean 'stem.0'"),
        ("insert-squeeze-excite{at=head}", "with no maps of channels along axis 1"),
        ("collapse-layers{at=inner}", "'inner' because 'stem.2' is no convolution or linear layer"),
        ("remove-skip{at=*}", "finds nothing in 'Chain' that it could change"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(passes: str, told: str) -> None:
    with pytest.raises(PassError, match=told):
        applied(chain(), passes)


def test_what_others_read_too_keeps_its_shape() -> None:
    shared = imported("shared module")
    twice = next(
        n for n in shared.nodes.values() if "weight" in n.params and len(shared.readers(n.params["weight"])) > 1
    )
    with pytest.raises(PassError, match=r"stays as it is: its '.*weight' is also that of"):
        morph(shared, ChannelSpaces.of(shared), [ResizeKernel(twice.name, (5, 5))])
    with pytest.raises(PassError, match="has no node 'twise' to change"):
        morph(shared, ChannelSpaces.of(shared), [ResizeKernel("twise", (5, 5))])
