"""`run_training`: the one training loop, used by the train stage, by trials of a sweep and by comparisons.

It saves every finished epoch to a checkpoint, from which an interrupted training resumes with the same results.
"""

import hashlib
import importlib.metadata
import json
import math
import os
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from numpy.typing import NDArray

from bilstm_attention.config import Params
from bilstm_attention.console import THREADS
from bilstm_attention.data.dataset import Dataset, Rows, pad_batches, steps_per_epoch, training_batches
from bilstm_attention.errors import ParamsError, TrainingError
from bilstm_attention.evaluation.metrics import check_monitor, nll, scores, signed_score
from bilstm_attention.model.classifier import build_classifier
from bilstm_attention.model.predict import predict, to_labels
from bilstm_attention.paths import atomic_write
from bilstm_attention.training.optimizers import make_optimizer
from bilstm_attention.training.step import several_steps, training_step

# Raised by hand when the same parameters and data give other weights: checkpoints and cached trainings are keyed by it.
TRAINING_VERSION = 1
STEPS_PER_CALL = 16  # of the graph, which saves most where steps are short (experiments/results/speed.md)
SMALLEST_PROBABILITY = 1e-7  # a probability of 0 in float32 would make the dev loss infinite

Arrays = list[NDArray[Any]]


@dataclass(frozen=True)
class TrainingResult:
    """A trained model with the weights of one epoch, from 1: the best on dev, or the last; and its dev scores.

    `history` has a row per epoch: `epoch`, `learning_rate`, `loss` (training, without penalties), `dev_loss` and every
    dev score in percent as `dev_<name>`.
    """

    model: keras.Model
    history: pd.DataFrame
    best_epoch: int
    dev: dict[str, float]


@dataclass
class State:
    """A training after some whole epochs."""

    history: list[dict[str, Any]] = field(default_factory=list)  # a row per finished epoch
    best_epoch: int = 0  # 0 before the first
    variables: Arrays = field(default_factory=list)  # of model and optimizer, states of random numbers included
    best: Arrays = field(default_factory=list)  # the model's variables after `best_epoch`


def run_training(
    params: Params,
    dataset: Dataset,
    seed: int,
    *,
    checkpoints: Path | None = None,
    on_batch: Callable[[int, int, int], None] = lambda epoch, batch, batches: None,
    on_epoch: Callable[[dict[str, Any]], None] = lambda row: None,
) -> TrainingResult:
    """Trains one model and restores its best epoch on dev, or keeps the last (`train.restore_best_weights`).

    Same arguments, versions and kind of processor: the same weights, byte for byte, in one go or resumed.

    Args:
        params: the blocks `model` and `train`; `train.seeds` is not read.
        dataset: sentences and word vectors.
        seed: of the weights, of dropout and of the order of batches.
        checkpoints: folder in which the last finished epoch is saved, and from which an equal training resumes; the
            file stays until `Checkpoint.remove`.
        on_batch: called now and then with epoch, batch and batches of the epoch, all from 1.
        on_epoch: called with each new row of the history.

    Raises:
        ParamsError: a monitored score that this corpus does not have.
        TrainingError: the loss is not a number.
    """
    settings = params.train
    check_monitor(settings.monitor, dataset.labels)
    use_threads()
    model = build_classifier(params.model, dataset.matrix, dataset.training_words, len(dataset.labels), seed)
    optimizer = make_optimizer(settings, steps_per_epoch(dataset.train, settings.batch_size))
    optimizer.build(model.trainable_variables)
    weights = balanced_weights(dataset) if settings.class_weights == "balanced" else None
    steps = several_steps(training_step(model, optimizer, len(dataset.labels), settings, weights))
    model_variables = _changing_variables(model)
    variables = [*model_variables, *optimizer.variables]
    checkpoint = Checkpoint(checkpoints, training_key(params, dataset, seed)) if checkpoints else None
    state = State()
    if checkpoint and (saved := checkpoint.load()):
        state = saved
        _assign(variables, state.variables)

    rows = dataset.train
    while len(state.history) < settings.epochs and len(state.history) - state.best_epoch < settings.patience:
        epoch, total = len(state.history) + 1, 0.0
        learning_rate = float(optimizer.learning_rate.numpy())
        batches = training_batches(rows, settings.batch_size, seed, epoch)
        where = f"seed {seed}, epoch {epoch}"
        for start in range(0, len(batches), STEPS_PER_CALL):
            some = batches[start : start + STEPS_PER_CALL]
            losses = steps(*pad_batches(rows, some)).numpy().tolist()
            for number, (batch, loss) in enumerate(zip(some, losses, strict=True), start=start + 1):
                _check_finite(loss, f"{where}, batch {number} of {len(batches)}", learning_rate)
                total += loss * len(batch)
            on_batch(epoch, start + len(some), len(batches))
        current = _values(model_variables)
        if settings.ema:
            optimizer.finalize_variable_values(model.trainable_variables)
        dev = _score_dev(model, dataset.dev, dataset.labels)
        # the loss of the epoch's last batch was measured before the last update
        _check_finite(dev["dev_loss"], f"{where}, dev", learning_rate)
        row = {"epoch": epoch, "learning_rate": learning_rate, "loss": total / len(rows), **dev}
        state.history.append(row)
        if not settings.restore_best_weights or _is_best(state, settings.monitor):
            state.best_epoch, state.best = epoch, _values(model_variables)
        # training goes on from its own weights, not from their moving average
        _assign(model_variables, current)
        state.variables = _values(variables)
        if checkpoint:
            checkpoint.save(state)
        on_epoch(row)

    _assign(model_variables, state.best)
    best = state.history[state.best_epoch - 1]
    dev = {name.removeprefix("dev_"): value for name, value in best.items() if name.startswith("dev_")}
    return TrainingResult(model, pd.DataFrame(state.history), state.best_epoch, dev)


