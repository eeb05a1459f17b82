"""Options that several commands share, each group gathered into one object."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gngraph.cli.parameters import ArchiveFile, Count, Device, Model, Shape

if TYPE_CHECKING:
    from gngraph.data import Data
    from gngraph.ir import Graph
    from gngraph.running.problem import Problem
    from gngraph.training.options import TrainOptions

Command = Callable[..., Any]


@dataclass(frozen=True)
class ModelOptions:
    """How MODEL is read, beside its name."""

    arch: str | None
    width: float
    classes: int | None
    input_shape: tuple[int, ...] | None
    trust: bool
    drop_train_only: bool

    def open(self, model: str, data: Data | None = None) -> Graph:
        """The network in `model`; the data, if given, tells the input shape where nothing else does."""
        from gngraph.files.checkpoint import Trust
        from gngraph.files.loading import load

        return load(
            model,
            input_shape=self.input_shape or (data.input_shape if data else None),
            arch=self.arch,
            width=self.width,
            classes=self.classes,
            trust=Trust.FILE if self.trust else Trust.ALLOW_LIST,
            train_only="drop" if self.drop_train_only else "refuse",
        )


@dataclass(frozen=True)
class DataOptions:
    """Which data, where, and what for."""

    data: str
    download: bool
    data_root: Path | None
    loss: str | None
    loss_output: str | None
    device: str
    seed: int

    def load(self, input_shape: tuple[int, ...] | None) -> Data:
        """The data set, its samples resized to `input_shape` where that is given."""
        from gngraph.data import Download, load_data

        download = Download.IF_MISSING if self.download else Download.NEVER
        return load_data(self.data, input_shape=input_shape, root=self.data_root, download=download)

    def problem(self, data: Data) -> Problem:
        """The problem that the options describe."""
        from gngraph.analysis.fit import problem_for

        chosen: dict[str, str | int] = {} if self.loss is None else {"loss": self.loss}
        if self.loss_output is not None:
            chosen["output"] = int(self.loss_output) if self.loss_output.isdecimal() else self.loss_output
        return problem_for(data, device=self.device, seed=self.seed, **chosen)


@dataclass(frozen=True)
class TrainingOptions:
    """How networks are trained."""

    optimizer: str
    lr: float | None
    weight_decay: float | None
    batch_size: int
    warmup: float

    def build(self) -> TrainOptions:
        """The library's own record of them."""
        from gngraph.training.options import TrainOptions

        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        return TrainOptions(**given)


def open_both(model: str, how: ModelOptions, what: DataOptions) -> tuple[Graph, Problem]:
    """Network and problem, checked to fit each other. An archive's input shape decides how pictures are resized."""
    from gngraph.analysis.fit import check_fit
    from gngraph.files.loading import is_archive, load
    from gngraph.ir.inputs import input_shape_of

    graph = load(model, input_shape=how.input_shape) if is_archive(model) else None
    data = what.load(input_shape_of(graph) if graph is not None else how.input_shape)
    problem = what.problem(data)
    graph = graph if graph is not None else how.open(model, data)
    check_fit(graph, problem)
    return graph, problem


def describe_setting(graph: Graph, problem: Problem) -> str:
    """One line about what a command works on."""
    from gngraph.data.checks import shape_text
    from gngraph.ir.inputs import input_shape_of

    shape = shape_text(input_shape_of(graph))
    samples = f"{len(problem.train):,} training and {len(problem.test):,} test samples of {shape}"
    return f"{graph.name} with {graph.num_params():,} parameters on {problem.data.name}: {samples}, on {problem.device}"


def _gathering(
    record: type[Any], name: str, options: list[Callable[[Command], Command]]
) -> Callable[[Command], Command]:
    """A decorator that adds `options` to a command and hands them over as one `record` called `name`."""

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def wrapper(**given: Any) -> Any:
            gathered = record(**{field.name: given.pop(field.name) for field in fields(record)})
            return command(**given, **{name: gathered})

        decorated: Command = wrapper
        for option in reversed(options):
            decorated = option(decorated)
        return decorated

    return decorate


model_options = _gathering(
    ModelOptions,
    "how",
    [
        click.option(
            "--input-shape", type=Shape(), help="Shape of one sample, such as 3x32x32, where no data tells it."
        ),
        click.option(
            "--arch", metavar="NAME", help="What a state dict belongs to: a seed's name or pkg.module:factory."
        ),
        click.option("--width", default=1.0, show_default=True, help="Width multiplier of --arch."),
        click.option(
            "--classes", type=click.IntRange(1), help="Outputs of --arch; by default those of the state dict."
        ),
        click.option("--trust", is_flag=True, help="Let the model file run code while it is loaded."),
        click.option("--drop-train-only", is_flag=True, help="Drop what runs in train mode only (auxiliary heads)."),
    ],
)


def _data_options(required: bool) -> Callable[[Command], Command]:
    return _gathering(
        DataOptions,
        "what",
        [
            click.option(
                "--data",
                required=required,
                metavar="D",
                help="digits, cifar10, cifar100, mnist, fashion-mnist, an .npz file or a folder of images.",
            ),
            click.option("--download", is_flag=True, help="Fetch a named data set that is not on this machine."),
            click.option(
                "--data-root", type=click.Path(path_type=Path, file_okay=False), help="Folder of downloaded data sets."
            ),
            click.option(
                "--loss",
                type=click.Choice(["cross-entropy", "mse", "bce-with-logits"]),
                help="By default cross-entropy for classes and mse for a regression.",
            ),
            click.option(
                "--loss-output",
                metavar="NAME",
                help="Output that the loss reads, by name or position, of a network that returns several.",
            ),
            click.option(
                "--device",
                type=Device(),
                default="auto",
                show_default=True,
                help="A torch device; auto: the GPU if there is one.",
            ),
            click.option(
                "--seed",
                type=click.IntRange(0, 2**31 - 1),
                default=0,
                show_default=True,
                help="Seed of everything random.",
            ),
        ],
    )


data_options = _data_options(required=True)
optional_data_options = _data_options(required=False)

training_options = _gathering(
    TrainingOptions,
    "training",
    [
        click.option("--optimizer", type=click.Choice(["sgd", "adamw"]), default="sgd", show_default=True),
        click.option("--lr", type=float, help="Learning rate; by default the optimiser's own."),
        click.option("--weight-decay", type=float, help="By default 5e-4."),
        click.option("--batch-size", type=click.IntRange(1), default=128, show_default=True),
        click.option("--warmup", type=float, default=0.0, show_default=True, help="Epochs over which the rate rises."),
    ],
)

model_argument = click.argument("model", type=Model())
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")
output_option = click.option(
    "-o", "--output", type=ArchiveFile(), required=True, help="Archive to write, such as model.gng."
)


def open_run(model: str, how: ModelOptions, what: DataOptions, output: Path, force: bool) -> tuple[Graph, Problem]:
    """What a run works on, said on the terminal, when its folder may be written; a history that is there is set aside."""
    from gngraph.growth.run_folder import require_free_folder, set_history_aside

    if not force:
        require_free_folder(output)
    graph, problem = open_both(model, how, what)
    set_history_aside(output)
    click.echo(describe_setting(graph, problem))
    return graph, problem


def run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Where a run writes: output, force."""
    force = click.option(
        "--force", is_flag=True, help="Write into a folder that is not empty, replacing the run in it."
    )
    folder = click.option(
        "-o", "--output", type=click.Path(path_type=Path, file_okay=False), required=True, help="Folder of the run."
    )
    return folder(force(command))


COUNT = Count()
SHAPE = Shape()
