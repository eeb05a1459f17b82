"""One number for a network: the same structure and values have the same, wherever and whenever they were written."""

from __future__ import annotations

import hashlib

import torch

from gngraph.ir.graph import Graph
from gngraph.ir.text import format_graph


def fingerprint(graph: Graph) -> str:
    """SHA-256 of the text form and of every parameter's bytes, in hexadecimal.

    Args:
        graph: the network, with values.

    >>> from gngraph.ir import Graph
    >>> len(fingerprint(Graph.empty("net")))
    64
    """
    found = hashlib.sha256(format_graph(graph).encode())
    for name in sorted(graph.params):
        data = graph.params[name].data.detach().cpu().contiguous()
        found.update(f"{name} {data.dtype} {tuple(data.shape)}".encode())
        found.update(data.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
