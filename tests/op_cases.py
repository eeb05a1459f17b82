"""What cases of ops are made of: a function between two convolutions, and the spaces that must be free there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, cast

from torch import Tensor, nn


class Case(NamedTuple):
    """A network, the shape of one input, its free spaces with their widths, and the calls in it that have no op."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    free: dict[str, int]
    foreign: tuple[str, ...] = ()


class Between(nn.Module):
    """A convolution to 8 channels, a function of its result and of the module's parameters, and a convolution behind it."""

    def __init__(
        self, run: Callable[[Between, Tensor], Tensor], behind: int = 8, **parts: nn.Module | nn.Parameter
    ) -> None:
        super().__init__()
        self.run = run
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(behind, 3, 1)
        for name, part in parts.items():
            if isinstance(part, nn.Parameter):
                self.register_parameter(name, part)
            else:
                self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.last(self.run(self, self.first(x))))

    def __getattr__(self, name: str) -> Any:
        return super().__getattr__(name)


def images(
    run: Callable[[Between, Tensor], Tensor], free: int = 8, behind: int = 8, **parts: Callable[[], object]
) -> Case:
    """A case of `Between` on images of 6x6 whose first convolution has `free` channels that can change, or none."""

    def make() -> nn.Module:
        return Between(run, behind, **{name: cast(nn.Module, part()) for name, part in parts.items()})

    return Case(make, (3, 6, 6), {"first": free} if free else {})


def module(build: Callable[[], nn.Module], free: int = 8, behind: int = 8) -> Case:
    """A case whose function is the module that `build` gives."""
    return images(lambda m, y: m.part(y), free, behind, part=build)


def function(run: Callable[[Tensor], Tensor], free: int = 8, behind: int = 8) -> Case:
    """A case whose function has no parameters."""
    return images(lambda m, y: run(y), free, behind)
