"""Turns sentences into tokens, entity positions and word ids: the tokeniser, the encoding, the vocabulary."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bilstm_attention.config import Data, Tokens
from bilstm_attention.errors import DataError, join_lines

MARKERS = ("<e1>", "</e1>", "<e2>", "</e2>")
PAD, UNK = "<pad>", "<unk>"
SPECIALS = (PAD, UNK, *MARKERS)  # ids 0 to 5 of every vocabulary
SPANS = ("e1_start", "e1_end", "e2_start", "e2_end")

MARKER = re.compile("</?e[12]>")
SUFFIX = "(?i:n't|'(?:s|re|ve|ll|d|m))"
# U+0300 to U+036F: combining accents, in text that is not composed.
PART = r"""(?:
    (?:[^\W\d_]\.)+[^\W\d_]\b\.?           # u.s. e.g.
    | \d+(?:[.,:/]\d+)+\w*                 # 1,000 2.5kg 10:30
    | [\w\u0300-\u036f]+                   # word 1990s
)"""
TOKEN = re.compile(
    rf"""{MARKER.pattern}
    | {SUFFIX}(?![-'\w])                   # 's n't, already split in the text
    | {PART}(?:[-']{PART})*                # well-known o'brien u.s.-based
    | \.\.+ | --+                          # ellipsis, dash
    | \S                                   # any other mark
    """,
    re.VERBOSE,
)
CONTRACTION = re.compile(rf"{SUFFIX}\Z")
CACHED_LENGTH = 64  # characters; a longer token is hardly a word, and would fill the cache
LINE_BREAK = re.compile(r"[\r\n]")

DROPPED = "data.tokens.punctuation: drop removes tokens without a letter or digit; set it to keep, or fix the sentence."


def tokenize(text: str, tokens: Tokens) -> list[str]:
    r"""Splits a sentence into tokens; no token is empty or holds whitespace.

    Entity markers are whole tokens, whatever they touch, and are never changed. The other tokens are: words with the
    hyphens and apostrophes inside them, abbreviations of letters and full stops, numbers with their commas and
    decimals, runs of full stops or hyphens, and every other mark by itself. A typographic apostrophe is read as `'`,
    and accented letters are composed (Unicode NFC). With `context`, that many tokens remain before the first marker and
    after the last.

    >>> tokenize("The <e1>dog</e1>s don't bark.", Tokens())
    ['the', '<e1>', 'dog', '</e1>', 's', 'do', "n't", 'bark', '.']
    >>> tokenize("It's a well-known $1,250.50 U.S. price (1990s)...", Tokens())
    ['it', "'s", 'a', 'well-known', '$', '0,000.00', 'u.s.', 'price', '(', '0000s', ')', '...']
    >>> tokenize("It's <e1>Ann</e1>, 5!", Tokens(lowercase=False, punctuation="drop", contractions="keep"))
    ["It's", '<e1>', 'Ann', '</e1>', '0']
    >>> tokenize("Here stands the <e1>wheel</e1> of a <e2>car</e2>, old and red.", Tokens(context=1))
    ['the', '<e1>', 'wheel', '</e1>', 'of', 'a', '<e2>', 'car', '</e2>', ',']
    """
    options = tokens.lowercase, tokens.numbers, tokens.punctuation, tokens.contractions
    words = [
        word
        for token in TOKEN.findall(text.replace("\u2019", "'"))
        for word in (_words if len(token) <= CACHED_LENGTH else _words.__wrapped__)(token, *options)
    ]
    if tokens.context is None:
        return words
    markers = [place for place, word in enumerate(words) if word in MARKERS] or [0, len(words)]
    return words[max(0, markers[0] - tokens.context) : markers[-1] + 1 + tokens.context]


@lru_cache(maxsize=1 << 17)
def _words(token: str, lowercase: bool, numbers: str, punctuation: str, contractions: str) -> tuple[str, ...]:
    """The written form of a token: itself, its parts, or nothing. Cached, since texts repeat their tokens."""
    if token in MARKERS:
        return (token,)
    parts = split_contractions(token) if contractions == "split" else [token]
    return tuple(
        _normalize(part, lowercase, numbers) for part in parts if punctuation == "keep" or any(map(str.isalnum, part))
    )


def split_contractions(token: str) -> list[str]:
    """Splits a word from its contractions: `couldn't've` into `could n't 've`."""
    parts, end = list[str](), len(token)
    # From the end: a lookahead at every position would take time in the square of the length.
    while match := CONTRACTION.search(token, max(1, end - 3), end):
        parts.append(match[0])
        end = match.start()
    return [token[:end], *reversed(parts)]


def _normalize(token: str, lowercase: bool, numbers: str) -> str:
    token = unicodedata.normalize("NFC", token)
    if numbers == "zero":
        token = re.sub(r"\d", "0", token)
    return token.lower() if lowercase else token


def encode_examples(examples: pd.DataFrame, data: Data) -> pd.DataFrame:
    """Tokenises examples, locates their entities, and cuts rows longer than `data.tokens.max_length`.

    A plain row keeps its first tokens. A relation row keeps a window around both entities and their markers, with as
    much text on the left as on the right where there is enough.

    Args:
        examples: columns `id`, `text`, `label` and `source`, "file:line" for error messages; all strings.

    Returns:
        columns `id`; `tokens`, a list of strings; `label`; for a relation corpus `e1_start`, `e1_end`, `e2_start`,
        `e2_end`, the half-open positions in `tokens` of the words between the markers; and `length`, the tokens of
        the context before cutting, so that a row was cut where `length` exceeds `len(tokens)`.

    Raises:
        DataError: lists by file and line the sentences and entities without a token, and the rows whose entities do not
            fit in `max_length`.
    """
    encoded = encode_with_faults(examples, data)
    if faults := list(chain.from_iterable(encoded["faults"])):
        raise DataError(join_lines(faults))
    return encoded.drop(columns="faults")


def encode_with_faults(examples: pd.DataFrame, data: Data) -> pd.DataFrame:
    """As `encode_examples`, but the errors of each row are in the column `faults`, a list of strings."""
    rows = [tokenize(text, data.tokens) for text in examples["text"]]
    lengths, limit = np.fromiter(map(len, rows), np.int64, len(rows)), data.tokens.max_length
    encoded = pd.DataFrame({"id": examples["id"].array, "tokens": rows, "label": examples["label"].array})
    faults: list[list[str]] = [[] for _ in rows]
    starts = np.zeros(len(rows), np.int64)
    if data.relational:
        spans = np.array([[row.index(marker) for marker in MARKERS] for row in rows])
        spans[:, [0, 2]] += 1
        for row, messages in _entity_faults(spans, limit):
            source, name = examples[["source", "id"]].iloc[row]
            faults[row] = [f"{source}: sentence {name} {message}" for message in messages]
        starts = _window_starts(spans, lengths, limit)
        encoded[list(SPANS)] = spans - starts[:, None]
    else:
        for row in np.flatnonzero(lengths == 0).tolist():
            source, name, text = examples[["source", "id", "text"]].iloc[row]
            faults[row] = [f"{source}: sentence {name} has no token left of {text!r}; {DROPPED}"]
    for row in np.flatnonzero(lengths > limit).tolist():
        rows[row] = rows[row][starts[row] : starts[row] + limit]
    encoded["tokens"] = rows
    encoded["length"] = lengths
    encoded["faults"] = faults
    return encoded


def _entity_faults(spans: NDArray[np.int64], limit: int) -> Iterator[tuple[int, list[str]]]:
    """Rows with an entity that has no token, or with entities too far apart, and their messages."""
    words = spans[:, [1, 3]] - spans[:, [0, 2]]
    sizes = spans.max(axis=1) - spans.min(axis=1) + 2  # with the outer markers
    for row in np.flatnonzero((words == 0).any(axis=1) | (sizes > limit)).tolist():
        empty = [entity for entity, count in zip(("e1", "e2"), words[row], strict=True) if not count]
        messages = [f"has no token left in <{entity}>; {DROPPED}" for entity in empty]
        if sizes[row] > limit:
            messages.append(
                f"has {sizes[row]} tokens from its first marker to its last, more than data.tokens.max_length, {limit};"
                f" raise it to {sizes[row]}."
            )
        yield row, messages


def _window_starts(spans: NDArray[np.int64], lengths: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """First token of the window of `size` tokens that has both entities in its middle, as far as the row allows."""
    first, last = spans.min(axis=1) - 1, spans.max(axis=1) + 1
    middle = first - (size - (last - first)) // 2
    starts: NDArray[np.int64] = middle.clip(0, np.maximum(lengths - size, 0))
    return starts


def count_words(rows: Iterable[Iterable[str]]) -> pd.DataFrame:
    """Words without markers by falling count, ties by code point: columns `word` and `count`."""
    return word_table(Counter(chain.from_iterable(rows)))


def word_table(counts: Mapping[str, int]) -> pd.DataFrame:
    """As `count_words`, for tokens already counted."""
    words = sorted((-n, word) for word, n in counts.items() if word not in SPECIALS)
    return pd.DataFrame({"word": [word for _, word in words], "count": [-n for n, _ in words]})


def write_words(words: pd.DataFrame, path: Path) -> None:
    """Writes the table of `count_words` as csv."""
    words.to_csv(path, index=False, lineterminator="\n", encoding="utf-8")


def read_words(path: Path) -> pd.DataFrame:
    """Reads the table of `write_words`; words such as `NA`, `null` and `"` are read as words."""
    return pd.read_csv(path, dtype={"word": str, "count": int}, keep_default_na=False, encoding="utf-8")


class Vocabulary:
    """Numbers words: `SPECIALS` are 0 to 5 (`<pad>` is 0, `<unk>` 1), then `words` in their order.

    Args:
        words: words without the specials, each once.

    Raises:
        DataError: a word is repeated, is a special, is empty, or holds a line break.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self.words = [*SPECIALS, *words]
        self._ids = {word: number for number, word in enumerate(self.words)}
        broken = [word for word in self.words if not word or LINE_BREAK.search(word)]
        if broken or len(self._ids) < len(self.words):
            repeated = [word for word, n in Counter(self.words).items() if n > 1]
            faults = [f"vocabulary: {word!r} is repeated, or is a special." for word in repeated]
            raise DataError(join_lines([*faults, *(f"vocabulary: {word!r} is not one line." for word in broken)]))

    def __len__(self) -> int:
        return len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._ids

    def encode(self, tokens: Iterable[str]) -> NDArray[np.int32]:
        """Ids of tokens, int32 `(T,)`; an unknown token gets that of `<unk>`."""
        unknown = self._ids[UNK]
        return np.array([self._ids.get(token, unknown) for token in tokens], dtype=np.int32)

    def save(self, path: Path) -> None:
        """Writes one word per line; the word with id n stands on line n + 1."""
        path.write_text("".join(f"{word}\n" for word in self.words), encoding="utf-8", newline="\n")

    @classmethod
    def load(cls, path: Path) -> "Vocabulary":
        """Reads a file of `save`.

        Raises:
            DataError: the file does not begin with the specials, or repeats a word.
        """
        # Not read_text().splitlines(), which would also break at the rarer characters that a word may hold.
        words = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        specials, words = tuple(words[: len(SPECIALS)]), words[len(SPECIALS) :]
        if specials != SPECIALS:
            raise DataError(
                f"{path}:1: begins with {' '.join(specials)}; a vocabulary begins with {' '.join(SPECIALS)}."
            )
        return cls(words)
