"""The methods of the growth benchmark's jobs on a trained network: extend, reshape, shrink.

What training that network cost is not charged to any of them; a network that is trained from scratch pays for all of its epochs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from gngraph.analysis.channels import ChannelSpaces
from gngraph.analysis.cost import Budget, Cost, CostModel, cost
from gngraph.analysis.manager import AnalysisManager
from gngraph.analysis.scope import EVERYTHING, Scope
from gngraph.data import batches
from gngraph.errors import BudgetError
from gngraph.growth import jobs
from gngraph.growth.jobs import Task
from gngraph.importing.from_torch import from_torch
from gngraph.ir import Graph
from gngraph.ir.inputs import input_shape_of
from gngraph.lowering.to_torch import reading_inputs
from gngraph.rewrite.morphing import morph
from gngraph.running.batchnorm import reestimate
from gngraph.running.evaluation import evaluate
from gngraph.running.seeding import mixed
from gngraph.scoring.gauss_newton import GaussNewton
from gngraph.scoring.proposers.merges import merged_into_rest
from gngraph.scoring.selection import select
from gngraph.search.designs import widths_within
from gngraph.search.strategy import GaussNewtonGrowth, Strategy
from gngraph.training.perturbation import perturbed
from gngraph.zoo.transformer import ViT
from tools.growth_designs import DESIGNS, SHAPES, to_widths
from tools.growth_methods import SEARCH, STRATEGIES, Method
from tools.growth_runs import Counter, Meter, Run
from tools.growth_transformers import SMALL_VIT, Way, pruned_within, small_vit, values_of, with_values

IMPORTANCES = ("magnitude", "taylor", "random")
"""Of Torch-Pruning, of all networks."""

HESSIAN = "hessian"
"""One more, which takes a gradient for every sample."""

WAYS = {
    "": Way(everywhere=True),
    "-uniform": Way(),
    "-heads": Way(heads=True),
    "-inside": Way(inside=True),
}
"""How it is asked, by the end of a method's name; the last two are for transformers."""

PRUNING_STEPS = 400
"""Steps in which Torch-Pruning approaches the budget: it stops at the first that is within."""


def base_of(run: Run) -> Graph:
    """The trained network that the job starts from: the table's design at its budget, the same for every method of a seed."""
    network = run.kept(run.base)
    if network is None:
        spent, run.meter = run.meter, Meter()
        network = run.scratch(run.design(run.settings.design), name=run.base)
        run.meter = spent
        run.keep(run.base, network)
    return network


def same(run: Run) -> Graph:
    """The trained network as it is, trained on."""
    return run.tune(base_of(run))


def perturbed_same(run: Run) -> Graph:
    """The trained network as it is, perturbed and trained on."""
    graph = base_of(run)
    return run.tune(perturbed(graph, run.settings.perturb, mixed(run.problem.seed, 0)))


def larger(run: Run) -> Graph:
    """The design of the trained network at the extended size, from scratch."""
    return run.scratch(run.design(run.settings.design, _extended(run, base_of(run))))


def smaller(run: Run) -> Graph:
    """The design of the trained network at the shrunken size, from scratch."""
    return run.scratch(run.design(run.settings.design, _shrunken(run, base_of(run))))


def _extended(run: Run, graph: Graph) -> Budget:
    size, factor = cost(graph), 1 + run.settings.extension
    return Budget(int(size.params * factor), int(size.flops * factor))


def _unchanged(run: Run, graph: Graph) -> Budget:
    size = cost(graph)
    return Budget(size.params, size.flops)


def _shrunken(run: Run, graph: Graph) -> Budget:
    size = cost(graph)
    return Budget(int(size.params * run.settings.params_left), int(size.flops * run.settings.shrinkage))


def rewritten(
    strategy: Strategy, budget_of: Callable[[Run, Graph], Budget], run: Run, scope: Scope = EVERYTHING
) -> Graph:
    """The trained network after one rewrite by a strategy, trained on."""
    graph = base_of(run)
    options = run.growing(1, 0, run.settings.tuning)
    result = run.grow(Task(strategy, budget_of(run, graph), options, scope=scope), graph)
    first = result.history[0]
    run.notes |= {"loss_before": first["trained"]["loss"], "accuracy_before": first["trained"]["accuracy"]}
    run.notes |= {"loss_rewritten": first["loss"], "accuracy_rewritten": first["accuracy"]}
    return result.graph


def to_shape(shape: str, budget_of: Callable[[Run, Graph], Budget], run: Run) -> Graph:
    """The trained network brought to the widths of a plain design, pruning what is read least, trained on."""
    graph = base_of(run)
    generator = torch.Generator().manual_seed(run.problem.seed)
    with run.meter.searching():
        made = to_widths(graph, widths_within(graph, SHAPES[shape], budget_of(run, graph)), generator)
    return _tuned(run, graph, made)


