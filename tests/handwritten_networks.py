"""Networks as people write them for themselves: attention, mixers, adapters, windows, states, learned queries, in many styles."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.handwritten_language import (
    LENGTH,
    WORDS,
    Alibi,
    ComplexPositions,
    Disentangled,
    FusedGroups,
    GroupedQueries,
    Heads,
    Language,
    NanoAttention,
    ReadOffAttention,
    RelativeBias,
    RMSNorm,
    StateSpace,
    SwiGLU,
)
from tests.handwritten_pairs import Correlation, Factors, Towers, WordPictures
from tests.handwritten_public import Encoder, FieldNetwork, SwinIR, TemporalNetwork, TextTower, Vocoder


class Written(NamedTuple):
    """A network, and the shape of one input: words, or numbers of things, where that is a single axis."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]


class LowRank(nn.Linear):
    """LoRA as most repositories have it."""

    def __init__(self, inputs: int, outputs: int, r: int = 3, alpha: int = 6) -> None:
        super().__init__(inputs, outputs)
        self.lora_A, self.lora_B = (
            nn.Parameter(torch.randn(r, inputs) * 0.1),
            nn.Parameter(torch.randn(outputs, r) * 0.1),
        )
        self.scaling = alpha / r

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight + self.lora_B @ self.lora_A * self.scaling, self.bias)


class Factored(nn.Module):
    """A layer of low rank whose factors are multiplied first, and one whose weights are scaled as StyleGAN scales them."""

    def __init__(self) -> None:
        super().__init__()
        self.U, self.V = nn.Parameter(torch.randn(20, 4) * 0.5), nn.Parameter(torch.randn(4, 16) * 0.5)
        self.bias = nn.Parameter(torch.zeros(20))
        self.weight, self.lr_mul = nn.Parameter(torch.randn(16, 20)), 1 / math.sqrt(20)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.relu(F.linear(x, self.U @ self.V, self.bias)), self.weight * self.lr_mul)


class Adapted(nn.Module):
    """A network of layers with adapters of low rank, and a factored one, on words."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(WORDS, 16), nn.LayerNorm(16)
        self.up, self.down, self.more = LowRank(16, 20), LowRank(20, 16), Factored()
        self.head = nn.Linear(16, 5)

    def forward(self, idx: Tensor) -> Tensor:
        x = self.embed(idx)
        x = x + self.down(F.gelu(self.up(self.norm(x))))
        return cast(Tensor, self.head((x + self.more(x)).mean(1)))


class Patches(nn.Module):
    """A ViT: patches by a convolution, a class token, blocks, a norm, the first token read."""

    def __init__(self, block: Callable[[], nn.Module], token: bool = True) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(3, 16, kernel_size=4, stride=4)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, 16)) if token else None
        self.pos_embed = nn.Parameter(torch.randn(1, 4 + token, 16) * 0.02)
        self.blocks = nn.Sequential(block(), block())
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        B = x.shape[0]
        x = self.patch_embed(x).flatten(2).transpose(1, 2)
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(B, -1, -1), x), dim=1)
        x = self.blocks(x + self.pos_embed)
        x = self.norm(x)
        return cast(Tensor, self.head(x[:, 0] if self.cls_token is not None else x.mean(dim=1)))


class ViTBlock(nn.Module):
    """timm's style: qkv in one, `unbind`, layer scale."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.proj, self.num_heads = nn.Linear(16, 48, bias=False), nn.Linear(16, 16), 2
        self.fc1, self.fc2 = nn.Linear(16, 24), nn.Linear(24, 16)
        self.gamma1, self.gamma2 = nn.Parameter(torch.full((16,), 0.5)), nn.Parameter(torch.full((16,), 0.5))

    def attention(self, x: Tensor) -> Tensor:
        B, N, C = x.shape
        qkv = self.qkv(x).reshape(B, N, 3, self.num_heads, C // self.num_heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        attn = (q * (C // self.num_heads) ** -0.5) @ k.transpose(-2, -1)
        return cast(Tensor, self.proj((attn.softmax(dim=-1) @ v).transpose(1, 2).reshape(B, N, C)))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.gamma1 * self.attention(self.norm1(x))
        return cast(Tensor, x + self.gamma2 * self.fc2(F.gelu(self.fc1(self.norm2(x)))))


class ThreeProjections(nn.Module):
    """Separate projections, a norm of queries and keys by head, parallel branches."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(16)
        self.q_proj, self.k_proj, self.v_proj, self.out = (nn.Linear(16, 16) for _ in range(4))
        self.q_norm, self.k_norm = nn.LayerNorm(4), nn.LayerNorm(4)
        self.mlp = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Dropout(0.1), nn.Linear(24, 16))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        n, t, _ = y.shape
        q = self.q_norm(self.q_proj(y).view(n, t, -1, 4)).transpose(1, 2)
        k = self.k_norm(self.k_proj(y).view(n, t, -1, 4)).transpose(1, 2)
        v = self.v_proj(y).view(n, t, -1, 4).transpose(1, 2)
        att = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return cast(Tensor, x + self.out(att) + self.mlp(y))


class MixerBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(16), nn.LayerNorm(16)
        self.tokens = nn.Sequential(nn.Linear(4, 7), nn.GELU(), nn.Linear(7, 4))
        self.channels = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return cast(Tensor, x + self.channels(self.norm2(x)))


class SpatialGate(nn.Module):
    """gMLP's block: half of the channels gate the other half, after a layer along the tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.proj_in, self.proj_out = nn.LayerNorm(16), nn.Linear(16, 24), nn.Linear(12, 16)
        self.sgu_norm, self.spatial = nn.LayerNorm(12), nn.Conv1d(4, 4, kernel_size=1)
        nn.init.constant_(cast(Tensor, self.spatial.bias), 1.0)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.proj_in(self.norm(x)))
        u, v = y.chunk(2, dim=-1)
        return cast(Tensor, x + self.proj_out(u * self.spatial(self.sgu_norm(v))))


