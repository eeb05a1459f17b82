"""The units in which a regression is trained: targets about 0, of a deviation about 1, whatever those of the data are.

A rate suits targets of one size. For prices of 10,000 +- 3,000 the gradients by which a network starts are thousands of times
larger than for standardised ones, and the weights that it ends at as well. So a regression is trained in standard units, and the
last layer, which is affine, is brought there and back: between two stretches, and in whatever is saved, outputs are in the units
of the data. What is minimised stays what the user asked for: the mean squared error, divided by one number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch

from gngraph.curvature import MeanSquaredError
from gngraph.ir import Graph, Node, Ref
from gngraph.options import TrainOptions
from gngraph.running.finite import require_finite
from gngraph.running.problem import Problem
from gngraph.running.sparing import sparing
from gngraph.training.optimizer_state import OptimizerState

MEASURED = 2048
"""Samples that the mean and the deviation of the targets are measured on."""

SQUARABLE = 1e18
"""A deviation from which float32 has no squares."""

AFFINE = ("linear", "conv1d", "conv2d", "conv3d")
"""Ops of a last layer that can be brought to other units: outputs times a number, plus a number."""

PASSING = (
    *("identity", "contiguous", "flatten", "reshape", "squeeze", "unsqueeze", "permute", "transpose", "index"),
    *("mean", "adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"),
)
"""Ops that may follow it: what multiplies all that they read, or is added to it, does the same to what they give."""

LARGE_TARGETS = 10.0
"""From this size on targets that stay in their own units are told of: a rate suits those of about 1."""


@dataclass(frozen=True, eq=False)
class Units:
    """Units of the targets, and the layer whose outputs are in them.

    Attributes:
        mean: of the targets: one number, or one an output [K].
        deviation: root of their mean variance, or without a bias of their mean square.
        weight, bias: parameters of the last layer; no weight: nothing is changed.
        per_output: axes of the targets after that of the outputs, over which `mean` is the same; None: it is one number.
        reason: why they stay in the units of the data, where a regression is trained in these.
    """

    mean: torch.Tensor
    deviation: float
    weight: str | None
    bias: str | None
    per_output: int | None = None
    reason: str | None = None

    @property
    def scale(self) -> float:
        """The power of 2 next to the deviation, by which weights are divided and multiplied without a rounding error."""
        return 2.0 ** round(math.log2(self.deviation)) if self.weight is not None else 1.0

    @property
    def text(self) -> str | None:
        """What is done, or is not, for whoever trains; None where it makes no difference."""
        size = float(self.mean.square().mean().sqrt())
        if self.reason is not None and (
            max(size, self.deviation) > LARGE_TARGETS or self.deviation < 1 / LARGE_TARGETS
        ):
            return (
                f"targets of size {size:.4g} and deviation {self.deviation:.4g} are trained in these units, for {self.reason}: "
                f"where the loss hardly falls, give targets of a size of about 1, or end the network with a linear layer"
            )
        if self.weight is None or (self.scale == 1 and size < 1):
            return None
        return (
            f"targets of size {size:.4g} and deviation {self.deviation:.4g} are trained as (target - mean) / {self.scale:g}, so "
            f"that the rate suits them; outputs and losses stay in the units of the data, also of what is saved"
        )

    def targets(self, y: Any) -> Any:
        """Targets in standard units."""
        if self.weight is None:
            return y
        mean = self.mean if self.per_output is None else self.mean.reshape(-1, *[1] * self.per_output)
        return (y.double() - mean.to(y.device)) / self.scale

    def standard(self, graph: Graph) -> Graph:
        """A network whose outputs are in the units of the data, with outputs in standard units."""
        return self._changed(graph, 1 / self.scale, -self.mean / self.scale)

    def own(self, graph: Graph) -> Graph:
        """The network back in the units of the data."""
        return self._changed(graph, self.scale, self.mean)

    def _changed(self, graph: Graph, factor: float, shift: torch.Tensor) -> Graph:
        if self.weight is None:
            return graph
        changed = {self.weight: graph.params[self.weight].data * factor}
        if self.bias is not None:
            bias = graph.params[self.bias].data
            changed[self.bias] = (bias.double() * factor + shift.to(bias.device)).to(bias.dtype)
        return graph.with_params(changed)

    def state(self, state: OptimizerState, *, standard: bool) -> OptimizerState:
        """What the optimiser remembers of the last layer, in other units.

        Args:
            state: in standard units, or in those of the data.
            standard: whether it is wanted in standard units, else in those of the data.
        """
        factor = 1 / self.scale if standard else self.scale
        entries = dict(state.entries)
        for name in (self.weight, self.bias):
            if name in entries:
                entries[name] = {
                    key: value * factor ** state.powers.get(key, 0) for key, value in state.entries[name].items()
                }
        return replace(state, entries=entries)


def units_of(graph: Graph, problem: Problem, options: TrainOptions) -> Units:
    """The units of a problem's targets.

    Those of the data where it is no regression, the last layer is not affine, or a step of the user's own reads the targets.

    Args:
        graph: the network.
        problem: has the targets.
        options: of the training.

    Raises:
        DataError: a target is not finite, or too large to be squared.

    Cost: the first samples of the learn split are read.
    """
    unchanged = Units(torch.zeros((), dtype=torch.float64), 1.0, None, None)
    known = isinstance(problem.loss_fn, MeanSquaredError) and options.train_step is None
    if not known:
        return unchanged
    targets, last = _measured(graph, problem).double(), _last_layer(graph)
    if last is None:
        return Units(targets.mean(), float(targets.std(correction=0)), None, None, reason=_given_by(graph))
    bias, direct = last.params.get("bias"), graph.output == Ref(last.name)
    count = graph.params[last.params["weight"]].data.shape[0]
    per_output = None
    if direct and targets.dim() >= 2 and targets.shape[1] == count and (last.op != "linear" or targets.dim() == 2):
        per_output = targets.dim() - 2
    mean = torch.zeros((), dtype=torch.float64)
    if bias is not None:
        mean = targets.mean() if per_output is None else targets.transpose(0, 1).flatten(1).mean(1)
    centred = targets - (mean if per_output is None or bias is None else mean.reshape(-1, *[1] * per_output))
    deviation = float(centred.square().mean().sqrt())
    if not deviation < SQUARABLE:
        require_finite(graph, problem, problem.train)
        return unchanged
    return Units(mean, deviation or 1.0, last.params["weight"], bias, None if bias is None else per_output)


def started(graph: Graph, units: Units, problem: Problem) -> Graph:
    """A network that is about to be trained for the first time, with outputs about where the targets are.

    New weights give outputs about 0 of a deviation about 1, which are taken for standard units where they fit these better than
    those of the data; and a mean that is further off than the targets deviate is corrected. A trained network stays as it is.

    Args:
        graph: with outputs in the units of the data.
        units: of its targets.
        problem: has them.

    Cost: a forward pass over the first samples of the learn split.
    """
    if units.weight is None:
        return graph
    outputs = _outputs(graph, problem).double()
    spread = max(float((outputs - outputs.mean(0)).square().mean().sqrt()), 1e-12)
    factor = units.scale if abs(math.log(spread)) < abs(math.log(spread / units.scale)) else 1.0
    mean = units.mean.to(outputs.device)
    found = factor * (outputs.mean() if units.per_output is None else outputs.transpose(0, 1).flatten(1).mean(1))
    off = bool((found - mean).abs().max() > units.deviation)
    return units._changed(graph, factor, (mean - found if off else torch.zeros_like(mean)).cpu())


def _last_layer(graph: Graph) -> Node | None:
    """The layer that gives the outputs, where it alone does, and training moves it."""
    if not isinstance(graph.output, Ref) or graph.users(graph.output.name):
        return None
    node = graph.nodes[graph.output.name]
    while node.op in PASSING and len(node.inputs) == 1 and len(graph.users(node.inputs[0])) == 1:
        node = graph.nodes[node.inputs[0]]
    if node.op not in AFFINE:
        return None
    read = [graph.params[name] for name in node.params.values()]
    alone = all(len(graph.readers(name)) == 1 for name in node.params.values())
    real = all(p.kind == "parameter" and p.trainable and p.data.is_floating_point() for p in read)
    return node if alone and real else None


def _given_by(graph: Graph) -> str:
    """Why outputs cannot be brought to other units."""
    if not isinstance(graph.output, Ref):
        return "the network gives several outputs"
    node = graph.nodes[graph.output.name]
    return f"no linear layer that training moves gives the outputs alone (node '{node.name}', {node.op}, does)"


def _measured(graph: Graph, problem: Problem) -> torch.Tensor:
    """Targets of some training samples, on the CPU."""
    _, y = _first(graph, problem, MEASURED)
    return y.cpu() if isinstance(y, torch.Tensor) else torch.full((1,), math.nan)


@sparing("an evaluation")
def _outputs(graph: Graph, problem: Problem) -> torch.Tensor:
    x, _ = _first(graph, problem, problem.runner.batch_size)
    outputs: torch.Tensor = problem.runner.outputs(graph, x)
    return outputs


def _first(graph: Graph, problem: Problem, count: int) -> tuple[Any, Any]:
    samples = problem.splits.learn if problem.divisible else problem.train
    return next(problem.runner.read(samples, graph, size=count))
