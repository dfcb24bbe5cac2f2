"""The bidirectional LSTM: a stack of layers over padded states, blind to the padding, by the fastest exact kernel."""

from functools import cache
from typing import Any, Literal

import keras
import tensorflow as tf
from keras import ops

Kernel = Literal["auto", "fused", "keras"]

# Weights of more numbers than this, (D + U) x 4U, have the gradient of `_gradient_by_steps`: TensorFlow's own adds to
# that of all weights at every step, ours once. At 100,000 they are about as fast; ours takes 0.7 to 0.9 of the time at
# 200 units and 50 dimensions, 0.5 to 0.7 at 200 and 300, but 1.1 at 100 and 50 (experiments/results/speed.md).
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
        layers: how many are stacked.
        merge: `concat` or `sum`.
        dropout: rate on the states of every layer.
        l2: weight decay of the input and recurrent kernels.
        kernel: see `Bidirectional`.

    Returns:
        float tensor `(B, T, H)`, `H = 2U` for `concat`, `U` for `sum`, 0 on padded steps before dropout; and the last
        real state of each direction of the uppermost layer, `(B, U)` each: the forward one of the last token, the
        backward one of the first.
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


@keras.saving.register_keras_serializable("bilstm_attention")
class Bidirectional(keras.layers.Bidirectional):
    """`keras.layers.Bidirectional` of an LSTM, the same weights and outputs, computed by the kernel that is fastest.

    `fused` is TensorFlow's `BlockLSTMV2`, in which all steps of a direction are one operation, so that both directions
    run at the same time; `keras` is Keras's own path: cuDNN on a GPU, a loop of small operations on a CPU. `auto`
    takes `fused` for float32 where there is no GPU, and `keras` elsewhere. Weights of the one are weights of the other,
    and so are saved models; outputs and gradients agree to rounding.

    It has the name of Keras's, since files of weights name a layer by its class.

    The fused kernel computes what `keras.layers.LSTM` computes by default (tanh, sigmoid, with bias, no dropout inside,
    no initial state); any other layer goes through Keras.

    Args:
        layer: a `keras.layers.LSTM`.
        merge_mode: as Keras's.
        kernel: `auto`, `fused` or `keras`.

    Call arguments:
        sequences: float tensor `(B, T, D)`.
        mask: bool tensor `(B, T)`, True on the real tokens, which come first in every row; None: all are real.

    Returns:
        as Keras's: states `(B, T, H)`, 0 on padded steps, and with `return_state` the last h and c of either direction,
        `(B, U)` each.
    """

    def __init__(self, layer: Any, merge_mode: str | None = "concat", *, kernel: Kernel = "auto", **kwargs: Any):
        super().__init__(layer, merge_mode=merge_mode, **kwargs)
        if kernel not in ("auto", "fused", "keras"):
            raise ValueError(f"kernel must be auto, fused or keras. Received: {kernel!r}.")
        self.kernel = kernel

    def call(self, sequences: Any, initial_state: Any = None, mask: Any = None, training: bool | None = None) -> Any:
        """`(B, T, D) -> (B, T, H)`, and the last states where the layer returns them."""
        if not self._fusable(initial_state):
            return super().call(sequences, initial_state=initial_state, mask=mask, training=training)
        by_time = tf.transpose(sequences, [1, 0, 2])
        steps, rows = tf.shape(by_time)[0], tf.shape(by_time)[1]
        lengths = tf.fill([rows], steps) if mask is None else tf.reduce_sum(tf.cast(mask, tf.int32), axis=1)
        real = tf.sequence_mask(lengths, steps, sequences.dtype)[..., tf.newaxis]

        def reversed_rows(states: tf.Tensor) -> tf.Tensor:
            return tf.reverse_sequence(states, lengths, seq_axis=0, batch_axis=1)

        def last(states: tf.Tensor) -> tf.Tensor:
            at_end = tf.gather_nd(states, tf.stack([tf.maximum(lengths - 1, 0), tf.range(rows)], axis=1))
            return at_end * tf.cast(lengths > 0, states.dtype)[:, tf.newaxis]

        forward, forward_cells = _fused_lstm(by_time, self.forward_layer.cell)
        backward, backward_cells = _fused_lstm(reversed_rows(by_time), self.backward_layer.cell)
        ends = [last(states) for states in (forward, forward_cells, backward, backward_cells)]
        directions = [tf.transpose(states, [1, 0, 2]) * real for states in (forward, reversed_rows(backward))]
        merged = _MERGES[self.merge_mode](directions)
        if not self.return_sequences:
            merged = _MERGES[self.merge_mode]([ends[0], ends[2]])
        if not self.return_state:
            return merged
        return (*merged, *ends) if self.merge_mode is None else (merged, *ends)

    def get_config(self) -> dict[str, Any]:
        """The arguments that rebuild this layer."""
        return {**super().get_config(), "kernel": self.kernel}

    def _fusable(self, initial_state: Any) -> bool:
        if self.kernel == "keras" or initial_state is not None or self.stateful:
            return False
        if self.kernel == "auto" and (self.compute_dtype != "float32" or tf.config.list_logical_devices("GPU")):
            return False
        return all(map(_is_plain_lstm, (self.forward_layer, self.backward_layer)))


