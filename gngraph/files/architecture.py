"""Networks made by name or by the caller's own factory, and filled from a state dict."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from gngraph.calling import CallError, called, is_factory, of_library
from gngraph.errors import GnGraphNote, ModelFileError
from gngraph.zoo import build_seed, published

_WRAPPED = re.compile(r"(?<![^.])(_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module)\.")
"""What torch.compile and the like put into keys, wherever a wrapped module stands."""
_TRIED = 3
"""Numbers of classes that a network is made for, where the keys leave them open."""
_COUNTERS = "num_batches_tracked"
"""End of the keys of batch counters, which older files lack."""


@dataclass(frozen=True)
class Architecture:
    """What a state dict belongs to.

    Attributes:
        name: a name for `build_seed`, or `pkg.module:factory`.
        width: width multiplier; a factory ignores it, as it does the next two.
        classes: number of outputs; None takes the first size of the last tensor of the state dict.
        input_shape: shape of one sample; None takes that of other libraries' networks, 3x32x32 else.
    """

    name: str
    width: float = 1.0
    classes: int | None = None
    input_shape: tuple[int, ...] | None = None

    def filled(self, state: Mapping[str, Tensor], path: str) -> nn.Module:
        """A new network of this architecture with the tensors of `state`.

        Args:
            state: tensors by state_dict key. What stands before all keys of the network, as wrappers and training frameworks put
                it, is taken off, and what else the file holds beside it is left out, with a `GnGraphNote` that says so.
            path: the file they come from, for messages.

        Raises:
            ModelFileError: keys or shapes differ, or the factory fails.
            UnsupportedModelError: the name is unknown or cannot be built at this size.
        """
        problems = []
        for classes in self._numbers_of_classes(state):
            module, fitting, problem = self._fitted(self._build(classes), state, path)
            if problem is None:
                # Not strict: batch counters, which older files lack, were let through.
                module.load_state_dict(fitting, strict=False)
                return module
            problems.append(problem)
        raise ModelFileError(
            f'"{path}" does not fit --arch "{self.name}": {problems[0]}; check --arch, --width, --classes and --input-shape'
        )

    def _fitted(
        self, module: nn.Module, state: Mapping[str, Tensor], path: str
    ) -> tuple[nn.Module, Mapping[str, Tensor], str | None]:
        """A new network, the tensors that are its own, and in what these do not fit it, in words."""
        expected = module.state_dict()
        state = (
            {_WRAPPED.sub("", key): tensor for key, tensor in state.items()} if not _has_wrappers(expected) else state
        )
        under = {prefix: _under(prefix, state) for prefix in _prefixes(state, expected)}
        fitting = [prefix for prefix, own in under.items() if not _differences(expected, own)]
        if len(fitting) > 1:
            both = " and ".join(f'"{prefix}"' for prefix in fitting[:2])
            return module, state, f"keys under {both} fit it; save the state dict of one of them alone"
        if not fitting:
            likely = max(under, key=lambda prefix: len(under[prefix].keys() & expected.keys()), default="")
            return module, state, "; ".join(_differences(expected, under.get(likely, state)))
        prefix, own = fitting[0], under[fitting[0]]
        if prefix:
            others = [key for key in state if not key.startswith(prefix)]
            left = f', and "{others[0]}"{_more(others)} left out' if others else ""
            warnings.warn(GnGraphNote(f'"{path}": "{prefix}" is taken off the keys{left}'), stacklevel=2)
        return module, own, None

    def _numbers_of_classes(self, state: Mapping[str, Tensor]) -> list[int | None]:
        """What the number of outputs may be: by the last tensor of all, or of those whose keys begin alike."""
        if self.classes is not None or self._is_factory:
            return [self.classes]
        last: dict[str, int] = {}
        for key, tensor in state.items():
            if tensor.dim() > 0:
                last[""] = last[key.partition(".")[0]] = tensor.shape[0]
        return [*list(dict.fromkeys(last.values()))[:_TRIED]] or [None]

    @property
    def _is_factory(self) -> bool:
        return is_factory(self.name)

    def _build(self, classes: int | None) -> nn.Module:
        if self._is_factory:
            return call_factory(self.name)
        return named_network(self.name, self.width, classes, self.input_shape)


def named_network(name: str, width: float, classes: int | None, input_shape: tuple[int, ...] | None) -> nn.Module:
    """A new network by a name for `build_seed`.

    Args:
        name: of a seed, or of a network of another library.
        width: multiplier of its channels.
        classes: outputs; None: 10.
        input_shape: None: that of a network of another library, 3x32x32 else.

    Raises:
        UnsupportedModelError: it is unknown, or cannot be built so.
    """
    kept = published(name) if of_library(name) and input_shape is None else None
    shape = input_shape or (kept.input_shape if kept else (3, 32, 32))
    return build_seed(name, width=width, classes=10 if classes is None else classes, input_shape=shape)


def call_factory(text: str) -> nn.Module:
    """The module that a factory makes, see `made_by`.

    Raises:
        ModelFileError: as `made_by` does.
    """
    return made_by(text)[0]


def made_by(text: str) -> tuple[nn.Module, Any]:
    """Import `pkg.module`, also from the working directory, and call `factory` without arguments.

    Returns:
        The module, and the example inputs that it returns beside it, as `from_torch` takes them; None where it returns none.

    Raises:
        ModelFileError: the import or the call fails, or gives something that is no module.
    """
    try:
        made = called(text, made=nn.Module)
    except CallError as error:
        raise ModelFileError(
            f'"{text}" could not be called: {error}; it must name a function without required arguments that returns a '
            "torch.nn.Module"
        ) from error
    module, example = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    if not isinstance(module, nn.Module):
        raise ModelFileError(
            f'"{text}" returned a {type(module).__name__}, but it must return a torch.nn.Module, or one and its example inputs'
        )
    return module, example


def _has_wrappers(expected: Mapping[str, Tensor]) -> bool:
    return any(_WRAPPED.search(key) for key in expected)


def _prefixes(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> list[str]:
    """What may stand before all keys of a network; "" where nothing does."""
    first = next((key for key in expected if not key.endswith(_COUNTERS)), "")
    found = [key.removesuffix(first) for key in state if key.endswith(first)]
    return [prefix for prefix in dict.fromkeys(found) if not prefix or prefix.endswith(".")]


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def _differences(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """One phrase each for missing keys, unexpected keys and other shapes; none if `state` fits."""
    missing = [key for key in expected if key not in state and not key.endswith(_COUNTERS)]
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