def gauss_newton(kind: str, rebuilt: bool, run: Run, shape: str | None = None) -> Graph:
    """Removals that the joint Gauss-Newton selection chooses.

    Args:
        kind: "prune" or "merge".
        rebuilt: once all are chosen, what is removed is rebuilt from all that stays.
        run: whose base is made smaller, and which pays.
        shape: of a plain design, whose widths it keeps to; None: it chooses widths too.
    """
    graph, analyses = base_of(run), AnalysisManager(run.problem)
    with run.meter.searching():
        scores = analyses.get(GaussNewton(kinds=(kind,)), graph)
        spaces = analyses.get(ChannelSpaces, graph)
        model = CostModel(graph, spaces)
        budget = _shrunken(run, graph)
        widths = widths_within(graph, SHAPES[shape], budget) if shape else None
        chosen = select(scores, model, budget=budget, widths=widths, kinds=(kind,)).morphisms(scores)
        if rebuilt:
            chosen = merged_into_rest(graph, analyses, chosen)
        made = morph(graph, spaces, chosen).graph
    return _tuned(run, graph, made)


def torch_pruning(importance: str, way: Way, run: Run) -> Graph:
    """Removals that Torch-Pruning chooses by one of its importances.

    Args:
        importance: "magnitude", "taylor", "hessian" or "random".
        way: how it goes about it.
        run: whose base is made smaller, and which pays.

    Raises:
        BudgetError: it does not reach the budget.
    """
    import torch_pruning as tp

    graph = base_of(run)
    limit, shape = _shrunken(run, graph), input_shape_of(graph)
    transformer = run.settings.network == SMALL_VIT
    small = small_vit(1.0, run.problem.data.outputs, shape) if transformer else None
    module = with_values(small, values_of(graph)) if small else reading_inputs(graph).to(run.problem.device)
    if importance in _GRADIENTS:
        with run.meter.searching():
            _GRADIENTS[importance](run, module)
    measures: dict[str, Callable[[], Any]] = {
        "magnitude": tp.importance.GroupMagnitudeImportance,
        "taylor": tp.importance.GroupTaylorImportance,
        HESSIAN: tp.importance.GroupHessianImportance,
        "random": tp.importance.RandomImportance,
    }
    example = torch.zeros(2, *shape, device=run.problem.device)
    if isinstance(module, ViT):
        with run.meter.searching(), torch.random.fork_rng():
            torch.manual_seed(mixed(run.problem.seed, 0))
            made = pruned_within(module, measures[importance](), example, limit, way)
        return _tuned(run, graph, from_torch(made, example))
    return _tuned(run, graph, _pruned_in_steps(run, module, measures[importance](), limit, way.everywhere))


def _pruned_in_steps(run: Run, module: nn.Module, importance: Any, limit: Budget, everywhere: bool) -> Graph:
    import torch_pruning as tp

    example = torch.zeros(2, *run.problem.data.input_shape, device=run.problem.device)
    pruner = tp.pruner.BasePruner(
        module,
        example,
        importance=importance,
        global_pruning=everywhere,
        pruning_ratio=0.95,
        max_pruning_ratio=0.95,
        iterative_steps=PRUNING_STEPS,
        ignored_layers=[part for part in module.modules() if isinstance(part, nn.Linear | nn.Conv2d)][-1:],
    )
    while True:
        size = size_of(module, example[:1])  # the benchmark's own need: not charged
        if limit.allows(size):
            return from_torch(copy.deepcopy(module).cpu(), example.cpu())
        if pruner.current_step == PRUNING_STEPS:
            raise BudgetError(f"Torch-Pruning leaves {size.flops:,} FLOPs, beyond {limit.text}; raise --shrinkage")
        with run.meter.searching(), torch.random.fork_rng():
            torch.manual_seed(mixed(run.problem.seed, pruner.current_step))
            pruner.step()


def size_of(module: nn.Module, x: torch.Tensor) -> Cost:
    """What a module costs, as `gngraph.analysis.cost.cost` says of its graph, at the cost of running it on one sample."""
    with torch.no_grad(), Counter() as counter:
        module(x)
    return Cost(sum(parameter.numel() for parameter in module.parameters()), counter.flops)


def _gradients(run: Run, module: nn.Module) -> None:
    """Gradient of the mean loss on the learn split, in every parameter."""
    learn = run.problem.splits.learn
    for x, y in batches(learn, run.problem.batch_size, device=run.problem.device):
        (run.problem.loss_fn.per_sample(module(x), y).sum() / len(learn)).backward()  # type: ignore[no-untyped-call]


def _squared_gradients(run: Run, module: nn.Module) -> None:
    """Mean of the squared gradients of the losses of single samples of the learn split, in the gradient of every parameter.

    That is what Torch-Pruning's Hessian importance reads; its own sum keeps the last sample alone (1.6.1).
    """
    learn = run.problem.splits.learn
    squares = {parameter: torch.zeros_like(parameter) for parameter in module.parameters()}
    for x, y in batches(learn, 1, device=run.problem.device):
        module.zero_grad()
        run.problem.loss_fn.per_sample(module(x), y).sum().backward()  # type: ignore[no-untyped-call]
        for parameter, square in squares.items():
            if parameter.grad is not None:
                square.addcmul_(parameter.grad, parameter.grad, value=1 / len(learn))
    for parameter, square in squares.items():
        parameter.grad = square