def _is_plain_lstm(layer: Any) -> bool:
    cell = layer.cell if isinstance(layer, keras.layers.LSTM) else None
    return (
        cell is not None
        and cell.activation is keras.activations.tanh
        and cell.recurrent_activation is keras.activations.sigmoid
        and cell.use_bias
        and not cell.dropout
        and not cell.recurrent_dropout
    )


_MERGES: dict[str | None, Any] = {
    "concat": lambda directions: tf.concat(directions, axis=-1),
    "sum": tf.add_n,
    "ave": lambda directions: tf.add_n(directions) / 2,
    "mul": lambda directions: directions[0] * directions[1],
    None: tuple,
}


def _fused_lstm(states: tf.Tensor, cell: Any) -> tuple[tf.Tensor, tf.Tensor]:
    """All steps of one direction: `(T, B, D) -> (T, B, U)`, h and c of every step."""
    # the gates of the kernel stand in the order of Keras's: i, f, c, o
    weights = tf.cast(tf.concat([cell.kernel, cell.recurrent_kernel], axis=0), states.dtype)
    lstm = _block_lstm(states.shape[2], cell.units, states.dtype, weights.shape.num_elements() > LARGE)
    h, c = lstm(states, weights, tf.cast(cell.bias, states.dtype))
    return h, c


@cache
def _block_lstm(width: int, units: int, dtype: tf.DType, large: bool) -> Any:
    """`BlockLSTMV2` with a gradient: the one TensorFlow registers for it has the gates in the order of version 1.

    A function of its own, traced once for each size: TensorFlow keeps a custom gradient, and the whole graph in which
    it was traced, for as long as the process lives. Traced in the networks, every trial of a sweep would stay behind.
    """

    @tf.custom_gradient
    def lstm(states: tf.Tensor, weights: tf.Tensor, bias: tf.Tensor) -> Any:
        none = tf.zeros([tf.shape(states)[1], units], dtype)
        peepholes = dict.fromkeys(("wci", "wcf", "wco"), tf.zeros([units], dtype))  # not used
        given = {"cs_prev": none, "h_prev": none, "w": weights, "b": bias, "use_peephole": False, **peepholes}
        steps = tf.shape(states)[0]
        block = tf.raw_ops.BlockLSTMV2(seq_len_max=tf.cast(steps, tf.int64), x=states, cell_clip=0.0, **given)

        def gradient(of_h: tf.Tensor, of_c: tf.Tensor) -> Any:
            if large:
                return _gradient_by_steps(states, given, block, of_h, of_c)
            found = tf.raw_ops.BlockLSTMGradV2(
                seq_len_max=tf.cast(steps, tf.int64), x=states, cs_grad=of_c, h_grad=of_h, **given, **block._asdict()
            )
            return found.x_grad, found.w_grad, found.b_grad

        return (block.h, block.cs), gradient

    shapes = ([None, None, width], [width + units, 4 * units], [4 * units])
    return tf.function(lstm, [tf.TensorSpec(shape, dtype) for shape in shapes], autograph=False)


