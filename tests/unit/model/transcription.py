"""The published equations in float64, one sentence at a time and without its padding; written apart from the source.

Letters: n words of a sentence, `h (n, H)` their states, `q (H,)` its last states, `entities (2, n)`, K distributions.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def softmax(scores: Array) -> Any:
    exponentials = np.exp(scores)
    return exponentials / exponentials.sum()


def sigmoid(values: Array) -> Any:
    return 1 / (1 + np.exp(-values))


def lstm(words: Array, kernel: Array, recurrent: Array, bias: Array) -> Array:
    """`(n, D) -> (n, U)`, Keras's LSTM: gates in the order input, forget, candidate, output; no peepholes."""
    hidden = cell = np.zeros(len(recurrent))
    states = []
    for word in words:
        i, f, g, o = np.split(word @ kernel + hidden @ recurrent + bias, 4)
        cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
        hidden = sigmoid(o) * np.tanh(cell)
        states.append(hidden)
    return np.array(states)


def bilstm(words: Array, weights: list[Array]) -> tuple[Array, Array]:
    """`(n, D)` to the states of both directions, `(n, U)` each, each in the order of the words."""
    return lstm(words, *weights[:3]), lstm(words[::-1], *weights[3:])[::-1]


# Scores of the words of one sentence, `(n,)` or `(K, n)`, from h, q, entities, and the mechanism's weights.


def feedforward(h: Array, q: Array, entities: Array, w: Array, b: Array) -> Array:
    return np.array([np.tanh(w[:, 0] @ h_t + b[0]) for h_t in h])


def zhou(h: Array, q: Array, entities: Array, w: Array) -> Array:
    big_m = np.tanh(h.T)
    return np.asarray(w.T @ big_m)[0]


def context(h: Array, q: Array, entities: Array, w: Array, b: Array, u_w: Array) -> Array:
    return np.array([np.tanh(w.T @ h_t + b) @ u_w[:, 0] for h_t in h])


def luong_dot(h: Array, q: Array, entities: Array) -> Array:
    return np.array([q @ h_t for h_t in h])


def luong_general(h: Array, q: Array, entities: Array, w: Array) -> Array:
    return np.array([q @ w @ h_t for h_t in h])


def bahdanau(h: Array, q: Array, entities: Array, w: Array, u: Array, v: Array) -> Array:
    return np.array([v[:, 0] @ np.tanh(w.T @ h_t + u.T @ q) for h_t in h])


def entity(h: Array, q: Array, entities: Array, w: Array, u: Array, v: Array) -> Array:
    return bahdanau(h, np.concatenate(means(h, entities)), entities, w, u, v)


def means(h: Array, entities: Array) -> list[Array]:
    return [h[words].mean(axis=0) if words.any() else np.zeros(h.shape[1]) for words in entities]


def structured(h: Array, q: Array, entities: Array, w1: Array, w2: Array) -> Array:
    return np.asarray(w2.T @ np.tanh(w1.T @ h.T))


def multihead(h: Array, q: Array, entities: Array, w: Array, queries: Array) -> Array:
    heads, size = queries.shape
    kernels = [w[:, k * size : (k + 1) * size] for k in range(heads)]
    return np.array([[queries[k] @ (kernels[k].T @ h_t) / np.sqrt(size) for h_t in h] for k in range(heads)])


def dense_time(h: Array, q: Array, entities: Array, w: Array, b: Array) -> Array:
    n = len(h)
    return np.array([[b[t] + sum(w[s, t] * h[s, d] for s in range(n)) for t in range(n)] for d in range(h.shape[1])])


def mean(h: Array, q: Array, entities: Array) -> Array:
    return np.zeros(len(h))


SCORES = {
    **{"feedforward": feedforward, "zhou": zhou, "context": context, "bahdanau": bahdanau, "entity": entity},
    **{"luong_dot": luong_dot, "luong_general": luong_general, "structured": structured, "multihead": multihead},
    **{"dense_time": dense_time, "mean": mean},
}


def maxima(h: Array) -> tuple[Array, Array]:
    winners = h.argmax(axis=0)
    return h.max(axis=0), np.array([(winners == t).mean() for t in range(len(h))])


def ends(h: Array, q: Array) -> tuple[Array, Array]:
    weights = np.zeros(len(h))
    weights[0] += 0.5
    weights[-1] += 0.5
    return q, weights


def attend(
    kind: str, options: dict[str, Any], h: Array, q: Array, entities: Array, parameters: list[Array]
) -> tuple[Array, Array]:
    """One sentence to its vector, after `tanh_output`, and its weights `(n,)` or `(K, n)`."""
    if kind in ("max", "last"):
        pooled, weights = maxima(h) if kind == "max" else ends(h, q)
    else:
        scores = SCORES[kind](h, q, entities, *parameters) / options.get("temperature", 1.0)
        weights = np.array([softmax(row) for row in scores]) if scores.ndim == 2 else softmax(scores)
        if kind == "dense_time":
            weights = weights.mean(axis=0)
            pooled = weights @ h
        else:
            pooled = np.concatenate([a @ h for a in np.atleast_2d(weights)])
    return (np.tanh(pooled) if options.get("tanh_output") else pooled), weights


def overlap(weights: Array) -> float:
    """`||A A^T - I||_F^2` of `A (K, n)`."""
    return float((np.abs(weights @ weights.T - np.eye(len(weights))) ** 2).sum())
