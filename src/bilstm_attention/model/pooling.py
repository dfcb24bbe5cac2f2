"""What every attention mechanism shares: scores to weights to one vector, and the registry.

Shape letters: B batch, T time steps, H size of a state, K distributions per sentence (hops, heads, features).
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

from bilstm_attention.config import ATTENTION_KINDS
from bilstm_attention.model.lstm import decay

PACKAGE = "bilstm_attention"
# Far below any score, yet finite in float32: exp() of it is exactly 0, and its gradient is 0 rather than NaN.
MASKED = -1e30


class Context(NamedTuple):
    """What a mechanism may look at beside the states.

    Args:
        mask: bool `(B, T)`, True on real tokens.
        last: `(B, H)`, the last real state of each direction, merged as the states are: the forward one of the last
            token, the backward one of the first; for mechanisms that name it in `needs`.
        entities: bool `(B, 2, T)`, True on the words of each entity; for mechanisms that name it in `needs`.
    """

    mask: Any
    last: Any = None
    entities: Any = None


class AttentionPooling(keras.layers.Layer):
    """Pools a sequence of states into one vector by learned weights; `score` is what a mechanism defines.

    1. scores: `e = score(H) / temperature`, `(B, T, H) -> (B, T)`, or `(B, K, T)` for several distributions
    2. weights: `a = softmax(e)` over the real tokens alone; a padded step weighs exactly 0
    3. pooled: `r = sum_t a_t h_t`, `(B, H)`, or `(B, K H)`: the sums of all distributions, one after the other
    4. with `tanh_output`, `h* = tanh(r)` (Zhou et al. 2016, equation 12)

    Args:
        tanh_output: whether step 4 is taken.
        temperature: above 1 flattens the weights, below 1 sharpens them.
        dropout: rate at which weights are dropped in training, the rest scaled up (Vaswani et al. 2017).
        l2: weight decay of the score's weights, biases left out.

    Call arguments:
        states: float tensor `(B, T, H)`.
        mask, last, entities: see `Context`; without a mask every step is real. Every row holds at least one real token.

    Returns:
        pooled `(B, H)` or `(B, K H)`; and the weights, float32 `(B, T)` or `(B, K, T)`, non-negative, the last axis
        summing to 1.
    """

    needs: frozenset[str] = frozenset()
    axis = ""  # what K counts, where a mechanism has several distributions

    def __init__(
        self, tanh_output: bool = False, temperature: float = 1.0, dropout: float = 0.0, l2: float = 0.0, **kwargs: Any
    ):
        super().__init__(**kwargs)
        self.tanh_output, self.temperature, self.dropout, self.l2 = tanh_output, temperature, dropout, l2
        self.supports_masking = True
        if dropout:
            self.dropping = keras.layers.Dropout(dropout, name="dropping", dtype="float32")

    def score(self, states: Any, context: Context) -> Any:
        """Scores `(B, T)` or `(B, K, T)` of states `(B, T, H)`; padded steps may hold anything finite."""
        raise NotImplementedError

    def weigh(self, states: Any, context: Context) -> Any:
        """Weights, float32 `(B, T)` or `(B, K, T)`."""
        return masked_softmax(ops.cast(self.score(states, context), "float32") / self.temperature, context.mask)

    def pool(self, states: Any, weights: Any, context: Context) -> Any:
        """The weighted sums, `(B, H)` or `(B, K H)`."""
        weights = ops.cast(weights, states.dtype)
        if len(weights.shape) == 2:
            return ops.einsum("bt,bth->bh", weights, states)
        hops, size = weights.shape[1], states.shape[2]
        return ops.reshape(ops.matmul(weights, states), (-1, hops * size))

    def call(
        self, states: Any, mask: Any = None, last: Any = None, entities: Any = None, training: Any = None
    ) -> tuple[Any, Any]:
        """`(B, T, H) -> (B, H), (B, T)`, or `(B, K H), (B, K, T)`."""
        context = Context(ops.ones(ops.shape(states)[:2], "bool") if mask is None else mask, last, entities)
        weights = self.weigh(states, context)
        kept = self.dropping(weights, training=training) if self.dropout else weights
        pooled = self.pool(states, kept, context)
        return (ops.tanh(pooled) if self.tanh_output else pooled), weights

    def learned(self, name: str, *shape: int | None) -> Any:
        """A weight of the score, drawn as Keras draws kernels, with decay."""
        return self.add_weight(shape=shape, initializer="glorot_uniform", regularizer=decay(self.l2), name=name)

    def bias(self, name: str, *shape: int | None) -> Any:
        """A weight that starts at zero and does not decay."""
        return self.add_weight(shape=shape, initializer="zeros", name=name)

    def compute_mask(self, states: Any, mask: Any = None) -> None:
        """Neither output has padded steps left to mask."""

    def get_config(self) -> dict[str, Any]:
        """The arguments that rebuild this layer, those of its mechanism too."""
        return {**super().get_config(), **{name: getattr(self, name) for name in arguments(type(self))}}


def masked_softmax(scores: Any, mask: Any) -> Any:
    """Softmax of scores `(B, T)` or `(B, K, T)` over the steps where mask `(B, T)` is True; 0 at the others."""
    mask = mask if len(scores.shape) == 2 else ops.expand_dims(mask, 1)
    return ops.softmax(ops.where(mask, scores, MASKED), axis=-1)


MECHANISMS: dict[str, type[AttentionPooling]] = {}


def mechanism(kind: str) -> Callable[[type[AttentionPooling]], type[AttentionPooling]]:
    """Registers a layer as a `model.attention.kind`, to be searched, saved and loaded like the rest.

    The command line knows those that stand in `attention.py`; others are known to the process that registers them. Its
    `__init__` may take any parameter of `model.attention` by name, and then keeps it in an attribute of that name.
    """

    def register(layer: type[AttentionPooling]) -> type[AttentionPooling]:
        ATTENTION_KINDS.add(kind)
        MECHANISMS[kind] = keras.saving.register_keras_serializable(PACKAGE, name=f"{kind}_attention")(layer)
        return MECHANISMS[kind]

    return register


def arguments(layer: type[AttentionPooling]) -> list[str]:
    """Names that the constructors of a mechanism take, from its own up to that of `AttentionPooling`."""
    classes = [part for part in layer.__mro__ if issubclass(part, AttentionPooling) and "__init__" in vars(part)]
    parameters = [each for part in classes for each in inspect.signature(vars(part)["__init__"]).parameters.values()]
    return list(dict.fromkeys(p.name for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD))
