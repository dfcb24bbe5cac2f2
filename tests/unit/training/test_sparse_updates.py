"""`train.embedding_updates: sparse`, against the dense step whose untouched rows are put back after each update."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bilstm_attention.config import Dropout, Model, Params, Train
from bilstm_attention.console import start_tensorflow
from bilstm_attention.data.dataset import Dataset, Rows

start_tensorflow()
import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

from bilstm_attention.model.classifier import build_classifier  # noqa: E402
from bilstm_attention.training.fit import run_training  # noqa: E402
from bilstm_attention.training.optimizers import make_optimizer  # noqa: E402
from bilstm_attention.training.step import training_step  # noqa: E402

CLASSES, WORDS = 3, 12
KERAS = {
    "adam": keras.optimizers.Adam,
    "adadelta": keras.optimizers.Adadelta,
    "rmsprop": keras.optimizers.RMSprop,
    "sgd": keras.optimizers.SGD,
}
# words repeat in a batch, and each batch lacks words of the one before
BATCHES = [[[3, 3, 4], [5, 6, 0]], [[6, 7, 7], [8, 8, 8]], [[3, 4, 9], [10, 0, 0]]]
LABELS = np.array([0, 2], np.int32)
EXACT = Dropout(embedding=0.0, lstm=0.0, sentence=0.0)


def network(l2: float) -> keras.Model:
    matrix = np.random.default_rng(0).normal(size=(WORDS, 4)).astype(np.float32)
    return build_classifier(Model(lstm_units=3, dropout=EXACT, l2=l2), matrix, WORDS, CLASSES, seed=0)


def settings(**changes: Any) -> Train:
    return Train(**{"learning_rate": 0.05, "clip_norm": 0.5, "embedding_updates": "sparse", **changes})


def take_steps(model: keras.Model, train: Train) -> keras.optimizers.Optimizer:
    optimizer = make_optimizer(train, len(BATCHES))
    optimizer.build(model.trainable_variables)
    step = training_step(model, optimizer, CLASSES, train)
    for tokens in BATCHES:
        step(np.array(tokens, np.int32), LABELS)
    return optimizer


@pytest.mark.parametrize("name", KERAS)
def test_sparse_step_updates_the_words_of_its_batch_and_no_others(name: str) -> None:
    l2, train = 0.05, settings(optimizer=name)
    ours, reference = network(l2), network(l2)
    optimizer = take_steps(ours, train)
    plain = KERAS[name](train.learning_rate, global_clipnorm=train.clip_norm)
    plain.build(reference.trainable_variables)
    table = next(weight for weight in reference.trainable_variables if weight.name == "learned")
    tables = [each for each in [table, *plain.variables] if tuple(each.shape) == tuple(table.shape)]
    for tokens in np.array(BATCHES, np.int32):
        touched = np.isin(np.arange(WORDS), tokens)[:, np.newaxis]
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(
                keras.losses.sparse_categorical_crossentropy(LABELS, reference(tokens, training=True))
            )
            others = [weight for weight in reference.trainable_variables if weight.regularizer and weight is not table]
            penalty = tf.add_n([weight.regularizer(weight) for weight in others])
            total = loss + penalty + l2 * tf.reduce_sum(touched * table.value**2)
        gradients = tape.gradient(total, reference.trainable_variables)
        before = [each.numpy() for each in tables]
        plain.apply([tf.convert_to_tensor(gradient) for gradient in gradients])
        for each, old in zip(tables, before, strict=True):
            each.assign(np.where(touched, each.numpy(), old))
    pairs = zip(
        [*ours.trainable_variables, *optimizer.variables],
        [*reference.trainable_variables, *plain.variables],
        strict=True,
    )
    for value, wanted in pairs:
        np.testing.assert_allclose(value.numpy(), wanted.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("changes", [{}, {"adversarial": 0.5}, {"r_drop": 0.5}])
def test_without_moments_and_penalty_sparse_equals_dense(changes: dict[str, float]) -> None:
    models = network(0.0), network(0.0)
    for model, updates in zip(models, ("sparse", "dense"), strict=True):
        take_steps(model, settings(optimizer="sgd", learning_rate=0.5, embedding_updates=updates, **changes))
    for value, wanted in zip(*(model.trainable_variables for model in models), strict=True):
        np.testing.assert_allclose(value.numpy(), wanted.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("updates", "operations"),
    [
        ("sparse", {"ResourceGather", "ResourceScatterSub"}),
        ("dense", {"ReadVariableOp", "ResourceApplyAdam"}),
    ],
)
def test_a_step_reads_rows_or_the_whole_table(updates: str, operations: set[str]) -> None:
    """A variable whose rows are looked up or updated is copied at each whole read."""
    model, train = network(0.01), settings(embedding_updates=updates)
    optimizer = make_optimizer(train, 1)
    optimizer.build(model.trainable_variables)
    graph = training_step(model, optimizer, CLASSES, train).get_concrete_function().graph
    table = model.get_layer("embedding").learned.value.handle
    (name,) = [inner.op.name for outer, inner in graph.captures if outer is table]
    assert {node.op for node in graph.as_graph_def().node if name in node.input} == operations


@pytest.mark.parametrize("optimizer", ["adam", "adadelta", "rmsprop"])
def test_resumed_sparse_training_gives_the_same_weights(optimizer: str, tmp_path: Path) -> None:
    def stop(row: dict[str, Any]) -> None:
        if row["epoch"] == 1:
            raise KeyboardInterrupt

    draw = np.random.default_rng(1)
    tokens = [draw.integers(1, WORDS, 5).astype(np.int32) for _ in range(24)]
    rows = Rows.from_ids(tokens, draw.integers(0, CLASSES, 24).astype(np.int32))
    matrix = draw.normal(size=(WORDS, 4)).astype(np.float32)
    data = Dataset(rows, rows, ["a", "b", "c"], matrix, WORDS)
    train = settings(optimizer=optimizer, epochs=2, batch_size=8, ema=0.9, monitor="accuracy")
    params = Params(model=Model(lstm_units=3), train=train)
    whole = run_training(params, data, 0)
    with pytest.raises(KeyboardInterrupt):
        run_training(params, data, 0, checkpoints=tmp_path, on_epoch=stop)
    resumed = run_training(params, data, 0, checkpoints=tmp_path)
    for value, wanted in zip(resumed.model.weights, whole.model.weights, strict=True):
        np.testing.assert_array_equal(value.numpy(), wanted.numpy())
