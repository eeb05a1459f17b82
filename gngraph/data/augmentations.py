"""Augmentations by name, such as `flip,crop{padding=4},mixup{alpha=0.2}`, and those of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Protocol

from gngraph.calling import CallError, is_factory, resolved
from gngraph.data.arrays import LARGEST_BYTE
from gngraph.data.augment import Augment, Chain, CropFlip, padding_for
from gngraph.data.preprocess import Preprocess
from gngraph.data.transforms import Mixing, OfPictures, OwnAugment
from gngraph.errors import DataError, OptionError
from gngraph.options.text import Vocabulary, option_text, written
from gngraph.options.values import Positive, Share, Within

TargetKind = Literal["classes", "answers", "numbers", "masks", "others"]
"""What targets are: a class a sample, several yes or no, numbers, a class a pixel, or what is not known here."""


@dataclass(frozen=True)
class Setting:
    """What is augmented.

    Attributes:
        shape: of a sample as networks read it; None where that has several inputs.
        pixels: how bytes become these; None where samples are no pictures that were stored as bytes.
        loss: its name.
        targets: what it reads.
        classes: how many there are, where targets are labels; None where they are shares, or not known.
        own: what the data is augmented by where nothing is said.
    """

    shape: tuple[int, ...] | None
    pixels: Preprocess | None
    loss: str
    targets: TargetKind
    classes: int | None
    own: Augment | None = None

    @property
    def masks(self) -> bool:
        """Whether targets are classes of pixels."""
        return self.targets == "masks"

    def require_pictures(self, name: str) -> tuple[int, int]:
        """Height and width of the pictures.

        Args:
            name: of the augmentation that is for them.

        Raises:
            DataError: samples are none.
        """
        self._require_one_input(name)
        if self.shape is None or len(self.shape) != 3:
            raise DataError(f"augmentation '{name}' is for pictures C,H,W, but samples have the shape {self.shape}")
        return self.shape[1], self.shape[2]

    def _require_one_input(self, name: str) -> None:
        if self.shape is None:
            own = "leave it out, or give a function of your own from (x, y) to (x, y)"
            raise DataError(f"augmentation '{name}' is for samples of one input, but these have several: {own}")

    def require_bytes(self, name: str) -> Preprocess:
        """How the bytes of pictures become inputs.

        Args:
            name: of the augmentation that changes colours.

        Raises:
            DataError: samples are no pictures, or not known as bytes; or targets are masks, which would not move along.
        """
        self.require_pictures(name)
        if self.masks:
            raise DataError(f"augmentation '{name}' shears and turns pictures, and masks would stay as they are")
        if self.pixels is None:
            raise DataError(
                f"augmentation '{name}' changes colours of pictures that are stored as bytes, which this data is not known to be: "
                f"use flip, crop, resized-crop or erasing, or a function of your own"
            )
        return self.pixels

    def require_mixed(self, name: str, *, classes: bool) -> bool:
        """Whether targets are numbers, which are mixed as they are.

        Args:
            name: of the augmentation that mixes.
            classes: whether they must be classes or answers.

        Raises:
            DataError: it is not known what mixed targets are.
        """
        self._require_one_input(name)
        if self.targets in ("masks", "others") or (classes and self.targets == "numbers"):
            what = "cross-entropy and bce-with-logits" if classes else "cross-entropy, bce-with-logits and mse"
            raise DataError(
                f"augmentation '{name}' mixes targets, which has a meaning for {what}, but not known for '{self.loss}': leave it "
                f"out, or give a function of your own from (x, y) to (x, y)"
            )
        return self.targets != "classes" or self.classes is None


class NamedAugment(Protocol):
    """An augmentation that a text names: a frozen dataclass, whose fields are its options."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    name: ClassVar[str]

    def made(self, setting: Setting) -> Augment | None:
        """What changes batches; None: nothing.

        Args:
            setting: what is augmented.

        Raises:
            DataError: it is nothing for this.
        """
        ...


@dataclass(frozen=True)
class Auto:
    """What is harmless: crop and flip for colour pictures of at least 16 x 16 pixels, else nothing."""

    name: ClassVar[str] = "auto"

    def made(self, setting: Setting) -> Augment | None:
        """See `NamedAugment`."""
        return setting.own


@dataclass(frozen=True)
class Flip:
    """Horizontal flip of a share `p` of the pictures."""

    name: ClassVar[str] = "flip"
    p: Share = 0.5

    def made(self, setting: Setting) -> Augment:
        """See `NamedAugment`."""
        setting.require_pictures(self.name)
        return CropFlip(0, self.p, setting.masks)


