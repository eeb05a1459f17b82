"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import click

from gngraph.calling import of_library
from gngraph.cli.names import AUGMENT_NAMES, SEED_NAMES
from gngraph.cli.parameters import ArchiveFile, Model, gathered, parse_shape, shape_text, usable_device
from gngraph.environment import Environment
from gngraph.options import Options, TrainOptions, option
from gngraph.options.values import Named, Positive, Within, Written

if TYPE_CHECKING:
    from gngraph.data import Data, MapDataset, MaskFolder, TableFile
    from gngraph.ir import Graph
    from gngraph.options import TrainOptions
    from gngraph.running.problem import Problem

Shape = Annotated[
    tuple[int, ...], Written(parse_shape, "a shape; write the sizes of one sample, such as 3x32x32", shape_text)
]


@dataclass(frozen=True)
class ModelOptions(Options):
    """How MODEL is read, beside its name."""

    title: ClassVar[str] = "the model"

    input_shape: Shape | None = option(None, "Shape of one sample, such as 3x32x32, where no data tells it.")
    arch: Annotated[str, Named(SEED_NAMES)] | None = option(
        None, "What a state dict belongs to: a seed's name, torchvision:NAME, timm:NAME, hf:NAME or pkg.module:factory."
    )
    width: Annotated[float, Within()] = option(1.0, "Width multiplier of --arch.")
    classes: Positive | None = option(
        None,
        "Outputs of --arch, by default those of the state dict; of a MODEL of another library, by default those of the data.",
    )
    trust: bool = option(False, "Let the model file run code while it is loaded.")
    drop_train_only: bool = option(False, "Drop what runs in train mode only (auxiliary heads).")
    model_output: str | None = option(
        None, "The tensor to keep of a model that returns several by name, such as logits."
    )

    def open(self, model: str, data: Data | None = None) -> Graph:
        """The network in `model`; the data, if given, tells the input shape where nothing else does."""
        from gngraph.files.checkpoint import Trust
        from gngraph.files.loading import load

        return load(
            model,
            input_shape=self.input_shape or (data.input_shape or None if data else None),
            arch=self.arch,
            width=self.width,
            classes=self.classes or (data.outputs if data and of_library(model) else None),
            trust=Trust.FILE if self.trust else Trust.ALLOW_LIST,
            train_only="drop" if self.drop_train_only else "refuse",
            output=self.model_output,
        )


@dataclass(frozen=True)
class SeedOptions(Options):
    """Which member of a seed's family."""

    title: ClassVar[str] = "the seed"

    width: Annotated[float, Within()] = option(1.0, "Multiplier of every hidden channel count.")
    classes: Positive | None = option(
        None, "Number of outputs; by default 10, with pretrained weights those that they were trained for."
    )
    input_shape: Shape | None = option(
        None, "Shape of one sample; by default 3x32x32, of a network of another library its own."
    )
    seed: Annotated[int, Within()] = option(0, "Seed of the initial weights.")
    pretrained: bool = option(
        False,
        "Take the weights that another library publishes, and keep how they want their inputs; they are fetched where they are not "
        "on this machine.",
    )