def balanced_weights(dataset: Dataset) -> NDArray[np.float32]:
    """Weights of the classes, `(C,)`, inverse to their number of training sentences; their mean over these is 1."""
    counts = np.bincount(dataset.train.labels, minlength=len(dataset.labels))
    return (len(dataset.train) / (np.count_nonzero(counts) * np.maximum(counts, 1))).astype(np.float32)


def _check_finite(loss: float, where: str, learning_rate: float) -> None:
    if not math.isfinite(loss):
        raise TrainingError(
            f"{where}: the loss is {loss} at learning rate {learning_rate:g};"
            " lower train.learning_rate or set train.clip_norm."
        )


def _score_dev(model: keras.Model, rows: Rows, labels: Sequence[str]) -> dict[str, float]:
    probabilities = predict(model, rows)
    dev = scores([labels[number] for number in rows.labels], to_labels(probabilities, labels), labels)
    loss = nll(probabilities, rows.labels, SMALLEST_PROBABILITY)
    return {"dev_loss": loss, **{f"dev_{name}": value for name, value in dev.items()}}


def _is_best(state: State, monitor: str) -> bool:
    """Whether the last epoch beats every earlier one; ties go to the first."""
    *earlier, last = [signed_score(monitor, row[f"dev_{monitor}"]) for row in state.history]
    return last > max(earlier, default=-math.inf)


def _changing_variables(model: keras.Model) -> list[Any]:
    """Every variable that training changes, states of random numbers included.

    The vectors of words that never occur in training are left out: there may be a million.
    """
    fixed = {id(variable) for variable in model.get_layer("embedding").non_trainable_variables}
    return [variable for variable in model.variables if id(variable) not in fixed]


def _values(variables: Sequence[Any]) -> Arrays:
    return [variable.value.numpy().copy() for variable in variables]


def _assign(variables: Sequence[Any], values: Arrays) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


class Checkpoint:
    """The file of the last finished epoch of the training with this `training_key`; replaced atomically.

    Its folder is outside the stage's outputs, which DVC deletes before a rerun.
    """

    def __init__(self, folder: Path, key: str):
        self.path = folder / f"{key}.npz"

    def load(self) -> State | None:
        """The state saved last, or None without a readable file."""
        try:
            with np.load(self.path, allow_pickle=False) as file:
                meta = json.loads(str(file["meta"]))
                variables = [file[f"variable_{number}"] for number in range(meta["variables"])]
                best = [file[f"best_{number}"] for number in range(meta["best"])]
        # what zipfile and NumPy raise on a file that is cut short or has any one byte wrong
        except (OSError, zipfile.BadZipFile, KeyError, ValueError, EOFError, RuntimeError):
            return None
        return State(meta["history"], meta["best_epoch"], variables, best)

    def save(self, state: State) -> None:
        """Replaces the file; it is on disk before this returns."""
        meta = {"history": state.history, "best_epoch": state.best_epoch}
        meta |= {"variables": len(state.variables), "best": len(state.best)}
        arrays: dict[str, Any] = {f"variable_{number}": array for number, array in enumerate(state.variables)}
        arrays |= {f"best_{number}": array for number, array in enumerate(state.best)}
        with atomic_write(self.path) as temporary, temporary.open("wb") as file:
            np.savez(file, meta=np.array(json.dumps(meta)), **arrays)
            file.flush()
            os.fsync(file.fileno())

    def remove(self) -> None:
        """Deletes the file and the temporary ones of killed saves; call it once the result is safely written."""
        for path in (self.path, *self.path.parent.glob(f".*.{self.path.name}")):
            path.unlink(missing_ok=True)


def training_key(params: Params, dataset: Dataset, seed: int) -> str:
    """Digest of all that determines a training."""
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
            # the line break ends a part: 1, 23 differs from 12, 3
            sha.update(f"{json.dumps(part, sort_keys=True)}\n".encode())
    return sha.hexdigest()[:32]


def use_threads(threads: int | None = None) -> None:
    """Sets how many of TensorFlow's operations run at once, each on one thread; changes no result.

    The default is `BILSTM_ATTENTION_THREADS` of the environment, else 2: one direction of the LSTM each. The products
    of a batch are too small to share: at 32 sentences and 100 or 300 units a step took 1.2 and 1.4 times as long with
    two threads in each operation. Once TensorFlow has computed anything its threads are fixed, and this does nothing.

    Raises:
        ParamsError: the variable holds no whole number above 0.
    """
    text = str(threads or os.environ.get(THREADS) or 2)
    if not text.isdecimal() or not int(text):
        raise ParamsError(f"{THREADS}: {text!r} is no whole number above 0; set it to the operations to run at once.")
    try:
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(int(text))
    except RuntimeError:
        return
