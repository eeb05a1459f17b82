"""Analyses of graphs: channel spaces, costs, Gauss-Newton scores, selection. Results are cached per snapshot."""
