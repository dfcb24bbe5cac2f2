"""`run_training`: the one training loop, used by the train stage, by trials of a sweep and by comparisons."""

import hashlib
import importlib.metadata
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from bilstm_attention.config import Params, Train
from bilstm_attention.console import THREADS
from bilstm_attention.data.dataset import Dataset, Rows, pad, steps_per_epoch, training_batches
from bilstm_attention.errors import ParamsError, TrainingError
from bilstm_attention.evaluation.metrics import metric_names, scores, signed_score
from bilstm_attention.model.classifier import build_classifier
from bilstm_attention.model.predict import predict
from bilstm_attention.training.checkpoint import Arrays, Checkpoint, State
from bilstm_attention.training.optimizers import make_optimizer
from bilstm_attention.training.step import training_step

# Raised by hand when the same parameters and data give other weights: checkpoints and cached trainings are keyed by it.
TRAINING_VERSION = 1
SMALLEST_PROBABILITY = 1e-7  # a probability of 0 in float32 would make the dev loss infinite


@dataclass(frozen=True)
class TrainingResult:
    """A trained model with the weights of the epoch that is kept: the best on dev, or the last.

    Args:
        model: the classifier.
        history: a row per epoch: `epoch`, `learning_rate`, `loss` (training, without penalties), `dev_loss` and every
            dev score in percent as `dev_<name>`.
        best_epoch: the epoch that is kept, from 1.
        dev: its scores.
    """

    model: keras.Model
    history: pd.DataFrame
    best_epoch: int
    dev: dict[str, float]


def run_training(
    params: Params,
    dataset: Dataset,
    seed: int,
    *,
    checkpoints: Path | None = None,
    on_batch: Callable[[int, int, int], None] = lambda epoch, batch, batches: None,
    on_epoch: Callable[[dict[str, Any]], None] = lambda row: None,
) -> TrainingResult:
    """Trains one model, and restores its best epoch on dev unless the last is to be kept.

    Same arguments, versions and kind of processor: the same weights, byte for byte, in one go or resumed.

    Args:
        params: the blocks `model` and `train`; `train.seeds` is not read.
        dataset: sentences and word vectors.
        seed: of the weights, of dropout and of the order of batches.
        checkpoints: folder in which the last finished epoch is saved, and from which an equal training resumes; the
            file stays until `training_checkpoint(...).remove()`.
        on_batch: called with epoch, batch and batches of the epoch, all from 1.
        on_epoch: called with each new row of the history; an exception from it ends the training.

    Raises:
        ParamsError: a monitored score that this corpus does not have.
        TrainingError: the loss is not a number.
    """
    settings = params.train
    _check_monitor(settings.monitor, dataset.labels)
    use_threads()
    steps = steps_per_epoch(dataset.train, settings.batch_size)
    model = build_classifier(params.model, dataset.matrix, dataset.training_words, len(dataset.labels), seed)
    optimizer = make_optimizer(settings, steps)
    optimizer.build(model.trainable_variables)
    step = training_step(
        model,
        optimizer,
        len(dataset.labels),
        settings.label_smoothing,
        clip_norm=settings.clip_norm,
        r_drop=settings.r_drop,
        adversarial=settings.adversarial,
    )
    checkpoint = training_checkpoint(checkpoints, params, dataset, seed) if checkpoints else None
    model_variables = _changing_variables(model)
    variables = [*model_variables, *optimizer.variables]
    state = checkpoint.load() if checkpoint else None
    if state is None:
        state = State(history=[], best_epoch=0, variables=[], best=[])
    else:
        _assign(variables, state.variables)

    while not _is_finished(state, settings):
        epoch = len(state.history) + 1
        learning_rate = float(optimizer.learning_rate.numpy())
        batches = training_batches(dataset.train, settings.batch_size, seed, epoch)
        loss = _run_epoch(
            step, dataset.train, batches, f"seed {seed}, epoch {epoch}", learning_rate, partial(on_batch, epoch)
        )
        weights = _values(model_variables)
        if settings.ema:
            optimizer.finalize_variable_values(model.trainable_variables)
        dev = _score_dev(model, dataset.dev, dataset.labels)
        # no loss follows the last step of the epoch that would show it
        _check_finite(dev["dev_loss"], f"seed {seed}, dev after epoch {epoch}", learning_rate)
        row = {"epoch": epoch, "learning_rate": learning_rate, "loss": loss, **dev}
        state.history.append(row)
        if not settings.restore_best_weights or _score(state, settings, epoch) > _score(
            state, settings, state.best_epoch
        ):
            state.best_epoch, state.best = epoch, _values(model_variables)
        # training goes on from its own weights, not from their moving average
        _assign(model_variables, weights)
        state.variables = _values(variables)
        if checkpoint:
            checkpoint.save(state)
        on_epoch(row)

    _assign(model_variables, state.best)
    best = state.history[state.best_epoch - 1]
    dev = {name.removeprefix("dev_"): value for name, value in best.items() if name.startswith("dev_")}
    return TrainingResult(model, pd.DataFrame(state.history), state.best_epoch, dev)


