"""Prepared splits as arrays: numbering tokens, batches of sentences of similar length, padding, and the `Dataset`.

Shape letters: N sentences, B of them in a batch, T tokens, V vocabulary, D embedding size.
"""

import json
import mmap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow.parquet import ParquetFile

from bilstm_attention import paths
from bilstm_attention.data.tokens import SPECIALS, UNK, Vocabulary
from bilstm_attention.errors import DataError

ROWS_READ, BYTES_READ = 1 << 16, 1 << 20  # at a time, of a prepared split
# Batches drawn together before their rows are sorted: enough to find similar lengths, few enough to stay well mixed.
# On SemEval, in batches of 10, padding is 3.0 % of what is computed; with pools of 10 batches it would be 9.7 %.
BATCHES_PER_POOL = 50


@dataclass(frozen=True)
class Rows:
    """N sentences as word ids, one after another; the arrays may be mapped from a file."""

    tokens: NDArray[np.int32]  # of all sentences
    starts: NDArray[np.int64]  # (N + 1,): offset in `tokens` of each sentence and, last, of the end; none is empty
    labels: NDArray[np.int32]  # (N,): class numbers

    @classmethod
    def from_tokens(
        cls, sentences: Iterable[Sequence[str]], vocabulary: Vocabulary, labels: NDArray[np.int32] | None = None
    ) -> "Rows":
        """Numbers the tokens of sentences, those unknown as `<unk>`; the label of every sentence is 0 by default."""
        return cls.from_ids([vocabulary.encode(tokens) for tokens in sentences], labels)

    @classmethod
    def from_ids(cls, sentences: Sequence[NDArray[np.int32]], labels: NDArray[np.int32] | None = None) -> "Rows":
        """Joins one array of word ids per sentence; the label of every sentence is 0 by default."""
        starts = np.zeros(len(sentences) + 1, np.int64)
        np.cumsum([len(sentence) for sentence in sentences], out=starts[1:])
        labels = np.zeros(len(sentences), np.int32) if labels is None else labels
        return cls(np.concatenate([np.zeros(0, np.int32), *sentences]), starts, labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[NDArray[np.int32]]:
        return map(self.row, range(len(self)))

    def row(self, number: int) -> NDArray[np.int32]:
        """The word ids of one sentence, `(T,)`."""
        return self.tokens[self.starts[number] : self.starts[number + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens per sentence, `(N,)`."""
        return np.diff(self.starts)


def encode(examples: pd.DataFrame, vocabulary: Vocabulary, labels: Sequence[str]) -> Rows:
    """Numbers the tokens and labels of a table with the columns `tokens` and `label`."""
    numbers = {label: number for number, label in enumerate(labels)}
    classes = np.fromiter((numbers[label] for label in examples["label"]), np.int32, len(examples))
    return Rows.from_tokens(examples["tokens"], vocabulary, classes)


def training_batches(rows: Rows, batch_size: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """The row numbers of every batch of an epoch, in order; each row is in exactly one.

    Rows are shuffled, cut into pools, sorted by length within a pool, cut into batches, and the batches shuffled. The
    order depends on `(seed, epoch)` alone, so an epoch can be run again without those before it.
    """
    rng = np.random.default_rng((seed, epoch))
    order, lengths = rng.permutation(len(rows)), rows.lengths
    size = batch_size * BATCHES_PER_POOL
    batches: list[NDArray[np.int64]] = []
    for start in range(0, len(order), size):
        pool = order[start : start + size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches.extend(pool[at : at + batch_size] for at in range(0, len(pool), batch_size))
    return [batches[number] for number in rng.permutation(len(batches))]


def steps_per_epoch(rows: Rows, batch_size: int) -> int:
    """Batches of an epoch."""
    return -(-len(rows) // batch_size)


def by_length(rows: Rows, batch_size: int) -> Iterator[NDArray[np.int64]]:
    """The row numbers of batches for prediction, shortest sentences first."""
    order = np.argsort(rows.lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def pad(rows: Rows, batch: NDArray[np.int64]) -> NDArray[np.int32]:
    """The batch's word ids, `(B, T)` with T its longest sentence, padded at the end with 0."""
    starts = rows.starts[batch]
    lengths = rows.starts[batch + 1] - starts
    steps = np.arange(lengths.max())
    real = steps < lengths[:, None]
    padded = np.zeros(real.shape, np.int32)
    padded[real] = rows.tokens[(starts[:, None] + steps)[real]]
    return padded


def pad_batches(
    rows: Rows, batches: Sequence[NDArray[np.int64]]
) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int32]]:
    """S batches in a row, each as of `pad`: their word ids `(sum of B T,)`, labels `(sum of B,)`, shapes `(S, 2)`."""
    padded = [pad(rows, batch) for batch in batches]
    shapes = np.array([each.shape for each in padded], np.int32)
    return np.concatenate([each.ravel() for each in padded]), rows.labels[np.concatenate(batches)], shapes


@dataclass(frozen=True)
class Sentences:
    """Token lists of a prepared split, read from its file in parts at each iteration.

    Raises:
        OSError, ValueError: no such file, or not a table with a column `tokens`.
    """

    path: Path

    def __post_init__(self) -> None:
        with ParquetFile(self.path) as table:
            if "tokens" not in table.schema_arrow.names:
                raise ValueError(f"no column `tokens` among {table.schema_arrow.names}")

    def __iter__(self) -> Iterator[list[str]]:
        for part in _read_parts(self.path, "tokens"):
            # one string object per word of the part, however often the word occurs
            encoded = part["tokens"].flatten().dictionary_encode()
            words = np.array(encoded.dictionary.to_pylist(), object)[encoded.indices].tolist()
            ends = np.cumsum(part["tokens"].value_lengths()).tolist()
            yield from (words[start:end] for start, end in pairwise((0, *ends)))


def _read_parts(path: Path, *columns: str) -> Iterator[Any]:
    # pre_buffer would hold the whole file
    with ParquetFile(path, buffer_size=BYTES_READ, pre_buffer=False) as table:
        yield from table.iter_batches(ROWS_READ, columns=list(columns))


def read_rows(path: Path, vocabulary: Vocabulary, labels: Sequence[str]) -> Rows:
    """Reads and numbers a prepared split as `encode` does, in parts; a label not among `labels` is a DataError.

    Memory holds 12 bytes a sentence; the tokens are mapped from an unnamed temporary file.
    """
    lengths, classes = [np.zeros(1, np.int64)], [np.zeros(0, np.int32)]
    with TemporaryFile() as file:
        for part in _read_parts(path, "tokens", "label"):
            # by Arrow, not `Vocabulary.encode`: millions of tokens never become Python strings
            ids = _index_in(part["tokens"].flatten(), vocabulary.words)
            file.write(ids.fill_null(SPECIALS.index(UNK)).to_numpy())
            lengths.append(part["tokens"].value_lengths().to_numpy())
            numbers = _index_in(part["label"], labels)
            if numbers.null_count:
                unknown = part["label"].filter(numbers.is_null()).unique().to_pylist()
                raise DataError(f"{path}: labels.json lists no {', '.join(unknown)}; `dvc repro` makes both anew.")
            classes.append(numbers.to_numpy())
        starts = np.cumsum(np.concatenate(lengths), dtype=np.int64)
        file.flush()
        tokens = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if starts[-1] else b""
    return Rows(np.frombuffer(tokens, np.int32), starts, np.concatenate(classes))


def _index_in(strings: Any, values: Sequence[str]) -> Any:
    """The index of each string in `values`, int32; null if it is not there."""
    return pc.index_in(strings, pa.array(values, strings.type))


@dataclass(frozen=True)
class Dataset:
    """Everything that training reads; the test set is no part of it."""

    train: Rows
    dev: Rows
    labels: Sequence[str]  # class names, in the order of their numbers
    matrix: NDArray[np.float32]  # word vectors, (V, D)
    training_words: int  # first rows of `matrix`, of words in train; the others come from the file of vectors alone


def load_dataset(root: Path = paths.PROJECT) -> Dataset:
    """Reads `data/prepared` and `data/embeddings` under `root`, but not the test set."""
    vocabulary, labels = load_vocabulary(root), load_labels(root)
    train, dev = (read_rows(_split_file(split, root), vocabulary, labels) for split in ("train", "dev"))
    matrix = np.load(existing(root / paths.EMBEDDINGS / "matrix.npy"), allow_pickle=False)
    coverage = json.loads(existing(root / paths.EMBEDDINGS / "coverage.json").read_text(encoding="utf-8"))
    return Dataset(train, dev, labels, matrix, coverage["training_words"])


def load_split(split: str, columns: list[str] | None = None, root: Path = paths.PROJECT) -> pd.DataFrame:
    """A prepared split, or some of its columns; see `tokens.encode_examples` for these.

    Only `evaluate` may load `test`, a comparison with `test: true`, and `explain` when a user names it.
    """
    return pd.read_parquet(_split_file(split, root), columns=columns)


def load_sentences(split: str, root: Path = paths.PROJECT) -> Sentences:
    """The token lists of a prepared split, read in parts."""
    return Sentences(_split_file(split, root))


def _split_file(split: str, root: Path) -> Path:
    return existing(root / paths.PREPARED / f"{split}.parquet")


def load_vocabulary(root: Path = paths.PROJECT) -> Vocabulary:
    """The vocabulary that `embed` wrote."""
    return Vocabulary.load(existing(root / paths.EMBEDDINGS / "vocabulary.txt"))


def load_labels(root: Path = paths.PROJECT) -> list[str]:
    """Class names in the order of their numbers."""
    return list(json.loads(existing(root / paths.PREPARED / "labels.json").read_text(encoding="utf-8")))


def existing(path: Path) -> Path:
    """Returns the path, or raises a DataError if it does not exist."""
    if not path.exists():
        raise DataError(f"{path}: not there; `dvc repro` makes it.")
    return path
