"""Small networks, one for each op of the table that no torchvision model needs, with the spaces that must be free in them."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm
from torchvision import ops

from tests.op_cases import Between, Case, function, images, module
from tests.op_functions import (
    assigned_parts,
    by_names_of_numpy,
    functions_along_rows,
    functions_of_one,
    functions_of_two,
    noise_in_training,
    other_spellings,
    parts_within_heads,
    regions,
    sampled_places,
    scattered_rows,
    served,
    turned_pairs,
    without_part,
)
from tests.op_lines import LINES
from tests.op_weights import (
    ByNumbers,
    FormedSteps,
    MaskedSteps,
    Standardised,
    StandardisedSteps,
    normalised_steps,
    transposed_steps,
    weights,
)
from tests.recurrent_networks import Cells
from tests.small_networks import calibrated


class FunctionalBatchNorm(nn.Module):
    """BatchNorm by its function, with buffers of the user's."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.rand(8) + 0.5), nn.Parameter(torch.randn(8))
        self.register_buffer("mean", torch.randn(8) * 0.1)
        self.register_buffer("variance", torch.rand(8) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = cast(Tensor, self.mean), cast(Tensor, self.variance)
        return F.batch_norm(x, mean, variance, self.scale, self.shift, self.training, 0.2, 1e-3)


class ChannelsFirstNorm(nn.Module):
    """LayerNorm over the channels of an image, as in ConvNeXt, by the parameter's own shape."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(8) + 0.5), nn.Parameter(torch.randn(8))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, 1e-6).permute(0, 3, 1, 2)


NORMS: dict[str, Case] = {
    "group norm": module(lambda: nn.GroupNorm(4, 8), free=4),
    "group norm without parameters": module(lambda: nn.GroupNorm(2, 8, affine=False), free=2),
    "group norm of one group": module(lambda: nn.GroupNorm(1, 8)),
    "group norm of single channels": module(lambda: nn.GroupNorm(8, 8)),
    "functional group norm": images(
        lambda m, y: F.group_norm(y, 4, m.scale, m.shift, 1e-3), 4, scale=weights(8), shift=weights(8)
    ),
    "instance norm": module(lambda: nn.InstanceNorm2d(8)),
    "instance norm with parameters": module(lambda: nn.InstanceNorm2d(8, affine=True, track_running_stats=True)),
    "functional instance norm": function(F.instance_norm),
    "functional batch norm": module(FunctionalBatchNorm),
    "functional layer norm": module(ChannelsFirstNorm),
    "rms norm": images(lambda m, y: m.norm(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), 8, norm=lambda: nn.RMSNorm(8)),
    "functional rms norm": images(
        lambda m, y: F.rms_norm(y.permute(0, 2, 3, 1), (8,), m.scale).permute(0, 3, 1, 2), 8, scale=weights(8)
    ),
    "formed weights": Case(
        lambda: Between(lambda m, y: m.part(y), 6, part=FormedSteps()), (3, 6, 6),
        {"first": 8, "conv2d": 6, "conv1d": 4, "conv3d": 5, "linear": 7, "linear#2": 3, "linear_1": 6, "linear_1#2": 2},
    ),
    "masked and formed biases": Case(
        lambda: Between(lambda m, y: m.part(y), 7, part=MaskedSteps()), (3, 6, 6),
        {"first": 8, "conv2d": 6, "linear": 9, "linear_1": 7},
    ),
    "lengths of a kernel's positions": Case(
        lambda: Between(lambda m, y: m.part(y).tanh(), part=weight_norm(nn.Conv2d(8, 8, 3, padding=1, groups=2), dim=3)),
        (3, 6, 6), {"first": 4, "part.parametrizations.weight": 4},
    ),
    "standardised weights": Case(
        lambda: Between(lambda m, y: m.part(y), part=StandardisedSteps()), (3, 6, 6),
        {"first": 8, "part.flat": 6, "part.line": 2, "part.groups": 3, "part.depths": 8},
    ),
    "normalised weights": Case(
        lambda: Between(lambda m, y: m.part(y), 7, part=normalised_steps()), (3, 6, 6),
        {"first": 8, **{f"part.{at}.parametrizations.weight": n for at, n in (("0", 6), ("2.1", 4), ("5", 5), ("8", 7))}},
    ),
    "normalised weights of transposed convolutions": Case(
        lambda: Between(lambda m, y: m.part(y), 6, part=transposed_steps()), (3, 6, 6),
        {"first": 8, "conv_transpose2d": 6, "conv_transpose1d": 4, "conv_transpose3d": 2},
    ),
    "a standardised weight": Case(
        lambda: Between(lambda m, y: m.part(y.relu()), 4, part=Standardised(2, 8, 4)), (3, 6, 6), {"first": 8, "part": 4}
    ),
    "local response norm": module(lambda: nn.LocalResponseNorm(3), free=0),
    "normalised positions": function(lambda y: F.normalize(y.flatten(2), dim=-1).reshape(-1, 8, 6, 6)),
    "normalised channels": function(lambda y: F.normalize(y), free=0),
}  # fmt: skip


class ComputedBias(nn.Module):
    """A linear layer whose bias is put together, as in attention without a bias of keys."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.query, self.value = (nn.Parameter(torch.randn(shape)) for shape in ((6, 8), (2,), (2,)))
        self.register_buffer("key", torch.zeros(2), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        bias = torch.cat([self.query, cast(Tensor, self.key), self.value])
        query, key, value = F.linear(x.permute(0, 2, 3, 1), self.weight, bias).permute(0, 3, 1, 2).chunk(3, 1)
        return query.tanh() * key + value


ELEMENTWISE: dict[str, Case] = {
    "prelu": module(lambda: nn.PReLU(8)),
    "shared prelu": module(nn.PReLU),
    "functional prelu": images(lambda m, y: F.prelu(y, m.slope), slope=weights(8)),
    "gated linear unit": module(lambda: nn.GLU(1), 4, 4),
    "functional gated linear unit": function(lambda y: F.glu(torch.cat([y, y.sin()], 1), 1)),
    "gates along positions": function(lambda y: F.glu(y)),
    "softsign": module(nn.Softsign),
    "logsigmoid": module(nn.LogSigmoid),
    "tanhshrink": module(nn.Tanhshrink),
    "threshold": module(lambda: nn.Threshold(0.1, 0.3)),
    "shrinks": module(lambda: nn.Sequential(nn.Hardshrink(0.2), nn.Softshrink(0.1))),
    "zeros and ones": function(lambda y: torch.where(y > 0, torch.zeros_like(y), y) + torch.ones_like(y)),
    "between two": function(lambda y: torch.lerp(y, y.tanh(), 0.3).lerp(y.exp(), y.sigmoid())),
    "full": function(lambda y: y * torch.full_like(y, 0.5)),
    "scaled by a size": function(lambda y: y.relu() * y.shape[1] ** -0.5 / (y.shape[1] // 2)),
    "clamps": function(lambda y: y.clamp(-1.0, 0.5) + torch.clamp(y, min=0.2) + y.clip(max=0.1)),
    "logarithms": function(lambda y: torch.log(y.square() + 1) + y.exp().log1p() + torch.rsqrt(y.abs() + 0.5)),
    "waves": function(lambda y: torch.sin(y) * y.cos() + y.erf().reciprocal().expm1().sign() - abs(y)),
    "reciprocals": function(lambda y: 12 / (y + 4) + 1.0 / (y.mean((2, 3), keepdim=True) + 2) + y / 3),
    "copies": function(lambda y: y.clone() + torch.clone(-y.tanh())),
    "comparisons": function(lambda y: y * (y > 0) + torch.where(y <= y.sin(), y, 0.5) + torch.where(y.ge(0), 1.0, y)),
    "filled where another is small": function(lambda y: y.masked_fill(y.tanh() < 0.2, -1.0)),
    "filled by a mask of positions": images(
        lambda m, y: torch.masked_fill(y, m.mask > 0, 2.0), mask=lambda: nn.Parameter(torch.randn(1, 1, 6, 6))
    ),
    "softmax over channels of an image": module(nn.Softmax2d, free=0),
    "softmin over positions": module(lambda: nn.Softmin(3)),
    "softmax by functions": function(lambda y: F.softmax(y, dim=-1) + y.log_softmax(2) + torch.softmax(y, 3)),
    "dropouts": module(lambda: nn.Sequential(nn.AlphaDropout(), nn.FeatureAlphaDropout(), nn.Dropout2d())),
}  # fmt: skip


class Decoder(nn.Module):
    """Transposed convolutions, plain and by groups, between convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(6, 3, 1)
        self.up = nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.each = nn.ConvTranspose2d(4, 4, 2, stride=2, groups=4)
        self.pairs = nn.ConvTranspose2d(4, 6, 3, groups=2, dilation=2)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        x = torch.relu(self.norm(self.up(y, output_size=[2 * y.size(2), y.size(3) * 2])))
        return cast(Tensor, self.last(torch.tanh(self.pairs(torch.relu(self.each(x))))))


class RawDecoder(nn.Module):
    """Transposed convolutions by their functions, in one, two and three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 8), nn.Linear(6, 3)
        self.line, self.image = nn.Parameter(torch.randn(8, 7, 3) * 0.3), nn.Parameter(torch.randn(7, 5, 2, 2) * 0.3)
        self.body, self.bias = nn.Parameter(torch.randn(5, 6, 1, 2, 2) * 0.3), nn.Parameter(torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(F.conv_transpose1d(self.first(x).transpose(1, 2), self.line, stride=2))
        y = torch.relu(F.conv_transpose2d(y.unsqueeze(2), self.image, padding=(0, 1)))
        y = torch.tanh(F.conv_transpose3d(y.unsqueeze(2), self.body, self.bias))
        return cast(Tensor, self.last(y.mean((2, 3, 4))))


class Words(nn.Module):
    """Embedded words with embedded positions, read by a convolution; and a bag of the same words."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(11, 6, padding_idx=0), nn.Parameter(torch.randn(4, 6))
        self.tags = nn.Parameter(torch.randn(11, 7))
        self.bag = nn.EmbeddingBag(11, 5, mode="mean")
        self.conv, self.head, self.side, self.other = (
            nn.Conv1d(6, 8, 3),
            nn.Linear(8, 3),
            nn.Linear(5, 3),
            nn.Linear(7, 3),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = (x.abs() * 3).clamp(max=10.0).long()
        y = self.words(x) + self.places
        z = self.other(torch.tanh(F.embedding(x, self.tags)).mean(1))
        return cast(Tensor, self.head(torch.relu(self.conv(y.transpose(1, 2))).mean(2)) + self.side(self.bag(x)) + z)


class Table(nn.Module):
    """A table of biases, one row for each column of an image, as relative position biases are."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(4, 8))
        self.register_buffer("rows", torch.tensor([0, 1, 2, 3, 1, 0]))

    def forward(self, x: Tensor) -> Tensor:
        return (x.permute(0, 2, 3, 1) + self.table[cast(Tensor, self.rows)]).permute(0, 3, 1, 2)


class Sequences(nn.Module):
    """Recurrent layers of every kind between linear ones, with states handed on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 8), nn.Linear(6, 7)
        self.lstm = nn.LSTM(8, 4, num_layers=2, batch_first=True, bidirectional=True, proj_size=3, dropout=0.1)
        self.gru, self.rnn = nn.GRU(7, 4, bias=False), nn.RNN(4, 4, nonlinearity="relu")
        self.again = nn.LSTM(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y, (h, c) = self.lstm(torch.tanh(self.first(x)))
        z, last = self.gru(torch.relu(self.second(y)).transpose(0, 1))
        z, last = self.rnn(z, last)
        z, _ = self.again(z, (last, c[:1].abs()))
        return cast(Tensor, self.head(z[-1] + h.mean()))


class Gate(nn.Module):
    """Squeeze and excitation as it is often written: the gate takes the shape of what it was computed from."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(8, 5), nn.Linear(5, 8)

    def forward(self, x: Tensor) -> Tensor:
        b, c, _, _ = x.size()
        gate = self.up(torch.relu(self.down(x.mean((2, 3))))).view(b, c, 1, 1)
        return x * torch.sigmoid(gate).expand_as(x)


class Places(nn.Module):
    """Learned positions, as many of them as there are tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 6), nn.Linear(6, 3)
        self.places = nn.Parameter(torch.randn(1, 9, 6))

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.last(torch.tanh(self.first(x) + self.places[:, : x.size(1)])))


SHAPES: dict[str, Case] = {
    "a computed bias": Case(
        lambda: Between(lambda m, y: m.part(y), 2, part=ComputedBias()), (3, 6, 6), {"first": 8, "part_query": 2}
    ),
    "pooled by its own size": function(lambda y: y * F.avg_pool2d(y, y.size()[2:]) + F.max_pool2d(y, y.shape[3], stride=1)),
    "averaged to the size of another": function(lambda y: y + F.adaptive_avg_pool2d(y.tanh(), (y.shape[2], y.shape[3]))),
    "channels between zeros": function(lambda y: F.pad(y, (0, 0, 1, 1, 2, 3))[..., 1:-1, :], behind=13),
    "channels behind ones": function(lambda y: F.pad(y, (0, 0, 0, 0, 2, 0), value=1.0).tanh(), behind=10),
    "in channels last": function(
        lambda y: y.contiguous(memory_format=torch.channels_last).tanh().to(memory_format=torch.contiguous_format)
    ),
    "samples unflattened behind others": function(
        lambda y: torch.unflatten(y.transpose(0, 1).flatten(0, 1).tanh(), 0, (8, -1)).transpose(0, 1), free=0
    ),
    "positions of samples unflattened": function(
        lambda y: torch.unflatten(y.permute(0, 2, 3, 1).flatten(0, 2).tanh(), 0, (-1, 6, 6)).permute(0, 3, 1, 2)
    ),
    "shaped as another": function(lambda y: y.flatten(2).tanh().reshape_as(y) + y.flatten(1).view_as(y)),
    "without a part": Case(
        lambda: Between(lambda m, y: without_part(y)), (3, 6, 6), {f"first{n}": 2 for n in ("", "#2", "#3", "#4")}
    ),
    "gate": Case(lambda: Between(lambda m, y: m.part(y), part=Gate()), (3, 6, 6), {"first": 8, "part.down": 5}),
    "places": Case(Places, (4, 5), {"first": 6}),
    "sequences": Case(Sequences, (4, 5), {"first": 8, "second": 7}),
    "cells": Case(Cells, (4, 5), {"cell": 6, "gate": 5, "plain": 4}),
    "rows by number": module(Table),
    "entries by several numbers": module(ByNumbers),
    "repeated entries": function(lambda y: y.repeat_interleave(2, dim=1) + torch.repeat_interleave(y, 2, 1).tanh(), behind=16),
    "repeated axes": function(lambda y: y.repeat(1, 2, 1, 2)[..., :6] + y.mean(1, True).repeat(1, 1, y.size(2) // 6, 1), behind=16),
    "parts by number within heads": function(parts_within_heads, 2, 4),
    "lists of one number": function(lambda y: y * y[..., [2], :].tanh() + y[:, :, [-1]] - y[:, :, :, [-2]]),
    "sizes alone": function(lambda y: y * y[:, -1].shape[1] + y[:, 0].size(2) / (y[:, -1].numel() // y.size(0)) ** 0.5),
    "heads that serve several": images(lambda m, y: served(y, m.key(y)), 2, key=lambda: nn.Conv2d(8, 4, 1)),
    "added to itself": function(lambda y: y + y.tanh()),
    "stacked": function(lambda y: torch.stack([y, y.tanh()], dim=1).mean(1)),
    "words": Case(Words, (4,), {"words": 6, "embedding": 7, "bag": 5, "conv": 8}),
    "addcmul": function(lambda y: torch.addcmul(y, torch.multiply(y, y.tanh()), y.mean((2, 3), keepdim=True), value=0.5)),
    "softmax to a dtype": function(lambda y: y * torch.softmax(y, dim=2, dtype=torch.float32)),
    "functions of one value": function(functions_of_one),
    "functions of two values": function(functions_of_two),
    "functions along rows": function(functions_along_rows),
    "other spellings": function(other_spellings),
    "sampled places": function(sampled_places),
    "scattered rows": function(scattered_rows),
    "regions": images(
        regions,
        behind=5,
        part=lambda: ops.DeformConv2d(8, 6, 3, padding=1),
        offset=lambda: nn.Conv2d(8, 27, 1),
        weight=weights(5, 6, 3, 3),
        pool=lambda: ops.RoIPool(6, 1.0),
    )._replace(free={"first": 8, "part": 6, "deform_conv2d": 5}, foreign=("torch.arange",)),
    "noise": function(lambda y: y + noise_in_training(y)),
    "samples that are dropped by hand": function(
        lambda y: y / torch.tensor(y.size(1)) + 0.0 * y.new_empty((y.size(0), 1, 1, 1)).bernoulli_(0.7)
    )._replace(foreign=(".bernoulli_",)),
    "added products": function(
        lambda y: y * torch.baddbmm(y[..., 2], y[..., 0], y.mean(1).tanh(), beta=0.5, alpha=2.0).unsqueeze(3)
    ),
    "gathered rows": function(
        lambda y: torch.gather(y.tanh(), 2, y.argmax(2, True).expand(-1, y.size(1), -1, -1))
        + y.gather(3, y.mean(1, True).argmin(3, True).repeat(1, y.size(1), 1, 1))
    ),
    "assigned rows and masks": function(assigned_parts),
    "axes of one entry": function(
        lambda y: torch.squeeze(y.tanh().mean((2, 3), True))[:, :, None, None] + y[None, :, :, None].squeeze((0, 3))
    ),
    "complex numbers": function(turned_pairs),
    "channels that a kernel spans": Case(
        lambda: Between(lambda m, y: m.part(y.tanh().permute(0, 2, 3, 1)), part=nn.Conv2d(6, 8, (3, 8), stride=(1, 5))),
        (3, 6, 6),
        {"first": 8, "part": 8},
    ),
    "channels that a kernel spans row by row": images(
        lambda m, y: m.part(y.tanh().permute(0, 2, 3, 1)), behind=6, part=lambda: nn.Conv2d(6, 6, (1, 8), groups=6)
    ),
    "casts": function(lambda y: y.to(torch.float64).tanh().to(y.dtype) + y.float().type_as(y)),
    "decoder": Case(Decoder, (3, 6, 6), {"first": 8, "up": 2}),
    "decoder by functions": Case(
        RawDecoder, (4, 5), {"first": 8, "conv_transpose1d": 7, "conv_transpose2d": 5, "conv_transpose3d": 6}
    ),
    "upsampling": module(lambda: nn.Upsample(scale_factor=2.0, mode="bilinear", align_corners=True)),
    "upsampling by a class of its own": module(lambda: nn.UpsamplingNearest2d(size=9)),
    "interpolation": function(lambda y: F.interpolate(y, scale_factor=(1.5, 2.0), mode="bicubic", antialias=True)),
    "interpolation to the size of another": function(lambda y: y + F.interpolate(F.max_pool2d(y, 2), size=y.shape[-2:])),
    "interpolation to sizes": function(lambda y: F.interpolate(y, size=(y.size(2) * 2, 7), mode="area")),
    "zero padding": module(lambda: nn.ZeroPad2d((1, 0, 2, 1))),
    "constant padding": module(lambda: nn.ConstantPad2d(1, 0.5)),
    "reflections": module(lambda: nn.Sequential(nn.ReflectionPad2d(1), nn.ReplicationPad2d((0, 1, 2, 0)), nn.CircularPad2d(1))),
    "padding by its function": function(lambda y: F.pad(F.pad(y, (1, 2)), (0, 0, -1, 1), mode="constant", value=1.0)),
    "padding to even sizes": function(lambda y: F.pad(y, (0, y.size(3) % 4, 0, 1), mode="reflect")),
    "channels padded by copies": function(
        lambda y: F.pad(y.unsqueeze(1), (0, 0, 0, 0, 1, 1), mode="replicate").squeeze(1), free=0, behind=10
    ),
    "padded channels": function(lambda y: F.pad(y, (0, 0, 0, 0, 1, 1)), behind=10),
    "pixel shuffle": module(lambda: nn.PixelShuffle(2), 2, 2),
    "pixel unshuffle": module(lambda: nn.PixelUnshuffle(2), 8, 32),
    "pixel shuffles by functions": function(lambda y: F.pixel_shuffle(F.pixel_unshuffle(y, 2), 2)),
    "channel shuffle": module(lambda: nn.ChannelShuffle(2), 4),
}  # fmt: skip

POOLS: dict[str, Case] = {
    "adaptive maxima": module(lambda: nn.AdaptiveMaxPool2d((4, 3))),
    "adaptive maxima along a line": function(lambda y: F.adaptive_max_pool1d(y.flatten(2), 9).reshape(-1, 8, 3, 3)),
    "adaptive maxima in space": function(lambda y: F.adaptive_max_pool3d(y.unsqueeze(2), (1, 2, 3)).squeeze(2)),
    "power averages": module(lambda: nn.LPPool2d(2, 3, stride=2, ceil_mode=True)),
    "power averages by functions": function(lambda y: F.lp_pool2d(F.lp_pool1d(y.flatten(2), 2, 2).reshape(-1, 8, 6, 3), 2, 2)),
}  # fmt: skip

REDUCTIONS: dict[str, Case] = {
    "statistics": function(lambda y: (y - y.mean((2, 3), True)) / (y.std((2, 3), keepdim=True) + torch.var(y, 3, False, True))),
    "statistics in pairs": function(lambda y: sum(torch.var_mean(y, dim=(2, 3), correction=0, keepdim=True)) + y),
    "names of numpy": function(by_names_of_numpy),
    "extrema": function(lambda y: y.max(dim=3, keepdim=True)[0] - torch.min(y, 2, keepdim=True).values + y.amin((2, 3), True)),
    "norms": function(lambda y: y / y.norm(dim=(2, 3), keepdim=True) + torch.linalg.vector_norm(y, dim=2, keepdim=True)),
    "sums of exponentials": function(lambda y: y.logsumexp((2, 3), keepdim=True) * torch.norm(y, p=1, dim=3, keepdim=True)),
    "largest positions": function(lambda y: torch.topk(y.flatten(2), 4)[0].reshape(-1, 8, 2, 2)),
    "place of the largest": function(lambda y: y * y.argmax(3, keepdim=True)),
    "maximum of the channels": function(lambda y: y * torch.amax(y, dim=1, keepdim=True)),
    "norms of the channels": function(lambda y: y / y.norm(p=1, dim=1, keepdim=True) + y / y.exp().sum(1, keepdim=True)),
    "largest of the channels": function(lambda y: y.relu() * torch.max(y.relu(), 1, True)[0] - y.min(dim=1, keepdim=True).values),
    "which channel is the largest": function(lambda y: y * sum(torch.max(y, 1, True)) - sum(torch.min(y, 1, True)), free=0),
    "largest channels": function(lambda y: y.topk(4, dim=1)[0], free=0, behind=4),
}  # fmt: skip


def assigned_rows(m: Between, y: Tensor) -> Tensor:
    """A row of every map is set to a number."""
    y = y * 1.0
    y[:, :, 0] = 0.5
    return y


CASES: dict[str, Case] = {
    "assigned": images(assigned_rows),
    **NORMS, **ELEMENTWISE, **SHAPES, **POOLS, **REDUCTIONS, **LINES,
}  # fmt: skip
"""Name -> case."""


def build(name: str) -> tuple[nn.Module, Tensor]:
    """A calibrated network of `CASES` and an example input of batch 2."""
    torch.manual_seed(0)
    case = CASES[name]
    return calibrated(case.make(), *case.shape), torch.randn(2, *case.shape)
