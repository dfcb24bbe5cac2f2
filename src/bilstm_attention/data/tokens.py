"""From sentences to tokens, entity positions and ids: the tokeniser, the encoding, the vocabulary."""

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
# U+0300 to U+036F are the accents of text that is not composed.
PART = r"""(?:
    (?:[^\W\d_]\.)+[^\W\d_]\b\.?           # u.s. e.g.
    | \d+(?:[.,:/]\d+)+\w*                 # 1,000 2.5kg 10:30
    | [\w\u0300-\u036f]+                   # word 1990s
)"""
TOKEN = re.compile(
    rf"""{MARKER.pattern}
    | {SUFFIX}(?![-'\w])                   # 's n't, where the text has split them already
    | {PART}(?:[-']{PART})*                # well-known o'brien u.s.-based
    | \.\.+ | --+                          # ellipsis, dash
    | \S                                   # any other mark
    """,
    re.VERBOSE,
)
CONTRACTION = re.compile(rf"{SUFFIX}\Z")
REMEMBERED = 64  # characters; a longer token is no word, and not kept
LINE_BREAK = re.compile(r"[\r\n]")

DROPPED = "data.tokens.punctuation: drop leaves tokens with a letter or a digit alone; keep it, or mend the sentence."


def tokenize(text: str, tokens: Tokens) -> list[str]:
    r"""Splits a sentence into tokens, none of them empty or with whitespace in it.

    Entity markers are whole tokens, whatever they touch, and are never changed. Of the rest, in this order: words with
    the hyphens and apostrophes inside them, abbreviations of letters and stops, numbers with their commas and decimals,
    runs of stops or hyphens, and every other mark by itself. A typographic apostrophe is read as `'`, and letters with
    accents are composed (Unicode NFC). With `context`, so many tokens stay before the first marker and after the last.

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
    found = TOKEN.findall(text.replace("\u2019", "'"))
    words = [
        word
        for token in found
        for word in (_words if len(token) <= REMEMBERED else _words.__wrapped__)(token, *options)
    ]
    if tokens.context is None:
        return words
    markers = [place for place, word in enumerate(words) if word in MARKERS] or [0, len(words)]
    return words[max(0, markers[0] - tokens.context) : markers[-1] + 1 + tokens.context]


@lru_cache(maxsize=1 << 17)
def _words(token: str, lowercase: bool, numbers: str, punctuation: str, contractions: str) -> tuple[str, ...]:
    """What a token is written as: itself, its parts, or nothing. Texts repeat their tokens, hence the cache."""
    if token in MARKERS:
        return (token,)
    parts = split_contractions(token) if contractions == "split" else [token]
    return tuple(
        _written(part, lowercase, numbers) for part in parts if punctuation == "keep" or any(map(str.isalnum, part))
    )


def split_contractions(token: str) -> list[str]:
    """A word and what is contracted with it, each a part."""
    parts, end = list[str](), len(token)
    # from the end, since to look ahead from everywhere takes the square of the length
    while found := CONTRACTION.search(token, max(1, end - 3), end):
        parts.append(found[0])
        end = found.start()
    return [token[:end], *reversed(parts)]


def _written(token: str, lowercase: bool, numbers: str) -> str:
    token = unicodedata.normalize("NFC", token)
    if numbers == "zero":
        token = re.sub(r"\d", "0", token)
    return token.lower() if lowercase else token


def encode_examples(examples: pd.DataFrame, data: Data) -> pd.DataFrame:
    """Tokenises examples, finds their entities, and cuts rows longer than `data.tokens.max_length`.

    A plain row keeps its first tokens; a relation row keeps the window around both entities and their markers, with as
    much text to the left of them as to the right where there is enough.

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
    """As `encode_examples`, with one more column, `faults`: what that would raise, for each row a list of strings."""
    rows = [tokenize(text, data.tokens) for text in examples["text"]]
    lengths, limit = np.fromiter(map(len, rows), np.int64, len(rows)), data.tokens.max_length
    encoded = pd.DataFrame({"id": examples["id"].array, "tokens": rows, "label": examples["label"].array})
    faults: list[list[str]] = [[] for _ in rows]
    starts = np.zeros(len(rows), np.int64)
    if data.relational:
        spans = np.array([[row.index(marker) for marker in MARKERS] for row in rows])
        spans[:, [0, 2]] += 1
        for row, found in _entity_faults(spans, limit):
            faults[row] = [
                f"{examples['source'].iloc[row]}: sentence {examples['id'].iloc[row]} {text}" for text in found
            ]
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
    """What is wrong with the entities of rows, by row."""
    words = spans[:, [1, 3]] - spans[:, [0, 2]]
    sizes = spans.max(axis=1) - spans.min(axis=1) + 2  # with the outer markers
    for row in np.flatnonzero((words == 0).any(axis=1) | (sizes > limit)).tolist():
        empty = [entity for entity, count in zip(("e1", "e2"), words[row], strict=True) if not count]
        faults = [f"has no token left in <{entity}>; {DROPPED}" for entity in empty]
        if sizes[row] > limit:
            faults.append(
                f"has {sizes[row]} tokens from its first marker to its last, more than data.tokens.max_length, {limit};"
                f" raise it to {sizes[row]}."
            )
        yield row, faults


def _window_starts(spans: NDArray[np.int64], lengths: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """First token of the window of `size` tokens that holds both entities, as far in their middle as the row allows."""
    first, last = spans.min(axis=1) - 1, spans.max(axis=1) + 1
    middle = first - (size - (last - first)) // 2
    starts: NDArray[np.int64] = middle.clip(0, np.maximum(lengths - size, 0))
    return starts


def count_words(rows: Iterable[Iterable[str]]) -> pd.DataFrame:
    """Words (markers are none) by falling count, ties by code point: columns `word` and `count`."""
    return word_table(Counter(chain.from_iterable(rows)))


def word_table(counts: Mapping[str, int]) -> pd.DataFrame:
    """As `count_words`, of tokens that are counted already."""
    words = sorted(
        ((word, n) for word, n in counts.items() if word not in SPECIALS), key=lambda item: (-item[1], item[0])
    )
    return pd.DataFrame({"word": [word for word, _ in words], "count": [n for _, n in words]})


def write_words(words: pd.DataFrame, path: Path) -> None:
    """Writes the table of `count_words` as csv."""
    words.to_csv(path, index=False, lineterminator="\n", encoding="utf-8")


def read_words(path: Path) -> pd.DataFrame:
    """Reads the table that `write_words` wrote; words such as `NA`, `null` and `"` come back as they were."""
    return pd.read_csv(path, dtype={"word": str, "count": int}, keep_default_na=False, encoding="utf-8")


class Vocabulary:
    """Numbers words: `SPECIALS` are 0 to 5 (`<pad>` is 0, `<unk>` 1), then the given words in their order.

    Args:
        words: words without the specials, each once.

    Raises:
        DataError: a word is given twice, is a special, is empty, or holds a line break.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self.words = [*SPECIALS, *words]
        self._ids = {word: number for number, word in enumerate(self.words)}
        broken = [word for word in self.words if not word or LINE_BREAK.search(word)]
        if broken or len(self._ids) < len(self.words):
            twice = [word for word, n in Counter(self.words).items() if n > 1]
            faults = [f"vocabulary: {word!r} is given twice, or is a special." for word in twice]
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
        """Reads what `save` wrote.

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
