"""Data sets that torchvision reads, and fetches only when asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from gngraph.data.arrays import from_arrays
from gngraph.data.dataset import Data
from gngraph.data.sources.request import Download, Request
from gngraph.errors import DataError


@dataclass(frozen=True)
class TorchvisionSource:
    """A torchvision class with `data`, `targets` and `classes`.

    Attributes:
        dataset: name of the class in `torchvision.datasets`, called with (root, train, download).
        folder: where it keeps its files below the root, for the message when they are missing.
    """

    dataset: str
    folder: str

    def __call__(self, request: Request) -> Data:
        """Reads both parts.

        Raises:
            DataError: if the files are missing or damaged, or the download failed.
        """
        train, test = self._read(request, train=True), self._read(request, train=False)
        return from_arrays(
            request.spec,
            np.asarray(train.data),
            np.asarray(train.targets, dtype=np.int64),
            np.asarray(test.data),
            np.asarray(test.targets, dtype=np.int64),
            classes=train.classes,
            input_shape=request.input_shape,
            normalize=request.normalize,
        )

    def _read(self, request: Request, train: bool) -> Any:
        from torchvision import datasets  # here, for its import costs as much as torch's

        wanted = request.download is Download.IF_MISSING
        try:
            if wanted:
                request.root.mkdir(parents=True, exist_ok=True)
            return getattr(datasets, self.dataset)(root=str(request.root), train=train, download=wanted)
        except (RuntimeError, OSError, ValueError, EOFError) as error:
            place = request.root / self.folder
            if request.download is Download.NEVER:
                raise DataError(
                    f"data set '{request.spec}' is missing or damaged in '{place}': "
                    f"pass --download (in Python download=Download.IF_MISSING) to fetch it, or name another data folder"
                ) from error
            raise DataError(
                f"data set '{request.spec}' could not be fetched into '{place}' ({_one_line(error)}): "
                f"check the connection, or put the files there"
            ) from error


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())


load_cifar10 = TorchvisionSource("CIFAR10", "cifar-10-batches-py")
load_cifar100 = TorchvisionSource("CIFAR100", "cifar-100-python")
load_mnist = TorchvisionSource("MNIST", "MNIST/raw")
load_fashion_mnist = TorchvisionSource("FashionMNIST", "FashionMNIST/raw")