def conv_mixer() -> nn.Module:
    class Residual(nn.Module):
        def __init__(self, fn: nn.Module) -> None:
            super().__init__()
            self.fn = fn

        def forward(self, x: Tensor) -> Tensor:
            return cast(Tensor, self.fn(x) + x)

    def block() -> nn.Module:
        depthwise = nn.Sequential(nn.Conv2d(12, 12, 3, groups=12, padding="same"), nn.GELU(), nn.BatchNorm2d(12))
        return nn.Sequential(Residual(depthwise), nn.Conv2d(12, 12, kernel_size=1), nn.GELU(), nn.BatchNorm2d(12))

    stem = (nn.Conv2d(3, 12, kernel_size=2, stride=2), nn.GELU(), nn.BatchNorm2d(12))
    return nn.Sequential(*stem, block(), block(), nn.AdaptiveAvgPool2d((1, 1)), nn.Flatten(), nn.Linear(12, 5))


class Perceiver(nn.Module):
    """Learned latents that look at the input by cross attention, then at each other."""

    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(3, 16))
        self.embed, self.norm_x, self.norm_l = nn.Linear(5, 16), nn.LayerNorm(16), nn.LayerNorm(16)
        self.to_q, self.to_kv, self.to_out = (
            nn.Linear(16, 16, bias=False),
            nn.Linear(16, 32, bias=False),
            nn.Linear(16, 16),
        )
        self.mlp, self.self_attention = nn.Sequential(nn.LayerNorm(16), SwiGLU()), ViTBlock()
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        b, x = x.shape[0], self.embed(x)
        latents = self.latents.unsqueeze(0).repeat(b, 1, 1)
        q = self.to_q(self.norm_l(latents))
        k, v = self.to_kv(self.norm_x(x)).chunk(2, dim=-1)
        q, k, v = (y.unflatten(-1, (4, 4)).transpose(1, 2) for y in (q, k, v))
        sim = torch.einsum("b h i d, b h j d -> b h i j", q, k) * 4**-0.5
        out = torch.einsum("b h i j, b h j d -> b h i d", sim.softmax(dim=-1), v)
        latents = latents + self.to_out(out.transpose(1, 2).flatten(2))
        latents = self.self_attention(latents + self.mlp(latents))
        return cast(Tensor, self.head(latents.mean(1)))


