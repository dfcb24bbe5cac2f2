"""fit(): the one training loop, used by the train stage and by every trial of a sweep."""

import importlib.metadata
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from bilstm_attention.config import Model, Train
from bilstm_attention.data.batches import Rows, pad, steps_per_epoch, training_batches
from bilstm_attention.data.dataset import Dataset
from bilstm_attention.errors import ParamsError, TrainingError
from bilstm_attention.evaluation.metrics import metric_names, scores, signed_score
from bilstm_attention.model.classifier import build_classifier
from bilstm_attention.model.predict import predict
from bilstm_attention.training.checkpoint import Arrays, Checkpoint, State, digest
from bilstm_attention.training.optimizers import make_optimizer
from bilstm_attention.training.step import devices, training_step

# A probability of 0 in float32 would make the dev loss infinite.
SMALLEST_PROBABILITY = 1e-7


def _source() -> list[str]:
    package = Path(__file__).parents[1]
    files = [package / name for name in ("data/batches.py", "evaluation/metrics.py", "evaluation/semeval.py")]
    files += [file for folder in ("model", "training") for file in sorted((package / folder).glob("*.py"))]
    return [file.read_text(encoding="utf-8") for file in files]


# What trains, as it was when this process began, whatever becomes of the files meanwhile.
_SOURCE = _source()


@dataclass(frozen=True)
class TrainingResult:
    """A trained model, its weights those of the epoch that was kept: the best on dev, or the last.

    Args:
        model: the classifier.
        history: one row per epoch: `epoch`, `learning_rate`, `loss` (training, penalties left out), `dev_loss` and
            every dev score in percent as `dev_<name>`.
        best_epoch: the one kept, from 1.
        dev: its scores.
    """

    model: keras.Model
    history: pd.DataFrame
    best_epoch: int
    dev: dict[str, float]


def fit(
    model_params: Model,
    train_params: Train,
    task: Dataset,
    seed: int,
    *,
    checkpoints: Path | None = None,
    on_batch: Callable[[int, int, int], None] = lambda epoch, batch, batches: None,
    on_epoch: Callable[[dict[str, Any]], None] = lambda row: None,
) -> TrainingResult:
    """Trains one model on `task`, and restores its best epoch on dev unless the last is to be kept.

    Same arguments, versions and kind of machine: the same weights, byte for byte, whether in one go or resumed.

    Args:
        model_params: `params.model`.
        train_params: `params.train`; its `seeds` are not read.
        task: data and vectors.
        seed: of the weights, of dropout and of the order of batches.
        checkpoints: folder in which the last finished epoch is kept, and from which an equal training resumes; the file
            stays until `training_checkpoint(...).remove()`.
        on_batch: called with epoch, batch and batches of the epoch, all from 1.
        on_epoch: called with each new row of the history; whatever it raises ends the training.

    Raises:
        ParamsError: a mechanism or monitored score that does not exist for this corpus.
        TrainingError: the loss is not a number.
    """
    _check_monitor(train_params.monitor, task.labels)
    use_threads(train_params.threads)
    steps = steps_per_epoch(task.train, train_params.batch_size, train_params.batch_tokens)
    strategy = devices(train_params.devices)
    with strategy.scope():
        model = build_classifier(model_params, task.matrix, task.training_words, len(task.labels), seed)
        optimizer = make_optimizer(train_params, steps)
        optimizer.build(model.trainable_variables)
    step = training_step(
        model,
        optimizer,
        len(task.labels),
        train_params.label_smoothing,
        strategy,
        clip_norm=train_params.clip_norm,
        r_drop=train_params.r_drop,
        adversarial=train_params.adversarial,
    )

    checkpoint = training_checkpoint(checkpoints, model_params, train_params, task, seed) if checkpoints else None
    moving = _moving(model)
    everything = [*moving, *optimizer.variables]
    state = checkpoint.load() if checkpoint else None
    if state is None:
        state = State(history=[], best_epoch=0, variables=[], best=[])
    else:
        _assign(everything, state.variables)

    while not _finished(state, train_params):
        epoch = len(state.history) + 1
        learning_rate = float(optimizer.learning_rate.numpy())
        batches = training_batches(task.train, train_params.batch_size, seed, epoch, train_params.batch_tokens)
        loss = _run_epoch(
            step, task.train, batches, f"seed {seed}, epoch {epoch}", learning_rate, partial(on_batch, epoch)
        )
        weights = _values(moving)
        if train_params.ema:
            optimizer.finalize_variable_values(model.trainable_variables)
        judged = _judge(model, task.dev, task.labels)
        # the last step of the epoch has no loss after it that would tell
        _check_number(judged["dev_loss"], f"seed {seed}, dev after epoch {epoch}", learning_rate)
        row = {"epoch": epoch, "learning_rate": learning_rate, "loss": loss, **judged}
        state.history.append(row)
        kept, this = (_goodness(state, train_params.monitor, number) for number in (state.best_epoch, epoch))
        if this > kept or not train_params.restore_best_weights:
            state.best_epoch, state.best = epoch, _values(moving)
        _assign(moving, weights)
        state.variables = _values(everything)
        if checkpoint:
            checkpoint.save(state)
        on_epoch(row)

    _assign(moving, state.best)
    best = state.history[state.best_epoch - 1]
    dev = {name.removeprefix("dev_"): value for name, value in best.items() if name.startswith("dev_")}
    return TrainingResult(model, pd.DataFrame(state.history), state.best_epoch, dev)


