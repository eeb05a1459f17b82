"""Reports: pictures of a growth run."""
