"""Carried optimiser state against autograd: after exact twins it is what training the wide network would have left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from gngraph.analysis.channels import ChannelSpaces
from gngraph.errors import TrainingError
from gngraph.ir import Graph
from gngraph.lowering.to_torch import to_torch
from gngraph.options import TrainOptions
from gngraph.options.training import OptimizerName
from gngraph.rewrite.morphism import Morphism, NewChannel, PruneChannel, SplitChannel, edits_of
from gngraph.rewrite.surgery import Gather, Rewritten, rewrite
from gngraph.training.optimizer_state import OptimizerState, carry_state, extract, restore
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer, trainable
from tests.problems import problem, seed_graph, small_vgg

Build = Callable[[list[nn.Parameter]], torch.optim.Optimizer]
Carry = Callable[[OptimizerState, Graph, Rewritten], OptimizerState]

DECAY = 0.05


def optimizers(rate: float) -> dict[str, Build]:
    """Every optimiser whose state is carried; at rate 0 the weights stay, and twins collect the gradients of one function."""
    return {
        "sgd": lambda parameters: torch.optim.SGD(parameters, lr=rate, momentum=0.9),
        "sgd with decay": lambda parameters: torch.optim.SGD(
            parameters, lr=rate, momentum=0.9, weight_decay=DECAY, nesterov=True
        ),
        "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=rate, weight_decay=DECAY),
    }


OPTIMIZERS = optimizers(0.0)


def after_steps(
    graph: Graph, build: Build, steps: int = 4, state: OptimizerState | None = None
) -> tuple[OptimizerState, Graph]:
    """The optimiser's state after some steps of training, and the graph."""
    module = to_torch(graph.to(torch.float64))  # eval mode: BatchNorm is then a fixed map for both networks
    parameters = trainable(graph, module)
    optimizer = build(list(parameters.values()))
    if state is not None:
        restore(optimizer, parameters, state)
    generator = torch.Generator().manual_seed(3)
    for _ in range(steps):
        x = torch.randn(16, 1, 8, 8, generator=generator, dtype=torch.float64)
        y = torch.randint(10, (16,), generator=generator)
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(module(x), y))
        optimizer.step()
    trained = graph.to(torch.float64).with_params({name: p.detach().clone() for name, p in parameters.items()})
    return extract(optimizer, parameters, steps), trained


def state_after_steps(graph: Graph, build: Build, steps: int = 4) -> OptimizerState:
    return after_steps(graph, build, steps)[0]


def rewritten(graph: Graph, space: str, *channels: int) -> Rewritten:
    spaces = ChannelSpaces.of(graph)
    return rewrite(graph, spaces, edits_of(graph, spaces, [SplitChannel(space, c) for c in channels]))


def largest_error(carried: OptimizerState, expected: OptimizerState) -> float:
    """Largest difference of an entry, as a share of the entry's root mean square."""
    assert carried.entries.keys() == expected.entries.keys()
    errors = []
    for name, entries in expected.entries.items():
        assert carried.entries[name].keys() == entries.keys()
        for key, tensor in entries.items():
            assert carried.entries[name][key].shape == tensor.shape
            size = tensor.square().mean().sqrt().clamp(min=1e-30)
            errors.append(float((carried.entries[name][key] - tensor).abs().max() / size))
    assert len(errors) > 4
    return max(errors)


NETWORKS: list[tuple[Callable[[], Graph], str]] = [(seed_graph, "hidden.0"), (small_vgg, "features.4")]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("build", "space"), NETWORKS)
def test_twins_carry_what_the_wide_network_would_have_learned(
    optimizer: str, build: Callable[[], Graph], space: str
) -> None:
    graph = build().to(torch.float64)
    wide, make = rewritten(graph, space, 0, 1), OPTIMIZERS[optimizer]
    state, again = state_after_steps(graph, make), state_after_steps(wide.graph, make)
    carried = carry_state(state, graph, wide)
    assert largest_error(carried, again) < 1e-9
    # and goes on as the wide network's own, over a second stretch and a second rewrite
    carried, again = (after_steps(wide.graph, make, 5, start)[0] for start in (carried, again))
    assert largest_error(carried, again) < 1e-9
    wider = rewritten(wide.graph, space, 2)
    carried = carry_state(carried, wide.graph, wider)
    assert largest_error(carried, after_steps(wider.graph, make, 5, state_after_steps(wider.graph, make))[0]) < 1e-9


def of_gathers(change: Callable[[Gather], Gather]) -> Carry:
    """The carry by other gathers."""

    def carry(state: OptimizerState, graph: Graph, wide: Rewritten) -> OptimizerState:
        return carry_state(
            state, graph, replace(wide, gathers={n: tuple(map(change, g)) for n, g in wide.gathers.items()})
        )

    return carry


