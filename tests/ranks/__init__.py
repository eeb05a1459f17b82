"""Tests of gngraph.ranks."""
