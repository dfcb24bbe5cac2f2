"""The bidirectional LSTM: stacked layers that skip padding, computed by the fastest exact kernel.

Shapes: B batch, T time steps, D size of an input, U units, H state after merging (2U for `concat`, U for `sum`).
"""

from functools import cache
from typing import Any, Literal

import keras
import tensorflow as tf
from keras import ops

Kernel = Literal["auto", "keras"]

# Weight matrices of more numbers than this, (D + U) x 4U, take the gradient of `_gradient_by_steps`: TensorFlow's own
# adds to the gradient of all weights at every step, ours once. At 100,000 both are about as fast; ours takes 0.7 to 0.9
# of the time at 200 units and 50 dimensions, 0.5 to 0.7 at 200 and 300, but 1.1 at 100 and 50
# (experiments/results/speed.md).
LARGE = 100_000


def bidirectional_lstm(
    states: Any, mask: Any, *, units: int, layers: int, merge: str, dropout: float, l2: float, kernel: Kernel = "auto"
) -> tuple[Any, tuple[Any, Any]]:
    """Runs `layers` bidirectional LSTMs, each followed by dropout on its states.

    `h_t = [fwd_t ; bwd_t]` (`concat`) or `h_t = fwd_t + bwd_t` (`sum`; Zhou et al. 2016, equation 8). Each direction
    skips padded steps, so the backward one starts at the last real token.

    Args:
        states: float tensor `(B, T, D)`.
        mask: bool tensor `(B, T)`, True on real tokens.
        units: U, state size per direction.
        l2: weight decay of the input and recurrent kernels.

    Returns:
        states `(B, T, H)`, 0 on padded steps before dropout; and the last real state of each direction of the top
        layer, `(B, U)` each: forward at the last token, backward at the first.
    """
    for number in range(1, layers + 1):
        lstm = keras.layers.LSTM(
            units,
            return_sequences=True,
            return_state=True,
            kernel_regularizer=decay(l2),
            recurrent_regularizer=decay(l2),
            name=f"lstm_{number}",
        )
        bidirectional = Bidirectional(lstm, merge_mode=merge, kernel=kernel, name=f"bilstm_{number}")
        states, forward, _, backward, _ = bidirectional(states, mask=mask)
        states = keras.layers.Dropout(dropout, name=f"lstm_dropout_{number}")(states)
    return states, (forward, backward)


# The class has the name of Keras's, since files of weights name a layer by its class.
@keras.saving.register_keras_serializable("bilstm_attention")
class Bidirectional(keras.layers.Bidirectional):
    """`keras.layers.Bidirectional` of an LSTM with the same weights and outputs, computed by the fastest kernel.

    - `auto`: without a GPU TensorFlow's `BlockLSTMV2`, one operation for all steps of a direction, so that both
      directions run at the same time; else as `keras`.
    - `keras`: Keras's own path: cuDNN on a GPU, a loop of small operations on a CPU.

    Weights are the same for both; outputs and gradients agree to rounding.

    Args:
        layer: a `keras.layers.LSTM` with default gates and without inner dropout, which returns sequences and states.
        merge_mode: `concat` or `sum`.
        kernel: `auto` or `keras`.

    Call arguments:
        sequences: float tensor `(B, T, D)`.
        mask: bool tensor `(B, T)`, True on real tokens, which come first in every row.

    Returns:
        states `(B, T, H)`, 0 on padded steps, and the last h and c of either direction, `(B, U)` each.
    """

    def __init__(self, layer: Any, *, kernel: Kernel = "auto", **kwargs: Any):
        super().__init__(layer, **kwargs)
        self.kernel = kernel

    def call(self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool | None = None) -> Any:
        if self.kernel == "keras" or tf.config.list_logical_devices("GPU"):
            return super().call(sequences, initial_state=initial_state, mask=mask, training=training)
        inputs = tf.transpose(sequences, [1, 0, 2])  # the kernel's order: (T, B, D)
        steps, rows = tf.shape(inputs)[0], tf.shape(inputs)[1]
        lengths = tf.reduce_sum(tf.cast(mask, tf.int32), axis=1)
        # The kernel knows no mask. It need not: real tokens come first, so padding is read only after them; here the
        # states of padding are zeroed, and the backward direction gets the real tokens alone reversed.
        real = tf.sequence_mask(lengths, steps, sequences.dtype)[..., tf.newaxis]

        def reverse(states: tf.Tensor) -> tf.Tensor:
            return tf.reverse_sequence(states, lengths, seq_axis=0, batch_axis=1)

        def last(states: tf.Tensor) -> tf.Tensor:
            at_end = tf.gather_nd(states, tf.stack([tf.maximum(lengths - 1, 0), tf.range(rows)], axis=1))
            return at_end * tf.cast(lengths > 0, states.dtype)[:, tf.newaxis]

        forward, forward_cells = _fused_lstm(inputs, self.forward_layer.cell)
        backward, backward_cells = _fused_lstm(reverse(inputs), self.backward_layer.cell)
        directions = [tf.transpose(states, [1, 0, 2]) * real for states in (forward, reverse(backward))]
        ends = [last(states) for states in (forward, forward_cells, backward, backward_cells)]
        states = tf.concat(directions, axis=-1) if self.merge_mode == "concat" else tf.add_n(directions)
        return (states, *ends)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "kernel": self.kernel}


