"""What every contender is given: the same sentences in the same batches, the same vectors and first weights."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bilstm_attention.config import Model, Params, Train
from bilstm_attention.data.dataset import Dataset, Rows, load_dataset, training_batches
from bilstm_attention.evaluation.metrics import scores

SEED, CHECKED_STEPS, MOST_EPOCHS = 0, 4, 60


@dataclass(frozen=True)
class Setup:
    """What one process measures."""

    contender: str
    threads: int = 1
    batch_size: int = 32
    dimension: int = 50
    units: int = 100
    sentences: int = 1920
    until: float = 0.0  # official F1 on dev, in percent, that a whole training is timed to; 0: steps alone

    @property
    def params(self) -> Params:
        """The default network of this many units, and the default training."""
        model = Model(lstm_units=self.units, lstm_kernel="keras" if self.contender == "keras" else "auto")
        updates = "sparse" if self.contender == "sparse" else "dense"
        return Params(
            model=model, train=Train(batch_size=self.batch_size, monitor="accuracy", embedding_updates=updates)
        )


@dataclass(frozen=True)
class Work:
    """Sentences, row numbers of batches of like length and of one at random, and first weights, gates as i, f, c, o."""

    data: Dataset
    batches: list[NDArray[np.int64]]
    mixed: NDArray[np.int64]
    weights: dict[str, NDArray[np.float32]]
    vectors: NDArray[np.float32]  # of the words that training can show, `(V, D)`


def load_work(setup: Setup) -> Work:
    """Reads the prepared data, and draws from it what `setup` names."""
    draw, data = np.random.default_rng(SEED), load_dataset()
    chosen = np.resize(draw.permutation(len(data.train)), len(data.train) if setup.until else setup.sentences)
    train = Rows.from_ids([data.train.row(number) for number in chosen], data.train.labels[chosen])
    units, dimension, classes = setup.units, setup.dimension, len(data.labels)
    if data.matrix.shape[1] != dimension:
        matrix = 0.4 * draw.standard_normal((len(data.matrix), dimension), dtype=np.float32)
        matrix[0] = 0
        data = replace(data, matrix=matrix)
    mixed = draw.permutation(len(train))[: setup.batch_size]
    shapes = {"kernel": (2, dimension, 4 * units), "recurrent": (2, units, 4 * units), "bias": (2, 4 * units)}
    shapes |= {"attention": (units, 1), "output": (units, classes), "output_bias": (classes,)}
    weights = {name: np.float32(0.1) * draw.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}
    batches, vectors = training_batches(train, setup.batch_size, SEED, 1), data.matrix[: data.training_words]
    return Work(replace(data, train=train), batches, mixed, weights, vectors)


def train_until(
    setup: Setup, work: Work, take: Callable[[Any], Any], predict: Callable[[Rows], NDArray[np.float32]]
) -> dict[str, Any]:
    """Trains by whole epochs until `setup.until`; `take` trains on batches, `predict` gives `(N, C)`."""
    train, dev, labels = work.data.train, work.data.dev, np.array(work.data.labels)
    for epoch in range(1, MOST_EPOCHS + 1):
        batches = training_batches(train, setup.batch_size, SEED, epoch)
        take(batches)
        found = scores(labels[dev.labels].tolist(), labels[predict(dev).argmax(axis=1)].tolist(), work.data.labels)
        if found["official_f1"] >= setup.until:
            break
    return {"steps": epoch * len(batches), "cells": 0, "epochs": epoch, "f1": found["official_f1"]}
