"""Reads word vectors from GloVe, word2vec and fastText files, plain or compressed, or trains skip-gram vectors.

A file is streamed and only the rows needed are held: all of the Google News vectors fill 3.6 GB, those of 20,000 words
24 MB. gensim's reader holds the whole file, and fails at the first bad line.
"""

import gzip
import io
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypedDict, cast

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import wrap_file

from bilstm_attention.data.tokens import MARKERS
from bilstm_attention.errors import DataError, join_lines

BUFFER = 1 << 20  # bytes
HEADER = re.compile(rb"(\d+) (\d+)\s*")
HEAD = 100  # first lines of a file, from which the dimension of its vectors is taken
FAULTS_SHOWN = 5

Matrix = npt.NDArray[np.float32]


class Fault(TypedDict):
    """Number of faults of one kind, and the first lines (in a binary file: records) that have it."""

    count: int
    lines: list[int]


Faults = dict[str, Fault]


class Record(NamedTuple):
    """A line of a text file, or a record of a binary file, its numbers not yet parsed."""

    line: int
    word: bytes
    numbers: bytes


@dataclass
class Vectors:
    """Word vectors in the order of their source, usually by falling frequency."""

    rows: dict[str, int]  # word to row of `matrix`
    matrix: Matrix  # float32 (N, D), finite
    read: int  # words in the source
    # By kind; the width and the word of every line are checked, numbers and repetition in the rows needed.
    faults: Faults = field(default_factory=dict)


def read_vectors(
    path: Path, dimension: int, words: Collection[str], first: int = 0, member: str | None = None
) -> Vectors:
    """Reads the vectors of `words` and of the `first` words of a file.

    A text file has `word number ... number` on each line, with a header line `V D` (word2vec, fastText) or without
    (GloVe); a name in `.bin` means word2vec's binary format. Both may be gzipped or a member of a zip; without `member`
    its only one, or the only one named for the dimension (`glove.6B.50d.txt`). In a folder, the file named for the
    dimension is read, else the zip: the forms in which `fetch` stores GloVe.

    A malformed line is skipped and counted, as is a word that holds a blank. A repeated word has its first vector.

    Raises:
        DataError: no such file or member, a damaged or truncated file, vectors of another dimension, not a vector file.
    """
    if path.is_dir():
        path = _vector_file(path, dimension)
    if not path.is_file():
        raise DataError(
            f"{path}: no such file. embeddings.path names the file of vectors;"
            " `bilstm-attention fetch glove-6b` fetches GloVe's."
        )
    faults: Faults = {}
    # a number beyond float32 becomes infinite, and its line is counted as faulty
    with _unpacked(path, dimension, member) as (stream, name), np.errstate(over="ignore"):
        source = str(path) if name == path.name else f"{path}, member {name}"
        binary = name.removesuffix(".gz").endswith(".bin")
        records = (_binary_records if binary else _text_records)(stream, dimension, source, faults)
        vectors = _collect(records, dimension, words, first, binary, faults)
    if not vectors.read:
        kinds = (f"{fault['count']} x {kind} (from line {fault['lines'][0]})" for kind, fault in faults.items())
        raise DataError(f"{source}: no line is a word and {dimension} numbers; faults: {', '.join(kinds)}.")
    return vectors


