"""torch in, torch out: import, lowering, files."""
