from typing import Any

import keras
import numpy as np
import pytest
from numpy.typing import NDArray

from bilstm_attention.network.recurrent import bidirectional_lstm

UNITS, DIMENSION, LENGTHS = 4, 3, (6, 3, 1)


def network(**settings: Any) -> keras.Model:
    """States and mask in, states of the stack out, weights drawn from one seed, biases too."""
    keras.utils.set_random_seed(3)
    states, mask = keras.Input((None, DIMENSION)), keras.Input((None,), dtype="bool")
    chosen = {"units": UNITS, "layers": 1, "merge": "concat", "dropout": 0.0, "l2": 0.0, **settings}
    model = keras.Model([states, mask], bidirectional_lstm(states, mask, **chosen))
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


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("merge", ["sum", "concat"])
def test_padded_rows_have_the_states_of_the_same_rows_run_alone(merge: str, layers: int) -> None:
    model = network(merge=merge, layers=layers)
    states, mask = padded_rows()
    together = model([states, mask]).numpy()
    for row, length in enumerate(LENGTHS):
        alone = model([states[row : row + 1, :length], mask[row : row + 1, :length]]).numpy()[0]
        np.testing.assert_allclose(together[row, :length], alone, rtol=0, atol=1e-6)


def test_the_backward_direction_begins_at_the_last_real_token() -> None:
    model = network()
    states, mask = padded_rows()
    backward = model([states, mask]).numpy()[..., UNITS:]
    one_step = bilstms(model)[0].backward_layer
    for row, length in enumerate(LENGTHS):
        first = one_step(states[row : row + 1, length - 1 : length]).numpy()[0, 0]
        np.testing.assert_allclose(backward[row, length - 1], first, rtol=0, atol=1e-6)


def test_sum_adds_the_two_directions_that_concat_lays_side_by_side() -> None:
    states, mask = padded_rows()
    summed, concatenated = network(merge="sum"), network(merge="concat")
    added, beside = summed([states, mask]).numpy(), concatenated([states, mask]).numpy()
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
        assert dropout.input is layer.output
        assert dropout.rate == 0.25
    assert second.input[0] is model.get_layer("lstm_dropout_1").output
    assert model.output is model.get_layer("lstm_dropout_2").output


def test_decay_is_of_the_kernels_of_every_layer_and_direction_and_of_no_bias() -> None:
    model = network(layers=2, l2=0.1)
    kernels = [weight for weight in model.weights if weight.name in ("kernel", "recurrent_kernel")]
    assert len(kernels) == 8
    expected = 0.1 * sum(float((weight.numpy().astype("float64") ** 2).sum()) for weight in kernels)
    assert float(sum(model.losses)) == pytest.approx(expected, rel=1e-6)
    assert network(layers=2, l2=0.0).losses == []
