"""The training loop, and one step of it against Keras's own."""

import json
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
    balanced_weights,
    digest,
    run_training,
    use_threads,
)
from bilstm_attention.training.optimizers import OPTIMIZERS, make_optimizer  # noqa: E402
from bilstm_attention.training.step import training_step  # noqa: E402

CLASSES = ["a", "b", "c"]
WORDS, TRAINING_WORDS, FIRST_CLUE, FIRST_NOISE = 20, 18, 6, 9


def rows(count: int, seed: int) -> Rows:
    """Sentences of two to six words, one of which tells the class."""
    draw = np.random.default_rng(seed)
    labels = draw.integers(0, len(CLASSES), count).astype(np.int32)
    tokens = [draw.integers(FIRST_NOISE, TRAINING_WORDS, draw.integers(2, 7)).astype(np.int32) for _ in labels]
    for row, label in zip(tokens, labels, strict=True):
        row[draw.integers(len(row))] = FIRST_CLUE + label
    return Rows.from_ids(tokens, labels)


def small_dataset(labels: list[str] = CLASSES) -> Dataset:
    matrix = np.random.default_rng(2).normal(size=(WORDS, 4)).astype(np.float32)
    matrix[0] = 0
    return Dataset(rows(45, 0), rows(24, 1), labels, matrix, TRAINING_WORDS)


def dropout(rate: float) -> Dropout:
    return Dropout(embedding=rate, lstm=rate, sentence=rate)


DATA = small_dataset()
STEPS = 6  # 45 sentences in batches of 8
SMALL = Model(lstm_units=3, dropout=dropout(0.1))
EXACT = Model(lstm_units=3, dropout=dropout(0.0))


def train(**changes: Any) -> Train:
    return Train(**{"epochs": 2, "batch_size": 8, "learning_rate": 0.05, "monitor": "accuracy", **changes})


def fit(
    settings: Train, model: Model = SMALL, dataset: Dataset = DATA, seed: int = 0, **options: Any
) -> TrainingResult:
    return run_training(Params(model=model, train=settings), dataset, seed, **options)


def bits(result: TrainingResult) -> tuple[str, str]:
    """Weights and history to the last bit."""
    weights = [weight.numpy() for weight in result.model.weights]
    return digest(*weights), json.dumps([result.best_epoch, result.dev, result.history.to_dict("list")])


def trained_values(model: keras.Model) -> list[np.ndarray]:
    return [variable.numpy() for variable in model.trainable_variables]


def network(model: Model) -> keras.Model:
    return build_classifier(model, DATA.matrix, TRAINING_WORDS, len(CLASSES), seed=0)


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
def quick(monkeypatch: pytest.MonkeyPatch) -> Callable[[], keras.Model]:
    """Trains the bag of words; calling it returns the network built last."""
    models: list[keras.Model] = []

    def build(*arguments: Any) -> keras.Model:
        models.append(bag_of_words(*arguments))
        return models[-1]

    monkeypatch.setattr(training, "build_classifier", build)
    return lambda: models[-1]


@pytest.fixture
def scripted_scores(quick: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[list[float]], None]:
    """Makes the dev accuracy of each epoch the next of a list."""

    def script(accuracies: list[float]) -> None:
        remaining = iter(accuracies)
        monkeypatch.setattr(training, "scores", lambda *_: {"accuracy": next(remaining), "macro_f1": 0.0})

    return script


def interrupt_after(epoch: int) -> Callable[[dict[str, Any]], None]:
    def on_epoch(row: dict[str, Any]) -> None:
        if row["epoch"] == epoch:
            raise KeyboardInterrupt

    return on_epoch


@pytest.fixture(scope="module")
def learned() -> TrainingResult:
    return fit(train(epochs=14))


def test_weights_are_those_of_the_best_epoch(learned: TrainingResult) -> None:
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


def test_adversarial_trainings_with_l2_give_the_same_bytes() -> None:
    """Three gradients are added, which TensorFlow's AddN would do in an order that changes."""
    settings, model = train(adversarial=0.8), SMALL.model_copy(update={"l2": 0.01})
    assert bits(fit(settings, model)) == bits(fit(settings, model))


