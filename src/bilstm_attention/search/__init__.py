"""Sweeps and comparisons of configurations."""
