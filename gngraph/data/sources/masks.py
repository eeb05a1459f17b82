"""A folder of pictures with masks, images/ and masks/, in which every pixel has a class."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from gngraph.data.augment import UNKNOWN
from gngraph.data.checks import shape_text
from gngraph.data.dataset import Data
from gngraph.data.sources.folder import at, datasets, decoder_for, parts_of
from gngraph.data.sources.pictures import Decoder, Left, decode_mask, pictures_below, size_of
from gngraph.data.sources.request import Request
from gngraph.data.splits import held_out
from gngraph.errors import DataError

SEGMENTATION = "segmentation"
"""Name of the loss of data with a class for every pixel."""

IMAGES, MASKS, CLASSES = "images", "masks", "classes.txt"
"""Folders of pictures and of their masks, and the file with the names of the classes, one a line."""

_ENDS = ("", "_mask")
"""What the name of a mask has behind that of its picture."""

_FEWEST = 2


@dataclass(frozen=True)
class _Pairs:
    """Pictures and their masks, in the same order."""

    images: list[Path]
    masks: list[Path]


def load_masks(request: Request) -> Data:
    """Reads the folder at the path `request.spec`: images/ and masks/, or train/ and test/ (or val/) with these in them.

    A mask is a picture without loss (.png, .bmp) of the size of the picture whose name it has, with or without "_mask" behind it:
    the number of the class of each pixel, grey or by a palette. 255 is unknown, where there are other numbers than 0 and 255; of
    these two, 255 is the class 1. Both are cut and resized alike. Masks are held in memory, a byte a pixel.

    Args:
        request: the path, and what is wanted of it.

    Raises:
        DataError: a picture has no mask or one of another size, a mask holds colours or a number without a class, or what
            `load_folder` refuses.
    """
    root = Path(request.spec).expanduser()
    if not root.is_dir():
        raise DataError(f"'{root}' is no folder: pictures with masks are a folder with '{IMAGES}' and '{MASKS}' in it")
    left = Left()
    roots = [part for part in parts_of(root) if part is not None]
    pairs = [_scan(part, left) for part in roots]
    decoder = decoder_for(pairs[0].images[0], request.input_shape)
    masks = [_masks(decoder, part) for part in pairs]
    names, notes = _classes(root, masks, [path for part in pairs for path in part.masks])
    labelled = [(part.images, own) for part, own in zip(pairs, masks, strict=True)]
    if len(labelled) == 1:
        kept, out = held_out(masks[0], request.val_split)
        labelled = [at(labelled[0], kept), at(labelled[0], out)]
        notes.append(f"no test part: {len(out)} of {len(kept) + len(out)} pictures are held out (see --val-split)")
    sets = datasets(decoder, labelled, request.normalize)
    return Data(
        name=root.name or str(root),
        train=sets[0],
        test=sets[1],
        classes=names,
        preprocess=sets[0].preprocess,
        notes=(*notes, *left.notes()),
        validation=sets[2] if len(sets) > 2 else None,
        loss=SEGMENTATION,
    )


def _scan(root: Path, left: Left) -> _Pairs:
    for name in (IMAGES, MASKS):
        if not (root / name).is_dir():
            raise DataError(
                f"'{root}' has no folder '{name}': put the pictures into '{IMAGES}' and a mask of the same name for each into "
                f"'{MASKS}'"
            )
    ((images, masks)) = pictures_below([root / IMAGES, root / MASKS], left)
    if not images:
        raise DataError(f"'{root / IMAGES}' holds no picture: put the pictures there")
    by_name = {path.relative_to(root / MASKS).with_suffix(""): path for path in masks}
    found = []
    for image in images:
        own = image.relative_to(root / IMAGES).with_suffix("")
        names = [own.with_name(own.name + end) for end in _ENDS]
        mask = next((by_name.pop(name) for name in names if name in by_name), None)
        if mask is None:
            raise DataError(f"picture '{image}' has no mask '{root / MASKS / own}.png': add it, or remove the picture")
        found.append(mask)
    for path in by_name.values():
        left.add("a mask without a picture of its name", path)
    return _Pairs(images, found)


def _masks(decoder: Decoder, pairs: _Pairs) -> Tensor:
    """The masks of pictures as networks see these, uint8 [N, H, W]."""

    def read(image: Path, mask: Path) -> Tensor:
        labels = decode_mask(mask)
        if (size := size_of(image)) != tuple(labels.shape[1:]):
            raise DataError(
                f"mask '{mask}' is '{shape_text(tuple(labels.shape[1:]))}' but its picture '{image}' is '{shape_text(size)}' "
                f"(height x width): make them of one size"
            )
        return decoder.fitted(labels, mask, smooth=False)[0]

    masks = torch.empty((len(pairs.masks), *decoder.shape[1:]), dtype=torch.uint8)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for row, mask in enumerate(pool.map(read, pairs.images, pairs.masks)):
            masks[row] = mask
    return masks


def _classes(root: Path, masks: Sequence[Tensor], paths: Sequence[Path]) -> tuple[tuple[str, ...], list[str]]:
    """Names of the classes, and what there is to know of them; masks of 0 and 255 get 0 and 1, in place."""
    notes = []
    counts = [sum(own.flatten().bincount(minlength=256) for own in part) for part in (masks[:1], masks)]
    trained, whole = (torch.as_tensor(count) for count in counts)
    used = whole.nonzero().flatten().tolist()
    if used == [0, UNKNOWN]:
        for own in masks:
            own[own == UNKNOWN] = 1
        used, trained[1] = [0, 1], trained[UNKNOWN]
        notes.append(f"masks hold 0 and {UNKNOWN} alone: {UNKNOWN} is taken for class 1")
    elif whole[UNKNOWN]:
        notes.append(f"pixels of masks that are {UNKNOWN} do not count ({whole[UNKNOWN] / whole.sum():.1%} of them)")
    used = [number for number in used if number != UNKNOWN]
    names = _names(root)
    if not names:
        names = tuple(str(number) for number in range(max(used, default=0) + 1))
        if len(names) < _FEWEST or 2 * len(used) < len(names):
            raise DataError(
                f"the masks in '{root}' hold the numbers {', '.join(map(str, used[:8]))}{', ...' if len(used) > 8 else ''}: number "
                f"{_FEWEST} classes or more from 0 on, or name them, one a line, in '{root / CLASSES}'"
            )
    if used and used[-1] >= len(names):
        row = next(n for n, own in enumerate(m for part in masks for m in part) if bool((own == used[-1]).any()))
        raise DataError(
            f"mask '{paths[row]}' holds the class '{used[-1]}', but '{root / CLASSES}' names {len(names)} classes, numbered from 0"
        )
    unseen = [name for number, name in enumerate(names) if not trained[number]]
    if unseen:
        notes.append(f"no pixel of the training masks is of the class {', '.join(unseen)}")
    return names, notes


def _names(root: Path) -> tuple[str, ...]:
    path = root / CLASSES
    if not path.is_file():
        return ()
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"'{path}' cannot be read: write it as UTF-8 text ({error})") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if not _FEWEST <= len(names) <= UNKNOWN:
        raise DataError(f"'{path}' names {len(names)} classes: name {_FEWEST} to {UNKNOWN}, one a line")
    return names
