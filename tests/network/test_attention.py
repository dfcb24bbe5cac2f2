from collections.abc import Callable
from functools import cache
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bilstm_attention.errors import ParamsError
from bilstm_attention.network.attention import MECHANISMS, AttentionPooling

Array = NDArray[Any]
KINDS = sorted(MECHANISMS)
SIZE = 5
few = settings(max_examples=15, deadline=None)

# Scores in float64, states (B, T, H) and the mechanism's weights to (B, T), each as its paper prints it.
SCORES: dict[str, Callable[..., Array]] = {
    "feedforward": lambda h, w, b: np.tanh(h @ w + b)[..., 0],
    "zhou": lambda h, w: (np.tanh(h) @ w)[..., 0],
    "mean": lambda h: np.zeros(h.shape[:2]),
}


def attend(kind: str, tanh_output: bool, states: Array, mask: Array, *parameters: Array) -> tuple[Array, Array]:
    """Zhou et al. 2016, equations 10 to 12, with the score of any mechanism; softmax over the real tokens only."""
    scores, weights = SCORES[kind](states, *parameters), np.zeros(mask.shape)
    for row, real in enumerate(mask):
        exponentials = np.exp(scores[row, real])
        weights[row, real] = exponentials / exponentials.sum()
    pooled = np.array([a @ h for a, h in zip(weights, states, strict=True)])
    return (np.tanh(pooled) if tanh_output else pooled), weights


def pooling(kind: str, tanh_output: bool = False, scale: float = 1.0, **kwargs: Any) -> AttentionPooling:
    """A built layer, every weight of it drawn, biases too."""
    layer = AttentionPooling(kind, tanh_output=tanh_output, **kwargs)
    layer.build((None, None, SIZE))
    draw = np.random.default_rng(0)
    layer.set_weights([scale * draw.normal(size=weight.shape) for weight in layer.weights])
    return layer


pooling_once = cache(pooling)


def lengths_to_mask(lengths: list[int], steps: int) -> Array:
    return np.arange(steps) < np.array(lengths)[:, None]


def drawn_states(seed: int, lengths: list[int], steps: int) -> Array:
    return np.random.default_rng(seed).normal(size=(len(lengths), steps, SIZE)).astype("float32")


def called(layer: AttentionPooling, states: Array, mask: Array | None = None) -> tuple[Array, Array]:
    pooled, weights = layer(states, mask=mask)
    return pooled.numpy(), weights.numpy()


some_rows = (st.sampled_from(KINDS), st.integers(0, 10_000), st.lists(st.integers(1, 6), min_size=1, max_size=4))


def test_every_mechanism_has_a_float64_transcription_here() -> None:
    assert set(SCORES) == set(MECHANISMS)


