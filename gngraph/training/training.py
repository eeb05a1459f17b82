"""Training a graph: a lowered module is trained, and its tensors become a new graph."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
from torch import nn

from gngraph.data.inputs import count_of
from gngraph.errors import TrainingError
from gngraph.ir import Graph
from gngraph.ir.inputs import over_samples
from gngraph.lowering.to_torch import reading_inputs
from gngraph.options import TrainOptions
from gngraph.options.training import STEP_SAMPLES
from gngraph.ranks import here
from gngraph.running.batchnorm import BATCHES, reestimate
from gngraph.running.problem import Problem
from gngraph.running.seeding import mixed, seeded
from gngraph.training.averaging import Average
from gngraph.training.divergence import Course, constant_of
from gngraph.training.gradients import WHOLE, Gradients, Sums
from gngraph.training.objective import OfLoss, objective_of, scaler_of, scaling
from gngraph.training.optimizer_state import OptimizerState, extract, remembered, restore
from gngraph.training.optimizers import OwnRates, StretchRates, fresh_optimizer, rates_of
from gngraph.training.patience import Patience
from gngraph.training.progress import UNWATCHED, EpochRecord, PartEpoch, Progress, Watch, put_back, random_states
from gngraph.training.stretch import Stretch
from gngraph.training.units import started, units_of

CHECK_EVERY = 100
"""Steps between checks for a loss that is not finite: each check waits for the device."""


@dataclass(frozen=True)
class Trained:
    """A trained graph, what each epoch gave, and the optimiser's state for the stretch that follows."""

    graph: Graph
    epochs: tuple[EpochRecord, ...]
    state: OptimizerState


