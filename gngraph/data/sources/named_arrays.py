"""Arrays by the names x_train, y_train and, if wanted, x_test, y_test, x_val, y_val and classes, and the data that they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from gngraph.data.arrays import Array, divided, from_arrays, further
from gngraph.data.dataset import Data
from gngraph.data.inputs import TARGETS, parted, quoted
from gngraph.data.preprocess import channels_last
from gngraph.data.several import from_several, parts_of_several
from gngraph.data.sources.request import Reads, Request
from gngraph.data.tokens import are_positions, from_tokens
from gngraph.errors import DataError

_TRAIN = ("x_train", "y_train")
_TEST = ("x_test", "y_test")
_VALIDATION = ("x_val", "y_val")
CLASS_NAMES = "classes"
"""Name of the list of class names."""
ARRAYS = (*_TRAIN, *_TEST, *_VALIDATION)
"""Names of the arrays."""


@dataclass(frozen=True, eq=False)
class NamedArrays:
    """What a source read. Whole numbers in it are tokens or measurements, as the network has it that reads them.

    Attributes:
        name: of the data.
        where: the arrays come from, for messages.
        found: the arrays.
        notes: what a user should know of how they were read, a sentence each.
    """

    name: str
    where: str
    found: Mapping[str, Array]
    notes: tuple[str, ...] = ()

    def data(self, request: Request, reads: Reads) -> Data:
        """The samples that they are.

        Args:
            request: how they are to be read.
            reads: how the network reads samples.

        Raises:
            DataError: an array is missing, or has a shape that cannot be used.
        """
        if several := parts_of_several([name for name in self.found if name != CLASS_NAMES]):
            made = self._of_several(several, request)
        else:
            require_parts(self.where, list(self.found))
            parts = [self.found[part] for part in (*_TRAIN, *_TEST) if part in self.found]
            if reads is Reads.TOKENS or are_positions(*parts[:2]):
                made = self._of_tokens(parts, request)
            else:
                last = reads is Reads.CHANNELS_LAST
                made = self._of_measurements(
                    replace(request, normalize=channels_last(request.normalize)) if last else request
                )
        return replace(made, notes=(*self.notes, *made.notes))

    def _of_measurements(self, request: Request) -> Data:
        found = self.found
        tested, validated = (any(part in found for part in parts) for parts in (_TEST, _VALIDATION))
        classes = self._classes()
        try:
            notes: tuple[str, ...] = ()
            arrays = [found[part] for part in (_TRAIN + _TEST if tested else _TRAIN)]
            if not tested:
                arrays = divided(arrays[0], arrays[1], request.val_split)
                notes = (
                    f"no test part: {len(arrays[2])} of {len(arrays[0]) + len(arrays[2])} samples are held out (see --val-split)",
                )
            data = from_arrays(
                self.name,
                *arrays,
                classes=classes,
                input_shape=request.input_shape,
                normalize=request.normalize,
            )
            validation = further(data, "val", *(found[part] for part in _VALIDATION)) if validated else None
        except DataError as error:
            raise DataError(f"in {self.where}, {error}") from error
        return replace(data, notes=notes, validation=validation)

    def _of_several(self, several: Mapping[str, Mapping[str, str]], request: Request) -> Data:
        classes = self._classes()
        for part, names in several.items():
            if names.keys() != several["train"].keys():
                raise DataError(
                    f"in {self.where}, the {part} part has {quoted(names)}, but the training part {quoted(several['train'])}: "
                    f"give it these arrays"
                )
        try:
            parts = {
                part: parted({own: self.found[array] for own, array in names.items()})
                for part, names in several.items()
            }
            return from_several(self.name, parts, classes=classes, val_split=request.val_split)
        except DataError as error:
            raise DataError(f"in {self.where}, {error}") from error

    def _of_tokens(self, parts: Sequence[Array], request: Request) -> Data:
        if any(part in self.found for part in _VALIDATION):
            raise DataError(
                f"{self.where} has a validation part, which is not read of tokens: put it into the test part"
            )
        classes = self._classes()
        try:
            return from_tokens(
                self.name, parts, classes=classes, input_shape=request.input_shape, val_split=request.val_split
            )
        except DataError as error:
            raise DataError(f"in {self.where}, {error}") from error

    def _classes(self) -> list[str] | None:
        array = self.found.get(CLASS_NAMES)
        if array is None:
            return None
        if array.ndim != 1 or array.dtype.kind not in "US":
            raise DataError(
                f"'{CLASS_NAMES}' in {self.where} has dtype '{array.dtype}' and {array.ndim} axes: it must be a list of text"
            )
        return [name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in array]


def require_parts(where: str, names: Sequence[str]) -> None:
    """Refuse what lacks an array: of the training part, or of another that is begun.

    Args:
        where: the arrays come from, for messages.
        names: of those that are there.

    Raises:
        DataError: one is missing.
    """
    begun = [parts for parts in (_TEST, _VALIDATION) if any(part in names for part in parts)]
    missing = [part for parts in (_TRAIN, *begun) for part in parts if part not in names]
    if missing:
        raise DataError(
            f"{where} lacks {quoted(missing)}: it holds {quoted(names)}, and needed are "
            f"{quoted(_TRAIN)} ({quoted(_TEST)} for a test part, {quoted(_VALIDATION)} for a validation part, "
            f"and '{CLASS_NAMES}' for class names), or several inputs by their names and a target called {', '.join(TARGETS)}"
        )