@pytest.mark.parametrize("text", ["two", "0"])
def test_threads_that_are_no_number_are_an_error(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILSTM_ATTENTION_THREADS", text)
    with pytest.raises(ParamsError, match=f"BILSTM_ATTENTION_THREADS: '{text}' is no whole number above 0"):
        use_threads()


def test_frozen_embeddings_and_unseen_words_keep_their_vectors(learned: TrainingResult) -> None:
    frozen = fit(train(epochs=1, learning_rate=1.0), EXACT.model_copy(update={"train_embeddings": False})).model
    np.testing.assert_array_equal(frozen.get_layer("embedding").get_weights(), [DATA.matrix])
    trained, fixed = learned.model.get_layer("embedding").get_weights()
    np.testing.assert_array_equal(fixed, DATA.matrix[TRAINING_WORDS:])
    assert (trained[1:] != DATA.matrix[1:TRAINING_WORDS]).any()
    assert not trained[0].any()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_resumed_training_gives_the_same_bytes(name: str, quick: Any, tmp_path: Path) -> None:
    settings = train(optimizer=name, ema=0.9, schedule=Schedule(kind="cosine", warmup_epochs=0.5))
    whole = fit(settings, seed=3)
    assert not np.array_equal(whole.model.get_layer("embedding").get_weights()[0], DATA.matrix[:TRAINING_WORDS])
    with pytest.raises(KeyboardInterrupt):
        fit(settings, seed=3, checkpoints=tmp_path, on_epoch=interrupt_after(1))
    epochs: list[int] = []
    resumed = fit(settings, seed=3, checkpoints=tmp_path, on_epoch=lambda row: epochs.append(row["epoch"]))
    assert epochs == [2]
    assert bits(resumed) == bits(whole) != bits(fit(settings, seed=4))


def test_balanced_class_weights_change_the_training(quick: Any) -> None:
    plain, balanced = (fit(train(epochs=1, class_weights=kind)) for kind in ("none", "balanced"))
    assert bits(plain) != bits(balanced)


def test_scored_model_is_the_moving_average(quick: Any) -> None:
    """`a_1 = w_1`, then `a_t = m a_(t-1) + (1 - m) w_t`; training itself goes on from the weights, not the average."""

    def trained(ema: float) -> tuple[TrainingResult, list[list[np.ndarray]]]:
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
def test_epoch_begins_at_its_scheduled_learning_rate(schedule: Schedule, shares: list[float], quick: Any) -> None:
    history = fit(train(epochs=4, schedule=schedule)).history
    assert history["learning_rate"].tolist() == pytest.approx([0.05 * share for share in shares], rel=1e-5)


@pytest.mark.parametrize(
    ("dev", "patience", "best", "epochs"),
    [
        ([50, 70, 70, 60, 80], 2, 2, 4),
        ([50, 70, 70, 60, 80], 3, 5, 5),
        ([0, 0, 30, 30, 10], 9, 3, 5),
    ],
)
def test_first_best_epoch_is_kept_until_patience_ends(
    dev: list[float], patience: int, best: int, epochs: int, scripted_scores: Any
) -> None:
    scripted_scores(dev)
    result = fit(train(epochs=5, patience=patience))
    assert (result.best_epoch, len(result.history)) == (best, epochs)
    assert result.dev["accuracy"] == dev[best - 1]


def test_last_epoch_is_kept_without_restore_best_weights(scripted_scores: Any) -> None:
    scripted_scores([50, 70, 40, 60, 60])
    last = fit(train(epochs=5, patience=1, restore_best_weights=False))
    assert (last.best_epoch, len(last.history), last.dev["accuracy"]) == (5, 5, 60)
    scripted_scores([1, 2, 3, 4, 5])
    assert bits(fit(train(epochs=5)))[0] == bits(last)[0]


def test_monitoring_the_loss_keeps_the_lowest(scripted_scores: Any) -> None:
    scripted_scores([1, 2, 3, 4, 5, 6])
    result = fit(train(epochs=6, learning_rate=3.0, monitor="loss", patience=6))
    losses = result.history["dev_loss"]
    assert result.best_epoch == losses.argmin() + 1 < len(losses)
    assert result.dev["loss"] == losses.min()


@pytest.mark.parametrize("labels", [CLASSES, ["x", "y(e1,e2)"]])
def test_monitor_must_be_a_score_of_the_labels(labels: list[str]) -> None:
    message = "train.monitor: official_f1 .* Legal: accuracy, macro_f1, loss[.]"
    with pytest.raises(ParamsError, match=message):
        fit(train(monitor="official_f1"), dataset=small_dataset(labels))


def test_divergence_is_an_error_with_batch_and_learning_rate(quick: Any) -> None:
    settings = train(optimizer="sgd", clip_norm=None).model_copy(update={"learning_rate": 1e30})
    message = r"seed 4, epoch 1, batch 2 of 6: the loss is nan at learning rate 1e\+30; lower train.learning_rate or"
    with pytest.raises(TrainingError, match=message):
        fit(settings, seed=4)
    # the only step, so that no later batch shows it
    with pytest.raises(TrainingError, match=r"epoch 1, dev: the loss is nan at learning rate 1e\+30"):
        fit(settings.model_copy(update={"epochs": 1, "batch_size": 64}))


def test_callbacks_get_each_batch_and_each_row_of_the_history(quick: Any) -> None:
    events: list[Any] = []
    result = fit(train(), on_batch=lambda *numbers: events.append(numbers), on_epoch=events.append)
    expected: list[Any] = []
    for row in result.history.to_dict("records"):
        expected += [*((row["epoch"], batch, STEPS) for batch in range(1, STEPS + 1)), row]
    assert events == expected
    scored = ["loss", "accuracy", "macro_f1"]
    assert list(result.dev) == scored
    assert [*events[-1]] == ["epoch", "learning_rate", "loss", *(f"dev_{name}" for name in scored)]


def test_finished_training_is_not_repeated(quick: Any, tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    first = fit(train(), checkpoints=tmp_path)
    assert bits(fit(train(), checkpoints=tmp_path, on_epoch=rows.append)) == bits(first)
    assert not rows
    fit(train(), seed=1, checkpoints=tmp_path, on_epoch=rows.append)
    assert len(rows) == 2


def test_predictions_keep_the_order_of_the_rows(learned: TrainingResult, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = np.concatenate([np.asarray(learned.model(tokens[None, :], training=False)) for tokens in DATA.dev])
    monkeypatch.setattr(prediction, "PREDICTION_BATCH", 5)
    probabilities = predict(learned.model, DATA.dev)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, alone, atol=1e-6)


# One step against Keras's own optimizers and losses

KERAS_OPTIMIZERS = {"adam": "Adam", "adadelta": "Adadelta", "rmsprop": "RMSprop", "sgd": "SGD"}
TOKENS, LABELS = pad(DATA.train, np.arange(8)), DATA.train.labels[:8]
GOLD = np.eye(len(CLASSES))[LABELS]


def test_optimizers_are_those_of_the_parameters() -> None:
    assert set(OPTIMIZERS) == set(KERAS_OPTIMIZERS) == set(get_args(Train.model_fields["optimizer"].annotation))


def step_and_reference(
    params: Model, settings: Train, optimizers: tuple[Any, Any], class_weights: Any = None
) -> tuple[Any, keras.Model, Any]:
    """Our step; a model of the same weights as reference; and a check that both still have the same."""
    models = network(params), network(params)
    for model, optimizer in zip(models, optimizers, strict=True):
        optimizer.build(model.trainable_variables)

    def check(atol: float = 1e-6) -> None:
        for value, wanted in zip(*(trained_values(model) for model in models), strict=True):
            np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=atol)
        for one, other in zip(*(optimizer.variables for optimizer in optimizers), strict=True):
            np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-4, atol=atol)

    return training_step(models[0], optimizers[0], len(CLASSES), settings, class_weights), models[1], check


