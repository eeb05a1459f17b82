"""From the graph to a plain Python class that needs no gngraph."""

from gngraph.source.export import export_source

__all__ = ["export_source"]
