"""Seed networks: plain torch modules, small enough to start growing from.

Imports torch, torchvision (only for `torchvision:NAME`), `gngraph.errors` and `gngraph.options`.
"""

from __future__ import annotations

from gngraph.zoo.registry import SEEDS, build_seed
from gngraph.zoo.spec import SeedSpec
from gngraph.zoo.vgg import vgg_with_widths

__all__ = ["SEEDS", "SeedSpec", "build_seed", "vgg_with_widths"]
