from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray

from bilstm_attention.config import Params, with_overrides
from bilstm_attention.model.classifier import WordEmbedding, build_classifier

ROWS, DIMENSION = 12, 4


def drawn_matrix() -> NDArray[Any]:
    matrix = np.random.default_rng(0).normal(size=(ROWS, DIMENSION)).astype("float32")
    matrix[0] = 0
    return matrix


def embedding(trained_rows: int, l2: float = 0.0, frozen_copy: bool = False) -> WordEmbedding:
    layer = WordEmbedding(ROWS, DIMENSION, trained_rows, l2=l2, frozen_copy=frozen_copy)
    layer.build((None, None))
    layer.set_matrix(drawn_matrix())
    return layer


@pytest.mark.parametrize("trained_rows", [0, 1, 7, ROWS - 1, ROWS])
def test_lookup_is_the_row_of_the_matrix_wherever_it_is_split(trained_rows: int) -> None:
    tokens = np.random.default_rng(1).permutation(2 * ROWS).reshape(4, -1) % ROWS
    np.testing.assert_array_equal(embedding(trained_rows)(tokens), drawn_matrix()[tokens])


@pytest.mark.parametrize("trained_rows", [0, 1, 7, ROWS - 1, ROWS])
def test_a_frozen_copy_stays_what_was_read_beside_what_is_learned(trained_rows: int) -> None:
    layer, tokens = embedding(trained_rows, frozen_copy=True), np.arange(ROWS).reshape(3, -1)
    read = drawn_matrix()[tokens]
    np.testing.assert_array_equal(layer(tokens), np.concatenate([read, read], axis=-1))
    for weight in layer.trainable_weights:
        weight.assign_add(np.ones(weight.shape))
    learned = np.where((tokens < trained_rows)[..., np.newaxis], read + 1, read)
    np.testing.assert_array_equal(layer(tokens), np.concatenate([learned, read], axis=-1))
    assert sum(weight.shape[0] for weight in layer.trainable_weights) == trained_rows


def test_the_network_reads_both_copies_and_trains_one() -> None:
    model = with_overrides(
        Params(), {"model.lstm_units": 3, "model.frozen_copy": True, "model.positions.size": 2}
    ).model
    classifier = build_classifier(model, drawn_matrix(), 7, classes=2, seed=0)
    assert classifier.get_layer("words_and_positions").output.shape == (None, None, 2 * DIMENSION + 4)
    assert [weight.shape for weight in classifier.get_layer("embedding").trainable_weights] == [(7, DIMENSION)]


@pytest.mark.parametrize("trained_rows", [0, 1, 7, ROWS - 1, ROWS])
def test_only_the_first_rows_can_be_trained(trained_rows: int) -> None:
    layer = embedding(trained_rows)
    assert sum(weight.shape[0] for weight in layer.trainable_weights) == trained_rows
    assert sum(weight.shape[0] for weight in layer.non_trainable_weights) == ROWS - trained_rows


@pytest.mark.parametrize("trained_rows", [7, ROWS])
def test_gradient_reaches_each_learned_row_as_often_as_it_is_read_and_no_other(trained_rows: int) -> None:
    layer = embedding(trained_rows)
    tokens = np.array([[1, 3, 3, 8, 11], [6, 7, 1, 0, 0]])
    upstream = np.random.default_rng(2).normal(size=(2, 5, DIMENSION)).astype("float32")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(tokens) * upstream)
    gradient = tf.convert_to_tensor(tape.gradient(loss, layer.learned.value)).numpy()
    expected = np.zeros((ROWS, DIMENSION))
    np.add.at(expected, tokens, upstream)
    np.testing.assert_allclose(gradient, expected[:trained_rows], rtol=0, atol=1e-6)


@pytest.mark.parametrize("l2", [0.0, 0.01])
def test_adam_moves_the_learned_rows_and_neither_the_fixed_ones_nor_padding(l2: float) -> None:
    trained_rows, matrix = 7, drawn_matrix()
    model = with_overrides(Params(), {"model.lstm_units": 3, "model.l2": l2}).model
    classifier = build_classifier(model, matrix, trained_rows, classes=2, seed=0)
    classifier.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    tokens = np.array([[1, 2, 3, 8, 11], [4, 5, 6, 9, 0], [2, 10, 0, 0, 0]], "int32")
    for _ in range(4):
        classifier.train_on_batch(tokens, np.array([0, 1, 0]))
    layer = classifier.get_layer("embedding")
    learned, fixed = layer.learned.numpy(), layer.fixed.numpy()
    np.testing.assert_array_equal(fixed, matrix[trained_rows:])
    np.testing.assert_array_equal(learned[0], 0)
    assert (np.abs(learned[1:] - matrix[1:trained_rows]).max(axis=1) > 1e-3).all()


def test_frozen_embeddings_have_nothing_to_train() -> None:
    model = with_overrides(Params(), {"model.lstm_units": 3, "model.train_embeddings": False}).model
    classifier = build_classifier(model, drawn_matrix(), 7, classes=2, seed=0)
    assert classifier.get_layer("embedding").trainable_weights == []


@pytest.mark.parametrize("shape", [(ROWS + 1, DIMENSION), (ROWS, DIMENSION - 1), (DIMENSION, ROWS)])
def test_a_matrix_of_another_shape_is_an_error_that_names_both_shapes(shape: tuple[int, int]) -> None:
    layer = embedding(7)
    with pytest.raises(ValueError, match=r"must have shape \(12, 4\)") as error:
        layer.set_matrix(np.ones(shape))
    assert str(shape) in str(error.value)
    np.testing.assert_array_equal(layer(np.arange(ROWS)), drawn_matrix())


@pytest.mark.parametrize("trained_rows", [-1, ROWS + 1])
def test_a_split_outside_the_vocabulary_is_an_error(trained_rows: int) -> None:
    with pytest.raises(ValueError, match=f"Received: trained_rows={trained_rows}, rows={ROWS}"):
        WordEmbedding(ROWS, DIMENSION, trained_rows)


def test_decay_is_of_the_learned_rows_alone() -> None:
    layer = embedding(7, l2=0.5)
    assert float(sum(layer.losses)) == pytest.approx(0.5 * (drawn_matrix()[:7] ** 2).sum(), rel=1e-6)
    assert embedding(0, l2=0.5).losses == []
