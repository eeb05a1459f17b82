"""How networks are scored, grown and reworked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, Self

from gngraph.errors import OptionError
from gngraph.options.definition import Options, option
from gngraph.options.training import TrainOptions
from gngraph.options.values import Count, CountOrCounts, Milliseconds, Named, Positive, Share, Whole, Within

Final = Literal["continue", "cycle", "retrain", "auto"]
"""What the training after the last rewrite is, and what that means for the rate before it."""

Depth = Literal["auto", "search", "keep"]
"""What becomes of the layers of a network that grows: some may go first (`gngraph.search.depth`), or all stay; "auto" decides by
whether the network is trained."""

Structure = Literal["search", "keep"]
"""What becomes of what the layers of a network that grows are: they may change first (`gngraph.search.structure`), or stay."""

Runtime = Literal["onnxruntime-cpu", "torch"]
"""What a network is to be fast in, on this machine's CPU."""

Compare = Literal["uniform"]
"""What is trained beside a run, to compare it with."""

Selecting = Literal["joint", "additive"]
"""How candidates are chosen."""

SELECTING = "Whether candidates are chosen by what they do together (joint) or by the sum of what each does (additive)."

CheckpointEvery = Annotated[float, Within(least=0)] | None

CHECKPOINT_HELP = (
    "Seconds from one checkpoint to the next, from which gngraph resume goes on; by default one after every epoch and stage and "
    "every 5 minutes, as far as they take no more than 1 % of the time."
)

Log = tuple[Literal["csv", "tensorboard", "wandb", "trackio"], ...]

LOG_HELP = (
    "Loggers that are told losses, accuracies, rates and sizes, with commas between them: csv (log.csv in the folder), or what is "
    "installed of tensorboard, wandb and trackio."
)

ROUND_TO = "What widths that change become multiples of, such as 8; of a head of attention its entries count."

PERTURB = 0.3
"""Share of new initial weights that growth mixes into a network after a rewrite; see `gngraph.training.perturbation`."""


@dataclass(frozen=True, kw_only=True)
class BudgetOptions(Options):
    """What a network may cost.

    Attributes:
        others: how the message ends that asks for a budget.
    """

    others: ClassVar[str] = "or both"

    max_params: Count | None = option(None, "Largest number of parameters, such as 500k.")
    max_flops: Count | None = option(None, "Largest number of FLOPs a sample, such as 40M; a multiply-add counts as 2.")

    def require_budget(self) -> None:
        """Refuse options that bound nothing.

        Raises:
            OptionError: they do.
        """
        if self.max_params is None and self.max_flops is None:
            raise OptionError(
                f"growth needs a budget: give max_params (such as 500k), max_flops (such as 40M), {self.others}"
            )


def require_even(options: GrowingOptions | GrowerOptions) -> None:
    """Refuse options by which widths could not be brought to multiples.

    Raises:
        OptionError: they are such.
    """
    if options.round_to > 1 and (options.allocation == "none" or "insert" in options.kinds):
        raise OptionError(
            "widths can be multiples (round_to) with an allocation rule other than none, and without insertions"
        )


