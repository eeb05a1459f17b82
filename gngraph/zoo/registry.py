"""Seed networks by name. A new family is one file with a table of builders, and one line in `SEEDS`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from gngraph.calling import of_library
from gngraph.errors import UnsupportedModelError
from gngraph.zoo.from_timm import TIMM
from gngraph.zoo.from_torchvision import TORCHVISION
from gngraph.zoo.from_transformers import TRANSFORMERS_HUB
from gngraph.zoo.mlp import MLPS
from gngraph.zoo.mobilenet import MOBILENETS
from gngraph.zoo.published import Library, Published, Weights
from gngraph.zoo.resnet import RESNETS
from gngraph.zoo.spec import Builder, SeedSpec, did_you_mean
from gngraph.zoo.transformer import OPTIONED, TRANSFORMERS
from gngraph.zoo.unet import UNETS
from gngraph.zoo.vgg import VGGS

SEEDS: Mapping[str, Builder] = {
    **VGGS,
    **RESNETS,
    **MOBILENETS,
    **MLPS,
    **TRANSFORMERS,
    **UNETS,
}

PUBLISHERS: Mapping[str, Library] = {"torchvision": TORCHVISION, "timm": TIMM, "hf": TRANSFORMERS_HUB}
"""Networks of other libraries, by what stands before the colon in their names; timm and transformers need not be installed."""


def published(name: str) -> Published | None:
    """How a network of another library was trained; None for gngraph's own seeds.

    Raises:
        UnsupportedModelError: the library is not installed, or has no such network.
    """
    library, _, own = name.partition(":")
    return PUBLISHERS[library].published(own) if of_library(name) else None


def build_seed(
    name: str,
    *,
    width: float = 1.0,
    classes: int = 10,
    input_shape: tuple[int, ...] = (3, 32, 32),
    seed: int = 0,
    weights: Weights = Weights.NEW,
) -> nn.Module:
    """A network of the family `name`, in training mode, on the CPU.

    Args:
        name: a key of `SEEDS`, or one of another library: `torchvision:NAME` and `timm:NAME`, or `hf:NAME` for a type of model of
            transformers, a folder that it saved, or a name on Hugging Face's hub. A "gpt" may have options in braces, those of
            `gngraph.zoo.transformer.DecoderOptions`: `gpt{norm=rms,positions=rotary,queries=2}`.
        width: multiplier of every hidden channel count, rounded to at least 1; 1.0 is the family's own network.
        classes: number of outputs.
        input_shape: shape of one sample, `(channels, height, width)` for images, `(length,)` for tokens.
        seed: seed of the initial weights; the global random state is left as it was.
        weights: those that a network of another library begins with.

    Raises:
        UnsupportedModelError: the name is unknown, the family cannot be built at this size, or there are no weights.

    >>> network = build_seed("vgg11", width=0.25, classes=10, input_shape=(1, 8, 8))
    >>> network(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    spec = SeedSpec(width, classes, input_shape)
    family, options, _ = name.partition("{")
    if not of_library(name) and family not in SEEDS:
        others = ", ".join(f"{library}:NAME" for library in PUBLISHERS)
        raise UnsupportedModelError(
            f'there is no seed "{name}", choose from {", ".join(SEEDS)}, {others}{did_you_mean(name, SEEDS)}'
        )
    if options and family not in OPTIONED.known:
        raise UnsupportedModelError(f'the seed "{family}" has no options, as {", ".join(OPTIONED.known)} has')
    if of_library(name) and width != 1:
        raise UnsupportedModelError(
            f'"{name}" has a fixed width, so the width multiplier must be 1, but it is "{width:g}"'
        )
    if not of_library(name) and weights is Weights.PRETRAINED:
        raise UnsupportedModelError(f'"{name}" has no pretrained weights: those are published by other libraries')
    builder = OPTIONED.one(name) if options else SEEDS.get(name)
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that would also reseed the GPUs, which fork_rng does not restore here.
        torch.default_generator.manual_seed(seed)
        if of_library(name):
            library, _, own = name.partition(":")
            return PUBLISHERS[library].build(own, spec, weights)
        assert builder is not None
        return builder(spec)
