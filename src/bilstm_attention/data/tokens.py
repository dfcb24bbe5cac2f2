"""Turns sentences into tokens, entity positions and word ids: the tokeniser, the encoding, the vocabulary."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import regex
from numpy.typing import NDArray

from bilstm_attention.config import Data, Tokens
from bilstm_attention.data.text import JOINERS, KATAKANA, SPACE, UNSPACED, URL, USER, clean_text, compose, normalize
from bilstm_attention.errors import DataError, join_lines

MARKERS = ("<e1>", "</e1>", "<e2>", "</e2>")
PAD, UNK = "<pad>", "<unk>"
SPECIALS = (PAD, UNK, *MARKERS)  # ids 0 to 5 of every vocabulary
SPANS = ("e1_start", "e1_end", "e2_start", "e2_end")
EMPTY_ENTITIES = {MARKERS[:2], MARKERS[2:]}

MARKER = re.compile("</?e[12]>")
AROUND_MARKERS = re.compile(f"({MARKER.pattern})")
CONTROL = re.compile(r"[\x00-\x08\x0e-\x1b\x7f]")
VERB = "'(?:s|re|ve|ll|d|m)"
SUFFIX = f"(?i:n't|{VERB})"


def _token_pattern(letter: str, word: str, inside: str, joiner: str, sign: str) -> str:
    """Pattern of a token: a `letter`, a `word`'s first sign, those `inside` it, a `joiner` of words, other `sign`s."""
    part = rf"""(?:
        (?:{letter}\.)+{letter}(?!{inside})\.?                 # u.s. e.g.
        | \d+(?:[.,:/\u066b\u066c]\d+)+{inside}*             # 1,000 2.5kg 10:30
        | {word}{inside}*                                     # word 1990s
    )"""
    return rf"""{URL} | {USER}
        | {SUFFIX}(?!['\-]|{inside})                          # 's n't, already split in the text
        | {part}(?:{joiner}{part})*                           # well-known o'brien u.s.-based
        | \.\.+ | --+                                         # ellipsis, dash
        | {sign}"""


# Text in ASCII has a pattern of its own, which is several times faster; both give it the same tokens.
ASCII_TOKEN = re.compile(MARKER.pattern + "|" + _token_pattern("[a-zA-Z]", r"\w", r"\w", "[-']", r"\S"), re.VERBOSE)

EXTEND = rf"[\p{{M}}{JOINERS}]"  # belongs to the sign before it
WORD = r"\p{L}\p{N}_\p{PCM}\u05f3"
RUNS_ALONE = f"[{UNSPACED}{KATAKANA}]"
# A flag is a pair of regional indicators; \X would count them from the first, in the square of their number. A cluster
# that begins with the Arabic number sign may end with a blank.
CLUSTER = rf"(?![{SPACE}\p{{M}}{JOINERS}])(?:\p{{RI}}{{1,2}}|\X(?<![{SPACE}])|.)"
UNICODE_TOKEN = _token_pattern(
    letter=rf"[\p{{L}}--{RUNS_ALONE}]{EXTEND}*+",
    word=f"[[{WORD}]--{RUNS_ALONE}]",
    inside=rf"[[{WORD}\p{{M}}{JOINERS}]--{RUNS_ALONE}]",
    # between letters also the middle dot (Catalan), and Hebrew gershayim
    joiner=r"""(?:[-'] | (?<=[\p{L}\p{M}])[\u00b7\u0387\u05f4\u2027](?=\p{L}) | (?<=\p{Hebrew})"(?=\p{Hebrew}))""",
    sign=rf"[{KATAKANA}](?:[{KATAKANA}]|{EXTEND})* | {CLUSTER}",
)
PATTERNS = {
    "unicode": regex.compile(rf"(?:{UNICODE_TOKEN}){EXTEND}*", regex.V1 | regex.VERBOSE),
    "characters": regex.compile(rf"(?:{URL}|{USER}|{CLUSTER}){EXTEND}*", regex.V1),
}
KEYCAP = regex.compile(r"[0-9#*]\ufe0f?\u20e3\p{M}*")
# In text that was split beforehand: as one token, lower-cased, it would be read as a marker or as padding.
RESERVED = re.compile("(?i)<(pad|/?e[12])>")
# Not after a hyphen or an apostrophe, which the rest of the word would lose as a token of its own.
CONTRACTION = re.compile(rf"(?i:(?<![-'.])n't|(?<![-']){VERB})\Z")
LOWERED_DOT = re.compile("i\u0307+")
CACHED_TOKENS, CACHED_LENGTH = 1 << 17, 64  # a token of more characters is hardly a word, and would fill the cache
LINE_BREAK = re.compile(r"[\r\n]")

DROPPED = "data.tokens.punctuation: drop removes tokens without a letter or digit; set it to keep, or fix the sentence."
NOTHING = "all of it is invisible, or removed by data.tokens.clean; change that, or fix the sentence."


