"""Random modules of what an import may lose: a small sample of what `tools/check_random.py --modules` checks by the thousand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from gngraph.importing import from_torch as module_of_import
from gngraph.ir import Graph
from tests import random_modules
from tests.ingredients import INGREDIENTS
from tests.random_modules import ModuleError, check, check_source, make


@pytest.mark.parametrize("kind", sorted({name.partition(":")[0] for name in INGREDIENTS}))
def test_each_ingredient_is_refused_or_trains_alike(kind: str) -> None:
    for number, name in enumerate(name for name in INGREDIENTS if name.startswith(f"{kind}:")):
        check(number, [name])


@pytest.mark.parametrize("number", [51547, 60356, 62008])
def test_what_was_trained_otherwise_once_is_refused(number: int) -> None:
    """What a module keeps shows in gradients alone; reentrant checkpoints have none by autograd.grad, only by backward."""
    assert check(number).refused


SEEN_BY_TRAINING = [
    "gradients: context",
    "gradients: straight through",
    "modes: either",
    "modes: branch",
    "modes: counted norm held",
]


@pytest.mark.parametrize("name", SEEN_BY_TRAINING)
def test_what_training_alone_sees_is_written_as_source(name: str) -> None:
    made = make(3, [name])
    assert check_source(module_of_import(made.module, made.example, train_only="drop"), made) == 1


def test_a_module_depends_on_its_number_alone() -> None:
    first, again = make(7), make(7)
    assert first.ingredients == again.ingredients
    own, other = first.module.state_dict(), again.module.state_dict()
    assert list(own) == list(other) and all(torch.equal(own[key], other[key]) for key in own)


def test_an_import_that_forgets_a_detached_value_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(module: nn.Module, inputs: tuple[torch.Tensor, ...], *, train_only: str = "refuse") -> Graph:
        graph = module_of_import(module, inputs)
        return graph.with_params({name: p.data * 1.001 for name, p in graph.params.items() if name.endswith("bias")})

    monkeypatch.setattr(random_modules, "from_torch", forgetful)
    with pytest.raises(ModuleError, match=r"^silent: output 0 in step 0"):
        check(0, ["gradients: context"])


def test_a_module_that_is_changed_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(module: nn.Module, inputs: tuple[torch.Tensor, ...], *, train_only: str = "refuse") -> Graph:
        module(*inputs)
        return module_of_import(module, inputs)

    monkeypatch.setattr(random_modules, "from_torch", careless)
    with pytest.raises(ModuleError, match=r"^changed: "):
        check(0, ["weights: shared"])


def test_what_is_raised_and_is_no_sentence_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(module: nn.Module, inputs: tuple[torch.Tensor, ...], *, train_only: str = "refuse") -> Graph:
        raise KeyError("x")

    monkeypatch.setattr(random_modules, "from_torch", broken)
    with pytest.raises(ModuleError, match=r"^error: KeyError"):
        check(0, ["gradients: context"])
