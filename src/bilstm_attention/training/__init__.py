"""One training loop, one step, one way to predict."""
