"""What every source of data is asked with."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from gngraph.data.preprocess import Normalization


class Download(Enum):
    """Whether a data set that is not on this machine may be fetched."""

    NEVER = "never"
    IF_MISSING = "if-missing"


class Reads(Enum):
    """How a network reads its samples, which arrays do not tell: their whole numbers, and which axis of a sequence is which."""

    CHANNELS_FIRST = "channels first"
    CHANNELS_LAST = "channels last"
    TOKENS = "tokens"


@dataclass(frozen=True)
class TableFile:
    """A table, and which of its columns are what.

    Attributes:
        path: of the file.
        target: those to be predicted.
        features: those that are inputs; none: all others.
        numbers: whether targets are numbers, even where they look like classes.
    """

    path: str
    target: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    numbers: bool = False


@dataclass(frozen=True)
class MaskFolder:
    """Pictures with masks, in which every pixel has a class: see `gngraph.data.sources.masks`.

    Attributes:
        path: of the folder.
    """

    path: str


@dataclass(frozen=True)
class Request:
    """One call of `read_data`.

    Attributes:
        spec: the name or path that the user gave.
        input_shape: what the network shall see; None: as stored.
        root: folder that downloaded data sets live in.
        download: whether to fetch what is missing.
        normalize: how stored numbers become inputs.
        val_split: share of the samples that is held out where the data has no test part.
        tokenizer: file of the `tokenizers` package by which a text is read; None: by its bytes.
        table: what its columns are, where that was said.
    """

    spec: str
    input_shape: tuple[int, ...] | None
    root: Path
    download: Download
    normalize: Normalization
    val_split: float
    tokenizer: Path | None = None
    table: TableFile | None = None
