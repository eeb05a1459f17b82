"""`load`: a network as a graph, from whatever file or name a user has."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gngraph.calling import of_library
from gngraph.errors import ModelFileError, path_text
from gngraph.files import archive
from gngraph.files.architecture import made_by
from gngraph.files.checkpoint import FileFormat, Trust, load_module, sniff
from gngraph.files.runs import archive_named
from gngraph.files.sniff import names_factory
from gngraph.ir import Graph
from gngraph.ir.inputs import input_shape_of
from gngraph.zoo import published

if TYPE_CHECKING:
    from gngraph.exchange import Foreign
    from gngraph.importing.from_torch import TrainOnly


def load(
    source: str | os.PathLike[str],
    *,
    input_shape: tuple[int, ...] | None = None,
    arch: str | None = None,
    width: float = 1.0,
    classes: int | None = None,
    trust: Trust = Trust.ALLOW_LIST,
    train_only: TrainOnly = "refuse",
    output: str | None = None,
) -> Graph:
    """The network in `source` as a graph, on the CPU.

    Args:
        source: a gngraph archive; the folder of a run, or `run@3` for the network after its third round; an ONNX or torch.export
            (.pt2) file; a whole pickled module or a state dict (with `arch`); `pkg.module:factory`, which may give example inputs
            beside the module; or the name of a network of another library, such as `timm:resnet18`, with new weights.
        input_shape: shape of one sample, such as (3, 32, 32); an archive knows its own, and other formats mostly do.
        arch, width, classes: what a state dict belongs to, see `gngraph.files.checkpoint.load_module`.
        trust: whether the file may run code while it is loaded.
        train_only, output: see `from_torch`; an archive has what it was made with.

    Raises:
        ModelFileError: the file cannot be read, would run code, or the input shape is missing.
        ArchiveError: an archive is damaged.
        DataError: an input shape is given for an archive of a network with several inputs.
        UnsupportedModelError: the network cannot be traced, or does not run on that input shape.
    """
    source = archive_named(path_text(source))
    if input_shape is not None and not _is_shape(input_shape):
        raise ModelFileError(f"the input shape '{input_shape}' is no tuple of sizes; give one such as (3, 32, 32)")
    if is_archive(source):
        graph = archive.load(source)
        if input_shape is not None and tuple(input_shape) != (own := input_shape_of(graph)):
            raise ModelFileError(
                f"'{source}' takes inputs of shape '{_text(own)}', not '{_text(input_shape)}'; leave out the input shape"
            )
        return graph
    if (read := _other_format(source)) is not None:
        if arch is not None:
            raise ModelFileError(f"'{source}' holds a network already; leave out --arch")
        from gngraph.importing.from_torch import from_torch

        found = read(source, None if input_shape is None else tuple(input_shape))
        inputs = found.examples[0] if len(found.examples) == 1 else found.examples
        graph = from_torch(found.module, inputs, output=output, train_only=train_only)
        return replace(graph, name=Path(source).stem)
    library = next((name for name in (source, arch or "") if of_library(name)), None)
    kept = published(library) if library is not None else None
    if kept is not None:
        input_shape, output = input_shape or kept.input_shape, output or kept.output
    given: Any = None
    if names_factory(source):
        module, given = made_by(source)
    else:
        module = load_module(source, arch=arch, width=width, classes=classes, input_shape=input_shape, trust=trust)
    if given is None and input_shape is None:
        raise ModelFileError(
            f"'{source}' does not say what its inputs look like; pass --input-shape, such as 3x32x32, or have the "
            f"factory give example inputs beside the module"
        )
    from gngraph.importing.examples import example_for
    from gngraph.importing.from_samples import from_samples
    from gngraph.importing.from_torch import from_torch  # here, for an archive needs none of it

    if given is None and input_shape is not None:
        return from_samples(module, example_for(module, input_shape), output=output, train_only=train_only)
    return from_torch(module, given, output=output, train_only=train_only)


def _other_format(source: str) -> Callable[..., Foreign] | None:
    """What reads a file of a format of other tools; None where it is none."""
    if not Path(source).is_file() or (found := sniff(source)) not in (FileFormat.ONNX, FileFormat.EXPORT_PT2):
        return None
    from gngraph.exchange import read_onnx, read_pt2  # here, for onnxruntime takes as long to import as torch

    return read_onnx if found is FileFormat.ONNX else read_pt2


def is_archive(source: str | os.PathLike[str]) -> bool:
    """Whether `source` is a file in gngraph's own format, told by its content."""
    return Path(source).is_file() and sniff(os.fspath(source)) is FileFormat.GNG_ARCHIVE


def _is_shape(given: object) -> bool:
    return isinstance(given, (tuple, list)) and all(isinstance(size, int) and size > 0 for size in given)


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))