def _fused_lstm(states: tf.Tensor, cell: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """All steps of one direction: `(T, B, D) -> (T, B, U)`, h and c of every step."""
    # the kernel's gates are in the order of Keras's: i, f, c, o
    weights = tf.cast(tf.concat([cell.kernel, cell.recurrent_kernel], axis=0), states.dtype)
    lstm = _block_lstm(states.shape[2], cell.units, states.dtype, weights.shape.num_elements() > LARGE)
    h, c = lstm(states, weights, tf.cast(cell.bias, states.dtype))
    return h, c


@cache
def _block_lstm(width: int, units: int, dtype: tf.DType, large: bool) -> Any:
    """`BlockLSTMV2` with a gradient of its own: the registered one is wrong, with the gate order of version 1.

    A function traced once per size and kept. TensorFlow keeps every custom gradient, and the whole graph it was traced
    in, as long as the process lives: traced within the networks, every trial of a sweep would stay in memory.
    """

    @tf.custom_gradient
    def lstm(states: tf.Tensor, weights: tf.Tensor, bias: tf.Tensor) -> Any:
        zeros = tf.zeros([tf.shape(states)[1], units], dtype)
        peepholes = dict.fromkeys(("wci", "wcf", "wco"), tf.zeros([units], dtype))  # not used
        inputs = {"cs_prev": zeros, "h_prev": zeros, "w": weights, "b": bias, "use_peephole": False, **peepholes}
        steps = tf.cast(tf.shape(states)[0], tf.int64)
        outputs = tf.raw_ops.BlockLSTMV2(seq_len_max=steps, x=states, cell_clip=0.0, **inputs)

        def gradient(h_gradient: tf.Tensor, c_gradient: tf.Tensor) -> Any:
            if large:
                return _gradient_by_steps(states, inputs, outputs, h_gradient, c_gradient)
            gradients = tf.raw_ops.BlockLSTMGradV2(
                seq_len_max=steps, x=states, cs_grad=c_gradient, h_grad=h_gradient, **inputs, **outputs._asdict()
            )
            return gradients.x_grad, gradients.w_grad, gradients.b_grad

        return (outputs.h, outputs.cs), gradient

    shapes = ([None, None, width], [width + units, 4 * units], [4 * units])
    return tf.function(lstm, [tf.TensorSpec(shape, dtype) for shape in shapes], autograph=False)


def _gradient_by_steps(
    states: tf.Tensor, inputs: dict[str, Any], outputs: Any, h_gradient: tf.Tensor, c_gradient: tf.Tensor
) -> Any:
    """The gradient by `(states, weights, bias)` in a loop over steps.

    The loop carries back the gradients of h and c alone and collects those of the gates. The products with the weights
    of the input, and the gradient of all weights, are then one large product each instead of one small one per step.
    """
    zeros, weights, width = inputs["h_prev"], inputs["w"], states.shape[2]
    previous_c, previous_h = (tf.concat([zeros[tf.newaxis], values[:-1]], axis=0) for values in (outputs.cs, outputs.h))
    saved = {name: getattr(outputs, name) for name in ("i", "cs", "f", "o", "ci", "co")}
    # LSTMBlockCellGrad is of version 1: its gates are in the order i, c, f, o
    input_weights, state_weights = tf.split(_swap_gate_order(weights), [width, weights.shape[0] - width])
    state_weights = tf.transpose(state_weights)
    first = states[0]

    def step(t: tf.Tensor, later_h: tf.Tensor, later_c: tf.Tensor, gates: tf.TensorArray) -> tuple[Any, ...]:
        cell = tf.raw_ops.LSTMBlockCellGrad(
            x=first,  # only its shape is read
            cs_grad=c_gradient[t] + later_c,
            h_grad=h_gradient[t] + later_h,
            **{name: values[t] for name, values in saved.items()},
            **{**inputs, "cs_prev": previous_c[t]},
        )
        return t - 1, cell.dicfo @ state_weights, cell.cs_prev_grad, gates.write(t, cell.dicfo)

    steps = tf.shape(states)[0]
    gates = tf.TensorArray(states.dtype, size=steps, element_shape=[None, weights.shape[1]])
    start = (steps - 1, zeros, zeros, gates)
    *_, gates = tf.while_loop(lambda t, *_: t >= 0, step, start, parallel_iterations=1)
    gate_gradients = gates.concat()  # (T B, 4U)
    cell_inputs = tf.reshape(tf.concat([states, previous_h], axis=2), [-1, weights.shape[0]])
    weight_gradient = tf.matmul(cell_inputs, gate_gradients, transpose_a=True)
    bias_gradient = tf.reduce_sum(gate_gradients, axis=0)
    state_gradient = tf.reshape(tf.matmul(gate_gradients, input_weights, transpose_b=True), tf.shape(states))
    return state_gradient, _swap_gate_order(weight_gradient), _swap_gate_order(bias_gradient)


def _swap_gate_order(gates: tf.Tensor) -> tf.Tensor:
    """`i, f, c, o` to `i, c, f, o` along the last axis, and back."""
    first, second, third, fourth = tf.split(gates, 4, axis=-1)
    return tf.concat([first, third, second, fourth], axis=-1)


@keras.saving.register_keras_serializable("bilstm_attention")
class Merge(keras.layers.Layer):
    """Merges the last states of both directions as the LSTM merges its states: `concat` or `sum`."""

    def __init__(self, merge: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.merge = merge

    def call(self, directions: Any) -> Any:
        return ops.concatenate(directions, axis=-1) if self.merge == "concat" else ops.add(*directions)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "merge": self.merge}


@keras.saving.register_keras_serializable("bilstm_attention")
class Decay(keras.regularizers.Regularizer):
    """The penalty `l2 * sum(w^2)`; its gradient is one product, where that of `keras.regularizers.L2` is four."""

    def __init__(self, l2: float):
        self.l2 = l2

    def __call__(self, weight: Any) -> Any:
        return 2 * self.l2 * tf.nn.l2_loss(weight)

    def get_config(self) -> dict[str, Any]:
        return {"l2": self.l2}


def decay(l2: float) -> Decay | None:
    """The penalty `l2 * sum(w^2)`; None for 0."""
    return Decay(l2) if l2 else None
