"""The bidirectional LSTM: a stack of layers over padded states, blind to the padding."""

from typing import Any

import keras
from keras import ops


def bidirectional_lstm(
    states: Any, mask: Any, *, units: int, layers: int, merge: str, dropout: float, l2: float
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

    Returns:
        float tensor `(B, T, H)`, `H = 2U` for `concat`, `U` for `sum`, meaningless on padded steps; and the last real
        state of each direction of the uppermost layer, `(B, U)` each: the forward one of the last token, the backward
        one of the first.
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
        bidirectional = keras.layers.Bidirectional(lstm, merge_mode=merge, name=f"bilstm_{number}")
        states, forward, _, backward, _ = bidirectional(states, mask=mask)
        states = keras.layers.Dropout(dropout, name=f"lstm_dropout_{number}")(states)
    return states, (forward, backward)


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


def decay(l2: float) -> Any:
    """The L2 penalty `l2 * sum(w^2)`, or none."""
    return keras.regularizers.L2(l2) if l2 else None