def tokenize(text: str, tokens: Tokens) -> list[str]:
    r"""Splits a sentence into tokens; no token is empty or holds white space.

    Entity markers are whole tokens, whatever they touch, and are never changed. `data.tokens.words` says what the other
    tokens are:

    `unicode`: words with the hyphens and apostrophes inside them, abbreviations of letters and full stops, numbers with
    their commas and decimals, runs of full stops or hyphens, and every other sign by itself. A typographic apostrophe
    is read as `'`. Where a script has no blanks, boundaries are those of UAX 29 without a dictionary: a run of Katakana
    is a token, and of Han, Hiragana, Thai, Lao, Khmer and Myanmar each grapheme cluster.
    `whitespace`: what blanks separate, for text that was split beforehand; contractions are not split.
    `characters`: each grapheme cluster, what a reader takes for one character.

    In all three, letters are composed and what cannot be seen is dropped, see `text.normalize`. A combining mark
    belongs to the sign before it; without one, after a blank or a marker, it is dropped, but for `whitespace`. An emoji
    sequence is one token. Lower case is that of Unicode for no language, and the dot that it leaves of `İ` is
    dropped: `i`. With `context`, that many tokens remain before the first marker and after the last.

    >>> tokenize("The <e1>dog</e1>s don't bark.", Tokens())
    ['the', '<e1>', 'dog', '</e1>', 's', 'do', "n't", 'bark', '.']
    >>> tokenize("It's a well-known $1,250.50 U.S. price (1990s)...", Tokens(numbers="zero"))
    ['it', "'s", 'a', 'well-known', '$', '0,000.00', 'u.s.', 'price', '(', '0000s', ')', '...']
    >>> tokenize("It's <e1>Ann</e1>, 5!", Tokens(lowercase=False, punctuation="drop", contractions="keep"))
    ["It's", '<e1>', 'Ann', '</e1>', '5']
    >>> tokenize("Here stands the <e1>wheel</e1> of a <e2>car</e2>, old and red.", Tokens(context=1))
    ['the', '<e1>', 'wheel', '</e1>', 'of', 'a', '<e2>', 'car', '</e2>', ',']
    """
    contractions = tokens.contractions if tokens.words == "unicode" else "keep"
    forms = _written_forms(tokens.lowercase, tokens.numbers, tokens.punctuation, contractions)
    words = list(chain.from_iterable(map(forms.__getitem__, _split(text, tokens))))
    if tokens.context is None:
        return words
    markers = [place for place, word in enumerate(words) if word in MARKERS] or [0, len(words)]
    return words[max(0, markers[0] - tokens.context) : markers[-1] + 1 + tokens.context]


def _split(text: str, tokens: Tokens) -> list[str]:
    """The parts of a text that become tokens."""
    is_plain = tokens.words == "unicode" and not tokens.clean and text.isascii()
    # most text has no tab, and the pattern is only searched where it has one
    if is_plain and (text.isprintable() or not CONTROL.search(text)):
        return ASCII_TOKEN.findall(text)
    # markers first: what becomes `<e1>` by cleaning or folding is none
    parts = AROUND_MARKERS.split(text)
    return [token for part in parts for token in ([part] if part in MARKERS else _split_part(part, tokens))]


def _split_part(text: str, tokens: Tokens) -> list[str]:
    """As `_split`, for a text without entity markers."""
    text = normalize(clean_text(text, tokens.clean), tokens.fold)
    if tokens.words == "whitespace":
        return RESERVED.sub(r"< \1 >", text).split()
    if tokens.words == "unicode":
        # blanks, since a keycap begins with a digit and would run into a word
        text = KEYCAP.sub(r" \g<0> ", text.replace("\u2019", "'"))
    return list(PATTERNS[tokens.words].findall(text))


class _WrittenForms(dict[str, tuple[str, ...]]):
    """The written form of each token: itself, its parts, or nothing. Cached, since texts repeat their tokens."""

    # not an lru_cache: for every token it would make a key of all options, which took as long as finding the tokens

    def __init__(self, lowercase: bool, numbers: str, punctuation: str, contractions: str) -> None:
        super().__init__({marker: (marker,) for marker in MARKERS})
        self.options = lowercase, numbers, punctuation, contractions

    def __missing__(self, token: str) -> tuple[str, ...]:
        lowercase, numbers, punctuation, contractions = self.options
        parts = split_contractions(token) if contractions == "split" else [token]
        if punctuation == "drop":
            parts = [part for part in parts if any(map(str.isalnum, part))]
        words = tuple(_normalize(part, lowercase, numbers) for part in parts)
        if len(token) <= CACHED_LENGTH and len(self) < CACHED_TOKENS:
            self[token] = words
        return words


_written_forms = cache(_WrittenForms)


def split_contractions(token: str) -> list[str]:
    """Splits a word from its contractions: `couldn't've` into `could n't 've`."""
    parts, end = list[str](), len(token)
    # From the end: a lookahead at every position would take time in the square of the length.
    while match := CONTRACTION.search(token, max(1, end - 3), end):
        parts.append(match[0])
        end = match.start()
    return [token[:end], *reversed(parts)]


