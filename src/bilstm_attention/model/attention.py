"""The attention mechanisms: each one score function, by equation and paper; and the poolings without attention.

To change one, change its `score`; to add one, write a class like these. Shape letters: B batch, T time steps, H size of
a state, K distributions per sentence (hops, heads, features), A `model.attention.size`.
"""

from typing import Any

from keras import ops

from bilstm_attention.config import Attention
from bilstm_attention.model.entities import entity_states
from bilstm_attention.model.pooling import MASKED, MECHANISMS, AttentionPooling, Context, arguments, mechanism


def attention_layer(params: Attention, l2: float, name: str = "attention") -> AttentionPooling:
    """The mechanism of `params.kind`, given those of the parameters that it takes."""
    layer = MECHANISMS[params.kind]
    options = {key: value for key, value in params.model_dump().items() if key in arguments(layer)}
    return layer(**options, l2=l2, name=name)


@mechanism("feedforward")
class FeedForward(AttentionPooling):
    """`e_t = tanh(w . h_t + b)`: `Dense(1, activation="tanh")` of the well-known Keras snippet.

    Feed-forward attention (Raffel and Ellis 2015, arXiv:1512.08756, equation 6 with a one-layer `a`). Scores lie in
    (-1, 1), so no token can weigh more than `e^2 = 7.39` times another, however sure the model is.
    """

    def build(self, states_shape: tuple[int | None, ...]) -> None:
        """Makes `w (H, 1)` and `b (1,)`."""
        self.w, self.b = self.learned("w", states_shape[-1], 1), self.bias("b", 1)

    def score(self, states: Any, context: Context) -> Any:
        """`(B, T, H) -> (B, T)`."""
        return ops.squeeze(ops.tanh(ops.matmul(states, self.w) + self.b), axis=-1)


@mechanism("zhou")
class Zhou(AttentionPooling):
    """`e_t = w . tanh(h_t)` (Zhou et al. 2016, equations 9, 10: `M = tanh(H)`, `alpha = softmax(w^T M)`).

    Equation 12, `h* = tanh(r)`, is `tanh_output`. The `tanh` of the score stands inside the product, so scores are
    bounded by `|w|_1` alone, and the weights can be sharp.
    """

    def build(self, states_shape: tuple[int | None, ...]) -> None:
        """Makes `w (H, 1)`."""
        self.w = self.learned("w", states_shape[-1], 1)

    def score(self, states: Any, context: Context) -> Any:
        """`(B, T, H) -> (B, T)`."""
        return ops.squeeze(ops.matmul(ops.tanh(states), self.w), axis=-1)


@mechanism("context")
class ContextVector(AttentionPooling):
    """`u_t = tanh(W h_t + b)`, `e_t = u_t . u_w` (Yang et al. 2016, N16-1174, equations 5 to 7).

    Args:
        size: A, length of `u_t` and of the learned context vector `u_w`.
    """

    def __init__(self, size: int = 100, **kwargs: Any):
        super().__init__(**kwargs)
        self.size = size

    def build(self, states_shape: tuple[int | None, ...]) -> None:
        """Makes `W (H, A)`, `b (A,)` and `u_w (A, 1)`."""
        self.w, self.b = self.learned("w", states_shape[-1], self.size), self.bias("b", self.size)
        self.u = self.learned("u", self.size, 1)

    def score(self, states: Any, context: Context) -> Any:
        """`(B, T, H) -> (B, T)`."""
        return ops.squeeze(ops.matmul(ops.tanh(ops.matmul(states, self.w) + self.b), self.u), axis=-1)


@mechanism("luong_dot")
class LuongDot(AttentionPooling):
    """`e_t = q . h_t` (Luong et al. 2015, D15-1166, section 3.1, dot), `q` the last real states. It has no weights."""

    needs = frozenset({"last"})

    def score(self, states: Any, context: Context) -> Any:
        """`(B, T, H), (B, H) -> (B, T)`."""
        return ops.einsum("bth,bh->bt", states, context.last)


@mechanism("luong_general")
class LuongGeneral(AttentionPooling):
    """`e_t = q . W h_t` (Luong et al. 2015, D15-1166, section 3.1, general), `q` the last real states."""

    needs = frozenset({"last"})

    def build(self, states_shape: tuple[int | None, ...]) -> None:
        """Makes `W (H, H)`."""
        self.w = self.learned("w", states_shape[-1], states_shape[-1])

    def score(self, states: Any, context: Context) -> Any:
        """`(B, T, H), (B, H) -> (B, T)`."""
        return ops.einsum("bth,bh->bt", states, ops.matmul(context.last, self.w))


