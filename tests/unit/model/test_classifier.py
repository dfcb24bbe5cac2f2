"""The whole network under every mechanism and option, its embedding, and its predictions."""

import logging

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.model import small_classifier as small
from tests.unit.model.small_classifier import WORDS, build, drawn_matrix, outputs, shared_classifier, some_tokens

from bilstm_attention.data.dataset import Rows
from bilstm_attention.model.classifier import WordEmbedding
from bilstm_attention.model.predict import predict, read_attention

every_variant = pytest.mark.parametrize("variant", small.VARIANTS)
few = settings(max_examples=6)
LABELS = np.arange(len(some_tokens)) % small.CLASSES


@every_variant
@few
@given(small.some_rows, st.integers(0, 5))
def test_row_gives_the_same_alone_as_padded_in_a_batch(variant, rows, columns):
    tokens = small.padded(rows, columns)
    probabilities, weights = outputs(variant, tokens)
    by_sentence = weights.reshape(len(rows), -1, tokens.shape[1])
    assert (np.moveaxis(by_sentence, 1, -1)[tokens == 0] == 0).all()
    for values in (probabilities, by_sentence):
        assert (values >= 0).all()
        np.testing.assert_allclose(values.sum(axis=-1), 1, rtol=0, atol=1e-6)
    for number, row in enumerate(rows):
        alone_probabilities, alone_weights = outputs(variant, np.array([row], "int32"))
        np.testing.assert_allclose(probabilities[number], alone_probabilities[0], rtol=0, atol=1e-6)
        np.testing.assert_allclose(weights[number, ..., : len(row)], alone_weights[0], rtol=0, atol=1e-6)


@every_variant
def test_every_weight_takes_part_in_the_loss(variant):
    """By the cross-entropy alone, since decay and penalties also move weights that nothing reads."""
    classifier = shared_classifier(variant)
    variables = classifier.trainable_variables
    with tf.GradientTape() as tape:
        loss = -tf.reduce_mean(tf.math.log(tf.gather(classifier(some_tokens), LABELS, batch_dims=1)))
    gradients = tape.gradient(loss, [variable.value for variable in variables], unconnected_gradients="zero")
    dense = [tf.convert_to_tensor(gradient).numpy() for gradient in gradients]
    assert [weight.path for weight, gradient in zip(variables, dense, strict=True) if not gradient.any()] == []


SEVERAL = {"structured": (2, "hop"), "dropped weights": (2, "hop"), "multihead": (2, "head")}


@every_variant
def test_attention_view_adds_weights_to_the_same_probabilities(variant):
    probabilities, weights = small.shared_outputs(variant)
    assert probabilities.tobytes() == shared_classifier(variant)(some_tokens, training=False).numpy().tobytes()
    distributions, axis = SEVERAL.get(variant, (None, ""))
    rows, steps = some_tokens.shape
    assert weights.shape == ((rows, distributions, steps) if distributions else (rows, steps))
    assert small.shared_view(variant).get_layer("attention").axis == axis


def test_last_states_have_the_dropout_of_all_states():
    classifier = build("bahdanau", **{"model.dropout.lstm": 0.25})
    dropout = classifier.get_layer("last_dropout")
    assert dropout.rate == 0.25
    assert dropout.input is classifier.get_layer("last").output
    assert any(source is dropout.output for source in classifier.get_layer("attention").input)


def test_seed_alone_draws_the_weights_and_dropout():
    first, again, other = build(seed=1), build(seed=1), build(seed=2)
    for name in ("bilstm_1", "attention", "probabilities"):
        one, same, different = (model.get_layer(name).get_weights() for model in (first, again, other))
        assert all(map(np.array_equal, one, same))
        assert not np.array_equal(one[0], different[0])
    training = [model(some_tokens, training=True).numpy() for model in (first, again, first)]
    assert np.array_equal(training[0], training[1])
    assert not np.array_equal(training[0], training[2])


def test_many_models_are_predicted_with_no_warning(caplog):
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


@pytest.mark.parametrize("frozen_copy", [False, True])
@pytest.mark.parametrize("trained_rows", [0, 1, 7, WORDS - 1, WORDS])
def test_learned_rows_can_change_and_the_others_not(trained_rows, frozen_copy):
    layer = WordEmbedding(WORDS, small.DIMENSION, trained_rows, frozen_copy=frozen_copy)
    tokens = np.arange(WORDS).reshape(3, -1)
    layer.build((None, None))
    layer.set_matrix(drawn_matrix())
    initial = drawn_matrix()[tokens]

    for moved in (0, 1):
        for weight in layer.trainable_weights:
            weight.assign_add(np.full(weight.shape, moved))
        vectors = np.where((tokens < trained_rows)[..., np.newaxis], initial + moved, initial)
        expected = np.concatenate([vectors, initial], axis=-1) if frozen_copy else vectors
        np.testing.assert_array_equal(layer(tokens), expected)
