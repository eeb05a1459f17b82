"""Files that networks come from and go to: archives, checkpoints, state dicts, and the audit of what they would run."""

from gngraph.files.sniff import FileFormat, require_there, sniff

__all__ = ["FileFormat", "require_there", "sniff"]
