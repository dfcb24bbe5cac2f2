"""Each mechanism as a layer, against `transcription.py` and by its properties."""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.unit.model import transcription

from bilstm_attention.config import ATTENTION_KINDS
from bilstm_attention.model.attention import MECHANISMS, AttentionPooling, arguments

Array = NDArray[Any]
SIZE, LONGEST = 5, 6
# Keras warns of rows of one token, which are legal here
pytestmark = pytest.mark.filterwarnings("ignore:You are using a softmax over axis")
few = settings(max_examples=5, deadline=None)

SMALL = {"size": 3, "hops": 2, "penalty": 0.3, "heads": 2, "key_size": 3, "steps": 11}
every_form = pytest.mark.parametrize("form", sorted(MECHANISMS))
every_output = pytest.mark.parametrize(("tanh_output", "temperature"), [(False, 1.0), (True, 1.0), (True, 0.6)])


def pooling(form: str, scale: float = 1.0, **given: Any) -> AttentionPooling:
    """A built layer, every weight of it drawn, biases too."""
    small = {name: value for name, value in SMALL.items() if name in arguments(MECHANISMS[form])}
    layer = MECHANISMS[form](**{**small, **given})
    layer.build((None, None, SIZE))
    draw = np.random.default_rng(0)
    for weight in layer.trainable_variables:
        weight.assign(scale * draw.normal(size=weight.shape))
    return layer


pooling_once = cache(pooling)


class Batch(NamedTuple):
    """What a layer is given; whatever stands in the padding is large, so that reading it would show."""

    states: Array
    mask: Array
    last: Array
    entities: Array


def drawn(seed: int, lengths: list[int], steps: int = LONGEST, padding: float = 50.0) -> Batch:
    draw = np.random.default_rng(seed)
    mask = np.arange(steps) < np.array(lengths)[:, None]
    states = draw.normal(size=(len(lengths), steps, SIZE)).astype("float32")
    last = draw.normal(size=(len(lengths), SIZE)).astype("float32")
    entities = (draw.random(size=(len(lengths), 2, steps)) < 0.4) & mask[:, None]
    return Batch(np.where(mask[..., None], states, np.float32(padding)), mask, last, entities)


def called(layer: AttentionPooling, batch: Batch, **given: Any) -> tuple[Array, Array]:
    pooled, weights = layer(batch.states, mask=batch.mask, last=batch.last, entities=batch.entities, **given)
    return pooled.numpy(), weights.numpy()


def transcribed(form: str, output: dict[str, Any], batch: Batch, parameters: list[Array]) -> tuple[Array, Array, float]:
    """Pooled, weights and penalty of a batch in float64."""
    rows, steps = batch.mask.shape
    all_pooled, all_weights, overlaps = [], [], []
    for row in range(rows):
        n = int(batch.mask[row].sum())
        h, entities = batch.states[row, :n].astype("float64"), batch.entities[row, :, :n]
        q = batch.last[row].astype("float64")
        pooled, weights = transcription.attend(form, output, h, q, entities, parameters)
        overlaps.append(transcription.overlap(weights) if form == "structured" else 0.0)
        all_weights.append(np.concatenate([weights, np.zeros((*weights.shape[:-1], steps - n))], axis=-1))
        all_pooled.append(pooled)
    return np.array(all_pooled), np.array(all_weights), SMALL["penalty"] * float(np.mean(overlaps))


def doubles(layer: AttentionPooling) -> list[Array]:
    return [weight.numpy().astype("float64") for weight in layer.trainable_variables]


def test_every_mechanism_has_a_float64_transcription() -> None:
    assert {*transcription.SCORES, "max", "last"} == set(MECHANISMS) == set(ATTENTION_KINDS)


