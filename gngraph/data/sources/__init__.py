"""Where data comes from: data sets by name, and files and folders by path.

A new named data set is one function or object in a file of its own, called with a `Request`, and one line in `SOURCES`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType

from gngraph.calling import is_factory
from gngraph.data.checks import validate
from gngraph.data.dataset import Data
from gngraph.data.preprocess import Normalization, measured
from gngraph.data.sources.digits import load_digits
from gngraph.data.sources.function import load_function
from gngraph.data.sources.named_arrays import NamedArrays
from gngraph.data.sources.npz import load_npz
from gngraph.data.sources.request import Download, MaskFolder, Reads, Request, TableFile
from gngraph.data.sources.table import TABLES, load_table
from gngraph.data.sources.text import TEXT, load_text
from gngraph.data.sources.torchvision_sets import load_cifar10, load_cifar100, load_fashion_mnist, load_mnist
from gngraph.errors import DataError

Source = Callable[[Request], Data | NamedArrays]
SOURCES: Mapping[str, Source] = MappingProxyType(
    {
        "digits": load_digits,
        "cifar10": load_cifar10,
        "cifar100": load_cifar100,
        "mnist": load_mnist,
        "fashion-mnist": load_fashion_mnist,
    }
)


def default_root() -> Path:
    """Returns the folder for downloaded data sets, below the user's home; it need not exist yet."""
    return Path.home() / ".cache" / "gngraph" / "data"


@dataclass(frozen=True, eq=False)
class ReadData:
    """Data that is read, for a network that need not be known yet.

    Attributes:
        request: what was asked for.
        found: what the source gave.
    """

    request: Request
    found: Data | NamedArrays

    def data(self, reads: Reads) -> Data:
        """The data, checked; nothing is read again.

        Args:
            reads: how the network reads samples: whole numbers of arrays as tokens [N, L], sequences as [N, C, L] or [N, L, C].

        Raises:
            DataError: it is malformed or does not fit the `input_shape` that was asked for.
        """
        data = self.found if isinstance(self.found, Data) else self.found.data(self.request, reads)
        validate(data, input_shape=self.request.input_shape)
        return data


def read_data(
    spec: str | TableFile | MaskFolder,
    *,
    input_shape: tuple[int, ...] | None = None,
    root: Path | None = None,
    download: Download = Download.NEVER,
    normalize: Normalization = measured,
    val_split: float = 0.2,
    tokenizer: Path | None = None,
) -> ReadData:
    """Reads a data set, before it is known how the network reads its samples.

    Args:
        spec, input_shape, root, download, normalize, val_split, tokenizer: see `load_data`.

    Raises:
        DataError: if nothing answers to `spec`, or the data is missing or cannot be read.
    """
    table = spec if isinstance(spec, TableFile) else None
    masked = isinstance(spec, MaskFolder)
    spec = spec if isinstance(spec, str) else spec.path
    request = Request(
        spec,
        input_shape,
        default_root() if root is None else root.expanduser(),
        download,
        normalize,
        val_split,
        tokenizer,
        table,
    )
    source = _masks() if masked else _source(spec)
    if tokenizer is not None and source not in (load_text, load_table):
        raise DataError(f"'{spec}' is no text, so that no tokenizer reads it: leave the tokenizer out")
    if table is not None and source is not load_table:
        raise DataError(
            f"'{spec}' is no table: columns (--target, --features) are those of a {' or '.join(TABLES)} file"
        )
    return ReadData(request, source(request))


def load_data(
    spec: str | TableFile | MaskFolder,
    *,
    input_shape: tuple[int, ...] | None = None,
    root: Path | None = None,
    download: Download = Download.NEVER,
    normalize: Normalization = measured,
    val_split: float = 0.2,
    reads: Reads = Reads.CHANNELS_FIRST,
    tokenizer: Path | None = None,
) -> Data:
    """Loads and checks a data set.

    Args:
        spec: a name in `SOURCES`, the path of an .npz archive, of a text (.txt) or of an image folder, or pkg.module:function,
            which is called and returns arrays as an archive holds them, or a `Data`; or a `TableFile`, a .csv, .tsv or .parquet
            file with the columns that are to be predicted, or a `MaskFolder`, pictures with masks. A name wins over a path of the
            same spelling; write './digits' for a folder called digits.
        input_shape: what the network takes, (C, H, W) or (F,): pictures are resized, grey ones spread over C channels; (L,) for
            texts, which are cut into windows of L tokens (64 where nothing is said).
        root: folder of downloaded data sets; None: `default_root()`.
        download: whether a missing data set may be fetched.
        normalize: how stored numbers become inputs: by default each channel is standardised over the training samples; see
            `gngraph.data.preprocess.normalization` for others, and `own` for a function of one's own.
        val_split: share of the samples that is held out where the data has no test part, above 0 and below 1; of a text its end.
        reads: how the network reads samples: whole numbers of an archive as tokens [N, L], sequences as [N, C, L] or [N, L, C].
        tokenizer: a file of the `tokenizers` package, by which a text is read; None: by its bytes.

    Raises:
        DataError: if nothing answers to `spec`, or the data is missing, malformed or does not fit `input_shape`.

    Example:
        >>> data = load_data("digits")
        >>> len(data.train), len(data.test), data.input_shape, data.outputs
        (1437, 360, (1, 8, 8), 10)
    """
    read = read_data(
        spec,
        input_shape=input_shape,
        root=root,
        download=download,
        normalize=normalize,
        val_split=val_split,
        tokenizer=tokenizer,
    )
    return read.data(reads)


def _masks() -> Source:
    from gngraph.data.sources.masks import load_masks  # here, for torchvision's import costs as much as torch's

    return load_masks


def _source(spec: str) -> Source:
    if spec in SOURCES:
        return SOURCES[spec]
    path = Path(spec).expanduser()
    if path.is_dir():
        from gngraph.data.sources.folder import load_folder  # here, for torchvision's import costs as much as torch's

        return load_folder
    if path.is_file() and path.suffix == TEXT:
        return load_text
    if path.is_file():
        return load_table if path.suffix.lower() in TABLES else load_npz
    if is_factory(spec):
        return load_function
    names = ", ".join(f"'{name}'" for name in SOURCES)
    close = get_close_matches(spec, SOURCES, n=1)
    hint = f"did you mean '{close[0]}'" if close else "check the spelling"
    raise DataError(
        f"there is no data set '{spec}': {hint}; known are {names}, the path of an .npz or .csv file, of a "
        f"text (.txt) or of an image folder, and pkg.module:function"
    )


__all__ = [
    "SOURCES",
    "Download",
    "MaskFolder",
    "ReadData",
    "Reads",
    "Request",
    "Source",
    "TableFile",
    "default_root",
    "load_data",
    "read_data",
]