@dataclass(frozen=True, kw_only=True)
class RunOptions(Options):
    """How a run goes on, however its rounds decide."""

    title: ClassVar[str] = "a run"

    rounds: Positive = option(3, "Number of rewrites.")
    epochs: Whole = option(4, "Epochs before each rewrite.")
    # it pays to let growth be over early: docs/results.md#length-of-the-final-training
    final_epochs: Whole = option(18, "Epochs after the last rewrite.")
    final: Final = option(
        "cycle",
        "One cosine of the learning rate over the whole run (continue); a constant rate, then a cosine after the last rewrite "
        "(cycle); the same with the grown architecture trained from new initial weights (retrain); or that one of these two of "
        "which short trainings forecast the lower loss, for about a fifth more of the final training (auto).",
    )
    perturb: Share | Literal["auto"] = option(
        "auto",
        "Share of new initial weights mixed in after every rewrite, without which a network that was trained while it was small "
        "learns less; 0 keeps what a pretrained network knows; auto is 0 for a network that knows its targets as it is given, "
        "else 0.3.",
    )
    depth: Depth = option(
        "auto",
        "Remove those layers, before the first rewrite, without which short trainings at the budget come out better (search); "
        "or keep all; auto keeps those of a network that knows its targets as it is given, else it searches.",
    )
    structure: Structure = option(
        "keep",
        "Change what layers are, before the first rewrite, where short trainings at the budget come out better: skip connections, "
        "separable and low-rank convolutions, other kernels, gates and norms, and the depth with them (search); or keep it.",
    )
    compare: Compare | None = option(
        None,
        "Train another network for as many epochs on the same data, to compare with: uniform is the seed's architecture with all "
        "widths scaled alike to the grown size.",
    )
    checkpoint_every: CheckpointEvery = option(None, CHECKPOINT_HELP)
    log: Log = option((), LOG_HELP)
    train: TrainOptions = option(TrainOptions(), "How every stretch is trained.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.final == "continue" and self.train.scheduler is not None:
            raise OptionError(
                "a scheduler of your own is made anew for every stretch of training, and cannot fall over the whole run: leave out "
                "final continue"
            )

    @property
    def automatic(self) -> bool:
        """Whether something is left to be decided by what the network knows."""
        return "auto" in (self.perturb, self.depth)

    def settled(self, knows: bool) -> Self:
        """The options with nothing left to decide: what a network knows is kept, and another is searched and perturbed.

        >>> RunOptions().settled(knows=True).perturb, RunOptions(depth="search").settled(knows=True).depth
        (0.0, 'search')
        """
        perturb = (0.0 if knows else PERTURB) if self.perturb == "auto" else self.perturb
        depth = ("keep" if knows else "search") if self.depth == "auto" else self.depth
        return replace(self, perturb=perturb, depth=depth)

    @property
    def searches(self) -> bool:
        """Whether networks are tried before the first rewrite, once it is settled what is."""
        return "search" in (self.depth, self.structure)

    @property
    def share(self) -> float:
        """Share of new initial weights, once that is settled."""
        assert self.perturb != "auto"
        return self.perturb

    @property
    def whole(self) -> int:
        """Epochs of the run."""
        return self.rounds * self.epochs + self.final_epochs


@dataclass(frozen=True, kw_only=True)
class ScopeOptions(Options):
    """What of a network may change."""

    only: tuple[str, ...] = option(
        (),
        "Patterns of channel spaces, or of layers that write them, such as features.*: no others change. One that names a module "
        "is about all that is in it.",
    )
    exclude: tuple[str, ...] = option(
        (),
        "Patterns of channel spaces and layers that stay as they are: weights keep their shapes, and are trained. By "
        "requires_grad=False a layer keeps its values.",
    )


@dataclass(frozen=True, kw_only=True)
class AnalysisOptions(ScopeOptions):
    """How candidates are scored."""

    curvature: Annotated[str, Named(("mc", "exact", "rank1"))] = option(
        "mc", 'Model of the loss: mc, "mc{draws=4}", exact or rank1.'
    )
    kinds: tuple[Annotated[str, Named(("split", "prune", "new", "merge", "insert"))], ...] = option(
        ("split", "prune"), "Kinds of candidates to score, with commas between them."
    )


@dataclass(frozen=True, kw_only=True)
class ScoreOptions(AnalysisOptions):
    """How `gngraph score` scores."""

    title: ClassVar[str] = "score"

    kinds: tuple[Annotated[str, Named(("split", "prune", "new", "merge", "insert", "low-rank", "separable"))], ...] = (
        option(("split", "prune"), "Kinds of candidates to score, with commas between them.")
    )

    looks: Whole = option(
        32,
        "Candidates with the greatest second-order change whose true loss is measured too: a forward pass over 512 samples each.",
    )


@dataclass(frozen=True, kw_only=True)
class GrowingOptions(AnalysisOptions, RunOptions):
    """How a network grows, whatever its budget."""

    title: ClassVar[str] = "grow"
    others: ClassVar[str] = "max_latency (such as 5ms), or several"

    round_to: Positive = option(1, ROUND_TO)
    selection: Selecting = option("joint", SELECTING)
    allocation: Annotated[str, Named(("worth", "none", "equal-worths", "uniform", "proportional", "lookahead"))] = (
        option(
            "worth",
            "How wide the layers are to be: by the measured worth of their widths (worth) or another rule, or by the rule "
            "that trains best in a short trial at the full budget (lookahead), which costs up to 8 more epochs.",
        )
    )
    max_latency: Milliseconds | None = option(
        None,
        "Longest time of a batch on this machine, such as 5ms; layers are timed, the result is measured, and widths become "
        "multiples of 4.",
    )
    on: Runtime = option("onnxruntime-cpu", "What that time is of.")
    latency_batch: Positive = option(1, "Samples in that batch.")
    latency_threads: Positive = option(1, "Threads that it is computed with.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require_even(self)
        if self.max_latency is not None and "insert" in self.kinds:
            raise OptionError("what a layer more takes is not timed: leave insert out of the kinds, or max_latency")


@dataclass(frozen=True, kw_only=True)
class GrowOptions(GrowingOptions, BudgetOptions):
    """How a network grows.

    Raises:
        OptionError: a value is of the wrong type or out of range, or there is no budget.

    >>> GrowOptions(max_params="20k", rounds=2).as_dict()["max_params"]
    20000
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_latency is None:
            self.require_budget()


@dataclass(frozen=True, kw_only=True)
class BudgetsOptions(Options):
    """What each of several networks may cost."""

    max_params: CountOrCounts | None = option(
        None, "Largest number of parameters, such as 500k, or several with commas between them."
    )
    max_flops: CountOrCounts | None = option(
        None,
        "Largest number of FLOPs a sample, such as 40M, or several; a multiply-add counts as 2. Where both are several, the first "
        "goes with the first.",
    )


@dataclass(frozen=True, kw_only=True)
class FrontOptions(GrowingOptions, BudgetsOptions):
    """How a network grows to several budgets.

    Raises:
        OptionError: a value is of the wrong type or out of range, there is no budget, or one is named twice.

    >>> [own.max_params for own in FrontOptions(max_params="2k,4k").each()]
    [2000, 4000]
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        sides = [side for side in (self.max_params, self.max_flops) if isinstance(side, tuple)]
        if len({len(side) for side in sides} | {1}) > 2 or any(not side for side in sides):
            raise OptionError("max_params and max_flops must name as many budgets, or one of them a single number")
        if len({*self._pairs()}) < len(self._pairs()):
            raise OptionError("a budget is named twice")
        self.each()  # which refuses options without any

    def each(self) -> tuple[GrowOptions, ...]:
        """The options for each budget."""
        own = {name: value for name, value in vars(self).items() if name not in ("max_params", "max_flops")}
        return tuple(GrowOptions(max_params=params, max_flops=flops, **own) for params, flops in self._pairs())

    def _pairs(self) -> list[tuple[int | None, int | None]]:
        sides = [side if isinstance(side, tuple) else (side,) for side in (self.max_params, self.max_flops)]
        count = max(map(len, sides))
        params, flops = (side if len(side) == count else side * count for side in sides)
        return list(zip(params, flops, strict=True))


@dataclass(frozen=True, kw_only=True)
class ReworkOptions(ScopeOptions):
    """What the jobs on a trained network have in common."""

    round_to: Positive = option(1, ROUND_TO)
    epochs: Whole = option(15, "Epochs of training after the rewrite.")
    perturb: Share = option(
        0.0,
        "Share of new initial weights mixed in before that training; 0.3 helps a network that was trained from nothing on the "
        "same data to make use of its new channels.",
    )
    checkpoint_every: CheckpointEvery = option(None, CHECKPOINT_HELP)
    log: Log = option((), LOG_HELP)
    train: TrainOptions = option(TrainOptions(), "How it is trained.")

    def run(self) -> RunOptions:
        """One rewrite, and training along a cosine."""
        return RunOptions(
            rounds=1,
            epochs=0,
            final_epochs=self.epochs,
            perturb=self.perturb,
            depth="keep",
            checkpoint_every=self.checkpoint_every,
            log=self.log,
            train=self.train,
        )


@dataclass(frozen=True, kw_only=True)
class ExtendOptions(ReworkOptions):
    """How a trained network is made larger."""

    title: ClassVar[str] = "extend"

    by: Annotated[float, Within(above=0, below=100)] = option(0.5, "Parameters and FLOPs to add, as a share.")


@dataclass(frozen=True, kw_only=True)
class ReshapeOptions(ReworkOptions):
    """How channels of a trained network are moved."""

    title: ClassVar[str] = "reshape"


@dataclass(frozen=True, kw_only=True)
class ShrinkOptions(ReworkOptions):
    """How a trained network is made smaller."""

    title: ClassVar[str] = "shrink"

    to: Annotated[float, Within(above=0, below=1)] = option(0.5, "Share of the FLOPs that it keeps.")
    params_to: Annotated[float, Within(above=0, most=1)] = option(1.0, "Share of the parameters that it keeps at most.")
    kinds: tuple[Literal["prune", "low-rank"], ...] = option(
        ("prune",),
        "How: channels go (prune), with commas between them; with low-rank layers become low-rank first, where that is predicted "
        "to lose less for what it saves.",
    )


@dataclass(frozen=True, kw_only=True)
class GrowerOptions(AnalysisOptions, BudgetOptions):
    """How a network grows inside its user's own training.

    Raises:
        OptionError: a value is of the wrong type or out of range, or there is no budget.
    """

    title: ClassVar[str] = "Grower"

    kinds: tuple[Annotated[str, Named(("split", "prune", "new", "merge"))], ...] = option(
        ("split", "prune"), "Kinds of candidates to score; layers do not come or go in place."
    )
    rounds: Positive = option(3, "Number of rewrites in which the budget is reached, each by the same factor.")
    round_to: Positive = option(1, ROUND_TO)
    selection: Selecting = option("joint", SELECTING)
    allocation: Annotated[str, Named(("worth", "none", "equal-worths", "uniform", "proportional"))] = option(
        "worth", "How wide the layers are to be: by the measured worth of their widths (worth) or another rule."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_budget()
        require_even(self)
