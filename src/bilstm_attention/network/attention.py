"""The attention mechanisms: each one score function, all pooled by the same masked softmax.

Shape letters: B batch, T time steps, H size of a state.
"""

from typing import Any

import keras
from keras import ops

from bilstm_attention.errors import ParamsError, nearest
from bilstm_attention.network.recurrent import decay
from bilstm_attention.params import ATTENTION_KINDS

PACKAGE = "bilstm_attention"
# Far below any score, yet finite in float32: exp() of it is exactly 0, and its gradient is 0 rather than NaN.
MASKED = -1e30

MECHANISMS: dict[str, type[keras.layers.Layer]] = {}


def mechanism(kind: str) -> Any:
    """Registers a score layer, `(B, T, H) -> (B, T)`, as a `model.attention.kind`; it saves and loads like the rest."""

    def register(layer: type[keras.layers.Layer]) -> type[keras.layers.Layer]:
        ATTENTION_KINDS.add(kind)
        MECHANISMS[kind] = keras.saving.register_keras_serializable(PACKAGE, name=f"{kind}_score")(layer)
        return layer

    return register


class Score(keras.layers.Layer):
    """Base of the score layers: states `(B, T, H)` and their mask `(B, T)` to scores `(B, T)`.

    Args:
        l2: weight decay of the score's weights.
    """

    def __init__(self, l2: float = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.l2 = l2
        self.supports_masking = True

    def get_config(self) -> dict[str, Any]:
        """The arguments that rebuild this layer."""
        return {**super().get_config(), "l2": self.l2}


@mechanism("feedforward")
class FeedForwardScore(Score):
    """`e_t = tanh(w . h_t + b)`: `Dense(1, activation="tanh")` of the well-known Keras snippet.

    Feed-forward attention (Raffel and Ellis 2015, arXiv:1512.08756, equation 6 with a one-layer `a`). Scores lie in
    (-1, 1), so no token can weigh more than `e^2 = 7.39` times another, however sure the model is.
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes `w (H, 1)` and `b (1,)`."""
        size = input_shape[-1]
        self.w = self.add_weight(shape=(size, 1), initializer="glorot_uniform", regularizer=decay(self.l2), name="w")
        self.b = self.add_weight(shape=(1,), initializer="zeros", name="b")

    def call(self, states: Any, mask: Any = None) -> Any:
        """`(B, T, H) -> (B, T)`."""
        return ops.squeeze(ops.tanh(ops.matmul(states, self.w) + self.b), axis=-1)


@mechanism("zhou")
class ZhouScore(Score):
    """`e_t = w . tanh(h_t)` (Zhou et al. 2016, equations 9, 10: `M = tanh(H)`, `alpha = softmax(w^T M)`).

    The `tanh` stands inside the product, so scores are bounded by `|w|_1` alone, and the weights can be sharp.
    """

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Makes `w (H, 1)`."""
        size = input_shape[-1]
        self.w = self.add_weight(shape=(size, 1), initializer="glorot_uniform", regularizer=decay(self.l2), name="w")

    def call(self, states: Any, mask: Any = None) -> Any:
        """`(B, T, H) -> (B, T)`."""
        return ops.squeeze(ops.matmul(ops.tanh(states), self.w), axis=-1)


@mechanism("mean")
class MeanScore(Score):
    """`e_t = 0`: every real token weighs the same, which is mean pooling; the comparison without attention."""

    def call(self, states: Any, mask: Any = None) -> Any:
        """`(B, T, H) -> (B, T)`."""
        return ops.zeros_like(states[:, :, 0])


@keras.saving.register_keras_serializable(PACKAGE)
class AttentionPooling(keras.layers.Layer):
    """Pools a sequence of states into one vector by learned weights.

    1. scores: `e = score(H)`, `(B, T, H) -> (B, T)`, by the mechanism named in `kind`
    2. weights: `a = softmax(e)` over the real tokens alone; a padded step weighs exactly 0
    3. pooled: `r = sum_t a_t h_t`, `(B, H)` (Zhou et al. 2016, equation 11)
    4. with `tanh_output`, `h* = tanh(r)` (equation 12)

    Args:
        kind: mechanism, one of `MECHANISMS`; its equation and paper stand beside its score layer.
        tanh_output: whether step 4 is taken.
        l2: weight decay of the score's weights.

    Call arguments:
        states: float tensor `(B, T, H)`.
        mask: bool tensor `(B, T)`, True on real tokens; every row holds at least one True.

    Returns:
        pooled `(B, H)` and the weights `(B, T)`, float32, non-negative, each row summing to 1.

    Raises:
        ParamsError: unknown `kind`; the message lists the legal ones.
    """

    def __init__(self, kind: str, tanh_output: bool = False, l2: float = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        if kind not in MECHANISMS:
            raise ParamsError(
                f"model.attention.kind: {kind!r} is no attention mechanism{nearest(kind, MECHANISMS)}."
                f" Legal: {', '.join(MECHANISMS)}."
            )
        self.kind = kind
        self.tanh_output = tanh_output
        self.l2 = l2
        self.supports_masking = True
        self.score = MECHANISMS[kind](l2=l2, name="score", dtype=self.dtype_policy)

    def build(self, states_shape: tuple[int | None, ...]) -> None:
        """Builds the score layer for states of shape `(B, T, H)`."""
        self.score.build(states_shape)

    def call(self, states: Any, mask: Any = None) -> tuple[Any, Any]:
        """`(B, T, H), (B, T) -> (B, H), (B, T)`."""
        scores = ops.cast(self.score(states, mask=mask), "float32")
        if mask is not None:
            scores = ops.where(mask, scores, MASKED)
        weights = ops.softmax(scores, axis=-1)
        pooled = ops.einsum("bt,bth->bh", ops.cast(weights, states.dtype), states)
        if self.tanh_output:
            pooled = ops.tanh(pooled)
        return pooled, weights

    def compute_mask(self, states: Any, mask: Any = None) -> None:
        """Neither output has padded steps left to mask."""

    def get_config(self) -> dict[str, Any]:
        """The arguments that rebuild this layer."""
        return {**super().get_config(), "kind": self.kind, "tanh_output": self.tanh_output, "l2": self.l2}
