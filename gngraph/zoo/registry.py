"""Seed networks by name. A new family is one file with a table of builders, and one line in `SEEDS`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from gngraph.errors import UnsupportedModelError
from gngraph.zoo.from_torchvision import PREFIX, build_torchvision
from gngraph.zoo.mlp import MLPS
from gngraph.zoo.mobilenet import MOBILENETS
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


def build_seed(
    name: str,
    *,
    width: float = 1.0,
    classes: int = 10,
    input_shape: tuple[int, ...] = (3, 32, 32),
    seed: int = 0,
) -> nn.Module:
    """A freshly initialised network of the family `name`, in training mode, on the CPU.

    Args:
        name: a key of `SEEDS`, or `torchvision:NAME` for a torchvision classifier. A "gpt" may have options in braces, those of
            `gngraph.zoo.transformer.DecoderOptions`: `gpt{norm=rms,positions=rotary,queries=2}`.
        width: multiplier of every hidden channel count, rounded to at least 1; 1.0 is the family's own network.
        classes: number of outputs.
        input_shape: shape of one sample, `(channels, height, width)` for images, `(length,)` for tokens.
        seed: seed of the initial weights; the global random state is left as it was.

    Raises:
        UnsupportedModelError: the name is unknown or the family cannot be built at this size.

    >>> network = build_seed("vgg11", width=0.25, classes=10, input_shape=(1, 8, 8))
    >>> network(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    spec = SeedSpec(width, classes, input_shape)
    family, options, _ = name.partition("{")
    if not name.startswith(PREFIX) and family not in SEEDS:
        raise UnsupportedModelError(
            f'there is no seed "{name}", choose from {", ".join(SEEDS)} or {PREFIX}NAME{did_you_mean(name, SEEDS)}'
        )
    if options and family not in OPTIONED.known:
        raise UnsupportedModelError(f'the seed "{family}" has no options, as {", ".join(OPTIONED.known)} has')
    builder = OPTIONED.one(name) if options else SEEDS.get(name)
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed: that would also reseed the GPUs, which fork_rng does not restore here.
        torch.default_generator.manual_seed(seed)
        if name.startswith(PREFIX):
            return build_torchvision(name.removeprefix(PREFIX), spec)
        assert builder is not None
        return builder(spec)
