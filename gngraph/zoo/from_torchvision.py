"""Classifiers of torchvision as seeds: `torchvision:NAME`."""

from __future__ import annotations

import warnings
from itertools import chain
from typing import Any, cast

import torch
from torch import nn

from gngraph.errors import UnsupportedModelError
from gngraph.zoo.published import Library, Published, Weights, first_line, refused
from gngraph.zoo.spec import Image, SeedSpec, did_you_mean

PREFIX = "torchvision:"


def published(name: str) -> Published:
    """Input size, classes, mean and standard deviation of the newest weights of the classifier `name`.

    Raises:
        UnsupportedModelError: torchvision has no such classifier.
    """
    weights = _weights(name)
    if weights is None:
        return Published((3, 224, 224), 1000)
    taken = weights.transforms()
    (side,) = taken.crop_size
    return Published((3, side, side), len(weights.meta["categories"]), tuple(taken.mean), tuple(taken.std))


def build(name: str, spec: SeedSpec, weights: Weights) -> nn.Module:
    """The classifier `name`, without the prefix.

    The network is run once on the meta device, which costs shapes only, to refuse image sizes it cannot take.

    Args:
        name: that the library has for it.
        spec: classes and input shape.
        weights: that it begins with.

    Raises:
        UnsupportedModelError: torchvision has no such classifier, the network does not run on the input shape, or its weights
            could not be fetched.
    """
    channels, height, width = spec.image()
    if channels != 3:
        raise UnsupportedModelError(
            f'"{PREFIX}{name}" takes 3 input channels, but the input shape "{spec.shape_text}" has {channels};'
            " choose one of gngraph's own families"
        )
    module = _construct(name, spec.classes, height, width)
    _check_runs(module, name, (channels, height, width), spec.shape_text)
    if weights is Weights.PRETRAINED:
        _fill(module, name)
    return module


def _fill(module: nn.Module, name: str) -> None:
    """Load the published weights, but for the head of a network with other classes."""
    weights = _weights(name)
    if weights is None:
        raise UnsupportedModelError(f'torchvision has no weights of "{name}": leave --pretrained out')
    try:
        state = weights.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # whatever a connection or a damaged file raises
        raise refused(f"{PREFIX}{name}", Weights.PRETRAINED, error) from error
    own = module.state_dict()
    module.load_state_dict(
        {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}, strict=False
    )


def _weights(name: str) -> Any:
    """The newest weights of a classifier, an enum's member; None: there are none."""
    from torchvision import models

    _require_known(name)
    kinds: Any = models.get_model_weights(name)
    return getattr(kinds, "DEFAULT", None)


def _require_known(name: str) -> None:
    from torchvision import models  # here, because its import costs half a second

    known = models.list_models(module=models)
    if name not in known:
        raise UnsupportedModelError(
            f'torchvision has no classifier "{name}", choose from torchvision.models.list_models()'
            f"{did_you_mean(name, known)}"
        )


def _construct(name: str, classes: int, height: int, width: int) -> nn.Module:
    from torchvision import models

    _require_known(name)
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
                f'"{PREFIX}{name}" cannot be built for {height}x{width} images: {first_line(error)}'
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
            f'"{PREFIX}{name}" does not run on inputs of {shape_text} ({first_line(error)}); give a larger input shape'
        ) from error
    finally:
        module.train()


TORCHVISION = Library(published, build)
