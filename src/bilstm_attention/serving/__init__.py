"""Raw text in, label, probabilities and attention out."""
