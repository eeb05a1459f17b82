"""A text file as windows of tokens, its bytes or those of a tokenizer, each with the tokens that come next."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gngraph.data.dataset import ArrayDataset, Data
from gngraph.data.sources.request import Request
from gngraph.data.tokens import NEXT_TOKEN, Tokens
from gngraph.errors import DataError

TEXT = ".txt"
"""End of the names of texts."""

CONTEXT = 64
"""Tokens a window, where the network does not say."""

_BYTES = 256


def load_text(request: Request) -> Data:
    """Reads the text at the path `request.spec`; its end is held out for tests, as windows of it would be near to others.

    Windows follow each other without overlap: each position has the next token as its label.

    Raises:
        DataError: the file cannot be read, is too short, or is no text where a tokenizer is to read it.
    """
    path, shape = Path(request.spec).expanduser(), request.input_shape or (CONTEXT,)
    if len(shape) != 1:
        raise DataError(
            f"'{path}' is a text, but the network takes samples of shape {'x'.join(map(str, shape))}: a network of tokens takes "
            f"windows of one size, such as gngraph seed gpt --input-shape 64 --classes 256 makes"
        )
    try:
        stored = path.read_bytes()
    except OSError as error:
        raise DataError(f"'{path}' cannot be read: {error}") from error
    if request.tokenizer is None:
        tokens = torch.from_numpy(np.frombuffer(bytearray(stored), dtype=np.uint8))
        names, of = tuple(str(byte) for byte in range(_BYTES)), "bytes"
    else:
        tokens, names = _tokenized(path, stored, request.tokenizer)
        digest = hashlib.sha256(request.tokenizer.read_bytes()).hexdigest()[:12]
        of = f"{request.tokenizer.name} {digest}"
    held = round(request.val_split * len(tokens))
    preprocess = Tokens(len(names), shape, of)
    train, test = (
        _windows(path, part, preprocess) for part in (tokens[: len(tokens) - held], tokens[len(tokens) - held :])
    )
    note = f"no test part: the last {request.val_split:.0%} of the text are held out (see --val-split)"
    return Data(path.name, train, test, names, preprocess, notes=(note,), loss=NEXT_TOKEN)


def _windows(path: Path, tokens: Tensor, preprocess: Tokens) -> ArrayDataset:
    (length,) = preprocess.shape
    count = (len(tokens) - 1) // length
    if count < 1:
        raise DataError(
            f"'{path}' has {len(tokens):,} tokens to train or to test on, too few for a window of {length} and what comes next: "
            f"take a longer text, or a network with a shorter context"
        )
    x = tokens[: count * length].view(count, length)
    return ArrayDataset(x, tokens[1 : count * length + 1].long().view(count, length), preprocess)


def _tokenized(path: Path, stored: bytes, tokenizer: Path) -> tuple[Tensor, tuple[str, ...]]:
    """The tokens of a text, int32, and the names of all tokens."""
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as error:
        raise DataError("a tokenizer needs the package 'tokenizers': install it (pip install gngraph[text])") from error
    try:
        made = Tokenizer.from_file(str(tokenizer))
    except Exception as error:  # the package has no class of its own
        raise DataError(f"'{tokenizer}' is no file of the package tokenizers: {error}") from error
    try:
        text = stored.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"'{path}' is no text in UTF-8, which a tokenizer reads: {error}") from error
    vocabulary: dict[str, int] = made.get_vocab()
    names = [""] * (1 + max(vocabulary.values()))
    for name, number in vocabulary.items():
        names[number] = name
    return torch.tensor(made.encode(text).ids, dtype=torch.int32), tuple(names)
