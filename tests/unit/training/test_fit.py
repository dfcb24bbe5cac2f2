"""The training loop."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from tests.unit.training import small_task as small
from tests.unit.training.small_task import CLASSES, DATA, EXACT, STEPS, TRAINING_WORDS, bits, fit, train, trained_values

from bilstm_attention.config import Model, Schedule
from bilstm_attention.data.dataset import Rows
from bilstm_attention.errors import ParamsError, TrainingError
from bilstm_attention.evaluation.metrics import scores
from bilstm_attention.model import predict as prediction
from bilstm_attention.model.attention import MECHANISMS
from bilstm_attention.model.classifier import WordEmbedding
from bilstm_attention.model.predict import predict
from bilstm_attention.training import fit as training
from bilstm_attention.training.fit import digest, use_threads
from bilstm_attention.training.optimizers import OPTIMIZERS


def bag_of_words(model: Model, matrix: np.ndarray, training_words: int, classes: int, seed: int) -> keras.Model:
    """A network that TensorFlow traces in no time, for what holds of the loop whatever the network."""
    keras.utils.set_random_seed(seed)
    tokens = keras.Input((None,), dtype="int32")
    embedding = WordEmbedding(*matrix.shape, training_words, name="embedding")
    states = keras.layers.Dropout(model.dropout.embedding)(embedding(tokens))
    pooled, _ = MECHANISMS["mean"](name="attention")(states, mask=keras.ops.not_equal(tokens, 0))
    classifier = keras.Model(tokens, keras.layers.Dense(classes, activation="softmax")(pooled))
    embedding.set_matrix(matrix)
    return classifier


@pytest.fixture
def quick(monkeypatch):
    """Trains the bag of words; calling it returns the network built last."""
    models: list[keras.Model] = []

    def build(*arguments):
        models.append(bag_of_words(*arguments))
        return models[-1]

    monkeypatch.setattr(training, "build_classifier", build)
    return lambda: models[-1]


@pytest.fixture
def scripted_scores(quick, monkeypatch):
    """Makes the dev accuracy of each epoch the next of a list."""

    def script(accuracies):
        remaining = iter(accuracies)
        monkeypatch.setattr(training, "scores", lambda *_: {"accuracy": next(remaining), "macro_f1": 0.0})

    return script


def interrupt_after(epoch: int) -> Callable[[dict[str, Any]], None]:
    def on_epoch(row: dict[str, Any]) -> None:
        if row["epoch"] == epoch:
            raise KeyboardInterrupt

    return on_epoch


@pytest.fixture(scope="module")
def learned():
    return fit(train(epochs=14))


def test_weights_are_those_of_the_best_epoch(learned):
    """Its dev scores, predicted again, are the recorded ones; a training that ends there has the same weights."""
    assert 1 < learned.best_epoch < len(learned.history)
    assert learned.dev["accuracy"] == 100
    probabilities = predict(learned.model, DATA.dev)
    names = np.array(CLASSES)
    again = scores(names[DATA.dev.labels].tolist(), names[probabilities.argmax(axis=1)].tolist(), CLASSES)
    assert {name: learned.dev[name] for name in again} == again
    assert learned.dev["loss"] == pytest.approx(cross_entropy(probabilities, DATA.dev), rel=1e-6)
    row = learned.history.iloc[learned.best_epoch - 1]
    assert {f"dev_{name}": value for name, value in learned.dev.items()} == dict(row.filter(like="dev_"))
    assert bits(fit(train(epochs=learned.best_epoch)))[0] == bits(learned)[0]


def cross_entropy(probabilities: np.ndarray, rows: Rows) -> float:
    return float(-np.log(probabilities[np.arange(len(rows)), rows.labels].astype(np.float64)).mean())


def test_adversarial_trainings_with_l2_give_the_same_bytes():
    """Three gradients are added, which TensorFlow's AddN would do in an order that changes."""
    settings, model = train(adversarial=0.8), small.SMALL.model_copy(update={"l2": 0.01})
    assert bits(fit(settings, model)) == bits(fit(settings, model))


@pytest.mark.parametrize("text", ["two", "0"])
def test_threads_that_are_no_number_are_an_error(text, monkeypatch):
    monkeypatch.setenv("BILSTM_ATTENTION_THREADS", text)
    with pytest.raises(ParamsError, match=f"BILSTM_ATTENTION_THREADS: '{text}' is no whole number above 0"):
        use_threads()


