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

from bilstm_attention.model.attention import MECHANISMS, AttentionPooling, arguments

Array = NDArray[Any]
SIZE, LONGEST = 5, 6
# Keras warns of rows of one token, which are legal here
pytestmark = pytest.mark.filterwarnings("ignore:You are using a softmax over axis")
few = settings(max_examples=5, deadline=None)

SMALL = {"size": 3, "hops": 2, "penalty": 0.3, "heads": 2, "key_size": 3, "steps": 11}
every_kind = pytest.mark.parametrize("kind", sorted(MECHANISMS))
every_output = pytest.mark.parametrize(("tanh_output", "temperature"), [(False, 1.0), (True, 1.0), (True, 0.6)])


def pooling(kind: str, scale: float = 1.0, **options: Any) -> AttentionPooling:
    """A built layer with every weight drawn, biases too."""
    small = {name: value for name, value in SMALL.items() if name in arguments(MECHANISMS[kind])}
    layer = MECHANISMS[kind](**{**small, **options})
    layer.build((None, None, SIZE))
    draw = np.random.default_rng(0)
    for weight in layer.trainable_variables:
        weight.assign(scale * draw.normal(size=weight.shape))
    return layer


shared_pooling = cache(pooling)


class Batch(NamedTuple):
    """Inputs of a layer; values of the padding are large, so that reading them would show."""

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


def call(layer: AttentionPooling, batch: Batch, **options: Any) -> tuple[Array, Array]:
    pooled, weights = layer(batch.states, mask=batch.mask, last=batch.last, entities=batch.entities, **options)
    return pooled.numpy(), weights.numpy()


def transcribed(kind: str, output: dict[str, Any], batch: Batch, parameters: list[Array]) -> tuple[Array, Array, float]:
    """Pooled, weights and penalty of a batch in float64."""
    rows, steps = batch.mask.shape
    all_pooled, all_weights, overlaps = [], [], []
    for row in range(rows):
        n = int(batch.mask[row].sum())
        h, entities = batch.states[row, :n].astype("float64"), batch.entities[row, :, :n]
        q = batch.last[row].astype("float64")
        pooled, weights = transcription.attend(kind, output, h, q, entities, parameters)
        overlaps.append(transcription.overlap(weights) if kind == "structured" else 0.0)
        all_weights.append(np.concatenate([weights, np.zeros((*weights.shape[:-1], steps - n))], axis=-1))
        all_pooled.append(pooled)
    return np.array(all_pooled), np.array(all_weights), SMALL["penalty"] * float(np.mean(overlaps))


def doubles(layer: AttentionPooling) -> list[Array]:
    return [weight.numpy().astype("float64") for weight in layer.trainable_variables]


def test_every_mechanism_has_a_transcription() -> None:
    assert {*transcription.SCORES, "max", "last"} == set(MECHANISMS)


@every_output
@every_kind
def test_outputs_and_penalty_equal_the_transcription(kind: str, tanh_output: bool, temperature: float) -> None:
    output = {"tanh_output": tanh_output, "temperature": temperature}
    layer, batch = pooling(kind, **output), drawn(1, [6, 3, 1, 2])
    pooled, weights, penalty = transcribed(kind, output, batch, doubles(layer))
    for value, wanted in zip(call(layer, batch), (pooled, weights), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=0, atol=1e-5)
    assert float(sum(layer.losses, 0.0)) == pytest.approx(penalty, abs=1e-5)


