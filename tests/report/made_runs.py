"""Runs that never were, of any size: their records have what real ones have, with numbers drawn at random."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gngraph.growth.history import Record
from gngraph.report.runs import ReportedRun

VGG19 = (64, 64, 128, 128, *(256,) * 4, *(512,) * 8)
"""Channels of the convolutions of a VGG-19, 5,504 in all."""

LAST = "classifier"


def made_run(
    grown: Mapping[str, int],
    rounds: int = 3,
    *,
    start: float = 0.34,
    accuracy: float | None = 0.5,
    seed: int = 0,
    name: str = "run",
) -> ReportedRun:
    """A run whose network has `grown` channels at the end, and a share of them at the start.

    Each rewrite splits some channels, removes some and adds new ones; before the first round the second space goes with its layer,
    where there are three or more.
    """
    rng = np.random.default_rng(seed)
    widths = {space: max(2, round(start * width)) for space, width in grown.items()}
    channels = [{"round": 0, "spaces": {space: _entry(space, size) for space, size in widths.items()} | _frozen()}]
    removed = list(widths)[1:2] if len(widths) > 2 else []
    for space in removed:
        del widths[space]
    sources = {space: list(range(size)) for space, size in widths.items()}
    history: list[Record] = []
    for number in range(1, rounds + 1):
        spaces = {space: _scored(space, sources[space], rng) for space in widths} | _frozen()
        tried = [_tried(rng, number) for _ in range(8)]
        chosen = {"candidates": 100, "judge": _falling(rng), "report": _falling(rng)}
        channels.append({"round": number, "spaces": spaces, "selection": chosen, "tried": tried})
        morphisms: dict[str, Record] = {space: {"remove": 1} for space in removed if number == 1}
        before = dict(widths)
        for space, size in widths.items():
            want = max(size, round(size + (grown[space] - size) / (rounds + 1 - number)))
            split = sorted(rng.choice(size, min(size, (want - size) // 2 + 1), replace=False).tolist())
            gone = [c for c in range(0, size, 17) if c not in split and size > 2][:2]
            new = max(0, want - size - len(split) + len(gone))
            sources[space] = [*(c for c in range(size) if c not in gone), *split, *[-1] * new]
            widths[space] = len(sources[space])
            morphisms[space] = {"split": split, "prune": gone, "new": new}
        history.append(_round(number, rounds, before, widths, morphisms, accuracy))
    spaces = {space: _entry(space, len(source)) | {"source": source} for space, source in sources.items()} | _frozen()
    channels.append({"round": rounds + 1, "spaces": spaces})
    last = _standing(rounds + 1, widths, accuracy)
    history.append(
        {"kind": "final", "round": rounds + 1, "rounds": rounds, **_told(rounds + 1), "trained": last, **last}
    )
    if removed:
        history[0]["depth"] = {
            "removed": removed,
            "tried": [{"removed": 0, "flops": 9, "loss": 1.5}, {"removed": 1, "flops": 8, "loss": 1.2}],
            "samples": 640,
        }
    return ReportedRun(name, history, channels)


def vgg19_run(rounds: int = 20) -> ReportedRun:
    """All 5,504 channels of a VGG-19 in each of 20 rounds, and a tenth more at the end."""
    names = (f"features.{i}" for i in range(len(VGG19)))
    grown = {name: round(1.1 * width) for name, width in zip(names, VGG19, strict=True)}
    return made_run(grown, rounds, start=1 / 1.1, name="vgg19")


def _entry(space: str, size: int) -> Record:
    return {"size": size, "layers": [space], "frozen": None}


def _frozen() -> dict[str, Record]:
    return {LAST: {"size": 10, "layers": [LAST], "frozen": "it is the network's output (node 'classifier')"}}


def _scored(space: str, source: list[int], rng: np.random.Generator) -> Record:
    size = len(source)
    gain, loss = rng.exponential(1e-3, size), rng.exponential(1e-2, size)
    return _entry(space, size) | {
        "source": source,
        "split": _table(gain, 0.3 * gain * rng.uniform(0.2, 3, size), 1),
        "prune": _table(-loss, 0.2 * loss, -1),
    }


def _table(gain: Any, error: Any, sign: int) -> Record:
    lists = {name: [float(f"{v:.4g}") for v in values] for name, values in (("gain", gain), ("error", error))}
    return {**lists, "params": 120 * sign, "flops": 3000 * sign}


def _tried(rng: np.random.Generator, number: int) -> Record:
    predicted = float(rng.normal(0, 0.01 / number))
    actual = predicted * float(rng.normal(1, 0.1))
    return {"kind": "split", "space": "a", "predicted": predicted, "error": 0.2 * abs(predicted), "actual": actual}


def _falling(rng: np.random.Generator) -> list[float]:
    return [0.0, *(-rng.exponential(1e-3, 20).cumsum()).tolist()]


def _told(number: int) -> Record:
    epochs = [
        {"epoch": 2 * number - 1 + i, "loss": 1.0 / number, "accuracy": 0.5, "lr": 0.1, "seconds": 1.0}
        for i in range(2)
    ]
    seconds = {"train": 2.0, "analyse": 0.5, "measure": 0.1}
    return {
        "epochs": epochs,
        "perturbed": 0.3 * (number > 1),
        "budget": {"params": 10**9, "flops": None},
        "seconds": seconds,
    }


def _standing(number: int, widths: Mapping[str, int], accuracy: float | None) -> Record:
    size = sum(widths.values())
    share = None if accuracy is None else min(1.0, accuracy + 0.02 * number)
    return {"params": 100 * size, "flops": 1000 * size, "loss": 1 / number, "accuracy": share, "widths": dict(widths)}


def _round(
    number: int, rounds: int, before: Record, after: Record, morphisms: dict[str, Record], accuracy: float | None
) -> Record:
    return {
        "kind": "round", "round": number, "rounds": rounds, **_told(number), "trained": _standing(number, before, accuracy),
        "allocation": "worth", "morphisms": morphisms, "predicted": -0.1 / number, "predicted_error": 0.01 / number,
        "actual": -0.11 / number if number != 2 else 0.2, "refused": "it harms" if number == 2 else None,
        "refused_morphisms": {}, "target": {"params": 10**6 * number, "flops": None}, "notes": ["a note"],
        **_standing(number, after, accuracy),
    }  # fmt: skip
