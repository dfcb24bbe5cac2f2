"""The two entities of a relation sentence, found by their markers: where they stand, and what their states say."""

from typing import Any

import keras
from keras import ops

from bilstm_attention.model.lstm import decay

# Ids of <e1>, </e1>, <e2>, </e2> in every vocabulary (data/tokens.py, SPECIALS).
MARKER_IDS = ((2, 3), (4, 5))


@keras.saving.register_keras_serializable("bilstm_attention")
class EntityTokens(keras.layers.Layer):
    """The words of each entity: tokens, int `(B, T)`, to bool `(B, 2, T)`, True between its two markers.

    An entity that lacks either marker has no words.
    """

    def call(self, tokens: Any) -> Any:
        """`(B, T) -> (B, 2, T)`."""
        return ops.stack([self._between(tokens, *markers) for markers in MARKER_IDS], axis=1)

    def _between(self, tokens: Any, opening: int, closing: int) -> Any:
        opened, closed = (ops.cumsum(ops.cast(tokens == marker, "int32"), axis=1) for marker in (opening, closing))
        return (opened > closed) & (closed < closed[:, -1:]) & (tokens != opening)


def entity_states(states: Any, entities: Any) -> Any:
    """The mean state of the words of each entity, one after the other; zero for an entity that is not there.

    Args:
        states: float tensor `(B, T, H)`; word vectors will do.
        entities: bool `(B, 2, T)`.

    Returns:
        `(B, 2 H)`.
    """
    words = ops.cast(entities, states.dtype)
    sums = ops.matmul(words, states)
    means = sums / ops.maximum(ops.sum(words, axis=-1, keepdims=True), 1)
    return ops.reshape(means, (-1, 2 * states.shape[-1]))


@keras.saving.register_keras_serializable("bilstm_attention")
class EntityStates(keras.layers.Layer):
    """`entity_states` as a layer: `(B, T, H)` and bool `(B, 2, T)` to `(B, 2 H)`."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs)
        self.supports_masking = True

    def compute_mask(self, states: Any, mask: Any = None) -> None:
        """No steps are left to mask."""

    def call(self, states: Any, entities: Any) -> Any:
        """`(B, T, H), (B, 2, T) -> (B, 2 H)`."""
        return entity_states(states, entities)


@keras.saving.register_keras_serializable("bilstm_attention")
class RelativePositions(keras.layers.Layer):
    """A learned vector for each token's distance to either entity (position features, Zeng et al. 2014, C14-1220).

    The distance is 0 on the words of an entity, -1, -2, ... to their left and 1, 2, ... to their right;
    of an entity that is not there it is 0 everywhere.

    Args:
        size: length of a vector.
        limit: distances beyond it count as it.
        l2: weight decay of the vectors.

    Call arguments:
        entities: bool `(B, 2, T)`, each entity in one piece.

    Returns:
        float tensor `(B, T, 2 size)`.
    """

    def __init__(self, size: int, limit: int, l2: float = 0.0, **kwargs: Any):
        super().__init__(**kwargs)
        self.size, self.limit, self.l2 = size, limit, l2

    def build(self, entities_shape: tuple[int | None, ...]) -> None:
        """Makes `vectors (2, 2 limit + 1, size)`, a table per entity."""
        shape = (2, 2 * self.limit + 1, self.size)
        self.vectors = self.add_weight(shape=shape, initializer="uniform", regularizer=decay(self.l2), name="vectors")

    def call(self, entities: Any) -> Any:
        """`(B, 2, T) -> (B, T, 2 size)`."""
        inside = ops.cast(entities, "int32")
        # words of the entity up to a step, and from it on, are none before it and after it
        begun, left = ops.cumsum(inside, axis=-1), ops.flip(ops.cumsum(ops.flip(inside, axis=-1), axis=-1), axis=-1)
        after = ops.cumsum(ops.cast(left == 0, "int32"), axis=-1)
        before = ops.flip(ops.cumsum(ops.flip(ops.cast(begun == 0, "int32"), axis=-1), axis=-1), axis=-1)
        there = ops.cast(ops.any(entities, axis=-1, keepdims=True), "int32")
        distances = ops.clip((after - before) * there, -self.limit, self.limit) + self.limit
        found = [ops.take(self.vectors[number], distances[:, number], axis=0) for number in (0, 1)]
        return ops.concatenate(found, axis=-1)

    def get_config(self) -> dict[str, Any]:
        """The arguments that rebuild this layer."""
        return {**super().get_config(), "size": self.size, "limit": self.limit, "l2": self.l2}
