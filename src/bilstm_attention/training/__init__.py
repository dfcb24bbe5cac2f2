"""Training of one model: the loop, one step of it, and the optimizers."""
