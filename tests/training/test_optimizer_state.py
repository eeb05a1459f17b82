"""Carried optimiser state against autograd: after exact twins it is what training the wide network would have left."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from gngraph.analysis.channels import ChannelSpaces
from gngraph.errors import TrainingError
from gngraph.ir import Graph
from gngraph.lowering.to_torch import to_torch
from gngraph.rewrite.morphism import Morphism, NewChannel, PruneChannel, SplitChannel, edits_of
from gngraph.rewrite.surgery import Rewritten, rewrite
from gngraph.training.optimizer_state import OptimizerState, carry_state, extract, restore
from gngraph.training.training import trainable
from tests.problems import seed_graph, small_vgg

Build = Callable[[list[nn.Parameter]], torch.optim.Optimizer]

# At rate 0 the weights stay, so that both networks collect the gradients of the same function.
OPTIMIZERS: dict[str, Build] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.0, momentum=0.9),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=0.0, weight_decay=0.0),
}


def state_after_steps(graph: Graph, build: Build, steps: int = 4) -> OptimizerState:
    module = to_torch(graph.to(torch.float64))  # eval mode: BatchNorm is then a fixed map for both networks
    parameters = trainable(graph, module)
    optimizer = build(list(parameters.values()))
    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        x = torch.randn(16, 1, 8, 8, generator=generator, dtype=torch.float64)
        y = torch.randint(10, (16,), generator=generator)
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(module(x), y))
        optimizer.step()
    return extract(optimizer, parameters)


def rewritten(graph: Graph, space: str, *channels: int) -> Rewritten:
    spaces = ChannelSpaces.of(graph)
    return rewrite(graph, spaces, edits_of(graph, spaces, [SplitChannel(space, c) for c in channels]))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("build", "space"), [(seed_graph, "hidden.0"), (small_vgg, "features.4")])
def test_twins_carry_what_the_wide_network_would_have_learned(
    optimizer: str, build: Callable[[], Graph], space: str
) -> None:
    graph = build()
    wide = rewritten(graph, space, 0, 1)
    carried = carry_state(state_after_steps(graph, OPTIMIZERS[optimizer]), wide.gathers)
    expected = state_after_steps(wide.graph, OPTIMIZERS[optimizer])
    assert carried.entries.keys() == expected.entries.keys()
    moved = 0
    for name, entries in expected.entries.items():
        for key, tensor in entries.items():
            torch.testing.assert_close(carried.entries[name][key], tensor, rtol=1e-9, atol=1e-12, msg=f"{name} {key}")
            moved += int(tensor.numel() > 1 and bool((tensor != 0).any()))
    assert moved > 4


def test_new_channels_start_at_zero_and_pruned_ones_vanish() -> None:
    graph = seed_graph()
    spaces = ChannelSpaces.of(graph)
    width = spaces["hidden.0"].size
    state = state_after_steps(graph, OPTIMIZERS["sgd"])
    morphisms: list[Morphism] = [NewChannel("hidden.0"), PruneChannel("hidden.0", 0)]
    result = rewrite(graph, spaces, edits_of(graph, spaces, morphisms))
    carried = carry_state(state, result.gathers).entries["hidden.0.weight"]["momentum_buffer"]
    assert torch.equal(carried[: width - 1], state.entries["hidden.0.weight"]["momentum_buffer"][1:])
    assert bool((carried[width - 1 :] == 0).all()) and len(carried) == width


def test_what_is_restored_is_what_was_extracted() -> None:
    graph = seed_graph()
    for build in OPTIMIZERS.values():
        state = state_after_steps(graph, build)
        module = to_torch(graph.to(torch.float64))
        parameters = trainable(graph, module)
        optimizer = build(list(parameters.values()))
        restore(optimizer, parameters, state)
        again = extract(optimizer, parameters)
        for name, entries in state.entries.items():
            assert entries.keys() == again.entries[name].keys()
            assert all(torch.equal(entries[key], again.entries[name][key]) for key in entries)


def test_state_that_was_not_carried_is_refused() -> None:
    graph = seed_graph()
    state = state_after_steps(graph, OPTIMIZERS["sgd"])
    wide = rewritten(graph, "hidden.0", 0).graph
    module = to_torch(wide)
    parameters = trainable(wide, module)
    optimizer = OPTIMIZERS["sgd"](list(parameters.values()))
    with pytest.raises(
        TrainingError, match=r"'momentum_buffer' of parameter 'hidden\.0\.weight' has shape .*carry_state"
    ):
        restore(optimizer, parameters, state)


def test_state_of_an_unknown_optimiser_cannot_be_carried() -> None:
    graph = seed_graph()
    wide = rewritten(graph, "hidden.0", 0)
    state = OptimizerState({"hidden.0.weight": {"exp_inf": torch.ones_like(graph.params["hidden.0.weight"].data)}})
    with pytest.raises(TrainingError, match=r"'exp_inf' of parameter 'hidden\.0\.weight' cannot be carried"):
        carry_state(state, wide.gathers)
