"""A classifier small enough to build in every test, and token rows for it."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from bilstm_attention.network.classifier import build_classifier
from bilstm_attention.params import Params, with_overrides

Array = NDArray[Any]
WORDS, LEARNED, DIMENSION, CLASSES = 24, 15, 4, 3
SMALL: Mapping[str, Any] = {"model.lstm_units": 3}


def drawn_matrix() -> Array:
    matrix = np.random.default_rng(0).normal(size=(WORDS, DIMENSION)).astype("float32")
    matrix[0] = 0
    return matrix


def built(kind: str = "zhou", seed: int = 0, overrides: Mapping[str, Any] = SMALL) -> keras.Model:
    model = with_overrides(Params(), {**SMALL, **overrides, "model.attention.kind": kind}).model
    return build_classifier(model, drawn_matrix(), LEARNED, CLASSES, seed)


def moved(classifier: keras.Model) -> keras.Model:
    """Every trainable weight away from what the seed gives, as training leaves it."""
    draw = np.random.default_rng(9)
    for weight in classifier.trainable_variables:
        weight.assign_add(draw.normal(size=weight.shape))
    return classifier


def drawn_tokens(seed: int, lengths: list[int], steps: int) -> Array:
    tokens = np.random.default_rng(seed).integers(1, WORDS, size=(len(lengths), steps)).astype("int32")
    tokens[np.arange(steps) >= np.array(lengths)[:, None]] = 0
    return tokens


some_tokens = drawn_tokens(4, [6, 4, 1], 6)


def called(model: keras.Model, tokens: Array) -> list[Array]:
    return [output.numpy() for output in model(tokens, training=False)]