@dataclass(frozen=True)
class DataOptions(Options):
    """Which data, where, and what for."""

    title: ClassVar[str] = "the data"

    data: Annotated[str, Named(("digits", "cifar10", "cifar100", "mnist", "fashion-mnist"), paths=True)] | None = (
        option(
            None,
            "Data to learn from: digits, cifar10, cifar100, mnist, fashion-mnist, an .npz file, a text (.txt), a .csv, .tsv or "
            ".parquet table, a folder of images, or pkg.module:function that returns arrays.",
        )
    )
    task: Literal["segmentation"] | None = option(
        None,
        "What a folder of images is for, where it is no class a folder: it has a mask for each image (segmentation).",
    )
    tokenizer: Path | None = option(
        None, "A file of the package tokenizers, by which a text is read; by default its bytes are the tokens."
    )
    target: tuple[str, ...] = option((), "Columns of a table that are to be predicted.")
    features: tuple[str, ...] = option((), "Columns of a table that are inputs; by default all others.")
    normalize: str = option(
        "auto",
        "How stored numbers become inputs: as MODEL was trained where its archive says, else each channel standardised over the "
        "training samples (auto); bytes divided by 255 and floats as they are (none); as most published image networks "
        "(imagenet); or MEAN;STD, one number or one a channel, such as 0.5;0.25.",
    )
    augment: Annotated[str, Named(AUGMENT_NAMES)] = option(
        "auto",
        'Random changes of the batches that are trained on, one after the other, such as "flip,crop{padding=4},mixup{alpha=0.2}", '
        "or pkg.module:function of x, or of x and y; auto crops and flips colour pictures of at least 16x16.",
    )
    val_split: Annotated[float, Within(above=0, below=1)] = option(
        0.2, "Share of the samples that is held out where the data has no test part."
    )
    withhold: Annotated[float, Within(above=0, most=0.5)] | None = option(
        None,
        "Share of the training samples that nothing is trained on, so that changes are judged by samples that the network does not "
        "know by heart; by default .15, of few samples up to a third, of many at most 4,096.",
    )
    unseen: str | None = option(
        None,
        "Samples that MODEL was never trained on, to judge changes by instead: an .npz file or a folder of images; or withheld, "
        "for a MODEL that was trained without those that are withheld. By default the validation part of the data, where it has "
        "one beside a test part.",
    )
    download: bool = option(False, "Fetch a named data set that is not on this machine.")
    data_root: Path | None = option(None, "Folder of downloaded data sets.")
    loss: Literal["cross-entropy", "segmentation", "next-token", "mse", "bce-with-logits"] | None = option(
        None,
        "Loss; by default cross-entropy for classes, of every pixel for masks (segmentation), next-token for texts and mse for a "
        "regression.",
    )
    loss_output: str | None = option(
        None, "Output that the loss reads, by name or position, of a network that returns several."
    )
    device: Annotated[str, Written(usable_device, "a torch device that works here")] = option(
        "auto", "A torch device; auto is the GPU if there is one."
    )
    seed: Annotated[int, Within(0, 2**31 - 1)] = option(0, "Seed of everything random.")

    def load(self, input_shape: tuple[int, ...] | None, trained: Any = None, tokens: bool = False) -> Data:
        """The data set, its samples resized to `input_shape` where that is given.

        Args:
            input_shape: what the network takes.
            tokens: whether it reads whole numbers.
            trained: what an archive keeps of the inputs of its network; see `gngraph.data.Data.inputs_record`.
        """
        from gngraph.data import Download, Preprocess, load_data, normalization
        from gngraph.data.preprocess import Recorded

        download = Download.IF_MISSING if self.download else Download.NEVER
        own = trained.get("preprocess") if isinstance(trained, dict) and self.normalize == "auto" else None
        own = None if tokens or (isinstance(own, dict) and "inputs" in own) else own
        chosen = normalization(self.normalize) if own is None else Recorded(Preprocess.from_record(own))
        return load_data(
            self._named(self.data or ""),
            input_shape=input_shape,
            root=self.data_root,
            download=download,
            normalize=chosen,
            val_split=self.val_split,
            tokens=tokens,
            tokenizer=self.tokenizer,
        )

    def _named(self, path: str) -> str | TableFile | MaskFolder:
        """What data is called, with its columns where they are named."""
        from gngraph.data import MaskFolder, TableFile

        if self.task is not None:
            return MaskFolder(path)

        if not (self.target or self.features):
            return path
        return TableFile(path, self.target, self.features, numbers=self.loss in ("mse", "bce-with-logits"))

    def problem(self, data: Data) -> Problem:
        """The problem that the options describe."""
        from gngraph.analysis.fit import problem_for
        from gngraph.data.splits import SMALLEST_SPLIT
        from gngraph.running.problem import WITHHELD

        chosen: dict[str, Any] = {"augment": self.augment} | ({} if self.loss is None else {"loss": self.loss})
        if self.loss_output is not None:
            chosen["output"] = int(self.loss_output) if self.loss_output.isdecimal() else self.loss_output
        if self.withhold is not None:
            chosen |= dict.fromkeys(
                ("judge", "report"), max(SMALLEST_SPLIT, round(self.withhold * len(data.train) / 2))
            )
        if self.unseen is not None:
            chosen["unseen"] = WITHHELD if self.unseen == WITHHELD else self._samples(self.unseen, data)
        return problem_for(data, device=self.device, seed=self.seed, **chosen)

    def _samples(self, path: str, data: Data) -> MapDataset:
        """All samples of a file or a folder, as inputs of a network for `data`."""
        from torch.utils.data import ConcatDataset

        from gngraph.data import Preprocess, load_data, normalization
        from gngraph.data.preprocess import Recorded
        from gngraph.data.tokens import Tokens

        own = data.preprocess
        normalize = Recorded(own) if isinstance(own, Preprocess) else normalization(self.normalize)
        found = load_data(
            self._named(path),
            input_shape=data.input_shape or None,
            root=self.data_root,
            normalize=normalize,
            tokens=isinstance(own, Tokens),
            tokenizer=self.tokenizer,
        )
        if found.classes != data.classes:
            raise click.UsageError(
                f"'{path}' (--unseen) has other classes than '{data.name}': name samples of the same"
            )
        return ConcatDataset([found.train, found.test])


