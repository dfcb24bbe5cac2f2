"""The same network in JAX, compiled for ten lengths; compiling and padding are not timed, and no loss is read back."""

from functools import partial
from typing import Any

import jax  # type: ignore[import-not-found, unused-ignore]
import jax.numpy as jnp  # type: ignore[import-not-found, unused-ignore]
import numpy as np
from jax import lax  # type: ignore[import-not-found, unused-ignore]
from work import CHECKED_STEPS, SEED, Setup, Work, load_work

from bilstm_attention.data.dataset import pad

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7  # of Adam, Keras's


def contender(setup: Setup) -> tuple[Any, list[float]]:
    """A pass, and the losses of the first steps."""
    work = load_work(setup)
    batches, step = padded(work), jax.jit(partial(training_step, setup=setup, dropping=True), donate_argnums=0)
    check, checked, losses = jax.jit(partial(training_step, setup=setup, dropping=False)), fresh(work), []
    tokens, labels = pad(work.data.train, work.mixed).T, work.data.train.labels[work.mixed]
    for _ in range(CHECKED_STEPS):
        checked, loss = check(checked, tokens, labels)
        losses.append(float(loss))
    state = fresh(work)

    def epoch() -> dict[str, Any]:
        nonlocal state
        for tokens, labels in batches:
            state, loss = step(state, tokens, labels)
        jax.block_until_ready((state, loss))
        return {"steps": len(batches), "cells": sum(tokens.size for tokens, _ in batches)}

    return epoch, losses


def bidirectional(words: Any, mask: Any, weights: Any) -> Any:
    """States of both directions added, `(T, B, U)`, of words `(T, B, D)` and mask `(T, B, 1)`."""
    recurrent = weights["recurrent"]
    gates = [words @ weights["kernel"][direction] + weights["bias"][direction] for direction in (0, 1)]

    def cell(gates: Any, state: Any, recurrent: Any) -> Any:
        i, f, c, o = jnp.split(gates + state[0] @ recurrent, 4, axis=-1)
        carried = jax.nn.sigmoid(f) * state[1] + jax.nn.sigmoid(i) * jnp.tanh(c)
        return jax.nn.sigmoid(o) * jnp.tanh(carried), carried

    def step(states: Any, inputs: Any) -> Any:
        forward = cell(inputs[0], states[0], recurrent[0])
        # backwards padding comes first: nothing may be carried out of it
        backward = tuple(part * inputs[2] for part in cell(inputs[1], states[1], recurrent[1]))
        return (forward, backward), (forward[0], backward[0])

    zero = jnp.zeros((words.shape[1], recurrent.shape[1]))
    inputs = gates[0], jnp.flip(gates[1], 0), jnp.flip(mask, 0)
    _, (forward, backward) = lax.scan(step, ((zero, zero), (zero, zero)), inputs)
    return forward + jnp.flip(backward, 0)


def objective(weights: Any, tokens: Any, labels: Any, key: Any, setup: Setup, dropping: bool) -> Any:
    """The loss with its penalty, and without it."""
    rates, keys = [*setup.params.model.dropout.model_dump().values()], jax.random.split(key, 3)

    def drop(values: Any, rate: float, key: Any) -> Any:
        kept = jax.random.bernoulli(key, 1 - rate, values.shape)
        return jnp.where(kept, values / (1 - rate), 0) if dropping else values

    mask = (tokens != 0)[..., None]
    words = drop(weights["embedding"][tokens], rates[0], keys[0])
    states = drop(bidirectional(words, mask, weights), rates[1], keys[1])
    scores = jnp.where(mask, jnp.tanh(states) @ weights["attention"], -1e30)
    pooled = jnp.tanh(jnp.sum(jax.nn.softmax(scores, axis=0) * states, axis=0))
    logits = drop(pooled, rates[2], keys[2]) @ weights["output"] + weights["output_bias"]
    loss = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()
    return loss + setup.params.model.l2 * sum(jnp.sum(w**2) for name, w in weights.items() if "bias" not in name), loss


def training_step(state: Any, tokens: Any, labels: Any, setup: Setup, dropping: bool) -> Any:
    """One step of Adam: the state after it and the loss."""
    weights, means, squares, count, key = state
    key, now = jax.random.split(key)
    gradient, loss = jax.grad(objective, has_aux=True)(weights, tokens, labels, now, setup, dropping)
    norm = jnp.sqrt(sum(jnp.sum(value**2) for value in gradient.values()))
    limit, count = setup.params.train.clip_norm, count + 1
    gradient = jax.tree.map(lambda g: g * limit / jnp.maximum(norm, limit), gradient)
    rate = setup.params.train.learning_rate * jnp.sqrt(1 - BETA_2**count) / (1 - BETA_1**count)
    means = jax.tree.map(lambda m, g: m + (1 - BETA_1) * (g - m), means, gradient)
    squares = jax.tree.map(lambda v, g: v + (1 - BETA_2) * (g * g - v), squares, gradient)
    weights = jax.tree.map(lambda w, m, v: w - rate * m / (jnp.sqrt(v) + EPSILON), weights, means, squares)
    return (weights, means, squares, count, key), loss


def fresh(work: Work) -> Any:
    """Weights, Adam's two moments, the number of the step, and a key of random numbers."""
    arrays = {"embedding": work.vectors, **work.weights}
    copies = ({name: jnp.array(scale * value) for name, value in arrays.items()} for scale in (1, 0, 0))
    return *copies, jnp.float32(0), jax.random.key(SEED)


def padded(work: Work) -> list[tuple[Any, Any]]:
    """Word ids `(T, B)` and labels of every batch, T one of ten lengths of which each takes as many batches."""
    train = work.data.train
    longest = [int(train.lengths[batch].max()) for batch in work.batches]
    lengths = np.quantile(longest, np.linspace(0.1, 1, 10), method="higher")
    extra = lengths[np.searchsorted(lengths, longest)] - longest
    pads = [np.pad(pad(train, batch), ((0, 0), (0, more))).T for batch, more in zip(work.batches, extra, strict=True)]
    return [(jnp.array(ids), jnp.array(train.labels[b])) for ids, b in zip(pads, work.batches, strict=True)]
