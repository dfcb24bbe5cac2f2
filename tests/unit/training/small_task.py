"""A classification task that is learned in seconds, and trainings of it."""

import json
from typing import Any

import keras
import numpy as np

from bilstm_attention.config import Dropout, Model, Params, Train
from bilstm_attention.data.dataset import Dataset, Rows
from bilstm_attention.model.classifier import build_classifier
from bilstm_attention.training.fit import TrainingResult, digest, run_training

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