def test_frozen_embeddings_and_unseen_words_keep_their_vectors(learned):
    frozen = fit(train(epochs=1, learning_rate=1.0), EXACT.model_copy(update={"train_embeddings": False})).model
    np.testing.assert_array_equal(frozen.get_layer("embedding").get_weights(), [DATA.matrix])
    trained, fixed = learned.model.get_layer("embedding").get_weights()
    np.testing.assert_array_equal(fixed, DATA.matrix[TRAINING_WORDS:])
    assert (trained[1:] != DATA.matrix[1:TRAINING_WORDS]).any()
    assert not trained[0].any()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_resumed_training_gives_the_same_bytes(name, quick, tmp_path):
    settings = train(optimizer=name, ema=0.9, schedule=Schedule(kind="cosine", warmup_epochs=0.5))
    whole = fit(settings, seed=3)
    assert not np.array_equal(whole.model.get_layer("embedding").get_weights()[0], DATA.matrix[:TRAINING_WORDS])
    with pytest.raises(KeyboardInterrupt):
        fit(settings, seed=3, checkpoints=tmp_path, on_epoch=interrupt_after(1))
    epochs: list[int] = []
    resumed = fit(settings, seed=3, checkpoints=tmp_path, on_epoch=lambda row: epochs.append(row["epoch"]))
    assert epochs == [2]
    assert bits(resumed) == bits(whole) != bits(fit(settings, seed=4))


def test_balanced_class_weights_change_the_training(quick):
    plain, balanced = (fit(train(epochs=1, class_weights=kind)) for kind in ("none", "balanced"))
    assert bits(plain) != bits(balanced)


def test_scored_model_is_the_moving_average(quick, monkeypatch):
    """`a_1 = w_1`, then `a_t = m a_(t-1) + (1 - m) w_t`; training itself goes on from the weights, not the average."""
    monkeypatch.setattr(training, "STEPS_PER_CALL", 1)

    def trained(ema):
        steps: list[list[np.ndarray]] = []
        settings = train(optimizer="sgd", learning_rate=1.0, ema=ema, monitor="loss")
        return fit(settings, on_batch=lambda *_: steps.append(trained_values(quick()))), steps

    (plain, weights), (averaged, same) = trained(0.0), trained(0.8)
    assert [digest(*each) for each in weights] == [digest(*each) for each in same]
    average = [weight.astype(np.float64) for weight in weights[0]]
    for step in weights[1 : averaged.best_epoch * STEPS]:
        average = [0.8 * old + 0.2 * new for old, new in zip(average, step, strict=True)]
    for value, wanted in zip(trained_values(averaged.model), average, strict=True):
        np.testing.assert_allclose(value, wanted, rtol=1e-5, atol=1e-6)
    assert averaged.dev["loss"] != plain.dev["loss"]
    assert averaged.dev["loss"] == pytest.approx(cross_entropy(predict(averaged.model, DATA.dev), DATA.dev), rel=1e-6)


def half_cosine(done: float) -> float:
    return 0.5 * (1 + np.cos(np.pi * done))


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        (Schedule(), [1, 1, 1, 1]),
        (Schedule(warmup_epochs=2.0), [0, 0.5, 1, 1]),
        (Schedule(kind="cosine", warmup_epochs=1.0), [0, *[half_cosine(done) for done in (0, 1 / 3, 2 / 3)]]),
        (Schedule(kind="cosine", warmup_epochs=4.0), [0, 1 / 4, 2 / 4, 3 / 4]),
    ],
    ids=["constant", "warm-up", "warm-up and cosine", "warm-up only"],
)
def test_epoch_begins_at_its_scheduled_learning_rate(schedule, shares, quick):
    history = fit(train(epochs=4, schedule=schedule)).history
    assert history["learning_rate"].tolist() == pytest.approx([0.05 * share for share in shares], rel=1e-5)


@pytest.mark.parametrize(
    ("dev", "patience", "best", "epochs"),
    [([50, 70, 70, 60, 80], 2, 2, 4), ([50, 70, 70, 60, 80], 3, 5, 5), ([0, 0, 30, 30, 10], 9, 3, 5)],
)
def test_first_best_epoch_is_kept_until_patience_ends(dev, patience, best, epochs, scripted_scores):
    scripted_scores(dev)
    result = fit(train(epochs=5, patience=patience))
    assert (result.best_epoch, len(result.history)) == (best, epochs)
    assert result.dev["accuracy"] == dev[best - 1]


