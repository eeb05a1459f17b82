"""What a run knows of every channel, round by round: where it comes from, and what was predicted for it (docs/history.md)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from gngraph.analysis.channels import ChannelSpaces, Role
from gngraph.curvature import predicted_change
from gngraph.growth.history import Record
from gngraph.ir import Graph
from gngraph.scoring.gauss_newton import Candidate, Moments, Scores
from gngraph.scoring.selection import WIDENS, Selection

CHANNELS_FILE = "channels.jsonl"

DIGITS = 4
"""Significant digits of predictions, which are known to two or three: a third of the file."""


def spaces_record(graph: Graph, spaces: ChannelSpaces, sources: Mapping[str, Sequence[int]] | None) -> Record:
    """The channel spaces of a network, in the order in which it writes them.

    Args:
        graph: the network.
        spaces: of `graph`.
        sources: space -> for each channel the one that it was in the record before, or -1; None: there was none before.
    """
    found: Record = {}
    for space in spaces:
        writers = (graph.nodes[name] for name in space.nodes(Role.PRODUCE))
        layers = list(dict.fromkeys(node.module or node.name for node in writers))
        found[space.name] = {"size": space.size, "layers": layers, "frozen": space.frozen}
        if sources is not None and space.frozen is None:
            found[space.name]["source"] = list(sources[space.name])
    return found


def add_predictions(entries: Record, candidates: Iterable[Candidate]) -> None:
    """Add to every space what is predicted of its channels: the best way to split and to remove each, and the best new one.

    Args:
        entries: what `spaces_record` gave.
        candidates: what an analysis found; those of whole layers are left out.
    """
    best: dict[tuple[str, str, int], Candidate] = {}
    for candidate in candidates:
        kind = {1: "split", -1: "prune"}.get(WIDENS.get(candidate.morphism.kind, 0))
        if kind is not None:
            channel = getattr(candidate.morphism, "channel", -1)
            key = (candidate.morphism.space, kind if channel >= 0 else "new", channel)
            if key not in best or candidate.gain > best[key].gain:
                best[key] = candidate
    for (name, kind, channel), candidate in best.items():
        entry = entries[name]
        table = entry.setdefault(kind, _table(kind, entry["size"], candidate))
        if kind == "new":
            table |= {"gain": _short(candidate.gain), "error": _short(candidate.error), "layer": candidate.site}
            continue
        table["gain"][channel], table["error"][channel] = _short(candidate.gain), _short(candidate.error)
        if kind == "split" and len(entry["layers"]) > 1:
            table.setdefault("layer", [None] * entry["size"])[channel] = candidate.site


def selection_record(scores: Scores, selection: Selection) -> Record:
    """How the predicted change of the loss went as one candidate after the other was chosen, on judge and report split."""
    paths = {name: _path(m, selection.chosen) for name, m in (("judge", scores.judge), ("report", scores.report))}
    return {"candidates": len(scores.candidates), **paths}


def _table(kind: str, size: int, candidate: Candidate) -> Record:
    cost = {"params": candidate.cost.params, "flops": candidate.cost.flops}
    return cost if kind == "new" else {"gain": [None] * size, "error": [None] * size, **cost}


def _path(moments: Moments, chosen: Sequence[int]) -> list[float]:
    s, q = moments.s.new_zeros(len(moments.s)), moments.q.new_zeros(moments.q.shape[:2])
    changes = [0.0]
    for index in chosen:
        s, q = s + moments.s[:, index], q + moments.q[:, :, index]
        changes.append(_short(float(predicted_change(s, q).mean())))
    return changes


def _short(value: float) -> float:
    """A number with `DIGITS` significant digits.

    >>> _short(-0.00123456)
    -0.001235
    """
    return float(f"{value:.{DIGITS}g}")
