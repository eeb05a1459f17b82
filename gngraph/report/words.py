"""What a run did, in words: the same on the command line and in reports."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gngraph.curvature import Loss, NextToken
from gngraph.growth.history import Record

_LARGEST = 700.0
"""Beyond this loss a perplexity is no number of 64 bits."""


def percent(label: str, share: float | None) -> str:
    """`label` and a share in percent; nothing for None.

    >>> percent("accuracy ", 0.975)
    'accuracy 97.50 %'
    """
    return "" if share is None else f"{label}{100 * share:.2f} %"


def perplexity(loss: Loss, value: float) -> str:
    """What a loss of next tokens is in perplexity, behind a comma; nothing for others.

    >>> from gngraph.curvature import CrossEntropy, NextToken
    >>> perplexity(NextToken(), 2.0), perplexity(CrossEntropy(), 2.0)
    (' (perplexity 7.39)', '')
    """
    return "".join(f" (perplexity {number:.2f})" for number in perplexity_of(loss, value).values())


def perplexity_of(loss: Loss, value: float) -> dict[str, float]:
    """The same for machines: the exponential of a loss of next tokens, under its name; nothing where there is none."""
    finite = isinstance(loss, NextToken) and math.isfinite(value)
    return {"perplexity": math.exp(min(value, _LARGEST))} if finite else {}


def count(value: float) -> str:
    """A count for people.

    >>> count(79762), count(1.5e6), count(12)
    ('79.8k', '1.5M', '12')
    """
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def describe_round(record: Record) -> str:
    """A round in one line: size against budget, predicted against actual change of the loss, accuracy.

    >>> describe_round({
    ...     "kind": "round", "round": 1, "rounds": 2, "params": 1500, "flops": 9000, "accuracy": 0.5, "loss": 1.25,
    ...     "budget": {"params": 2000, "flops": None}, "predicted": -0.02, "predicted_error": 0.001, "actual": -0.019,
    ...     "beyond_interval": False, "refused": None, "morphisms": {"0": {"split": [1, 2]}}, "seconds": {"train": 2.0},
    ... })
    'round 1/2: 1,500 of 2,000 parameters (75 %); loss change -0.0200 ± 0.0010 predicted, -0.0190 actual; 2 split; test
    accuracy 50.00 %; 2.0 s'
    """
    parts = [_size(record)]
    if record["kind"] == "round":
        error = record.get("predicted_error") or 0.0
        beyond = ", beyond the interval" if record.get("beyond_interval") else ""
        change = f"{record['predicted']:+.4f} ± {error:.4f} predicted, {record['actual']:+.4f} actual{beyond}"
        parts.append(f"loss change {change}")
        if record["refused"]:
            parts.append(f"refused ({record['refused']}), exact new channels instead")
        parts += round_told(record)
    elif "ending" in record:
        parts.append(ending_told(record["ending"]))
    parts.append(_quality_of(record))
    parts.append(f"{sum(record['seconds'].values()):.1f} s")
    title = f"round {record['round']}/{record['rounds']}" if record["kind"] == "round" else "final training"
    return f"{title}: {'; '.join(parts)}"


def comparison_told(compared: Sequence[Record], last: Record) -> list[str]:
    """What was trained beside a run came to, a line each, beside the grown network.

    >>> beside = {"name": "plain design", "params": 900, "epochs": 4, "accuracy": 0.5, "loss": 1.0, "tested": "test"}
    >>> comparison_told([beside], {"params": 950, "accuracy": 0.75, "loss": 0.5, "tested": "test"})
    ['plain design (900 parameters), trained for 4 epochs: test accuracy 50.00 %; grown (950 parameters): test accuracy 75.00 %']
    """
    grown = f"grown ({last['params']:,} parameters): {_quality_of(last)}"
    return [
        f"{record['name']} ({record['params']:,} parameters), trained for {record['epochs']} epochs: {_quality_of(record)}; {grown}"
        for record in compared
    ]


def _quality_of(record: Record) -> str:
    tested = record.get("tested", "test")  # older records do not say
    accuracy = percent(f"{tested} accuracy ", record["accuracy"]) or f"{tested} loss {record['loss']:.4f}"
    return accuracy + percent(", mean IoU ", record.get("iou"))


def round_told(record: Record) -> list[str]:
    """What a round changed, and how that was found.

    Args:
        record: of the round.
    """
    told = [changes(record["morphisms"])]
    if "depth" in record:
        told += depth_told(record["depth"])
    if "structure" in record:
        told += structure_told(record["structure"])
    if "lookahead" in record:
        told.append(looked_ahead(record["allocation"], record["lookahead"]))
    return told


def describe_given(given: Record) -> str:
    """What a run decided by what its network knows as it is given, and how to have the other.

    >>> describe_given({"trained": True, "loss": 0.25, "exchanged": 5.0, "perturb": 0.0, "depth": "keep"})
    'the network is trained (loss 0.25, with targets exchanged 5): all layers stay, and nothing is mixed into its weights; --depth
    search and --perturb 0.3 do otherwise'
    """
    losses = [f"{given[key]:.4g}" if given[key] is not None else "not finite" for key in ("loss", "exchanged")]
    known = f"(loss {losses[0]}, with targets exchanged {losses[1]})"
    layers = "all layers stay" if given["depth"] == "keep" else "layers may go before the first rewrite"
    mixed = (
        f"{given['perturb']:g} of new initial weights are mixed in after every rewrite"
        if given["perturb"]
        else "nothing is mixed into its weights"
    )
    other = "--depth search and --perturb 0.3" if given["trained"] else "--depth keep and --perturb 0"
    when = "" if given["trained"] else ", as for a trained body under a new head"
    what = "is trained" if given["trained"] else "knows its targets no better than one with new weights"
    return f"the network {what} {known}: {layers}, and {mixed}; {other} do otherwise{when}"


def _size(record: Record) -> str:
    sides = []
    for key, unit in (("params", "parameters"), ("flops", "FLOPs")):
        limit = record["budget"][key]
        if limit is not None:
            sides.append(f"{record[key]:,} of {limit:,} {unit} ({100 * record[key] / limit:.0f} %)")
    if "latency" in record:
        sides.append(timing_told(record["latency"]))
    elif record["budget"].get("milliseconds") is not None:
        sides.append(f"{record['milliseconds']:.3g} of {record['budget']['milliseconds']:.3g} ms")
    return ", ".join(sides)


def timing_told(timed: Record) -> str:
    """What was predicted and measured of the milliseconds of a network.

    >>> timing_told({"asked": 5.0, "predicted": 4.75, "measured": 4.9, "noise": 0.1, "tries": 2, "setting": "torch"})
    '4.9 ± 0.1 of 5 ms (4.75 predicted; 2 tries)'
    """
    tries = "" if timed["tries"] == 1 else f"; {timed['tries']} tries"
    measured = f"{timed['measured']:.3g} ± {timed['noise']:.2g} of {timed['asked']:.3g} ms"
    return f"{measured} ({timed['predicted']:.3g} predicted{tries})"


def looked_ahead(allocation: str, found: Record) -> str:
    """The rule that a lookahead chose, among how many, and what that took.

    >>> looked_ahead("uniform", {"losses": {"worth": [1.5], "uniform": [1.25]}, "epochs": 2})
    "widths by 'uniform', the best of 2 allocations after 2 epochs of lookahead"
    """
    return f"widths by '{allocation}', the best of {len(found['losses'])} allocations after {found['epochs']} epochs of lookahead"


def depth_told(found: Record) -> list[str]:
    """Which layers went, and what that was decided by; nothing where there was no choice.

    >>> tried = [{"removed": 0, "loss": 1.5}, {"removed": 1, "loss": 1.25}]
    >>> depth_told({"removed": ["features.3"], "tried": tried, "samples": 8192})
    ['without features.3: of 2 depths, the deepest about as good as the best, each trained on 8,192 samples']
    """
    if len(found["tried"]) < 2:
        return []
    which = f"without {', '.join(found['removed'])}" if found["removed"] else "all layers stay"
    depths = f"of {len(found['tried'])} depths, the deepest about as good as the best"
    trained = found["recovery"]["epochs"] if "recovery" in found else 0
    after = f", and {trained} {'epoch' if trained == 1 else 'epochs'} of training without them" if trained else ""
    return [f"{which}: {depths}, each trained on {found['samples']:,} samples{after}"]


def structure_told(found: Record) -> list[str]:
    """What layers became, and what that was decided by; nothing where nothing was tried.

    >>> tried = [{"removed": 2, "changes": [], "losses": [1.5]}, {"removed": 2, "changes": ["skips"], "losses": [1.4]}]
    >>> structure_told({"changes": ["skips"], "removed": ["a", "b"], "tried": tried})
    ['structure: skips, without a, b, the best of 2 designs that were tried']
    """
    if not any(trial["changes"] for trial in found["tried"]):
        return []
    of = f"of {len(found['tried'])} designs that were tried"
    if not found["changes"]:
        return [f"structure: as it is, for no change did better, {of}"]
    without = f", without {', '.join(found['removed'])}" if found["removed"] else ""
    return [f"structure: {', then '.join(found['changes'])}{without}, the best {of}"]


def ending_told(found: Record) -> str:
    """Whether the final training went on or began anew, and what that was decided by.

    >>> ways = {"continued": {"forecast": {"loss": 0.5, "interval": [0.4, 0.625]}}, "retrained": {"forecast": None}}
    >>> ending_told({"chosen": "continued", "ways": ways})
    'continued: a loss of 0.5000 (0.4000 to 0.6250) was forecast, retrained: it diverged'
    >>> ending_told({"chosen": "continued", "ways": {}})
    'continued: the final training is too short to forecast what it comes to'
    """
    if not found["ways"]:
        return f"{found['chosen']}: the final training is too short to forecast what it comes to"

    def told(way: str) -> str:
        forecast = found["ways"][way]["forecast"]
        if forecast is None:
            return "it diverged"
        low, high = forecast["interval"]
        return f"a loss of {forecast['loss']:.4f} ({low:.4f} to {high:.4f}) was forecast"

    others = [way for way in found["ways"] if way != found["chosen"]]
    return ", ".join(f"{way}: {told(way)}" for way in (found["chosen"], *others))


def changes(morphisms: dict[str, Record]) -> str:
    """How many changes of each kind there were, from `morphism_entries`.

    >>> changes({"a": {"split": [1, 2], "new": 3}, "b": {"prune": [0]}})
    '2 split, 3 new, 1 pruned'
    """
    counts: dict[str, int] = {}
    for entry in morphisms.values():
        for kind, what in entry.items():
            counts[kind] = counts.get(kind, 0) + (what if isinstance(what, int) else len(what))
    removed = "layer removed" if counts.get("remove") == 1 else "layers removed"
    words = {
        "prune": "pruned",
        "merge": "merged",
        "insert": "inserted",
        "remove": removed,
        "separable": "made separable",
        "low-rank": "of lower rank",
    }
    return ", ".join(f"{count} {words.get(kind, kind)}" for kind, count in counts.items()) or "no change"
