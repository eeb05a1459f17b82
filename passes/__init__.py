"""The graph passes: frozen dataclasses that rewrite a graph, composed by ``gngraph.PassManager``.

The folder lies at the top of the repository and is imported as ``gngraph.passes`` only.
"""

from __future__ import annotations

if __name__ == "passes":
    # Imported under this name every pass class would exist twice, and the copies would not be equal.
    raise ImportError("import gngraph.passes, not passes: the folder passes/ belongs to the package gngraph")

__all__: list[str] = []