class Additive(AttentionPooling):
    """`e_t = v . tanh(W h_t + U q)` (Bahdanau et al. 2015, arXiv:1409.0473, section A.1.2), `q` given by `query`.

    The paper has W and U the other way round.

    Args:
        size: A, width of the hidden layer.
    """

    queries = 1  # states that make up the query

    def __init__(self, size: int = 100, **kwargs: Any):
        super().__init__(**kwargs)
        self.size = size

    def query(self, states: Any, context: Context) -> Any:
        """`(B, queries H)`."""
        raise NotImplementedError

    def build(self, states_shape: tuple[int | None, ...]) -> None:
        """Makes `W (H, A)`, `U (queries H, A)` and `v (A, 1)`."""
        size = states_shape[-1] or 0
        self.w, self.u = self.learned("w", size, self.size), self.learned("u", self.queries * size, self.size)
        self.v = self.learned("v", self.size, 1)

    def score(self, states: Any, context: Context) -> Any:
        """`(B, T, H) -> (B, T)`."""
        asked = ops.expand_dims(ops.matmul(self.query(states, context), self.u), 1)
        return ops.squeeze(ops.matmul(ops.tanh(ops.matmul(states, self.w) + asked), self.v), axis=-1)


@mechanism("bahdanau")
class Bahdanau(Additive):
    """`e_t = v . tanh(W h_t + U q)` (Bahdanau et al. 2015, arXiv:1409.0473, A.1.2), `q` the last real states."""

    needs = frozenset({"last"})

    def query(self, states: Any, context: Context) -> Any:
        """`(B, H)`."""
        return context.last


@mechanism("entity")
class Entity(Additive):
    """`e_t = v . tanh(W h_t + U [s_1 ; s_2])`, `s_i` the mean state of the words of entity i; for relation corpora.

    After the entity-aware attention of Lee et al. 2019 (arXiv:1901.08163), without its latent types, positions and
    self-attention.
    """

    needs = frozenset({"entities"})
    queries = 2

    def query(self, states: Any, context: Context) -> Any:
        """`(B, 2 H)`."""
        return entity_states(states, context.entities)


@mechanism("structured")
class Structured(AttentionPooling):
    """`A = softmax(W2 tanh(W1 H^T))`, K rows of weights (Lin et al. 2017, arXiv:1703.03130, equations 6 and 8).

    The rows are kept from looking at the same words by adding `penalty ||A A^T - I||_F^2`, the mean over the batch, to
    the loss.

    Args:
        size: A, the paper's `d_a`.
        hops: K, the paper's `r`.
        penalty: coefficient of the penalty.
    """

    axis = "hop"

    def __init__(self, size: int = 100, hops: int = 4, penalty: float = 0.1, **kwargs: Any):
        super().__init__(**kwargs)
        self.size, self.hops, self.penalty = size, hops, penalty

    def build(self, states_shape: tuple[int | None, ...]) -> None:
        """Makes `W1 (H, A)` and `W2 (A, K)`, each the transpose of the paper's."""
        self.w1, self.w2 = self.learned("w1", states_shape[-1], self.size), self.learned("w2", self.size, self.hops)

    def score(self, states: Any, context: Context) -> Any:
        """`(B, T, H) -> (B, K, T)`."""
        return ops.transpose(ops.matmul(ops.tanh(ops.matmul(states, self.w1)), self.w2), (0, 2, 1))

    def weigh(self, states: Any, context: Context) -> Any:
        """`(B, T, H) -> (B, K, T)`; adds the penalty to the losses."""
        weights = super().weigh(states, context)
        overlap = ops.matmul(weights, ops.transpose(weights, (0, 2, 1))) - ops.eye(self.hops)
        self.add_loss(self.penalty * ops.mean(ops.sum(ops.square(overlap), axis=(1, 2))))
        return weights


@mechanism("multihead")
class MultiHead(AttentionPooling):
    """`e_kt = q_k . (W_k h_t) / sqrt(key_size)`, a learned query `q_k` per head (Vaswani et al. 2017, section 3.2).

    Values are the states themselves: the paper's projections of values and output are linear, as is what follows here
    without `tanh_output`, so they would add weights and no function.

    Args:
        heads: K.
        key_size: length of keys and queries, the paper's `d_k`.
    """

    axis = "head"

    def __init__(self, heads: int = 4, key_size: int = 32, **kwargs: Any):
        super().__init__(**kwargs)
        self.heads, self.key_size = heads, key_size

    def build(self, states_shape: tuple[int | None, ...]) -> None:
        """Makes `W (H, K key_size)`, the heads one after the other, and `q (K, key_size)`."""
        self.w = self.learned("w", states_shape[-1], self.heads * self.key_size)
        self.q = self.learned("q", self.heads, self.key_size)

    def score(self, states: Any, context: Context) -> Any:
        """`(B, T, H) -> (B, K, T)`."""
        # q . (W h) = (W q) . h, with fewer products
        asked = ops.einsum("hkd,kd->kh", ops.reshape(self.w, (-1, self.heads, self.key_size)), self.q)
        return ops.einsum("bth,kh->bkt", states, asked) / self.key_size**0.5


