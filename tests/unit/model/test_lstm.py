from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.unit.model import transcription

from bilstm_attention.model.lstm import Merge, bidirectional_lstm

UNITS, DIMENSION, LENGTHS = 4, 3, (6, 3, 1)
every_depth = pytest.mark.parametrize("layers", [1, 2])
every_merge = pytest.mark.parametrize("merge", ["sum", "concat"])


def network(**settings: Any) -> keras.Model:
    """States and mask in; states of the stack and last states of both directions out; weights drawn, biases too."""
    keras.utils.set_random_seed(3)
    states, mask = keras.Input((None, DIMENSION)), keras.Input((None,), dtype="bool")
    chosen = {"units": UNITS, "layers": 1, "merge": "concat", "dropout": 0.0, "l2": 0.0, **settings}
    stacked, (forward, backward) = bidirectional_lstm(states, mask, **chosen)
    model = keras.Model([states, mask], [stacked, forward, backward])
    draw = np.random.default_rng(0)
    for layer in bilstms(model):
        layer.set_weights([draw.normal(size=weight.shape) for weight in layer.get_weights()])
    return model


def bilstms(model: keras.Model) -> list[keras.layers.Bidirectional]:
    return [layer for layer in model.layers if isinstance(layer, keras.layers.Bidirectional)]


def padded_rows() -> tuple[NDArray[Any], NDArray[Any]]:
    """Rows of 6, 3 and 1 tokens; what stands in the padding is large, so that reading it would show."""
    mask = np.arange(max(LENGTHS)) < np.array(LENGTHS)[:, None]
    states = np.random.default_rng(1).normal(size=(*mask.shape, DIMENSION)).astype("float32")
    states[~mask] = 50.0
    return states, mask


@every_depth
@every_merge
def test_states_and_last_states_equal_the_float64_transcription_whatever_the_padding(merge: str, layers: int) -> None:
    """The last states are the forward one of the last real token and the backward one of the first."""
    model = network(merge=merge, layers=layers)
    states, mask = padded_rows()
    found, last_forward, last_backward = (output.numpy() for output in model([states, mask]))
    for row, length in enumerate(LENGTHS):
        wanted = states[row, :length].astype("float64")
        for layer in bilstms(model):
            weights = [weight.astype("float64") for weight in layer.get_weights()]
            forward, backward = transcription.bilstm(wanted, weights)
            wanted = forward + backward if merge == "sum" else np.concatenate([forward, backward], axis=1)
        np.testing.assert_allclose(found[row, :length], wanted, rtol=0, atol=1e-5)
        np.testing.assert_allclose(last_forward[row], forward[-1], rtol=0, atol=1e-5)
        np.testing.assert_allclose(last_backward[row], backward[0], rtol=0, atol=1e-5)


@every_depth
@every_merge
def test_full_rows_have_the_states_of_a_plain_keras_stack(merge: str, layers: int) -> None:
    model = network(merge=merge, layers=layers)
    inputs = stacked = keras.Input((None, DIMENSION))
    for ours in bilstms(model):
        plain = keras.layers.Bidirectional(keras.layers.LSTM(UNITS, return_sequences=True), merge_mode=merge)
        stacked = plain(stacked)
        plain.set_weights(ours.get_weights())
    states = np.random.default_rng(2).normal(size=(2, 5, DIMENSION)).astype("float32")
    wanted = keras.Model(inputs, stacked)(states)
    np.testing.assert_allclose(model([states, np.ones((2, 5), bool)])[0], wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("merge", "expected"), [("sum", [[11.0, 22.0]]), ("concat", [[1.0, 2.0, 10.0, 20.0]])])
def test_the_last_states_are_merged_as_the_states_are(merge: str, expected: list[list[float]]) -> None:
    layer = Merge(merge)
    directions = (np.array([[1.0, 2.0]], "float32"), np.array([[10.0, 20.0]], "float32"))
    np.testing.assert_array_equal(layer(directions), expected)
    np.testing.assert_array_equal(Merge.from_config(layer.get_config())(directions), expected)
    states, mask = padded_rows()
    found, forward, backward = (output.numpy() for output in network(merge=merge)([states, mask]))
    one_word = LENGTHS.index(1)
    np.testing.assert_allclose(layer((forward, backward))[one_word], found[one_word, 0], rtol=0, atol=1e-6)


def test_the_backward_direction_begins_at_the_last_real_token() -> None:
    model = network()
    states, mask = padded_rows()
    backward = model([states, mask])[0].numpy()[..., UNITS:]
    one_step = bilstms(model)[0].backward_layer
    for row, length in enumerate(LENGTHS):
        first = one_step(states[row : row + 1, length - 1 : length])[0].numpy()[0, 0]
        np.testing.assert_allclose(backward[row, length - 1], first, rtol=0, atol=1e-6)


def test_sum_adds_the_two_directions_that_concat_lays_side_by_side() -> None:
    states, mask = padded_rows()
    added, beside = (network(merge=merge)([states, mask])[0].numpy() for merge in ("sum", "concat"))
    assert added.shape == (3, 6, UNITS)
    assert beside.shape == (3, 6, 2 * UNITS)
    np.testing.assert_allclose(added, beside[..., :UNITS] + beside[..., UNITS:], rtol=0, atol=1e-6)


@pytest.mark.parametrize(("merge", "size"), [("sum", UNITS), ("concat", 2 * UNITS)])
def test_the_second_layer_reads_the_merged_states_of_the_first_after_dropout(merge: str, size: int) -> None:
    model = network(merge=merge, layers=2, dropout=0.25)
    first, second = bilstms(model)
    assert (first.name, second.name) == ("bilstm_1", "bilstm_2")
    assert second.forward_layer.cell.kernel.shape == (size, 4 * UNITS)
    for number, layer in enumerate((first, second), start=1):
        dropout = model.get_layer(f"lstm_dropout_{number}")
        assert dropout.input is layer.output[0]
        assert dropout.rate == 0.25
    assert second.input[0] is model.get_layer("lstm_dropout_1").output
    assert model.output[0] is model.get_layer("lstm_dropout_2").output


def test_decay_is_of_the_kernels_of_every_layer_and_direction_and_of_no_bias() -> None:
    model = network(layers=2, l2=0.1)
    kernels = [weight for weight in model.weights if weight.name in ("kernel", "recurrent_kernel")]
    assert len(kernels) == 8
    expected = 0.1 * sum(float((weight.numpy().astype("float64") ** 2).sum()) for weight in kernels)
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-6)
    assert network(layers=2, l2=0.0).losses == []
