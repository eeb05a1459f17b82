"""Files that networks come from and go to: archives, checkpoints, state dicts, and the audit of what they would run."""

from gngraph.files.archive import load, load_history, save

__all__ = ["load", "load_history", "save"]
