"""The bidirectional LSTM against a float64 transcription, and each kernel against Keras's own."""

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from numpy.typing import NDArray
from tests.unit.model import transcription

from bilstm_attention.model import lstm as lstm_module
from bilstm_attention.model.lstm import Bidirectional, Merge, bidirectional_lstm

UNITS, DIMENSION, LENGTHS = 4, 3, (6, 3, 1)
every_depth = pytest.mark.parametrize("layers", [1, 2])
every_merge = pytest.mark.parametrize("merge", ["sum", "concat"])


def network(**settings: Any) -> keras.Model:
    """States and mask to the states of the stack and both last states; every weight drawn, biases too."""
    keras.utils.set_random_seed(3)
    states, mask = keras.Input((None, DIMENSION)), keras.Input((None,), dtype="bool")
    settings = {"units": UNITS, "layers": 1, "merge": "concat", "dropout": 0.0, "l2": 0.0, **settings}
    stacked, (forward, backward) = bidirectional_lstm(states, mask, **settings)
    model = keras.Model([states, mask], [stacked, forward, backward])
    draw = np.random.default_rng(0)
    for layer in bilstms(model):
        layer.set_weights([draw.normal(size=weight.shape) for weight in layer.get_weights()])
    return model


def bilstms(model: keras.Model) -> list[keras.layers.Bidirectional]:
    return [layer for layer in model.layers if isinstance(layer, keras.layers.Bidirectional)]


def padded_rows() -> tuple[NDArray[Any], NDArray[Any]]:
    """Rows of 6, 3 and 1 tokens; values of the padding are large, so that reading them would show."""
    mask = np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]
    states = np.random.default_rng(1).normal(size=(*mask.shape, DIMENSION)).astype("float32")
    states[~mask] = 50.0
    return states, mask


@every_depth
@every_merge
def test_states_equal_the_transcription_whatever_the_padding(merge, layers):
    """The last states are the forward one of the last real token and the backward one of the first."""
    model = network(merge=merge, layers=layers)
    states, mask = padded_rows()
    stacked, last_forward, last_backward = (output.numpy() for output in model([states, mask]))
    for row, length in enumerate(LENGTHS):
        wanted = states[row, :length].astype("float64")
        for layer in bilstms(model):
            weights = [weight.astype("float64") for weight in layer.get_weights()]
            forward, backward = transcription.bilstm(wanted, weights)
            wanted = forward + backward if merge == "sum" else np.concatenate([forward, backward], axis=1)
        np.testing.assert_allclose(stacked[row, :length], wanted, rtol=0, atol=1e-5)
        np.testing.assert_allclose(last_forward[row], forward[-1], rtol=0, atol=1e-5)
        np.testing.assert_allclose(last_backward[row], backward[0], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("merge", "expected"), [("sum", [[11.0, 22.0]]), ("concat", [[1.0, 2.0, 10.0, 20.0]])])
def test_last_states_are_merged_as_states_are(merge, expected):
    layer = Merge(merge)
    directions = (np.array([[1.0, 2.0]], "float32"), np.array([[10.0, 20.0]], "float32"))
    np.testing.assert_array_equal(layer(directions), expected)
    np.testing.assert_array_equal(Merge.from_config(layer.get_config())(directions), expected)


@every_merge
def test_second_layer_reads_the_first_after_dropout(merge):
    model = network(merge=merge, layers=2, dropout=0.25)
    first, second = bilstms(model)
    assert second.forward_layer.cell.kernel.shape == ((UNITS if merge == "sum" else 2 * UNITS), 4 * UNITS)
    for number, layer in enumerate((first, second), start=1):
        dropout = model.get_layer(f"lstm_dropout_{number}")
        assert (dropout.input, dropout.rate) == (layer.output[0], 0.25)
    assert second.input[0] is model.get_layer("lstm_dropout_1").output
    assert model.output[0] is model.get_layer("lstm_dropout_2").output


# Kernels

CASES = {
    "narrow": (5, 7, 3, 4, [7, 1, 4, 6, 3]),
    "wide": (4, 6, 9, 3, [6, 2, 5, 1]),
    "one step": (2, 1, 9, 3, [1, 1]),
    "padding alone": (3, 4, 9, 4, [4, 0, 2]),
    "as in training": (6, 24, 300, 100, [24, 20, 11, 3, 24, 17]),
}


