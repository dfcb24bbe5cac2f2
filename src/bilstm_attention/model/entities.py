"""Layers for the two marked entities of a relation sentence: their tokens, their mean states, distances to them.

Shapes: B batch, T time steps, H state.
"""

from typing import Any

import keras
from keras import ops

from bilstm_attention.model.lstm import decay

# Ids of <e1>, </e1>, <e2>, </e2> in every vocabulary (data/tokens.py, SPECIALS).
MARKER_IDS = ((2, 3), (4, 5))


@keras.saving.register_keras_serializable("bilstm_attention")
class EntityTokens(keras.layers.Layer):
    """Tokens `(B, T)` to bool `(B, 2, T)`, True on the words between the two markers of each entity."""

    def call(self, tokens: Any) -> Any:
        return ops.stack([self._between(tokens, *markers) for markers in MARKER_IDS], axis=1)

    def _between(self, tokens: Any, opening: int, closing: int) -> Any:
        opened, closed = (ops.cumsum(ops.cast(tokens == marker, "int32"), axis=1) for marker in (opening, closing))
        return (opened > closed) & (closed < closed[:, -1:]) & (tokens != opening)


def entity_states(states: Any, entities: Any) -> Any:
    """The mean state of each entity's words, side by side: `(B, T, H), (B, 2, T) -> (B, 2 H)`; 0 without words."""
    words = ops.cast(entities, states.dtype)
    sums = ops.matmul(words, states)
    means = sums / ops.maximum(ops.sum(words, axis=-1, keepdims=True), 1)
    return ops.reshape(means, (-1, 2 * states.shape[-1]))


@keras.saving.register_keras_serializable("bilstm_attention")
class EntityStates(keras.layers.Layer):
    """`entity_states` as a layer."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.supports_masking = True

    def compute_mask(self, states: Any, mask: Any = None) -> None:
        """None: the output has no time axis."""

    def call(self, states: Any, entities: Any) -> Any:
        return entity_states(states, entities)


@keras.saving.register_keras_serializable("bilstm_attention")
class RelativePositions(keras.layers.Layer):
    """A learned vector for each token's distance to either entity (position features, Zeng et al. 2014, C14-1220).

    The distance is 0 on the words of an entity, -1, -2, ... to their left and 1, 2, ... to their right; to an entity
    without words it is 0 everywhere.

    Args:
        size: length of a vector.
        limit: larger distances count as this.
        l2: weight decay of the vectors.

    Call arguments:
        entities: bool tensor `(B, 2, T)`, the words of each entity contiguous; the output is `(B, T, 2 size)`.
    """

    def __init__(self, size: int, limit: int, l2: float = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.size, self.limit, self.l2 = size, limit, l2

    def build(self, entities_shape: tuple[int | None, ...]) -> None:
        """Creates `vectors (2, 2 limit + 1, size)`, a table per entity."""
        shape = (2, 2 * self.limit + 1, self.size)
        self.vectors = self.add_weight(shape=shape, initializer="uniform", regularizer=decay(self.l2), name="vectors")

    def call(self, entities: Any) -> Any:
        inside = ops.cast(entities, "int32")
        # Example: inside 0 0 1 1 0. Steps right of the entity have none of its words from there on, so counting them
        # from the left gives the distance: 0 0 0 0 1. The mirror image gives the steps left of it: 2 1 0 0 0.
        right = ops.cumsum(ops.cast(_reversed_cumsum(inside) == 0, "int32"), axis=-1)
        left = _reversed_cumsum(ops.cast(ops.cumsum(inside, axis=-1) == 0, "int32"))
        exists = ops.cast(ops.any(entities, axis=-1, keepdims=True), "int32")
        rows = ops.clip((right - left) * exists, -self.limit, self.limit) + self.limit
        return ops.concatenate([ops.take(self.vectors[entity], rows[:, entity], axis=0) for entity in (0, 1)], axis=-1)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "size": self.size, "limit": self.limit, "l2": self.l2}


def _reversed_cumsum(counts: Any) -> Any:
    """Sums from each step to the last."""
    return ops.flip(ops.cumsum(ops.flip(counts, axis=-1), axis=-1), axis=-1)
