"""Commands about networks alone: seed, inspect, show, apply, diff."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from gngraph.cli.deploying import describe_onnx, known_inputs
from gngraph.cli.names import PASS_NAMES, SEED_NAMES
from gngraph.cli.opening import open_both
from gngraph.cli.options import (
    DataOptions,
    ModelOptions,
    SeedOptions,
    model_argument,
    model_options,
    optional_data_options,
    output_option,
)
from gngraph.cli.parameters import GroupedCommand, Model, OpenWord, gathered
from gngraph.cli.speaking import answer, force_option, require_free, say

if TYPE_CHECKING:
    from gngraph.growth.result import GrowthResult
    from gngraph.growth.run_folder import RunFiles
    from gngraph.ir import GraphDiff


@click.command(cls=GroupedCommand, short_help="Make a small network to start from.")
@click.argument("name", type=OpenWord(SEED_NAMES))
@gathered(SeedOptions, "options")
@output_option
@force_option
def seed(name: str, options: SeedOptions, output: Path) -> None:
    """Make the network NAME with fresh weights.

    NAME is vgg11, vgg13, vgg16, vgg19, resnet20, resnet32, resnet56, mobilenet, mlp, vit, gpt or unet, or one of another library
    that is installed: torchvision:NAME, timm:NAME, or hf:NAME for a type of model of transformers, a folder or a name on the hub.
    A gpt reads tokens: --input-shape is the most that it reads at once, --classes how many there are (256 bytes). Its options stand
    in braces: "gpt{norm=rms,positions=rotary,queries=2}". A unet gives each pixel a class.
    """
    require_free(output)
    from gngraph.analysis.cost import cost
    from gngraph.data.preprocess import byte_record
    from gngraph.files.archive import save
    from gngraph.growth.run_folder import archived
    from gngraph.importing.examples import example_for
    from gngraph.importing.from_torch import from_torch
    from gngraph.zoo import Weights, build_seed, published

    kept, known = published(name), options.pretrained
    shape = options.input_shape or (kept.input_shape if kept else (3, 32, 32))
    module = build_seed(
        name,
        width=options.width,
        classes=options.classes or (kept.classes if kept and known else 10),
        input_shape=shape,
        seed=options.seed,
        weights=Weights.PRETRAINED if known else Weights.NEW,
    )
    # Classifiers of torchvision may have heads for training alone; a seed is for growing, and grows without them.
    graph = from_torch(module, example_for(module, shape), train_only="drop", output=kept.output if kept else None)
    inputs = byte_record(kept.mean, kept.std, shape) if kept and known and kept.mean and kept.std else None
    save(graph, output, history=archived([], {}, inputs))
    size = cost(graph)
    answer(
        {"output": str(output), "name": name, "params": size.params, "flops": size.flops},
        f"{output}: {name} with {size.params:,} parameters",
    )


@click.command(cls=GroupedCommand, short_help="Show size and channel spaces of a network.")
@model_argument
@model_options
@click.option("--text", is_flag=True, help="Print the graph as text instead.")
def inspect(model: str, how: ModelOptions, text: bool) -> None:
    """Show parameters, FLOPs and channel spaces of MODEL: sizes, slots, and why a space is frozen."""
    from gngraph.cli.tables import describe, print_description
    from gngraph.ir import format_graph

    graph = how.open(model)
    if text:
        written = format_graph(graph)
        answer({"text": written}, written.removesuffix("\n"))
    else:
        told = describe(graph)
        answer(told, lambda: print_description(told))


@click.command(cls=GroupedCommand, short_help="Draw a network.")
@model_argument
@model_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Picture to write, .svg, .png or .pdf; without it the network is drawn as text.",
)
@force_option
def show(model: str, how: ModelOptions, output: Path | None) -> None:
    """Draw MODEL, layer by layer as values flow: how wide each is, and what it reads."""
    from gngraph.report.diagram import PICTURES, as_text, draw_network, rows_of

    if output is not None and output.suffix.lower() not in PICTURES:
        raise click.UsageError(f"'{output}' is no picture: its name must end in {', '.join(PICTURES)}")
    require_free(output)
    graph = how.open(model)
    if output is None:
        rows = rows_of(graph)
        answer([asdict(row.layer) for row in rows], as_text(rows))
    else:
        drawn = draw_network(graph, output)
        answer({"output": str(drawn), "name": graph.name}, f"{drawn}: {graph.name} as a picture")


@click.command(cls=GroupedCommand, short_help="Rewrite a network by passes.")
@click.argument("passes", type=OpenWord(PASS_NAMES, several=True))
@model_argument
@model_options
@optional_data_options
@output_option
@force_option
@click.option("--diff", "show_diff", is_flag=True, help="Show what the passes changed.")
def apply(passes: str, model: str, how: ModelOptions, what: DataOptions, output: Path, show_diff: bool) -> None:
    """Apply PASSES, such as "split-channels{count=8},prune-channels", to MODEL; every promise is checked in float64.

    Passes that learn from data, such as merge-channels, low-rank and insert-norm, take it from --data.
    """
    require_free(output)
    from gngraph.analysis.cost import cost
    from gngraph.analysis.diff import diff as compare
    from gngraph.analysis.manager import AnalysisManager
    from gngraph.files.archive import save
    from gngraph.growth.run_folder import archived
    from gngraph.passes import PassManager, parse_passes
    from gngraph.rewrite.pass_manager import printing
    from gngraph.running.problem import inputs_of

    pipeline = parse_passes(passes)
    graph, problem = open_both(model, how, what) if what.data else (how.open(model), None)
    result = PassManager(pipeline, AnalysisManager(problem), [printing(say)]).run(graph)
    save(result.graph, output, history=archived([], {}, inputs_of(problem) if problem else known_inputs(model)))
    found, size = compare(graph, result.graph), cost(result.graph)
    changed = f"{found.render()}\n" if show_diff else ""
    told = {"output": str(output), "params": size.params, "flops": size.flops, "diff": found.to_json()}
    answer(told, f"{changed}{output}: {size.params:,} parameters")


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
@force_option
@click.pass_context
def diff(ctx: click.Context, first: str, second: str, how: ModelOptions, stat: bool, html: Path | None) -> None:
    """Show what differs from network A to network B, grouped by channel space.

    Exit status: 0 the same in structure and values, 1 different, 2 trouble.
    """
    require_free(html)
    from gngraph.analysis.diff import diff as compare
    from gngraph.analysis.diff import recorded_lineage
    from gngraph.files.archive import load_history
    from gngraph.files.loading import is_archive

    a, b = how.open(first), how.open(second)
    history = load_history(second) if is_archive(second) else None
    found: GraphDiff = compare(a, b, lineage=recorded_lineage(a, history))
    if html is not None:
        from gngraph.analysis.naming import named_alike
        from gngraph.report.difference import write_difference

        write_difference(html, (first, a), (second, named_alike(a, b)[0] if found.renamed else b), found)
    answer(found.to_json(), found.stat() if stat else found.render())
    ctx.exit(0 if found.is_empty and not found.weights.differing else 1)


def run_record(result: GrowthResult, files: RunFiles, folder: Path) -> dict[str, Any]:
    """What a run gave and wrote, as JSON values.

    Args:
        result: of the run.
        files: that it wrote.
        folder: of the run.
    """
    last = result.history[-1]
    told = {name: last[name] for name in ("params", "flops", "loss", "accuracy", "tested")}
    written = (files.seed, files.model, files.source, files.weights, files.onnx.path, files.history, files.report)
    return {"output": str(folder), **told, "files": [str(path) for path in (*written, *files.pictures)]}


def tell_run(result: GrowthResult, files: RunFiles, folder: Path) -> None:
    """Answer with what a run gave and wrote, for people in three lines.

    Args:
        result: of the run.
        files: that it wrote.
        folder: of the run.
    """
    answer(
        run_record(result, files, folder),
        f"{describe_onnx(files.onnx)}\n"
        f"{folder}: config.toml, seed.gng, model.gng, model.py, weights.safetensors, model.onnx, history.jsonl, channels.jsonl, "
        f"rounds/ and {len(files.pictures)} pictures\n"
        f"{files.report}: the report, to be opened in a browser",
    )
