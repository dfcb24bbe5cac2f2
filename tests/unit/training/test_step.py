"""One step of training against Keras's own optimizers and losses."""

from collections.abc import Callable
from typing import Any, get_args

import keras
import numpy as np
import pytest
import tensorflow as tf
from tests.unit.training.small_task import CLASSES, DATA, EXACT, STEPS, dropout, network, train, trained_values

from bilstm_attention.config import Attention, Model, Schedule, Train
from bilstm_attention.data.dataset import pad
from bilstm_attention.training.fit import balanced_weights
from bilstm_attention.training.optimizers import OPTIMIZERS, make_optimizer
from bilstm_attention.training.step import training_step

KERAS_OPTIMIZERS = {"adam": "Adam", "adadelta": "Adadelta", "rmsprop": "RMSprop", "sgd": "SGD"}
TOKENS, LABELS = pad(DATA.train, np.arange(8)), DATA.train.labels[:8]
GOLD = np.eye(len(CLASSES))[LABELS]


def test_optimizers_are_those_of_the_parameters():
    assert set(OPTIMIZERS) == set(KERAS_OPTIMIZERS) == set(get_args(Train.model_fields["optimizer"].annotation))


def step_and_reference(
    params: Model, settings: Train, optimizers: tuple[Any, Any] | None = None, class_weights: Any = None
) -> tuple[Any, keras.Model, Any, Any]:
    """Our step; a model of the same weights as reference and its optimizer; a check that both still have the same."""
    models = network(params), network(params)
    optimizers = optimizers or (keras.optimizers.SGD(0.5), keras.optimizers.SGD(0.5))
    for model, optimizer in zip(models, optimizers, strict=True):
        optimizer.build(model.trainable_variables)

    def check(atol: float = 1e-6) -> None:
        for value, wanted in zip(*(trained_values(model) for model in models), strict=True):
            np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=atol)
        for one, other in zip(*(optimizer.variables for optimizer in optimizers), strict=True):
            np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-4, atol=atol)

    step = training_step(models[0], optimizers[0], len(CLASSES), settings, class_weights)
    return step, models[1], optimizers[1], check


def check_steps(loss_and_total: Callable[[keras.Model], tuple[Any, Any]], *arguments: Any) -> None:
    """Our step returns this loss, and moves the weights as Keras's optimizer does on this total, four times."""
    step, reference, optimizer, check = step_and_reference(*arguments)
    for _ in range(4):
        with tf.GradientTape() as tape:
            loss, total = loss_and_total(reference)
        optimizer.apply(dense(tape.gradient(total, reference.trainable_variables)))
        assert float(step(TOKENS, LABELS)) == pytest.approx(float(loss), rel=1e-5)
    check()


def dense(gradients: Any) -> list[tf.Tensor]:
    return [tf.convert_to_tensor(gradient) for gradient in gradients]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_step_is_that_of_keras_on_loss_and_penalties(name):
    """With a penalty of the attention beside those of weights; clipped, averaged and scheduled."""
    params = EXACT.model_copy(update={"attention": Attention(kind="structured", hops=2, size=3), "l2": 0.05})
    schedule = Schedule(kind="cosine", warmup_epochs=1)
    settings = train(optimizer=name, clip_norm=0.5, ema=0.9, label_smoothing=0.1, schedule=schedule)
    ours = make_optimizer(settings, STEPS)
    config = {**ours.get_config(), "global_clipnorm": settings.clip_norm}
    plain = getattr(keras.optimizers, KERAS_OPTIMIZERS[name]).from_config(config)
    loss_function = keras.losses.CategoricalCrossentropy(label_smoothing=0.1)

    def loss_and_total(model):
        loss = loss_function(GOLD, model(TOKENS, training=True))
        assert len(model.losses) > 1
        return loss, loss + tf.add_n(model.losses)

    check_steps(loss_and_total, params, settings, (ours, plain))


def test_balanced_classes_weigh_the_same_in_the_loss():
    weights = balanced_weights(DATA)
    counts = np.bincount(DATA.train.labels)
    np.testing.assert_allclose(weights * counts, len(DATA.train) / len(CLASSES), rtol=1e-6)

    def loss_and_total(model):
        losses = keras.losses.categorical_crossentropy(GOLD, model(TOKENS, training=True))
        return [tf.reduce_mean(weights[LABELS] * losses)] * 2

    check_steps(loss_and_total, EXACT.model_copy(update={"l2": 0.0}), train(clip_norm=None), None, weights)


def test_r_drop_adds_the_divergence_of_two_dropouts():
    """Half of equation 4 of Liang et al. 2021, with alpha = 1.4, by Keras's own divergence."""
    params = EXACT.model_copy(update={"dropout": dropout(0.4), "l2": 0.0})

    def loss_and_total(model):
        p, q = tf.split(model(np.concatenate([TOKENS, TOKENS]), training=True), 2)
        likelihoods = [tf.reduce_mean(keras.losses.categorical_crossentropy(GOLD, drawn)) for drawn in (p, q)]
        divergences = [tf.reduce_mean(keras.losses.kl_divergence(*pair)) for pair in ((p, q), (q, p))]
        assert float(divergences[0]) > 1e-3
        return tf.add_n(likelihoods) / 2, (tf.add_n(likelihoods) + 1.4 * tf.add_n(divergences) / 2) / 2

    check_steps(loss_and_total, params, train(r_drop=0.7, clip_norm=None))


@pytest.mark.parametrize("attention", [Attention(), Attention(kind="structured", hops=2, size=3)])
def test_adversarial_step_learns_also_where_the_loss_grows_most(attention):
    """Equations 5 to 7 of Miyato et al. 2017, on the whole network, by shifting the output of its embedding."""
    params = EXACT.model_copy(update={"attention": attention, "l2": 0.01})
    step, reference, plain, check = step_and_reference(params, train(adversarial=0.8, clip_norm=None))
    embedding = reference.get_layer("embedding")
    look_up = embedding.call
    for _ in range(3):
        losses, gradients, shift = [], [], tf.zeros([])
        for _ in range(2):
            lookups: list[tf.Tensor] = []

            def shifted(ids, shift=shift, lookups=lookups):
                lookups.append(look_up(ids) + shift)
                return lookups[0]

            embedding.call = shifted
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(keras.losses.categorical_crossentropy(GOLD, reference(TOKENS, training=True)))
                total = loss + tf.add_n(reference.losses)
            *by_weights, by_vectors = tape.gradient(total, [*reference.trainable_variables, lookups[0]])
            shift = 0.8 * by_vectors / np.sqrt((by_vectors.numpy() ** 2).sum(axis=(1, 2), keepdims=True))
            losses.append(float(loss))
            gradients.append(dense(by_weights))
        assert losses[1] > losses[0]
        assert float(step(TOKENS, LABELS)) == pytest.approx(losses[0], rel=1e-5)
        plain.apply([(one + two) / 2 for one, two in zip(*gradients, strict=True)])
    check(atol=1e-5)


def test_step_takes_the_gradient_of_the_lstm_once():
    """With a persistent tape TensorFlow would take its own beside ours: the same weights, in a third more time."""
    model, optimizer = network(EXACT), make_optimizer(train(), 1)
    optimizer.build(model.trainable_variables)
    graph = training_step(model, optimizer, len(CLASSES), train()).get_concrete_function().graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    assert {node.op for node in nodes} & {"BlockLSTMGrad", "BlockLSTMGradV2"} == {"BlockLSTMGradV2"}
