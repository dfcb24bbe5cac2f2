"""Corpora, splits, tokens, word vectors, and the arrays that training reads."""
