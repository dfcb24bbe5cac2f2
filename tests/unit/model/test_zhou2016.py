"""`zhou2016.yaml` against Zhou et al. 2016 (ACL P16-2034) transcribed in float64."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from tests.unit.model.transcription import bilstm, softmax

from bilstm_attention.config import Params, read_overrides, with_overrides
from bilstm_attention.model.classifier import attention_view, build_classifier

Array = NDArray[Any]
CONFIG = Path(__file__).parents[3] / "experiments/configs/zhou2016.yaml"
WORDS, LEARNED, DIMENSION, UNITS, CLASSES = 30, 20, 6, 5, 4


@pytest.fixture
def classifier():
    """The config's network at a small size, every weight drawn, biases and fixed rows too."""
    overrides = read_overrides(CONFIG) | {"model.lstm_units": UNITS}
    params = with_overrides(Params(), overrides, where=str(CONFIG))
    draw = np.random.default_rng(0)
    matrix = draw.normal(size=(WORDS, DIMENSION)).astype("float32")
    matrix[0] = 0
    model = build_classifier(params.model, matrix, LEARNED, CLASSES, seed=0)
    for name in ("bilstm_1", "attention", "probabilities"):
        layer = model.get_layer(name)
        layer.set_weights([draw.normal(size=weight.shape) for weight in layer.get_weights()])
    return model


def transcribed(model: keras.Model, sentence: Array) -> tuple[Array, Array]:
    """One unpadded sentence, int `(T,)`, to probabilities `(C,)` and attention weights `(T,)`."""
    doubles = {name: [weight.astype("float64") for weight in model.get_layer(name).get_weights()] for name in NAMES}
    words = np.concatenate(doubles["embedding"])[sentence]
    h = np.add(*bilstm(words, doubles["bilstm_1"]))  # equation 8
    (w,) = doubles["attention"]
    alpha = softmax(np.tanh(h) @ w[:, 0])  # equations 9 and 10
    r = alpha @ h  # equation 11
    h_star = np.tanh(r)  # equation 12
    kernel, bias = doubles["probabilities"]
    return softmax(h_star @ kernel + bias), alpha  # equation 13


NAMES = ("embedding", "bilstm_1", "attention", "probabilities")


def test_network_equals_the_paper_whatever_the_padding(classifier):
    lengths = (9, 5, 2, 1)
    tokens = np.random.default_rng(1).integers(1, WORDS, size=(len(lengths), max(lengths) + 2))
    tokens[np.arange(tokens.shape[1]) >= np.array(lengths)[:, None]] = 0
    probabilities, weights = attention_view(classifier).predict_on_batch(tokens)
    for row, length in enumerate(lengths):
        wanted_probabilities, wanted_weights = transcribed(classifier, tokens[row, :length])
        np.testing.assert_allclose(probabilities[row], wanted_probabilities, rtol=0, atol=1e-5)
        np.testing.assert_allclose(weights[row, :length], wanted_weights, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("before", "dropout", "after", "rate"),
    [
        ("embedding", "embedding_dropout", "bilstm_1", 0.3),
        ("bilstm_1", "lstm_dropout_1", "attention", 0.3),
        ("attention", "sentence_dropout", "probabilities", 0.5),
    ],
)
def test_dropout_stands_where_the_paper_has_it(classifier, before, dropout, after, rate):
    layer = classifier.get_layer(dropout)
    assert layer.input is tf.nest.flatten(classifier.get_layer(before).output)[0]
    assert layer.output is tf.nest.flatten(classifier.get_layer(after).input)[0]
    assert layer.rate == rate


def test_decay_is_of_all_weights_but_biases_and_fixed_words(classifier):
    decayed = ["kernel"] * 3 + ["recurrent_kernel"] * 2 + ["w", "learned"]
    weights = [weight for weight in classifier.weights if weight.name in decayed]
    assert sorted(weight.name for weight in weights) == sorted(decayed)
    assert {weight.name for weight in classifier.weights} - set(decayed) == {"bias", "fixed"}
    expected = 1e-5 * sum(float((weight.numpy().astype("float64") ** 2).sum()) for weight in weights)
    assert float(sum(classifier.losses)) == pytest.approx(expected, rel=1e-5)
