"""Loads networks from the files people have, without running code from a file unless it is trusted.

    a whole pickled module     model.pt from torch.save(model, path): classes on an allow-list only (safe_modules.py)
    a state dict, a checkpoint model.pt or .safetensors, with the architecture named
    a factory                  pkg.module:function, imported and called: the caller's own code

Formats are told apart by content (checkpoint_sniff.py); the pickle of an untrusted file is audited before torch's
`weights_only` unpickler reads it (pickle_audit.py). gngraph archives and ONNX files are only recognised here.
"""

from __future__ import annotations

import functools
import pickle
import warnings
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from types import ModuleType
from typing import cast

import torch
from torch import Tensor, nn
from torch.serialization import add_safe_globals, get_safe_globals, safe_globals

from gngraph.calling import importable_from_here, of_library
from gngraph.errors import ModelFileError
from gngraph.files.architecture import Architecture, call_factory, named_network
from gngraph.files.pickle_audit import is_plain, path_of
from gngraph.files.safe_classes import allowed_class, find_tampering
from gngraph.files.sniff import FileFormat, FileInfo, inspect_file, names_factory, sniff
from gngraph.writing import VALUES_HASH, values_hash
from gngraph.zoo import SEEDS

__all__ = ["FileFormat", "Trust", "load_module", "sniff"]

_SAVE_AGAIN = "save the original module with torch.save(model, path)"
_NEVER: Mapping[FileFormat, str] = {
    FileFormat.TORCHSCRIPT: f"whose compiled code cannot be traced again; {_SAVE_AGAIN}",
    FileFormat.EXPORT_PT2: "which holds a graph instead of a module; open it with gngraph.load",
    FileFormat.GNG_ARCHIVE: "which holds a graph instead of a module; open it with gngraph.load",
    FileFormat.ONNX: "which holds a graph instead of a module; open it with gngraph.load",
    FileFormat.OTHER_ZIP: f"so it holds no network; {_SAVE_AGAIN}",
    FileFormat.TRUNCATED_ZIP: "so its end is missing; copy or download it again",
    FileFormat.EMPTY: "so nothing was written to it; save the model again",
    FileFormat.LFS_POINTER: 'so the real file is still to be fetched; run "git lfs pull"',
    FileFormat.TEXT: f"so it holds no network; {_SAVE_AGAIN}, or give pkg.module:factory",
    FileFormat.UNKNOWN: f"so no network can be read from it; {_SAVE_AGAIN}",
}
_MODULE_KEYS = ("model", "module", "net", "network")
_STATE_KEYS = (
    *("state_dict", "model_state_dict", "model_state", "model", "module", "net", "network", "params", "weights"),
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema_model", "ema", "checkpoint"),
)
_LEVELS = 3
"""Dictionaries in each other in which a state dict is looked for."""


class Trust(Enum):
    """Whose code loading may run. The command line's `--trust` means `FILE`."""

    ALLOW_LIST = "allow-list"
    """None from the file: only tensors and classes on the allow-list; everything else is refused."""
    FILE = "file"
    """Whatever the file says, as `pickle.load` does."""


def load_module(
    source: str | Path,
    *,
    arch: str | None = None,
    width: float = 1.0,
    classes: int | None = None,
    input_shape: tuple[int, ...] | None = None,
    trust: Trust = Trust.ALLOW_LIST,
) -> nn.Module:
    """The network in `source`, on the CPU, in the mode (train or eval) it was saved in.

    Args:
        source: a file, `pkg.module:factory`, which is imported (also from the working directory) and called without
            arguments, or the name of a network of another library, such as `timm:resnet18`, which has new weights then.
        arch: what a state dict belongs to: a name for `build_seed`, or `pkg.module:factory`.
        width: width multiplier of `arch`.
        classes: outputs of `arch`, or of a network of another library; by default, the first size of the last tensor of the state
            dict, or 10.
        input_shape: input shape of the same; by default that of another library's network, else (3, 32, 32).
        trust: whether the file may run code while it is loaded.

    Raises:
        ModelFileError: the file is missing, damaged, of a format that holds no module, would run code, or does not fit
            `arch`; or the factory fails.
        UnsupportedModelError: `arch` is unknown or cannot be built at this size.
    """
    if of_library(str(source)):
        return named_network(str(source), width, classes, input_shape)
    if names_factory(source):
        return call_factory(str(source))
    info = inspect_file(source)
    if info.format in _NEVER:
        raise ModelFileError(f'"{source}" is {info.format.value}, {_NEVER[info.format]}')
    loaded = _read(str(source), info, trust)
    architecture = None if arch is None else Architecture(arch, width, classes, input_shape)
    return _as_module(loaded, str(source), architecture)


