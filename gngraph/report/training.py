"""Training over the epochs with all that happened, what the network cost meanwhile, and the trials of the search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gngraph.growth.history import Record
from gngraph.report.drawing import BLUE, GREEN, GREY, ORANGE, PURPLE, Picture, legend_below, panels
from gngraph.report.words import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def training(history: Sequence[Record]) -> Picture:
    """Accuracy, loss, parameters and FLOPs over the epochs, with a line at every rewrite and a mark at what else was done."""
    classifies = history[0]["accuracy"] is not None
    keys = ("accuracy", "loss") if classifies else ("loss",)
    figure, panel = panels(4.8, 6.0 if classifies else 4.6, rows=len(keys) + 2, ratios=(*(2.2 for _ in keys), 1.1, 1.1))
    ends = _ends(history)
    for axes, key in zip(panel, keys, strict=False):
        _quality_panel(axes, history, ends, key)
    _cost_panel(panel[-2], history, ends, "params", "parameters", BLUE)
    _cost_panel(panel[-1], history, ends, "flops", "FLOPs", GREEN)
    for axes in panel:
        for end, record in zip(ends, history, strict=True):
            if record["kind"] == "round":
                axes.axvline(end, color=GREY, linewidth=0.6, linestyle=":", zorder=0)
        axes.set_xlim(0, max(1, ends[-1]) * 1.02)
        axes.grid(axis="y", linewidth=0.3)
    panel[0].plot([], [], ":", color=GREY, label="a rewrite")
    panel[-1].set_xlabel("epoch")
    legend_below(figure)
    last = history[-1]
    result = f"accuracy {last['accuracy']:.2%}" if classifies else f"loss {last['loss']:.4g}"
    title = f"Held-out {result} with {count(last['params'])} parameters"
    return Picture("training", title, figure, _told(history))


def _quality_panel(axes: Axes, history: Sequence[Record], ends: Sequence[int], key: str) -> None:
    first = "accuracy" if history[0]["accuracy"] is not None else "loss"
    named = (lambda text: text) if key == first else (lambda text: None)  # a line of the legend for both panels
    epochs = [epoch for record in history for epoch in record["epochs"]]
    x = [epoch["epoch"] for epoch in epochs]
    axes.plot(x, [epoch[key] for epoch in epochs], color=GREY, linewidth=1, label=named("training, during the epoch"))
    trained = [record["trained"] for record in history]
    if all("training" in standing for standing in trained):
        seen = [standing["training"][key] for standing in trained]
        axes.plot(
            ends,
            seen,
            "^--",
            color=GREEN,
            markersize=4,
            linewidth=0.8,
            label=named("training, measured as held-out is"),
        )
    held = [standing[key] for standing in trained]
    axes.plot(ends, held, "o-", color=BLUE, markersize=4, linewidth=1.2, label=named("held-out, after training"))
    rounds = [(end, record) for end, record in zip(ends, history, strict=True) if record["kind"] == "round"]
    after = ([end for end, _ in rounds], [record[key] for _, record in rounds])
    if rounds:
        axes.plot(
            *after, "s", color=ORANGE, markersize=5, markerfacecolor="none", label=named("held-out, after the rewrite")
        )
    marks = (
        ("perturbed", "v", PURPLE, "new weights mixed in"),
        ("depth", "D", ORANGE, "search for the depth"),
        ("structure", "s", PURPLE, "search for the structure"),
        ("lookahead", "P", GREEN, "lookahead"),
    )
    bottom = axes.get_xaxis_transform()
    for what, marker, colour, label in marks:
        # weights are mixed in before a stretch of training, the rest comes at its end
        at = [
            end - len(record["epochs"]) * (what == "perturbed")
            for end, record in zip(ends, history, strict=True)
            if record.get(what)
        ]
        if at:
            level = {"perturbed": 0.05, "depth": 0.13, "structure": 0.13, "lookahead": 0.21}[what]
            axes.plot(at, [level] * len(at), marker, color=colour, markersize=5, transform=bottom, label=named(label))
    axes.set_ylabel(key)


def _told(history: Sequence[Record]) -> str:
    rewrites = sum(record["kind"] == "round" for record in history)
    mixed = sum(bool(record["perturbed"]) for record in history)
    seconds = sum(record["seconds"].get("train", 0.0) for record in history)
    whole = sum(sum(record["seconds"].values()) for record in history)
    return (
        f"{rewrites} rewrite{'s' * (rewrites != 1)}, new initial weights mixed in {mixed or 'no'} time{'s' * (mixed != 1)}; "
        f"training took {seconds:.1f} of {whole:.1f} seconds. During an epoch the weights change and BatchNorm reads its batches; "
        f"what is measured as held-out data are reads its running statistics."
    )


def _cost_panel(axes: Axes, history: Sequence[Record], ends: Sequence[int], key: str, label: str, colour: str) -> None:
    """A step line of a cost: each record's size holds while it trained, the rewrite at its end changes it."""
    x, y = [0], [history[0]["trained"][key]]
    for end, record in zip(ends, history, strict=True):
        x += [end, end]
        y += [record["trained"][key], record[key]]
    axes.plot(x, y, color=colour, linewidth=1.4)
    limit = history[0]["budget"][key]
    if limit is not None:
        axes.axhline(limit, color=ORANGE, linestyle="--", linewidth=1)
        axes.annotate(
            f"budget {count(limit)}",
            (0, limit),
            xytext=(3, -3),
            textcoords="offset points",
            color=ORANGE,
            va="top",
            fontsize=8,
        )
    axes.set_ylabel(label)
    axes.set_ylim(0, 1.1 * max([*y, limit or 0]))
    axes.yaxis.set_major_formatter(lambda value, _: count(value))


