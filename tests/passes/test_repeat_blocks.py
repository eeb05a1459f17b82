"""`repeat-blocks`: the network is that whose module list holds copies of its blocks behind them, and trains as that."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import gngraph
from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.manager import AnalysisManager
from gngraph.errors import PassError
from gngraph.files.archive import load, save
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph, format_graph, parse
from gngraph.lowering.to_torch import to_torch
from gngraph.passes import parse_passes
from gngraph.rewrite import RepeatBlocks, morph
from gngraph.rewrite.graph_pass import PassResult
from gngraph.rewrite.surgery import Rewritten
from gngraph.training.optimizer_state import OptimizerState, carry_state
from gngraph.zoo import build_seed
from tests.local_errors import KeptValues
from tests.training_steps import steps_differ


def repeated(graph: Graph, text: str) -> PassResult:
    """What a pass makes of a graph."""
    (one,) = parse_passes(text)
    return one.run(graph, AnalysisManager())


class Block(nn.Module):
    """A norm within a residual branch, with a scale of its own and a mask that it holds."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.branch = nn.Sequential(nn.Linear(width, 6), nn.GELU(), nn.Linear(6, width))
        self.scale = nn.Parameter(torch.rand(width))
        self.register_buffer("mask", torch.rand(width).round())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.scale * self.branch(self.norm(x)) * self.mask
        return y


class Listed(nn.Module):
    """Blocks in a list."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = nn.Linear(5, 8), nn.ModuleList(blocks), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        y: Tensor = self.head(x)
        return y


class Pairs(Listed):
    """Blocks of two parts, each in a list of the two."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            for part in block.children():
                x = x + part(x)
        y: Tensor = self.head(x)
        return y


class Scaled(Listed):
    """Blocks whose scales lie in a list of their own, with one temperature for all."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__(*blocks)
        self.scales = nn.ParameterList(torch.rand(8) for _ in blocks)
        self.temperature = nn.Parameter(torch.rand(()))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block, scale in zip(self.blocks, self.scales, strict=True):
            x = x + scale * block(x) * self.temperature
        y: Tensor = self.head(x)
        return y


class Tied(nn.Module):
    """Two layers of one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Linear(8, 8), nn.Linear(8, 8)
        self.again.weight = self.first.weight

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.again(torch.tanh(self.first(x)))
        return y


class PostNorm(nn.Module):
    """A block whose sums are normed."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.layers = nn.Sequential(nn.Linear(8, 6), nn.GELU(), nn.Linear(6, 8))

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm1(x + self.attention(x, x, x, need_weights=False)[0])
        y: Tensor = self.norm2(x + self.layers(x))
        return y


class Between(Listed):
    """Non-linearities, and norms of a list of their own, behind blocks that are not residual by themselves."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__(*blocks)
        self.norms = nn.ModuleList(nn.LayerNorm(8) for _ in blocks)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block, norm in zip(self.blocks, self.norms, strict=True):
            x = torch.relu(norm(x + block(x)))
        y: Tensor = self.head(x)
        return y


class Shared(Listed):
    """One norm that all blocks and the head use."""

    def __init__(self, *blocks: nn.Module) -> None:
        super().__init__(*blocks)
        self.own = nn.LayerNorm(8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + torch.relu(block(self.own(x)))
        y: Tensor = self.head(self.own(x))
        return y


def pair() -> nn.ModuleList:
    return nn.ModuleList([nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 8))])


