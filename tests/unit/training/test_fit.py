import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from bilstm_attention.config import Attention, Dropout, Model, Params, Schedule, Train
from bilstm_attention.console import start_tensorflow
from bilstm_attention.data.dataset import Dataset, Rows, pad
from bilstm_attention.errors import ParamsError, TrainingError
from bilstm_attention.evaluation.metrics import scores

start_tensorflow()
import keras  # noqa: E402
import tensorflow as tf  # noqa: E402

from bilstm_attention.model import predict as prediction  # noqa: E402
from bilstm_attention.model.attention import MECHANISMS  # noqa: E402
from bilstm_attention.model.classifier import WordEmbedding, build_classifier  # noqa: E402
from bilstm_attention.model.predict import predict  # noqa: E402
from bilstm_attention.training import fit as training  # noqa: E402
from bilstm_attention.training.fit import (  # noqa: E402
    TrainingResult,
    digest,
    run_training,
    training_checkpoint,
)
from bilstm_attention.training.optimizers import OPTIMIZERS, make_optimizer  # noqa: E402
from bilstm_attention.training.step import training_step  # noqa: E402

CLASSES = ["a", "b", "c"]
RELATIONS = ["Cause-Effect(e1,e2)", "Cause-Effect(e2,e1)", "Other"]
WORDS, TRAINING_WORDS, FIRST_CLUE, FIRST_NOISE = 20, 18, 6, 9


