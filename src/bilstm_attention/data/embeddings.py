"""Builds the vocabulary and its embedding matrix, and measures how much of a text the vectors cover."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from bilstm_attention.config import Embeddings, VectorSource
from bilstm_attention.data.dataset import Sentences
from bilstm_attention.data.encoder import encode_words
from bilstm_attention.data.tokens import SPECIALS, Vocabulary
from bilstm_attention.data.vectors import SAMPLE, Matrix, Vectors, list_faults, read_vectors, train_vectors
from bilstm_attention.errors import DataError

MISSES_SHOWN, FAULTS_SHOWN = 50, 5
LOW_COVERAGE = 20.0  # percent of the running words of train; a file that covers fewer hardly fits the text

# Source of a word's vector: the word itself, its lower-case form, the mean of its hyphenated parts, its subwords
# (fastText), or none; then the vector is random.
Origin = Literal["exact", "lower", "hyphen", "subword", "missing"]
ORIGINS: tuple[Origin, ...] = get_args(Origin)
COVERED = ORIGINS[:-1]


@dataclass
class Part:
    """What one source gives to an embedding."""

    source: VectorSource
    vectors: Vectors
    origins: dict[str, Origin]  # of every word but the specials


@dataclass
class Embedding:
    """A vocabulary and one vector for each of its words."""

    vocabulary: Vocabulary  # V words, the specials first
    matrix: Matrix  # float32 (V, D); row 0, padding, is all zero
    origins: dict[str, Origin]  # of every word but the specials: the best of its parts
    parts: list[Part]  # in the order of their columns
    training_words: int  # first rows, those of the specials and the words of the training set


def build_embedding(counts: pd.DataFrame, params: Embeddings, root: Path) -> Embedding:
    """Builds the vocabulary of a training set and its matrix.

    Words: the specials; training words of at least `min_count`, the most frequent first; then the other words among the
    first `extra_words` of the vector file, so that a word unseen in training has its vector. `max_words` caps the words
    without the specials. The sources `corpus`, `encoder` and `random` have no extra words; of joined sources the first
    file has.

    Args:
        counts: columns `word` and `count` of the training set; markers are ignored.
        params: the block `embeddings`.
        root: folder that the training text is relative to.

    Raises:
        DataError: as `read_vectors` and `encode_words`; an unreadable training table; no word of at least `min_count`.
    """
    frequent = counts[(counts["count"] >= params.min_count) & ~counts["word"].isin(SPECIALS)]
    words = frequent.sort_values(["count", "word"], ascending=[False, True])["word"].tolist()[: params.max_words]
    if not words:
        raise DataError(f"no training word occurs embeddings.min_count = {params.min_count} times; lower it.")
    training_words = len(SPECIALS) + len(words)
    loaded, extra = dict[int, Vectors](), params.extra_words
    # encoders last: they have a vector for each word that a file adds, wherever in the list it stands
    for number, source in sorted(enumerate(params.parts), key=lambda part: part[1].source == "encoder"):
        loaded[number] = _load_vectors(source, params, words, extra, root)
        if source.source == "file":
            seen = {*words, *SPECIALS}
            words += [word for word in islice(loaded[number].rows, extra) if word not in seen]
            words, extra = words[: params.max_words], 0
    parts = [Part(source, loaded[number], {}) for number, source in enumerate(params.parts)]
    generator, blocks = np.random.default_rng(params.seed), []
    for part in parts:
        block = _random_rows(len(SPECIALS) + len(words), part.source.dimension, part.vectors, generator)
        for row, word in enumerate(words, start=len(SPECIALS)):
            part.origins[word], sources = _look_up(word, part.vectors, params.hyphens == "average")
            if sources:
                matrix = part.vectors.matrix
                block[row] = matrix[sources].mean(axis=0) if sources[1:] else matrix[sources[0]]
        blocks.append(block)
    origins = parts[0].origins
    if parts[1:]:
        origins = {word: min((part.origins[word] for part in parts), key=ORIGINS.index) for word in words}
    # one block is not copied: of a large file it is most of the memory
    matrix = np.hstack(blocks) if blocks[1:] else blocks[0]
    return Embedding(Vocabulary(words), matrix, origins, parts, training_words)


def _load_vectors(source: VectorSource, params: Embeddings, words: Sequence[str], extra: int, root: Path) -> Vectors:
    if source.source == "random":
        return Vectors({}, np.empty((0, source.dimension), np.float32), read=0)
    if source.source == "file":
        forms = {form for word in words for part in (word, *_parts(word)) for form in (part, part.lower())}
        return read_vectors(Path(source.path), source.dimension, forms, extra, source.member)
    if source.source == "encoder":
        return encode_words(Path(source.path), words, source.dimension)
    path = root / source.path
    try:
        sentences = Sentences(path)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: not the training table that `prepare` writes: {error}."
            " For embeddings.source corpus, embeddings.path is data/prepared/train.parquet."
        ) from None
    return train_vectors(sentences, source.dimension, params.min_count, params.window, params.epochs, params.seed)


def _random_rows(rows: int, dimension: int, vectors: Vectors, generator: np.random.Generator) -> Matrix:
    """Uniform in [-a, a], with the variance of the vectors loaded (Kim 2014, section 4.3), else with a = 0.25."""
    # from the most frequent words: all of them would double the memory
    scale = float(vectors.matrix[:10_000].std()) * 3**0.5 if len(vectors.matrix) else 0.25
    matrix = generator.random((rows, dimension), dtype=np.float32)
    matrix -= np.float32(0.5)
    matrix *= np.float32(2 * scale)
    matrix[0] = 0
    return matrix


def _look_up(word: str, vectors: Vectors, average: bool) -> tuple[Origin, list[int]]:
    rows = vectors.rows
    if word in rows:
        return "exact", [rows[word]]
    if word.lower() in rows:
        return "lower", [rows[word.lower()]]
    if word in vectors.subwords:
        return "subword", [vectors.subwords[word]]
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
    parts = {origin: int(by_origin.get(origin, 0)) for origin in (*ORIGINS, "unknown")}
    total, covered = sum(parts.values()), sum(parts[origin] for origin in COVERED)
    if not parts["subword"]:  # fastText alone has any
        del parts["subword"]
    return {"total": total, **parts, "percent": round(100 * covered / total, 2) if total else 0.0}


def coverage_report(embedding: Embedding, train: pd.DataFrame, dev: pd.DataFrame) -> dict[str, Any]:
    """The content of `coverage.json`: the coverage of train and dev, the faults of the vector file, and `rows`.

    `rows` lists, by origin, the words of the vocabulary without a vector of exactly their own, for `read_origins`. Of
    joined sources `sources` has the coverage and the faults of each. `warnings`, if there are any, are for a person.
    """
    rows: dict[str, list[str]] = {"lower": [], "hyphen": [], "missing": []}
    for word, origin in embedding.origins.items():
        if origin != "exact":
            rows.setdefault(origin, []).append(word)
    joined = []
    for part in embedding.parts:
        faults = {kind: {"count": len(at), "lines": at[:FAULTS_SHOWN]} for kind, at in part.vectors.faults.items()}
        read = {"vectors_read": part.vectors.read, "faults": faults}
        joined.append({**part.source.model_dump(), **_covered(part.origins, train, dev), **read})
    warnings = [warning for part in embedding.parts for warning in _warnings(part, train)]
    return {
        **_covered(embedding.origins, train, dev),
        "vocabulary": len(embedding.vocabulary),
        "training_words": embedding.training_words,
        **({"sources": joined} if joined[1:] else read),
        "rows": rows,
        **({"warnings": warnings} if warnings else {}),
    }


def _covered(origins: Mapping[str, Origin], train: pd.DataFrame, dev: pd.DataFrame) -> dict[str, Any]:
    return {"train": coverage(train, origins), "dev": coverage(dev, origins)}


def _warnings(part: Part, train: pd.DataFrame) -> Iterator[str]:
    """Faults of the file of vectors, and why it covers next to nothing of the vocabulary's words in train."""
    path, first_words = part.source.path, part.vectors.first_words
    if part.vectors.faults:
        yield f"{path}: {list_faults(part.vectors.faults)}."
    text = train[train["word"].isin(part.origins)].sort_values(["count", "word"], ascending=[False, True])
    percent = coverage(text, part.origins)["tokens"]["percent"]
    if part.source.source != "file" or percent >= LOW_COVERAGE:
        return
    cased = text["word"].str.casefold().isin({word.casefold() for word in first_words})
    ours, theirs = _script(text["word"][:SAMPLE]), _script(first_words)
    if 100 * text["count"][cased].sum() >= LOW_COVERAGE * text["count"].sum():
        reason = "Their case differs: set data.tokens.lowercase to false, or take other vectors"
    elif ours != theirs:
        reason = f"Their scripts differ, {theirs} and {ours}: take vectors of the language of the text"
    else:
        reason = "It is probably the wrong file: of another language, with words written otherwise, or with few"
    yield (
        f"{path}: only {percent} % of the running words of train have a vector. The file begins with"
        f" {', '.join(first_words[:5])}; the most frequent of train are {', '.join(text['word'][:5])}. {reason}."
    )


def _script(words: Iterable[str]) -> str:
    """The script of most letters, such as LATIN or CYRILLIC: the first word of their Unicode names."""
    letters = (letter for word in words for letter in word if letter.isalpha())
    scripts = Counter(unicodedata.name(letter, "").partition(" ")[0] for letter in letters)
    return max(scripts, key=scripts.__getitem__, default="none")


def read_origins(vocabulary: Vocabulary, report: Mapping[str, Any]) -> dict[str, Origin]:
    """The `origins` of an embedding, from its vocabulary and its `coverage.json`."""
    origins: dict[str, Origin] = dict.fromkeys(vocabulary.words[len(SPECIALS) :], "exact")
    for origin, listed in report["rows"].items():
        origins.update(dict.fromkeys(listed, origin))
    return origins