_GRADIENTS: Mapping[str, Callable[[Run, nn.Module], None]] = {"taylor": _gradients, HESSIAN: _squared_gradients}
"""What has to be in the gradients for an importance."""


def _tuned(run: Run, before: Graph, after: Graph) -> Graph:
    test = run.problem.test
    loss, accuracy = evaluate(reestimate(after, run.problem), run.problem, test)
    first = evaluate(before, run.problem, test)
    run.notes |= {"loss_before": first[0], "accuracy_before": first[1]}
    run.notes |= {"loss_rewritten": loss, "accuracy_rewritten": accuracy}
    return run.tune(after)


def _by_strategies(names: tuple[str, ...], budget_of: Callable[[Run, Graph], Budget]) -> dict[str, Method]:
    return {name: partial(rewritten, STRATEGIES[name], budget_of) for name in names}


def _own(job: str, *kinds: str, **options: Any) -> GaussNewtonGrowth:
    """gngraph's own way, by some options of the job, or the same with other kinds of candidates."""
    own = jobs.JOBS[job].strategy(jobs.JOBS[job].options(**options))
    assert isinstance(own, GaussNewtonGrowth)
    return replace(own, analysis=GaussNewton(kinds=kinds)) if kinds else own


KINDS_OF_WIDTHS = {"hidden": "blocks.*.up", "heads": "blocks.*.attention.qkv", "stream": "patches"}
"""The kinds of a ViT's widths, by the layers that write them."""


def _only(pattern: str, run: Run) -> Graph:
    """gngraph's own way with a kind of widths alone."""
    return rewritten(_own("shrink"), _shrunken, run, Scope(only=(pattern,)))


JOBS: Mapping[str, Mapping[str, Method]] = {
    "search": SEARCH,
    "extend": {
        "same": same,
        "same-perturbed": perturbed_same,
        "larger": larger,
        **_by_strategies(tuple(STRATEGIES), _extended),
        "gngraph": partial(rewritten, _own("extend"), _extended),
        "new": partial(rewritten, _own("extend", "new", "prune"), _extended),
        "exact": partial(rewritten, _own("extend", "prune"), _extended),
        "reshaping": partial(rewritten, GaussNewtonGrowth(), _extended),
    },
    "reshape": {
        "same": same,
        "same-perturbed": perturbed_same,
        "gngraph": partial(rewritten, _own("reshape"), _unchanged),
        "exact": partial(rewritten, _own("reshape", "prune"), _unchanged),
        "immediate": partial(rewritten, GaussNewtonGrowth(allocation="none"), _unchanged),
        "paper": partial(rewritten, STRATEGIES["paper"], _unchanged),
        **{f"towards-{shape}": partial(to_shape, shape, _unchanged) for shape in ("uniform", "soft-pyramid")},
    },
    "shrink": {
        "same": same,
        "same-perturbed": perturbed_same,
        "smaller": smaller,
        "gngraph": partial(rewritten, _own("shrink"), _shrunken),
        "gngraph-low-rank": partial(rewritten, _own("shrink", kinds=("prune", "low-rank")), _shrunken),
        "gn-prune": partial(gauss_newton, "prune", False),
        "gn-merge": partial(gauss_newton, "merge", False),
        "gn-prune-rebuilt": partial(gauss_newton, "prune", True),
        "gn-merge-rebuilt": partial(gauss_newton, "merge", True),
        **{f"gngraph-{kind}": partial(_only, pattern) for kind, pattern in KINDS_OF_WIDTHS.items()},
        **{
            f"tp-{i}{name}": partial(torch_pruning, i, way)
            for i in (*IMPORTANCES, HESSIAN)
            for name, way in WAYS.items()
        },
        "narrower": partial(to_shape, "pyramid", _shrunken),
        "narrower-prune": partial(gauss_newton, "prune", False, shape="pyramid"),
        "narrower-rebuilt": partial(gauss_newton, "prune", True, shape="pyramid"),
    },
}
"""Job -> method by name."""

REPEATED: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "search": {
        "gngraph": ("scratch", "equal", "uniform"),
        "gngraph-structure": ("scratch",),
        **dict.fromkeys(
            ("gngraph-all-layers", "gngraph-new", "gngraph-exact", "equal-worths", "fresh"), ("scratch", "equal")
        ),
        **dict.fromkeys(DESIGNS, ("equal",)),
    },
    "extend": {"gngraph": ("scratch", "equal")},
}
"""Job -> method -> how its network is trained once more, from scratch. "scratch": for the epochs of the table. "equal": for as many
as the method's training FLOPs pay for, those of a plain design for as many as "gngraph" pays for. A name of `SHAPES`: its layers at
widths of that shape, for the epochs of the table."""
