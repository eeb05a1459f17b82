"""Random modules of what an import may lose, and what must hold of the import of each.

A module is made of one to three ingredients (`tests.ingredients`), and depends on its number alone. It may be refused with a
`GnGraphError`; where it is taken, its import trains as it does, and in either case it is left as it was.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from gngraph.errors import GnGraphError, IRError
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.lowering.to_torch import to_torch
from gngraph.source.export import to_source
from gngraph.source.proof import execute
from tests.ingredients import INGREDIENTS
from tests.ingredients.block import Chosen
from tests.training_steps import Trial, seed_everything

AS_SOURCE = 5
"""Of so many modules that are taken, one is written as source too."""


class ModuleError(Exception):
    """Something is wrong: its `kind` and what."""

    def __init__(self, kind: str, what: str) -> None:
        super().__init__(f"{kind}: {what}")
        self.kind = kind


@dataclass
class Made:
    """A random module and what it is tried on.

    Attributes:
        module: the module.
        ingredients: their names.
        example: what it is imported with.
        batches: what it is trained on, of several sizes.
        part: takes from the output in train mode what eval mode returns.
        drop: whether heads of train mode may be dropped.
        own: generators of random numbers in closures.
    """

    module: nn.Module
    ingredients: tuple[str, ...]
    example: tuple[Tensor, ...]
    batches: list[tuple[Tensor, ...]]
    part: Callable[[Any], Any]
    drop: bool
    own: list[Any]


@dataclass
class Seen:
    """What was seen of some modules.

    Attributes:
        taken: by ingredient; of refused ones see `refused`.
        reasons: of refusals, by the sentence without its names.
        examples: a module of each reason.
        unrun: modules that do not run themselves, which says nothing of an import.
        sources: how many imports were written as source.
    """

    modules: int = 0
    unrun: int = 0
    sources: int = 0
    taken: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    examples: dict[str, int] = field(default_factory=dict)
    all_taken: int = 0

    def add(self, other: Seen) -> None:
        """Count what another has seen."""
        for name in ("modules", "unrun", "sources", "all_taken"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("taken", "refused", "reasons"):
            getattr(self, name).update(getattr(other, name))
        self.examples = {**other.examples, **self.examples}


class _Root(nn.Module):
    """A stem, some blocks and a head, whose output has one of several forms."""

    def __init__(self, stem: nn.Module, blocks: Sequence[nn.Module], c: Chosen) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = stem, nn.ModuleList(blocks), nn.Linear(c.width, 3)
        self.form = c.rng.choices(["plain", "tuple", "dict", "aux tuple", "aux dict"], [10, 1, 1, 1, 1])[0]
        self.around = [c.sometimes() for _ in blocks]
        self.between = c.one_of(torch.relu, torch.tanh, lambda x: x)
        if self.form.startswith("aux"):
            self.aux = nn.Sequential(nn.Linear(c.width, 2), nn.Dropout(0.2))

    def forward(self, x: Tensor) -> Any:
        x = self.stem(x)
        for block, around in zip(self.blocks, self.around, strict=True):
            x = self.between(x + block(x) if around else block(x))
        pooled = x.mean((2, 3))
        out = self.head(pooled)
        if self.form == "tuple":
            return out, x
        if self.form == "dict":
            return {"out": out, "map": x}
        if self.form.startswith("aux") and self.training:
            return (out, self.aux(pooled)) if self.form == "aux tuple" else {"out": out, "aux": self.aux(pooled)}
        return {"out": out} if self.form == "aux dict" else out


class _Tokens(nn.Module):
    def __init__(self, width: int, norm: float | None) -> None:
        super().__init__()
        self.table = nn.Embedding(11, width, max_norm=norm, padding_idx=0)

    def forward(self, ids: Tensor) -> Tensor:
        rows: Tensor = self.table(ids)
        return rows.transpose(1, 2).unflatten(2, (2, 3))  # type: ignore[no-any-return, no-untyped-call]


def make(number: int, only: Sequence[str] | None = None) -> Made:
    """Module number `number`; of the ingredients `only`, if they are given."""
    rng = random.Random(number)
    seed_everything(number)
    c = Chosen(rng, rng.choice([4, 6]))
    names = tuple(only if only is not None else rng.choices(list(INGREDIENTS), k=rng.choices([1, 2, 3], [5, 3, 1])[0]))
    tokens = rng.random() < 0.15
    blocks = [INGREDIENTS[name](c) for name in names]
    stem = _Tokens(c.width, c.one_of(None, 0.5)) if tokens else nn.Conv2d(2, c.width, 3, padding=1)
    module = _Root(stem, blocks, c)
    generator = torch.Generator().manual_seed(number)

    def batch(samples: int) -> tuple[Tensor]:
        if tokens:
            return (torch.randint(11, (samples, 6), generator=generator),)
        return (torch.randn(samples, 2, 5, 5, generator=generator),)

    (example,) = batch(rng.choice([2, 3]))
    if rng.random() < 0.4 and not tokens:
        example = torch.zeros_like(example)
    if rng.random() < 0.3:
        module.eval()
    for child in rng.sample(list(module.modules()), 1):
        child.training = rng.random() < 0.5
    part: Callable[[Any], Any] = lambda output: output  # noqa: E731
    if module.form == "aux tuple":
        part = lambda output: output[0]  # noqa: E731
    if module.form == "aux dict":
        part = lambda output: {"out": output["out"]}  # noqa: E731
    return Made(module, names, (example,), [batch(2), batch(5)], part, module.form.startswith("aux"), c.own)


def check(number: int, only: Sequence[str] | None = None) -> Seen:
    """Import module number `number` and look at what comes of it.

    Raises:
        ModuleError: something is wrong.
    """
    made, seen = make(number, only), Seen(modules=1)
    graph, reason = None, ""
    before = _world(made)
    try:
        graph = from_torch(made.module, made.example, train_only="drop" if made.drop else "refuse")
    except GnGraphError as error:
        reason = str(error)
    except Exception as error:
        raise ModuleError("error", f"{type(error).__name__}: {error}") from error
    moved = _differences(before, _world(made))
    if moved:
        raise ModuleError("changed", ", ".join(moved[:5]))
    if graph is None:
        if "\n" in reason:
            raise ModuleError("error", f"a sentence of several lines: {reason}")
        seen.refused.update(made.ingredients)
        seen.reasons[_without_names(reason)] += 1
        seen.examples[_without_names(reason)] = number
        return seen
    seen.taken.update(made.ingredients)
    seen.all_taken = 1
    try:
        unlike = _unlike(lambda: make(number, only), graph)
    except _UnrunError:
        seen.unrun = 1
        return seen
    if unlike:
        raise ModuleError("silent", "; ".join(unlike[:3]))
    if number % AS_SOURCE == 0:
        seen.sources = check_source(graph, made)
    return seen


class _UnrunError(Exception):
    """The module does not run."""


def _unlike(again: Callable[[], Made], graph: Graph) -> list[str]:
    """In what the lowered graph trains unlike the module."""
    for dtype, tolerance in ((torch.float64, 1e-8), (None, 1e-3)):
        made = again()
        trial = Trial(made.batches, 2, made.part, dtype, tolerance)
        try:
            return list(trial.differences(made.module, to_torch(graph)))
        except Exception as error:  # whatever a module raises that has constants of another dtype
            failure = error
    raise _UnrunError from failure


def check_source(graph: Graph, made: Made) -> int:
    """Compare the written source with the lowered graph; 0 where it cannot be written."""
    try:
        text = to_source(graph)
    except IRError as error:
        if "differs" in str(error) and "another order" not in str(error):
            raise ModuleError("source", str(error)) from error
        return 0
    names = execute(text)
    kind = next(
        k
        for k in names.values()
        if isinstance(k, type) and issubclass(k, nn.Module) and k.__doc__ == "The whole network."
    )
    written, lowered = kind(), to_torch(graph)
    written.load_state_dict(lowered.state_dict())
    for name, tensor in lowered.named_buffers():
        written.get_buffer(name).copy_(tensor)
    unlike = list(Trial(made.batches, 1).differences(lowered, written))
    if unlike:
        raise ModuleError("source", "; ".join(unlike[:3]))
    return 1


def _without_names(reason: str) -> str:
    return "'".join(part if i % 2 == 0 else "..." for i, part in enumerate(reason.partition("; ")[0].split("'")))


# --- what must not change


def _world(made: Made) -> dict[str, Any]:
    """Everything that an import must leave as it is: the module and all it holds, its input, random streams, torch's switches."""
    found: dict[str, Any] = {
        "stream of torch": torch.get_rng_state().tolist(),
        "stream of random": random.getstate(),
        "stream of numpy": np.random.get_state()[1].tolist(),  # type: ignore[index]
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")),
        "dtype": torch.get_default_dtype(),
        "example": _held(made.example, set()),
        "keys": tuple(made.module.state_dict()),
    }
    for i, own in enumerate(made.own):
        found[f"closure {i} ({type(own).__name__})"] = _stream(own)
    seen: set[int] = set()
    for path, child in made.module.named_modules():
        for key, value in vars(child).items():
            found[f"{path}.{key}".strip(".")] = _held(value, seen)
        for kind in type(child).__mro__:
            if kind.__module__.startswith("tests"):
                found[f"class of {path}"] = {k: _held(v, seen) for k, v in vars(kind).items() if not k.startswith("__")}
    return found