@dataclass(frozen=True)
class Crop:
    """Random crop out of the picture with `padding` pixels around it, by default an eighth of the side."""

    name: ClassVar[str] = "crop"
    padding: Positive | None = None

    def made(self, setting: Setting) -> Augment:
        """See `NamedAugment`."""
        height, width = setting.require_pictures(self.name)
        return CropFlip(self.padding or padding_for(height, width), 0.0, setting.masks)


@dataclass(frozen=True)
class ResizedCrop:
    """Random part of the picture, with a share of its area and a ratio of width to height, resized to the whole."""

    name: ClassVar[str] = "resized-crop"
    scale: tuple[Annotated[float, Within(above=0, most=1)], ...] = (0.08, 1.0)
    ratio: tuple[Annotated[float, Within(above=0)], ...] = (0.75, 1.3333)

    def __post_init__(self) -> None:
        _require_ranges(self.name, scale=self.scale, ratio=self.ratio)

    def made(self, setting: Setting) -> Augment:
        """See `NamedAugment`."""
        from torchvision.transforms import v2

        size = setting.require_pictures(self.name)
        return OfPictures(v2.RandomResizedCrop(size, self.scale, self.ratio), written(self), None, setting.masks)


@dataclass(frozen=True)
class RandAugment:
    """`ops` random changes of colour and shape one after the other, each of strength `magnitude` of 30."""

    name: ClassVar[str] = "randaugment"
    ops: Positive = 2
    magnitude: Annotated[int, Within(0, 30)] = 9

    def made(self, setting: Setting) -> Augment:
        """See `NamedAugment`."""
        from torchvision.transforms import v2

        pixels = setting.require_bytes(self.name)
        return OfPictures(v2.RandAugment(self.ops, self.magnitude, fill=_mean(pixels)), written(self), pixels)


@dataclass(frozen=True)
class TrivialAugment:
    """One random change of colour or shape, of random strength."""

    name: ClassVar[str] = "trivialaugment"

    def made(self, setting: Setting) -> Augment:
        """See `NamedAugment`."""
        from torchvision.transforms import v2

        pixels = setting.require_bytes(self.name)
        return OfPictures(v2.TrivialAugmentWide(fill=_mean(pixels)), written(self), pixels)


@dataclass(frozen=True)
class AutoAugment:
    """Pairs of changes of colour and shape that were found for a data set."""

    name: ClassVar[str] = "autoaugment"
    policy: Literal["imagenet", "cifar10", "svhn"] = "imagenet"

    def made(self, setting: Setting) -> Augment:
        """See `NamedAugment`."""
        from torchvision.transforms import v2

        pixels = setting.require_bytes(self.name)
        return OfPictures(v2.AutoAugment(v2.AutoAugmentPolicy(self.policy), fill=_mean(pixels)), written(self), pixels)


@dataclass(frozen=True)
class Erasing:
    """A random rectangle of a share `p` of the pictures, with a share of the area, gets the mean colour."""

    name: ClassVar[str] = "erasing"
    p: Share = 0.5
    scale: tuple[Annotated[float, Within(above=0, most=1)], ...] = (0.02, 0.33)
    ratio: tuple[Annotated[float, Within(above=0)], ...] = (0.3, 3.3)

    def __post_init__(self) -> None:
        _require_ranges(self.name, scale=self.scale, ratio=self.ratio)

    def made(self, setting: Setting) -> Augment:
        """See `NamedAugment`."""
        from torchvision.transforms import v2

        setting.require_pictures(self.name)
        return OfPictures(v2.RandomErasing(self.p, self.scale, self.ratio), written(self), None, setting.masks)


@dataclass(frozen=True)
class MixUp:
    """Each sample and its target mixed with another's, by a share from Beta(alpha, alpha), in a share `p` of the batches."""

    name: ClassVar[str] = "mixup"
    alpha: Annotated[float, Within(above=0)] = 1.0
    p: Share = 1.0

    def made(self, setting: Setting) -> Augment:
        """See `NamedAugment`."""
        from torchvision.transforms import v2

        numbers = setting.require_mixed(self.name, classes=False)
        classes = None if numbers else setting.classes
        return Mixing(_sometimes(v2.MixUp(alpha=self.alpha, num_classes=classes), self.p), written(self), numbers)


