"""Metrics, the official SemEval scorer, faithfulness of attention, and the evaluation of trained models."""
