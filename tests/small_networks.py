"""Small networks, one for each way in which channels are coupled, and the calibration that makes a comparison able to fail."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import torch
from torch import nn

from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph


def calibrated(network: nn.Module, *shape: int) -> nn.Module:
    """`network` in eval mode with BatchNorm statistics of random inputs and no tensor of zeros.

    A fresh network hardly depends on its input in eval mode, so that almost any rewrite of it would seem exact.
    """
    generator = torch.Generator().manual_seed(1)
    without_constants(network, generator)
    return settled(network, torch.randn(16, *shape, generator=generator))


def without_constants(network: nn.Module, generator: torch.Generator) -> None:
    """Add noise to every parameter whose entries are all equal."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.min() == parameter.max():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)


def settled(network: nn.Module, *inputs: torch.Tensor) -> nn.Module:
    """`network` in eval mode with the BatchNorm statistics of `inputs`."""
    norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = None  # the plain average over what it sees
    if norms:
        with torch.no_grad():
            network.train()(*inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return network.eval()


def conv_block(inputs: int, outputs: int, kernel: int = 3, **options: int) -> nn.Sequential:
    """Convolution without a bias, BatchNorm, ReLU; padded to keep the size."""
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False, **options)  # type: ignore[arg-type]
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = conv_block(3, 6), conv_block(6, 5)
        self.back, self.norm = nn.Conv2d(5, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        x = torch.relu(x + self.norm(self.back(self.inner(x))))
        return self.head(x.mean((2, 3)))  # type: ignore[no-any-return]


class Dense(nn.Module):
    """Concatenation as in DenseNet: a BatchNorm and a convolution read several spaces at once."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.grow1 = conv_block(3, 4), conv_block(4, 3)
        self.norm, self.grow2 = nn.BatchNorm2d(7), nn.Conv2d(7, 2, 3, padding=1)
        self.head = nn.Linear(9, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.stem(x)
        b = torch.cat([a, self.grow1(a)], 1)
        c = torch.cat([b, self.grow2(torch.relu(self.norm(b)))], 1)
        return self.head(torch.flatten(nn.functional.adaptive_avg_pool2d(c, 1), 1))  # type: ignore[no-any-return]


class CatThenAdd(nn.Module):
    """A concatenation added to one convolution, whose channels are thereby cut in two spaces."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.both = nn.Conv2d(3, 2, 3), nn.Conv2d(3, 4, 3), nn.Conv2d(3, 6, 3)
        self.read = nn.Conv2d(6, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.read(torch.relu(torch.cat([self.a(x), self.b(x)], 1) + self.both(x)))  # type: ignore[no-any-return]


class CatWithNothing(nn.Module):
    """Layers with a shift over channels between them that moves none of them."""

    def __init__(self) -> None:
        super().__init__()
        self.write, self.read = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Class scores for x, [N, 3]."""
        a = torch.relu(self.write(x))
        return self.read(torch.cat([a[:, 6:], a[:, :6]], 1))  # type: ignore[no-any-return]


class CatWithItself(nn.Module):
    """One value twice in a concatenation: two stretches of the reader belong to the same channel."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.read = conv_block(3, 4), nn.Conv2d(8, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a = self.a(x)
        return self.read(torch.cat([a, torch.tanh(a)], 1))  # type: ignore[no-any-return]


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.down, self.up, self.last = (
            conv_block(3, 6),
            nn.Conv2d(6, 3, 1),
            nn.Conv2d(3, 6, 1),
            conv_block(6, 5),
        )
        self.head = nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        gate = torch.sigmoid(self.up(nn.functional.silu(self.down(nn.functional.adaptive_avg_pool2d(x, 1)))))
        return self.head(self.last(x * gate).mean((2, 3)))  # type: ignore[no-any-return]


class SharedModule(nn.Module):
    """One convolution called twice: what it reads and what it writes is one space."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.twice, self.read = conv_block(3, 5), nn.Conv2d(5, 5, 3, padding=1), nn.Conv2d(5, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.read(torch.relu(self.twice(torch.relu(self.twice(x)))))  # type: ignore[no-any-return]


class SharedReader(nn.Module):
    """One convolution that reads two values, which therefore share their space; its own output is free."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.shared, self.read = (
            conv_block(3, 4),
            conv_block(3, 4),
            nn.Conv2d(4, 5, 3),
            nn.Conv2d(5, 3, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.shared(self.a(x))) + torch.tanh(self.shared(self.b(x)))
        return self.read(y)  # type: ignore[no-any-return]


class TiedWeights(nn.Module):
    """An autoencoder whose two hidden layers share one weight under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.mid, self.again, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.again.weight = self.mid.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.first(x))
        return self.head(torch.relu(self.again(torch.relu(self.mid(x)))))  # type: ignore[no-any-return]


class LayerScale(nn.Module):
    """A raw parameter multiplied on, as in ConvNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner, self.read = conv_block(3, 6), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 3, 1)
        self.scale = nn.Parameter(torch.full((6, 1, 1), 0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.read(x + self.scale * torch.tanh(self.inner(x)))  # type: ignore[no-any-return]


class AttentionMap(nn.Module):
    """A one-channel map broadcast over all channels, as in spatial attention: its own space must stay 1 wide."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.map, self.read = conv_block(3, 5), nn.Conv2d(5, 1, 3, padding=1), nn.Conv2d(5, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.read(x * torch.sigmoid(self.map(x)))  # type: ignore[no-any-return]


class TokenMlp(nn.Module):
    """Linear layers on a 3-D value [N, T, F], with LayerNorm over the model width."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm, self.up, self.down = nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 9), nn.Linear(9, 6)
        self.head = nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        x = x + self.down(nn.functional.gelu(self.up(self.norm(x))))
        return self.head(x.mean(1))  # type: ignore[no-any-return]


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = conv_block(3, 5), nn.Conv2d(5, 2, 1), nn.Conv2d(5, 3, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor | tuple[torch.Tensor, ...]]:
        x = self.stem(x)
        return {"main": self.a(x), "rest": (self.b(x), x.mean((2, 3)).sum(1))}


def _depthwise() -> nn.Module:
    return nn.Sequential(
        *conv_block(3, 4),
        *conv_block(4, 4, groups=4),
        nn.Conv2d(4, 6, 1),
        nn.ReLU6(),
        nn.Flatten(),
        nn.Linear(6 * 64, 3),
    )


def _depthwise_twice_as_wide() -> nn.Module:
    return nn.Sequential(*conv_block(3, 4), *conv_block(4, 8, groups=4), nn.Conv2d(8, 3, 1))


def _flattened_norm() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.BatchNorm1d(36), nn.Linear(36, 7, bias=False),
        nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 3),
    )  # fmt: skip


def _plain() -> nn.Module:
    """No padding anywhere, so that a folded mean is exact."""
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 6, 3, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.Flatten(),
        nn.Linear(6 * 16, 3),
    )  # fmt: skip


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "plain": (_plain, (3, 8, 8)),
    "residual": (Residual, (3, 8, 8)),
    "dense": (Dense, (3, 8, 8)),
    "cat then add": (CatThenAdd, (3, 8, 8)),
    "cat with itself": (CatWithItself, (3, 8, 8)),
    "cat with nothing": (CatWithNothing, (5,)),
    "depthwise": (_depthwise, (3, 8, 8)),
    "depthwise multiplier 2": (_depthwise_twice_as_wide, (3, 8, 8)),
    "squeeze-excite": (SqueezeExcite, (3, 8, 8)),
    "batch norm after flatten": (_flattened_norm, (3, 8, 8)),
    "shared module": (SharedModule, (3, 8, 8)),
    "shared reader": (SharedReader, (3, 8, 8)),
    "tied weights": (TiedWeights, (6,)),
    "layer scale": (LayerScale, (3, 8, 8)),
    "attention map": (AttentionMap, (3, 8, 8)),
    "token mlp": (TokenMlp, (4, 5)),
    "two outputs": (TwoOutputs, (3, 8, 8)),
}
"""Name -> factory and the shape of one input."""


def build(name: str) -> tuple[nn.Module, torch.Tensor]:
    """A calibrated network of `NETWORKS` and an example input of batch 2."""
    torch.manual_seed(0)
    make, shape = NETWORKS[name]
    return calibrated(make(), *shape), torch.randn(2, *shape)


def imported(name: str) -> Graph:
    """The graph of `build(name)`, which all tests share, for graphs never change; random numbers begin anew."""
    graph = _imported(name)
    torch.default_generator.manual_seed(0)
    return graph


@cache
def _imported(name: str) -> Graph:
    return from_torch(*build(name))