def rows(count: int, seed: int) -> Rows:
    """Sentences of two to six words, one of which tells the class."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, len(CLASSES), count).astype(np.int32)
    tokens = [draw.integers(FIRST_NOISE, TRAINING_WORDS, draw.integers(2, 7)).astype(np.int32) for _ in labels]
    for row, label in zip(tokens, labels, strict=True):
        row[draw.integers(len(row))] = FIRST_CLUE + label
    return Rows.from_ids(tokens, labels)


def tiny_task(labels: list[str] = CLASSES, scale: float = 1.0) -> Dataset:
    matrix = np.random.default_rng(2).normal(scale=scale, size=(WORDS, 4)).astype(np.float32)
    matrix[0] = 0
    return Dataset(rows(45, 0), rows(24, 1), labels, matrix, TRAINING_WORDS)


def dropout(rate: float) -> Dropout:
    return Dropout(embedding=rate, lstm=rate, sentence=rate)


TASK = tiny_task()
STEPS = 6  # 45 sentences in batches of 8
TINY = Model(lstm_units=3, dropout=dropout(0.1))
EXACT = Model(lstm_units=3, dropout=dropout(0.0))


def train(**changed: Any) -> Train:
    return Train(**{"epochs": 2, "batch_size": 8, "learning_rate": 0.05, "monitor": "accuracy", **changed})


def fit(model: Model, settings: Train, dataset: Dataset, seed: int, **options: Any) -> TrainingResult:
    return run_training(Params(model=model, train=settings), dataset, seed, **options)


def values(model: keras.Model) -> list[np.ndarray]:
    return [weight.numpy() for weight in model.weights]


def bits(fitted: TrainingResult) -> tuple[str, str]:
    """Weights and history to the last bit."""
    return digest(*values(fitted.model)), json.dumps([fitted.best_epoch, fitted.dev, fitted.history.to_dict("list")])


def bag_of_words(model: Model, matrix: np.ndarray, training_words: int, classes: int, seed: int) -> keras.Model:
    """A network that TensorFlow traces in no time, for what holds of the loop whatever the network."""
    keras.utils.set_random_seed(seed)
    tokens = keras.Input((None,), dtype="int32")
    embedding = WordEmbedding(*matrix.shape, training_words, name="embedding")
    states = keras.layers.Dropout(model.dropout.embedding)(embedding(tokens))
    pooled, _ = MECHANISMS["mean"](name="attention")(states, mask=keras.ops.not_equal(tokens, 0))
    network = keras.Model(tokens, keras.layers.Dense(classes, activation="softmax")(pooled))
    embedding.set_matrix(matrix)
    return network


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> Callable[[], keras.Model]:
    """Trains the bag of words; calling it gives the network trained last."""
    built: list[keras.Model] = []

    def build(*given: Any) -> keras.Model:
        built.append(bag_of_words(*given))
        return built[-1]

    monkeypatch.setattr(training, "build_classifier", build)
    return lambda: built[-1]


LEARNED = train(epochs=14)


@pytest.fixture(scope="module")
def learned() -> TrainingResult:
    return fit(TINY, LEARNED, TASK, seed=0)


# What is learned, and that it is the same each time


def test_a_separable_task_is_learned(learned: TrainingResult) -> None:
    assert learned.dev["accuracy"] == 100
    assert learned.history["loss"].iloc[-1] < learned.history["loss"].iloc[0] / 2


def test_the_weights_are_those_of_the_best_epoch(learned: TrainingResult) -> None:
    """Its dev scores, predicted again, are the ones recorded, and a training that ends there has the same weights."""
    assert 1 < learned.best_epoch < len(learned.history)
    predicted = predict(learned.model, TASK.dev)
    names = np.array(CLASSES)
    found = scores(names[TASK.dev.labels].tolist(), names[predicted.argmax(axis=1)].tolist(), CLASSES)
    of_gold = predicted[np.arange(len(TASK.dev)), TASK.dev.labels].astype(np.float64)
    assert {name: learned.dev[name] for name in found} == found
    assert learned.dev["loss"] == pytest.approx(-np.log(of_gold).mean(), rel=1e-6)
    row = learned.history.iloc[learned.best_epoch - 1]
    assert {f"dev_{name}": value for name, value in learned.dev.items()} == dict(row.filter(like="dev_"))
    shorter = fit(TINY, train(epochs=learned.best_epoch), TASK, seed=0)
    assert digest(*values(shorter.model)) == digest(*values(learned.model))


def test_training_again_gives_the_same_bytes(learned: TrainingResult) -> None:
    assert bits(fit(TINY, LEARNED, TASK, seed=0)) == bits(learned)


def test_each_epoch_shows_every_sentence_in_an_order_of_its_own(quick: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[list[int]] = []
    pad = training.pad

    def watched(rows: Rows, batch: np.ndarray) -> np.ndarray:
        if rows is TASK.train:
            shown.append(batch.tolist())
        return pad(rows, batch)

    monkeypatch.setattr(training, "pad", watched)
    fit(TINY, train(), TASK, seed=0)
    first, second = shown[:STEPS], shown[STEPS:]
    assert sorted(sum(first, [])) == sorted(sum(second, [])) == list(range(len(TASK.train)))  # noqa: RUF017
    assert first != second


def test_adversarial_training_gives_the_same_bytes() -> None:
    """With l2 three gradients are added, which TensorFlow would do in a changing order."""
    settings, model = train(adversarial=0.8), TINY.model_copy(update={"l2": 0.01})
    assert bits(fit(model, settings, TASK, seed=0)) == bits(fit(model, settings, TASK, seed=0))


def test_another_seed_gives_other_weights(quick: Any) -> None:
    assert bits(fit(TINY, train(), TASK, seed=0)) != bits(fit(TINY, train(), TASK, seed=1))


WIDE = Model(lstm_units=40, dropout=dropout(0.3))
CHILD = """
from tests.unit.training.test_fit import TASK, WIDE, bits, fit, train
print(*bits(fit(WIDE, train(batch_size=32), TASK, seed=5)))
"""


def test_processes_and_threads_do_not_change_a_bit() -> None:
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD],
            cwd=Path(__file__).parents[3],
            env={**os.environ, "BILSTM_ATTENTION_THREADS": threads},
            stdout=subprocess.PIPE,
            text=True,
        )
        for threads in ("1", "1", "2")
    ]
    first, *others = [child.communicate()[0].strip() for child in children]
    assert first
    assert others == [first, first]


# Which weights move


@pytest.mark.parametrize("kind", MECHANISMS)
def test_one_step_moves_every_trained_weight_and_no_other(kind: str) -> None:
    model = EXACT.model_copy(update={"attention": Attention(kind=kind), "merge": "concat"})
    before = build_classifier(model, TASK.matrix, TRAINING_WORDS, len(CLASSES), seed=0)
    after = fit(model, train(epochs=1, batch_size=64, optimizer="sgd"), TASK, seed=0).model
    moved = {new.path: not np.array_equal(old, new) for old, new in zip(before.weights, after.weights, strict=True)}
    trained = {weight.path for weight in after.trainable_weights}
    assert moved == {path: path in trained for path in moved}
    assert len(trained) == len(moved) - 1


def test_frozen_embeddings_stay_as_they_were_read() -> None:
    model = EXACT.model_copy(update={"train_embeddings": False})
    fitted = fit(model, train(epochs=1, learning_rate=1.0), TASK, seed=0)
    (matrix,) = fitted.model.get_layer("embedding").get_weights()
    assert np.array_equal(matrix, TASK.matrix)


def test_words_that_training_never_shows_keep_their_vectors(learned: TrainingResult) -> None:
    trained, fixed = learned.model.get_layer("embedding").get_weights()
    assert np.array_equal(fixed, TASK.matrix[TRAINING_WORDS:])
    assert not np.array_equal(trained, TASK.matrix[:TRAINING_WORDS])


# The loss and the step


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_the_loss_is_the_mean_cross_entropy_of_smoothed_labels(smoothing: float, quick: Any) -> None:
    """`-(1 - s) log p_gold - s/C sum_c log p_c` (Szegedy et al. 2016, section 7), on average over sentences."""
    still = train(epochs=1, optimizer="sgd", learning_rate=1e-12, label_smoothing=smoothing)
    row = fit(EXACT, still, TASK, seed=0).history.iloc[0]
    initial = bag_of_words(EXACT, TASK.matrix, TRAINING_WORDS, len(CLASSES), 0)

    def cross_entropy(rows: Rows, smoothing: float) -> float:
        logs = np.log(predict(initial, rows).astype(np.float64))
        of_gold = logs[np.arange(len(rows)), rows.labels]
        return float((-(1 - smoothing) * of_gold - smoothing * logs.mean(axis=1)).mean())

    assert row["loss"] == pytest.approx(cross_entropy(TASK.train, smoothing), rel=1e-5)
    assert row["dev_loss"] == pytest.approx(cross_entropy(TASK.dev, 0.0), rel=1e-5)


def test_clipping_shortens_the_step_to_the_norm_and_keeps_its_direction(quick: Any) -> None:
    def step(clip_norm: float | None) -> np.ndarray:
        one = train(epochs=1, batch_size=64, optimizer="sgd", learning_rate=2.0, clip_norm=clip_norm)
        after = fit(EXACT, one, TASK, seed=0).model.trainable_variables
        before = bag_of_words(EXACT, TASK.matrix, TRAINING_WORDS, len(CLASSES), 0).trainable_variables
        return np.concatenate([np.ravel(new.numpy() - old.numpy()) for new, old in zip(after, before, strict=True)])

    free, clipped = step(None), step(0.01)
    assert np.linalg.norm(free) > 0.1
    assert np.linalg.norm(clipped) == pytest.approx(2.0 * 0.01, rel=1e-3)
    assert clipped @ free == pytest.approx(np.linalg.norm(clipped) * np.linalg.norm(free), rel=1e-4)
    assert np.array_equal(step(1e6), free)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_trains_and_resumes_as_if_never_stopped(name: str, quick: Any, tmp_path: Path) -> None:
    settings = train(optimizer=name, ema=0.9, schedule=Schedule(kind="cosine", warmup_epochs=0.5))
    whole = fit(TINY, settings, TASK, seed=3)
    assert not np.array_equal(whole.model.get_layer("embedding").get_weights()[0], TASK.matrix[:TRAINING_WORDS])
    with pytest.raises(KeyboardInterrupt):
        fit(TINY, settings, TASK, seed=3, checkpoints=tmp_path, on_epoch=interrupt_after(1))
    seen: list[int] = []
    resumed = fit(TINY, settings, TASK, 3, checkpoints=tmp_path, on_epoch=lambda row: seen.append(row["epoch"]))
    assert seen == [2]
    assert bits(resumed) == bits(whole)


def interrupt_after(epoch: int) -> Callable[[dict[str, Any]], None]:
    def on_epoch(row: dict[str, Any]) -> None:
        if row["epoch"] == epoch:
            raise KeyboardInterrupt

    return on_epoch


KERAS_OPTIMIZERS = [getattr(keras.optimizers, name) for name in ("Adam", "RMSprop", "SGD", "Adadelta")]


def test_the_optimizers_are_those_the_parameters_name() -> None:
    assert set(OPTIMIZERS) == set(get_args(Train.model_fields["optimizer"].annotation))


# Moving average and learning rate


def test_the_model_judged_and_kept_is_the_moving_average(quick: Any) -> None:
    """`a_1 = w_1`, then `a_t = m a_(t-1) + (1 - m) w_t`; training itself goes on from the weights, not the average."""

    def trained(ema: float) -> tuple[TrainingResult, list[list[np.ndarray]]]:
        steps: list[list[np.ndarray]] = []
        settings = train(optimizer="sgd", learning_rate=1.0, ema=ema, monitor="loss")
        return fit(TINY, settings, TASK, 0, on_batch=lambda *_: steps.append(trained_values(quick()))), steps

    plain, raw = trained(0.0)
    averaged, same = trained(0.8)
    assert [digest(*weights) for weights in raw] == [digest(*weights) for weights in same]
    average = [weight.astype(np.float64) for weight in raw[0]]
    for weights in raw[1 : averaged.best_epoch * STEPS]:
        average = [0.8 * old + 0.2 * new for old, new in zip(average, weights, strict=True)]
    for found, expected in zip(trained_values(averaged.model), average, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert averaged.dev["loss"] != plain.dev["loss"]
    of_gold = predict(averaged.model, TASK.dev)[np.arange(len(TASK.dev)), TASK.dev.labels].astype(np.float64)
    assert averaged.dev["loss"] == pytest.approx(-np.log(of_gold).mean(), rel=1e-6)


def trained_values(model: keras.Model) -> list[np.ndarray]:
    return [variable.numpy() for variable in model.trainable_variables]


def half_cosine(done: float) -> float:
    return 0.5 * (1 + np.cos(np.pi * done))


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        (Schedule(), [1, 1, 1, 1]),
        (Schedule(kind="cosine"), [half_cosine(done) for done in (0, 0.25, 0.5, 0.75)]),
        (Schedule(warmup_epochs=2.0), [0, 0.5, 1, 1]),
        (Schedule(kind="cosine", warmup_epochs=1.0), [0, *[half_cosine(done) for done in (0, 1 / 3, 2 / 3)]]),
        (Schedule(kind="cosine", warmup_epochs=4.0), [0, 1 / 4, 2 / 4, 3 / 4]),
    ],
    ids=["constant", "cosine", "warm-up", "warm-up and cosine", "warm-up as long as the training"],
)
def test_each_epoch_begins_at_its_scheduled_learning_rate(schedule: Schedule, shares: list[float], quick: Any) -> None:
    history = fit(TINY, train(epochs=4, schedule=schedule), TASK, seed=0).history
    assert history["learning_rate"].tolist() == pytest.approx([0.05 * share for share in shares], rel=1e-5)


def test_a_learning_rate_of_zero_moves_nothing(quick: Any) -> None:
    """The first step of a warm-up, so that the column is the rate that was used."""
    settings = train(epochs=1, batch_size=64, optimizer="sgd", schedule=Schedule(warmup_epochs=1.0))
    initial = bag_of_words(TINY, TASK.matrix, TRAINING_WORDS, len(CLASSES), 0)
    after = fit(TINY, settings, TASK, seed=0).model
    assert digest(*trained_values(after)) == digest(*trained_values(initial))


# Picking the epoch


@pytest.mark.parametrize(
    ("dev", "patience", "best", "epochs"),
    [
        ([50, 70, 70, 60, 80], 2, 2, 4),
        ([50, 70, 70, 60, 80], 3, 5, 5),
        ([50, 50, 50, 50, 50], 9, 1, 5),
        ([50, 50, 50, 50, 50], 1, 1, 2),
        ([10, 20, 30, 40, 50], 1, 5, 5),
        ([0, 0, 30, 30, 10], 9, 3, 5),
    ],
)
def test_training_stops_when_patience_ends_and_keeps_the_earliest_best_epoch(
    dev: list[float], patience: int, best: int, epochs: int, quick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = iter(dev)
    monkeypatch.setattr(training, "scores", lambda *_: {"accuracy": next(script), "macro_f1": 0.0})
    fitted = fit(TINY, train(epochs=5, patience=patience), TASK, seed=0)
    assert (fitted.best_epoch, len(fitted.history)) == (best, epochs)
    assert fitted.dev["accuracy"] == dev[best - 1]


def test_the_last_epoch_is_kept_where_the_best_is_not_to_be_restored(
    quick: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = iter([50, 70, 40, 60, 60])
    monkeypatch.setattr(training, "scores", lambda *_: {"accuracy": next(script), "macro_f1": 0.0})
    settings = train(epochs=5, patience=1, restore_best_weights=False)
    last = fit(TINY, settings, TASK, seed=0)
    assert (last.best_epoch, len(last.history), last.dev["accuracy"]) == (5, 5, 60)
    monkeypatch.setattr(training, "scores", lambda *_: {"accuracy": 50.0, "macro_f1": 0.0})
    kept = [fit(TINY, settings.model_copy(update={"epochs": epochs}), TASK, seed=0).model for epochs in (4, 5)]
    assert [digest(*trained_values(model)) == digest(*trained_values(last.model)) for model in kept] == [False, True]


def test_monitoring_the_loss_keeps_the_lowest(quick: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    script = iter(range(99))
    monkeypatch.setattr(training, "scores", lambda *_: {"accuracy": float(next(script)), "macro_f1": 0.0})
    overshooting = train(epochs=6, learning_rate=3.0, monitor="loss", patience=6)
    fitted = fit(TINY, overshooting, TASK, seed=0)
    losses = fitted.history["dev_loss"]
    assert fitted.best_epoch == losses.argmin() + 1 < len(losses)
    assert fitted.dev["loss"] == losses.min()


@pytest.mark.parametrize(
    ("monitor", "labels", "legal"),
    [
        ("official_f1", CLASSES, "accuracy, macro_f1, loss"),
        ("official_f1", ["x", "y(e1,e2)"], "accuracy, macro_f1, loss"),
    ],
)
def test_a_score_that_the_labels_do_not_have_cannot_pick_the_epoch(monitor: str, labels: list[str], legal: str) -> None:
    with pytest.raises(ParamsError) as error:
        fit(TINY, train(monitor=monitor), tiny_task(labels), seed=0)
    assert f"train.monitor: {monitor} " in str(error.value)
    assert f"Legal: {legal}." in str(error.value)


# Faults


def test_a_diverging_training_names_the_batch_and_the_learning_rate(quick: Any) -> None:
    settings = train(optimizer="sgd", clip_norm=None).model_copy(update={"learning_rate": 1e30})
    with pytest.raises(
        TrainingError, match=r"seed 4, epoch 1, batch 2 of 6: the loss is nan at learning rate 1e\+30"
    ) as error:
        fit(TINY, settings, TASK, seed=4)
    assert "lower train.learning_rate or set train.clip_norm" in str(error.value)


def test_a_last_step_that_breaks_the_weights_is_seen_on_dev(quick: Any) -> None:
    settings = train(epochs=1, batch_size=64, optimizer="sgd", clip_norm=None).model_copy(
        update={"learning_rate": 1e30}
    )
    with pytest.raises(TrainingError, match=r"dev after epoch 1: the loss is nan at learning rate 1e\+30"):
        fit(TINY, settings, TASK, seed=0)


def test_vectors_that_are_not_finite_end_the_training_at_once() -> None:
    with pytest.raises(TrainingError, match="epoch 1, batch 1 of 6: the loss is nan"):
        fit(TINY, train(), tiny_task(scale=np.inf), seed=0)


@pytest.mark.parametrize("content", [b"", b"cut short"])
def test_a_broken_checkpoint_is_begun_anew(content: bytes, quick: Any, tmp_path: Path) -> None:
    checkpoint = training_checkpoint(tmp_path, Params(model=TINY, train=train()), TASK, 0)
    checkpoint.path.write_bytes(content)
    assert bits(fit(TINY, train(), TASK, 0, checkpoints=tmp_path)) == bits(fit(TINY, train(), TASK, 0))


# What the caller sees


@pytest.mark.parametrize(("labels", "official"), [(CLASSES, False), (RELATIONS, True)])
def test_the_history_has_a_row_per_epoch_and_a_column_per_score(labels: list[str], official: bool, quick: Any) -> None:
    fitted = fit(TINY, train(), tiny_task(labels), seed=0)
    known = ["epoch", "learning_rate", "loss", "dev_loss"]
    assert list(fitted.history.columns[:4]) == known
    assert {"dev_accuracy", "dev_macro_f1"} <= set(fitted.history)
    assert ("dev_official_f1" in fitted.history) is official
    assert fitted.history["epoch"].tolist() == [1, 2]
    assert list(fitted.dev) == [name.removeprefix("dev_") for name in fitted.history.columns[3:]]


def test_callbacks_come_in_order_and_with_the_rows_of_the_history(quick: Any) -> None:
    events: list[Any] = []
    fitted = fit(
        TINY,
        train(),
        TASK,
        0,
        on_batch=lambda *numbers: events.append(numbers),
        on_epoch=lambda row: events.append(row),
    )
    rows = fitted.history.to_dict("records")
    expected: list[Any] = []
    for epoch in (1, 2):
        expected += [(epoch, batch, STEPS) for batch in range(1, STEPS + 1)] + [rows[epoch - 1]]
    assert events == expected


def test_an_epoch_is_safe_before_the_caller_hears_of_it(quick: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        fit(TINY, train(), TASK, 0, checkpoints=tmp_path, on_epoch=interrupt_after(1))
    state = training_checkpoint(tmp_path, Params(model=TINY, train=train()), TASK, 0).load()
    assert state is not None
    assert [row["epoch"] for row in state.history] == [1]


def test_a_finished_training_is_not_trained_again(quick: Any, tmp_path: Path) -> None:
    first = fit(TINY, train(), TASK, 0, checkpoints=tmp_path)
    batches: list[Any] = []
    again = fit(TINY, train(), TASK, 0, checkpoints=tmp_path, on_batch=lambda *numbers: batches.append(numbers))
    assert not batches
    assert bits(again) == bits(first)


@pytest.mark.parametrize(("task", "seed", "epochs"), [(TASK, 1, 2), (tiny_task(scale=2.0), 0, 2), (TASK, 0, 3)])
def test_a_checkpoint_is_not_taken_for_another_training(
    task: Dataset, seed: int, epochs: int, quick: Any, tmp_path: Path
) -> None:
    fit(TINY, train(), TASK, 0, checkpoints=tmp_path)
    seen: list[int] = []
    fit(TINY, train(epochs=epochs), task, seed, checkpoints=tmp_path, on_epoch=lambda row: seen.append(row["epoch"]))
    assert seen == list(range(1, epochs + 1))


def test_predictions_come_in_the_order_of_the_rows_whatever_the_batches(
    learned: TrainingResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = np.concatenate([np.asarray(learned.model(tokens[None, :], training=False)) for tokens in TASK.dev])
    monkeypatch.setattr(prediction, "PREDICTION_BATCH", 5)
    found = predict(learned.model, TASK.dev)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, alone, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_is_that_of_keras_on_the_gradient_of_the_loss_and_every_penalty(name: str) -> None:
    # a penalty of its own for the attention, beside those of weights; clipped, averaged and scheduled
    model_params = EXACT.model_copy(update={"attention": Attention(kind="structured", hops=2, size=3), "l2": 0.05})
    params = train(optimizer=name, clip_norm=0.5, ema=0.9, schedule=Schedule(kind="cosine", warmup_epochs=1))
    tokens, labels = pad(TASK.train, np.arange(8)), TASK.train.labels[:8]
    models = [build_classifier(model_params, TASK.matrix, TRAINING_WORDS, len(CLASSES), seed=0) for _ in range(2)]
    ours = make_optimizer(params, STEPS)
    # Keras's own of the same settings, which clips by itself
    settings = {**ours.get_config(), "global_clipnorm": params.clip_norm}
    plain = {kind.__name__.lower(): kind for kind in KERAS_OPTIMIZERS}[name].from_config(settings)
    for model, optimizer in zip(models, (ours, plain), strict=True):
        optimizer.build(model.trainable_variables)
    step = training_step(models[0], ours, len(CLASSES), params.label_smoothing, params.clip_norm)
    cross_entropy = keras.losses.CategoricalCrossentropy(label_smoothing=params.label_smoothing)
    for _ in range(4):
        with tf.GradientTape() as tape:
            loss = cross_entropy(np.eye(len(CLASSES))[labels], models[1](tokens, training=True))
            assert len(models[1].losses) > 1
            total = loss + tf.add_n(models[1].losses)
        gradients = tape.gradient(total, models[1].trainable_variables)
        plain.apply([tf.convert_to_tensor(gradient) for gradient in gradients])
        assert float(step(tokens, labels)) == pytest.approx(float(loss), rel=1e-5)
    for found, wanted in (
        *zip(*(model.variables for model in models), strict=True),
        *zip(ours.variables, plain.variables, strict=True),
    ):
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-4, atol=1e-6)


def test_r_drop_adds_the_divergence_of_two_dropouts_to_their_mean_loss() -> None:
    """Half of equation 4 of Liang et al. 2021, with alpha = 1.4, by Keras's own divergence."""
    tokens, labels = pad(TASK.train, np.arange(8)), TASK.train.labels[:8]
    lively = EXACT.model_copy(update={"dropout": dropout(0.4), "l2": 0.0})
    models = [build_classifier(lively, TASK.matrix, TRAINING_WORDS, len(CLASSES), seed=0) for _ in range(2)]
    ours, plain = (keras.optimizers.SGD(0.5) for _ in models)
    for model, optimizer in zip(models, (ours, plain), strict=True):
        optimizer.build(model.trainable_variables)
    step = training_step(models[0], ours, len(CLASSES), 0.0, r_drop=0.7)
    gold = np.eye(len(CLASSES))[labels]
    for _ in range(3):
        with tf.GradientTape() as tape:
            p, q = tf.split(models[1](np.concatenate([tokens, tokens]), training=True), 2)
            likelihoods = [tf.reduce_mean(keras.losses.categorical_crossentropy(gold, drawn)) for drawn in (p, q)]
            divergences = [tf.reduce_mean(keras.losses.kl_divergence(*pair)) for pair in ((p, q), (q, p))]
            total = (tf.add_n(likelihoods) + 1.4 * tf.add_n(divergences) / 2) / 2
        assert float(divergences[0]) > 1e-3
        assert float(step(tokens, labels)) == pytest.approx(float(tf.add_n(likelihoods)) / 2, rel=1e-5)
        gradients = tape.gradient(total, models[1].trainable_variables)
        plain.apply([tf.convert_to_tensor(gradient) for gradient in gradients])
    for found, wanted in zip(*(model.trainable_variables for model in models), strict=True):
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("attention", [Attention(), Attention(kind="structured", hops=2, size=3)])
def test_an_adversarial_step_learns_from_the_vectors_where_the_loss_grows_most_too(attention: Attention) -> None:
    """Equations 5 to 7 of Miyato et al. 2017, on the whole network, by moving what its embedding gives."""
    tokens, labels = pad(TASK.train, np.arange(8)), TASK.train.labels[:8]
    params = EXACT.model_copy(update={"attention": attention, "l2": 0.01})
    models = [build_classifier(params, TASK.matrix, TRAINING_WORDS, len(CLASSES), seed=0) for _ in range(2)]
    ours, plain = (keras.optimizers.SGD(0.5) for _ in models)
    for model, optimizer in zip(models, (ours, plain), strict=True):
        optimizer.build(model.trainable_variables)
    step = training_step(models[0], ours, len(CLASSES), 0.0, adversarial=0.8)
    other, gold, embedding = models[1], np.eye(len(CLASSES))[labels], models[1].get_layer("embedding")
    look_up = embedding.call
    for _ in range(3):
        clean, moved = [], tf.zeros([])
        for _ in range(2):
            given: list[tf.Tensor] = []

            def looked_up(ids: Any, moved: tf.Tensor = moved, given: list[tf.Tensor] = given) -> tf.Tensor:
                given.append(look_up(ids) + moved)
                return given[0]

            embedding.call = looked_up
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(keras.losses.categorical_crossentropy(gold, other(tokens, training=True)))
                total = loss + tf.add_n(other.losses)
            *gradients, of_vectors = tape.gradient(total, [*other.trainable_variables, given[0]])
            lengths = np.sqrt((of_vectors.numpy() ** 2).sum(axis=(1, 2), keepdims=True))
            moved = tf.constant(0.8 * of_vectors.numpy() / lengths)
            clean.append((float(loss), [tf.convert_to_tensor(gradient) for gradient in gradients]))
        assert clean[1][0] > clean[0][0]
        assert float(step(tokens, labels)) == pytest.approx(clean[0][0], rel=1e-5)
        plain.apply([(one + two) / 2 for one, two in zip(clean[0][1], clean[1][1], strict=True)])
    for found, wanted in zip(*(model.trainable_variables for model in models), strict=True):
        np.testing.assert_allclose(found.numpy(), wanted.numpy(), rtol=1e-4, atol=1e-5)


def test_a_step_takes_the_gradient_of_the_lstm_once() -> None:
    """With a persistent tape TensorFlow takes its own beside ours: the same weights, in a third more time."""
    model, optimizer = (
        build_classifier(EXACT, TASK.matrix, TRAINING_WORDS, len(CLASSES), seed=0),
        make_optimizer(train(), 1),
    )
    optimizer.build(model.trainable_variables)
    definition = training_step(model, optimizer, len(CLASSES), 0.0).get_concrete_function().graph.as_graph_def()
    nodes = [*definition.node, *(node for function in definition.library.function for node in function.node_def)]
    assert {node.op for node in nodes} & {"BlockLSTMGrad", "BlockLSTMGradV2"} == {"BlockLSTMGradV2"}
