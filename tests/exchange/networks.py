"""Small networks, and files of them as torch's exporters write them."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Residual(nn.Module):
    """Norms that an exporter folds and such that it cannot, a block, groups, pools, and sizes that are read off."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.norm = nn.BatchNorm2d(8)
        self.first, self.second = nn.Conv2d(8, 12, 3, padding=1), nn.Conv2d(12, 8, 1)
        self.deep, self.drop = nn.Conv2d(16, 16, 3, groups=16), nn.Dropout(0.5)
        self.head = nn.Linear(16 * 9, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(self.stem(x), 3, 1, 1)
        y = self.second(F.relu6(self.first(torch.relu(self.norm(x)))))
        y += x
        x = F.avg_pool2d(torch.relu(self.deep(torch.cat([y, F.silu(x)], 1))), 2)
        z: Tensor = self.head(self.drop(x.view(x.size(0), -1)))
        return z


class Tokens(nn.Module):
    """Attention written by its sizes, a norm of each token, and positions that are learned."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(11, 16), nn.Parameter(torch.randn(1, 6, 16))
        self.norm, self.qkv, self.out = nn.LayerNorm(16), nn.Linear(16, 48), nn.Linear(16, 16)
        self.mlp = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.words(x) + self.places
        n, length, width = y.shape
        q, k, v = self.qkv(self.norm(y)).reshape(n, length, 3, 4, width // 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = y + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, length, width))
        z: Tensor = self.head((y + self.mlp(y)).mean(1))
        return z


def networks() -> dict[str, tuple[nn.Module, Tensor]]:
    """Networks in eval mode whose norms have statistics of their own, with two samples each."""
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.BatchNorm1d(8), nn.Linear(8, 3), nn.Softmax(-1))
    made = {
        "residual": (Residual(), torch.randn(2, 3, 16, 16)),
        "tokens": (Tokens(), torch.randint(11, (2, 6))),
        "mlp": (mlp, torch.randn(2, 3, 2, 2)),
    }
    for net, x in made.values():
        with torch.no_grad():
            net.train()(x if not x.is_floating_point() else torch.randn(16, *x.shape[1:]) * 2 + 1)
            for parameter in net.parameters():
                parameter.add_(torch.randn_like(parameter), alpha=0.05)  # or an exporter joins those that are equal
        net.eval()
    return made


def onnx_file(net: nn.Module, x: Tensor, path: Path, *, dynamic: bool = True) -> str:
    """The network as torch's older exporter writes it, which takes a hundredth of the time of the newer."""
    axes = {"x": {0: "batch"}} if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (x,), str(path), dynamo=False, input_names=["x"], dynamic_axes=axes)
    return str(path)


def pt2_file(net: nn.Module, x: Tensor, path: Path, *, dynamic: bool = True) -> str:
    """The network as torch.export writes it."""
    axes = ({0: torch.export.Dim.DYNAMIC},) if dynamic else None
    torch.export.save(torch.export.export(net, (x,), dynamic_shapes=axes), str(path))
    return str(path)
