"""What the tests of model files share: a small network, saving it, and the one sentence of a refusal."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from gngraph.errors import ModelFileError


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))


def saved(value: object, path: Path, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


def message_of(call: Callable[[], object]) -> str:
    """The text of the ModelFileError that `call` raises: one line without a traceback in it."""
    with pytest.raises(ModelFileError) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    return message
