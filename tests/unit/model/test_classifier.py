"""The whole network under every mechanism and option, its embedding, and its predictions."""

import logging
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
    DIMENSION,
    VARIANTS,
    WORDS,
    Array,
    build,
    call,
    drawn_matrix,
    outputs,
    padded,
    perturb,
    relation,
    shared_classifier,
    shared_outputs,
    shared_view,
    some_rows,
    some_tokens,
)

from bilstm_attention.config import ATTENTION_KINDS
from bilstm_attention.data.dataset import Rows
from bilstm_attention.errors import ParamsError
from bilstm_attention.model.attention import MECHANISMS
from bilstm_attention.model.classifier import WordEmbedding, attention_view
from bilstm_attention.model.predict import predict, read_attention

every_variant = pytest.mark.parametrize("variant", VARIANTS)
few = settings(max_examples=6, deadline=None)
LABELS = np.arange(len(some_tokens)) % CLASSES


@every_variant
@few
@given(some_rows, st.integers(1, 5))
def test_padding_changes_nothing_and_outputs_are_distributions(
    variant: str, rows: list[list[int]], columns: int
) -> None:
    tokens = padded(rows, columns)
    steps = max(map(len, rows))
    for narrow, wide in zip(outputs(variant, tokens[:, :steps]), outputs(variant, tokens), strict=True):
        np.testing.assert_allclose(wide[..., : narrow.shape[-1]], narrow, rtol=0, atol=1e-6)
    probabilities, weights = outputs(variant, tokens)
    by_sentence = weights.reshape(len(rows), -1, tokens.shape[1])
    for values in (probabilities, by_sentence):
        assert (values >= 0).all()
        np.testing.assert_allclose(values.sum(axis=-1), 1, rtol=0, atol=1e-6)
    assert (np.moveaxis(by_sentence, 1, -1)[tokens == 0] == 0).all()


@every_variant
@few
@given(some_rows)
def test_row_gives_the_same_alone_as_in_a_batch(variant: str, rows: list[list[int]]) -> None:
    probabilities, weights = outputs(variant, padded(rows))
    for number, row in enumerate(rows):
        alone_probabilities, alone_weights = outputs(variant, np.array([row], "int32"))
        np.testing.assert_allclose(probabilities[number], alone_probabilities[0], rtol=0, atol=1e-6)
        np.testing.assert_allclose(weights[number, ..., : len(row)], alone_weights[0], rtol=0, atol=1e-6)


@every_variant
def test_words_of_the_shortest_sentences_matter(variant: str) -> None:
    probabilities, weights = outputs(variant, np.array([[1], [20]], "int32"))
    np.testing.assert_allclose(weights, 1, rtol=0, atol=1e-6)
    assert np.ptp(probabilities, axis=0).max() > 1e-3
    tokens = padded([relation([], [first], [], [second], []) for first, second in ((10, 12), (11, 12), (10, 13))])
    probabilities, _ = outputs(variant, tokens)
    assert np.abs(probabilities[0] - probabilities[1:]).max(axis=1).min() > 1e-5


def outputs_and_gradients(view: keras.Model) -> tuple[Array, Array, dict[str, Any]]:
    """Gradients of the cross-entropy alone, since decay and penalties also move weights that nothing reads."""
    variables = view.trainable_variables
    with tf.GradientTape() as tape:
        probabilities, weights = view(some_tokens, training=False)
        loss = -tf.reduce_mean(tf.math.log(tf.gather(tf.cast(probabilities, "float32"), LABELS, batch_dims=1)))
    gradients = tape.gradient(loss, [variable.value for variable in variables], unconnected_gradients="zero")
    dense = [tf.convert_to_tensor(gradient).numpy() for gradient in gradients]
    return probabilities.numpy(), weights.numpy(), dict(zip([each.path for each in variables], dense, strict=True))


@every_variant
def test_every_weight_takes_part_in_the_loss(variant: str) -> None:
    _, _, gradients = outputs_and_gradients(shared_view(variant))
    assert [path for path, gradient in gradients.items() if not gradient.any()] == []
    assert len(gradients) == len(shared_classifier(variant).trainable_variables)


@pytest.fixture
def mixed_float16() -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    yield
    keras.config.set_dtype_policy(before)


@pytest.mark.usefixtures("mixed_float16")
@every_variant
def test_mixed_precision_agrees_to_half_precision(variant: str) -> None:
    classifier = perturb(build(variant))
    probabilities, weights, gradients = outputs_and_gradients(attention_view(classifier))
    assert classifier.get_layer("attention").compute_dtype == "float16"
    assert weights.dtype == np.float32
    for values, full in zip((probabilities, weights), shared_outputs(variant), strict=True):
        np.testing.assert_allclose(values, full, rtol=0, atol=0.02)
    for path, gradient in gradients.items():
        assert np.isfinite(gradient).all(), path


SEVERAL = {"structured": (2, "hop"), "dropped weights": (2, "hop"), "multihead": (2, "head")}


@every_variant
def test_attention_view_adds_weights_to_the_same_probabilities(variant: str) -> None:
    probabilities, weights = shared_outputs(variant)
    assert probabilities.tobytes() == shared_classifier(variant)(some_tokens, training=False).numpy().tobytes()
    distributions, axis = SEVERAL.get(variant, (None, ""))
    rows, steps = some_tokens.shape
    assert weights.shape == ((rows, distributions, steps) if distributions else (rows, steps))
    assert shared_view(variant).get_layer("attention").axis == axis


def test_attention_view_follows_the_weights_of_the_classifier() -> None:
    classifier = build()
    view = attention_view(classifier)
    before = call(view, some_tokens)
    perturb(classifier)
    assert call(view, some_tokens)[0].tobytes() == classifier(some_tokens, training=False).numpy().tobytes()
    assert np.abs(call(view, some_tokens)[1] - before[1]).max() > 1e-3


