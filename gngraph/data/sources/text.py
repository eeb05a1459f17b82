"""A text file as windows of tokens, its bytes or those of a tokenizer, each with the tokens that come next."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gngraph.data.dataset import ArrayDataset, Data
from gngraph.data.sources.request import Request
from gngraph.data.sources.sentences import CONTEXT, Reader, reading_by
from gngraph.data.tokens import NEXT_TOKEN, Tokens
from gngraph.errors import DataError

TEXT = ".txt"
"""End of the names of texts."""


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
    own = reading_by(request.tokenizer)
    if request.tokenizer is None:
        tokens = torch.from_numpy(np.frombuffer(bytearray(stored), dtype=np.uint8))
    else:
        tokens = _tokenized(path, stored, own)
    held = round(request.val_split * len(tokens))
    preprocess = Tokens(len(own.names), shape, own.of)
    train, test = (
        _windows(path, part, preprocess) for part in (tokens[: len(tokens) - held], tokens[len(tokens) - held :])
    )
    note = f"no test part: the last {request.val_split:.0%} of the text are held out (see --val-split)"
    return Data(path.name, train, test, own.names, preprocess, notes=(note,), loss=NEXT_TOKEN)


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


def _tokenized(path: Path, stored: bytes, own: Reader) -> Tensor:
    """The tokens of a text, int32."""
    try:
        text = stored.decode("utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"'{path}' is no text in UTF-8, which a tokenizer reads: {error}") from error
    return torch.tensor(own.read(text), dtype=torch.int32)
