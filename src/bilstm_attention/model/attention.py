"""Attention mechanisms: states to scores, scores to weights, weights to one vector; and pooling without attention.

To change a mechanism, change its `score`. To add one, write a class like these, and its name into `ATTENTION_KINDS` of
config.py. Shapes: B batch, T time steps, H state, K distributions per sentence (hops, heads), A `model.attention.size`.
"""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
from keras import ops

from bilstm_attention.config import Attention
from bilstm_attention.model.entities import entity_states
from bilstm_attention.model.lstm import decay

PACKAGE = "bilstm_attention"
# Far below any score, yet finite in float32: exp() of it is exactly 0, and its gradient is 0 rather than NaN.
MASKED = -1e30


class Context(NamedTuple):
    """What a mechanism may read beside the states; `last` and `entities` if it has them in `needs`.

    Args:
        mask: bool `(B, T)`, True on real tokens.
        last: `(B, H)`, the last real state of each direction, merged as the states are: the forward one of the last
            token, the backward one of the first.
        entities: bool `(B, 2, T)`, True on the words of each entity.
    """

    mask: Any
    last: Any = None
    entities: Any = None


class AttentionPooling(keras.layers.Layer):
    """Pools a sequence of states into one vector by learned weights; a mechanism defines `score`.

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
        self.penalties: tuple[Any, ...] = ()
        if dropout:
            self.dropping = keras.layers.Dropout(dropout, name="dropping", dtype="float32")

    def score(self, states: Any, context: Context) -> Any:
        """Scores `(B, T)` or `(B, K, T)` of states `(B, T, H)`; padded steps may hold anything finite."""
        raise NotImplementedError

    def weigh(self, states: Any, context: Context) -> Any:
        """Weights, float32 `(B, T)` or `(B, K, T)`: softmax over the real steps, exactly 0 at the others."""
        scores = ops.cast(self.score(states, context), "float32") / self.temperature
        mask = context.mask if len(scores.shape) == 2 else ops.expand_dims(context.mask, 1)
        return ops.softmax(ops.where(mask, scores, MASKED), axis=-1)

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
        self.penalties = ()
        context = Context(ops.ones(ops.shape(states)[:2], "bool") if mask is None else mask, last, entities)
        weights = self.weigh(states, context)
        pooled = self.pool(states, self.dropping(weights, training=training) if self.dropout else weights, context)
        return (ops.tanh(pooled) if self.tanh_output else pooled), weights

    def add_loss(self, loss: Any) -> None:
        """Adds a penalty of the last call; the training step reads `penalties`, which leave out those of weights."""
        super().add_loss(loss)
        self.penalties = (*self.penalties, loss)

    def learned(self, name: str, *shape: int | None) -> Any:
        """A weight of the score, drawn as Keras draws kernels, with weight decay."""
        return self.add_weight(shape=shape, initializer="glorot_uniform", regularizer=decay(self.l2), name=name)

    def bias(self, name: str, *shape: int | None) -> Any:
        """A trained weight that starts at zero, without weight decay."""
        return self.add_weight(shape=shape, initializer="zeros", name=name)

    def compute_mask(self, states: Any, mask: Any = None) -> None:
        """None: no output has padded steps."""

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **{name: getattr(self, name) for name in arguments(type(self))}}


MECHANISMS: dict[str, type[AttentionPooling]] = {}


def mechanism(kind: str) -> Callable[[type[AttentionPooling]], type[AttentionPooling]]:
    """Registers a layer as a `model.attention.kind`; its `__init__` keeps parameters under their names."""

    def register(layer: type[AttentionPooling]) -> type[AttentionPooling]:
        MECHANISMS[kind] = keras.saving.register_keras_serializable(PACKAGE, name=f"{kind}_attention")(layer)
        return MECHANISMS[kind]

    return register


def arguments(layer: type[AttentionPooling]) -> list[str]:
    """Names of the constructor arguments of a mechanism and its base classes."""
    classes = [part for part in layer.__mro__ if issubclass(part, AttentionPooling) and "__init__" in vars(part)]
    parameters = [each for part in classes for each in inspect.signature(vars(part)["__init__"]).parameters.values()]
    return list(dict.fromkeys(p.name for p in parameters if p.name != "self" and p.kind is not p.VAR_KEYWORD))


def attention_layer(params: Attention, l2: float, name: str = "attention") -> AttentionPooling:
    """The mechanism `params.kind`, with those of `params` that its constructor takes."""
    layer = MECHANISMS[params.kind]
    return layer(**params.model_dump(include=set(arguments(layer))), l2=l2, name=name)


@mechanism("feedforward")
class FeedForward(AttentionPooling):
    """`e_t = tanh(w . h_t + b)`: `Dense(1, activation="tanh")` of the well-known Keras snippet.

    Feed-forward attention (Raffel and Ellis 2015, arXiv:1512.08756, equation 6 with a one-layer `a`). Scores lie in
    (-1, 1), so no token can weigh more than `e^2 = 7.39` times another, however sure the model is.
    """

    def build(self, states_shape: tuple[int | None, ...]) -> None:
        self.w, self.b = self.learned("w", states_shape[-1], 1), self.bias("b", 1)

    def score(self, states: Any, context: Context) -> Any:
        return ops.squeeze(ops.tanh(ops.matmul(states, self.w) + self.b), axis=-1)


@mechanism("zhou")
class Zhou(AttentionPooling):
    """`e_t = w . tanh(h_t)` (Zhou et al. 2016, equations 9, 10: `M = tanh(H)`, `alpha = softmax(w^T M)`).

    Equation 12, `h* = tanh(r)`, is `tanh_output`. The `tanh` of the score stands inside the product, so scores are
    bounded by `|w|_1` alone, and the weights can be sharp.
    """

    def build(self, states_shape: tuple[int | None, ...]) -> None:
        self.w = self.learned("w", states_shape[-1], 1)

    def score(self, states: Any, context: Context) -> Any:
        return ops.squeeze(ops.matmul(ops.tanh(states), self.w), axis=-1)


class HiddenLayer(AttentionPooling):
    """Scores by a hidden layer of `size` units, A."""

    def __init__(self, size: int = 100, **kwargs: Any):
        super().__init__(**kwargs)
        self.size = size


@mechanism("context")
class ContextVector(HiddenLayer):
    """`u_t = tanh(W h_t + b)`, `e_t = u_t . u_w` (Yang et al. 2016, N16-1174, equations 5 to 7)."""

    def build(self, states_shape: tuple[int | None, ...]) -> None:
        # `W (H, A)`, `b (A,)` and the context vector `u_w (A, 1)`
        self.w, self.b = self.learned("w", states_shape[-1], self.size), self.bias("b", self.size)
        self.u = self.learned("u", self.size, 1)

    def score(self, states: Any, context: Context) -> Any:
        return ops.squeeze(ops.matmul(ops.tanh(ops.matmul(states, self.w) + self.b), self.u), axis=-1)


@mechanism("luong_dot")
class LuongDot(AttentionPooling):
    """`e_t = q . h_t` (Luong et al. 2015, D15-1166, section 3.1, dot), `q` the last real states; no weights."""

    needs = frozenset({"last"})

    def score(self, states: Any, context: Context) -> Any:
        return ops.einsum("bth,bh->bt", states, context.last)


@mechanism("luong_general")
class LuongGeneral(AttentionPooling):
    """`e_t = q . W h_t` (Luong et al. 2015, D15-1166, section 3.1, general), `q` the last real states."""

    needs = frozenset({"last"})

    def build(self, states_shape: tuple[int | None, ...]) -> None:
        self.w = self.learned("w", states_shape[-1], states_shape[-1])

    def score(self, states: Any, context: Context) -> Any:
        return ops.einsum("bth,bh->bt", states, ops.matmul(context.last, self.w))


@mechanism("bahdanau")
class Bahdanau(HiddenLayer):
    """`e_t = v . tanh(W h_t + U q)` (Bahdanau et al. 2015, arXiv:1409.0473, A.1.2, which swaps W and U).

    `q` are the last real states.
    """

    needs = frozenset({"last"})
    queries = 1  # states that make up the query

    def query(self, states: Any, context: Context) -> Any:
        """`(B, queries H)`."""
        return context.last

    def build(self, states_shape: tuple[int | None, ...]) -> None:
        # `W (H, A)`, `U (queries H, A)` and `v (A, 1)`
        size = states_shape[-1] or 0
        self.w, self.u = self.learned("w", size, self.size), self.learned("u", self.queries * size, self.size)
        self.v = self.learned("v", self.size, 1)

    def score(self, states: Any, context: Context) -> Any:
        query = ops.expand_dims(ops.matmul(self.query(states, context), self.u), 1)
        return ops.squeeze(ops.matmul(ops.tanh(ops.matmul(states, self.w) + query), self.v), axis=-1)


@mechanism("entity")
class Entity(Bahdanau):
    """`e_t = v . tanh(W h_t + U [s_1 ; s_2])`, `s_i` the mean state of the words of entity i; for relation corpora.

    After the entity-aware attention of Lee et al. 2019 (arXiv:1901.08163), without its latent types, positions and
    self-attention.
    """

    needs = frozenset({"entities"})
    queries = 2

    def query(self, states: Any, context: Context) -> Any:
        return entity_states(states, context.entities)


@mechanism("structured")
class Structured(HiddenLayer):
    """`A = softmax(W2 tanh(W1 H^T))`, K rows of weights (Lin et al. 2017, arXiv:1703.03130, equations 6 and 8).

    So that the rows differ, the mean of `penalty ||A A^T - I||_F^2` over the batch is added to the loss.

    Args:
        hops: K, the paper's `r`; A is its `d_a`.
        penalty: coefficient of the penalty.
    """

    axis = "hop"

    def __init__(self, hops: int = 4, penalty: float = 0.1, **kwargs: Any):
        super().__init__(**kwargs)
        self.hops, self.penalty = hops, penalty

    def build(self, states_shape: tuple[int | None, ...]) -> None:
        # `W1 (H, A)` and `W2 (A, K)`, each the transpose of the paper's
        self.w1, self.w2 = self.learned("w1", states_shape[-1], self.size), self.learned("w2", self.size, self.hops)

    def score(self, states: Any, context: Context) -> Any:
        return ops.transpose(ops.matmul(ops.tanh(ops.matmul(states, self.w1)), self.w2), (0, 2, 1))

    def weigh(self, states: Any, context: Context) -> Any:
        weights = super().weigh(states, context)
        overlap = ops.matmul(weights, ops.transpose(weights, (0, 2, 1))) - ops.eye(self.hops)
        self.add_loss(self.penalty * ops.mean(ops.sum(ops.square(overlap), axis=(1, 2))))
        return weights


@mechanism("multihead")
class MultiHead(AttentionPooling):
    """`e_kt = q_k . (W_k h_t) / sqrt(key_size)`, a learned query `q_k` per head (Vaswani et al. 2017, section 3.2).

    Args:
        heads: K.
        key_size: length of keys and queries, the paper's `d_k`.
    """

    axis = "head"

    def __init__(self, heads: int = 4, key_size: int = 32, **kwargs: Any):
        super().__init__(**kwargs)
        self.heads, self.key_size = heads, key_size

    def build(self, states_shape: tuple[int | None, ...]) -> None:
        # `W (H, K key_size)`, the heads one after the other, and `q (K, key_size)`
        self.w = self.learned("w", states_shape[-1], self.heads * self.key_size)
        self.q = self.learned("q", self.heads, self.key_size)

    def score(self, states: Any, context: Context) -> Any:
        # q . (W h) = (W q) . h, with fewer products; values are the states themselves, without linear projections
        queries = ops.einsum("hkd,kd->kh", ops.reshape(self.w, (-1, self.heads, self.key_size)), self.q)
        return ops.einsum("bth,kh->bkt", states, queries) / self.key_size**0.5


@mechanism("dense_time")
class DenseTime(AttentionPooling):
    """`a = mean_d softmax(W h_d + b)`, a Dense layer over the time axis of every feature d, for comparison.

    As philipperemy/keras-attention-mechanism first had it, with padding masked and the scaled states added up. A weight
    depends on where a word stands: there is a bias per step, and a longest sentence of `steps` tokens.
    """

    def __init__(self, steps: int = 128, **kwargs: Any):
        super().__init__(**kwargs)
        self.steps = steps

    def build(self, states_shape: tuple[int | None, ...]) -> None:
        self.w, self.b = self.learned("w", self.steps, self.steps), self.bias("b", self.steps)

    def score(self, states: Any, context: Context) -> Any:
        steps = ops.shape(states)[1]
        features = ops.transpose(ops.where(ops.expand_dims(context.mask, -1), states, 0), (0, 2, 1))
        return ops.matmul(features, self.w[:steps, :steps]) + self.b[:steps]

    def weigh(self, states: Any, context: Context) -> Any:
        return ops.mean(super().weigh(states, context), axis=1)

    def pool(self, states: Any, weights: Any, context: Context) -> Any:
        # not einsum, whose sum has other last bits
        return ops.sum(ops.cast(ops.expand_dims(weights, -1), states.dtype) * states, axis=1)


@mechanism("mean")
class Mean(AttentionPooling):
    """`e_t = 0`: every real token weighs the same, which is mean pooling; no attention."""

    def score(self, states: Any, context: Context) -> Any:
        return ops.zeros_like(states[:, :, 0])


@mechanism("max")
class Max(AttentionPooling):
    """`r_d = max_t h_td` over the real tokens; no attention. A token's weight is its share of the H maxima."""

    def weigh(self, states: Any, context: Context) -> Any:
        states = ops.where(ops.expand_dims(context.mask, -1), ops.cast(states, "float32"), MASKED)
        is_maximum = ops.cast(ops.equal(states, ops.max(states, axis=1, keepdims=True)), "float32")
        return ops.mean(is_maximum / ops.sum(is_maximum, axis=1, keepdims=True), axis=-1)

    def pool(self, states: Any, weights: Any, context: Context) -> Any:
        return ops.max(ops.where(ops.expand_dims(context.mask, -1), states, MASKED), axis=1)


@mechanism("last")
class Last(AttentionPooling):
    """`r = last`: the forward state of the last real token and the backward one of the first; no attention.

    Each of these two tokens weighs 1/2.
    """

    needs = frozenset({"last"})

    def weigh(self, states: Any, context: Context) -> Any:
        real = ops.cast(context.mask, "float32")
        first = real * (1 - ops.pad(real[:, :-1], [[0, 0], [1, 0]]))
        last = real * (1 - ops.pad(real[:, 1:], [[0, 0], [0, 1]]))
        return (first + last) / 2

    def pool(self, states: Any, weights: Any, context: Context) -> Any:
        return context.last
