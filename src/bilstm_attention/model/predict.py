"""Predictions of a trained model on encoded sentences: probabilities, labels, attention weights.

Shapes: N sentences, B batch, T time steps, K distributions per sentence, C classes.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from bilstm_attention.data.dataset import Rows, by_length, pad
from bilstm_attention.model.classifier import attention_view

PREDICTION_BATCH = 256
# Word ids (B, T) of any B and T: one graph serves every batch.
TOKENS = tf.TensorSpec([None, None], tf.int32)


def predict(model: keras.Model, rows: Rows) -> Any:
    """Probabilities of every row, float32 `(N, C)`, in the order of `rows`.

    Every caller predicts by this function, so that a score has the same digits wherever it is computed: the last bits
    depend on how rows are batched.
    """
    forward = forward_pass(model)
    parts = [(batch, forward(pad(rows, batch)).numpy()) for batch in by_length(rows, PREDICTION_BATCH)]
    probabilities = np.empty((len(rows), parts[0][1].shape[1]), np.float32)
    for batch, values in parts:
        probabilities[batch] = values
    return probabilities


@lru_cache(maxsize=2)
def forward_pass(model: keras.Model) -> Any:
    """The model as one graph for word ids `(B, T)` of any shape, traced once per model and not once per epoch."""
    graph = tf.function(lambda tokens: model(tokens, training=False), input_signature=[TOKENS])
    return graph.get_concrete_function()


def to_labels(probabilities: NDArray[np.float32], labels: Sequence[str]) -> list[str]:
    """The most probable label of each row of `(N, C)`."""
    return [labels[number] for number in probabilities.argmax(axis=1)]


def read_attention(
    model: keras.Model, rows: Rows, limit: int | None = None
) -> tuple[NDArray[np.float32], list[NDArray[np.float32]]]:
    """Probabilities `(N, C)` as of `predict`, and attention weights over each row's tokens, `(T,)` or `(K, T)`.

    Args:
        model: the classifier.
        rows: N sentences.
        limit: rows whose weights are returned, the first ones; None: all.
    """
    view, lengths = _attention_pass(model), rows.lengths
    probabilities = np.empty((len(rows), model.output_shape[-1]), np.float32)
    weights: list[NDArray[np.float32]] = [np.empty(0, np.float32)] * len(rows.labels[:limit])
    for batch in by_length(rows, PREDICTION_BATCH):
        probabilities[batch], padded = (np.asarray(output) for output in view(pad(rows, batch)))
        for number, row in zip(batch, padded, strict=True):
            if number < len(weights):
                # a view would keep the whole batch in memory
                weights[number] = row[..., : lengths[number]].copy()
    return probabilities, weights


@lru_cache(maxsize=2)
def _attention_pass(model: keras.Model) -> Any:
    return forward_pass.__wrapped__(attention_view(model))