@mechanism("dense_time")
class DenseTime(AttentionPooling):
    """`a_d = softmax(W x_d + b)`, a Dense layer over the time axis of every feature d, for comparison.

    As philipperemy/keras-attention-mechanism first had it, with padding masked. The rest of its faults remain: a weight
    depends on where a word stands, so there is a bias per step and a longest sentence; features are weighed without
    regard to each other; inputs that are scaled by weights shrink as sentences grow. (The original also flattens the
    scaled states into its classifier; here they are added up like all others'.)

    Args:
        steps: the longest sentence, in tokens.
        per_feature: every feature keeps its own weights (K = H); else their mean serves all.
        place: `after` pools the states of the LSTM; `before` scales its inputs, and the first output is `(B, T, H)`.
    """

    def __init__(self, steps: int = 128, per_feature: bool = False, place: str = "after", **kwargs: Any):
        super().__init__(**kwargs)
        self.steps, self.per_feature, self.place = steps, per_feature, place
        self.axis = "feature" if per_feature else ""

    def build(self, states_shape: tuple[int | None, ...]) -> None:
        """Makes `W (steps, steps)` and `b (steps,)`."""
        self.w, self.b = self.learned("w", self.steps, self.steps), self.bias("b", self.steps)

    def score(self, states: Any, context: Context) -> Any:
        """`(B, T, H) -> (B, H, T)`."""
        steps = ops.shape(states)[1]
        features = ops.transpose(ops.where(ops.expand_dims(context.mask, -1), states, 0), (0, 2, 1))
        return ops.matmul(features, self.w[:steps, :steps]) + self.b[:steps]

    def weigh(self, states: Any, context: Context) -> Any:
        """`(B, T, H) -> (B, H, T)`, or `(B, T)`."""
        weights = super().weigh(states, context)
        return weights if self.per_feature else ops.mean(weights, axis=1)

    def pool(self, states: Any, weights: Any, context: Context) -> Any:
        """`(B, H)`, or, before the LSTM, the scaled inputs `(B, T, H)`."""
        by_step = ops.transpose(weights, (0, 2, 1)) if self.per_feature else ops.expand_dims(weights, -1)
        scaled = ops.cast(by_step, states.dtype) * states
        return scaled if self.place == "before" else ops.sum(scaled, axis=1)


@mechanism("mean")
class Mean(AttentionPooling):
    """`e_t = 0`: every real token weighs the same, which is mean pooling; no attention."""

    def score(self, states: Any, context: Context) -> Any:
        """`(B, T, H) -> (B, T)`."""
        return ops.zeros_like(states[:, :, 0])


@mechanism("max")
class Max(AttentionPooling):
    """`r_d = max_t h_td` over the real tokens; no attention. A token's weight is its share of the H maxima."""

    def weigh(self, states: Any, context: Context) -> Any:
        """`(B, T, H) -> (B, T)`; tokens that share a maximum share its weight."""
        states = ops.where(ops.expand_dims(context.mask, -1), ops.cast(states, "float32"), MASKED)
        found = ops.cast(ops.equal(states, ops.max(states, axis=1, keepdims=True)), "float32")
        return ops.mean(found / ops.sum(found, axis=1, keepdims=True), axis=-1)

    def pool(self, states: Any, weights: Any, context: Context) -> Any:
        """`(B, T, H) -> (B, H)`."""
        lowest = -6e4 if states.dtype == "float16" else MASKED  # float16 ends at 65,504
        return ops.max(ops.where(ops.expand_dims(context.mask, -1), states, lowest), axis=1)


@mechanism("last")
class Last(AttentionPooling):
    """`r = last`: the forward state of the last real token and the backward one of the first; no attention.

    Each of these two tokens gives half, which is what the weights say.
    """

    needs = frozenset({"last"})

    def weigh(self, states: Any, context: Context) -> Any:
        """`(B, T, H) -> (B, T)`."""
        real = ops.cast(context.mask, "float32")
        first = real * (1 - ops.pad(real[:, :-1], [[0, 0], [1, 0]]))
        last = real * (1 - ops.pad(real[:, 1:], [[0, 0], [0, 1]]))
        return (first + last) / 2

    def pool(self, states: Any, weights: Any, context: Context) -> Any:
        """`(B, H)`."""
        return context.last
