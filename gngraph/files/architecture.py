"""Networks made by name or by the caller's own factory, and filled from a state dict."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import reduce

from torch import Tensor, nn

from gngraph.errors import ModelFileError
from gngraph.files.sniff import is_factory
from gngraph.zoo import build_seed

_TORCHVISION = "torchvision:"
# What DataParallel, DistributedDataParallel and torch.compile put before every key.
_WRAPPER_PREFIXES = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class Architecture:
    """What a state dict belongs to.

    Attributes:
        name: a name for `build_seed`, or `pkg.module:factory`.
        width: width multiplier; a factory ignores it, as it does the next two.
        classes: number of outputs; None takes the first size of the last tensor of the state dict.
        input_shape: shape of one sample; None takes 3x224x224 for torchvision classifiers, 3x32x32 else.
    """

    name: str
    width: float = 1.0
    classes: int | None = None
    input_shape: tuple[int, ...] | None = None

    def filled(self, state: Mapping[str, Tensor], path: str) -> nn.Module:
        """A new network of this architecture with the tensors of `state`.

        Args:
            state: tensors by state_dict key, also with the prefixes of DataParallel or torch.compile.
            path: the file they come from, for messages.

        Raises:
            ModelFileError: keys or shapes differ, or the factory fails.
            UnsupportedModelError: the name is unknown or cannot be built at this size.
        """
        module = self._build(state)
        expected = module.state_dict()
        state = _without_wrapper_prefixes(state, expected)
        differences = _differences(expected, state)
        if differences:
            raise ModelFileError(
                f'"{path}" does not fit --arch "{self.name}": {"; ".join(differences)}; check --arch, --width,'
                " --classes and --input-shape"
            )
        # Not strict: batch counters, which older files lack, were let through.
        module.load_state_dict(state, strict=False)
        return module

    def _build(self, state: Mapping[str, Tensor]) -> nn.Module:
        torchvision = self.name.startswith(_TORCHVISION)
        if is_factory(self.name) and not torchvision:
            return call_factory(self.name)
        shape = self.input_shape or ((3, 224, 224) if torchvision else (3, 32, 32))
        classes = self.classes
        if classes is None:
            sizes = [tensor.shape[0] for tensor in state.values() if tensor.dim() > 0]
            classes = sizes[-1] if sizes else 10
        return build_seed(self.name, width=self.width, classes=classes, input_shape=shape)


def call_factory(text: str) -> nn.Module:
    """Import `pkg.module`, also from the working directory, and call `factory` without arguments.

    Raises:
        ModelFileError: the import or the call fails, or gives something that is no module.
    """
    module_name, _, name = text.partition(":")
    with importable_from_here():
        try:
            factory = reduce(getattr, name.split("."), importlib.import_module(module_name))
            made = factory if isinstance(factory, nn.Module) else factory()  # type: ignore[operator]
        except Exception as error:  # the caller's own code may raise anything
            reason = (str(error).splitlines() or [""])[0].rstrip(".")
            raise ModelFileError(
                f'"{text}" could not be called: {type(error).__name__}: {reason}; it must name a function without'
                " required arguments that returns a torch.nn.Module"
            ) from error
    if not isinstance(made, nn.Module):
        raise ModelFileError(f'"{text}" returned a {type(made).__name__}, but it must return a torch.nn.Module')
    return made


@contextmanager
def importable_from_here() -> Iterator[None]:
    """Let imports find modules in the working directory, as `python -m` does and an installed command does not."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        # The code that ran may have changed the path itself.
        if here in sys.path:
            sys.path.remove(here)


def _without_wrapper_prefixes(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    for prefix in _WRAPPER_PREFIXES * 2:  # twice: either can wrap the other
        wrapped = all(key.startswith(prefix) for key in state)
        if wrapped and not any(key.startswith(prefix) for key in expected):
            state = {key.removeprefix(prefix): tensor for key, tensor in state.items()}
    return state


def _differences(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """One phrase each for missing keys, unexpected keys and other shapes; none if `state` fits."""
    missing = [key for key in expected if key not in state and not key.endswith("num_batches_tracked")]
    unexpected = [key for key in state if key not in expected]
    other = [key for key in expected if key in state and state[key].shape != expected[key].shape]
    phrases = []
    if missing:
        phrases.append(f"missing {_named(missing[0], expected)}{_more(missing)}")
    if unexpected:
        phrases.append(f"unexpected {_named(unexpected[0], state)}{_more(unexpected)}")
    if other:
        key = other[0]
        phrases.append(
            f'"{key}" is {_size(state[key])} in the file but {_size(expected[key])} in the network{_more(other)}'
        )
    return phrases


def _named(key: str, tensors: Mapping[str, Tensor]) -> str:
    return f'"{key}" ({_size(tensors[key])})'


def _size(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "a scalar"


def _more(keys: list[str]) -> str:
    return f" and {len(keys) - 1} more" if len(keys) > 1 else ""
