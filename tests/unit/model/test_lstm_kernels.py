"""The bidirectional LSTM by every kernel: Keras's own is the reference."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from bilstm_attention.model import lstm as recurrent
from bilstm_attention.model.lstm import Bidirectional

# A length of 0 is a row of padding alone.
CASES = {
    "narrow": (5, 7, 3, 4, [7, 1, 4, 6, 3]),
    "wide": (4, 6, 9, 3, [6, 2, 5, 1]),
    "one step": (2, 1, 9, 3, [1, 1]),
    "a row of padding alone": (3, 4, 3, 4, [4, 0, 2]),
    "a row of padding alone, wide": (3, 4, 9, 4, [4, 0, 2]),
    "as large as trained": (6, 24, 300, 100, [24, 20, 11, 3, 24, 17]),
}


def layer(units: int, *, like: Any = None, **options: Any) -> Any:
    """The layer of a kernel, or Keras's own where none is given; with the weights of another."""
    kernel = options.pop("kernel", None)
    merge = options.pop("merge_mode", "concat")
    lstm = keras.layers.LSTM(units, return_sequences=True, return_state=True, **options)
    made = (
        Bidirectional(lstm, merge_mode=merge, kernel=kernel)
        if kernel
        else keras.layers.Bidirectional(lstm, merge_mode=merge)
    )
    if like is not None:
        made.build((None, None, like.forward_layer.cell.kernel.shape[0]))
        made.set_weights(like.get_weights())
    return made


def values_and_gradients(made: Any, states: np.ndarray, mask: np.ndarray | None) -> list[np.ndarray]:
    """All outputs; and the gradients of a sum that weighs every output otherwise, by input and by weights."""
    read = tf.Variable(states)
    with tf.GradientTape() as tape:
        outputs = tf.nest.flatten(made(read, mask=None if mask is None else tf.constant(mask)))
        scales = [np.random.default_rng(7).normal(size=output.shape).astype(np.float32) for output in outputs]
        total = tf.add_n([tf.reduce_sum(output * scale) for output, scale in zip(outputs, scales, strict=True)])
    found = tape.gradient(total, [read, *(variable.value for variable in made.trainable_variables)])
    return [np.asarray(value) for value in (*outputs, *found)]


def drawn(case: str) -> tuple[np.ndarray, np.ndarray, int]:
    rows, steps, width, units, lengths = CASES[case]
    draw = np.random.default_rng(0)
    return (
        draw.normal(size=(rows, steps, width)).astype(np.float32),
        np.arange(steps) < np.array(lengths)[:, None],
        units,
    )


@pytest.mark.parametrize("large", [0, 1 << 30], ids=["as large", "as small"])
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("merge", ["concat", "sum", "ave", "mul", None])
@pytest.mark.parametrize("case", CASES)
def test_the_fused_kernel_gives_what_keras_gives(
    case: str, merge: str | None, masked: bool, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # small and large weights have gradients of their own, each right for all
    monkeypatch.setattr(recurrent, "LARGE", large)
    states, mask, units = drawn(case)
    reference = layer(units, merge_mode=merge, bias_initializer="random_normal")
    wanted = values_and_gradients(reference, states, mask if masked else None)
    made = layer(units, like=reference, kernel="fused", merge_mode=merge)
    found = values_and_gradients(made, states, mask if masked else None)
    assert len(found) == len(wanted)
    for value, expected in zip(found, wanted, strict=True):
        np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-5 * max(1.0, np.abs(expected).max()))


def built(kernel: str, **options: Any) -> Bidirectional:
    lstm = keras.layers.LSTM(4, return_sequences=True, return_state=True, **options)
    made = Bidirectional(lstm, merge_mode="sum", kernel=kernel, name="bilstm")
    made.build((None, None, 3))
    return made


def operations(made: Bidirectional, dtype: str = "float32") -> set[str]:
    """The kinds of operation in the layer's graph."""
    return operations_of(made, tf.TensorSpec([2, 5, 3], dtype))


def operations_of(function: Any, signature: tf.TensorSpec) -> set[str]:
    """Names of the operations of a function's graph, and of the functions that it calls."""
    definition = tf.function(lambda states: function(states)).get_concrete_function(signature).graph.as_graph_def()
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    return {node.op for node in nodes}