def test_last_states_have_the_dropout_of_all_states() -> None:
    classifier = build("bahdanau", **{"model.dropout.lstm": 0.25})
    dropout = classifier.get_layer("last_dropout")
    assert dropout.rate == 0.25
    assert dropout.input is classifier.get_layer("last").output
    assert any(source is dropout.output for source in classifier.get_layer("attention").input)


def test_seed_alone_draws_the_weights_and_dropout() -> None:
    first, again, other = build(seed=1), build(seed=1), build(seed=2)
    for name in ("bilstm_1", "attention", "probabilities"):
        one, same, different = (model.get_layer(name).get_weights() for model in (first, again, other))
        assert all(map(np.array_equal, one, same))
        assert not np.array_equal(one[0], different[0])
    training = [model(some_tokens, training=True).numpy() for model in (first, again, first)]
    assert np.array_equal(training[0], training[1])
    assert not np.array_equal(training[0], training[2])


def test_unknown_kind_is_an_error_with_the_nearest_and_all_legal_ones() -> None:
    with pytest.raises(ParamsError) as error:
        build("zhuo")
    assert "model.attention.kind: 'zhuo' is no mechanism; did you mean 'zhou'?" in str(error.value)
    assert f"Legal: {', '.join(MECHANISMS)}." in str(error.value)
    assert set(MECHANISMS) == set(ATTENTION_KINDS)


def test_many_models_are_predicted_with_no_warning(caplog: pytest.LogCaptureFixture) -> None:
    """TensorFlow warns of functions that are traced anew again and again."""
    rows = Rows.from_ids([np.array([7, 8, 9], np.int32), np.array([8, 9], np.int32)], np.zeros(2, np.int32))
    tf.get_logger().addHandler(caplog.handler)
    try:
        for seed in range(6):
            model = build(seed=seed)
            probabilities, weights = read_attention(model, rows)
            np.testing.assert_allclose(predict(model, rows), probabilities, atol=1e-6)
            assert [len(row) for row in weights] == [3, 2]
    finally:
        tf.get_logger().removeHandler(caplog.handler)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


# The word embedding

every_split = pytest.mark.parametrize("trained_rows", [0, 1, 7, WORDS - 1, WORDS])


def embedding(trained_rows: int, l2: float = 0.0, frozen_copy: bool = False) -> WordEmbedding:
    layer = WordEmbedding(WORDS, DIMENSION, trained_rows, l2=l2, frozen_copy=frozen_copy)
    layer.build((None, None))
    layer.set_matrix(drawn_matrix())
    return layer


@pytest.mark.parametrize("frozen_copy", [False, True])
@every_split
def test_learned_rows_can_change_and_the_others_not(trained_rows: int, frozen_copy: bool) -> None:
    layer, tokens = embedding(trained_rows, frozen_copy=frozen_copy), np.arange(WORDS).reshape(3, -1)
    initial = drawn_matrix()[tokens]

    def joined(vectors: Array) -> Array:
        return np.concatenate([vectors, initial], axis=-1) if frozen_copy else vectors

    np.testing.assert_array_equal(layer(tokens), joined(initial))
    for weight in layer.trainable_weights:
        weight.assign_add(np.ones(weight.shape))
    learned = np.where((tokens < trained_rows)[..., np.newaxis], initial + 1, initial)
    np.testing.assert_array_equal(layer(tokens), joined(learned))


@pytest.mark.parametrize("trained_rows", [7, WORDS])
def test_gradient_counts_each_use_of_a_learned_row(trained_rows: int) -> None:
    layer = embedding(trained_rows)
    tokens = np.array([[1, 3, 3, 8, 11], [6, 7, 1, 0, 0]])
    upstream = np.random.default_rng(2).normal(size=(2, 5, DIMENSION)).astype("float32")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(tokens) * upstream)
    gradient = tf.convert_to_tensor(tape.gradient(loss, layer.learned.value)).numpy()
    expected = np.zeros((WORDS, DIMENSION))
    np.add.at(expected, tokens, upstream)
    np.testing.assert_allclose(gradient, expected[:trained_rows], rtol=0, atol=1e-6)


@pytest.mark.parametrize("l2", [0.0, 0.01])
def test_adam_moves_neither_fixed_rows_nor_padding(l2: float) -> None:
    classifier = build(**{"model.l2": l2})
    classifier.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    for _ in range(4):
        classifier.train_on_batch(some_tokens, LABELS)
    learned, fixed = classifier.get_layer("embedding").get_weights()
    np.testing.assert_array_equal(fixed, drawn_matrix()[len(learned) :])
    np.testing.assert_array_equal(learned[0], 0)
    assert (np.abs(learned[6:] - drawn_matrix()[6 : len(learned)]).max(axis=1) > 1e-3).all()


def test_wrong_shapes_of_the_embedding_are_errors() -> None:
    with pytest.raises(ValueError, match=r"must have shape \(24, 4\)\. Received: \(24, 3\)"):
        embedding(7).set_matrix(np.ones((WORDS, DIMENSION - 1)))
    for trained_rows in (-1, WORDS + 1):
        with pytest.raises(ValueError, match=f"Received: trained_rows={trained_rows}, rows={WORDS}"):
            WordEmbedding(WORDS, DIMENSION, trained_rows)


def test_embedding_decay_is_of_the_learned_rows_alone() -> None:
    assert float(sum(embedding(7, l2=0.5).losses)) == pytest.approx(0.5 * (drawn_matrix()[:7] ** 2).sum(), rel=1e-6)
    assert embedding(0, l2=0.5).losses == []
