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

    >>> from gngraph.ir import parse
    >>> fingerprint(parse("graph Net(%x) { %x = input() : f32[N,4]  %y = relu(%x) : f32[N,4]  return %y }"))[:8]
    '8988ed3a'
    """
    found = hashlib.sha256(format_graph(graph).encode())
    for name in sorted(graph.params):
        data = graph.params[name].data.detach().cpu().contiguous()
        found.update(f"{name} {data.dtype} {tuple(data.shape)}".encode())
        found.update(data.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
