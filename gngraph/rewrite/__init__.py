"""Rewriting: channel maps, weight surgery, morphisms, the pass manager."""
