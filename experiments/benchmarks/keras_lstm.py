"""Contenders of TensorFlow: the project's network, with the LSTM kernel of Keras, and the well-known Keras snippet."""

from functools import partial
from typing import Any

import numpy as np
from work import CHECKED_STEPS, SEED, Setup, Work, load_work, train_until

from bilstm_attention.config import Dropout, Params
from bilstm_attention.console import start_tensorflow
from bilstm_attention.data.dataset import Rows, pad, pad_batches, training_batches
from bilstm_attention.data.tokens import SPECIALS, UNK

start_tensorflow()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402
from keras.layers import LSTM, Activation, Bidirectional, Dense, Embedding, Flatten  # noqa: E402

from bilstm_attention.model.classifier import build_classifier  # noqa: E402
from bilstm_attention.model.predict import predict  # noqa: E402
from bilstm_attention.training.fit import STEPS_PER_CALL, use_threads  # noqa: E402
from bilstm_attention.training.optimizers import make_optimizer  # noqa: E402
from bilstm_attention.training.step import several_steps, training_step  # noqa: E402

PRODUCT, PRODUCTS = 2048, 20
LENGTH, SHARE = 100, 4  # to which the snippet pads; one in so many of its batches, which are all alike, is timed


def contender(setup: Setup) -> tuple[Any, list[float]]:
    """A pass, and the losses of the first steps."""
    if setup.contender == "sgemm":
        tf.config.threading.set_intra_op_parallelism_threads(setup.threads)
        return products, []
    if setup.threads:
        use_threads(setup.threads)
    work = load_work(setup)
    if setup.contender == "seed":
        tokens, labels, model = padded(work, work.data.train), work.data.train.labels, snippet(setup, work)
        steps = max(1, len(work.batches) // SHARE)
        some = slice(steps * setup.batch_size)
        fit = partial(model.fit, tokens[some], labels[some], batch_size=setup.batch_size, verbose=0)
        return lambda: fit() and {"steps": steps, "cells": tokens[some].size}, []
    still = setup.params.model.model_copy(update={"dropout": Dropout(embedding=0.0, lstm=0.0, sentence=0.0)})
    train, (check, _) = work.data.train, our_steps(setup.params.model_copy(update={"model": still}), work)
    losses = check(*pad_batches(train, [work.mixed] * CHECKED_STEPS)).numpy().tolist()
    steps, model = our_steps(setup.params, work)

    def take(batches: Any) -> int:
        cells = 0
        for start in range(0, len(batches), STEPS_PER_CALL):
            tokens, *others = pad_batches(train, batches[start : start + STEPS_PER_CALL])
            steps(tokens, *others).numpy()
            cells += tokens.size
        return cells

    def epoch() -> dict[str, Any]:
        """A pass over the training set, padding and reading of losses included."""
        batches = training_batches(train, setup.batch_size, SEED, 1)
        return {"steps": len(batches), "cells": take(batches)}

    return partial(train_until, setup, work, take, partial(predict, model)) if setup.until else epoch, losses


def products() -> dict[str, Any]:
    """What the processor can do: products of two matrices, each shared by all threads."""
    left = right = tf.random.stateless_normal([PRODUCT, PRODUCT], [SEED, 0])
    for _ in range(PRODUCTS):
        tf.matmul(left, right).numpy()
    return {"steps": PRODUCTS, "cells": 0}


def our_steps(params: Params, work: Work) -> tuple[Any, keras.Model]:
    """The project's training steps and network, on the weights that every contender starts from."""
    data, weights, train = work.data, work.weights, params.train
    model = build_classifier(params.model, data.matrix, data.training_words, len(data.labels), SEED)
    lstm = [weights[name][direction] for direction in (0, 1) for name in ("kernel", "recurrent", "bias")]
    model.get_layer("bilstm_1").set_weights(lstm)
    model.get_layer("attention").set_weights([weights["attention"]])
    model.get_layer("probabilities").set_weights([weights["output"], weights["output_bias"]])
    optimizer = make_optimizer(train, len(work.batches))
    optimizer.build(model.trainable_variables)
    return several_steps(training_step(model, optimizer, len(data.labels), train)), model


def snippet(setup: Setup, work: Work) -> keras.Model:
    """The snippet as it is copied, unmasked and with trained vectors; `Dot` is its RepeatVector, multiply and sum."""
    inputs = keras.Input((LENGTH,), dtype="int32")
    embedded = Embedding(*work.vectors.shape, weights=[work.vectors])(inputs)
    states = Bidirectional(LSTM(setup.units, return_sequences=True))(embedded)
    attention = Activation("softmax")(Flatten()(Dense(1, activation="tanh")(states)))
    sentence = keras.layers.Dot(axes=1)([attention, states])
    model = keras.Model(inputs, Dense(len(work.data.labels), activation="softmax")(sentence))
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def padded(work: Work, rows: Rows) -> Any:
    """Word ids `(N, 100)`; words that training does not show are unknown."""
    tokens = pad(rows, np.arange(len(rows)))[:, :LENGTH]
    tokens = np.pad(tokens, ((0, 0), (0, LENGTH - tokens.shape[1])))
    return np.where(tokens < work.data.training_words, tokens, SPECIALS.index(UNK)).astype(np.int32)