def _gradient_by_steps(states: tf.Tensor, given: dict[str, Any], block: Any, of_h: tf.Tensor, of_c: tf.Tensor) -> Any:
    """The same gradient in a loop of our own: the products with the input are taken for all steps at once, after it."""
    none, weights, width = given["h_prev"], given["w"], states.shape[2]
    before_c, before_h = (tf.concat([none[tf.newaxis], values[:-1]], axis=0) for values in (block.cs, block.h))
    saved = {name: getattr(block, name) for name in ("i", "cs", "f", "o", "ci", "co")}
    # the step's gradient has the gates in the order i, c, f, o; the other order is its own inverse
    of_input, of_state = tf.split(_reordered(weights), [width, weights.shape[0] - width])
    back = tf.transpose(of_state)
    first = states[0]

    def step(t: tf.Tensor, later_h: tf.Tensor, later_c: tf.Tensor, gates: tf.TensorArray) -> tuple[Any, ...]:
        found = tf.raw_ops.LSTMBlockCellGrad(
            x=first,  # its shape alone is read
            cs_grad=of_c[t] + later_c,
            h_grad=of_h[t] + later_h,
            **{name: values[t] for name, values in saved.items()},
            **{**given, "cs_prev": before_c[t]},
        )
        return t - 1, found.dicfo @ back, found.cs_prev_grad, gates.write(t, found.dicfo)

    steps = tf.shape(states)[0]
    gates = tf.TensorArray(states.dtype, size=steps, element_shape=[None, weights.shape[1]])
    start = (steps - 1, none, none, gates)
    *_, gates = tf.while_loop(lambda t, *_: t >= 0, step, start, parallel_iterations=1)
    of_gates = gates.concat()
    read = tf.reshape(tf.concat([states, before_h], axis=2), [-1, weights.shape[0]])
    of_weights, of_bias = tf.matmul(read, of_gates, transpose_a=True), tf.reduce_sum(of_gates, axis=0)
    of_states = tf.reshape(tf.matmul(of_gates, of_input, transpose_b=True), tf.shape(states))
    return of_states, _reordered(of_weights), _reordered(of_bias)


def _reordered(gates: tf.Tensor) -> tf.Tensor:
    """`i, f, c, o` to `i, c, f, o` along the last axis, and back."""
    first, second, third, fourth = tf.split(gates, 4, axis=-1)
    return tf.concat([first, third, second, fourth], axis=-1)


@keras.saving.register_keras_serializable("bilstm_attention")
class Merge(keras.layers.Layer):
    """Merges the states of both directions, `(B, U)` each, as the LSTM merges its own: to `(B, H)`.

    Args:
        merge: `concat` or `sum`.
    """

    def __init__(self, merge: str, **kwargs: Any):
        super().__init__(**kwargs)
        self.merge = merge

    def call(self, directions: Any) -> Any:
        """`(B, U), (B, U) -> (B, H)`."""
        return ops.concatenate(directions, axis=-1) if self.merge == "concat" else ops.add(*directions)

    def get_config(self) -> dict[str, Any]:
        """The arguments that rebuild this layer."""
        return {**super().get_config(), "merge": self.merge}


@keras.saving.register_keras_serializable("bilstm_attention")
class Decay(keras.regularizers.Regularizer):
    """The penalty `l2 * sum(w^2)`, whose gradient is one product, where that of `keras.regularizers.L2` is four."""

    def __init__(self, l2: float):
        self.l2 = l2

    def __call__(self, weight: Any) -> Any:
        """The penalty of a weight, a scalar."""
        return 2 * self.l2 * tf.nn.l2_loss(weight)

    def get_config(self) -> dict[str, Any]:
        """The arguments that rebuild it."""
        return {"l2": self.l2}


def decay(l2: float) -> Any:
    """The L2 penalty `l2 * sum(w^2)`, or none."""
    return Decay(l2) if l2 else None
