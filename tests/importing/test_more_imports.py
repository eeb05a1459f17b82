"""Forwards that plain torch.fx cannot follow, or bakes wrongly: sizes in control flow, modes, defaults, constants."""

from __future__ import annotations

import math
from typing import Any, NamedTuple, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import CostModel, cost
from gngraph.errors import UnsupportedModelError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph, format_graph, parse, same_structure
from gngraph.lowering.to_torch import to_torch
from gngraph.rewrite.morphism import SplitChannel
from gngraph.source.export import to_source
from tests.coverage_row import round_trip_differences
from tests.morphism_errors import applied, errors_of
from tests.small_networks import calibrated


def free_after_round_trip(network: nn.Module, *shape: int) -> tuple[Graph, dict[str, int]]:
    """The graph, once it computes the same bits in both modes, survives text and source, and its morphisms are exact."""
    torch.manual_seed(0)
    network = calibrated(network, *shape)
    example = torch.randn(2, *shape)
    graph = from_torch(network, example)
    assert not [name for name in vars(network) if "constant" in name]  # the source is left as it was
    with _plain_attention():
        assert round_trip_differences(network, example, graph) == []
    assert same_structure(parse(format_graph(graph)), graph)
    to_source(graph)
    spaces = ChannelSpaces.of(graph)
    for space in spaces.free:
        errors = errors_of(graph, spaces, space.name)
        assert max(errors.split, errors.new, errors.masked, errors.values) < 1e-12, (space.name, errors)
    return graph, {space.name: space.size for space in spaces.free}


class _plain_attention:
    """Without torch's fused transformer layers, which compute other bits."""

    def __enter__(self) -> None:
        torch.backends.mha.set_fastpath_enabled(False)

    def __exit__(self, *error: Any) -> None:
        torch.backends.mha.set_fastpath_enabled(True)


class Careful(nn.Module):
    """Asserts and branches on shapes, unpacks and iterates over them."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.skip, self.second = (
            nn.Conv2d(3, 6, 3, padding=1),
            nn.Conv2d(3, 6, 1),
            nn.Conv2d(6, 5, 3, stride=2),
        )
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 2.0) -> Tensor:
        assert x.dim() == 4, "images, please"
        assert x.shape[1] == 3 and len(x.shape) == 4
        y = self.first(x)
        if y.shape != x.shape:
            x = self.skip(x)
        y = torch.relu(x + y)
        if mask is not None:
            y = y * mask
        if y.size(2) % 2 == 0 and y.size(-1) > 4:
            y = self.second(y)
        _, _, *positions = y.shape
        y = y * (scale / len(positions))
        parts = [part.mean((2, 3)) for part in torch.split(y, 3, dim=2)]
        for part in torch.tanh(torch.stack(parts)).unbind(0):
            parts.append(part)
        return cast(Tensor, self.head(sum(parts[1:], parts[0])))


def test_control_flow_on_sizes_is_decided_as_for_the_example() -> None:
    graph, free = free_after_round_trip(Careful(), 3, 8, 8)
    assert free == {"first": 6, "second": 5}
    assert not any(node.op == "foreign" and "eq" in str(node.attrs["target"]) for node in graph.nodes.values())


def test_sizes_that_only_decide_freeze_nothing() -> None:
    class Checked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.up(x)
            assert y.shape[-1] == self.down.in_features
            torch._assert(y.dim() == 2 and y.shape[1] == 6, "six, please")
            return cast(Tensor, self.down(torch.relu(y)))

    graph, free = free_after_round_trip(Checked(), 4)
    assert free == {"up": 6}
    assert [node.op for node in graph.nodes.values()] == ["input", "linear", "relu", "linear"]


class BySamples(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.shape[0] > 2 else x


class ByNumber(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x[0, 0] > 0 else x


class OverSamples(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([row * 2 for row in x])


class Noisy(nn.Module):
    """A constant that is another one at each call."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn(3)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (
            BySamples(),
            "'BySamples' cannot be traced: Python asks for the value of 'gt', which depends on the number of samples",
        ),
        (
            ByNumber(),
            "the value of 'gt', which is not known without data; its forward must not depend on tensor values",
        ),
        (OverSamples(), "the value of 'x', which depends on the number of samples"),
        (Noisy(), "draws random numbers in eval mode, where every run must give the same outputs"),
    ],
)
def test_what_cannot_be_decided_is_refused(network: nn.Module, message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message) as caught:
        from_torch(network, torch.randn(2, 3))
    assert "\n" not in str(caught.value)