def open_both(model: str, how: ModelOptions, what: DataOptions) -> tuple[Graph, Problem]:
    """Network and problem, checked to fit each other. An archive's input shape decides how pictures are resized.

    Args:
        model: a file, or pkg.module:factory.
        how: it is read.
        what: it is run on, and for which loss.
    """
    from gngraph.analysis.fit import check_fit
    from gngraph.data import Preprocess
    from gngraph.files.archive import recorded_inputs
    from gngraph.files.loading import is_archive, load
    from gngraph.ir.inputs import reads_tokens
    from gngraph.running.problem import WITHHELD, knows_withheld

    if is_archive(model):
        graph = load(model, input_shape=how.input_shape)
        data = what.load(_shape_of(graph), recorded_inputs(model), reads_tokens(graph))
        _check_tokens(data, recorded_inputs(model))
    else:
        data = what.load(_shape_for(model, how))
        graph = how.open(model, data)
        if reads_tokens(graph) and isinstance(data.preprocess, Preprocess):  # whole numbers are no measurements to it
            data = what.load(_shape_for(model, how), tokens=True)
    problem = what.problem(data)
    if is_archive(model) and problem.unseen is None and not knows_withheld(problem, recorded_inputs(model)):
        problem = replace(problem, unseen=WITHHELD)
    check_fit(graph, problem)
    return graph, problem


def _shape_of(graph: Graph) -> tuple[int, ...] | None:
    """The shape that samples are brought to for a network; None where it has several inputs, which are taken as they are."""
    from gngraph.ir.inputs import input_shapes_of

    shapes = list(input_shapes_of(graph).values())
    return shapes[0] if len(shapes) == 1 else None


def _shape_for(model: str, how: ModelOptions) -> tuple[int, ...] | None:
    """The shape that samples are brought to for a network that is no archive."""
    from gngraph.zoo import published

    kept = published(model) if how.input_shape is None and of_library(model) else None
    return kept.input_shape if kept is not None else how.input_shape


def source_of(model: str, how: ModelOptions, what: DataOptions, graph: Graph, problem: Problem) -> dict[str, Any]:
    """How `problem_from` finds the problem of `open_both` again, as JSON.

    Args:
        model, how, what: as `open_both` was given them.
        graph, problem: what it gave.
    """
    from gngraph.files.archive import recorded_inputs
    from gngraph.files.loading import is_archive
    from gngraph.ir.inputs import reads_tokens
    from gngraph.running.problem import WITHHELD

    unseen = WITHHELD if problem.unseen == WITHHELD else what.unseen
    archive = is_archive(model)
    return {
        "command": replace(what, unseen=unseen).as_dict(),
        "shape": _shape_of(graph) if archive else _shape_for(model, how),
        "trained": recorded_inputs(model) if archive else None,
        "tokens": reads_tokens(graph),
    }


def problem_from(source: dict[str, Any]) -> Problem:
    """The problem of a run that began on the command line.

    Args:
        source: what `source_of` gave.
    """
    what = DataOptions.of(source["command"])
    shape = source["shape"]
    return what.problem(
        what.load(None if shape is None else tuple(shape), source["trained"], source.get("tokens", False))
    )