def whole_momentum(state: OptimizerState, graph: Graph, wide: Rewritten) -> OptimizerState:
    """The carry that takes the decay for a gradient."""
    plain = {n: {k: v for k, v in entries.items() if k != "decay"} for n, entries in state.entries.items()}
    carried = carry_state(OptimizerState(plain), graph, wide).entries
    kept = {n: {k: v for k, v in e.items() if k == "decay"} for n, e in state.entries.items()}
    return OptimizerState({n: {**entries, **kept[n]} for n, entries in carried.items()})


def linear_squares(state: OptimizerState, graph: Graph, wide: Rewritten) -> OptimizerState:
    """The carry that takes Adam's second moment for a first one."""
    return carry_state(replace(state, powers=dict.fromkeys(state.powers, 1)), graph, wide)


WRONG: dict[str, tuple[str, Carry]] = {
    "copies get the whole gradient": (
        "sgd", of_gathers(lambda g: replace(g, backward=torch.ones_like(g.backward)))
    ),
    "the state moves as the weights do": ("sgd", of_gathers(lambda g: replace(g, backward=g.factor))),
    "copies of a neighbour": ("sgd", of_gathers(lambda g: replace(g, index=g.index.flip(0)))),
    "the decay is halved as the gradient": ("sgd with decay", whole_momentum),
    "squares as the gradient itself": ("adamw", linear_squares),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize(("build", "space"), NETWORKS)
def test_wrong_carries_are_refused(wrong: str, build: Callable[[], Graph], space: str) -> None:
    graph, (optimizer, carry) = build().to(torch.float64), WRONG[wrong]
    wide, make = rewritten(graph, space, 0, 1), OPTIMIZERS[optimizer]
    state, again = state_after_steps(graph, make), state_after_steps(wide.graph, make)
    assert largest_error(carry(state, graph, wide), again) > 1e-2


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_while_weights_move_the_carry_is_off_by_the_rate_alone(optimizer: str) -> None:
    graph, errors = seed_graph().to(torch.float64), {}
    wide = rewritten(graph, "hidden.0", 0, 1)
    for rate in (1e-5, 1e-6):
        make = optimizers(rate)[optimizer]
        state, trained = after_steps(graph, make, 40)
        carried = carry_state(state, trained, rewritten(trained, "hidden.0", 0, 1))
        errors[rate] = largest_error(carried, state_after_steps(wide.graph, make, 40))
    assert errors[1e-5] < 0.02 and errors[1e-5] / errors[1e-6] == pytest.approx(10, rel=0.1)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_the_trainer_counts_its_steps(optimizer: OptimizerName) -> None:
    graph, task = seed_graph(), problem()
    trainer = Trainer(
        task, TrainOptions(optimizer, lr=1e-12, weight_decay=DECAY, batch_size=50)
    )  # 240 samples: 5 steps
    wide = rewritten(graph, "hidden.0", 0, 1)
    states = []
    for network in (graph, wide.graph):
        first = trainer.train(network, Stretch(2))
        states.append(trainer.train(network, Stretch(1, first_epoch=2), first.state).state)
    assert largest_error(carry_state(states[0], graph, wide), states[1]) < 1e-4


def test_new_channels_start_at_zero_and_pruned_ones_vanish() -> None:
    graph = seed_graph()
    spaces = ChannelSpaces.of(graph)
    width = spaces["hidden.0"].size
    state = state_after_steps(graph, OPTIMIZERS["sgd"])
    morphisms: list[Morphism] = [NewChannel("hidden.0"), PruneChannel("hidden.0", 0)]
    result = rewrite(graph, spaces, edits_of(graph, spaces, morphisms))
    carried = carry_state(state, graph, result).entries["hidden.0.weight"]["momentum_buffer"]
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
        again = extract(optimizer, parameters, 0)
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


def test_entries_of_unknown_meaning_go_along_with_their_channels() -> None:
    graph = seed_graph()
    wide, name = rewritten(graph, "hidden.0", 0), "hidden.0.weight"
    entry = torch.randn_like(graph.params[name].data)
    carried = carry_state(OptimizerState({name: {"own": entry}}), graph, wide).entries[name]["own"]
    assert torch.equal(carried, torch.cat((entry, entry[:1])))


def test_state_that_is_laid_out_otherwise_cannot_be_carried() -> None:
    graph = seed_graph()
    wide = rewritten(graph, "hidden.0", 0)
    state = OptimizerState({"hidden.0.weight": {"state1": torch.zeros(7)}})
    with pytest.raises(TrainingError, match=r"'state1' of parameter 'hidden\.0\.weight' has shape \(7,\)"):
        carry_state(state, graph, wide)
