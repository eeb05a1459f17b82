"""Networks of timm as seeds: `timm:NAME`."""

from __future__ import annotations

from types import ModuleType
from typing import Any

from torch import nn

from gngraph.errors import UnsupportedModelError
from gngraph.zoo.published import Library, Published, Weights, first_line, refused
from gngraph.zoo.spec import SeedSpec, did_you_mean


def _timm() -> ModuleType:
    try:
        import timm
    except ModuleNotFoundError as error:
        raise UnsupportedModelError(
            "networks of timm need the package 'timm': install it (pip install timm)"
        ) from error
    return timm


def published(name: str) -> Published:
    """Input size, classes, mean and standard deviation that timm keeps of the network `name`, such as "resnet18.a1_in1k".

    Raises:
        UnsupportedModelError: timm is not installed, or has no such network.
    """
    timm: Any = _timm()
    if not timm.is_model(name):
        raise UnsupportedModelError(
            f'timm has no network "{name}", choose from timm.list_models(){did_you_mean(name, timm.list_models())}'
        )
    kept = timm.get_pretrained_cfg(name)
    if kept is None:
        return Published((3, 224, 224), 1000)
    return Published(tuple(kept.input_size), kept.num_classes, tuple(kept.mean), tuple(kept.std))


def build(name: str, spec: SeedSpec, weights: Weights) -> nn.Module:
    """The network for classes and an input shape.

    Args:
        name: that the library has for it.
        spec: classes and input shape.
        weights: that it begins with.

    Raises:
        UnsupportedModelError: timm is not installed, has no such network or not for this size, or its weights could not be fetched.
    """
    kept, timm = published(name), _timm()
    channels, height, width = spec.image()
    known = weights is Weights.PRETRAINED
    sized = {} if (height, width) == kept.input_shape[1:] else {"img_size": (height, width)}
    for options in (sized, {}):  # networks of patches are made for one size, which others do not take as an option
        try:
            made: nn.Module = timm.create_model(
                name, pretrained=known, num_classes=spec.classes, in_chans=channels, **options
            )
            return made
        except TypeError as error:
            if not options:
                raise UnsupportedModelError(
                    f'"timm:{name}" cannot be made for {spec.classes} classes and inputs of {spec.shape_text}: {first_line(error)}'
                ) from error
        except Exception as error:  # whatever timm, a hub or a connection raises
            raise refused(f"timm:{name}", weights, error) from error
    raise AssertionError


TIMM = Library(published, build)
