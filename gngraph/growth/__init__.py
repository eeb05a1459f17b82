"""Growth: training, the state that survives a rewrite, and the loop that grows a network within a budget."""
