"""Each mechanism as a layer, against `transcription.py` and by its properties."""

from collections.abc import Callable
from typing import Any, NamedTuple

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
    assert {*transcription.SCORES, "max", "last"} == set(MECHANISMS) == set(ATTENTION_KINDS)


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


@every_kind
@few
@given(st.integers(0, 10_000), st.lists(st.integers(1, LONGEST), min_size=1, max_size=4), st.integers(1, 5))
def test_padding_weighs_nothing_and_changes_nothing(kind: str, seed: int, lengths: list[int], columns: int) -> None:
    layer, batch, steps = pooling(kind), drawn(seed, lengths), max(lengths)
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
def test_decay_is_of_every_weight_but_biases(kind: str) -> None:
    layer = pooling(kind, l2=0.25)
    decayed = [weight.numpy().astype("float64") for weight in layer.trainable_variables if weight.name != "b"]
    expected = 0.25 * sum((value**2).sum() for value in decayed)
    assert float(sum(layer.losses, 0.0)) == pytest.approx(expected, rel=1e-6)


DRAWS = 4000


@pytest.mark.parametrize("kind", [kind for kind in sorted(MECHANISMS) if kind not in ("max", "last")])
def test_dropout_of_weights_keeps_the_expectation(kind: str) -> None:
    sentence = drawn(1, [5], padding=0.0)
    batch = Batch(*(np.repeat(part, DRAWS, axis=0) for part in sentence))
    layer, wanted = pooling(kind, dropout=0.4), call(pooling(kind), sentence)
    predicted, trained = call(layer, batch, training=False), call(layer, batch, training=True)
    np.testing.assert_allclose(predicted[0], np.repeat(wanted[0], DRAWS, axis=0), rtol=0, atol=1e-6)
    spread = trained[0].std(axis=0)
    assert spread.max() > 0.05
    assert (np.abs(trained[0].mean(axis=0) - wanted[0][0]) <= 5 * spread / DRAWS**0.5 + 1e-5).all()
    for _, weights in (predicted, trained):
        np.testing.assert_allclose(weights, np.repeat(wanted[1], DRAWS, axis=0), rtol=0, atol=1e-6)


def test_tokens_that_share_a_maximum_share_its_weight() -> None:
    states = np.array([[[1, 5], [3, 2], [3, 1], [9, 9]]], "float32")
    pooled, weights = MECHANISMS["max"]()(states, mask=np.array([[True, True, True, False]]))
    np.testing.assert_array_equal(pooled, [[3, 5]])
    np.testing.assert_allclose(weights, [[0.5, 0.25, 0.25, 0]], rtol=0, atol=1e-7)
