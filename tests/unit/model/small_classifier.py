"""Small classifiers, one per mechanism and per option, and token rows for them."""

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from hypothesis import strategies as st
from numpy.typing import NDArray

from bilstm_attention.config import Params, with_overrides
from bilstm_attention.model.attention import MECHANISMS
from bilstm_attention.model.classifier import attention_view, build_classifier
from bilstm_attention.model.predict import forward_pass

Array = NDArray[Any]
WORDS, LEARNED, DIMENSION, CLASSES, LONGEST = 24, 15, 4, 3, 24
E1, E1_END, E2, E2_END, FIRST_WORD = 2, 3, 4, 5, 6
SMALL: Mapping[str, Any] = {
    "data.tokens.max_length": LONGEST,
    "model.lstm_units": 3,
    **{"model.attention.size": 5, "model.attention.hops": 2, "model.attention.heads": 2},
    **{"model.attention.key_size": 3, "model.attention.steps": LONGEST},
}


def attention(kind: str, **options: Any) -> dict[str, Any]:
    return {f"model.attention.{name}": value for name, value in {"kind": kind, **options}.items()}


DEEP = {"model.lstm_layers": 2, "model.merge": "concat"}
POSITIONS = {"model.positions.size": 2, "model.positions.limit": 3}
VARIANTS: dict[str, dict[str, Any]] = {
    **{kind: attention(kind) for kind in sorted(MECHANISMS)},
    "dropped weights": attention("structured", dropout=0.4, temperature=0.5, tanh_output=False),
    "positions": attention("zhou") | POSITIONS,
    "entity states": attention("mean") | {"model.entity_states": True},
    "entity words": attention("mean") | {"model.entity_words": True},
    "frozen copy": attention("zhou") | {"model.frozen_copy": True},
    "deep last": attention("last", tanh_output=False) | DEEP,
    "everything": attention("entity", dropout=0.2, temperature=2.0)
    | {**DEEP, **POSITIONS, "model.frozen_copy": True, "model.entity_words": True, "model.entity_states": True},
}


def drawn_matrix() -> Array:
    matrix = np.random.default_rng(0).normal(size=(WORDS, DIMENSION)).astype("float32")
    matrix[0] = 0
    return matrix


def build(variant: str = "zhou", seed: int = 0, **overrides: Any) -> keras.Model:
    """A network by its name in `VARIANTS`, or by any other kind that is registered."""
    options = VARIANTS.get(variant) or attention(variant)
    model = with_overrides(Params(), {**SMALL, **options, **overrides}).model
    return build_classifier(model, drawn_matrix(), LEARNED, CLASSES, seed)


def perturb(classifier: keras.Model) -> keras.Model:
    """Moves every trained weight away from its initial value, as training does."""
    draw = np.random.default_rng(9)
    for weight in classifier.trainable_variables:
        weight.assign_add(draw.normal(size=weight.shape))
    return classifier


@cache
def shared_classifier(variant: str) -> keras.Model:
    """A perturbed classifier for tests that change no weight."""
    return perturb(build(variant))


@cache
def shared_view(variant: str) -> keras.Model:
    return attention_view(shared_classifier(variant))


def call(model: keras.Model, tokens: Array) -> list[Array]:
    return [output.numpy() for output in model(tokens, training=False)]


@cache
def shared_outputs(variant: str) -> list[Array]:
    """Probabilities and weights of `some_tokens`."""
    return call(shared_view(variant), some_tokens)


@cache
def _graph(variant: str) -> Any:
    return forward_pass.__wrapped__(shared_view(variant))


def outputs(variant: str, tokens: Array) -> list[Array]:
    """Probabilities and weights by a graph, as in `model.predict.predict`."""
    return [output.numpy() for output in _graph(variant)(tf.constant(tokens))]


def padded(rows: Sequence[Sequence[int]], columns: int = 0) -> Array:
    """Rows as one array, with `columns` of padding beyond the longest."""
    tokens = np.zeros((len(rows), max(map(len, rows)) + columns), "int32")
    for row, words in zip(tokens, rows, strict=True):
        row[: len(words)] = words
    return tokens


def relation(before: Any, first: Any, between: Any, second: Any, after: Any, swapped: bool = False) -> list[int]:
    """`a <e1> b </e1> c <e2> d </e2> e`; `swapped`, e2 comes first."""
    markers = (E2, E2_END, E1, E1_END) if swapped else (E1, E1_END, E2, E2_END)
    return [*before, markers[0], *first, markers[1], *between, markers[2], *second, markers[3], *after]


def words(least: int, most: int) -> Any:
    return st.lists(st.integers(FIRST_WORD, WORDS - 1), min_size=least, max_size=most)


relation_rows = st.builds(relation, words(0, 2), words(1, 3), words(0, 2), words(1, 2), words(0, 2), st.booleans())
some_rows = st.lists(relation_rows | words(1, 6), min_size=1, max_size=4)
some_tokens = padded(
    [
        relation([7, 21], [6, 9], [11], [23], [8, 8]),
        relation([], [10], [], [12], []),
        relation([], [20], [13, 7], [14, 22], [6], swapped=True),
        [17],
    ]
)