def dense(gradients: Any) -> list[tf.Tensor]:
    return [tf.convert_to_tensor(gradient) for gradient in gradients]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_step_is_that_of_keras_on_loss_and_penalties(name: str) -> None:
    """With a penalty of the attention beside those of weights; clipped, averaged and scheduled."""
    params = EXACT.model_copy(update={"attention": Attention(kind="structured", hops=2, size=3), "l2": 0.05})
    schedule = Schedule(kind="cosine", warmup_epochs=1)
    settings = train(optimizer=name, clip_norm=0.5, ema=0.9, label_smoothing=0.1, schedule=schedule)
    ours = make_optimizer(settings, STEPS)
    config = {**ours.get_config(), "global_clipnorm": settings.clip_norm}
    plain = getattr(keras.optimizers, KERAS_OPTIMIZERS[name]).from_config(config)
    step, reference, check = step_and_reference(params, settings, (ours, plain))
    loss_function = keras.losses.CategoricalCrossentropy(label_smoothing=0.1)
    for _ in range(4):
        with tf.GradientTape() as tape:
            loss = loss_function(GOLD, reference(TOKENS, training=True))
            total = loss + tf.add_n(reference.losses)
        assert len(reference.losses) > 1
        plain.apply(dense(tape.gradient(total, reference.trainable_variables)))
        assert float(step(TOKENS, LABELS)) == pytest.approx(float(loss), rel=1e-5)
    check()