@dataclass(frozen=True)
class CutMix:
    """A rectangle of each picture replaced by another's, targets mixed by area, in a share `p` of the batches."""

    name: ClassVar[str] = "cutmix"
    alpha: Annotated[float, Within(above=0)] = 1.0
    p: Share = 1.0

    def made(self, setting: Setting) -> Augment:
        """See `NamedAugment`."""
        from torchvision.transforms import v2

        setting.require_pictures(self.name)
        numbers = setting.require_mixed(self.name, classes=True)
        classes = None if numbers else setting.classes
        return Mixing(_sometimes(v2.CutMix(alpha=self.alpha, num_classes=classes), self.p), written(self), numbers)


AUGMENTATIONS = Vocabulary[Any](
    "augmentation",
    {
        kind.name: kind
        for kind in (Auto, Flip, Crop, ResizedCrop, RandAugment, TrivialAugment, AutoAugment, Erasing, MixUp, CutMix)
    },
    OptionError,
)
"""What texts name."""

NONE = "none"
"""Text of no augmentation."""


def parsed(given: Any) -> tuple[Any, ...]:
    """The augmentations that are given: those that are named as `NamedAugment`, others as they are.

    Args:
        given: a text such as "flip,mixup{alpha=0.2}", pkg.module:function, a function, a transform of torchvision, or several of
            these; None: none.

    Raises:
        OptionError: there is no such augmentation or option, or the function cannot be imported or called.

    >>> parsed("crop{padding=2},flip")
    (Crop(padding=2), Flip(p=0.5))
    """
    if given is None or given == NONE:
        return ()
    if isinstance(given, list | tuple):
        return tuple(part for some in given for part in parsed(some))
    if isinstance(given, str) and is_factory(given):
        try:
            return (Own(given, resolved(given)),)
        except CallError as error:
            raise OptionError(f"the augmentation '{given}' could not be found: {error}") from error
    if isinstance(given, str):
        return tuple(AUGMENTATIONS.several(given))
    if callable(given) and not isinstance(given, type):
        return (Own(_name(given), given),)
    raise OptionError(
        f"an augmentation is a text, a function or a transform of torchvision, or a list of these, not of type "
        f"'{type(given).__name__}'"
    )


@dataclass(frozen=True)
class Own:
    """A function of the user's own, or a transform of torchvision.

    Attributes:
        name: of it.
        function: it.
    """

    name: str
    function: Any

    def made(self, setting: Setting) -> Augment:
        """See `NamedAugment`; a transform of single pictures is given bytes, where that is what is stored."""
        if not any(kind.__module__.startswith("torchvision.transforms") for kind in type(self.function).__mro__):
            return OwnAugment(self.function, self.name)
        from torchvision.transforms import v2

        parts = _parts(self.function)
        mixing = [part for part in parts if isinstance(part, v2.MixUp | v2.CutMix)]
        if not mixing:
            setting.require_pictures(self.name)
            return OfPictures(self.function, self.name, setting.pixels, setting.masks)
        if len(mixing) < len(parts):
            raise DataError(
                f"augmentation '{self.name}' changes single pictures and mixes those of a batch: give the two apart, one after the "
                f"other in a list"
            )
        classes = any(isinstance(part, v2.CutMix) for part in mixing)
        return Mixing(self.function, self.name, setting.require_mixed(self.name, classes=classes))


def augmentation(given: tuple[Any, ...], setting: Setting) -> Augment | None:
    """What changes batches; None: nothing.

    Args:
        given: of `parsed`.
        setting: what is augmented.

    Raises:
        DataError: one of them is nothing for this.
    """
    made = tuple(step for part in given if (step := part.made(setting)) is not None)
    return made[0] if len(made) == 1 else Chain(made) if made else None


def _name(given: Any) -> str:
    """By what a function or a transform is told of, without its place in memory."""
    own = getattr(given, "__qualname__", None)
    return f"{given.__module__}:{own}" if own else str(given).partition(" at 0x")[0].partition("\n")[0]


def _parts(transform: Any) -> list[Any]:
    """The transforms that one is composed of."""
    inner = getattr(transform, "transforms", None)
    return [transform] if inner is None else [part for one in inner for part in _parts(one)]


def _mean(pixels: Preprocess) -> list[float]:
    """The mean colour in bytes, which normalisation brings to 0."""
    return [round(LARGEST_BYTE * value) for value in pixels.mean]


def _sometimes(transform: Any, share: float) -> Any:
    from torchvision.transforms import v2

    return transform if share == 1 else v2.RandomApply([transform], share)


def _require_ranges(name: str, **ranges: Sequence[float]) -> None:
    for option, values in ranges.items():
        if len(values) != 2 or values[0] > values[1]:
            raise OptionError(
                f"option '{option}' of augmentation '{name}' is '{option_text(tuple(values))}', but must be two numbers, the "
                f"smaller first"
            )