class Auxiliary(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.head, self.aux = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        y = torch.relu(self.body(x))
        return (self.head(y), self.aux(y)) if self.training else self.head(y)


def test_parts_that_run_in_train_mode_alone_are_named() -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"in train mode than in eval mode \(modules 'aux'\); pass train_only='drop'"
    ):
        from_torch(Auxiliary(), torch.randn(2, 3))


class Heads(NamedTuple):
    """What a network returns in train mode, as torchvision's GoogLeNet and Inception do."""

    out: Tensor
    aux: Tensor


class DroppingAuxiliary(nn.Module):
    """An auxiliary head that draws random numbers before the head does."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.aux, self.head = nn.Linear(3, 4), nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor | Heads:
        y = torch.relu(self.body(x))
        aux = F.dropout(self.aux(y), 0.5) if self.training else None
        out = self.head(F.dropout(y, 0.5, self.training))
        return Heads(out, aux) if aux is not None else out


def test_heads_of_train_mode_may_go_though_they_draw_random_numbers() -> None:
    net, x = DroppingAuxiliary(), torch.randn(3, 3)
    lowered = to_torch(from_torch(net, x, train_only="drop"))
    assert torch.equal(lowered.eval()(x), net.eval()(x))
    assert lowered.train()(x).shape == (3, 2)
    assert not torch.equal(lowered(x), lowered(x))


class ModeConstants(nn.Module):
    """Numbers that differ between the modes, and a flag that is off while training."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down, self.dropout = nn.Linear(4, 8), nn.Linear(8, 2), 0.3

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(x) * (0.5 if self.training else 1.0)
        y = F.dropout(y, self.dropout if self.training else 0.0)
        return cast(Tensor, self.down(torch.relu(y)))


def test_numbers_that_differ_between_the_modes() -> None:
    graph, free = free_after_round_trip(ModeConstants(), 4)
    assert free == {"up": 8}
    assert "flag(training, 0.5, 1.0)" in format_graph(graph)


