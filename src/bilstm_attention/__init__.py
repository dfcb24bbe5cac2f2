"""Bidirectional-LSTM text classifiers with attention: trained, searched, tracked and explained."""
