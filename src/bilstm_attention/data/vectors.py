"""Reads word vectors from GloVe, word2vec and fastText files, plain or compressed, or trains skip-gram vectors.

A file is streamed and only the rows needed are held: all of the Google News vectors fill 3.6 GB, those of 20,000 words
24 MB. gensim's reader holds the whole file, and fails at the first bad line; here it reads fastText's own `.bin` alone,
whose vectors are means over subwords, and takes three to four times its size.
"""

import bz2
import codecs
import gzip
import io
import lzma
import re
import tarfile
import zipfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice, takewhile
from pathlib import Path, PurePath
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import wrap_file

from bilstm_attention.data.tokens import MARKERS
from bilstm_attention.errors import DataError, join_lines

BUFFER = 1 << 20  # bytes
HEADER = re.compile(rb"(\d+)\s(\d+)\s*")
NUMBER = re.compile(rb"(?i)[-+]?(\d+\.?\d*|\.\d+|nan|inf)(e[-+]?\d+)?")
HEAD = 100  # first lines of a file, from which the dimension of its vectors is taken
SAMPLE = 1000  # first words of a file, to say why it covers little of a text
# by first bytes
PACKED: dict[bytes, Any] = {rb"\x1f\x8b": gzip.open, rb"BZh[1-9]1AY&SY": bz2.open, rb"\xfd7zXZ\0": lzma.open}
FASTTEXT = 793712314  # first number of fastText's own format

Matrix = npt.NDArray[np.float32]
Faults = dict[str, list[int]]  # by kind, the lines of a text file or the records of a binary file that have it
Record = tuple[int, bytes, bytes]  # number of the line or record, word, vector not yet parsed


@dataclass
class Vectors:
    """Word vectors in the order of their source, usually by falling frequency."""

    rows: dict[str, int]  # word to row of `matrix`
    matrix: Matrix  # float32 (N, D), finite
    read: int  # words in the source
    # By kind; the width and the word of every line are checked, numbers and repetition in the rows needed.
    faults: Faults = field(default_factory=dict)
    first_words: list[str] = field(default_factory=list)  # the first `SAMPLE` of the source
    subwords: dict[str, int] = field(default_factory=dict)  # rows of words unknown to fastText, built from their parts