def trials(history: Sequence[Record]) -> list[Picture]:
    """What the search tried: depths, structures, allocations of a lookahead, and ways to train what was grown."""
    found: list[Picture] = []
    tried = [record for record in history if len(record.get("depth", {}).get("tried", ())) > 1]
    for record in tried[:1]:
        found.append(_depths(record["depth"]))
    found += [_designs(record["structure"]) for record in history if record.get("structure", {}).get("tried")][:1]
    ahead = [record for record in history if record.get("lookahead", {}).get("losses")]
    for record in ahead[:1]:
        found.append(_allocations(record))
    return found + [_endings(record["ending"]) for record in history if record.get("ending", {}).get("ways")]


def _depths(depth: Record) -> Picture:
    figure, (axes,) = panels(4.8, 3.4)
    tried = [trial for trial in depth["tried"] if trial["loss"] is not None]
    axes.plot([t["removed"] for t in tried], [t["loss"] for t in tried], "o-", color=BLUE, label="a short training")
    gone = len(depth["removed"])
    for trial in tried:
        if trial["removed"] == gone:
            axes.plot(gone, trial["loss"], "o", markersize=11, markerfacecolor="none", color=ORANGE, label="taken")
    axes.set_xlabel("layers removed")
    axes.set_ylabel("judge loss after the trial")
    axes.set_xticks([trial["removed"] for trial in depth["tried"]])
    axes.grid(axis="y", linewidth=0.3)
    legend_below(figure)
    lost = [str(trial["removed"]) for trial in depth["tried"] if trial["loss"] is None]
    said = f"Removed: {', '.join(depth['removed'])}." if depth["removed"] else "All layers stay."
    more = f" Without {', '.join(lost)} layers the training diverged." if lost else ""
    text = f"{said} Each trial was trained on {depth['samples']:,} samples; of those that are as good, the deepest is taken.{more}"
    return Picture("depth", "Trials of the depth", figure, text)


def _designs(structure: Record) -> Picture:
    """What each design of a search for the structure came to, the best first."""
    tried = sorted(
        (trial for trial in structure["tried"] if trial["losses"][0] is not None), key=lambda trial: trial["losses"][0]
    )
    figure, (axes,) = panels(6.4, 1.2 + 0.24 * len(tried))
    names = [f"{' + '.join(trial['changes']) or 'unchanged'}, {trial['removed']} removed" for trial in tried]
    rows = range(len(tried))
    axes.plot([trial["losses"][0] for trial in tried], rows, "o", color=BLUE, label="a short training")
    longer = [(trial["losses"][1], row) for row, trial in enumerate(tried) if len(trial["losses"]) > 1]
    ended = [(loss, row) for loss, row in longer if loss is not None]
    axes.plot([loss for loss, _ in ended], [row for _, row in ended], "s", color=ORANGE, label="one twice as long")
    axes.set_yticks(rows, names)
    axes.invert_yaxis()
    axes.set_xlabel("judge loss after the trial")
    axes.grid(axis="x", linewidth=0.3)
    legend_below(figure)
    said = f"Taken: {', then '.join(structure['changes']) or 'no change'}."
    text = f"{said} A change is taken where a longer training from other weights comes out better, too."
    return Picture("structure", "Trials of the structure", figure, text)


def _allocations(record: Record) -> Picture:
    figure, (axes,) = panels(4.8, 3.4)
    for name, losses in record["lookahead"]["losses"].items():
        own = name == record["allocation"]
        axes.plot(
            range(1, len(losses) + 1),
            losses,
            "o-",
            color=ORANGE if own else GREY,
            label=f"{name}, taken" if own else name,
        )
    axes.set_xlabel("stage of the halving")
    axes.set_ylabel("judge loss")
    axes.locator_params(axis="x", integer=True)
    axes.grid(axis="y", linewidth=0.3)
    legend_below(figure)
    text = f"{len(record['lookahead']['losses'])} rules for the widths, {record['lookahead']['epochs']} epochs of lookahead in all."
    return Picture("lookahead", "Trials of the rule for the widths", figure, text)


def _endings(ending: Record) -> Picture:
    """Short trainings of what was grown, as it was and from new weights, and what they were forecast to end at."""
    figure, (axes,) = panels(4.8, 3.4)
    for colour, (way, found) in zip((BLUE, ORANGE), ending["ways"].items(), strict=True):
        seen = {int(samples): loss for samples, loss in found["losses"].items() if loss is not None}
        axes.plot(list(seen), list(seen.values()), "o-", color=colour, label=f"{way}, a short training")
        if found["forecast"] is not None:
            loss, interval = found["forecast"]["loss"], found["forecast"]["interval"]
            beyond = [[loss - interval[0]], [interval[1] - loss]]
            axes.errorbar(
                [ending["samples"]], [loss], beyond, fmt="s", color=colour, capsize=3, label=f"{way}, forecast"
            )
    axes.set_xscale("log", base=2)
    axes.set_xlabel("samples of the training")
    axes.set_ylabel("judge loss after it")
    axes.grid(axis="y", linewidth=0.3)
    legend_below(figure)
    text = f"Taken: {ending['chosen']}. Of 10 losses 9 are to lie within the bars of their forecast."
    return Picture("ending", "Forecast of the final training", figure, text)


def _ends(history: Sequence[Record]) -> list[int]:
    ends, done = [], 0
    for record in history:
        done += len(record["epochs"])
        ends.append(done)
    return ends