def _check_tokens(data: Data, trained: Any) -> None:
    """Refuse tokens that stand for something else than those that a network was trained on."""
    from gngraph.errors import DataError

    before = trained.get("preprocess") if isinstance(trained, dict) else None
    now = data.preprocess.record()
    if isinstance(before, dict) and "of" in before and before["of"] != now.get("of"):
        raise DataError(
            f"the network was trained on tokens of '{before['of']}', but '{data.name}' has those of '{now.get('of', 'none')}': "
            f"read it alike (--tokenizer)"
        )


def describe_setting(graph: Graph, problem: Problem) -> str:
    """What a command works on, how samples become inputs, and how good the network is before anything is done."""
    from gngraph.ir.inputs import input_shapes_of
    from gngraph.report.words import percent, perplexity
    from gngraph.running.finite import standing

    shape = " and ".join(shape_text(own) or "one number" for own in input_shapes_of(graph).values())
    samples = f"{len(problem.samples):,} training {_and_test(problem)}samples of {shape}"
    found = standing(graph, problem)
    notes = [*problem.data.notes, *([found.note] if found.note is not None else [])]
    environment, augment = Environment.read().text, problem.augmentation
    changed = "" if augment is None else f", in training changed by {augment} (see --augment)"
    notes += [] if environment is None else [environment]
    return (
        f"{graph.name} with {graph.num_params():,} parameters on {problem.data.name}: {samples}, on {problem.device}\n"
        f"{_judged_by(problem)}\n"
        f"inputs: {problem.data.preprocess.text} (see --normalize){changed}; as given: {problem.tested} loss {found.loss:.4f}"
        f"{perplexity(problem.loss_fn, found.loss)}{percent(f', {problem.tested} accuracy ', found.accuracy)}"
        f"{percent(', mean IoU ', found.overlap)}" + "".join(f"\nnote: {note}" for note in notes)
    )


def _and_test(problem: Problem) -> str:
    return f"and {len(problem.test):,} test " if problem.tested == "test" else ""


def _judged_by(problem: Problem) -> str:
    """Which samples changes are judged by, in the words of the first lines of a command."""
    if not problem.divisible:
        return "too few samples to withhold any from training"
    judge, report = (len(split) for split in (problem.splits.judge, problem.splits.report))
    if not problem.withholds:
        return f"changes are judged by {judge + report:,} samples that nothing is trained on"
    share = (judge + report) / len(problem.samples)
    withheld = f"{judge + report:,} of the training samples ({share:.0%}) are withheld from training"
    what = " and tested" if problem.tested == "held-out" else ""
    return f"{withheld}: changes are judged{what} by them (see --withhold, --unseen)"


model_options = gathered(ModelOptions, "how", table="model")
data_options = gathered(DataOptions, "what", required=("data",), table="data")
optional_data_options = gathered(DataOptions, "what", table="data")
training_options = gathered(TrainOptions, "training")

model_argument = click.argument("model", type=Model())
output_option = click.option(
    "-o", "--output", type=ArchiveFile(), required=True, help="Archive to write, such as model.gng."
)


REPLACED, RESUMED = "replaced", "resumed"
"""What becomes of a run in the folder of another; where nothing is said the folder must be empty."""


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where a run writes, output, and what becomes of a run that is there, by force or resume: it is handed on as `there`."""

    @functools.wraps(command)
    def wrapper(*, force: bool, resume: bool, **words: Any) -> Any:
        if force and resume:
            raise click.UsageError("--force replaces a run and --resume goes on with it: choose one")
        return command(there=REPLACED if force else RESUMED if resume else None, **words)

    forced = click.option(
        "--force", is_flag=True, help="Write into a folder that is not empty, replacing the run in it."
    )
    resumed = click.option(
        "--resume",
        is_flag=True,
        help="Go on with this very run where it was interrupted, as `gngraph resume` does; begin it in a folder that is empty.",
    )
    folder = click.option(
        "-o", "--output", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of the run."
    )
    return folder(forced(resumed(wrapper)))