class Queries(nn.Module):
    """DETR's end: queries for objects that `nn.TransformerDecoderLayer`'s kind of attention answers, by torch's own module."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.query_embed = nn.Conv2d(3, 16, 4, 4), nn.Embedding(3, 16)
        self.row, self.col = nn.Parameter(torch.rand(2, 8)), nn.Parameter(torch.rand(2, 8))
        self.attend, self.norm = nn.MultiheadAttention(16, 2, batch_first=True), nn.LayerNorm(16)
        self.linear1, self.linear2 = nn.Linear(16, 24), nn.Linear(24, 16)
        self.classes = nn.Linear(16, 5)

    def forward(self, images: Tensor) -> Tensor:
        h = self.backbone(images)
        H, W = h.shape[-2:]
        pos = (
            torch.cat([self.col[:W].unsqueeze(0).repeat(H, 1, 1), self.row[:H].unsqueeze(1).repeat(1, W, 1)], dim=-1)
            .flatten(0, 1)
            .unsqueeze(0)
        )
        memory = h.flatten(2).permute(0, 2, 1) + pos
        queries = self.query_embed.weight.unsqueeze(0).expand(images.shape[0], -1, -1)
        x = queries + self.attend(queries, memory, memory)[0]
        x = self.norm(x)
        return cast(Tensor, self.classes(x + self.linear2(F.relu(self.linear1(x)))))


class Windows(nn.Module):
    """Swin's attention in windows of a shifted map, with a bias for each pair of places and head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Conv2d(3, 16, 2, 2), nn.LayerNorm(16)
        self.qkv, self.proj = nn.Linear(16, 48), nn.Linear(16, 16)
        self.table = nn.Parameter(torch.randn(9, 4) * 0.1)
        at = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij")).flatten(1)
        apart = at[:, :, None] - at[:, None, :] + 1
        self.register_buffer("places", apart[0] * 3 + apart[1])
        self.places: Tensor
        self.mlp, self.head = (
            nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 20), nn.GELU(), nn.Linear(20, 16)),
            nn.Linear(16, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x).permute(0, 2, 3, 1)
        b, h, w, c = x.shape
        y = torch.roll(self.norm(x), shifts=(-1, -1), dims=(1, 2))
        y = y.view(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        qkv = self.qkv(y).reshape(-1, 4, 3, 4, c // 4).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        attn = q @ k.transpose(-2, -1) * (c // 4) ** -0.5
        bias = self.table[self.places.view(-1)].view(4, 4, -1).permute(2, 0, 1)
        attn = (attn + bias.unsqueeze(0)).softmax(-1)
        y = self.proj((attn @ v).transpose(1, 2).reshape(-1, 4, c))
        y = y.view(b, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        x = x + torch.roll(y, shifts=(1, 1), dims=(1, 2))
        return cast(Tensor, self.head((x + self.mlp(x)).mean((1, 2))))


class LinearAttention(nn.Module):
    """Keys and values are summed up first, by a feature map."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, 4, c // 4).permute(2, 0, 3, 1, 4)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        kv = torch.einsum("bhnd,bhne->bhde", k, v)
        z = 1 / (torch.einsum("bhnd,bhd->bhn", q, k.sum(dim=2)) + 1e-6)
        return cast(Tensor, self.out(torch.einsum("bhnd,bhde,bhn->bhne", q, kv, z).transpose(1, 2).reshape(b, t, c)))


class Recurrent(nn.Module):
    """A classifier of words by an LSTM both ways, of which the last states are read, with attention over its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, 12, padding_idx=0)
        self.lstm = nn.LSTM(12, 10, num_layers=2, batch_first=True, bidirectional=True, dropout=0.2)
        self.attention, self.fc = nn.Linear(20, 1), nn.Linear(40, 5)

    def forward(self, text: Tensor) -> Tensor:
        embedded = self.embedding(text)
        output, (hidden, _) = self.lstm(embedded)
        weights = torch.softmax(self.attention(torch.tanh(output)).squeeze(-1), dim=1)
        context = torch.bmm(weights.unsqueeze(1), output).squeeze(1)
        return cast(Tensor, self.fc(torch.cat((context, hidden[-2], hidden[-1]), dim=1)))


class LastWord(nn.Module):
    """The token behind which a text ends, found by the words themselves, as CLIP finds it."""

    def __init__(self) -> None:
        super().__init__()
        self.body = Language(lambda: NanoAttention(flash=True))
        self.body.head = cast(Any, nn.Identity())
        self.text_projection = nn.Parameter(torch.randn(16, 5) * 0.3)

    def forward(self, text: Tensor) -> Tensor:
        x = self.body(text)
        return cast(Tensor, x[torch.arange(x.shape[0]), text.argmax(dim=-1)] @ self.text_projection)


class Mixture(nn.Module):
    """Experts that all run, weighted by a gate of two that are kept."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.gate = nn.Linear(5, 16), nn.Linear(16, 4, bias=False)
        self.w1, self.w2 = nn.Parameter(torch.randn(4, 16, 24) * 0.2), nn.Parameter(torch.randn(4, 24, 16) * 0.2)
        self.norm, self.head = RMSNorm(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        y = self.norm(x)
        scores, chosen = torch.topk(self.gate(y).softmax(-1), 2, dim=-1)
        weights = torch.zeros_like(self.gate(y)).scatter(-1, chosen, scores)
        hidden = F.silu(torch.einsum("btd,edh->bteh", y, self.w1))
        out = torch.einsum("bteh,ehd->bted", hidden, self.w2)
        return cast(Tensor, self.head(x + (out * weights.unsqueeze(-1)).sum(2)))


NETWORKS: dict[str, Written] = {
    "llama by hand": Written(lambda: Language(GroupedQueries, RMSNorm), (LENGTH,)),
    "llama by complex numbers": Written(lambda: Language(ComplexPositions, RMSNorm), (LENGTH,)),
    "nanogpt": Written(lambda: Language(lambda: NanoAttention(flash=False), tied=True), (LENGTH,)),
    "nanogpt, fused": Written(lambda: Language(lambda: NanoAttention(flash=True)), (LENGTH,)),
    "mingpt, pieces of the stream's size": Written(
        lambda: Language(lambda: ReadOffAttention("one", "root")), (LENGTH,)
    ),
    "mingpt, a list of them": Written(lambda: Language(lambda: ReadOffAttention("listed", "power")), (LENGTH,)),
    "mingpt, fused by a scale of its own": Written(
        lambda: Language(lambda: ReadOffAttention("one", "fused")), (LENGTH,)
    ),
    "grouped queries by torch": Written(lambda: Language(FusedGroups), (LENGTH,)),
    "a module for every head": Written(lambda: Language(Heads), (LENGTH,)),
    "relative biases": Written(lambda: Language(RelativeBias), (LENGTH,)),
    "disentangled attention": Written(lambda: Language(Disentangled), (LENGTH,)),
    "alibi": Written(lambda: Language(Alibi), (LENGTH,)),
    "linear attention": Written(lambda: Language(LinearAttention), (LENGTH,)),
    "state space": Written(lambda: Language(StateSpace, RMSNorm), (LENGTH,)),
    "adapters of low rank": Written(Adapted, (LENGTH,)),
    "vit": Written(lambda: Patches(ViTBlock), (3, 8, 8)),
    "vit of three projections": Written(lambda: Patches(ThreeProjections), (3, 8, 8)),
    "mixer": Written(lambda: Patches(MixerBlock, token=False), (3, 8, 8)),
    "gmlp": Written(lambda: Patches(SpatialGate, token=False), (3, 8, 8)),
    "convmixer": Written(conv_mixer, (3, 8, 8)),
    "perceiver": Written(Perceiver, (7, 5)),
    "learned queries": Written(Queries, (3, 8, 8)),
    "windows": Written(Windows, (3, 8, 8)),
    "recurrent": Written(Recurrent, (LENGTH,)),
    "the last word": Written(LastWord, (LENGTH,)),
    "mixture of experts": Written(Mixture, (7, 5)),
    "two towers": Written(Towers, (2,)),
    "matrix factorisation": Written(Factors, (3,)),
    "words as pictures": Written(WordPictures, (LENGTH,)),
    "stereo matching": Written(lambda: Correlation(3, 3), (6, 8, 8)),
    "annotated transformer": Written(Encoder, (LENGTH,)),
    "clip's text tower": Written(TextTower, (LENGTH,)),
    "windows by int": Written(SwinIR, (3, 8, 8)),
    "offsets in numpy": Written(FieldNetwork, (3,)),
    "weights by hooks": Written(Vocoder, (5, 9)),
    "layers of two names": Written(TemporalNetwork, (5, 9)),
}
"""Name -> network."""


def built(name: str) -> tuple[nn.Module, Tensor]:
    """A network of one seed, and two samples."""
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    words = len(shape) == 1
    return make(), torch.randint(0, WORDS, (2, *shape)) if words else torch.randn(2, *shape)