def read_vectors(
    path: Path, dimension: int, words: Collection[str], first: int = 0, member: str | None = None
) -> Vectors:
    """Reads the vectors of `words` and of the `first` words of a file.

    A text file has `word number ... number` on each line, with a header line `V D` (word2vec, fastText) or without
    (GloVe); a name in `.bin` means word2vec's binary format or, unpacked, fastText's own. Files may be packed by gzip,
    bzip2 or xz, or be a member of a zip or tar; without `member` its only one, or the only one named for the dimension
    (`glove.6B.50d.txt`). In a folder, the file named for the dimension is read, else the zip, as `fetch` stores GloVe.

    A malformed line is skipped and counted, as is a word that holds a blank. A repeated word has its first vector. A
    header that rows contradict is counted and ignored, unless rows are missing.

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
    faults: Faults = defaultdict(list)
    # a number beyond float32 becomes infinite, and its line is counted as faulty
    with _unpacked(path, dimension, member) as (stream, name), np.errstate(over="ignore"):
        source = str(path) if name == path.name else f"{path}, member {name}"
        if stream.peek(4)[:4] == FASTTEXT.to_bytes(4, "little"):
            return _read_fasttext(path, source, dimension, frozenset(words), first)
        binary = _plain_name(name).endswith(".bin")
        records = (_binary_records if binary else _text_records)(stream, dimension, source, faults)
        vectors = _collect(records, dimension, frozenset(words), first, binary, faults)
    if not vectors.read:
        raise DataError(f"{source}: no line is a word and {dimension} numbers; faults: {list_faults(faults)}.")
    return vectors


def list_faults(faults: Faults) -> str:
    """Faults on one line, each kind with its number and its first line."""
    return ", ".join(f"{len(lines)} x {kind} (from line {lines[0]})" for kind, lines in faults.items())


def _vector_file(folder: Path, dimension: int) -> Path:
    names = sorted(file.name for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))
    # a plain file comes before its packed copy
    named = {_plain_name(name): name for name in reversed(names) if _is_named_for(dimension, name)}
    for matches in (list(named.values()), [name for name in names if name.endswith(".zip")]):
        if len(matches) == 1:
            return folder / matches[0]
    raise DataError(
        f"{folder}: neither one file named for {dimension}d (glove.6B.{dimension}d.txt) nor one zip; it holds"
        f" {', '.join(names) or 'nothing'}. Name the file of vectors in embeddings.path."
    )


def _plain_name(name: str) -> str:
    return re.sub(r"\.(gz|bz2|xz)$", "", name)


def _is_named_for(dimension: int, name: str) -> bool:
    return re.search(rf"(?<!\d){dimension}d(?!\d)", name) is not None


@contextmanager
def _unpacked(path: Path, dimension: int, member: str | None) -> Iterator[tuple[io.BufferedReader, str]]:
    """Opens a vector file, decompressed; gives its bytes and the name that decides its format."""
    console = Console(stderr=True)
    try:
        with ExitStack() as stack:
            stream: Any = stack.enter_context(path.open("rb"))
            name, size, sizes = path.name, path.stat().st_size, dict[str, int]()  # of the members of an archive
            if stream.peek(4).startswith(b"PK\x03\x04"):
                packed = stack.enter_context(zipfile.ZipFile(stream))
                sizes = {entry.filename: entry.file_size for entry in packed.infolist() if not entry.is_dir()}
                extract: Any = packed.open
            elif tarfile.is_tarfile(path):
                archive = stack.enter_context(tarfile.open(path))
                sizes, extract = {entry.name: entry.size for entry in archive if entry.isfile()}, archive.extractfile
            if sizes:
                name = _member(list(sizes), path, dimension, member)
                stream, size = stack.enter_context(extract(name)), sizes[name]
            elif member is not None:
                raise DataError(f"{path}: embeddings.member is {member!r}, but this is no archive; leave member empty.")
            start = stream.peek(10)
            unpack = next((opener for magic, opener in PACKED.items() if re.match(magic, start)), None)
            stream = stack.enter_context(
                wrap_file(stream, size, description=name, console=console, disable=not console.is_terminal)
            )
            if unpack:
                stream = stack.enter_context(unpack(cast(BinaryIO, stream)))
            yield io.BufferedReader(stream, BUFFER), name
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise DataError(f"{path}: damaged or truncated: {error}. Fetch or copy it again.") from None


def _member(names: list[str], path: Path, dimension: int, member: str | None) -> str:
    if member in names:
        return str(member)
    # macOS adds `._NAME` for every NAME
    names = [name for name in names if not PurePath(name).name.startswith(".")]
    matches = [name for name in names if _is_named_for(dimension, name)] if names[1:] else names
    if member is None and len(matches) == 1:
        return matches[0]
    fault = f"no member {member!r}" if member else f"{len(matches)} of {len(names)} members are named for {dimension}d"
    raise DataError(f"{path}: {fault}; set embeddings.member to one of:\n" + join_lines(f"  {name}" for name in names))


def _text_records(stream: Iterable[bytes], dimension: int, source: str, faults: Faults) -> Iterator[Record]:
    lines = enumerate(stream, start=1)
    head = [(number, line.removeprefix(codecs.BOM_UTF8)) for number, line in islice(lines, HEAD)]
    header = HEADER.fullmatch(head[0][1]) if head else None
    if header:
        head = head[1:]
        if int(header[2]) != dimension:
            faults["header with another dimension"].append(1)
    # the count of numbers that most lines end with; the expected one wins a tie
    widths = Counter(sum(1 for _ in takewhile(NUMBER.fullmatch, reversed(line.split()[1:]))) for _, line in head)
    width = max(widths, key=lambda width: (widths[width], width == dimension), default=0)
    if not width:
        raise DataError(
            f"{source}: not word vectors: most of its first {HEAD} lines do not end with a number;"
            " legal is a word and its numbers on each line, separated by blanks."
        )
    _check_dimension(width, dimension, source)
    for number, raw in chain(head, lines):
        line = raw.rstrip()
        word, _, numbers = line.partition(b" ")
        if word and numbers.count(b" ") == dimension - 1:
            yield number, word, numbers
            continue
        fields = line.split()
        if not fields:
            faults["empty line"].append(number)
        elif len(fields) == dimension + 1:
            yield number, fields[0], b" ".join(fields[1:])
        # glove.840B has words such as `. . .`
        elif len(fields) > dimension and not NUMBER.fullmatch(fields[-dimension - 1]):
            faults["word with a blank"].append(number)
        else:
            faults["not the right count of numbers"].append(number)
    rows = number - 1 - len(faults.get("empty line", []))
    if header and rows < int(header[1]):
        raise DataError(
            f"{source}: ends after {rows} of the {int(header[1])} vectors that line 1 promises;"
            " fetch or copy it again, or correct the count if the file was cut on purpose."
        )
    if header and rows > int(header[1]):
        faults["header with too few words"].append(1)


def _binary_records(stream: io.BufferedReader, dimension: int, source: str, faults: Faults) -> Iterator[Record]:
    header = HEADER.fullmatch(stream.readline(100))
    if not header:
        raise DataError(
            f"{source}: a .bin file is word2vec's, whose first line is `V D`, or fastText's; this one is neither."
            " Of a fastText before 2017, take the .vec file."
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
        yield number, buffer[start:blank].lstrip(b"\n"), buffer[blank + 1 : at]
    if (buffer[at:] + stream.read(2)).strip(b"\n"):
        faults["header with too few words; the vectors beyond are not read"].append(1)


def _read_fasttext(path: Path, source: str, dimension: int, words: frozenset[str], first: int) -> Vectors:
    """Reads fastText's own format, whole, and builds the vectors of unknown `words` from their subwords."""
    from gensim.models.fasttext import load_facebook_vectors

    with path.open("rb") as file:
        header = np.frombuffer(file.read(76).ljust(76, b"\0"), "<i4").tolist()
    magic, size, bucket, vocabulary = (header[at] for at in (0, 2, 10, 17))
    if magic != FASTTEXT:
        raise DataError(f"{source}: a fastText .bin is read unpacked; unpack it and name that file in embeddings.path.")
    _check_dimension(size, dimension, source)
    try:
        # gensim reads words beyond the end of a file for ever
        if path.stat().st_size < 4 * size * (bucket + vocabulary):
            raise EOFError("shorter than its header says")
        model = load_facebook_vectors(str(path))
    # gensim checks little: a damaged file raises whatever it comes to
    except Exception as error:
        raise DataError(
            f"{source}: {error}; legal is a whole fastText model, neither supervised nor quantized. Fetch it again."
        ) from None
    records = ((row, word.encode(), model.vectors[row].tobytes()) for row, word in enumerate(model.index_to_key))
    vectors = _collect(records, dimension, words, first, True, defaultdict(list))
    # the shortest subword of a word is <word>, brackets included
    lacking = words.difference(model.key_to_index) if bucket else []
    built = sorted(word for word in lacking if len(word) + 2 >= model.min_n)
    vectors.subwords = {word: row for row, word in enumerate(built, start=len(vectors.rows))}
    vectors.matrix = np.vstack([vectors.matrix, *map(model.get_vector, built)])
    return vectors


