"""What is to be learned, read from what `prepare` and `embed` wrote, in the project or under another folder."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bilstm_attention import paths
from bilstm_attention.data.batches import Rows
from bilstm_attention.data.prepared import Sentences, read_rows
from bilstm_attention.data.tokens import Vocabulary
from bilstm_attention.errors import DataError


@dataclass(frozen=True)
class Dataset:
    """What is to be learned.

    Args:
        train: training rows.
        dev: rows that pick the epoch.
        labels: class names, in the order of their numbers.
        matrix: word vectors, float32 `(V, D)`.
        training_words: rows of `matrix`, from 0, that training can show; the rest are words that only vectors know.
    """

    train: Rows
    dev: Rows
    labels: Sequence[str]
    matrix: NDArray[np.float32]
    training_words: int


def load_dataset(root: Path = paths.PROJECT) -> Dataset:
    """Reads the task from `data/prepared` and `data/embeddings`; the test set stays closed.

    Args:
        root: the folder that holds both.

    Raises:
        DataError: a file is not there.
    """
    vocabulary, labels = load_vocabulary(root), load_labels(root)
    train, dev = (read_rows(_file_of(split, root), vocabulary, labels) for split in ("train", "dev"))
    matrix = np.load(existing(root / paths.EMBEDDINGS / "matrix.npy"), allow_pickle=False)
    coverage = json.loads(existing(root / paths.EMBEDDINGS / "coverage.json").read_text(encoding="utf-8"))
    return Dataset(train, dev, labels, matrix, coverage["training_words"])


def load_split(split: str, columns: list[str] | None = None, root: Path = paths.PROJECT) -> pd.DataFrame:
    """A prepared split, all of it or some of its columns; see `tokens.encode_examples` for these.

    Of the stages only `evaluate` asks for `test`; `explain` shows it when told to.
    """
    return pd.read_parquet(_file_of(split, root), columns=columns)


def load_sentences(split: str, root: Path = paths.PROJECT) -> Sentences:
    """The token lists of a prepared split, never all in memory."""
    return Sentences(_file_of(split, root))


def _file_of(split: str, root: Path) -> Path:
    return existing(root / paths.PREPARED / f"{split}.parquet")


def load_vocabulary(root: Path = paths.PROJECT) -> Vocabulary:
    """The words that `embed` numbered."""
    return Vocabulary.load(existing(root / paths.EMBEDDINGS / "vocabulary.txt"))


def load_labels(root: Path = paths.PROJECT) -> list[str]:
    """Class names in the order of their numbers."""
    return list(json.loads(existing(root / paths.PREPARED / "labels.json").read_text(encoding="utf-8")))


def existing(path: Path) -> Path:
    """The path itself.

    Raises:
        DataError: nothing is there.
    """
    if not path.exists():
        raise DataError(f"{path}: not there; `dvc repro` makes it.")
    return path
