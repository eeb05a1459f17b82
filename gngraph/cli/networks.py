"""Commands about networks alone: seed, inspect, show, apply, diff."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from gngraph.cli.deploying import describe_onnx, known_inputs
from gngraph.cli.options import (
    DataOptions,
    ModelOptions,
    SeedOptions,
    json_option,
    model_argument,
    model_options,
    open_both,
    optional_data_options,
    output_option,
)
from gngraph.cli.parameters import GroupedCommand, Model, gathered

if TYPE_CHECKING:
    from gngraph.growth.run_folder import RunFiles
    from gngraph.ir import GraphDiff


@click.command(cls=GroupedCommand, short_help="Make a small network to start from.")
@click.argument("name")
@gathered(SeedOptions, "options")
@output_option
def seed(name: str, options: SeedOptions, output: Path) -> None:
    """Make the network NAME with fresh weights.

    NAME is vgg11, vgg16, vgg19, resnet20, resnet32, resnet56, mobilenet, mlp or torchvision:NAME.
    """
    from gngraph.files.archive import save
    from gngraph.importing.from_torch import from_torch
    from gngraph.ir.inputs import example
    from gngraph.zoo import build_seed

    module = build_seed(name, **vars(options))
    # Classifiers of torchvision may have heads for training alone; a seed is for growing, and grows without them.
    graph = from_torch(module, example(options.input_shape), train_only="drop")
    save(graph, output)
    click.echo(f"{output}: {name} with {graph.num_params():,} parameters")


@click.command(cls=GroupedCommand, short_help="Show size and channel spaces of a network.")
@model_argument
@model_options
@click.option("--text", is_flag=True, help="Print the graph as text instead.")
@json_option
def inspect(model: str, how: ModelOptions, text: bool, as_json: bool) -> None:
    """Show parameters, FLOPs and channel spaces of MODEL: sizes, slots, and why a space is frozen."""
    from gngraph.cli.tables import describe, print_description, print_json
    from gngraph.ir import format_graph

    graph = how.open(model)
    if text:
        click.echo(format_graph(graph), nl=False)
    elif as_json:
        print_json(describe(graph))
    else:
        print_description(describe(graph))


@click.command(cls=GroupedCommand, short_help="Draw a network.")
@model_argument
@model_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Picture to write, .svg, .png or .pdf; without it the network is drawn as text.",
)
def show(model: str, how: ModelOptions, output: Path | None) -> None:
    """Draw MODEL, layer by layer as values flow: how wide each is, and what it reads."""
    from gngraph.report.diagram import PICTURES, as_text, draw_network, rows_of

    if output is not None and output.suffix.lower() not in PICTURES:
        raise click.UsageError(f"'{output}' is no picture: its name must end in {', '.join(PICTURES)}")
    graph = how.open(model)
    click.echo(
        as_text(rows_of(graph)) if output is None else f"{draw_network(graph, output)}: {graph.name} as a picture"
    )


@click.command(cls=GroupedCommand, short_help="Rewrite a network by passes.")
@click.argument("passes")
@model_argument
@model_options
@optional_data_options
@output_option
@click.option("--diff", "show_diff", is_flag=True, help="Show what the passes changed.")
def apply(passes: str, model: str, how: ModelOptions, what: DataOptions, output: Path, show_diff: bool) -> None:
    """Apply PASSES, such as "split-channels{count=8},prune-channels", to MODEL; every promise is checked in float64.

    Passes that learn from data (merge-channels, remove-layer) take it from --data.
    """
    from gngraph.analysis.diff import diff as compare
    from gngraph.analysis.manager import AnalysisManager
    from gngraph.files.archive import save
    from gngraph.growth.run_folder import archived
    from gngraph.passes import PassManager, parse_passes
    from gngraph.rewrite.pass_manager import printing
    from gngraph.running.problem import inputs_of

    pipeline = parse_passes(passes)
    graph, problem = open_both(model, how, what) if what.data else (how.open(model), None)
    result = PassManager(pipeline, AnalysisManager(problem), [printing(click.echo)]).run(graph)
    save(result.graph, output, history=archived([], {}, inputs_of(problem) if problem else known_inputs(model)))
    if show_diff:
        click.echo(compare(graph, result.graph).render())
    click.echo(f"{output}: {result.graph.num_params():,} parameters")


@click.command(cls=GroupedCommand, short_help="Show what differs between two networks.")
@click.argument("first", metavar="A", type=Model())
@click.argument("second", metavar="B", type=Model())
@model_options
@click.option(
    "--stat", is_flag=True, help="Print a line for each channel space that changed and each parameter that moved."
)
@click.option(
    "--html",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Page to write: both networks on one layout, what changed, how far values moved.",
)
@json_option
@click.pass_context
def diff(
    ctx: click.Context, first: str, second: str, how: ModelOptions, stat: bool, html: Path | None, as_json: bool
) -> None:
    """Show what differs from network A to network B, grouped by channel space.

    Exit status: 0 the same in structure and values, 1 different, 2 trouble.
    """
    from gngraph.analysis.diff import diff as compare
    from gngraph.analysis.diff import recorded_lineage
    from gngraph.files.archive import load_history
    from gngraph.files.loading import is_archive

    a, b = how.open(first), how.open(second)
    history = load_history(second) if is_archive(second) else None
    found: GraphDiff = compare(a, b, lineage=recorded_lineage(a, history))
    if html is not None:
        from gngraph.report.difference import write_difference

        write_difference(html, (first, a), (second, b), found)
    if as_json:
        from gngraph.cli.tables import print_json

        print_json(found.to_json())
    else:
        click.echo(found.stat() if stat else found.render())
    ctx.exit(0 if found.is_empty and not found.weights.differing else 1)


def describe_run(files: RunFiles, folder: Path) -> str:
    """What a run wrote, in three lines."""
    return (
        f"{describe_onnx(files.onnx)}\n"
        f"{folder}: config.toml, seed.gng, model.gng, model.py, weights.safetensors, model.onnx, history.jsonl, channels.jsonl and "
        f"{len(files.pictures)} pictures\n"
        f"{files.report}: the report, to be opened in a browser"
    )
