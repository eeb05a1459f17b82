"""Untrained torchvision classifiers as seeds: `torchvision:NAME`."""

from __future__ import annotations

import warnings
from itertools import chain
from typing import cast

import torch
from torch import nn

from gngraph.errors import UnsupportedModelError
from gngraph.zoo.spec import Image, SeedSpec, did_you_mean

PREFIX = "torchvision:"


def build_torchvision(name: str, spec: SeedSpec) -> nn.Module:
    """The torchvision classifier `name` (without the prefix) with fresh weights.

    The network is run once on the meta device, which costs shapes only, to refuse image sizes it cannot take.

    Raises:
        UnsupportedModelError: torchvision has no such classifier, the width is not 1, or the network does not run on
            the input shape.
    """
    channels, height, width = spec.image()
    if spec.width != 1:
        raise UnsupportedModelError(
            f'"{PREFIX}{name}" has a fixed width, so the width multiplier must be 1, but it is "{spec.width:g}"'
        )
    if channels != 3:
        raise UnsupportedModelError(
            f'"{PREFIX}{name}" takes 3 input channels, but the input shape "{spec.shape_text}" has {channels};'
            " choose one of gngraph's own families"
        )
    module = _construct(name, spec.classes, height, width)
    _check_runs(module, name, (channels, height, width), spec.shape_text)
    return module


def _construct(name: str, classes: int, height: int, width: int) -> nn.Module:
    from torchvision import models  # here, because its import costs half a second

    known = models.list_models(module=models)
    if name not in known:
        raise UnsupportedModelError(
            f'torchvision has no classifier "{name}", choose from torchvision.models.list_models()'
            f"{did_you_mean(name, known)}"
        )
    options: dict[str, object] = {}
    if name.startswith("vit_"):
        options["image_size"] = height
    elif name == "maxvit_t":
        options["input_size"] = (height, width)
    with warnings.catch_warnings():
        # GoogLeNet and Inception announce a future change of their initialisation on every construction.
        warnings.simplefilter("ignore", FutureWarning)
        try:
            return cast(nn.Module, models.get_model(name, weights=None, num_classes=classes, **options))
        except (ValueError, AssertionError, RuntimeError) as error:
            raise UnsupportedModelError(
                f'"{PREFIX}{name}" cannot be built for {height}x{width} images: {_first_line(error)}'
            ) from error


def _check_runs(module: nn.Module, name: str, image: Image, shape_text: str) -> None:
    on_meta = {
        key: torch.empty_like(value, device="meta")
        for key, value in chain(module.named_parameters(), module.named_buffers())
    }
    module.eval()
    try:
        with torch.no_grad():
            torch.func.functional_call(module, on_meta, (torch.empty(1, *image, device="meta"),))
    except (ValueError, AssertionError, RuntimeError, IndexError) as error:
        raise UnsupportedModelError(
            f'"{PREFIX}{name}" does not run on inputs of {shape_text} ({_first_line(error)}); give a larger input shape'
        ) from error
    finally:
        module.train()


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".!")