@every_output
@every_form
def test_pooled_weights_and_penalty_equal_the_transcription(form: str, tanh_output: bool, temperature: float) -> None:
    output = {"tanh_output": tanh_output, "temperature": temperature}
    layer, batch = pooling(form, **output), drawn(1, [6, 3, 1, 2])
    pooled, weights, penalty = transcribed(form, output, batch, doubles(layer))
    for found, wanted in zip(called(layer, batch), (pooled, weights), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
    assert float(sum(layer.losses, 0.0)) == pytest.approx(penalty, abs=1e-5)


@every_output
@every_form
def test_gradients_equal_central_differences_of_the_transcription(
    form: str, tanh_output: bool, temperature: float
) -> None:
    output = {"tanh_output": tanh_output, "temperature": temperature}
    layer, batch, draw = pooling(form, scale=0.7, **output), drawn(3, [4, 2], 4, padding=2.0), np.random.default_rng(2)
    sources = [tf.Variable(batch.states), tf.Variable(batch.last), *(each.value for each in layer.trainable_variables)]
    of_pooled, of_weights = (draw.normal(size=part.shape) for part in called(layer, batch))

    with tf.GradientTape() as tape:
        pooled, weights = layer(sources[0], mask=batch.mask, last=sources[1], entities=batch.entities)
        loss = tf.reduce_sum(pooled * of_pooled) + tf.reduce_sum(weights * of_weights)
        loss += sum(layer.losses, 0.0)
    found = tape.gradient(loss, sources, unconnected_gradients="zero")

    def loss_of(states: Array, last: Array, *parameters: Array) -> Any:
        given = batch._replace(states=states, last=last)
        pooled, weights, penalty = transcribed(form, output, given, list(parameters))
        return (pooled * of_pooled).sum() + (weights * of_weights).sum() + penalty

    points = [source.numpy().astype("float64") for source in sources]
    for number, gradient in enumerate(found):
        np.testing.assert_allclose(gradient, central_difference(loss_of, points, number), rtol=0, atol=1e-5)
    assert (found[0].numpy()[~batch.mask] == 0).all()


def central_difference(function: Callable[..., Any], points: list[Array], number: int, step: float = 1e-5) -> Array:
    gradient = np.zeros(points[number].shape)
    for index in np.ndindex(gradient.shape):
        around = []
        for sign in (1, -1):
            shifted = [point.copy() for point in points]
            shifted[number][index] += sign * step
            around.append(function(*shifted))
        gradient[index] = (around[0] - around[1]) / (2 * step)
    return gradient


# Whatever the mechanism

drawn_batches = (st.integers(0, 10_000), st.lists(st.integers(1, LONGEST), min_size=1, max_size=4))


@every_form
@few
@given(*drawn_batches)
def test_weights_are_a_distribution_over_the_real_tokens(form: str, seed: int, lengths: list[int]) -> None:
    layer, batch = pooling_once(form), drawn(seed, lengths)
    _, weights = called(layer, batch)
    assert weights.ndim == (3 if layer.axis else 2)
    by_sentence = weights.reshape(len(lengths), -1, LONGEST)
    assert (by_sentence >= 0).all()
    assert (np.moveaxis(by_sentence, 1, -1)[~batch.mask] == 0).all()
    np.testing.assert_allclose(by_sentence.sum(axis=-1), 1, rtol=0, atol=1e-6)


@every_form
@few
@given(*drawn_batches, st.integers(1, 5))
def test_padding_columns_change_nothing(form: str, seed: int, lengths: list[int], columns: int) -> None:
    layer, batch, steps = pooling_once(form), drawn(seed, lengths), max(lengths)
    narrow = Batch(batch.states[:, :steps], batch.mask[:, :steps], batch.last, batch.entities[..., :steps])
    wide = Batch(
        np.pad(narrow.states, ((0, 0), (0, columns), (0, 0)), constant_values=1e3),
        np.pad(narrow.mask, ((0, 0), (0, columns))),
        batch.last,
        np.pad(narrow.entities, ((0, 0), (0, 0), (0, columns))),
    )
    pooled, weights = called(layer, narrow)
    wide_pooled, wide_weights = called(layer, wide)
    if pooled.ndim == 3:
        wide_pooled, left = wide_pooled[:, :steps], wide_pooled[:, steps:]
        assert (left == 0).all()
    np.testing.assert_allclose(wide_pooled, pooled, rtol=0, atol=1e-6)
    np.testing.assert_allclose(wide_weights[..., :steps], weights, rtol=0, atol=1e-6)


@every_form
@few
@given(*drawn_batches)
def test_no_mask_is_a_mask_of_real_tokens(form: str, seed: int, lengths: list[int]) -> None:
    batch = drawn(seed, [LONGEST] * len(lengths))
    for found, wanted in zip(
        called(pooling_once(form), batch._replace(mask=None)), called(pooling_once(form), batch), strict=True
    ):
        np.testing.assert_array_equal(found, wanted)


@every_form
def test_a_row_of_one_token_gives_that_token_the_whole_weight(form: str) -> None:
    layer, batch = pooling(form), drawn(0, [1], 4)
    batch = batch._replace(last=batch.states[:, 0])  # both directions end on it
    pooled, weights = called(layer, batch)
    assert weights.reshape(-1, 4).tolist() == [[1, 0, 0, 0]] * (weights.size // 4)
    if pooled.ndim == 3:
        pooled = pooled[:, 0]
    np.testing.assert_array_equal(pooled.reshape(-1, SIZE), [batch.states[0, 0]] * (pooled.size // SIZE))


@pytest.mark.parametrize("policy", ["mixed_float16", "float16"])
@every_form
def test_half_precision_stays_finite_and_weights_stay_float32(form: str, policy: str) -> None:
    """States within 2 of zero, as the sum of two directions is; scores far beyond those of a trained network."""
    steps = 11
    layer, batch = pooling(form, scale=50.0, dtype=policy), drawn(5, [steps, 3, 1], steps)
    states, last = (tf.Variable(np.clip(2 * part, -2, 2).astype("float16")) for part in (batch.states, batch.last))
    with tf.GradientTape() as tape:
        pooled, weights = layer(states, mask=batch.mask, last=last, entities=batch.entities)
        loss = tf.reduce_mean(tf.cast(pooled, "float32"))
    trained = [weight.value for weight in layer.trainable_variables]
    gradients = tape.gradient(loss, [states, last, *trained], unconnected_gradients="zero")
    assert (pooled.dtype, weights.dtype) == (tf.float16, tf.float32)
    for values in (pooled, weights, *gradients):
        assert np.isfinite(values.numpy()).all()
    np.testing.assert_allclose(weights.numpy().sum(axis=-1), 1, rtol=0, atol=1e-5)


@every_form
def test_config_rebuilds_the_layer(form: str) -> None:
    layer = pooling(form, tanh_output=True, temperature=0.5, dropout=0.3, l2=0.25, name="own")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert copy.get_config() == layer.get_config()
    for name in arguments(type(layer)):
        assert getattr(copy, name) == getattr(layer, name)
    for weight, value in zip(copy.trainable_variables, layer.trainable_variables, strict=True):
        weight.assign(value)
    for found, wanted in zip(called(copy, drawn(0, [6, 2])), called(layer, drawn(0, [6, 2])), strict=True):
        np.testing.assert_array_equal(found, wanted)
    assert float(sum(copy.losses, 0.0)) == float(sum(layer.losses, 0.0))


@every_form
def test_decay_is_of_every_weight_but_biases(form: str) -> None:
    layer = pooling(form, l2=0.25)
    decayed = [weight.numpy().astype("float64") for weight in layer.trainable_variables if weight.name != "b"]
    expected = 0.25 * sum((value**2).sum() for value in decayed)
    assert float(sum(layer.losses, 0.0)) == pytest.approx(expected, rel=1e-6)


# Bounds, temperature, dropout of weights


def test_feedforward_never_weighs_a_token_more_than_e_squared_times_another() -> None:
    batch = drawn(0, [LONGEST] * 8)
    _, sharp = called(pooling("feedforward", scale=100.0), batch)
    _, unbounded = called(pooling("zhou", scale=100.0), batch)
    assert np.exp(2) * 0.99 < (sharp.max(axis=1) / sharp.min(axis=1)).max() <= np.exp(2) * (1 + 1e-6)
    assert (unbounded.max(axis=1) > 0.999).any()


@pytest.mark.parametrize(
    ("temperature", "expected"), [(1.0, [1 / 4, 3 / 4]), (0.5, [1 / 10, 9 / 10]), (1e6, [1 / 2, 1 / 2])]
)
def test_temperature_divides_the_scores(temperature: float, expected: list[float]) -> None:
    """`e = 2 ln 3 tanh(h)` of `h = 0` and `h = artanh(1/2)`: scores 0 and ln 3, weights 1 to 3; squared, 1 to 9."""
    layer = MECHANISMS["zhou"](temperature=temperature)
    layer.build((None, None, 1))
    layer.set_weights([np.array([[2 * np.log(3)]])])
    _, weights = layer(np.array([[[0.0], [np.arctanh(0.5)]]], "float32"))
    np.testing.assert_allclose(weights, [expected], rtol=0, atol=1e-6)


RATE, DRAWS = 0.4, 4000
pools_by_weight = pytest.mark.parametrize("form", [form for form in sorted(MECHANISMS) if form not in ("max", "last")])


def repeated() -> Batch:
    """One sentence, many times, for as many draws of what is dropped."""
    return Batch(*(np.repeat(part, DRAWS, axis=0) for part in drawn(1, [5], padding=0.0)))


@pools_by_weight
def test_dropout_of_weights_is_for_training_and_keeps_the_expectation(form: str) -> None:
    batch, layer, plain = repeated(), pooling(form, dropout=RATE), pooling(form)
    wanted = called(plain, Batch(*(part[:1] for part in batch)))
    judged, trained = called(layer, batch, training=False), called(layer, batch, training=True)
    np.testing.assert_allclose(judged[0], np.repeat(wanted[0], DRAWS, axis=0), rtol=0, atol=1e-6)
    spread = trained[0].std(axis=0)
    assert spread.max() > 0.05
    assert (np.abs(trained[0].mean(axis=0) - wanted[0][0]) <= 5 * spread / DRAWS**0.5 + 1e-5).all()
    for _, weights in (judged, trained):
        np.testing.assert_allclose(weights, np.repeat(wanted[1], DRAWS, axis=0), rtol=0, atol=1e-6)


def test_a_weight_is_dropped_at_the_given_rate_or_scaled_up() -> None:
    """States that are unit vectors, so that what is pooled is the weights themselves."""
    states = np.repeat(np.eye(SIZE, dtype="float32")[None], DRAWS, axis=0)
    pooled, weights = (part.numpy() for part in pooling("structured", dropout=RATE)(states, training=True))
    kept = pooled.reshape(DRAWS, 2, SIZE)
    assert (kept == 0).mean() == pytest.approx(RATE, abs=0.02)
    np.testing.assert_allclose(kept[kept != 0], weights[kept != 0] / (1 - RATE), rtol=1e-5)


@every_form
def test_a_rate_of_zero_adds_no_state_of_random_numbers(form: str) -> None:
    plain = pooling(form)
    assert len(plain.variables) == len(plain.trainable_variables)
    assert [each.name for each in pooling(form, dropout=0.1).non_trainable_variables] == ["seed_generator_state"]


# What single mechanisms promise


def test_tokens_that_share_a_maximum_share_its_weight() -> None:
    states = np.array([[[1, 5], [3, 2], [3, 1], [9, 9]]], "float32")
    pooled, weights = MECHANISMS["max"]()(states, mask=np.array([[True, True, True, False]]))
    np.testing.assert_array_equal(pooled, [[3, 5]])
    np.testing.assert_allclose(weights, [[0.5, 0.25, 0.25, 0]], rtol=0, atol=1e-7)


def test_the_penalty_is_zero_for_rows_on_single_words_that_differ_and_two_for_a_pair_on_the_same() -> None:
    """`||A A^T - I||_F^2` of two rows: I gives 0; both on one word give two off-diagonal ones."""
    layer = MECHANISMS["structured"](size=2, hops=2, penalty=0.5)
    layer.build((None, None, 2))
    states = np.eye(2, dtype="float32")[None]
    for second, expected in ((np.eye(2), 0.0), (np.array([[1.0, 1.0], [0.0, 0.0]]), 0.5 * 2)):
        layer.set_weights([1e2 * np.eye(2), 1e2 * second])
        layer(states)
        assert float(sum(layer.losses)) == pytest.approx(expected, abs=1e-6)


def test_an_entity_that_is_not_there_asks_with_zeros() -> None:
    layer, batch = pooling("entity"), drawn(0, [6, 6])
    nothing = batch._replace(entities=np.zeros_like(batch.entities))
    pooled, weights = called(layer, nothing)
    assert np.isfinite(pooled).all()
    w, _, v = doubles(layer)
    wanted = [transcription.softmax(np.tanh(h @ w) @ v[:, 0]) for h in batch.states.astype("float64")]
    np.testing.assert_allclose(weights, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("form", ["multihead", "structured"])
def test_several_distributions_lie_one_after_the_other_in_what_is_pooled(form: str) -> None:
    layer, batch = pooling(form), drawn(2, [4, 6])
    pooled, weights = called(layer, batch)
    states = np.where(batch.mask[..., None], batch.states, 0)
    wanted = np.concatenate([np.einsum("bt,bth->bh", weights[:, k], states) for k in (0, 1)], axis=1)
    np.testing.assert_allclose(pooled, wanted, rtol=0, atol=1e-5)