def training_key(params: Params, dataset: Dataset, seed: int) -> str:
    """Digest of all that determines a training: parameters, data, seed, library versions and `TRAINING_VERSION`."""
    arrays = [array for rows in (dataset.train, dataset.dev) for array in (rows.tokens, rows.starts, rows.labels)]
    versions = {name: importlib.metadata.version(name) for name in ("keras", "tensorflow")}
    settings = [params.model.model_dump(), params.train.model_dump(exclude={"seeds"}), seed, list(dataset.labels)]
    return digest(TRAINING_VERSION, settings, dataset.training_words, versions, dataset.matrix, *arrays)


def digest(*parts: Any) -> str:
    """Digest of arrays, by shape, type and bytes, and of everything else as JSON."""
    sha = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            sha.update(f"{part.shape}{part.dtype}".encode())
            sha.update(np.ascontiguousarray(part).data)
        else:
            # a line break ends a part: 1, 23 is not 12, 3
            sha.update(f"{json.dumps(part, sort_keys=True)}\n".encode())
    return sha.hexdigest()[:32]


def training_checkpoint(folder: Path, params: Params, dataset: Dataset, seed: int) -> Checkpoint:
    """The checkpoint of exactly this training."""
    return Checkpoint(folder, training_key(params, dataset, seed))


def use_threads(threads: int | None = None) -> None:
    """Sets how many of TensorFlow's operations run at once, each on one thread; changes no result.

    The products of a batch are too small to share: at 32 sentences and 100 or 300 units a step took 1.2 and 1.4 times
    as long with two threads in each operation as with two operations, one direction of the LSTM each, at once. More
    than two hardly ever find work. Once TensorFlow has computed anything its threads are fixed, and this does nothing.

    Args:
        threads: 1 or more; None: environment variable `BILSTM_ATTENTION_THREADS`, else 2.
    """
    try:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(threads or int(os.environ.get(THREADS) or 2))
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
        _check_finite(loss, f"{where}, batch {number} of {len(batches)}", learning_rate)
        total += loss * len(batch)
        on_batch(number, len(batches))
    return total / len(rows)


def _check_finite(loss: float, where: str, learning_rate: float) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f"{where}: the loss is {loss} at learning rate {learning_rate:g};"
            " lower train.learning_rate or set train.clip_norm."
        )


def _score_dev(model: keras.Model, rows: Rows, labels: Sequence[str]) -> dict[str, float]:
    probabilities = predict(model, rows)
    gold_probabilities = probabilities[np.arange(len(rows)), rows.labels]
    names = np.asarray(labels)
    dev = scores(names[rows.labels].tolist(), names[probabilities.argmax(axis=1)].tolist(), labels)
    loss = float(-np.log(np.maximum(gold_probabilities, SMALLEST_PROBABILITY), dtype=np.float64).mean())
    return {"dev_loss": loss, **{f"dev_{name}": value for name, value in dev.items()}}


def _check_monitor(monitor: str, labels: Sequence[str]) -> None:
    legal = [*metric_names(labels), "loss"]
    if monitor not in legal:
        raise ParamsError(f"train.monitor: {monitor} is not available for this label set. Legal: {', '.join(legal)}.")


def _score(state: State, settings: Train, epoch: int) -> float:
    """The monitored score of an epoch, higher is better; of epoch 0 the lowest."""
    if not epoch:
        return -math.inf
    return signed_score(settings.monitor, state.history[epoch - 1][f"dev_{settings.monitor}"])


def _is_finished(state: State, settings: Train) -> bool:
    epochs = len(state.history)
    return epochs >= settings.epochs or (epochs > 0 and epochs - state.best_epoch >= settings.patience)


def _changing_variables(model: keras.Model) -> list[Any]:
    """Every variable that training changes, states of random numbers included; extra words' vectors never change."""
    fixed = {id(variable) for variable in model.get_layer("embedding").non_trainable_variables}
    return [variable for variable in model.variables if id(variable) not in fixed]


def _values(variables: Sequence[Any]) -> Arrays:
    return [variable.value.numpy().copy() for variable in variables]


def _assign(variables: Sequence[Any], values: Arrays) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
