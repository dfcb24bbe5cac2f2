"""Builds the vocabulary and its embedding matrix, and measures how much of a text the vectors cover."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from bilstm_attention.config import Embeddings
from bilstm_attention.data.dataset import Sentences
from bilstm_attention.data.tokens import SPECIALS, Vocabulary
from bilstm_attention.data.vectors import Matrix, Vectors, read_vectors, train_vectors
from bilstm_attention.errors import DataError

MISSES_SHOWN = 50

# Source of a word's vector: the word itself, its lower-case form, the mean of its hyphenated parts, or none; then the
# vector is random.
Origin = Literal["exact", "lower", "hyphen", "missing"]
COVERED: tuple[Origin, ...] = ("exact", "lower", "hyphen")


@dataclass
class Embedding:
    """A vocabulary and one vector for each of its words."""

    vocabulary: Vocabulary  # V words, the specials first
    matrix: Matrix  # float32 (V, D); row 0, padding, is all zero
    origins: dict[str, Origin]  # of every word but the specials
    vectors: Vectors
    training_words: int  # first rows, those of the specials and the words of the training set


def build_embedding(counts: pd.DataFrame, params: Embeddings, root: Path) -> Embedding:
    """Builds the vocabulary of a training set and its matrix.

    Words: the specials; training words of at least `min_count`, the most frequent first; then the other words among the
    first `extra_words` of the vector file, so that a word unseen in training has its vector. `max_words` caps the words
    without the specials. The sources `corpus` and `random` have no extra words.

    Args:
        counts: columns `word` and `count` of the training set; markers are ignored.
        params: the block `embeddings`.
        root: folder that `params.path` is relative to.

    Raises:
        DataError: as `read_vectors`; an unreadable training table; no word of at least `min_count`.
    """
    frequent = counts[(counts["count"] >= params.min_count) & ~counts["word"].isin(SPECIALS)]
    words = frequent.sort_values(["count", "word"], ascending=[False, True])["word"].tolist()[: params.max_words]
    if not words:
        raise DataError(f"no training word occurs embeddings.min_count = {params.min_count} times; lower it.")
    training_words = len(SPECIALS) + len(words)
    vectors = _load_vectors(params, words, root)
    if params.source == "file":
        seen = {*words, *SPECIALS}
        words += [word for word in islice(vectors.rows, params.extra_words) if word not in seen]
        words = words[: params.max_words]
    matrix = _random_rows(len(SPECIALS) + len(words), params, vectors)
    origins: dict[str, Origin] = {}
    for row, word in enumerate(words, start=len(SPECIALS)):
        origins[word], sources = _look_up(word, vectors.rows, params.hyphens == "average")
        if sources:
            matrix[row] = vectors.matrix[sources].mean(axis=0) if sources[1:] else vectors.matrix[sources[0]]
    return Embedding(Vocabulary(words), matrix, origins, vectors, training_words)


def _load_vectors(params: Embeddings, words: Iterable[str], root: Path) -> Vectors:
    path = root / params.path
    if params.source == "random":
        return Vectors({}, np.empty((0, params.dimension), np.float32), read=0)
    if params.source == "file":
        forms = {form for word in words for part in (word, *_parts(word)) for form in (part, part.lower())}
        return read_vectors(path, params.dimension, forms, params.extra_words, params.member)
    try:
        sentences = Sentences(path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: not the training table that `prepare` writes: {error}."
            " For embeddings.source corpus, embeddings.path is data/prepared/train.parquet."
        ) from None
    return train_vectors(sentences, params.dimension, params.min_count, params.window, params.epochs, params.seed)


def _random_rows(rows: int, params: Embeddings, vectors: Vectors) -> Matrix:
    """Uniform in [-a, a], with the variance of the vectors loaded (Kim 2014, section 4.3), else with a = 0.25."""
    # from the most frequent words: all of them would double the memory
    scale = float(vectors.matrix[:10_000].std()) * 3**0.5 if len(vectors.matrix) else 0.25
    matrix = np.random.default_rng(params.seed).random((rows, params.dimension), dtype=np.float32)
    matrix -= np.float32(0.5)
    matrix *= np.float32(2 * scale)
    matrix[0] = 0
    return matrix


def _look_up(word: str, rows: Mapping[str, int], average: bool) -> tuple[Origin, list[int]]:
    if word in rows:
        return "exact", [rows[word]]
    if word.lower() in rows:
        return "lower", [rows[word.lower()]]
    part_rows = (rows.get(part, rows.get(part.lower())) for part in _parts(word) if average)
    parts = [row for row in part_rows if row is not None]
    return ("hyphen", parts) if parts else ("missing", [])


def _parts(word: str) -> list[str]:
    return [part for part in word.split("-") if part] if "-" in word else []


def coverage(counts: pd.DataFrame, origins: Mapping[str, Origin]) -> dict[str, Any]:
    """Measures how much of a text has vectors.

    Args:
        counts: columns `word` and `count` of the text; the specials are ignored.
        origins: of the words of the vocabulary; any other word is `unknown`, read as `<unk>`.

    Returns:
        `types` and `tokens` (each a total, counts by origin, and the percentage covered) and `misses`, the most
        frequent words that are missing or unknown, as `[word, count]`.
    """
    text = counts[~counts["word"].isin(SPECIALS)]
    origin = text["word"].map(lambda word: origins.get(word, "unknown"))
    sums = text["count"].groupby(origin).agg(["size", "sum"])
    misses = text[~origin.isin(COVERED)].sort_values(["count", "word"], ascending=[False, True])[:MISSES_SHOWN]
    return {
        "types": _shares(sums["size"].to_dict()),
        "tokens": _shares(sums["sum"].to_dict()),
        "misses": [[word, int(count)] for word, count in zip(misses["word"], misses["count"], strict=True)],
    }


def _shares(by_origin: Mapping[Any, int]) -> dict[str, float]:
    parts = {origin: int(by_origin.get(origin, 0)) for origin in (*COVERED, "missing", "unknown")}
    total = sum(parts.values())
    covered = sum(parts[origin] for origin in COVERED)
    return {"total": total, **parts, "percent": round(100 * covered / total, 2) if total else 0.0}


def coverage_report(embedding: Embedding, train: pd.DataFrame, dev: pd.DataFrame) -> dict[str, Any]:
    """The content of `coverage.json`: the coverage of train and dev, the faults of the vector file, and `rows`.

    `rows` lists, by origin, the words of the vocabulary without a vector of exactly their own, for `read_origins`.
    """
    rows: dict[str, list[str]] = {"lower": [], "hyphen": [], "missing": []}
    for word, origin in embedding.origins.items():
        if origin != "exact":
            rows[origin].append(word)
    return {
        "train": coverage(train, embedding.origins),
        "dev": coverage(dev, embedding.origins),
        "vocabulary": len(embedding.vocabulary),
        "training_words": embedding.training_words,
        "vectors_read": embedding.vectors.read,
        "faults": embedding.vectors.faults,
        "rows": rows,
    }


def read_origins(vocabulary: Vocabulary, report: Mapping[str, Any]) -> dict[str, Origin]:
    """The `origins` of an embedding, from its vocabulary and its `coverage.json`."""
    origins: dict[str, Origin] = dict.fromkeys(vocabulary.words[len(SPECIALS) :], "exact")
    for origin, listed in report["rows"].items():
        origins.update(dict.fromkeys(listed, origin))
    return origins