def _vector_file(folder: Path, dimension: int) -> Path:
    files = sorted(file for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    named = {file.name.removesuffix(".gz"): file for file in reversed(files) if _is_named_for(dimension, file.name)}
    for matches in (list(named.values()), list(folder.glob("*.zip"))):
        if len(matches) == 1:
            return matches[0]
    names = ", ".join(file.name for file in files) or "nothing"
    raise DataError(
        f"{folder}: neither one file named for {dimension}d (glove.6B.{dimension}d.txt) nor one zip; it holds {names}."
        " Name the file of vectors in embeddings.path."
    )


def _is_named_for(dimension: int, name: str) -> bool:
    return re.search(rf"(?<!\d){dimension}d(?!\d)", name) is not None


@contextmanager
def _unpacked(path: Path, dimension: int, member: str | None) -> Iterator[tuple[io.BufferedReader, str]]:
    """Opens a vector file, decompressed; gives its bytes and the name that decides its format."""
    console = Console(stderr=True)
    try:
        with ExitStack() as stack:
            stream: Any = stack.enter_context(path.open("rb"))
            name, size = path.name, path.stat().st_size
            if stream.peek(4)[:4] == b"PK\x03\x04":
                archive = stack.enter_context(zipfile.ZipFile(stream))
                name = _member(archive, path, dimension, member)
                stream, size = stack.enter_context(archive.open(name)), archive.getinfo(name).file_size
            elif member is not None:
                raise DataError(f"{path}: embeddings.member is {member!r}, but this is not a zip; leave member empty.")
            packed = stream.peek(2)[:2] == b"\x1f\x8b"
            stream = stack.enter_context(
                wrap_file(stream, size, description=name, console=console, disable=not console.is_terminal)
            )
            if packed:
                stream = stack.enter_context(gzip.GzipFile(fileobj=cast(BinaryIO, stream)))
            yield io.BufferedReader(stream, BUFFER), name
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: damaged or truncated: {error}. Fetch or copy it again.") from None


def _member(archive: zipfile.ZipFile, path: Path, dimension: int, member: str | None) -> str:
    names = [entry.filename for entry in archive.infolist() if not entry.is_dir()]
    if member is not None:
        matches = [name for name in names if name == member]
    else:
        matches = [name for name in names if _is_named_for(dimension, name)] if names[1:] else names
    if len(matches) == 1:
        return matches[0]
    fault = f"no member {member!r}" if member else f"{len(matches)} of {len(names)} members are named for {dimension}d"
    raise DataError(f"{path}: {fault}; set embeddings.member to one of:\n" + join_lines(f"  {name}" for name in names))


def _text_records(stream: Iterable[bytes], dimension: int, source: str, faults: Faults) -> Iterator[Record]:
    lines = enumerate(stream, start=1)
    head = list(islice(lines, HEAD))
    header = HEADER.fullmatch(head[0][1]) if head else None
    if header:
        head = head[1:]
    _check_dimension(int(header[2]) if header else _dimension(head, dimension, source), dimension, source)
    number = 0
    for number, raw in chain(head, lines):
        line = raw.rstrip()
        word, _, numbers = line.partition(b" ")
        if word and numbers.count(b" ") == dimension - 1:
            yield Record(number, word, numbers)
            continue
        fields = line.split()
        # from the right: glove.840B has words such as `. . .`
        surplus = fields[1:-dimension]
        if not fields:
            _note(faults, "empty line", number)
        elif len(fields) <= dimension or (surplus and _is_number(surplus[-1])):
            _note(faults, "not the right count of numbers", number)
        elif surplus:
            _note(faults, "word with a blank", number)
        else:
            yield Record(number, fields[0], b" ".join(fields[1:]))
    if header and number - 1 < int(header[1]):
        raise DataError(
            f"{source}: ends after {number - 1} of the {int(header[1])} vectors that line 1 promises;"
            " fetch or copy it again, or correct the count if the file was cut on purpose."
        )


def _binary_records(stream: io.BufferedReader, dimension: int, source: str, faults: Faults) -> Iterator[Record]:
    header = HEADER.fullmatch(stream.readline(100))
    if not header:
        raise DataError(
            f"{source}: a .bin file is read as word2vec's binary format, whose first line is `V D`; this one's is not."
            " Of fastText, take the .vec file."
        )
    _check_dimension(int(header[2]), dimension, source)
    width, buffer, at = 4 * dimension, b"", 0
    for number in range(1, int(header[1]) + 1):
        while (blank := buffer.find(b" ", at)) < 0 or len(buffer) <= blank + width:
            more = stream.read(BUFFER)
            if not more:
                raise DataError(f"{source}: ends after {number - 1} of its {int(header[1])} vectors; fetch it again.")
            buffer, at = buffer[at:] + more, 0
        at, start = blank + 1 + width, at
        # the original tool ends each vector with a line break, others do not
        yield Record(number, buffer[start:blank].lstrip(b"\n"), buffer[blank + 1 : at])


def _collect(
    records: Iterable[Record], dimension: int, words: Collection[str], first: int, binary: bool, faults: Faults
) -> Vectors:
    words = frozenset(words)
    rows: dict[str, int] = {}
    data = bytearray()
    read = 0
    for line, raw, numbers in records:
        try:
            word = raw.decode()
        except UnicodeDecodeError:
            _note(faults, "word not UTF-8", line)
            continue
        read += 1
        if len(rows) >= first and word not in words:
            continue
        row: Matrix | str
        if word.split() != [word]:
            row = "word with a blank"
        elif word in rows:
            row = "repeated word"
        else:
            row = _row(numbers, dimension, binary)
        if isinstance(row, str):
            _note(faults, row, line)
        else:
            rows[word] = len(rows)
            data += row.tobytes()
    return Vectors(rows, np.frombuffer(data, np.float32).reshape(-1, dimension), read, faults)


def _row(numbers: bytes, dimension: int, binary: bool) -> Matrix | str:
    """The vector, or the kind of its fault."""
    try:
        row = np.frombuffer(numbers, "<f4") if binary else np.array(numbers.split(), dtype=np.float32)
    except ValueError:
        return "not a number"
    if row.size != dimension:
        return "not the right count of numbers"
    return row if np.isfinite(row).all() else "not a finite number"


def _dimension(head: Iterable[tuple[int, bytes]], expected: int, source: str) -> int:
    """The count of numbers that most lines end with; `expected` wins a tie."""
    widths: Counter[int] = Counter()
    for _, line in head:
        fields = line.split()[1:]
        widths[next((at for at, part in enumerate(reversed(fields)) if not _is_number(part)), len(fields))] += 1
    width = max(widths, key=lambda width: (widths[width], width == expected), default=0)
    if not width:
        raise DataError(
            f"{source}: not word vectors: most of its first {HEAD} lines do not end with a number;"
            " legal is a word and its numbers on each line, separated by blanks."
        )
    return width


def _check_dimension(actual: int, expected: int, source: str) -> None:
    if actual != expected:
        raise DataError(
            f"{source}: vectors of {actual} numbers, but embeddings.dimension is {expected};"
            f" set embeddings.dimension to {actual} or name another file."
        )


def _is_number(text: bytes) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _note(faults: Faults, kind: str, line: int) -> None:
    fault = faults.setdefault(kind, {"count": 0, "lines": []})
    fault["count"] += 1
    if fault["count"] <= FAULTS_SHOWN:
        fault["lines"].append(line)


@dataclass
class _WithoutMarkers:
    sentences: Iterable[Iterable[str]]

    def __iter__(self) -> Iterator[list[str]]:
        return ([token for token in sentence if token not in MARKERS] for sentence in self.sentences)


def train_vectors(
    sentences: Iterable[Iterable[str]], dimension: int, min_count: int, window: int, epochs: int, seed: int
) -> Vectors:
    """Trains skip-gram vectors with negative sampling (Mikolov et al. 2013); the same bytes in every process.

    Entity markers are left out: they would fill the windows around the entities.

    Args:
        sentences: token lists, iterated `epochs` + 1 times, never held.

    Raises:
        DataError: no word occurs `min_count` times.
    """
    from gensim.models import Word2Vec

    # one worker: with more, the result depends on thread scheduling
    model = Word2Vec(vector_size=dimension, sg=1, window=window, min_count=min_count, seed=seed, workers=1)
    texts = _WithoutMarkers(sentences)
    model.build_vocab(texts)
    if not len(model.wv):
        raise DataError(f"no training word occurs embeddings.min_count = {min_count} times; lower it.")
    model.train(texts, total_examples=model.corpus_count, total_words=model.corpus_total_words, epochs=epochs)
    return Vectors(dict(model.wv.key_to_index), model.wv.vectors, read=len(model.wv))