def test_on_a_cpu_auto_is_the_fused_kernel() -> None:
    assert "BlockLSTMV2" in operations(built("auto"))
    assert "BlockLSTMV2" not in operations(built("keras"))


@pytest.mark.parametrize("large", [False, True])
def test_large_weights_have_a_gradient_of_their_own(large: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # (3 + 4) x 16 weights
    monkeypatch.setattr(recurrent, "LARGE", 111 if large else 112)
    made = built("fused")

    def gradient(states: tf.Tensor) -> Any:
        with tf.GradientTape() as tape:
            total = tf.add_n([tf.reduce_sum(output) for output in made(states)])
        return tape.gradient(total, [variable.value for variable in made.trainable_variables])

    assert ("BlockLSTMGradV2" in operations_of(gradient, tf.TensorSpec([2, 5, 3]))) is not large


@pytest.mark.parametrize(
    "options",
    [
        {"activation": "relu"},
        {"recurrent_activation": "hard_sigmoid"},
        {"use_bias": False},
        {"dropout": 0.5},
        {"recurrent_dropout": 0.5},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_the_fused_kernel_does_not_compute_goes_through_keras(options: dict[str, Any]) -> None:
    assert "BlockLSTMV2" not in operations(built("fused", **options))


def test_half_precision_goes_through_keras() -> None:
    lstm = keras.layers.LSTM(4, return_sequences=True, return_state=True, dtype="mixed_float16")
    made = Bidirectional(lstm, merge_mode="sum", dtype="mixed_float16")
    assert "BlockLSTMV2" not in operations(made, "float16")


def test_a_kernel_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match="auto, fused or keras"):
        built("cudnn")


@pytest.mark.parametrize("saved_by", ["fused", "keras", "plain Keras"])
def test_weights_saved_by_one_kernel_are_read_by_every_other(saved_by: str, tmp_path: Path) -> None:
    states, mask, _ = drawn("narrow")

    def model(kernel: str) -> keras.Model:
        lstm = keras.layers.LSTM(4, return_sequences=True, return_state=True, bias_initializer="random_normal")
        made: Any = (
            keras.layers.Bidirectional(lstm, merge_mode="sum", name="bilstm")
            if kernel == "plain Keras"
            else Bidirectional(lstm, merge_mode="sum", kernel=kernel, name="bilstm")
        )
        read, real = keras.Input((None, 3)), keras.Input((None,), dtype="bool")
        return keras.Model([read, real], made(read, mask=real)[0])

    first = model(saved_by)
    wanted = np.asarray(first([states, mask]))
    first.save_weights(tmp_path / "lstm.weights.h5")
    for kernel in ("fused", "keras", "plain Keras"):
        other = model(kernel)
        other.load_weights(tmp_path / "lstm.weights.h5")
        np.testing.assert_allclose(np.asarray(other([states, mask])), wanted, atol=1e-6)
    first.save(tmp_path / "lstm.keras")
    loaded = keras.saving.load_model(tmp_path / "lstm.keras")
    np.testing.assert_allclose(np.asarray(loaded([states, mask])), wanted, atol=1e-6)
    if saved_by != "plain Keras":
        assert loaded.get_layer("bilstm").kernel == saved_by


def test_the_digits_are_the_same_in_every_call() -> None:
    states, mask, units = drawn("as large as trained")
    made = layer(units, kernel="fused")
    first, second = (values_and_gradients(made, states, mask) for _ in range(2))
    assert all(np.array_equal(one, other) for one, other in zip(first, second, strict=True))


def test_padding_has_no_influence() -> None:
    states, mask, units = drawn("narrow")
    made = layer(units, kernel="fused")
    wider = np.concatenate([states, np.full_like(states, 1e3)], axis=1)
    wider[:, : states.shape[1]][~mask] = -1e3
    found = made(tf.constant(wider), mask=tf.constant(np.concatenate([mask, np.zeros_like(mask)], axis=1)))
    wanted = made(tf.constant(states), mask=tf.constant(mask))
    np.testing.assert_array_equal(found[0][:, : states.shape[1]], wanted[0])
    assert not np.asarray(found[0])[:, states.shape[1] :].any()
    for one, other in zip(found[1:], wanted[1:], strict=True):
        np.testing.assert_array_equal(one, other)
