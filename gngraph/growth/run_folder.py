"""The folder of a run: what every round leaves behind, and the exports at the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gngraph.deploy.provenance import metadata_of, version
from gngraph.deploy.to_onnx import OnnxReport, export_onnx
from gngraph.errors import GnGraphError
from gngraph.files.archive import INPUTS, save
from gngraph.files.runs import MODEL_FILE, ROUNDS, SEED_FILE, round_file
from gngraph.growth.channel_records import CHANNELS_FILE
from gngraph.growth.checkpoints import Checkpoint, newest, remove_checkpoints
from gngraph.growth.history import HISTORY_FILE, HistoryWriter, Record, replace_records, without_seconds
from gngraph.growth.result import GrowthResult
from gngraph.ir import Graph
from gngraph.options.toml import toml_text
from gngraph.running.problem import TRAINED
from gngraph.source.export import export_source
from gngraph.writing import replacing

CONFIG_FILE = "config.toml"
ONNX_FILE = "model.onnx"
REPORT_FILE = "report.html"
COMPARISON_FILE = "comparison.jsonl"
BEGUN_FILE = "begun.json"

Inputs = Mapping[str, Any] | None
"""How samples become inputs, as `gngraph.data.Data.inputs_record` gives it."""

Draw = Callable[[GrowthResult, Path], tuple[Path, Sequence[Path]]]
"""Writes a report about a run and its pictures into a folder and gives their paths, as `gngraph.report.page.tell` does."""


class RunFolder:
    """`config.toml`, `history.jsonl`, `channels.jsonl`, `seed.gng`, `model.gng` and `rounds/` of a run that goes on.

    Args:
        path: of the folder.
        history: writes the records.
        inputs: see `archived`.
    """

    def __init__(self, path: Path, history: HistoryWriter, inputs: Inputs) -> None:
        self.path = path
        self._history = history
        self._inputs = inputs

    @classmethod
    def start(cls, path: Path, seed: Graph, inputs: Inputs, config: Record, begun: Record | None) -> RunFolder:
        """A folder for a new run, made if need be, with the seed in it, what the run was given, and how it began.

        Args:
            path: of the folder.
            seed: what the run starts from.
            inputs: see `archived`.
            config: tables of `config.toml`.
            begun: see `gngraph.growth.keeping.begun_as`; None: it cannot be repeated.

        Raises:
            GnGraphError: it holds another run, or cannot be written.
        """
        folder = cls(path, HistoryWriter(path), inputs)
        for left in (COMPARISON_FILE, BEGUN_FILE):  # of a run that was there before
            (path / left).unlink(missing_ok=True)
        for archive in (path / ROUNDS).glob("*.gng"):
            archive.unlink()
        remove_checkpoints(path)
        write_config(path, config)
        save(seed, path / SEED_FILE, history=archived([], {}, inputs))
        if begun is not None:
            replace_records(path / BEGUN_FILE, [begun])
        return folder

    @classmethod
    def again(cls, path: Path, inputs: Inputs, history: Sequence[Record]) -> RunFolder:
        """The folder of a run that goes on after some records.

        Args:
            path: of the folder.
            inputs: see `archived`.
            history: the records.
        """
        return cls(path, HistoryWriter(path, history), inputs)

    def write_channels(self, channels: Sequence[Record]) -> None:
        """Write what is known of every channel so far."""
        replace_records(self.path / CHANNELS_FILE, channels)

    def append(
        self, channels: Sequence[Record], graph: Graph, history: Sequence[Record], lineage: Mapping[str, Sequence[int]]
    ) -> None:
        """What a round gave: the network first, so that a record is never ahead of it.

        Args:
            channels: what is known of every channel so far.
            graph: the network after it.
            history: all records so far, that of the round last.
            lineage: space -> for each channel of `graph` its source channel in the seed, or -1 for a new one.
        """
        if history[-1]["kind"] == "round":
            # of the history the beginning alone, by which the lineage is told: all of it in each would grow as its square
            save(graph, self._round(history[-1]["round"]), history=archived(history[:1], lineage, self._inputs))
        save(graph, self.path / MODEL_FILE, history=archived(history, lineage, self._inputs))
        self.write_channels(channels)
        self._history.append(history[-1])

    def _round(self, number: int) -> Path:
        path = round_file(self.path, number)
        path.parent.mkdir(exist_ok=True)
        return path


def write_config(path: Path, config: Record) -> None:
    """Write what a run was given as a configuration file.

    Args:
        path: of its folder.
        config: tables of the file.
    """
    with replacing(path / CONFIG_FILE) as (beside,):
        beside.write_text(f"# gngraph {version()}: what this run was given\n\n{toml_text(config)}\n", "utf-8")


def checkpoint_of(path: Path) -> Checkpoint:
    """The newest checkpoint of the run in a folder.

    Args:
        path: of the folder.

    Raises:
        GnGraphError: it holds no run that was interrupted.
    """
    found = newest(path)
    if found is not None:
        return found
    if not (path / SEED_FILE).is_file():
        raise GnGraphError(f"'{path}' holds no run to go on with; name the folder that a run was written to")
    if (path / REPORT_FILE).is_file():
        raise GnGraphError(f"the run in '{path}' has ended: there is nothing to go on with")
    raise GnGraphError(
        f"the run in '{path}' has no checkpoint that is whole: begin it anew (with --force, or in another folder)"
    )


@dataclass(frozen=True)
class RunFiles:
    """What a run folder holds at the end.

    Attributes:
        seed, model: archives of the network before and after.
        source, weights: the network as plain Python, and its values.
        onnx: the network for onnxruntime, with how it was checked.
        history: a record a line.
        report: a page about the run.
        pictures: PNG and SVG files.
    """

    seed: Path
    model: Path
    source: Path
    weights: Path
    onnx: OnnxReport
    history: Path
    report: Path
    pictures: tuple[Path, ...]


def write_run_folder(
    result: GrowthResult,
    folder: Path,
    *,
    draw: Draw,
    samples: torch.Tensor | tuple[torch.Tensor, ...] | None = None,
    inputs: Inputs = None,
) -> RunFiles:
    """Everything about a finished run in `folder`, made if need be; files of these names are replaced.

    Args:
        result: what `grow` gave.
        folder: may be the `out` of that run.
        draw: `gngraph.report.page.tell`.
        samples: real network inputs [N, ...], one for each input of samples, on which the ONNX file is compared with torch.
        inputs: see `archived`; kept in `model.py` and in the metadata of the ONNX file as well.

    Raises:
        GnGraphError: an export is refused; what was written before stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    history = replace_records(folder / HISTORY_FILE, result.history)
    replace_records(folder / CHANNELS_FILE, result.channels)
    seed, model = folder / SEED_FILE, folder / MODEL_FILE
    save(result.seed, seed, history=archived([], {}, inputs))
    save(result.graph, model, history=archived(result.history, result.lineage, inputs))
    known = _still_known(inputs, result.history)
    source = export_source(result.graph, folder, inputs=known)
    onnx = export_onnx(result.graph, folder / ONNX_FILE, samples=samples, metadata=metadata_of(known))
    if result.comparison:
        replace_records(folder / COMPARISON_FILE, result.comparison)
    report, pictures = draw(result, folder)
    return RunFiles(seed, model, source.model, source.weights, onnx, history, report, tuple(pictures))


def _still_known(inputs: Inputs, history: Sequence[Record]) -> Inputs:
    """What holds of the inputs after a history: samples are withheld no longer where the last training saw all."""
    if inputs is None or not history or history[-1].get("withheld"):
        return inputs
    return {key: value for key, value in inputs.items() if key != TRAINED}


def archived(history: Sequence[Record], lineage: Mapping[str, Sequence[int]], inputs: Inputs) -> dict[str, Any]:
    """The history as an archive keeps it: without seconds, so that the same run gives the same bytes.

    Args:
        history: the records.
        lineage: where every channel of the network comes from.
        inputs: how samples become inputs, see `gngraph.data.Data.inputs_record`; None where that is not known.
    """
    inputs = _still_known(inputs, history)
    known = {} if inputs is None else {INPUTS: dict(inputs)}
    return {
        "rounds": without_seconds(list(history)),
        "lineage": {name: list(sources) for name, sources in lineage.items()},
        **known,
    }


def set_history_aside(folder: Path) -> None:
    """Make room for a new run in `folder`: the history of the run in it is kept as `history.jsonl.old`."""
    history = folder / HISTORY_FILE
    if history.is_file():
        os.replace(history, history.with_name(f"{HISTORY_FILE}.old"))