def test_last_epoch_is_kept_without_restore_best_weights(scripted_scores):
    scripted_scores([50, 70, 40, 60, 60])
    last = fit(train(epochs=5, patience=1, restore_best_weights=False))
    assert (last.best_epoch, len(last.history), last.dev["accuracy"]) == (5, 5, 60)
    scripted_scores([1, 2, 3, 4, 5])
    assert bits(fit(train(epochs=5)))[0] == bits(last)[0]


def test_monitoring_the_loss_keeps_the_lowest(scripted_scores):
    scripted_scores([1, 2, 3, 4, 5, 6])
    result = fit(train(epochs=6, learning_rate=3.0, monitor="loss", patience=6))
    losses = result.history["dev_loss"]
    assert result.best_epoch == losses.argmin() + 1 < len(losses)
    assert result.dev["loss"] == losses.min()


@pytest.mark.parametrize("labels", [CLASSES, ["x", "y(e1,e2)"]])
def test_monitor_must_be_a_score_of_the_labels(labels):
    with pytest.raises(ParamsError, match=r"train\.monitor: official_f1 .* Legal: accuracy, macro_f1, loss\."):
        fit(train(monitor="official_f1"), dataset=small.small_dataset(labels))


def test_divergence_is_an_error_with_batch_and_learning_rate(quick):
    settings = train(optimizer="sgd", clip_norm=None).model_copy(update={"learning_rate": 1e30})
    message = r"seed 4, epoch 1, batch 2 of 6: the loss is nan at learning rate 1e\+30; lower train.learning_rate or"
    with pytest.raises(TrainingError, match=message):
        fit(settings, seed=4)
    # the only step, so that no later batch shows it
    with pytest.raises(TrainingError, match=r"epoch 1, dev: the loss is nan at learning rate 1e\+30"):
        fit(settings.model_copy(update={"epochs": 1, "batch_size": 64}))


def test_callbacks_get_the_batches_and_each_row_of_the_history(quick, monkeypatch):
    monkeypatch.setattr(training, "STEPS_PER_CALL", 4)
    events: list[Any] = []
    result = fit(train(), on_batch=lambda *numbers: events.append(numbers), on_epoch=events.append)
    expected: list[Any] = []
    for row in result.history.to_dict("records"):
        expected += [(row["epoch"], 4, STEPS), (row["epoch"], STEPS, STEPS), row]
    assert events == expected
    scored = ["loss", "accuracy", "macro_f1"]
    assert list(result.dev) == scored
    assert [*events[-1]] == ["epoch", "learning_rate", "loss", *(f"dev_{name}" for name in scored)]


def test_loss_of_an_epoch_is_the_mean_over_sentences(quick):
    settings = train(optimizer="sgd", learning_rate=1e-12, epochs=1, batch_size=7)
    result = fit(settings, EXACT)
    wanted = cross_entropy(predict(result.model, DATA.train), DATA.train)
    assert result.history["loss"][0] == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("updates", ["dense", "sparse"])
def test_steps_of_one_call_change_no_weight(updates, monkeypatch):
    digests = set()
    for steps in (1, 4):
        monkeypatch.setattr(training, "STEPS_PER_CALL", steps)
        result = fit(train(embedding_updates=updates))
        digests.add(digest(*trained_values(result.model), result.history.to_dict("list")))
    assert len(digests) == 1


def test_finished_training_is_not_repeated(quick, tmp_path):
    rows: list[dict[str, Any]] = []
    first = fit(train(), checkpoints=tmp_path)
    assert bits(fit(train(), checkpoints=tmp_path, on_epoch=rows.append)) == bits(first)
    assert not rows
    fit(train(), seed=1, checkpoints=tmp_path, on_epoch=rows.append)
    assert len(rows) == 2


def test_predictions_keep_the_order_of_the_rows(learned, monkeypatch):
    alone = np.concatenate([np.asarray(learned.model(tokens[None, :], training=False)) for tokens in DATA.dev])
    monkeypatch.setattr(prediction, "PREDICTION_BATCH", 5)
    probabilities = predict(learned.model, DATA.dev)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, alone, atol=1e-6)
