"""The same network in JAX: both directions in a `lax.scan`, the products of the inputs before it, the step compiled.

XLA compiles a program per shape, so batches are padded to one of ten lengths, chosen to waste least. Presents to it:
compiling is not timed, batches are padded before they are timed, and no loss is read back before the end of a pass.
"""

from functools import partial
from typing import Any

import jax  # type: ignore[import-not-found, unused-ignore]
import jax.numpy as jnp  # type: ignore[import-not-found, unused-ignore]
import numpy as np
from jax import lax  # type: ignore[import-not-found, unused-ignore]
from numpy.typing import NDArray
from work import CHECKED_STEPS, SEED, Contender, Setup, Work, load_work

from bilstm_attention.data.dataset import pad

BUCKETS = 10
LAYER_STEPS = 20
# of Adam, Keras's
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7

# a present too: random bits need not be the same on every machine
jax.config.update("jax_default_prng_impl", "unsafe_rbg")


def contender(setup: Setup) -> Contender:
    """What `setup.measure` asks for."""
    if setup.measure == "layer":
        return Contender(layers(setup))
    work = load_work(setup)
    batches = bucketed(work)
    passes = {"scan": epoch(setup, work, batches)}
    step, state = jax.jit(training_step(setup, dropping=False)), fresh(work)
    train, batch, losses = work.task.train, work.mixed[0], []
    for _ in range(CHECKED_STEPS):
        state, loss = step(state, pad(train, batch).T, train.labels[batch])
        losses.append(float(loss))
    return Contender(passes, losses)


def bidirectional(words: Any, mask: Any, weights: Any) -> Any:
    """States of both directions added, `(T, B, U)`, of words `(T, B, D)` and mask `(T, B, 1)`."""
    kernel, recurrent, bias = (weights[name] for name in ("kernel", "recurrent", "bias"))
    units, both = recurrent.shape[1], (0, 1)
    gates = [words @ kernel[direction] + bias[direction] for direction in both]
    inputs = gates[0], jnp.flip(gates[1], 0), jnp.flip(mask, 0)

    def cell(gates: Any, hidden: Any, carried: Any, recurrent: Any) -> Any:
        i, f, c, o = jnp.split(gates + hidden @ recurrent, 4, axis=-1)
        carried = jax.nn.sigmoid(f) * carried + jax.nn.sigmoid(i) * jnp.tanh(c)
        return jax.nn.sigmoid(o) * jnp.tanh(carried), carried

    def step(carry: Any, inputs: Any) -> Any:
        (ahead, ahead_c), (back, back_c) = carry
        forward, backward, real = inputs
        ahead, ahead_c = cell(forward, ahead, ahead_c, recurrent[0])
        back, back_c = cell(backward, back, back_c, recurrent[1])
        # backwards padding comes first: nothing may be carried out of it
        back, back_c = back * real, back_c * real
        return ((ahead, ahead_c), (back, back_c)), (ahead, back)

    zero = jnp.zeros((words.shape[1], units))
    _, (ahead, back) = lax.scan(step, ((zero, zero), (zero, zero)), inputs)
    return ahead + jnp.flip(back, 0)


def loss_of(weights: Any, tokens: Any, labels: Any, key: Any, *, setup: Setup, dropping: bool) -> Any:
    """The loss with its penalty, and without it."""
    rates, keys = setup.model.dropout, jax.random.split(key, 3)

    def drop(values: Any, rate: float, key: Any) -> Any:
        if not dropping:
            return values
        return jnp.where(jax.random.bernoulli(key, 1 - rate, values.shape), values / (1 - rate), 0)

    mask = (tokens != 0)[..., None]
    words = drop(weights["embedding"][tokens], rates.embedding, keys[0])
    states = drop(bidirectional(words, mask, weights), rates.lstm, keys[1])
    scores = jnp.where(mask, jnp.tanh(states) @ weights["attention"], -1e30)
    pooled = jnp.sum(jax.nn.softmax(scores, axis=0) * states, axis=0)
    logits = drop(jnp.tanh(pooled), rates.sentence, keys[2]) @ weights["output"] + weights["output_bias"]
    loss = -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], axis=1).mean()
    penalty = sum(jnp.sum(jnp.square(value)) for name, value in weights.items() if "bias" not in name)
    return loss + setup.model.l2 * penalty, loss