@every_output
@every_kind
def test_gradients_equal_those_of_the_transcription(kind: str, tanh_output: bool, temperature: float) -> None:
    output = {"tanh_output": tanh_output, "temperature": temperature}
    layer, batch, draw = pooling(kind, scale=0.7, **output), drawn(3, [4, 2], 4, padding=2.0), np.random.default_rng(2)
    sources = [tf.Variable(batch.states), tf.Variable(batch.last), *(each.value for each in layer.trainable_variables)]
    scales = [draw.normal(size=part.shape) for part in call(layer, batch)]

    with tf.GradientTape() as tape:
        outputs = layer(sources[0], mask=batch.mask, last=sources[1], entities=batch.entities)
        parts = [tf.reduce_sum(part * scale) for part, scale in zip(outputs, scales, strict=True)]
        loss = tf.add_n([*parts, *layer.losses])
    gradients = tape.gradient(loss, sources, unconnected_gradients="zero")

    def transcribed_loss(states: Array, last: Array, *parameters: Array) -> Any:
        *outputs, penalty = transcribed(kind, output, batch._replace(states=states, last=last), list(parameters))
        return penalty + sum((part * scale).sum() for part, scale in zip(outputs, scales, strict=True))

    points = [source.numpy().astype("float64") for source in sources]
    for number, gradient in enumerate(gradients):
        np.testing.assert_allclose(gradient, central_difference(transcribed_loss, points, number), rtol=0, atol=1e-5)
    assert (gradients[0].numpy()[~batch.mask] == 0).all()


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


@every_kind
@few
@given(st.integers(0, 10_000), st.lists(st.integers(1, LONGEST), min_size=1, max_size=4), st.integers(1, 5))
def test_padding_weighs_nothing_and_changes_nothing(kind: str, seed: int, lengths: list[int], columns: int) -> None:
    layer, batch, steps = shared_pooling(kind), drawn(seed, lengths), max(lengths)
    narrow = Batch(batch.states[:, :steps], batch.mask[:, :steps], batch.last, batch.entities[..., :steps])
    wide = Batch(
        np.pad(narrow.states, ((0, 0), (0, columns), (0, 0)), constant_values=1e3),
        np.pad(narrow.mask, ((0, 0), (0, columns))),
        batch.last,
        np.pad(narrow.entities, ((0, 0), (0, 0), (0, columns))),
    )
    (pooled, weights), (wide_pooled, wide_weights) = call(layer, narrow), call(layer, wide)
    np.testing.assert_allclose(wide_pooled, pooled, rtol=0, atol=1e-6)
    np.testing.assert_allclose(wide_weights[..., :steps], weights, rtol=0, atol=1e-6)
    assert weights.ndim == (3 if layer.axis else 2)
    by_sentence = wide_weights.reshape(len(lengths), -1, steps + columns)
    assert (by_sentence >= 0).all()
    assert (np.moveaxis(by_sentence, 1, -1)[~wide.mask] == 0).all()
    np.testing.assert_allclose(by_sentence.sum(axis=-1), 1, rtol=0, atol=1e-6)


