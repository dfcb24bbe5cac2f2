"""Ours: the project's network and training step, with its own LSTM kernel (`ours`) or with that of Keras (`keras`)."""

import itertools
import time
from functools import partial
from typing import Any

from work import CHECKED_STEPS, SEED, Contender, Setup, Work, load_work

from bilstm_attention.config import Dropout, Model
from bilstm_attention.console import start_tensorflow
from bilstm_attention.data.dataset import pad, training_batches

start_tensorflow()

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

from bilstm_attention.model import predict as prediction  # noqa: E402
from bilstm_attention.model.classifier import build_classifier  # noqa: E402
from bilstm_attention.model.lstm import Kernel, bidirectional_lstm  # noqa: E402
from bilstm_attention.training import fit as training  # noqa: E402
from bilstm_attention.training import step as steps  # noqa: E402
from bilstm_attention.training.optimizers import make_optimizer  # noqa: E402

KERNELS: dict[str, Kernel] = {"ours": "auto", "keras": "keras"}
LAYER_STEPS = 20


class Reached(Exception):  # noqa: N818
    """Ends a training whose score is good enough."""


def contender(setup: Setup) -> Contender:
    """What `setup.measure` asks for."""
    if setup.threads:
        training.use_threads(setup.threads)
    if setup.measure == "layer":
        return Contender(layers(setup))
    work = load_work(setup)
    if setup.measure == "run":
        seeds = itertools.count()
        return Contender({"fit": lambda: run(setup, work, next(seeds))}, warm=False)
    train = work.task.train
    model, step = training_step(setup, work, network(setup))

    def epoch(step: Any) -> dict[str, Any]:
        cells = 0
        batches = training_batches(train, setup.batch_size, SEED, 1)
        for batch in batches:
            tokens = pad(train, batch)
            float(step(tokens, train.labels[batch]))
            cells += tokens.size
        return {"steps": len(batches), "cells": cells}

    if setup.measure == "parts":
        return Contender({name: partial(epoch, part) for name, part in {**parts(model), "step": step}.items()})
    return Contender({"as fit": partial(epoch, step)}, losses(setup, work))


def network(setup: Setup) -> Model:
    """`params.model` with the contender's kernel."""
    return Model(lstm_units=setup.units, lstm_kernel=KERNELS[setup.contender])


def parts(model: keras.Model) -> dict[str, Any]:
    """Ever larger parts of the training step: a call that does nothing, the forward pass, and its gradient as well."""
    cross_entropy = keras.losses.SparseCategoricalCrossentropy()

    def call(tokens: Any, labels: Any) -> Any:
        return tf.cast(labels[0], tf.float32)

    def forward(tokens: Any, labels: Any) -> Any:
        return cross_entropy(labels, model(tokens, training=True))

    def gradient(tokens: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = forward(tokens, labels)
        found = tape.gradient(loss, model.trainable_variables)
        # what nobody reads TensorFlow does not compute
        return loss + 1e-30 * tf.add_n([tf.reduce_sum(getattr(each, "values", each)) for each in found])

    spec = [prediction.TOKENS, steps.LABELS]
    return {
        part.__name__: tf.function(part, input_signature=spec, autograph=False) for part in (call, forward, gradient)
    }


def training_step(setup: Setup, work: Work, params: Model) -> tuple[keras.Model, Any]:
    """The project's network and training step, on weights that every contender starts from."""
    task, weights = work.task, work.weights
    model = build_classifier(params, task.matrix, task.training_words, len(task.labels), SEED)
    lstm = [weights[name][direction] for direction in (0, 1) for name in ("kernel", "recurrent", "bias")]
    model.get_layer("bilstm_1").set_weights(lstm)
    model.get_layer("attention").set_weights([weights["attention"]])
    model.get_layer("probabilities").set_weights([weights["output"], weights["output_bias"]])
    optimizer = make_optimizer(setup.train, len(work.batches))
    optimizer.build(model.trainable_variables)
    smoothing, norm = setup.train.label_smoothing, setup.train.clip_norm
    return model, steps.training_step(model, optimizer, len(task.labels), smoothing, steps.devices(1), norm)


def losses(setup: Setup, work: Work) -> list[float]:
    """Of the first steps on the first batch of sentences of any length, dropout off."""
    without = network(setup).model_copy(update={"dropout": Dropout(embedding=0.0, lstm=0.0, sentence=0.0)})
    (_, step), train, batch = training_step(setup, work, without), work.task.train, work.mixed[0]
    return [float(step(pad(train, batch), train.labels[batch])) for _ in range(CHECKED_STEPS)]


def layers(setup: Setup) -> dict[str, Any]:
    """One bidirectional LSTM, forward and backward, by length."""
    inputs, mask = keras.Input((None, setup.dimension)), keras.Input((None,), dtype="bool")
    options: Any = {"merge": "sum", "dropout": 0.0, "l2": 0.0, "kernel": network(setup).lstm_kernel}
    states, _ = bidirectional_lstm(inputs, mask, units=setup.units, layers=1, **options)
    model = keras.Model([inputs, mask], states)
    spec = tf.TensorSpec([None, None, setup.dimension]), tf.TensorSpec([None, None], tf.bool)

    @tf.function(input_signature=spec)
    def gradient(states: Any, mask: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(states)
            total = tf.reduce_sum(model([states, mask], training=True))
        return tape.gradient(total, [states, *model.trainable_variables])

    def steps(length: int) -> Any:
        states = tf.random.normal((setup.batch_size, length, setup.dimension))
        mask = tf.ones((setup.batch_size, length), tf.bool)

        def take() -> dict[str, Any]:
            for _ in range(LAYER_STEPS):
                gradient(states, mask)[0].numpy()
            return {"steps": LAYER_STEPS}

        return take

    return {str(length): steps(length) for length in setup.lengths}


def run(setup: Setup, work: Work, seed: int) -> dict[str, Any]:
    """A training from nothing until its accuracy on dev is `setup.score`."""
    curve: list[dict[str, float]] = []
    begun = time.perf_counter()

    def judged(row: dict[str, Any]) -> None:
        curve.append({"seconds": time.perf_counter() - begun, "accuracy": row["dev_accuracy"]})
        if row["dev_accuracy"] >= setup.score:
            raise Reached

    try:
        training.fit(network(setup), setup.train, work.task, seed, on_epoch=judged)
    except Reached:
        return {"steps": 1, "curve": curve, "reached": True}
    return {"steps": 1, "curve": curve, "reached": False}
