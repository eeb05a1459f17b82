"""`Grower`: growth inside a user's own training. It rewrites the module that the user holds, in place, when the user says so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from gngraph.analysis.channels import ChannelSpace, ChannelSpaces
from gngraph.analysis.cost import Budget, cost
from gngraph.analysis.fit import check_fit
from gngraph.analysis.manager import AnalysisManager
from gngraph.curvature import LossLike
from gngraph.errors import BudgetError, OptionError, PassError, UnsupportedModelError
from gngraph.growth.grower_inputs import example, problem_of, sampled
from gngraph.growth.growth_step import GrowthStep
from gngraph.growth.history import morphism_entries
from gngraph.growth.jobs import scope_of
from gngraph.growth.schedule import require_memory, require_room, round_budgets
from gngraph.importing.from_samples import from_samples
from gngraph.importing.from_torch import from_torch
from gngraph.importing.surroundings import with_gradients
from gngraph.inplace import (
    NumberAt,
    Saved,
    Stacked,
    agreed,
    carry_into,
    check_optimizer,
    difference,
    follow,
    followed,
    outputs_differ,
    remember,
    tensors_of,
    twin_of,
    unwrapped,
)
from gngraph.ir import Graph
from gngraph.ir.inputs import with_shared
from gngraph.options import GrowerOptions, taking
from gngraph.passes.repeat_blocks import RepeatedBlocks
from gngraph.rewrite.morphing import morph
from gngraph.rewrite.surgery import Rewritten
from gngraph.running.batchnorm import reestimate
from gngraph.running.evaluation import evaluate
from gngraph.running.seeding import mixed, seeded
from gngraph.scoring.gauss_newton import GaussNewton
from gngraph.search.chance import no_better_than_chance
from gngraph.search.decision import Decider
from gngraph.search.strategy import GaussNewtonGrowth


@dataclass(frozen=True, eq=False)
class _Foreseen:
    """A step that is decided: the network that it was decided for, and the rewrite of that."""

    step: GrowthStep
    graph: Graph
    rewritten: Rewritten


@dataclass(frozen=True, eq=False)
class _Before:
    """What a step changes, as it was."""

    saved: Saved
    graph: Graph
    places: frozenset[NumberAt]
    held: Mapping[str, str]
    left: list[Budget]


class Grower:
    """Grows a network in place, within a training loop of the user's own.

    The module stays the same object, of the same class, with the same submodules, parameters, hooks and methods: parameters get
    other values of other shapes, and so do the attributes that hold widths. Optimisers, their groups and schedulers go on:
    moments are carried, and what no gradient has reached yet starts at zero. Gradients are dropped, so call `step` between two
    steps of the optimiser. What cannot change in place is found out here, before anything changes, and is in `held`, by name:
    above all widths that a forward writes as numbers. Layers neither come nor go in a step; `repeat` stacks blocks on themselves.

    `torch.compile` compiles anew by itself, as its guards see the new shapes. A DistributedDataParallel is wrapped anew by the
    user: the grower takes its `module`.

    Cost: here, an import, and a comparison of the module and its graph at other widths; `score`, an analysis (see `GaussNewton`)
    and forward passes over the judge and report samples; `step`, that where it was not done, and a comparison of a few samples.
    Copies of the tensors and of the optimiser's state are kept until the next `score` or `step`, or `forget`, for `undo`.

    Args:
        model: the network, in any mode, on any device; it must be traceable (see `from_torch`).
        data: what `Problem` takes, or a `Problem`.
        options: all of them at once, as an object or as a file keeps them.
        loss, output: see `Problem`; for data that is none.
        example_inputs: what forward takes, of a model that takes more than samples, such as (x, mask) where all samples share the
            mask. Analyses and comparisons are by these values; yours are used where you call it. None: samples of the data.
        keywords: options by name, which win.

    Attributes:
        held: channel space -> why it keeps its width, beside those that are frozen.
        history: the steps that were made.

    Raises:
        OptionError: an option is unknown or does not fit, or there is no budget.
        UnsupportedModelError: the module cannot be read, or is wrapped in what cannot follow.
        DataError: the network does not fit the data.
        BudgetError: the budget is open on both sides, or bounds FLOPs that are not counted.
        PassError: no channel space can change in place.

    >>> x, y = torch.randn(96, 6), torch.arange(96) % 3
    >>> model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    >>> optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    >>> grower = Grower(model, (x, y), max_params=120, rounds=2)
    >>> for epoch in range(6):
    ...     optimizer.zero_grad()
    ...     nn.functional.cross_entropy(model(x), y).backward()
    ...     optimizer.step()
    ...     if epoch % 2 and not grower.done:
    ...         change = grower.step(optimizer)
    >>> model[0].out_features, optimizer.state[model[0].weight]["exp_avg"].shape
    (11, torch.Size([11, 6]))
    """

    @taking(GrowerOptions)
    @with_gradients()
    def __init__(
        self,
        model: nn.Module,
        data: Any,
        options: GrowerOptions | Mapping[str, Any] | None = None,
        *,
        loss: LossLike | None = None,
        output: str | int | None = None,
        example_inputs: Sequence[torch.Tensor] | None = None,
        **keywords: Any,
    ) -> None:
        self.options = GrowerOptions.of(options, **keywords)
        self._strategy = GaussNewtonGrowth(
            GaussNewton(self.options.curvature, kinds=self.options.kinds),
            self.options.selection,
            self.options.allocation,
        )
        if "insert" in self.options.kinds:
            raise OptionError("option 'kinds' names 'insert', but layers do not come or go in place; choose others")
        if not isinstance(model, nn.Module):
            raise UnsupportedModelError(f"a Grower takes an nn.Module, not a '{type(model).__name__}'")
        self._module = unwrapped(model)
        self._device = next((p.device for p in self._module.parameters()), torch.device("cpu"))
        self._problem = problem_of(data, loss, output, self._device)
        self._inputs = example(example_inputs)
        self.history: list[GrowthStep] = []
        self._foreseen: _Foreseen | None = None
        self._saved: _Before | None = None
        with seeded(self._problem.seed, self._device):
            twin, samples = twin_of(self._module), () if self._inputs else sampled(self._module, self._problem)
            graph = from_samples(twin, samples) if samples else from_torch(twin, self._inputs)
            self._inputs = self._inputs or with_shared(graph, samples)
            check_fit(graph, self._problem)
            differs = outputs_differ(self._module, graph, self._inputs)
            if differs is not None:
                raise UnsupportedModelError(differs)
            budget = Budget(self.options.max_params, self.options.max_flops)
            if budget.allows(cost(graph)):
                require_room(graph, budget)
            require_memory(cost(graph), budget, torch.device(self._problem.device))
            scope_of(self.options).check(graph, ChannelSpaces.of(graph))
            self._left = list(round_budgets(cost(graph), budget, self.options.rounds))
            found = followed(self._module, graph, self._inputs)
        self._budget, self._places = budget, found.places
        self._graph = self._without_values(graph)
        self._hold(found.held)
        if not self._free:
            why = "; ".join(f"'{s.name}': {s.frozen}" for s in self._analyses.get(ChannelSpaces, self._graph))
            raise PassError(f"no channel space of '{graph.name}' can change in place: {why}")

    @property
    def done(self) -> bool:
        """Whether all steps are made, so that the budget is reached as far as it pays, or nothing can change any more."""
        return not self._left or not self._free

    @with_gradients()
    def score(self) -> GrowthStep:
        """What the next step would do. Nothing changes; what `undo` needs is let go of.

        Raises:
            UnsupportedModelError: the module has been changed since the grower has seen it.
            BudgetError: channels that can be removed do not suffice for the budget.
        """
        self.forget()
        number = len(self.history) + 1
        graph = self._with_values()
        if self.done:
            return GrowthStep(number, cost(graph), cost(graph), {}, {})
        with seeded(self._problem.seed, self._device):
            settled = reestimate(graph, self._problem)
            doubt = no_better_than_chance(settled, self._problem)
            situation = self._decider.situation(self._strategy, settled, self._left[0], number)
            made = self._decider.decide(self._strategy, situation, number)
            morphisms = agreed(made.step.morphisms)
            generator = torch.Generator().manual_seed(mixed(self._problem.seed, number))
            spaces = self._analyses.get(ChannelSpaces, graph)
            rewritten = morph(graph, spaces, morphisms, generator)
        widths = {s.name: (s.size, ChannelSpaces.of(rewritten.graph)[s.name].size) for s in spaces.free}
        step = GrowthStep(
            number,
            cost(graph),
            cost(rewritten.graph),
            {name: both for name, both in widths.items() if both[0] != both[1]},
            morphism_entries(morphisms),
            made.report.predicted,
            made.report.error,
            made.report.actual,
            made.report.before,
            made.after,
            made.refused,
            (*([doubt] if doubt else []), *situation.scores.notes),
        )
        self._foreseen = _Foreseen(step, graph, rewritten)
        return step

    @with_gradients()
    def step(self, *optimizers: Any) -> GrowthStep:
        """Rewrite the network, and carry what its optimisers remember.

        Where the module then does not compute or train as its graph, all is put back, the spaces at fault are held, and the
        step that comes back is false and says so.

        Args:
            optimizers: those of the network, or what wraps them; without any, the network alone is rewritten.

        Raises:
            TrainingError: an optimiser is none of this network, or remembers what cannot be carried; nothing has changed.
            UnsupportedModelError, BudgetError: as `score` does.
        """
        tensors = tensors_of(self._module, self._graph)
        for optimizer in optimizers:
            check_optimizer(optimizer, tensors)
        step = self._foreseen.step if self._foreseen and self._is_current(self._foreseen.graph) else self.score()
        foreseen, self._foreseen, self._saved = self._foreseen, None, None
        if foreseen is None:
            return step  # all steps are made
        if not step:
            return self._made(step)
        before, rewritten = foreseen.graph, foreseen.rewritten
        saved = Saved(self._module, tensors, optimizers)
        try:
            with seeded(self._problem.seed, self._device):
                saved.numbers = follow(self._module, before, rewritten.graph, self._places)
                notes = [note for optimizer in optimizers for note in carry_into(optimizer, tensors, before, rewritten)]
                for tensor in tensors.values():
                    tensor.grad = None
                differs = difference(self._module, rewritten.graph, self._inputs)
        except BaseException:
            saved.restore()
            raise
        if differs is not None:
            saved.restore()
            changed = ", ".join(f"'{name}'" for name in step.widths)
            refused = f"{differs}; the step was undone, and {changed} keep their widths from now on"
            self._hold(self.held | dict.fromkeys(step.widths, "the module did not follow a step"))
            return replace(step, after=step.before, widths={}, morphisms={}, refused=refused, loss_after=step.loss)
        self._keep(saved)
        self._graph = self._without_values(rewritten.graph)
        return self._made(replace(step, notes=(*step.notes, *notes)))

    @with_gradients()
    def repeat(self, *optimizers: Any, at: str = "*", times: int = 1) -> GrowthStep:
        """Put copies of residual blocks behind them, as the pass `repeat-blocks` does: deeper, in place.

        The ModuleLists and Sequentials that the blocks lie in get longer, and so do the optimisers' groups; copies are remembered
        as their blocks are. Gradients are dropped, and the function changes. What steps are left for begins at the new size.

        Cost: a comparison of module and graph and one at other widths, as when the Grower was made, and two passes over the report
        samples, with BatchNorm over more.

        Args:
            optimizers: those of the network, or what wraps them.
            at: pattern of the names of blocks, or of modules in them; "*" is all.
            times: copies of each.

        Raises:
            PassError: there are no such blocks.
            BudgetError: the network would have more than the budget.
            UnsupportedModelError: the blocks do not lie in lists that the forward runs over, or the module has been changed.
            TrainingError: as `step` does. Nothing has changed whatever is raised.
        """
        tensors = tensors_of(self._module, self._graph)
        for optimizer in optimizers:
            check_optimizer(optimizer, tensors)
        self.forget()
        graph = self._with_values()
        made = RepeatedBlocks(at, times).run(graph, self._analyses)
        before, after = cost(graph), cost(made.graph)
        if not self._budget.allows(after):
            raise BudgetError(
                f"with its blocks repeated '{graph.name}' has {after.params:,} parameters and {after.flops:,} FLOPs, more than the "
                f"budget ({self._budget.text})"
            )
        saved = Saved(self._module, tensors, optimizers)
        try:
            saved.stacked = Stacked(self._module, graph, made.copies)
            new = tensors_of(self._module, made.graph)
            saved.new = tuple(new[name] for name in made.copies)
            with seeded(self._problem.seed, self._device):
                differs = difference(self._module, made.graph, self._inputs)
                if differs is not None:
                    last = "copies stand behind the last entry of a list that the forward runs over: name blocks that are last (at)"
                    raise UnsupportedModelError(f"{last}; {differs}")
                found = followed(self._module, made.graph, self._inputs)
                settled = [reestimate(g, self._problem) for g in (graph, made.graph)]
                losses = [evaluate(g, self._problem, self._problem.splits.report)[0] for g in settled]
            for optimizer in optimizers:
                remember(optimizer, [(new[name], tensors[old]) for name, old in made.copies.items()])
        except BaseException:
            saved.restore()
            raise
        for tensor in tensors.values():
            tensor.grad = None
        self._keep(saved)
        self._graph, self._places = self._without_values(made.graph), found.places
        self._left = list(round_budgets(after, self._budget, len(self._left)))
        self._hold(found.held)
        step = GrowthStep(
            len(self.history) + 1,
            before,
            after,
            {},
            morphism_entries(made.morphisms),
            loss=losses[0],
            loss_after=losses[1],
        )
        self.history.append(step)
        return step

    def undo(self) -> None:
        """Put network and optimisers back to what they were before the last step, whatever was trained since.

        The rates in the optimiser's groups stay, since a scheduler may hold them.

        Raises:
            PassError: there is no step to undo, or it was let go of.
        """
        if self._saved is None:
            raise PassError("there is no step to undo: one can be undone until the next `score`, `step` or `forget`")
        before, self._saved, self._foreseen = self._saved, None, None
        before.saved.restore()
        self.history.pop()
        self._graph, self._places, self._left = before.graph, before.places, before.left
        self._hold(before.held)

    def forget(self) -> None:
        """Let go of what `undo` and a step after `score` need: copies of the network's tensors."""
        self._saved = self._foreseen = None

    def _made(self, step: GrowthStep) -> GrowthStep:
        self.history.append(step)
        self._left = self._left[1:]
        return step

    def _keep(self, saved: Saved) -> None:
        """What `undo` needs, before anything of it changes."""
        self._saved = _Before(saved, self._graph, self._places, self.held, self._left)

    def _hold(self, held: Mapping[str, str]) -> None:
        """Let these channel spaces keep their widths from now on."""
        self.held = dict(held)
        self._analyses = AnalysisManager(self._problem, self.held, scope_of(self.options))
        self._decider = Decider(self._analyses, self._budget)

    @property
    def _free(self) -> tuple[ChannelSpace, ...]:
        return self._analyses.get(ChannelSpaces, self._graph).free

    def _without_values(self, graph: Graph) -> Graph:
        """The graph without the values of what the module holds itself."""
        own = tensors_of(self._module, graph)
        return graph.with_params({name: graph.params[name].data.to("meta") for name in own})

    def _with_values(self) -> Graph:
        """The graph with copies of the module's tensors as they are now, on the CPU."""
        tensors = tensors_of(self._module, self._graph)
        for name, p in self._graph.params.items():
            shape = tuple(tensors[name].shape) if name in tensors else None
            if shape != tuple(p.data.shape) and p.data.is_meta:
                raise UnsupportedModelError(
                    f"'{name}' of '{self._graph.name}' has shape {shape}, where the grower knows {tuple(p.data.shape)}: something "
                    f"else has changed the module; make a new Grower"
                )
        return self._graph.with_params({name: t.detach().cpu().clone() for name, t in tensors.items()})

    def _is_current(self, graph: Graph) -> bool:
        """Whether the module still has the values that a graph has."""
        tensors = tensors_of(self._module, self._graph)
        return all(
            t.shape == graph.params[name].data.shape and torch.equal(t.detach().cpu(), graph.params[name].data)
            for name, t in tensors.items()
        )