def _read(path: str, info: FileInfo, trust: Trust) -> object:
    try:
        if info.format is FileFormat.SAFETENSORS:
            return _read_safetensors(path)
        if trust is Trust.FILE:
            return _read_trusted(path, info.format)
        return _read_safely(path, info)
    except ModelFileError:
        raise
    except Exception as error:  # a damaged file can raise anything in torch, pickle, or the code of a trusted file
        reason = (str(error).splitlines() or [""])[0].rstrip(".")
        raise ModelFileError(
            f'"{path}" is {info.format.value}, but loading it failed with {type(error).__name__}: {reason};'
            f" if it is not damaged, {_SAVE_AGAIN} where its classes can be imported"
        ) from error


def _read_safetensors(path: str) -> dict[str, Tensor]:
    from safetensors import safe_open
    from safetensors.torch import load_file

    with safe_open(path, "pt") as opened:
        written = (opened.metadata() or {}).get(VALUES_HASH)
    with Path(path).open("rb") as file:
        if written and values_hash(file) != written:
            raise ModelFileError(f'the values in "{path}" are not those that were written; copy or download it again')
    return load_file(path)


def _read_trusted(path: str, file_format: FileFormat) -> object:
    with importable_from_here():
        if file_format is FileFormat.PICKLE:
            with Path(path).open("rb") as file:
                return pickle.load(file)
        return torch.load(path, map_location="cpu", weights_only=False)


def _read_safely(path: str, info: FileInfo) -> object:
    classes = _check_safe(path, info)
    legacy = info.format is FileFormat.TORCH_LEGACY and classes
    loaded = _load_legacy_module(path, classes) if legacy else _load_weights_only(path, classes)
    for module in _modules_in(loaded):
        problem = find_tampering(module)
        if problem:
            raise ModelFileError(
                f'"{path}" is {info.format.value} that {problem}, which can run code later;'
                " pass --trust if you trust its author"
            )
        _require_whole(module, path)
    return loaded


def _require_whole(module: nn.Module, path: str) -> None:
    try:
        repr(module)  # reads what a constructor sets, and a damaged file may lack
    except Exception as error:
        raise ModelFileError(
            f'"{path}" holds a module that is not whole ({type(error).__name__}: {error}), so the file is damaged; save it again'
        ) from error


def _load_weights_only(path: str, classes: Sequence[type[nn.Module]]) -> object:
    before = get_safe_globals()
    try:
        with safe_globals([*classes, functools.partial] if classes else []):
            return torch.load(path, map_location="cpu", weights_only=True)
    finally:
        # safe_globals removes its entries on the way out, also those that were there before.
        add_safe_globals(before)


