"""The network: bidirectional LSTM, attention mechanisms, entities, classifier."""