def training_step(setup: Setup, dropping: bool) -> Any:
    """One step of Adam: the state after it and the loss."""
    function = partial(loss_of, setup=setup, dropping=dropping)

    def step(state: Any, tokens: Any, labels: Any) -> Any:
        weights, means, squares, count, key = state
        key, now = jax.random.split(key)
        gradient, loss = jax.grad(function, has_aux=True)(weights, tokens, labels, now)
        if setup.clip_norm:
            norm = jnp.sqrt(sum(jnp.sum(jnp.square(value)) for value in gradient.values()))
            scale = setup.clip_norm / jnp.maximum(norm, setup.clip_norm)
            gradient = {name: value * scale for name, value in gradient.items()}
        count += 1
        rate = setup.train.learning_rate * jnp.sqrt(1 - BETA_2**count) / (1 - BETA_1**count)
        means = jax.tree.map(lambda m, g: m + (1 - BETA_1) * (g - m), means, gradient)
        squares = jax.tree.map(lambda v, g: v + (1 - BETA_2) * (g * g - v), squares, gradient)
        weights = jax.tree.map(lambda w, m, v: w - rate * m / (jnp.sqrt(v) + EPSILON), weights, means, squares)
        return (weights, means, squares, count, key), loss

    return step


def fresh(work: Work) -> Any:
    """Weights, Adam's two moments, the number of the step, and a key of random numbers."""

    def copied(scale: float) -> Any:
        return {name: jnp.array(scale * value) for name, value in arrays.items()}

    arrays = {"embedding": work.trained_vectors, **work.weights}
    return copied(1), copied(0), copied(0), jnp.float32(0), jax.random.key(SEED)


def epoch(setup: Setup, work: Work, batches: Any) -> Any:
    """A pass over all batches; the first compiles a program per length."""
    step = jax.jit(training_step(setup, dropping=True), donate_argnums=0)
    state = fresh(work)

    def take() -> dict[str, Any]:
        nonlocal state
        for tokens, labels in batches:
            state, loss = step(state, tokens, labels)
        jax.block_until_ready((state, loss))
        return {"steps": len(batches), "cells": sum(tokens.size for tokens, _ in batches)}

    return take


def bucketed(work: Work) -> list[tuple[Any, Any]]:
    """Word ids `(T, B)` and labels of our batches, T one of ten lengths."""
    train = work.task.train
    longest = np.array([train.lengths[batch].max() for batch in work.batches])
    buckets = best_lengths(longest, BUCKETS)
    ready = []
    for batch, length in zip(work.batches, longest, strict=True):
        missing = int(buckets[np.searchsorted(buckets, length)] - length)
        ready.append((jnp.array(np.pad(pad(train, batch), ((0, 0), (0, missing))).T), jnp.array(train.labels[batch])))
    return ready


def best_lengths(lengths: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """The `count` lengths, rising, to which `lengths` are padded with the least padding; by dynamic programming."""
    values, times = np.unique(lengths, return_counts=True)
    below = np.concatenate([[0], np.cumsum(times)])
    # cells of the values up to one of them, and the values chosen for that
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ()), *[(np.inf, ())] * len(values)]
    for _ in range(min(count, len(values))):
        best = [
            min((best[i][0] + (below[j] - below[i]) * values[j - 1], (*best[i][1], values[j - 1])) for i in range(j))
            if j
            else (np.inf, ())
            for j in range(len(best))
        ]
    return np.array(best[-1][1])


def layers(setup: Setup) -> dict[str, Any]:
    """One bidirectional LSTM, forward and backward, by length."""
    draw = np.random.default_rng(SEED)
    units = 4 * setup.units
    shapes = {"kernel": (2, setup.dimension, units), "recurrent": (2, setup.units, units), "bias": (2, units)}
    weights = {name: jnp.array(0.1 * draw.standard_normal(shape, np.float32)) for name, shape in shapes.items()}

    def steps(length: int) -> Any:
        states = jnp.array(draw.standard_normal((length, setup.batch_size, setup.dimension), np.float32))
        mask = jnp.ones((length, setup.batch_size, 1), bool)
        gradient = jax.jit(jax.grad(lambda states, weights: bidirectional(states, mask, weights).sum(), argnums=(0, 1)))

        def take() -> dict[str, Any]:
            for _ in range(LAYER_STEPS):
                jax.block_until_ready(gradient(states, weights))
            return {"steps": LAYER_STEPS}

        return take

    return {str(length): steps(length) for length in setup.lengths}