def drawn(case: str) -> tuple[NDArray[Any], NDArray[Any], int]:
    rows, steps, width, units, lengths = CASES[case]
    states = np.random.default_rng(0).normal(size=(rows, steps, width)).astype(np.float32)
    return states, np.arange(steps) < np.array(lengths)[:, None], units


def layer(kernel: str | None = None, units: int = UNITS, merge: str | None = "sum", **options: Any) -> Any:
    """Our layer, or Keras's own without a kernel."""
    lstm = keras.layers.LSTM(units, return_sequences=True, return_state=True, **options)
    common: dict[str, Any] = {"merge_mode": merge, "name": "bilstm"}
    return Bidirectional(lstm, kernel=kernel, **common) if kernel else keras.layers.Bidirectional(lstm, **common)


def values_and_gradients(bilstm: Any, states: NDArray[Any], mask: NDArray[Any]) -> list[NDArray[Any]]:
    """All outputs; and the gradients of a weighted sum of the outputs by input and weights."""
    source = tf.Variable(states)
    with tf.GradientTape() as tape:
        outputs = tf.nest.flatten(bilstm(source, mask=tf.constant(mask)))
        scales = [np.random.default_rng(7).normal(size=output.shape).astype(np.float32) for output in outputs]
        total = tf.add_n([tf.reduce_sum(output * scale) for output, scale in zip(outputs, scales, strict=True)])
    gradients = tape.gradient(total, [source, *(variable.value for variable in bilstm.trainable_variables)])
    return [np.asarray(value) for value in (*outputs, *gradients)]


ALL_REAL = np.ones((2, 5), bool)


def operations(function: Any) -> set[str]:
    """Names of the operations in a function's graph."""
    signature = tf.TensorSpec([2, 5, DIMENSION], tf.float32)
    graph = tf.function(function).get_concrete_function(signature).graph.as_graph_def()
    return {node.op for node in [*graph.node, *(each for part in graph.library.function for each in part.node_def)]}


@pytest.mark.parametrize("large", [0, 1 << 30], ids=["as large", "as small"])
@every_merge
@pytest.mark.parametrize("case", CASES)
def test_fused_kernel_and_its_gradients_equal_those_of_keras(case, merge, large, monkeypatch):
    monkeypatch.setattr(lstm_module, "LARGE", large)  # each of both gradients is right for weights of any size
    states, mask, units = drawn(case)
    reference, fused = (layer(kernel, units, merge, bias_initializer="random_normal") for kernel in (None, "auto"))
    wanted = values_and_gradients(reference, states, mask)
    fused.build((None, None, states.shape[2]))
    fused.set_weights(reference.get_weights())
    for value, expected in zip(values_and_gradients(fused, states, mask), wanted, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5 * max(1.0, np.abs(expected).max()))


@pytest.mark.parametrize("large", [False, True])
def test_large_weights_take_the_gradient_by_steps(large, monkeypatch):
    monkeypatch.setattr(lstm_module, "LARGE", 111 if large else 112)  # (3 + 4) x 16 weights
    bilstm = layer("auto")
    bilstm.build((None, None, DIMENSION))

    def gradient(states):
        with tf.GradientTape() as tape:
            total = tf.add_n([tf.reduce_sum(output) for output in bilstm(states, mask=ALL_REAL)])
        return tape.gradient(total, [variable.value for variable in bilstm.trainable_variables])

    assert ("BlockLSTMGradV2" in operations(gradient)) is not large


@pytest.mark.parametrize(("kernel", "fused"), [("auto", True), ("keras", False)])
def test_fused_kernel_is_the_default_on_a_cpu(kernel, fused):
    bilstm = layer(kernel)
    assert ("BlockLSTMV2" in operations(lambda states: bilstm(states, mask=ALL_REAL))) is fused


@pytest.mark.parametrize("saved_by", ["auto", "keras", None])
def test_weights_of_one_kernel_fit_every_other(saved_by, tmp_path):
    states, mask, _ = drawn("narrow")

    def model(kernel):
        inputs, real = keras.Input((None, DIMENSION)), keras.Input((None,), dtype="bool")
        return keras.Model([inputs, real], layer(kernel, bias_initializer="random_normal")(inputs, mask=real)[0])

    first = model(saved_by)
    wanted = np.asarray(first([states, mask]))
    first.save_weights(tmp_path / "lstm.weights.h5")
    for kernel in ("auto", "keras", None):
        other = model(kernel)
        other.load_weights(tmp_path / "lstm.weights.h5")
        np.testing.assert_allclose(np.asarray(other([states, mask])), wanted, atol=1e-6)
