"""The whole network, under every mechanism and option: what holds of its probabilities and weights."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.model.small_classifier import (
    CLASSES,
    VARIANTS,
    Array,
    answers,
    built,
    called,
    called_once,
    drawn_matrix,
    moved,
    moved_once,
    padded,
    relation,
    some_rows,
    some_tokens,
    view_once,
)

from bilstm_attention.config import ATTENTION_KINDS
from bilstm_attention.errors import ParamsError
from bilstm_attention.model.attention import MECHANISMS
from bilstm_attention.model.classifier import attention_view

every_variant = pytest.mark.parametrize("variant", VARIANTS)
few = settings(max_examples=6, deadline=None)
LABELS = np.arange(len(some_tokens)) % CLASSES


@every_variant
@few
@given(some_rows, st.integers(1, 5))
def test_padding_columns_change_neither_probabilities_nor_weights(
    variant: str, rows: list[list[int]], columns: int
) -> None:
    tokens = padded(rows)
    probabilities, weights = answers(variant, tokens)
    padded_probabilities, padded_weights = answers(variant, padded(rows, columns))
    np.testing.assert_allclose(padded_probabilities, probabilities, rtol=0, atol=1e-6)
    np.testing.assert_allclose(padded_weights[..., : tokens.shape[1]], weights, rtol=0, atol=1e-6)
    assert (padded_weights[..., tokens.shape[1] :] == 0).all()


@every_variant
@few
@given(some_rows)
def test_probabilities_and_weights_are_distributions_the_latter_over_the_real_tokens(
    variant: str, rows: list[list[int]]
) -> None:
    tokens = padded(rows, 2)
    probabilities, weights = answers(variant, tokens)
    by_sentence = weights.reshape(len(rows), -1, tokens.shape[1])
    for found in (probabilities, by_sentence):
        assert (found >= 0).all()
        np.testing.assert_allclose(found.sum(axis=-1), 1, rtol=0, atol=1e-6)
    assert (by_sentence[np.broadcast_to((tokens == 0)[:, None], by_sentence.shape)] == 0).all()


@every_variant
@few
@given(some_rows)
def test_a_row_gives_the_same_alone_as_in_a_batch(variant: str, rows: list[list[int]]) -> None:
    probabilities, weights = answers(variant, padded(rows))
    for number, row in enumerate(rows):
        alone_probabilities, alone_weights = answers(variant, np.array([row], "int32"))
        np.testing.assert_allclose(probabilities[number], alone_probabilities[0], rtol=0, atol=1e-6)
        np.testing.assert_allclose(weights[number, ..., : len(row)], alone_weights[0], rtol=0, atol=1e-6)


@every_variant
@few
@given(some_rows, st.randoms(use_true_random=False))
def test_permuting_the_batch_permutes_the_output(variant: str, rows: list[list[int]], shuffler: Any) -> None:
    order = list(range(len(rows)))
    shuffler.shuffle(order)
    tokens = padded(rows)
    for found, wanted in zip(answers(variant, tokens[order]), answers(variant, tokens), strict=True):
        np.testing.assert_allclose(found, wanted[order], rtol=0, atol=1e-6)


@every_variant
def test_rows_of_one_token_work_and_their_attention_is_one(variant: str) -> None:
    probabilities, weights = answers(variant, np.array([[1], [20]], "int32"))
    np.testing.assert_allclose(weights, 1, rtol=0, atol=1e-6)
    assert np.ptp(probabilities, axis=0).max() > 1e-3


@every_variant
def test_the_shortest_relation_works_and_its_words_tell(variant: str) -> None:
    tokens = padded([relation([], [first], [], [second], []) for first, second in ((10, 12), (11, 12), (10, 13))])
    probabilities, _ = answers(variant, tokens)
    assert np.isfinite(probabilities).all()
    assert np.abs(probabilities[0] - probabilities[1:]).max(axis=1).min() > 1e-5


# Training


def probabilities_weights_and_gradients(view: keras.Model) -> tuple[Array, Array, dict[str, Any]]:
    """The gradients of the cross-entropy alone, without decay and penalties, which move weights that nothing reads."""
    variables = view.trainable_variables
    with tf.GradientTape() as tape:
        probabilities, weights = view(some_tokens, training=False)
        loss = -tf.reduce_mean(tf.math.log(tf.gather(tf.cast(probabilities, "float32"), LABELS, batch_dims=1)))
    found = tape.gradient(loss, [variable.value for variable in variables], unconnected_gradients="zero")
    dense = [tf.convert_to_tensor(gradient).numpy() for gradient in found]
    names = [variable.path for variable in variables]
    return probabilities.numpy(), weights.numpy(), dict(zip(names, dense, strict=True))


@every_variant
def test_every_weight_takes_part_in_the_loss(variant: str) -> None:
    _, _, gradients = probabilities_weights_and_gradients(view_once(variant))
    assert [path for path, gradient in gradients.items() if not gradient.any()] == []
    assert len(gradients) == len(moved_once(variant).trainable_variables)


@pytest.fixture
def mixed_float16() -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(before)


@pytest.mark.usefixtures("mixed_float16")
@every_variant
def test_mixed_precision_agrees_with_full_precision_to_half_precision(variant: str) -> None:
    classifier = moved(built(variant))
    probabilities, weights, gradients = probabilities_weights_and_gradients(attention_view(classifier))
    full_probabilities, full_weights = called_once(variant)
    assert classifier.get_layer("attention").compute_dtype == "float16"
    assert weights.dtype == np.float32
    np.testing.assert_allclose(probabilities, full_probabilities, rtol=0, atol=0.02)
    np.testing.assert_allclose(weights, full_weights, rtol=0, atol=0.02)
    for path, gradient in gradients.items():
        assert np.isfinite(gradient).all(), path


# Attention weights beside the probabilities

SEVERAL = {"structured": (2, "hop"), "dropped weights": (2, "hop"), "multihead": (2, "head")} | {
    "dense_time per feature": (3, "feature"),
    "dense_time per feature before": (8, "feature"),  # of the inputs: 4 of the word, 2 of each position
}


@every_variant
def test_attention_view_gives_the_classifiers_probabilities_bit_for_bit_and_weights(variant: str) -> None:
    classifier, view = moved_once(variant), view_once(variant)
    probabilities, weights = called_once(variant)
    assert probabilities.tobytes() == classifier(some_tokens, training=False).numpy().tobytes()
    distributions, axis = SEVERAL.get(variant, (None, ""))
    rows, steps = some_tokens.shape
    assert weights.shape == ((rows, distributions, steps) if distributions else (rows, steps))
    assert view.get_layer("attention").axis == axis


def test_attention_view_follows_the_weights_of_the_classifier() -> None:
    classifier = built()
    view = attention_view(classifier)
    before = called(view, some_tokens)
    moved(classifier)
    assert called(view, some_tokens)[0].tobytes() == classifier(some_tokens, training=False).numpy().tobytes()
    assert np.abs(called(view, some_tokens)[1] - before[1]).max() > 1e-3


# How it is put together


def test_the_last_states_are_dropped_out_as_all_states_are() -> None:
    classifier = built("bahdanau", **{"model.dropout.lstm": 0.25})
    dropout = classifier.get_layer("last_dropout")
    assert dropout.rate == 0.25
    assert dropout.input is classifier.get_layer("last").output
    assert any(given is dropout.output for given in classifier.get_layer("attention").input)


def test_the_seed_alone_draws_the_weights() -> None:
    first, again, other = built(seed=1), built(seed=1), built(seed=2)
    for name in ("bilstm_1", "attention", "probabilities"):
        for one, same in zip(first.get_layer(name).get_weights(), again.get_layer(name).get_weights(), strict=True):
            np.testing.assert_array_equal(one, same)
        assert not np.array_equal(first.get_layer(name).get_weights()[0], other.get_layer(name).get_weights()[0])
    training = [model(some_tokens, training=True).numpy() for model in (first, again, first)]
    np.testing.assert_array_equal(training[0], training[1])
    assert not np.array_equal(training[0], training[2])


def test_the_rows_of_the_embedding_are_those_of_the_matrix() -> None:
    np.testing.assert_array_equal(np.concatenate(built().get_layer("embedding").get_weights()), drawn_matrix())


def test_an_unknown_kind_in_params_is_an_error_with_the_nearest_and_the_legal_ones() -> None:
    with pytest.raises(ParamsError) as error:
        built("zhuo")
    assert "model.attention.kind: 'zhuo' is no mechanism; did you mean 'zhou'?" in str(error.value)
    assert f"Legal: {', '.join(MECHANISMS)}." in str(error.value)
    assert set(MECHANISMS) == set(ATTENTION_KINDS)
