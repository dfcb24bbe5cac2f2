"""The well-known Keras snippet as it is copied: everything padded to 100, `fit` with its defaults, no mask."""

import itertools
import time
from typing import Any

import keras
import numpy as np
from keras.layers import LSTM, Activation, Bidirectional, Dense, Embedding, Flatten, Permute, RepeatVector, multiply
from numpy.typing import NDArray
from work import Contender, Setup, Work, load_work

from bilstm_attention.data.dataset import Rows, pad
from bilstm_attention.data.tokens import SPECIALS, UNK

LENGTH = 100
# All its batches are alike, so that a few tell what the others take.
SHARE = 4


class SumOverTime(keras.layers.Layer):  # type: ignore[misc, unused-ignore]
    """The snippet's `Lambda(lambda x: K.sum(x, axis=1))`."""

    def call(self, states: Any) -> Any:
        """`(B, T, H) -> (B, H)`."""
        return keras.ops.sum(states, axis=1)


def contender(setup: Setup) -> Contender:
    """What `setup.measure` asks for."""
    work = load_work(setup)
    if setup.measure == "run":
        seeds = itertools.count()
        return Contender({"fit": lambda: run(setup, work, next(seeds))}, warm=False)
    model = compiled(setup, work)
    tokens, labels = padded(work, work.task.train), work.task.train.labels
    steps = max(1, len(work.batches) // SHARE)
    rows = steps * setup.batch_size

    def epoch() -> dict[str, Any]:
        model.fit(tokens[:rows], labels[:rows], batch_size=setup.batch_size, verbose=0)
        return {"steps": steps, "cells": tokens[:rows].size}

    return Contender({"fit": epoch})


def compiled(setup: Setup, work: Work) -> keras.Model:
    """The snippet, its word vectors trained, for as many classes as the corpus has."""
    rows, dimension = work.trained_vectors.shape
    inputs = keras.Input((LENGTH,), dtype="int32")
    embedded = Embedding(rows, dimension, weights=[work.trained_vectors])(inputs)
    activations = Bidirectional(LSTM(setup.units, return_sequences=True))(embedded)
    attention = Dense(1, activation="tanh")(activations)
    attention = Flatten()(attention)
    attention = Activation("softmax")(attention)
    attention = RepeatVector(2 * setup.units)(attention)
    attention = Permute([2, 1])(attention)
    sentence = SumOverTime()(multiply([activations, attention]))
    model = keras.Model(inputs, Dense(len(work.task.labels), activation="softmax")(sentence))
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def padded(work: Work, rows: Rows) -> NDArray[np.int32]:
    """Word ids `(N, 100)`; words that training does not show are unknown."""
    tokens = pad(rows, np.arange(len(rows)))[:, :LENGTH]
    tokens = np.pad(tokens, ((0, 0), (0, LENGTH - tokens.shape[1])))
    return np.where(tokens < work.task.training_words, tokens, SPECIALS.index(UNK)).astype(np.int32)


def run(setup: Setup, work: Work, seed: int) -> dict[str, Any]:
    """A training from nothing, judged after every epoch, until its accuracy on dev is `setup.score`."""
    keras.utils.set_random_seed(seed)
    task, curve = work.task, []
    begun = time.perf_counter()
    model = compiled(setup, work)
    tokens, dev = padded(work, task.train), padded(work, task.dev)
    for _ in range(setup.train.epochs):
        model.fit(tokens, task.train.labels, batch_size=setup.batch_size, verbose=0)
        right = model.predict(dev, verbose=0).argmax(axis=1) == task.dev.labels
        curve.append({"seconds": time.perf_counter() - begun, "accuracy": 100 * float(right.mean())})
        if curve[-1]["accuracy"] >= setup.score:
            return {"steps": 1, "curve": curve, "reached": True}
    return {"steps": 1, "curve": curve, "reached": False}
