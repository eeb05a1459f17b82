"""Samples that are texts of their own, each with a target: tokens of one length, cut or filled up."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gngraph.data.arrays import Array
from gngraph.data.dataset import ArrayDataset, Data
from gngraph.data.sources.request import Request
from gngraph.data.splits import held_out
from gngraph.data.tokens import Tokens
from gngraph.errors import DataError

CONTEXT = 64
"""Tokens of a sample, where the network does not say."""

BYTES = 256
"""How many tokens there are where a text is read by its bytes."""

_PADS = ("[PAD]", "<pad>", "<|endoftext|>", "</s>")
"""Tokens that fill a short text up, the first that a tokenizer has."""


@dataclass(frozen=True)
class Reader:
    """How a text becomes tokens.

    Attributes:
        names: of the tokens.
        of: see `Tokens.of`.
        pad: the token that fills a short text up.
        read: the tokens of a text.
    """

    names: tuple[str, ...]
    of: str
    pad: int
    read: Callable[[str], Sequence[int]]


def reading_by(tokenizer: Path | None) -> Reader:
    """Bytes, or the tokens of a tokenizer.

    Args:
        tokenizer: a file of the package tokenizers; None: bytes.

    Raises:
        DataError: it is none, or the package is not there.
    """
    if tokenizer is None:
        return Reader(tuple(str(byte) for byte in range(BYTES)), "bytes", 0, lambda text: text.encode())
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise DataError("a tokenizer needs the package 'tokenizers': install it (pip install gngraph[text])") from error
    try:
        made: Any = Tokenizer.from_file(str(tokenizer))
    except Exception as error:  # the package has no class of its own
        raise DataError(f"'{tokenizer}' is no file of the package tokenizers: {error}") from error
    known: dict[str, int] = made.get_vocab()
    names = [""] * (1 + max(known.values()))
    for name, number in known.items():
        names[number] = name
    digest = hashlib.sha256(tokenizer.read_bytes()).hexdigest()[:12]
    pad = next((known[name] for name in _PADS if name in known), 0)
    return Reader(tuple(names), f"{tokenizer.name} {digest}", pad, lambda text: made.encode(text).ids)


def from_sentences(name: str, texts: Sequence[str], targets: Array, classes: Array | None, request: Request) -> Data:
    """A data set of texts, of which a share is held out.

    Args:
        name: for messages and records.
        texts: one a sample.
        targets: int [N], or float [N, K].
        classes: names of the classes; None: it is a regression.
        request: tokens a sample, tokenizer, and share that is held out.

    Raises:
        DataError: a text is empty, or the network reads no tokens.
    """
    shape = request.input_shape or (CONTEXT,)
    if len(shape) != 1:
        raise DataError(
            f"the input in '{name}' is text, but the network takes samples of shape {'x'.join(map(str, shape))}: texts are read by "
            "a network of tokens, whole numbers [N, L]"
        )
    own, (length,) = reading_by(request.tokenizer), shape
    read = [own.read(text) for text in texts]
    empty = next((row for row, tokens in enumerate(read, 1) if not len(tokens)), None)
    if empty is not None:
        raise DataError(f"text {empty} in '{name}' is empty: fill it or drop its row")
    samples = torch.full((len(read), length), own.pad, dtype=torch.int32)
    for row, tokens in enumerate(read):
        cut = torch.tensor([*tokens[:length]], dtype=torch.int32)
        samples[row, : len(cut)] = cut
    labels = torch.from_numpy(targets.astype(np.int64 if classes is not None else np.float32))
    kept, out = held_out(labels, request.val_split)
    prepared = Tokens(len(own.names), shape, own.of)
    train, test = (ArrayDataset(samples[rows], labels[rows], prepared) for rows in (kept, out))
    notes = [f"no test part: {len(out)} of {len(read)} samples are held out (see --val-split)"]
    if long := sum(len(tokens) > length for tokens in read):
        notes.append(
            f"{long} of {len(read)} texts are cut to {length} tokens, the shorter ones filled up with {own.pad}"
        )
    names = () if classes is None else tuple(map(str, classes))
    return Data(name, train, test, names, prepared, notes=tuple(notes))