@every_kind
def test_no_mask_is_a_mask_of_real_tokens(kind: str) -> None:
    batch = drawn(0, [LONGEST] * 3)
    without = call(shared_pooling(kind), batch._replace(mask=None))
    for one, other in zip(without, call(shared_pooling(kind), batch), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("policy", ["mixed_float16", "float16"])
@every_kind
def test_half_precision_stays_finite_with_float32_weights(kind: str, policy: str) -> None:
    """States within 2 of zero, as the sum of two directions is; scores far beyond those of a trained network."""
    steps = 11
    layer, batch = pooling(kind, scale=50.0, dtype=policy), drawn(5, [steps, 3, 1], steps)
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


@every_kind
def test_config_rebuilds_the_layer(kind: str) -> None:
    layer = pooling(kind, tanh_output=True, temperature=0.5, dropout=0.3, l2=0.25, name="own")
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert copy.get_config() == layer.get_config()
    for name in arguments(type(layer)):
        assert getattr(copy, name) == getattr(layer, name)
    for weight, value in zip(copy.trainable_variables, layer.trainable_variables, strict=True):
        weight.assign(value)
    for one, other in zip(call(copy, drawn(0, [6, 2])), call(layer, drawn(0, [6, 2])), strict=True):
        np.testing.assert_array_equal(one, other)
    assert float(sum(copy.losses, 0.0)) == float(sum(layer.losses, 0.0))


@every_kind
def test_decay_is_of_every_weight_but_biases(kind: str) -> None:
    layer = pooling(kind, l2=0.25)
    decayed = [weight.numpy().astype("float64") for weight in layer.trainable_variables if weight.name != "b"]
    expected = 0.25 * sum((value**2).sum() for value in decayed)
    assert float(sum(layer.losses, 0.0)) == pytest.approx(expected, rel=1e-6)


# Bounds, temperature, dropout of weights


def test_feedforward_weights_differ_by_e_squared_at_most() -> None:
    batch = drawn(0, [LONGEST] * 8)
    _, sharp = call(pooling("feedforward", scale=100.0), batch)
    _, unbounded = call(pooling("zhou", scale=100.0), batch)
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
pools_by_weight = pytest.mark.parametrize("kind", [kind for kind in sorted(MECHANISMS) if kind not in ("max", "last")])


def repeated() -> Batch:
    """One sentence, many times, for as many draws of what is dropped."""
    return Batch(*(np.repeat(part, DRAWS, axis=0) for part in drawn(1, [5], padding=0.0)))


@pools_by_weight
def test_dropout_of_weights_keeps_the_expectation(kind: str) -> None:
    batch, layer, plain = repeated(), pooling(kind, dropout=RATE), pooling(kind)
    wanted = call(plain, Batch(*(part[:1] for part in batch)))
    judged, trained = call(layer, batch, training=False), call(layer, batch, training=True)
    np.testing.assert_allclose(judged[0], np.repeat(wanted[0], DRAWS, axis=0), rtol=0, atol=1e-6)
    spread = trained[0].std(axis=0)
    assert spread.max() > 0.05
    assert (np.abs(trained[0].mean(axis=0) - wanted[0][0]) <= 5 * spread / DRAWS**0.5 + 1e-5).all()
    for _, weights in (judged, trained):
        np.testing.assert_allclose(weights, np.repeat(wanted[1], DRAWS, axis=0), rtol=0, atol=1e-6)


@every_kind
def test_rate_of_zero_adds_no_state_of_random_numbers(kind: str) -> None:
    plain = pooling(kind)
    assert len(plain.variables) == len(plain.trainable_variables)
    assert [each.name for each in pooling(kind, dropout=0.1).non_trainable_variables] == ["seed_generator_state"]


# What single mechanisms promise


def test_tokens_that_share_a_maximum_share_its_weight() -> None:
    states = np.array([[[1, 5], [3, 2], [3, 1], [9, 9]]], "float32")
    pooled, weights = MECHANISMS["max"]()(states, mask=np.array([[True, True, True, False]]))
    np.testing.assert_array_equal(pooled, [[3, 5]])
    np.testing.assert_allclose(weights, [[0.5, 0.25, 0.25, 0]], rtol=0, atol=1e-7)


def test_penalty_is_of_hops_that_read_the_same_words() -> None:
    """`||A A^T - I||_F^2` of two rows: I gives 0; both on one word give two off-diagonal ones."""
    layer = MECHANISMS["structured"](size=2, hops=2, penalty=0.5)
    layer.build((None, None, 2))
    states = np.eye(2, dtype="float32")[None]
    for second, expected in ((np.eye(2), 0.0), (np.array([[1.0, 1.0], [0.0, 0.0]]), 0.5 * 2)):
        layer.set_weights([1e2 * np.eye(2), 1e2 * second])
        layer(states)
        assert float(sum(layer.losses)) == pytest.approx(expected, abs=1e-6)


def test_query_of_an_absent_entity_is_zero() -> None:
    layer, batch = pooling("entity"), drawn(0, [6, 6])
    _, weights = call(layer, batch._replace(entities=np.zeros_like(batch.entities)))
    w, _, v = doubles(layer)
    wanted = [transcription.softmax(np.tanh(h @ w) @ v[:, 0]) for h in batch.states.astype("float64")]
    np.testing.assert_allclose(weights, wanted, rtol=0, atol=1e-5)