@pytest.mark.parametrize("tanh_output", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_pooled_and_weights_equal_the_float64_transcription(kind: str, tanh_output: bool) -> None:
    layer = pooling(kind, tanh_output=tanh_output)
    states, mask = drawn_states(1, [6, 3, 1], 6), lengths_to_mask([6, 3, 1], 6)
    parameters = [weight.astype("float64") for weight in layer.get_weights()]
    expected = attend(kind, tanh_output, states.astype("float64"), mask, *parameters)
    for found, wanted in zip(called(layer, states, mask), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("tanh_output", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_equal_central_differences_of_the_float64_transcription(kind: str, tanh_output: bool) -> None:
    layer = pooling(kind, tanh_output=tanh_output)
    mask, draw = lengths_to_mask([4, 2], 4), np.random.default_rng(2)
    of_pooled, of_weights = draw.normal(size=(2, SIZE)), draw.normal(size=(2, 4))
    states = tf.Variable(drawn_states(3, [4, 2], 4))
    sources = [states, *(weight.value for weight in layer.trainable_variables)]

    with tf.GradientTape() as tape:
        pooled, weights = layer(states, mask=mask)
        loss = tf.reduce_sum(pooled * of_pooled) + tf.reduce_sum(weights * of_weights)
    found = tape.gradient(loss, sources)

    def transcribed(*values: Array) -> Any:
        pooled, weights = attend(kind, tanh_output, values[0], mask, *values[1:])
        return (pooled * of_pooled).sum() + (weights * of_weights).sum()

    points = [source.numpy().astype("float64") for source in sources]
    for number, gradient in enumerate(found):
        np.testing.assert_allclose(gradient, central_difference(transcribed, points, number), rtol=0, atol=1e-5)
    assert (found[0].numpy()[1, 2:] == 0).all()


def central_difference(function: Callable[..., Any], points: list[Array], number: int, step: float = 1e-5) -> Array:
    gradient = np.zeros(points[number].shape)
    for index in np.ndindex(gradient.shape):
        around = []
        for sign in (1, -1):
            moved = [point.copy() for point in points]
            moved[number][index] += sign * step
            around.append(function(*moved))
        gradient[index] = (around[0] - around[1]) / (2 * step)
    return gradient


@few
@given(*some_rows)
def test_weights_are_a_distribution_over_the_real_tokens(kind: str, seed: int, lengths: list[int]) -> None:
    mask = lengths_to_mask(lengths, 6)
    _, weights = called(pooling_once(kind), drawn_states(seed, lengths, 6), mask)
    assert (weights[~mask] == 0).all()
    assert (weights[mask] > 0).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=0, atol=1e-6)


@few
@given(*some_rows, st.integers(1, 5))
def test_padding_columns_change_nothing(kind: str, seed: int, lengths: list[int], columns: int) -> None:
    layer, steps = pooling_once(kind), max(lengths)
    states = drawn_states(seed, lengths, steps)
    padded = np.concatenate([states, np.full((len(lengths), columns, SIZE), 1e3, "float32")], axis=1)
    pooled, weights = called(layer, states, lengths_to_mask(lengths, steps))
    pooled_padded, weights_padded = called(layer, padded, lengths_to_mask(lengths, steps + columns))
    np.testing.assert_allclose(pooled_padded, pooled, rtol=0, atol=1e-6)
    np.testing.assert_allclose(weights_padded[:, :steps], weights, rtol=0, atol=1e-6)


@few
@given(*some_rows, st.randoms(use_true_random=False))
def test_permuting_the_batch_permutes_both_outputs(kind: str, seed: int, lengths: list[int], shuffler: Any) -> None:
    order = list(range(len(lengths)))
    shuffler.shuffle(order)
    states, mask = drawn_states(seed, lengths, 6), lengths_to_mask(lengths, 6)
    straight = called(pooling_once(kind), states, mask)
    for found, wanted in zip(called(pooling_once(kind), states[order], mask[order]), straight, strict=True):
        np.testing.assert_allclose(found, wanted[order], rtol=0, atol=1e-6)


@few
@given(*some_rows)
def test_no_mask_is_a_mask_of_real_tokens(kind: str, seed: int, lengths: list[int]) -> None:
    states = drawn_states(seed, lengths, 6)
    everything = called(pooling_once(kind), states, np.ones((len(lengths), 6), bool))
    for found, wanted in zip(called(pooling_once(kind), states), everything, strict=True):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_of_one_token_gives_that_token_the_whole_weight(kind: str) -> None:
    states = drawn_states(0, [1], 4)
    pooled, weights = called(pooling(kind), states, lengths_to_mask([1], 4))
    np.testing.assert_array_equal(weights, [[1, 0, 0, 0]])
    np.testing.assert_array_equal(pooled, states[:, 0])


def test_feedforward_never_weighs_a_token_more_than_e_squared_times_another() -> None:
    _, sharp = called(pooling("feedforward", scale=100.0), drawn_states(0, [6] * 8, 6))
    _, unbounded = called(pooling("zhou", scale=100.0), drawn_states(0, [6] * 8, 6))
    assert np.exp(2) * 0.99 < (sharp.max(axis=1) / sharp.min(axis=1)).max() <= np.exp(2) * (1 + 1e-6)
    assert (unbounded.max(axis=1) > 0.999).any()


@pytest.mark.parametrize("policy", ["mixed_float16", "float16"])
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_stays_finite_and_weights_stay_float32(kind: str, policy: str) -> None:
    layer = pooling(kind, scale=50.0, dtype=policy)
    mask = lengths_to_mask([200, 3, 1], 200)
    states = tf.Variable(200 * drawn_states(5, [200, 3, 1], 200).astype("float16"))
    with tf.GradientTape() as tape:
        pooled, weights = layer(states, mask=mask)
        loss = tf.reduce_mean(tf.cast(pooled, "float32"))
    gradients = tape.gradient(loss, [states, *(weight.value for weight in layer.trainable_variables)])
    assert (pooled.dtype, weights.dtype) == (tf.float16, tf.float32)
    for values in (pooled, weights, *gradients):
        assert np.isfinite(values.numpy()).all()
    assert (weights.numpy()[~mask] == 0).all()
    np.testing.assert_allclose(weights.numpy().sum(axis=1), 1, rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_config_rebuilds_the_layer(kind: str) -> None:
    layer = pooling(kind, tanh_output=True, l2=0.25)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    copy.set_weights(layer.get_weights())
    states, mask = drawn_states(0, [6, 2], 6), lengths_to_mask([6, 2], 6)
    for found, wanted in zip(called(copy, states, mask), called(layer, states, mask), strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert float(sum(copy.losses, 0.0)) == float(sum(layer.losses, 0.0))


def test_unknown_kind_is_an_error_with_the_nearest_name_and_the_legal_ones() -> None:
    with pytest.raises(ParamsError) as error:
        AttentionPooling("feedfoward")
    message = str(error.value)
    assert message.startswith("model.attention.kind: 'feedfoward'")
    assert "did you mean 'feedforward'?" in message
    assert "Legal: " + ", ".join(MECHANISMS) in message