def training_checkpoint(folder: Path, model_params: Model, train_params: Train, task: Dataset, seed: int) -> Checkpoint:
    """The checkpoint of exactly this training: these parameters, data, seed, versions and source files."""
    arrays = [part for rows in (task.train, task.dev) for part in (rows.tokens, rows.starts, rows.labels)]
    versions = {name: importlib.metadata.version(name) for name in ("keras", "tensorflow", "bilstm-attention")}
    settings = [model_params.model_dump(), train_params.model_dump(exclude={"seeds"}), seed, list(task.labels)]
    return Checkpoint(folder, digest(settings, task.training_words, versions, _SOURCE, task.matrix, *arrays))


def use_threads(threads: int) -> None:
    """Sets how many of TensorFlow's operations run at once, each on one thread.

    A batch's products are small to be shared out: at 32 sentences and 100 or 300 units a step took 1.2 and 1.4 times as
    long with two threads inside each operation as with two operations, a direction of the LSTM each, at once. More than
    two hardly ever find work. Once TensorFlow has begun computing its threads can no longer change, and stay.
    """
    try:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError:
        return


def _run_epoch(
    step: Any,
    rows: Rows,
    batches: Sequence[Any],
    where: str,
    learning_rate: float,
    on_batch: Callable[[int, int], None],
) -> float:
    """Takes one step per batch; returns the mean loss per sentence."""
    total = 0.0
    for number, batch in enumerate(batches, start=1):
        loss = float(step(pad(rows, batch), rows.labels[batch]))
        _check_number(loss, f"{where}, batch {number} of {len(batches)}", learning_rate)
        total += loss * len(batch)
        on_batch(number, len(batches))
    return total / len(rows)


def _check_number(loss: float, where: str, learning_rate: float) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f"{where}: the loss is {loss} at learning rate {learning_rate:g};"
            " lower train.learning_rate or set train.clip_norm."
        )


def _judge(model: keras.Model, rows: Rows, labels: Sequence[str]) -> dict[str, float]:
    probabilities = predict(model, rows)
    of_gold = probabilities[np.arange(len(rows)), rows.labels]
    names = np.asarray(labels)
    found = scores(names[rows.labels].tolist(), names[probabilities.argmax(axis=1)].tolist(), labels)
    loss = float(-np.log(np.maximum(of_gold, SMALLEST_PROBABILITY), dtype=np.float64).mean())
    return {"dev_loss": loss, **{f"dev_{name}": value for name, value in found.items()}}


def _check_monitor(monitor: str, labels: Sequence[str]) -> None:
    legal = [*metric_names(labels), "loss"]
    if monitor not in legal:
        raise ParamsError(f"train.monitor: {monitor} is no score of this corpus's labels. Legal: {', '.join(legal)}.")


def _goodness(state: State, monitor: str, epoch: int) -> float:
    return signed_score(monitor, state.history[epoch - 1][f"dev_{monitor}"]) if epoch else -math.inf


def _finished(state: State, params: Train) -> bool:
    epochs = len(state.history)
    return epochs >= params.epochs or (epochs > 0 and epochs - state.best_epoch >= params.patience)


def _moving(model: keras.Model) -> list[Any]:
    """Every variable that training changes, states of random numbers included; the extra words' vectors never do."""
    fixed = {id(variable) for variable in model.get_layer("embedding").non_trainable_variables}
    return [variable for variable in model.variables if id(variable) not in fixed]


def _values(variables: Sequence[Any]) -> Arrays:
    return [variable.value.numpy().copy() for variable in variables]


def _assign(variables: Sequence[Any], values: Arrays) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