class Attention(nn.Module):
    """Fused attention with dropout in train mode alone, as in GPTs, and learned positions read by a constant range."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Embedding(7, 6)
        self.qkv, self.project, self.head = nn.Linear(6, 24), nn.Linear(8, 6), nn.Linear(6, 2)
        self.scale = nn.Parameter(torch.rand(6) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        x = x + self.places(torch.arange(5))
        q, k, v = (part.reshape(b, t, 2, 4).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.2 if self.training else 0, is_causal=True)
        y = self.project(y.transpose(1, 2).reshape(b, t, 8))
        y = F.layer_norm(y, self.scale.shape, self.scale)
        return cast(Tensor, self.head(y.mean(1)))


def test_attention_with_dropout_in_train_mode() -> None:
    graph, free = free_after_round_trip(Attention(), 5, 6)
    assert free == {"qkv": 2, "project": 6}  # heads, and what a norm of as many entries as its weight has counts
    assert [node.op for node in graph.nodes.values()].count("foreign") == 0


class Encoder(nn.Module):
    """Torch's own transformer encoder and decoder, with a mask made in the forward."""

    def __init__(self, norm_first: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 12, 0.1, batch_first=True, norm_first=norm_first, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoderLayer(8, 2, 10, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.encoder(x)
        return cast(Tensor, self.head(self.decoder(x, y)[:, 0]))


@pytest.mark.parametrize("norm_first", [False, True])
def test_torchs_transformer_layers(norm_first: bool) -> None:
    graph, free = free_after_round_trip(Encoder(norm_first), 5, 8)
    heads = dict.fromkeys((f"encoder.layers.{i}.self_attn" for i in range(2)), 2)
    heads |= {"decoder.self_attn": 2, "decoder.multihead_attn": 2}
    assert free == {"encoder.layers.0.linear1": 12, "encoder.layers.1.linear1": 12, "decoder.linear1": 10, **heads}
    spaces = ChannelSpaces.of(graph)
    reasons = " ".join(space.frozen for space in spaces if space.frozen)
    assert "it is combined with a value of fixed size (node 'add')" in reasons, reasons


def test_a_padding_mask_is_an_input() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: Tensor, padding: Tensor) -> Tensor:
            return cast(Tensor, self.head(self.layer(x, src_key_padding_mask=padding).mean(1)))

    network = Masked().eval()
    x, padding = torch.randn(2, 5, 8), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    graph = from_torch(network, (x, padding))
    assert {s.name for s in ChannelSpaces.of(graph).free} == {"layer.self_attn", "layer.linear1"}
    with torch.no_grad(), _plain_attention():
        assert torch.equal(to_torch(graph)(x, padding), network(x, padding))


def test_an_argument_left_at_its_default_takes_its_branch() -> None:
    class Optional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(
            self, x: Tensor, factor: float = 0.5, bias: Tensor | None = None, *, square: bool = False
        ) -> Tensor:
            y = self.up(x) * math.sqrt(factor)
            if bias is not None:
                y = y + bias
            return cast(Tensor, self.down(y.square() if square else torch.tanh(y)))

    assert free_after_round_trip(Optional(), 4)[1] == {"up": 6}


def test_a_flag_with_numbers_grows_along() -> None:
    torch.manual_seed(0)
    network, example = ModeConstants().eval(), torch.randn(2, 4)
    graph = from_torch(network, example)
    wider = to_torch(applied(graph, ChannelSpaces.of(graph), [SplitChannel("up", 0)])).train()
    network.train()
    torch.manual_seed(1)
    few = wider(example).detach()
    assert few.shape == network(example).shape
    assert torch.allclose(wider.eval()(example), network.eval()(example), atol=1e-6)


class Gpt(nn.Module):
    """The outer part of nanoGPT as it is published: tied embeddings, positions by a size, an optional loss."""

    def __init__(self, words: int = 20, width: int = 8, block_size: int = 16) -> None:
        super().__init__()
        self.wte, self.wpe, self.drop = nn.Embedding(words, width), nn.Embedding(block_size, width), nn.Dropout(0.1)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.ln_f, self.lm_head = nn.LayerNorm(width), nn.Linear(width, words, bias=False)
        self.wte.weight = self.lm_head.weight
        self.block_size = block_size

    def forward(self, idx: Tensor, targets: Tensor | None = None) -> Tensor:
        device = idx.device
        b, t = idx.size()
        assert t <= self.block_size, f"Cannot forward sequence of length {t}, block size is only {self.block_size}"
        pos = torch.arange(0, t, dtype=torch.long, device=device)
        x = self.drop(self.wte(idx) + self.wpe(pos))
        x = x + self.down(F.gelu(self.up(x)))
        x = self.ln_f(x + torch.zeros(b, t, 1, dtype=x.dtype, device=x.device))
        logits: Tensor = self.lm_head(x)
        if targets is not None:
            logits = F.cross_entropy(logits.view(-1, logits.size(-1)), targets.view(-1), ignore_index=-1)
        return logits[:, [-1], :]


def test_positions_by_a_size_and_factories() -> None:
    torch.manual_seed(0)
    network, example = Gpt().eval(), torch.randint(0, 20, (2, 7))
    graph = from_torch(network, example)
    assert round_trip_differences(network, example, graph) == []
    spaces = ChannelSpaces.of(graph)
    assert {space.name: space.size for space in spaces.free} == {"wte": 8, "up": 32}
    assert from_torch(to_torch(graph), example).outputs == graph.outputs
    assert max(vars(errors_of(graph, spaces, "up")).values()) < 1e-12
    zeros = torch.zeros(2, 3)
    assert type(torch.zeros).__name__ == "builtin_function_or_method" and not zeros.any()  # torch is as it was


class Conv1D(nn.Module):
    """The linear layer of Hugging Face's GPT-2: rows by view, addmm, and a shape put together from parts."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.nf = outputs
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        size_out = x.size()[:-1] + (self.nf,)  # noqa: RUF005 - as it is published
        x = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return x.view(size_out)


def test_shapes_put_together() -> None:
    network = nn.Sequential(Conv1D(7, 5), nn.GELU(), Conv1D(3, 7))
    graph, free = free_after_round_trip(network, 4, 5)
    assert free == {"addmm": 7}
    assert [node.op for node in graph.nodes.values()].count("foreign") == 0
    wider = applied(graph, ChannelSpaces.of(graph), [SplitChannel("addmm", 0)])
    assert CostModel(graph, ChannelSpaces.of(graph)).marginal("addmm", {"addmm": 7, "addmm_1": 3}) == cost(
        wider
    ) - cost(graph)


def test_shapes_joined_with_tuples_and_taken_from_others() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6 * 16, 96), nn.Linear(96, 2)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.a(x))
            y = self.b(x.view(x.shape[:1] + (-1,))).view(x.shape)  # noqa: RUF005 - what is tested
            return cast(Tensor, self.head(torch.tanh(x + y).reshape((x.size(0), *x.shape[1:2], -1)).flatten(1)))

    _, free = free_after_round_trip(Joined(), 3, 6, 6)
    assert free == {"a": 6}


class Brought(nn.Module):
    """Tensors in attributes that a forward brings to where its input is, and numbers and arrays of NumPy."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.a, self.b = torch.rand(3), nn.Linear(3, 4), nn.Linear(4, 2)
        self.scale: Any = np.float32(0.5)
        self.shift = np.arange(4) / 7
        self.kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        self.mean = self.mean.to(device=x.device, dtype=x.dtype)
        self.kept = self.a(x - self.mean)
        if self.mean.dtype.is_floating_point:
            self.kept = self.kept * self.scale / np.sqrt(2) + x.new_tensor(self.shift)
        return cast(Tensor, self.b(torch.relu(self.kept) * x.new_tensor([1.0, 2.0, 3.0, 4.0], requires_grad=False)))


def test_attributes_that_are_brought_along_and_numbers_of_numpy() -> None:
    graph, free = free_after_round_trip(Brought(), 3)
    assert free == {"a": 4} and not any(node.op == "foreign" for node in graph.nodes.values())


def by_hook(module: nn.Module, **options: Any) -> nn.Module:
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(module, **options)


def test_the_hook_of_weight_norm_is_part_of_what_its_module_computes() -> None:
    network = nn.Sequential(by_hook(nn.Linear(3, 4)), nn.ReLU(), by_hook(nn.Linear(4, 2), dim=None))
    graph, free = free_after_round_trip(network, 3)
    assert free == {} and "0.weight_g" in graph.params
    network[2] = nn.Linear(4, 2)
    assert free_after_round_trip(network, 3)[1] == {"0": 4}


def test_the_hook_that_is_lost_is_named() -> None:
    with pytest.raises(UnsupportedModelError, match="_forward_pre_hooks: SpectralNorm"):
        from_torch(nn.Sequential(nn.utils.spectral_norm(nn.Linear(3, 3))), torch.zeros(1, 3))


class OwnTensors(nn.Module):
    """Tensors that the forward makes, in sizes of what it reads, and NumPy's functions of these."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.scale = nn.Linear(3, 4), nn.Linear(4, 2), torch.tensor([[0.5]])

    def forward(self, x: Tensor) -> Tensor:
        n, y = x.size(0), self.a(x) / np.sqrt(x.size(1)) + np.float64(0.1) * x.size(1)
        y = y * self.scale.expand(n, -1) + torch.eye(2).unsqueeze(0).expand(n, -1, -1)[:, 0, :1]
        y = y + torch.ones(1).new_zeros(n, 1) + torch.arange(2).expand(n, 2).sum(1, keepdim=True)
        largest = torch.stack([y, y * 2], 1).unsqueeze(1).max(2)[0].max(1)[0]
        return cast(Tensor, self.b(torch.relu(largest)))


def test_tensors_of_a_forward_take_sizes_of_values() -> None:
    assert free_after_round_trip(OwnTensors(), 3)[1] == {"a": 4}
