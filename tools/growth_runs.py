"""One run of the growth benchmark: its settings, what it trains and counts, and the line that it leaves."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop

from gngraph.analysis.cost import Budget, cost
from gngraph.files.archive import load, save
from gngraph.growth.jobs import Task
from gngraph.growth.result import GrowthResult
from gngraph.ir import Graph
from gngraph.options import RunOptions, TrainOptions
from gngraph.options.runs import Depth, Final, Structure
from gngraph.running.batchnorm import BATCHES
from gngraph.running.evaluation import evaluate
from gngraph.running.problem import Problem
from gngraph.running.seeding import mixed
from gngraph.search.depth import DEPTH
from gngraph.search.lookahead import LOOKAHEAD
from gngraph.search.low_ranks import LowRankFirst
from gngraph.search.structure import STRUCTURE
from gngraph.training.restart import restarted
from gngraph.training.stretch import Stretch
from gngraph.training.training import Trainer
from tools.growth_designs import budget_text, designed, widths_of
from tools.growth_pieces import ENDLESS, Piece, SearchFlops, grown_on, trained_on

STEP = 3
"""Forward passes that a step of training costs: one forward, two backward."""

COUNTED = ("analyse", LOOKAHEAD, "select", "rewrite", "measure")
"""Stages of a growth round that are search, whose FLOPs are counted as they come."""


@dataclass(frozen=True)
class Settings:
    """What all methods of a table share.

    Attributes:
        job: "search", "extend", "reshape" or "shrink".
        network: of the zoo.
        data, size, train: data set, side of the images (0: as they are), training samples (0: all).
        epochs: of a network trained from scratch, and of a growth run in "search".
        tuning: epochs after the rewrite in the other jobs.
        tuning_lr: learning rate that these begin at; None: that of the rest.
        rounds: rewrites of a growth run.
        growing: share of the epochs that lie before the last rewrite.
        perturb: share of new initial weights mixed in after a rewrite.
        final: of a growth run, see `FINALS`. Networks trained from scratch follow one cosine.
        design: which plain design the trained network is, and the seed of a search.
        start: cost of the seed of a search as a share of the budget.
        extension: what "extend" adds to parameters and FLOPs, as a share.
        shrinkage, params_left: FLOPs and parameters that "shrink" leaves, as shares.
        optimizer, lr, weight_decay, batch_size: see `TrainOptions`.
        samples: of each of the splits that analyses use.
    """

    job: str
    network: str
    data: str
    size: int
    train: int
    epochs: int
    tuning: int
    rounds: int
    growing: float
    final: Final
    perturb: float
    design: str
    start: float
    extension: float
    shrinkage: float
    params_left: float
    optimizer: str
    lr: float | None
    tuning_lr: float | None
    weight_decay: float
    batch_size: int
    samples: int

    def options(self) -> TrainOptions:
        """How every stretch is trained, but for the tuning."""
        return TrainOptions(self.optimizer, self.lr, weight_decay=self.weight_decay, batch_size=self.batch_size)

    def tuning_options(self) -> TrainOptions:
        """How a network is trained after its rewrite, where it was trained before."""
        return replace(self.options(), lr=self.tuning_lr or self.lr)

    def of_training(self) -> dict[str, Any]:
        """What the trained network that other jobs start from depends on."""
        return {name: value for name, value in asdict(self).items() if name in TRAINING}

    @property
    def round_epochs(self) -> int:
        """Epochs before each rewrite of a search."""
        return max(1, round(self.growing * self.epochs / self.rounds))


TRAINING = frozenset({
    "network", "data", "size", "train", "epochs", "design", "optimizer", "lr", "weight_decay", "batch_size", "samples"
})  # fmt: skip
"""Settings that a network trained from scratch depends on."""

_ATEN = torch.ops.aten
_FORMULAS = {
    **flop_registry,  # which lacks attention on a CPU
    _ATEN._scaled_dot_product_flash_attention_for_cpu: sdpa_flop,
    _ATEN._scaled_dot_product_flash_attention_for_cpu_backward: sdpa_backward_flop,
}


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the FLOPs of convolutions, matrix products and attention, backward passes as they come; all else is free."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops: int = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = _FORMULAS.get(func.overloadpacket)
        if count is not None:
            self.flops += int(count(*args, **(kwargs or {}), out_val=out))
        return out


@dataclass
class Meter:
    """What a run has cost so far.

    Attributes:
        training, search: FLOPs.
        seconds: of everything but the report on the test samples.
        search_seconds: of the search.
        epochs: trained, all networks of the run together.
    """

    training: int = 0
    search: int = 0
    seconds: float = 0.0
    search_seconds: float = 0.0
    epochs: int = 0

    @property
    def flops(self) -> int:
        """Training and search."""
        return self.training + self.search

    @contextmanager
    def searching(self) -> Iterator[None]:
        """Counts what happens inside as search."""
        started = time.perf_counter()
        with Counter() as counter:
            yield
        self.search += counter.flops
        passed = time.perf_counter() - started
        self.seconds += passed
        self.search_seconds += passed


@dataclass
class Run:
    """A method at work: what it may use, and what it has cost.

    Attributes:
        settings, problem, budget: of the table; the budget is that of the network to be made.
        folder: where networks are kept.
        base: name of the trained network that jobs other than "search" start from.
        name: of the run, for what is kept of it while it is unfinished.
        piece: in which it is to be done.
        meter: what was spent.
        notes: what else the line shall say.
    """

    settings: Settings
    problem: Problem
    budget: Budget
    folder: Path
    base: str
    name: str = "run"
    piece: Piece = ENDLESS
    meter: Meter = field(default_factory=Meter)
    notes: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def trainer(self) -> Trainer:
        """Trains by the options of the table, on all samples: nothing is judged that is trained so."""
        return Trainer(self.problem.undivided, self.settings.options())

    def design(self, name: str, budget: Budget | None = None) -> Graph:
        """A plain design at the budget, freshly initialised."""
        made = designed(name, self.settings.network, self.problem.data, budget or self.budget)
        return self.reset(made)

    def reset(self, graph: Graph) -> Graph:
        """The same architecture, freshly initialised."""
        return restarted(graph, mixed(self.problem.seed, 1))

    def epoch_flops(self, graph: Graph) -> int:
        """FLOPs of an epoch of training."""
        return STEP * cost(graph).flops * len(self.trainer.problem.train)

    def scratch(self, graph: Graph, epochs: int | None = None, name: str | None = None) -> Graph:
        """`graph` trained from its initial weights, for the epochs of the table or for `epochs`; unfinished it has `name`."""
        return self._train(self.trainer, graph, self.settings.epochs if epochs is None else epochs, name or self.name)

    def tune(self, graph: Graph) -> Graph:
        """`graph` trained further along a cosine."""
        trainer = Trainer(self.problem.undivided, self.settings.tuning_options())
        return self._train(trainer, graph, self.settings.tuning, self.name)

    def _train(self, trainer: Trainer, graph: Graph, epochs: int, name: str) -> Graph:
        started = time.perf_counter()
        trained, spent = trained_on(trainer, graph, Stretch(epochs, "cosine"), self._unfinished(name), self.piece)
        self.meter.seconds += spent
        self.meter.epochs += epochs
        self.meter.training += epochs * self.epoch_flops(trained.graph)
        seen = min(BATCHES * self.problem.batch_size, len(self.trainer.problem.train))
        self.meter.training += seen * cost(trained.graph).flops
        self.meter.seconds += time.perf_counter() - started
        return trained.graph

    def growing(
        self, rounds: int, epochs: int, final_epochs: int, depth: Depth = "keep", structure: Structure = "keep"
    ) -> RunOptions:
        """How a growth run goes on."""
        return RunOptions(
            rounds=rounds, epochs=epochs, final_epochs=final_epochs, final=self.settings.final,
            perturb=self.settings.perturb, depth=depth, structure=structure,
            train=self.settings.options() if self.settings.job == "search" else self.settings.tuning_options(),
        )  # fmt: skip

    def grow(self, task: Task, graph: Graph) -> GrowthResult:
        """A growth run; what a strategy without an analysis does not need is not charged to it."""
        counted: tuple[str, ...] = COUNTED if task.strategy.analysis else (LOOKAHEAD, "select", "rewrite")
        counted += (STRUCTURE,) if isinstance(task.strategy, LowRankFirst) else ()
        stages = SearchFlops(counted, Counter)
        result = grown_on(task, graph, self.problem, stages, self._unfinished(self.name), self.piece)
        seen = min(BATCHES * self.problem.batch_size, len(self.problem.train))
        for record in result.history:
            before, count = record["trained"]["flops"], len(record["epochs"])
            self.meter.epochs += count + record.get(LOOKAHEAD, {"epochs": 0})["epochs"]
            self.meter.training += STEP * before * (len(self.problem.samples) - record["withheld"]) * count
            self.meter.training += seen * (before + (record["flops"] if record["kind"] == "round" else 0))
            seconds = record["seconds"]
            searching = sum(seconds.get(stage, 0.0) for stage in {DEPTH, STRUCTURE, *counted})
            self.meter.search_seconds += searching
            training = sum(epoch["seconds"] for epoch in record["epochs"])  # those of earlier pieces too
            self.meter.seconds += searching + training + seconds.get("batchnorm", 0.0)
            if DEPTH in record:
                found = self.notes[DEPTH] = record[DEPTH]
                tried = sum(trial["flops"] for trial in found["tried"])
                self.meter.search += STEP * tried * found["samples"]
            if STRUCTURE in record:
                self.notes[STRUCTURE] = record[STRUCTURE]
                self.meter.search += STEP * record[STRUCTURE]["flops"]
        self.meter.search += stages.flops
        return result

    def keep(self, name: str, graph: Graph) -> None:
        """Save a network under a name."""
        path = self._path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        save(graph, path)

    def kept(self, name: str) -> Graph | None:
        """The network that was saved under a name."""
        path = self._path(name)
        return load(path) if path.is_file() else None

    def _unfinished(self, name: str) -> Path:
        return self.folder / "unfinished" / name

    def _path(self, name: str) -> Path:
        return self.folder / "networks" / f"{name}.gng"


class Store:
    """A file of lines, one a finished run; a run whose key is there is not made again.

    Nothing is held in memory, so that processes which work on one table see each other's lines.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and not self.path.read_text(encoding="utf-8").endswith("\n"):
            with open(self.path, "a", encoding="utf-8") as file:
                file.write("\n")  # what an interruption left of a line stays apart from the next

    def find(self, key: str) -> dict[str, Any] | None:
        """The line of a key."""
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.exists() else []
        for line in reversed(lines):
            try:
                record: dict[str, Any] = json.loads(line)
            except ValueError:
                continue  # cut off: that run is made again
            if key_of(record) == key:
                return record
        return None

    def add(self, record: Mapping[str, Any]) -> None:
        """Write a line, at once: lines of other processes come before it or after it."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")


def key_of(record: Mapping[str, Any]) -> str:
    """What makes a run the same run."""
    parts = {name: record[name] for name in ("method", "seed", "max_params", "max_flops", "settings")}
    return json.dumps(parts, sort_keys=True)


def identity(method: str, problem: Problem, budget: Budget, settings: Settings) -> dict[str, Any]:
    """The part of a line that is known before the run."""
    return {
        "method": method,
        "seed": problem.seed,
        "max_params": budget.max_params,
        "max_flops": budget.max_flops,
        "budget": budget_text((budget.max_params, budget.max_flops)),
        "settings": asdict(settings),
    }


def outcome(run: Run, graph: Graph) -> dict[str, Any]:
    """The rest of the line: what came out on the test samples, and what it cost."""
    loss, accuracy = evaluate(graph, run.problem, run.problem.test)
    size, meter = cost(graph), run.meter
    return {
        "params": size.params,
        "flops": size.flops,
        "accuracy": accuracy,
        "loss": loss,
        "training_flops": meter.flops,
        "search_flops": meter.search,
        "seconds": round(meter.seconds, 3),
        "search_seconds": round(meter.search_seconds, 3),
        "epochs": meter.epochs,
        "widths": widths_of(graph),
        **run.notes,
    }
