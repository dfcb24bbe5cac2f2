"""Prepared splits as arrays: numbering tokens, batches of sentences of similar length, padding, and the `Dataset`.

Shape letters: N sentences, B of them in a batch, T tokens, V vocabulary, D embedding size.
"""

import json
import mmap
from collections.abc import Iterator, Sequence
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

UNKNOWN = SPECIALS.index(UNK)
ROWS_READ, BYTES_READ = 1 << 16, 1 << 20


# Batches drawn together before their rows are sorted: enough to find like lengths, few enough to stay well mixed.
# The best choice of 8 fixed lengths to pad to would waste more (9.7 % on SemEval, pools of 10 rows a batch 3.2 %).
BATCHES_PER_POOL = 50


@dataclass(frozen=True)
class Rows:
    """Encoded sentences of one split, one after another; the arrays may be mapped from a file.

    Args:
        tokens: word ids of all sentences, int32.
        starts: where in `tokens` each sentence starts and, last, where the last one ends, int64 `(N + 1,)`; a sentence
            has at least one token.
        labels: int32 `(N,)`, class numbers.
    """

    tokens: NDArray[np.int32]
    starts: NDArray[np.int64]
    labels: NDArray[np.int32]

    @classmethod
    def of(cls, sentences: Sequence[NDArray[np.int32]], labels: NDArray[np.int32]) -> "Rows":
        """Rows of one array of word ids per sentence."""
        starts = np.zeros(len(sentences) + 1, np.int64)
        np.cumsum([len(sentence) for sentence in sentences], out=starts[1:])
        return cls(np.concatenate([np.zeros(0, np.int32), *sentences]), starts, labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __iter__(self) -> Iterator[NDArray[np.int32]]:
        """The word ids of each sentence, `(T,)`."""
        return map(self.row, range(len(self)))

    def row(self, number: int) -> NDArray[np.int32]:
        """The word ids of one sentence, `(T,)`."""
        return self.tokens[self.starts[number] : self.starts[number + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens per sentence, `(N,)`."""
        return np.diff(self.starts)


def number_tokens(sentences: Sequence[Sequence[str]], vocabulary: Vocabulary) -> Rows:
    """Sentences as rows without labels (all 0)."""
    return Rows.of([vocabulary.encode(tokens) for tokens in sentences], np.zeros(len(sentences), np.int32))


def encode(examples: pd.DataFrame, vocabulary: Vocabulary, labels: Sequence[str]) -> Rows:
    """Numbers the tokens and labels of a prepared split."""
    numbers = {label: number for number, label in enumerate(labels)}
    return Rows.of(
        [vocabulary.encode(tokens) for tokens in examples["tokens"]],
        np.fromiter((numbers[label] for label in examples["label"]), np.int32, len(examples)),
    )


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


@dataclass(frozen=True)
class Sentences:
    """Token lists of a prepared split, read from its file part by part each time that they are gone through.

    Args:
        path: the split, see `tokens.encode_examples`.

    Raises:
        OSError, ValueError: not there, or no table with a column `tokens`.
    """

    path: Path

    def __post_init__(self) -> None:
        with ParquetFile(self.path) as table:
            if "tokens" not in table.schema_arrow.names:
                raise ValueError(f"no column `tokens` among {table.schema_arrow.names}")

    def __len__(self) -> int:
        with ParquetFile(self.path) as table:
            return int(table.metadata.num_rows)

    def __iter__(self) -> Iterator[list[str]]:
        for part in _parts(self.path, "tokens"):
            # one string for each word of the part, however often it shows
            shown = part["tokens"].flatten().dictionary_encode()
            words = np.array(shown.dictionary.to_pylist(), object)[shown.indices].tolist()
            ends = np.cumsum(part["tokens"].value_lengths()).tolist()
            yield from (words[start:end] for start, end in pairwise((0, *ends)))


def _parts(path: Path, *columns: str) -> Iterator[Any]:
    # pre-buffered, the whole file would be held
    with ParquetFile(path, buffer_size=BYTES_READ, pre_buffer=False) as table:
        yield from table.iter_batches(ROWS_READ, columns=list(columns))


def read_rows(path: Path, vocabulary: Vocabulary, labels: Sequence[str]) -> Rows:
    """Numbers a prepared split as `encode` does, part by part.

    Memory holds 12 bytes a sentence; the tokens are mapped from a temporary file that has no name and goes with the
    process.

    Raises:
        DataError: a label is not one of `labels`.
    """
    lengths, numbers = [np.zeros(1, np.int64)], []
    with TemporaryFile() as file:
        for part in _parts(path, "tokens", "label"):
            file.write(_numbered(part["tokens"].flatten(), vocabulary.words).fill_null(UNKNOWN).to_numpy())
            lengths.append(part["tokens"].value_lengths().to_numpy())
            found = _numbered(part["label"], labels)
            if found.null_count:
                strange = part["label"].filter(found.is_null()).unique().to_pylist()
                raise DataError(f"{path}: labels.json lists no {', '.join(strange)}; `dvc repro` makes both anew.")
            numbers.append(found.to_numpy())
        starts = np.cumsum(np.concatenate(lengths), dtype=np.int64)
        file.flush()
        tokens = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if starts[-1] else b""
    return Rows(np.frombuffer(tokens, np.int32), starts, np.concatenate([np.zeros(0, np.int32), *numbers]))


def _numbered(strings: Any, numbered: Sequence[str]) -> Any:
    """The place of each string among `numbered`, int32; null: it is none of them."""
    return pc.index_in(strings, pa.array(numbered, strings.type))


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
