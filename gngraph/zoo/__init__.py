"""Seed networks: plain torch modules, small enough to start growing from.

Those of other libraries, `torchvision:NAME`, `timm:NAME` and `hf:NAME`, import these where they are asked for.
"""

from __future__ import annotations

from gngraph.zoo.published import Published, Weights
from gngraph.zoo.registry import PUBLISHERS, SEEDS, build_seed, published
from gngraph.zoo.spec import SeedSpec
from gngraph.zoo.vgg import vgg_with_widths

__all__ = [
    "PUBLISHERS",
    "SEEDS",
    "Published",
    "SeedSpec",
    "Weights",
    "build_seed",
    "published",
    "vgg_with_widths",
]