def test_balanced_classes_weigh_the_same_in_the_loss() -> None:
    weights = balanced_weights(DATA)
    counts = np.bincount(DATA.train.labels)
    np.testing.assert_allclose(weights * counts, len(DATA.train) / len(CLASSES), rtol=1e-6)
    ours, plain = keras.optimizers.SGD(0.5), keras.optimizers.SGD(0.5)
    params = EXACT.model_copy(update={"l2": 0.0})
    step, reference, check = step_and_reference(params, train(clip_norm=None), (ours, plain), weights)
    for _ in range(2):
        with tf.GradientTape() as tape:
            losses = keras.losses.categorical_crossentropy(GOLD, reference(TOKENS, training=True))
            total = tf.reduce_mean(weights[LABELS] * losses)
        assert float(step(TOKENS, LABELS)) == pytest.approx(float(total), rel=1e-5)
        plain.apply(dense(tape.gradient(total, reference.trainable_variables)))
    check()


def test_r_drop_adds_the_divergence_of_two_dropouts() -> None:
    """Half of equation 4 of Liang et al. 2021, with alpha = 1.4, by Keras's own divergence."""
    params = EXACT.model_copy(update={"dropout": dropout(0.4), "l2": 0.0})
    ours, plain = keras.optimizers.SGD(0.5), keras.optimizers.SGD(0.5)
    step, reference, check = step_and_reference(params, train(r_drop=0.7, clip_norm=None), (ours, plain))
    for _ in range(3):
        with tf.GradientTape() as tape:
            p, q = tf.split(reference(np.concatenate([TOKENS, TOKENS]), training=True), 2)
            likelihoods = [tf.reduce_mean(keras.losses.categorical_crossentropy(GOLD, drawn)) for drawn in (p, q)]
            divergences = [tf.reduce_mean(keras.losses.kl_divergence(*pair)) for pair in ((p, q), (q, p))]
            total = (tf.add_n(likelihoods) + 1.4 * tf.add_n(divergences) / 2) / 2
        assert float(divergences[0]) > 1e-3
        assert float(step(TOKENS, LABELS)) == pytest.approx(float(tf.add_n(likelihoods)) / 2, rel=1e-5)
        plain.apply(dense(tape.gradient(total, reference.trainable_variables)))
    check()


@pytest.mark.parametrize("attention", [Attention(), Attention(kind="structured", hops=2, size=3)])
def test_adversarial_step_learns_also_where_the_loss_grows_most(attention: Attention) -> None:
    """Equations 5 to 7 of Miyato et al. 2017, on the whole network, by shifting the output of its embedding."""
    params = EXACT.model_copy(update={"attention": attention, "l2": 0.01})
    ours, plain = keras.optimizers.SGD(0.5), keras.optimizers.SGD(0.5)
    step, reference, check = step_and_reference(params, train(adversarial=0.8, clip_norm=None), (ours, plain))
    embedding = reference.get_layer("embedding")
    look_up = embedding.call
    for _ in range(3):
        losses, gradients, shift = [], [], tf.zeros([])
        for _ in range(2):
            lookups: list[tf.Tensor] = []

            def shifted(ids: Any, shift: tf.Tensor = shift, lookups: list[tf.Tensor] = lookups) -> tf.Tensor:
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


def test_step_takes_the_gradient_of_the_lstm_once() -> None:
    """With a persistent tape TensorFlow would take its own beside ours: the same weights, in a third more time."""
    model, optimizer = network(EXACT), make_optimizer(train(), 1)
    optimizer.build(model.trainable_variables)
    graph = training_step(model, optimizer, len(CLASSES), train()).get_concrete_function().graph.as_graph_def()
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    assert {node.op for node in nodes} & {"BlockLSTMGrad", "BlockLSTMGradV2"} == {"BlockLSTMGradV2"}