def _load_legacy_module(path: str, classes: Sequence[type[nn.Module]]) -> object:
    """A whole module in the old format, whose way to name classes torch's `weights_only` unpickler does not know.

    The file was audited, and the unpickler finds nothing but what the audit let pass.
    """
    listed = {f"{cls.__module__}.{cls.__name__}": cls for cls in classes}

    class Audited(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> object:
            found = path_of(module, name)
            if found in listed:
                return listed[found]
            if is_plain(found):
                return super().find_class(module, name)
            raise pickle.UnpicklingError(f"'{found}' was not there when the file was checked")

    reader = ModuleType("pickle")
    reader.Unpickler = Audited  # type: ignore[attr-defined]
    reader.load = lambda file, **options: Audited(file, **options).load()  # type: ignore[attr-defined]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch compares the source in the file with that of the class here
        return torch.load(path, map_location="cpu", weights_only=False, pickle_module=reader)


def _check_safe(path: str, info: FileInfo) -> list[type[nn.Module]]:
    """The module classes in the file, all of them on the allow-list.

    Raises:
        ModelFileError: the file is no torch.save file, needs other globals, or does what torch.save never writes.
    """
    what = f'"{path}" is {info.format.value}'
    if info.damage is not None:
        raise ModelFileError(
            f"{what}, but it cannot be checked: {info.damage}; if it is not damaged, pass --trust to load it unchecked"
        )
    if info.audit is None:
        raise ModelFileError(
            f"{what}, which can run any code while it is read; pass --trust if you trust its author, or {_SAVE_AGAIN}"
        )
    found = {name: allowed_class(name) for name in info.audit.names}
    foreign = [name for name, cls in found.items() if cls is None]
    if foreign:
        names = ", ".join(f'"{name}"' for name in foreign[:5])
        more = f" and {len(foreign) - 5} more" if len(foreign) > 5 else ""
        raise ModelFileError(
            f"{what} that needs {names}{more}, which safe loading does not allow because it can run code;"
            " pass --trust if you trust its author, or save model.state_dict() and pass --arch pkg.module:factory"
        )
    if info.audit.faults:
        raise ModelFileError(
            f"{what} that {info.audit.faults[0]}, unlike anything that torch.save writes;"
            " pass --trust if you trust its author"
        )
    return [cls for cls in found.values() if cls is not None]


def _modules_in(loaded: object) -> list[nn.Module]:
    values = loaded.values() if isinstance(loaded, Mapping) else [loaded]
    return [value for value in values if isinstance(value, nn.Module)]


def _as_module(loaded: object, path: str, architecture: Architecture | None) -> nn.Module:
    module = _find_module(loaded)
    if module is not None:
        if architecture is not None:
            raise ModelFileError(f'"{path}" already holds a {type(module).__name__} module; leave out --arch')
        return module.module if isinstance(module, nn.DataParallel) else module
    state = _find_state(loaded)
    if state is None:
        keys = ", ".join(f'"{key}"' for key in list(loaded)[:8]) if isinstance(loaded, Mapping) else ""
        holds = (
            f"a dictionary with {keys or 'no entries'}" if isinstance(loaded, Mapping) else f"a {type(loaded).__name__}"
        )
        raise ModelFileError(
            f'"{path}" holds {holds}, but neither a module nor a state dict; {_SAVE_AGAIN}, or its state dict under'
            ' the key "state_dict"'
        )
    if architecture is None:
        raise ModelFileError(
            f'"{path}" holds a state dict, which has tensors but no network; pass --arch with one of'
            f" {', '.join(SEEDS)}, torchvision:NAME, timm:NAME, hf:NAME or pkg.module:factory"
        )
    return architecture.filled(state, path)


def _find_module(loaded: object) -> nn.Module | None:
    if isinstance(loaded, nn.Module):
        return loaded
    if isinstance(loaded, Mapping):
        found = [loaded[key] for key in _MODULE_KEYS if isinstance(loaded.get(key), nn.Module)]
        return found[0] if found else None
    return None


def _find_state(loaded: object, levels: int = _LEVELS) -> Mapping[str, Tensor] | None:
    if not isinstance(loaded, Mapping) or not levels:
        return None
    if _is_state(loaded):
        return loaded
    found = (_find_state(loaded.get(key), levels - 1) for key in _STATE_KEYS)
    return next((state for state in found if state is not None), None)


def _is_state(value: object) -> bool:
    if not isinstance(value, Mapping) or not value:
        return False
    entries = cast("Mapping[object, object]", value)
    return all(isinstance(key, str) and isinstance(tensor, Tensor) for key, tensor in entries.items())
