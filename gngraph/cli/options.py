"""Options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import click

from gngraph.calling import of_library
from gngraph.cli.names import AUGMENT_NAMES, SEED_NAMES
from gngraph.cli.parameters import ArchiveFile, Model, gathered, parse_shape, shape_text, usable_device
from gngraph.options import Options, TrainOptions, option
from gngraph.options.values import Named, Positive, Within, Written

if TYPE_CHECKING:
    from gngraph.data import Data, MapDataset, MaskFolder, ReadData, Reads, TableFile
    from gngraph.data.preprocess import Normalization
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

    def load(self, input_shape: tuple[int, ...] | None, trained: Any, reads: Reads) -> Data:
        """The data set, its samples resized to `input_shape` where that is given.

        Args:
            input_shape: what the network takes.
            reads: how it reads samples.
            trained: what an archive keeps of the inputs of its network; see `gngraph.data.Data.inputs_record`.
        """
        from gngraph.data import Preprocess, Reads, normalization
        from gngraph.data.preprocess import Recorded

        own = trained.get("preprocess") if isinstance(trained, dict) and self.normalize == "auto" else None
        own = None if reads is Reads.TOKENS or (isinstance(own, dict) and "inputs" in own) else own
        chosen = normalization(self.normalize) if own is None else Recorded(Preprocess.from_record(own))
        return self._read(input_shape, chosen).data(reads)

    def read(self, input_shape: tuple[int, ...] | None) -> ReadData:
        """The data set for a network that is not known yet, its samples resized to `input_shape` where that is given."""
        from gngraph.data import normalization

        return self._read(input_shape, normalization(self.normalize))

    def _read(self, input_shape: tuple[int, ...] | None, normalize: Normalization) -> ReadData:
        from gngraph.data import Download, read_data

        return read_data(
            self._named(self.data or ""),
            input_shape=input_shape,
            root=self.data_root,
            download=Download.IF_MISSING if self.download else Download.NEVER,
            normalize=normalize,
            val_split=self.val_split,
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

        from gngraph.data import Preprocess, Reads, load_data, normalization
        from gngraph.data.preprocess import Recorded
        from gngraph.data.tokens import Tokens

        own = data.preprocess
        normalize = Recorded(own) if isinstance(own, Preprocess) else normalization(self.normalize)
        found = load_data(
            self._named(path),
            input_shape=data.input_shape or None,
            root=self.data_root,
            normalize=normalize,
            reads=Reads.TOKENS if isinstance(own, Tokens) else Reads.CHANNELS_FIRST,
            tokenizer=self.tokenizer,
        )
        if found.classes != data.classes:
            raise click.UsageError(
                f"'{path}' (--unseen) has other classes than '{data.name}': name samples of the same"
            )
        return ConcatDataset([found.train, found.test])


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