def _stream(own: Any) -> Any:
    if isinstance(own, random.Random):
        return own.getstate()
    if isinstance(own, torch.Generator):
        return own.get_state().tolist()
    if isinstance(own, np.random.Generator):
        return repr(own.bit_generator.state)
    if isinstance(own, np.random.RandomState):
        return repr(own.get_state())
    return repr(own)


def _held(value: Any, seen: set[int]) -> Any:
    """What a value is, as something that compares by content."""
    if isinstance(value, fx.Proxy):
        return f"a Proxy {random.random()}"
    if isinstance(value, Tensor):
        tensor = value.detach()
        held = tuple(tensor.shape), str(tensor.dtype), tensor.reshape(-1).tolist(), value.requires_grad, type(value)
        hooks = tuple((value._backward_hooks or {}).keys()) if value.is_leaf else ()
        grad = None if not value.is_leaf or value.grad is None else value.grad.tolist()
        return id(value), held, hooks, grad
    if isinstance(value, Mapping):
        return type(value), tuple((_held(k, seen), _held(v, seen)) for k, v in value.items())
    if isinstance(value, (list, tuple, set)):
        return type(value), tuple(_held(item, seen) for item in value)
    if value is None or isinstance(value, (bool, int, float, str, bytes)):
        return value
    if id(value) in seen or isinstance(value, (nn.Module, type, ModuleType)) or callable(value):
        return id(value)
    seen.add(id(value))
    return id(value), _held(dict(getattr(value, "__dict__", {})), seen)


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    def unlike(a: Any, b: Any) -> bool:
        return repr(a) != repr(b)  # NaN is what it was

    return [key for key in {**before, **after} if unlike(before.get(key), after.get(key))]