class Trainer:
    """Trains graphs on the training set of a problem.

    The order of samples, augmentation and dropout depend on the problem's seed and the number of the epoch alone, so a
    run on one device repeats, and torch's global random state is left as it was. Running statistics lag behind the weights
    while these move, after few steps far: what comes out has them measured anew (`reestimate`).

    Args:
        problem: data, loss, device and seed.
        options: how.
        batches_read: from which statistics are measured; 0: they stay as training left them.
        piece: samples of a batch that are computed at a time; less after a stretch in which memory ran out.
    """

    def __init__(
        self, problem: Problem, options: TrainOptions, batches_read: int = BATCHES, piece: int = WHOLE
    ) -> None:
        self.problem = problem
        self.options = options
        self.batch_size = batch_of(options, problem)
        self.batches_read = batches_read
        self.piece = min(piece, -(-self.batch_size // options.accumulate))
        self.device = torch.device(problem.device)

    def train(
        self,
        graph: Graph,
        stretch: Stretch,
        state: OptimizerState | None = None,
        on_epoch: Callable[[EpochRecord], None] = lambda record: None,
        *,
        watch: Watch = UNWATCHED,
        done: Progress | None = None,
    ) -> Trained:
        """Train a copy of `graph`, which stays as it is, whatever happens.

        Args:
            graph: the network.
            stretch: how long, and at which rates; without an epoch running statistics are measured all the same.
            state: what the optimiser starts from, as a former stretch left it.
            on_epoch: called after every epoch.
            watch: keeps where training is.
            done: where it was when it was interrupted: it goes on from there, and `graph` and `state` are as they were.

        Raises:
            DivergedError: the loss is not finite, or training leads away from the targets (`gngraph.training.divergence`).
            DataError: a sample gives no finite loss; it is named.
            TrainingError: no parameter can be trained, or a step of the user's own fails.
            OptionError: the optimizer, the scheduler or the step of the user's own cannot be used.
        """
        if not stretch.epochs:
            return Trained(self._settled(graph), (), state or OptimizerState({}))
        units, given = units_of(graph, self.problem, self.options), graph
        if done is not None:
            graph, state = done.graph, done.state
        elif state is None or not state.entries:
            graph, state = units.standard(started(graph, units, self.problem)), OptimizerState({})
        else:
            graph, state = units.standard(graph), units.state(state, standard=True)
        module = reading_inputs(_with_dense_gradients(over_samples(graph))).to(self.device).train()
        objective = objective_of(self.options, self.problem)
        constant = constant_of(given, self.problem, module) if isinstance(objective, OfLoss) else math.inf
        course = Course(given, self.problem, self.options.rate * stretch.share, constant)
        parameters = trainable(graph, module)
        optimizer = fresh_optimizer(self.options, parameters.values())
        rates = rates_of(self.options, optimizer, stretch, stretch.epochs * self._steps)
        restore(optimizer, parameters, state)
        scaler = scaler_of(self.options, self.problem, done.scaling if done is not None else {})
        gradients = Gradients(module, objective, optimizer, self.device, self.piece, units.targets, scaler)
        records, part = ([*done.epochs], done.part) if done is not None else ([], None)
        stepped = len(records) * self._steps + (part.steps if part is not None else 0)
        average = Average(parameters, self.options.ema, done.average if done is not None else {}, stepped)
        best = given.with_params(done.best) if done is not None and done.best else None
        patience = Patience(stretch.patience, self.problem, records, best)

        def network() -> Graph:
            return self._settled(units.own(_taken_back(graph, module, average.values)))

        def offered(part: Callable[[], PartEpoch] | None) -> None:
            if watch.due(part is None):
                there = _taken_back(graph, module), remembered(optimizer, parameters)
                own = {} if patience.best is None else {n: p.data for n, p in patience.best.params.items()}
                beside = average.values, own, scaling(scaler)
                watch.keep(Progress(*there, tuple(records), part() if part else None, *beside))

        def stepping() -> None:
            scaler.step(gradients.optimizer)
            scaler.update()
            average.follow()

        for epoch in range(len(records), stretch.epochs):
            if patience.over:
                break
            tally = _Tally(stretch.first_epoch + epoch + 1, part, self.device, course)
            record = self._epoch(graph, gradients, rates, stretch.first_epoch, tally, stepping, offered)
            records.append(replace(record, loss=record.loss * units.scale**2, judged=patience.judged(network)))
            on_epoch(records[-1])
            course.check(
                [record.loss for record in records], lambda: self._settled(units.own(_taken_back(graph, module)))
            )
            part = None
            offered(None)
        self.piece, steps = gradients.piece, len(records) * self._steps
        trained = patience.best or network()
        return Trained(trained, tuple(records), units.state(extract(optimizer, parameters, steps), standard=False))

    def _settled(self, graph: Graph) -> Graph:
        return reestimate(graph, self.problem, batches_read=self.batches_read) if self.batches_read else graph

    @property
    def _steps(self) -> int:
        """Steps of an epoch."""
        return -(-len(self.problem.train) // self.batch_size)

    def _epoch(
        self,
        graph: Graph,
        gradients: Gradients,
        rates: StretchRates | OwnRates,
        first: int,
        tally: _Tally,
        stepping: Callable[[], None],
        offered: Callable[[Callable[[], PartEpoch]], None],
    ) -> EpochRecord:
        part, number = tally.begun, tally.epoch - 1
        epoch, began = number - first, time.perf_counter() - (part.seconds if part else 0.0)
        seed = mixed(self.problem.seed, number)
        order = torch.Generator().manual_seed(seed)
        stream = self.problem.runner.read_to_train(
            self.problem.train,
            graph,
            order,
            augment=self.problem.augmentation,
            size=self.batch_size,
            done=tally.steps,
        )
        with seeded(here().seed(seed), self.device):
            if part is not None:
                put_back(part.random, order, self.device)
            for step, (x, y) in enumerate(stream, tally.steps):
                rate = rates.begin(epoch + (step + 0.5) / self._steps)
                try:
                    sums = gradients(x, y)
                except (RuntimeError, ValueError) as error:  # of an op in train mode
                    raise TrainingError(_untrainable(graph, count_of(x), error)) from error
                if self.options.clip is not None:
                    gradients.scaler.unscale_(gradients.optimizer)
                    nn.utils.clip_grad_norm_(gradients.module.parameters(), self.options.clip)
                stepping()
                rates.end()
                tally.add(sums, count_of(x), rate)
                offered(lambda: tally.part(time.perf_counter() - began, random_states(order, self.device)))
        return tally.record(time.perf_counter() - began)


def batch_of(options: TrainOptions, problem: Problem) -> int:
    """Samples of a step: as asked for, else those of the loader that the data came in, else `STEP_SAMPLES`."""
    own: int | None = getattr(problem.data, "batch_size", None)
    return options.batch_size or own or STEP_SAMPLES


def _untrainable(graph: Graph, samples: int, error: Exception) -> str:
    reason = str(error).partition("\n")[0].rstrip(".")
    advice = (
        "a norm over the batch needs at least two: raise the batch size" if samples == 1 else "change the batch size"
    )
    return f"network '{graph.name}' cannot be trained on a batch of {samples}: {reason}; {advice}"


class _Tally:
    """Sums of an epoch, kept on the device so that no step waits for it."""

    def __init__(self, epoch: int, part: PartEpoch | None, device: torch.device, course: Course) -> None:
        self.epoch, self.begun, self.course = epoch, part, course
        self.samples = part.samples if part else 0
        self.steps = part.steps if part else 0
        self.total = part.total if part else 0.0
        self.rate = part.rate if part else 0.0
        sums = part.sums if part else {}
        self.losses, self.right, self.answered = (
            [*sums[name].to(device)] if name in sums else [] for name in ("losses", "right", "answered")
        )

    def part(self, seconds: float, random: Mapping[str, torch.Tensor]) -> PartEpoch:
        """The epoch so far."""
        lists = {"losses": self.losses, "right": self.right, "answered": self.answered}
        sums = {name: torch.stack(own).cpu() for name, own in lists.items() if own}
        return PartEpoch(self.steps, self.samples, self.total, sums, self.rate, seconds, random)

    def add(self, sums: Sums, samples: int, rate: float) -> None:
        self.samples += samples
        self.rate = rate
        self.losses.append(sums.loss.clone())
        self.right.append(sums.right.clone())
        self.answered.append(sums.answered.clone())
        self.steps += 1
        if len(self.losses) == CHECK_EVERY:
            self._flush()

    def _flush(self) -> None:
        values = torch.stack(self.losses).cpu()
        bad = (~torch.isfinite(values)).nonzero().flatten().tolist()
        if bad:
            step = self.steps - len(values) + bad[0] + 1
            raise self.course.not_finite(float(values[bad[0]]), step, self.epoch, self.rate)
        self.total += float(values.sum())
        self.losses = []

    def record(self, seconds: float) -> EpochRecord:
        if self.losses:
            self._flush()
        right, answered = (float(torch.stack(sums).sum()) if sums else 0.0 for sums in (self.right, self.answered))
        accuracy = right / answered if answered else None
        return EpochRecord(self.epoch, self.total / self.samples, accuracy, self.rate, seconds)


def _with_dense_gradients(graph: Graph) -> Graph:
    """A graph whose tables have gradients of all rows: few optimisers take sparse ones, and none with weight decay."""
    nodes = {
        name: replace(node, attrs=MappingProxyType({**node.attrs, "sparse": False}))
        if node.attrs.get("sparse")
        else node
        for name, node in graph.nodes.items()
    }
    return replace(graph, nodes=nodes)


def require_trainable(graph: Graph) -> None:
    """Refuse a network of which nothing can be trained.

    Raises:
        TrainingError: it is one.
    """
    if not any(p.kind == "parameter" and p.trainable for p in graph.params.values()):
        raise TrainingError(f"graph '{graph.name}' has no trainable parameter; set requires_grad before importing it")


def trainable(graph: Graph, module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters of the lowered `module` to be trained, by the graph's names; tied weights come once.

    Raises:
        TrainingError: there is none.
    """
    require_trainable(graph)
    held = module.state_dict(keep_vars=True)
    return {name: held[name] for name, p in graph.params.items() if p.kind == "parameter" and held[name].requires_grad}


def _taken_back(graph: Graph, module: nn.Module, instead: Mapping[str, torch.Tensor] = MappingProxyType({})) -> Graph:
    """`graph` with the tensors of `module`, or others `instead`, on the devices where it had them; the same in all processes."""
    held: Mapping[str, torch.Tensor] = {**module.state_dict(), **instead}
    own = {name: held[name].detach() for name, p in graph.params.items() if p.kind != "constant"}
    first = here().copied(own)
    return graph.with_params({name: t.to(graph.params[name].data.device).clone() for name, t in first.items()})