def encoder() -> nn.TransformerEncoder:
    return nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 6, 0.0, batch_first=True), 2)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "listed": lambda: Listed(Block(8), Block(8)),
    "one block": lambda: Listed(Block(8)),
    "pairs": lambda: Pairs(pair(), pair()),
    "tied": lambda: Listed(Tied(), Tied()),
    "norms behind": lambda: Listed(PostNorm(), PostNorm()),
    "norms between": lambda: Between(nn.Linear(8, 8), nn.Linear(8, 8)),
    "torch's encoder": lambda: Listed(*encoder().layers),
    "shared": lambda: Shared(nn.Linear(8, 8), nn.Linear(8, 8)),
    "weight norm": lambda: Scaled(*(nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)) for _ in range(2))),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_it_computes_and_trains_as_the_module_with_copies_of_its_blocks(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module, x = NETWORKS[name]().eval(), torch.randn(3, 4, 5)
    result = repeated(from_torch(module, x), "repeat-blocks{at=*}")
    expected = copy.deepcopy(module)
    expected.blocks.extend(copy.deepcopy(list(module.blocks)))  # type: ignore[operator, arg-type, union-attr]
    if isinstance(expected, Scaled):
        expected.scales.extend(copy.deepcopy(list(expected.scales)))
    if isinstance(expected, Between):
        expected.norms.extend(copy.deepcopy(list(expected.norms)))
    assert not steps_differ(expected, to_torch(result.graph), x)
    assert set(to_torch(result.graph).state_dict()) == set(expected.state_dict())
    save(result.graph, tmp_path / "deeper.gng")
    assert format_graph(load(tmp_path / "deeper.gng")) == format_graph(result.graph)
    assert format_graph(parse(format_graph(result.graph))) == format_graph(result.graph)


class Weighed(nn.Linear):
    """A residual layer that weighs what it reads by numbers of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return x + super().forward(x * torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]))


def test_copies_share_constants() -> None:
    x = torch.randn(3, 5)
    graph = repeated(from_torch(Listed(Weighed(8, 8)).eval(), x), "repeat-blocks{at=*,times=2}").graph
    assert sum(p.kind == "constant" for p in graph.params.values()) == 1
    texts = (format_graph(made).splitlines()[1:] for made in (graph, from_torch(to_torch(graph), x)))
    before, after = ([line.partition(" scope ")[0] for line in text] for text in texts)
    assert before == after


class ReadAgain(Listed):
    """A residual block whose weight a layer reads too: one behind all blocks, or one behind each."""

    def __init__(self, block: nn.Linear) -> None:
        super().__init__(block)
        self.last, self.each = nn.Linear(8, 8, bias=False), False
        self.last.weight = block.weight

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + torch.tanh(block(x))
            x = self.last(x) if self.each else x
        y: Tensor = self.head(x if self.each else self.last(x))
        return y


@pytest.mark.parametrize("at", ["*", "blocks.0"])
def test_a_weight_that_others_read_too_is_shared_by_copies(at: str) -> None:
    module, x = ReadAgain(nn.Linear(8, 8)).eval(), torch.randn(3, 5)
    graph = repeated(from_torch(module, x), f"repeat-blocks{{at={at}}}").graph
    copied = copy.deepcopy(module.blocks[0])
    copied.weight = module.last.weight
    module.blocks.append(copied)
    module.each = at == "*"
    assert not steps_differ(module, to_torch(graph), x)
    again = from_torch(to_torch(graph), x)
    assert [node.params for node in again.nodes.values()] == [node.params for node in graph.nodes.values()]
    assert again.params["blocks.0.weight"].aliases == graph.params["blocks.0.weight"].aliases


class Residual(nn.Linear):
    """A residual layer."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(super().forward(x))


def test_copies_of_blocks_of_one_weight_lie_apart() -> None:
    blocks, x = (Residual(8, 8), Residual(8, 8, bias=False)), torch.randn(3, 5)
    blocks[1].weight = blocks[0].weight
    graph = repeated(from_torch(Listed(*blocks).eval(), x), "repeat-blocks{at=*,times=2}").graph
    scopes = [node.scope for node in graph.nodes.values() if node.op == "add"]
    assert scopes == [f"blocks.{i}" for i in range(6)]
    again = from_torch(to_torch(graph), x)
    assert [node.params for node in again.nodes.values()] == [node.params for node in graph.nodes.values()]


def test_its_spaces_are_as_free_as_before() -> None:
    torch.manual_seed(0)
    graph = repeated(from_torch(Listed(Block(8), Block(8)).eval(), torch.randn(3, 5)), "repeat-blocks{at=*}").graph
    graph = graph.to(torch.float64)
    spaces = ChannelSpaces.of(graph)
    assert {space.name for space in spaces.free} == {"stem", *(f"blocks.{i}.branch.0" for i in range(4))}
    for space in spaces.free:
        errors = KeptValues(graph, spaces).errors(space.name, 1)
        assert max(e.error for e in (errors.split, errors.new, errors.prune) if e) < 1e-12


def test_stages_and_transformers_are_stacked_by_their_blocks() -> None:
    net = build_seed("resnet20", width=0.25, classes=4, input_shape=(3, 8, 8), seed=0).eval()
    x = torch.randn(2, 3, 8, 8)
    made = to_torch(repeated(from_torch(net, x), "repeat-blocks{at=stages.1.*,times=2}").graph)
    expected = copy.deepcopy(net)
    stage = expected.get_submodule("stages.1")
    assert isinstance(stage, nn.Sequential)
    stage.extend([copy.deepcopy(block) for _ in range(2) for block in list(stage)[1:]])
    assert list(made.state_dict()) == list(expected.state_dict())
    assert not steps_differ(expected, made, x)
    words = torch.randint(16, (2, 8))
    gpt = build_seed("gpt", width=0.125, classes=16, input_shape=(8,), seed=0).eval()
    made = to_torch(repeated(from_torch(gpt, words), "repeat-blocks{at=blocks.[01].*}").graph)
    expected = copy.deepcopy(gpt)
    blocks = list(expected.blocks)  # type: ignore[arg-type]
    expected.blocks = nn.ModuleList([*blocks[:2], *copy.deepcopy(blocks[:2]), *blocks[2:]])
    with torch.no_grad():
        assert torch.equal(made(words), expected(words))


def test_an_optimiser_remembers_of_copies_what_it_does_of_blocks() -> None:
    graph = from_torch(Listed(Block(8)).eval(), torch.randn(3, 5))
    result = repeated(graph, "repeat-blocks{at=*}")
    state = OptimizerState({name: {"exp_avg": torch.rand_like(p.data)} for name, p in graph.params.items()})
    carried = carry_state(state, graph, Rewritten(result.graph, {}, result.gathers, result.copies)).entries
    assert torch.equal(carried["blocks.1.scale"]["exp_avg"], state.entries["blocks.0.scale"]["exp_avg"])
    assert carried.keys() >= {name for name, p in result.graph.params.items() if p.kind == "parameter"}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("repeat-blocks", r"does not say which blocks: name them, such as repeat-blocks\{at=blocks.0\}"),
        ("repeat-blocks{at=block}", "found no block that matches 'block'; did you mean 'blocks"),
        ("repeat-blocks{at=*,times=0}", "'times' of pass 'repeat-blocks' is '0', but must be at least 1"),
    ],
)
def test_what_cannot_be_repeated_is_refused_with_the_reason(text: str, told: str) -> None:
    graph = from_torch(Listed(Block(8), Block(8)).eval(), torch.randn(3, 5))
    with pytest.raises(PassError, match=told):
        repeated(graph, text)


def test_a_chain_has_no_blocks() -> None:
    chain = gngraph.from_torch(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), torch.zeros(1, 4))
    with pytest.raises(PassError, match="finds no blocks in 'Sequential' that it could repeat"):
        repeated(chain, "repeat-blocks{at=*}")
    with pytest.raises(PassError, match="between '_0' and '_1' of 'Sequential' lie no blocks"):
        morph(chain, ChannelSpaces.of(chain), [RepeatBlocks("_1", "_0")])


def test_copies_may_be_many() -> None:
    graph = from_torch(nn.Sequential(nn.Linear(5, 8), Block(8), nn.Linear(8, 3)).eval(), torch.randn(3, 5))
    deep = repeated(graph, "repeat-blocks{at=1,times=250}").graph
    assert len(deep.nodes) == len(graph.nodes) + 250 * 9 and "252.scale" in deep.params
