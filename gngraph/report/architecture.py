"""Fig. 2 of the paper as data: every channel of every round, what changing it is predicted to pay, and where it comes from.

The page draws this on a canvas (`page/report.js`). 110,000 channels, 20 rounds of a VGG-19, take 2 MB: predictions are half floats,
which are as exact as they are known.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gngraph.growth.history import Record
from gngraph.scoring.selection import PROFIT

INTERVAL = 2.0
"""Standard errors on either side, as far as an interval reaches."""

LARGEST = 2.0**14
"""What the largest prediction becomes as a half float, so that those of a 10,000th of it keep 3 digits."""

PREDICTIONS = ("split_gain", "split_error", "prune_gain", "prune_error")


@dataclass(frozen=True)
class Rates:
    """What costs are worth in a round.

    Attributes:
        limits: what the round could use, by "params" and "flops"; what is not bounded does not count.
        best: predicted gain for all of it, of the split or new channel that is best by this measure; 0: none gains.
        usual: predicted loss for all of it, of the median removal.
    """

    limits: Mapping[str, int]
    best: float
    usual: float

    def share(self, costs: Mapping[str, Any]) -> float:
        """Of what the round could use."""
        return sum(abs(costs[side]) / limit for side, limit in self.limits.items()) or 1e-12

    @classmethod
    def of(cls, spaces: Iterable[Record], limits: Mapping[str, int]) -> Rates:
        """The rates among some spaces with predictions."""
        bare = cls(limits, 0.0, 0.0)
        gains, losses = [0.0], []
        for space in spaces:
            for kind in ("split", "new"):
                if kind in space:
                    gain, error = numbers(space[kind]["gain"]), numbers(space[kind]["error"])
                    sure = gain[gain > INTERVAL * error]
                    gains.append(float(sure.max(initial=0.0)) / bare.share(space[kind]))
            if "prune" in space:
                gain = numbers(space["prune"]["gain"])
                losses.append(-gain[np.isfinite(gain)] / bare.share(space["prune"]))
        rates = np.concatenate(losses) if losses else np.zeros(1)
        return cls(limits, max(gains), float(np.median(rates[rates > 0])) if (rates > 0).any() else 0.0)


def numbers(values: Any) -> NDArray[np.float64]:
    """One or several predictions, NaN where there is none."""
    return np.asarray(values if isinstance(values, list) else [values], dtype=np.float64)


def pays(space: Record, rates: Rates) -> NDArray[np.float64]:
    """How much changing each channel of a space pays, [-1, 1]: above 0 a split, below 0 a removal, 0 neither.

    1 is the best split of the round by its predicted gain for its cost; where the interval of a gain holds 0 it is 0. A removal
    pays as far as it loses less than what its cost could buy, by the rule of the selection: -1 where nothing is lost.

    Args:
        space: an entry of "spaces" of a channel record.
        rates: of the round.
    """
    split = prune = np.zeros(space["size"])
    if "split" in space and rates.best > 0:
        gain, error = numbers(space["split"]["gain"]), numbers(space["split"]["error"])
        sure = np.where(gain > INTERVAL * error, gain, 0.0)
        split = np.clip(sure / rates.share(space["split"]) / rates.best, 0.0, 1.0)
    fair = rates.best / PROFIT or rates.usual
    if "prune" in space and fair > 0:
        loss = np.nan_to_num(-numbers(space["prune"]["gain"]), nan=np.inf) / rates.share(space["prune"])
        prune = np.clip(1.0 - loss / fair, 0.0, 1.0)
    return np.where(split >= prune, split, -prune)


def new_pays(space: Record, rates: Rates) -> float | None:
    """The same for a new channel of a space; None where none was proposed."""
    if "new" not in space:
        return None
    found = {**space, "size": 1, "split": space["new"]}
    return float(pays({key: found[key] for key in ("size", "split")}, rates)[0])


def in_order(records: Sequence[Record]) -> list[str]:
    """The names of all spaces that there ever were, as values flow; those that came later behind what they stand behind."""
    names: list[str] = []
    for record in records:
        at = 0
        for name in record["spaces"]:
            if name not in names:
                names.insert(at, name)
            at = names.index(name) + 1
    return names


def packed(channels: Sequence[Record], history: Sequence[Record]) -> dict[str, Any]:
    """What the page draws Fig. 2 from, as JSON; typed arrays are base64 of little-endian bytes, row by row, frame by frame.

    Args:
        channels: the channel records of a run.
        history: its round records.
    """
    rounds = {record["round"]: record for record in history}
    names = in_order(channels)
    frames: list[dict[str, Any]] = []
    value: list[NDArray[np.float64]] = []
    source: list[NDArray[np.int64]] = []
    predictions: dict[str, list[NDArray[np.float64]]] = {name: [] for name in PREDICTIONS}
    for record in channels:
        own = rounds.get(record["round"], {})
        rates = Rates.of(record["spaces"].values(), _limits(own))
        rows: list[dict[str, Any] | None] = []
        for name in names:
            space = record["spaces"].get(name)
            rows.append(None if space is None else _row(space, rates))
            if space is None:
                continue
            value.append(pays(space, rates))
            came = space.get("source")
            source.append(np.asarray(came if came is not None else range(space["size"]), dtype=np.int64))
            for kind in ("split", "prune"):
                for what in ("gain", "error"):
                    found = numbers(space[kind][what]) if kind in space else np.full(space["size"], np.nan)
                    predictions[f"{kind}_{what}"].append(found)
        frames.append({"round": record["round"], **_standing(record, history, own), "rows": rows})
    return {
        "names": names,
        "frames": frames,
        "value": _base64(np.rint(127 * _joined(value)).astype("<i1")),
        "source": _base64(_joined(source).astype("<i4")),
        **{name: _halves(_joined(arrays)) for name, arrays in predictions.items()},
    }


def _row(space: Record, rates: Rates) -> dict[str, Any]:
    costs = {kind: [space[kind]["params"], space[kind]["flops"]] for kind in ("split", "prune", "new") if kind in space}
    row = {"size": space["size"], "layers": space["layers"], "frozen": space["frozen"], "costs": costs}
    if "layer" in space.get("split", {}):
        row["split_layer"] = [_index(space["layers"], layer) for layer in space["split"]["layer"]]
    if "new" in space:
        row["new"] = {**space["new"], "value": new_pays(space, rates)}
    return row


def _index(layers: list[str], layer: str | None) -> int:
    return layers.index(layer) if layer in layers else -1


def _limits(own: Record) -> dict[str, int]:
    """What a round could use; the network itself where nothing was bounded."""
    told = ("params", "flops")  # of channels alone milliseconds are not told
    bounds = {side: limit for side, limit in own.get("target", {}).items() if limit and side in told}
    return bounds or {side: own[side] for side in told if own.get(side)} or {"params": 1}


def _standing(record: Record, history: Sequence[Record], own: Record) -> dict[str, Any]:
    """Size and quality of the network of a frame, which is that before its round's rewrite."""
    if record["round"] == 0 or not own:
        return {"kind": "seed"}
    held = own if own["kind"] == "final" else own["trained"]
    deeper = own["kind"] == "round" and bool(own.get("depth", {}).get("removed"))
    size = {} if deeper else {"params": held["params"], "flops": held["flops"], "loss": held["loss"]}
    return {"kind": own["kind"], **size, "accuracy": None if deeper else held["accuracy"], "rounds": own["rounds"]}


def _joined(arrays: Sequence[NDArray[Any]]) -> NDArray[Any]:
    return np.concatenate(arrays) if arrays else np.zeros(0)


def _halves(values: NDArray[np.float64]) -> dict[str, Any]:
    largest = float(np.abs(values[np.isfinite(values)]).max(initial=0.0)) or 1.0
    with np.errstate(over="ignore"):
        return {"scale": largest / LARGEST, "data": _base64((values * (LARGEST / largest)).astype("<f2"))}


def _base64(array: NDArray[Any]) -> str:
    return base64.b64encode(array.tobytes()).decode("ascii")