def _normalize(token: str, lowercase: bool, numbers: str) -> str:
    if numbers == "zero":
        token = re.sub(r"\d", "0", token)
    if lowercase:
        token = LOWERED_DOT.sub("i", token.lower())
    return token if token.isascii() else compose(token)


def encode_examples(examples: pd.DataFrame, data: Data) -> pd.DataFrame:
    """Tokenises examples, locates their entities, and cuts rows longer than `data.tokens.max_length`.

    A plain row keeps its first tokens. A relation row keeps a window around both entities and their markers, with as
    much text on the left as on the right where there is enough. An entity without a token gets `<unk>`.

    Args:
        examples: columns `id`, `text`, `label` and `source`, "file:line" for error messages; all strings.

    Returns:
        columns `id`; `tokens`, a list of strings; `label`; for a relation corpus `e1_start`, `e1_end`, `e2_start`,
        `e2_end`, the half-open positions in `tokens` of the words between the markers; and `length`, the tokens of
        the context before cutting, so that a row was cut where `length` exceeds `len(tokens)`.

    Raises:
        DataError: lists by file and line the sentences without a token, and the rows whose entities do not fit in
            `max_length`; the last line names the `max_length` that all of them need.
    """
    encoded = encode_with_faults(examples, data)
    if faults := [*filter(None, encoded["fault"])]:
        raise DataError(join_lines(faults) + length_advice(encoded["required_length"].max(), data.tokens))
    return encoded.drop(columns=["fault", "empty_entities", "required_length"])


def length_advice(required: int, tokens: Tokens) -> str:
    """The last line of an error of `encode_examples`."""
    return f"\nRaise data.tokens.max_length to {required}." if required > tokens.max_length else ""


def encode_with_faults(examples: pd.DataFrame, data: Data) -> pd.DataFrame:
    """As `encode_examples`, but errors do not raise, and there are three more columns.

    `fault`: the error of a row, or empty. `empty_entities`: entities of the row that got `<unk>`, 0 to 2.
    `required_length`: the smallest `data.tokens.max_length` that holds both entities and their markers; 1 for a plain
    row.
    """
    rows = [tokenize(text, data.tokens) for text in examples["text"]]
    spans, empty = _locate_entities(rows) if data.relational else (None, np.zeros(len(rows), np.int64))
    lengths, limit = np.fromiter(map(len, rows), np.int64, len(rows)), data.tokens.max_length
    encoded = pd.DataFrame({"id": examples["id"].array, "tokens": rows, "label": examples["label"].array})
    starts, required = np.zeros(len(rows), np.int64), np.ones(len(rows), np.int64)
    if spans is not None:
        first, last = spans.min(axis=1) - 1, spans.max(axis=1) + 1
        required = last - first
        # both entities in the middle, as far as the row allows
        starts = (first - (limit - required) // 2).clip(0, np.maximum(lengths - limit, 0))
        encoded[list(SPANS)] = spans - starts[:, None]
    faults = [""] * len(rows)
    dropped = DROPPED if data.tokens.punctuation == "drop" else NOTHING
    for row in np.flatnonzero((required > limit) | (lengths == 0)).tolist():
        source, name, text = examples[["source", "id", "text"]].iloc[row]
        fault = f"has no token left of {text!r}; {dropped}"
        if lengths[row]:
            fault = (
                f"has {required[row]} tokens from its first marker to its last, more than data.tokens.max_length,"
                f" {limit}; raise it to {required[row]}."
            )
        faults[row] = f"{source}: sentence {name} {fault}"
    for row in np.flatnonzero(lengths > limit).tolist():
        rows[row] = rows[row][starts[row] : starts[row] + limit]
    encoded["tokens"], encoded["length"] = rows, lengths
    encoded["fault"], encoded["empty_entities"], encoded["required_length"] = faults, empty, required
    return encoded


def _locate_entities(rows: list[list[str]]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The entities' half-open positions in the order of `SPANS`, `(N, 4)`, and how many had no token, `(N,)`.

    An entity without a token gets `<unk>`.
    """

    def spans_of(row: list[str]) -> list[int]:
        e1_start, e1_end, e2_start, e2_end = map(row.index, MARKERS)
        return [e1_start + 1, e1_end, e2_start + 1, e2_end]

    spans = np.array([*map(spans_of, rows)])
    empty = spans[:, [0, 2]] == spans[:, [1, 3]]
    for number in np.flatnonzero(empty.any(axis=1)):
        # from the right, so that the other place stays
        for place in sorted(spans[number, [0, 2]][empty[number]], reverse=True):
            rows[number].insert(place, UNK)
        spans[number] = spans_of(rows[number])
    return spans, empty.sum(axis=1)


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
        """Reads a file of `save`; one that does not begin with the specials, or repeats a word, is a DataError."""
        # Not read_text().splitlines(), which would also break at the rarer characters that a word may hold.
        words = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
        specials, words = tuple(words[: len(SPECIALS)]), words[len(SPECIALS) :]
        if specials != SPECIALS:
            raise DataError(
                f"{path}:1: begins with {' '.join(specials)}; a vocabulary begins with {' '.join(SPECIALS)}."
            )
        return cls(words)
