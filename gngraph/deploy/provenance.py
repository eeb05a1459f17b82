"""What an exported file says of itself: by what it was written, and which network it is."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Mapping
from typing import Any

from gngraph.ir import Graph
from gngraph.ir.fingerprint import fingerprint

FINGERPRINT = "gngraph_sha256"
"""Key of the network's `fingerprint`."""


def provenance(graph: Graph, metadata: Mapping[str, str]) -> dict[str, str]:
    """Entries of a file's metadata.

    Args:
        graph: the network, with values.
        metadata: further entries, which win.
    """
    own = {
        "gngraph_version": version(),
        "network": graph.name,
        "parameters": str(graph.num_params()),
        FINGERPRINT: fingerprint(graph),
    }
    return own | dict(metadata)


def metadata_of(inputs: Mapping[str, Any] | None) -> dict[str, str]:
    """Entries that say how samples become inputs and what the outputs mean, each as JSON.

    Args:
        inputs: see `gngraph.data.Data.inputs_record`.

    >>> metadata_of({"classes": ["cat", "dog"]})
    {'classes': '["cat", "dog"]'}
    """
    return {name: json.dumps(value) for name, value in (inputs or {}).items()}


def version() -> str:
    """Of gngraph, as installed."""
    try:
        return importlib.metadata.version("gngraph")
    except importlib.metadata.PackageNotFoundError:  # run from a source tree
        return "unknown"
