"""Length-bucketed batches: rows of like length together, so that little of a batch is padding."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bilstm_attention.corpus.tokens import Vocabulary

# Batches drawn together before their rows are sorted: enough to find like lengths, few enough to stay well mixed.
BATCHES_PER_POOL = 50


@dataclass(frozen=True)
class Rows:
    """Encoded sentences of one split.

    Args:
        tokens: one int32 array of word ids per sentence, each of length >= 1.
        labels: int32 `(N,)`, class numbers.
    """

    tokens: Sequence[NDArray[np.int32]]
    labels: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens per sentence, `(N,)`."""
        return np.fromiter((len(row) for row in self.tokens), np.int64, len(self.tokens))


def encode(examples: pd.DataFrame, vocabulary: Vocabulary, labels: Sequence[str]) -> Rows:
    """Numbers the tokens and labels of a prepared split."""
    numbers = {label: number for number, label in enumerate(labels)}
    return Rows(
        tokens=[vocabulary.encode(tokens) for tokens in examples["tokens"]],
        labels=np.fromiter((numbers[label] for label in examples["label"]), np.int32, len(examples)),
    )


def training_batches(rows: Rows, batch_size: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """The row numbers of every batch of an epoch, in order; each row stands in exactly one.

    Rows are shuffled, cut into pools, sorted by length within a pool, cut into batches, and the batches shuffled. The
    order depends on `(seed, epoch)` alone, so an epoch can be run again without those before it.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(len(rows))
    lengths = rows.lengths
    batches: list[NDArray[np.int64]] = []
    size = batch_size * BATCHES_PER_POOL
    for start in range(0, len(order), size):
        pool = order[start : start + size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches.extend(pool[at : at + batch_size] for at in range(0, len(pool), batch_size))
    return [batches[number] for number in rng.permutation(len(batches))]


def by_length(rows: Rows, batch_size: int) -> Iterator[NDArray[np.int64]]:
    """The row numbers of batches for prediction, shortest sentences first."""
    order = np.argsort(rows.lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]


def pad(rows: Rows, batch: NDArray[np.int64]) -> NDArray[np.int32]:
    """The batch's word ids, `(B, T)` with T its longest sentence, padded at the end with 0."""
    chosen = [rows.tokens[number] for number in batch]
    padded = np.zeros((len(chosen), max(map(len, chosen))), np.int32)
    for row, tokens in zip(padded, chosen, strict=True):
        row[: len(tokens)] = tokens
    return padded
