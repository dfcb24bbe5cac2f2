"""Each mechanism as a layer, against `transcription.py` and by its properties."""

from typing import Any, NamedTuple

import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from tests.unit.model import transcription

from bilstm_attention.config import ATTENTION_KINDS
from bilstm_attention.model.attention import MECHANISMS, AttentionPooling, arguments

Array = NDArray[Any]
SIZE, LONGEST = 5, 6
# Keras warns of rows of one token, which are legal here
pytestmark = pytest.mark.filterwarnings("ignore:You are using a softmax over axis")

SMALL = {"size": 3, "hops": 2, "penalty": 0.3, "heads": 2, "key_size": 3, "steps": 11}
every_kind = pytest.mark.parametrize("kind", sorted(MECHANISMS))
every_output = pytest.mark.parametrize(("tanh_output", "temperature"), [(False, 1.0), (True, 1.0), (True, 0.6)])


def pooling(kind: str, **options: Any) -> AttentionPooling:
    """A built layer with every weight drawn, biases too."""
    small = {name: value for name, value in SMALL.items() if name in arguments(MECHANISMS[kind])}
    layer = MECHANISMS[kind](**{**small, **options})
    layer.build((None, None, SIZE))
    draw = np.random.default_rng(0)
    for weight in layer.trainable_variables:
        weight.assign(draw.normal(size=weight.shape))
    return layer


class Batch(NamedTuple):
    """Inputs of a layer; values of the padding are large, so that reading them would show."""

    states: Array
    mask: Array
    last: Array
    entities: Array


def drawn(seed: int, lengths: list[int], padding: float = 50.0) -> Batch:
    draw, steps = np.random.default_rng(seed), LONGEST
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


def test_every_mechanism_has_a_transcription():
    assert {*transcription.SCORES, "max", "last"} == set(MECHANISMS) == set(ATTENTION_KINDS)


@every_output
@every_kind
def test_outputs_and_penalty_equal_the_transcription(kind, tanh_output, temperature):
    output = {"tanh_output": tanh_output, "temperature": temperature}
    layer, batch = pooling(kind, **output), drawn(1, [6, 3, 1, 2])
    pooled, weights, penalty = transcribed(kind, output, batch, doubles(layer))
    for value, wanted in zip(call(layer, batch), (pooled, weights), strict=True):
        np.testing.assert_allclose(value, wanted, rtol=0, atol=1e-5)
    assert float(sum(layer.losses, 0.0)) == pytest.approx(penalty, abs=1e-5)


@every_kind
def test_padding_gets_no_gradient(kind):
    batch = drawn(3, [4, 2], padding=2.0)
    states = tf.Variable(batch.states)
    with tf.GradientTape() as tape:
        pooled, _ = pooling(kind)(states, mask=batch.mask, last=batch.last, entities=batch.entities)
        total = tf.reduce_sum(pooled**2)
    gradient = tape.gradient(total, states, unconnected_gradients="zero").numpy()
    assert np.isfinite(gradient).all()
    assert (gradient[~batch.mask] == 0).all()
    assert (gradient[batch.mask] != 0).any() == (kind != "last")


@every_kind
def test_decay_is_of_every_weight_but_biases(kind):
    layer = pooling(kind, l2=0.25)
    decayed = [weight.numpy().astype("float64") for weight in layer.trainable_variables if weight.name != "b"]
    expected = 0.25 * sum((value**2).sum() for value in decayed)
    assert float(sum(layer.losses, 0.0)) == pytest.approx(expected, rel=1e-6)


DRAWS = 4000


@pytest.mark.parametrize("kind", [kind for kind in sorted(MECHANISMS) if kind not in ("max", "last")])
def test_dropout_of_weights_keeps_the_expectation(kind):
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


def test_tokens_that_share_a_maximum_share_its_weight():
    states = np.array([[[1, 5], [3, 2], [3, 1], [9, 9]]], "float32")
    pooled, weights = MECHANISMS["max"]()(states, mask=np.array([[True, True, True, False]]))
    np.testing.assert_array_equal(pooled, [[3, 5]])
    np.testing.assert_allclose(weights, [[0.5, 0.25, 0.25, 0]], rtol=0, atol=1e-7)
