"""The embedded data set: 1797 handwritten digits of 8 x 8 grey pixels that scikit-learn ships."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from gngraph.data.arrays import from_arrays
from gngraph.data.dataset import Data
from gngraph.data.sources.request import Request

_TEST_SAMPLES = 360  # a fifth; the draw is fixed, so that accuracies of different runs compare
_DRAW = 0
_LARGEST_PIXEL = 16.0


@cache
def _stored() -> Any:
    """The digits as scikit-learn has them, in a text file; every caller takes copies."""
    from sklearn.datasets import load_digits as sklearn_digits  # a second of imports that few commands need

    return sklearn_digits()


def load_digits(request: Request) -> Data:
    """Returns 1437 training and 360 test digits, each class in proportion; needs no network."""
    from sklearn.model_selection import train_test_split

    bunch = _stored()
    x_train, x_test, y_train, y_test = train_test_split(
        bunch.images.astype(np.uint8),
        bunch.target,
        test_size=_TEST_SAMPLES,
        random_state=_DRAW,
        stratify=bunch.target,
    )
    return from_arrays(
        request.spec,
        x_train,
        y_train,
        x_test,
        y_test,
        classes=[str(name) for name in bunch.target_names],
        input_shape=request.input_shape,
        normalize=lambda raw, scale, shape, axis=0: request.normalize(raw, _LARGEST_PIXEL, shape, axis),
    )
