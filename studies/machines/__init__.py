"""Programs of a cluster's own machines: which nodes are bought, and what one does before it is taken away."""
