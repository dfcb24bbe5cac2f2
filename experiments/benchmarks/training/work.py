"""What every contender is given: the same sentences in the same batches, the same vectors and first weights."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bilstm_attention.config import Model, Train
from bilstm_attention.data.dataset import Dataset, Rows, load_dataset, training_batches

SEED = 0
CHECKED_STEPS = 4


@dataclass(frozen=True)
class Setup:
    """What one process measures.

    Args:
        contender: who.
        measure: `step`, whole training steps; `parts` of it; `layer`, one bidirectional LSTM; `run`, a training until
            `score`.
        threads: 0 leaves them to the library.
        batch_size, dimension, units: B, D, U.
        sentences: of the training set, drawn with repetition where it has fewer; None: as it is.
        vocabulary: rows of the matrix; None: those of the project.
        clip_norm: global norm of the gradient; None: no clipping.
        lengths: T of each variant of a layer.
        score: accuracy on dev, percent.
    """

    contender: str
    measure: str = "step"
    threads: int = 1
    batch_size: int = 32
    dimension: int = 50
    units: int = 100
    sentences: int | None = None
    vocabulary: int | None = None
    clip_norm: float | None = 5.0
    lengths: tuple[int, ...] = ()
    score: float = 100.0

    @property
    def model(self) -> Model:
        """The default network, of this many units."""
        return Model(lstm_units=self.units)

    @property
    def train(self) -> Train:
        """The default training."""
        threads = max(1, self.threads)
        return Train(batch_size=self.batch_size, threads=threads, clip_norm=self.clip_norm, monitor="accuracy")


@dataclass(frozen=True)
class Contender:
    """Something to be timed.

    Args:
        passes: by variant; each returns what it did, `steps` and, where it trains on sentences, `cells` computed.
        losses: of the first steps on one batch, dropout off: the same for all who train the same network.
        warm: whether each pass is taken once before any is timed.
    """

    passes: dict[str, Callable[[], dict[str, Any]]]
    losses: list[float] = field(default_factory=list)
    warm: bool = True


@dataclass(frozen=True)
class Work:
    """Sentences to train on and the first weights.

    Args:
        task: data and vectors.
        batches: row numbers, sentences of like length together, as the project trains.
        mixed: row numbers of as many batches, drawn at random.
        weights: float32, directions in front: kernel `(2, D, 4U)`, recurrent `(2, U, 4U)`, bias `(2, 4U)`, their gates
            in the order i, f, c, o; attention `(U, 1)`, output `(U, C)`, output_bias `(C,)`.
    """

    task: Dataset
    batches: list[NDArray[np.int64]]
    mixed: list[NDArray[np.int64]]
    weights: dict[str, NDArray[np.float32]]

    @property
    def trained_vectors(self) -> NDArray[np.float32]:
        """Vectors of the words that training can show, `(rows, D)`."""
        return self.task.matrix[: self.task.training_words]


def load_work(setup: Setup) -> Work:
    """Reads the prepared data of the project, and draws from it what `setup` asks for."""
    draw = np.random.default_rng(SEED)
    task = load_dataset()
    train = task.train
    if setup.sentences:
        # short of sentences, all of them are repeated before any is drawn once more than another
        turns = -(-setup.sentences // len(train))
        chosen = np.concatenate([draw.permutation(len(train)) for _ in range(turns)])[: setup.sentences]
        train = Rows.from_ids([train.row(number) for number in chosen], train.labels[chosen])
    task = replace(task, train=train, matrix=_matrix(task.matrix, setup, draw))
    mixed = np.array_split(draw.permutation(len(train)), range(setup.batch_size, len(train), setup.batch_size))
    batches = training_batches(train, setup.batch_size, SEED, 1)
    return Work(task, batches, mixed, _weights(setup, len(task.labels), draw))


def _matrix(matrix: NDArray[np.float32], setup: Setup, draw: np.random.Generator) -> NDArray[np.float32]:
    rows = setup.vocabulary or len(matrix)
    if matrix.shape == (rows, setup.dimension):
        return matrix
    drawn = 0.4 * draw.standard_normal((rows, setup.dimension), dtype=np.float32)
    drawn[0] = 0
    return drawn


def _weights(setup: Setup, classes: int, draw: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    dimension, units = setup.dimension, setup.units
    shapes = {
        "kernel": (2, dimension, 4 * units),
        "recurrent": (2, units, 4 * units),
        "bias": (2, 4 * units),
        "attention": (units, 1),
        "output": (units, classes),
        "output_bias": (classes,),
    }
    return {name: np.float32(0.1) * draw.standard_normal(shape, dtype=np.float32) for name, shape in shapes.items()}


def flop(work: Work, setup: Setup) -> float:
    """Floating-point operations of a step, mean over the sentences, those on padding and of the optimizer left out.

    Two per multiply-add; the backward pass takes twice the forward one: a product for the inputs, one for the weights.
    """
    tokens = float(work.task.train.lengths.mean()) * setup.batch_size
    lstm = 2 * 2 * tokens * (setup.dimension + setup.units) * 4 * setup.units
    attention = 2 * 2 * tokens * setup.units
    output = 2 * setup.batch_size * setup.units * len(work.task.labels)
    return 3 * (lstm + attention + output)
