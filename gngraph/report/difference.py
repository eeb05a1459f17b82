"""`write_difference`: two networks on one page, on one layout, that needs nothing beside itself."""

from __future__ import annotations

import math
from pathlib import Path

from gngraph.analysis.cost import cost
from gngraph.ir import Graph, GraphDiff
from gngraph.report.diagram import diagram, rows_of
from gngraph.report.template import chart_of, rendered
from gngraph.report.words import count
from gngraph.writing import replacing


def write_difference(path: Path, before: tuple[str, Graph], after: tuple[str, Graph], difference: GraphDiff) -> Path:
    """Write a page about what differs between two networks, in place of a file that is there.

    Args:
        path: of the file.
        before: what the first network is called on the page, and the network.
        after: the same of the second.
        difference: between the two.
    """
    picture = diagram(rows_of(after[1], before[1]), "Layers of both, in data-flow order")
    sizes = [cost(graph) for _, graph in (before, after)]
    text = rendered(
        "difference.html",
        title=f"{before[0]} and {after[0]}",
        names=[before[0], after[0]],
        lead=difference.summary(),
        totals=[
            ("parameters", *(f"{size.params:,}" for size in sizes)),
            ("FLOPs a sample", *(count(size.flops) for size in sizes)),
            ("nodes", *(f"{number:,}" for number in difference.num_nodes)),
        ],
        picture=chart_of(picture),
        spaces=[(s.name, s.old, s.new, f"{s.new - s.old:+d}", s.origin) for s in difference.spaces],
        distances=[
            (name, f"{distance:.1%}" if math.isfinite(distance) else "from zeros")
            for name, distance in sorted(difference.distances.items(), key=lambda item: -item[1])
        ],
        account=difference.render(),
    )
    with replacing(path) as (written,):
        written.write_text(text, encoding="utf-8")
    return path
