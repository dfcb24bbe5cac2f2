"""The model: bidirectional LSTM, attention, classifier (Keras)."""