def _collect(
    records: Iterable[Record], dimension: int, words: frozenset[str], first: int, binary: bool, faults: Faults
) -> Vectors:
    first_words, rows, data, read = list[str](), dict[str, int](), bytearray(), 0
    for line, raw, numbers in records:
        try:
            word = raw.decode()
        except UnicodeDecodeError:
            faults["word not UTF-8"].append(line)
            continue
        read += 1
        if read <= SAMPLE:
            first_words.append(word)
        if len(rows) >= first and word not in words:
            continue
        try:
            row = np.frombuffer(numbers, "<f4") if binary else np.array(numbers.split(), dtype=np.float32)
        except ValueError:
            row = None
        if word.split() != [word]:
            faults["word with a blank"].append(line)
        elif word in rows:
            faults["repeated word; its first vector is used"].append(line)
        elif row is None:
            faults["not a number"].append(line)
        elif row.size != dimension:
            faults["not the right count of numbers"].append(line)
        elif not np.isfinite(row).all():
            faults["not a finite number"].append(line)
        else:
            rows[word] = len(rows)
            data += row.tobytes()
    return Vectors(rows, np.frombuffer(data, np.float32).reshape(-1, dimension), read, faults, first_words)


def _check_dimension(actual: int, expected: int, source: str) -> None:
    if actual != expected:
        raise DataError(
            f"{source}: vectors of {actual} numbers, but their `dimension` in embeddings is {expected};"
            f" set it to {actual} or name another file."
        )


@dataclass
class _WithoutMarkers:
    sentences: Iterable[Iterable[str]]

    def __iter__(self) -> Iterator[list[str]]:
        return ([token for token in sentence if token not in MARKERS] for sentence in self.sentences)


def train_vectors(
    sentences: Iterable[Iterable[str]], dimension: int, min_count: int, window: int, epochs: int, seed: int
) -> Vectors:
    """Trains skip-gram vectors with negative sampling (Mikolov et al. 2013); the same bytes in every process.

    Entity markers are left out: they would fill the windows around the entities. `sentences`, token lists, are iterated
    `epochs` + 1 times and never held.

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
