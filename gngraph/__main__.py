"""`python -m gngraph` is the command `gngraph`."""

from __future__ import annotations

from gngraph.cli import main

if __name__ == "__main__":
    main()
