"""Reads corpora row by row, from any row on: SemEval-2010 Task 8, KBP37, csv/tsv/jsonl, and one file per class.

A large corpus is read twice, in chunks. So every row knows its position in the file, and
reading can resume there; pandas and csv alone cannot do that.
"""

import codecs
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from bilstm_attention.config import Data
from bilstm_attention.data.download import CATALOG
from bilstm_attention.data.tokens import MARKER, MARKERS
from bilstm_attention.errors import DataError, did_you_mean, join_lines
from bilstm_attention.paths import EXTERNAL

BUFFER = 1 << 16  # bytes
BLOCK = {
    "semeval2010": ('ID<TAB>"sentence"', "label", "Comment: ..."),
    "kbp37": ('ID<TAB>"sentence"', "label"),
}
# Greedy, since a sentence may itself hold quotes.
SENTENCE = re.compile(r'\s*(\S+)\s*\t\s*"(.*)"\s*')
# Either entity may come first.
ORDERS = [*MARKERS], [*MARKERS[2:], *MARKERS[:2]]
# JSON can spell half of a surrogate pair, which no UTF-8 file can hold.
HALF_PAIR = re.compile("[\ud800-\udfff]")
SEPARATORS = {".csv": ",", ".tsv": "\t"}


class FilePosition(NamedTuple):
    """Where a row begins in a file; reading can resume there."""

    path: Path  # as messages name it
    label: str = ""  # of every row of the file, with `data.format: classes`
    offset: int = 0  # bytes of the file before the row
    line: int = 1  # of the row's beginning, from 1
    number: int = 1  # of the record, from 1, in a file without ids

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


class Lines:
    """Lines of a file with their line ends, and the position of the next line."""

    # Not splitlines(): it also breaks at characters that a sentence may hold, such as U+0085.

    def __init__(self, file: BinaryIO, start: FilePosition) -> None:
        self.text = io.TextIOWrapper(file, "utf-8", newline="")
        self.start, self.bom_bytes = start, len(codecs.BOM_UTF8) * (file.read(3) == codecs.BOM_UTF8)
        self.seek(start)

    def seek(self, position: FilePosition) -> None:
        """Moves to a position."""
        self.path, self.label, self.offset, self.line, _ = position
        self.offset = max(self.offset, self.bom_bytes)
        self.text.seek(self.offset)

    def position(self) -> FilePosition:
        """Where the next line begins."""
        return FilePosition(self.path, self.label, self.offset, self.line)

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> str:
        line = next(self.text)
        self.line += 1
        self.offset += len(line) if line.isascii() else len(line.encode())
        return line


@contextmanager
def _open_lines(position: FilePosition) -> Iterator[Lines]:
    with position.path.open("rb", buffering=BUFFER) as file:
        lines = Lines(file, position)
        try:
            yield lines
        except UnicodeDecodeError:
            file.seek(0)
            raise DataError(join_lines(_undecodable(position.path, file))) from None


def _undecodable(path: Path, file: BinaryIO) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        line = line if number > 1 else line.removeprefix(codecs.BOM_UTF8)
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            yield (
                f"{path}:{number}: byte {error.start + 1} of the line is 0x{line[error.start]:02x}, which is not UTF-8;"
                " save the file as UTF-8 (for one in Windows-1252: iconv -f cp1252 -t utf-8)."
            )


class Row(NamedTuple):
    """One example and its position in the file."""

    id: str
    text: str
    label: str
    position: FilePosition


class Fault(NamedTuple):
    """A fault on a line of a file; faults sort by file and line."""

    position: FilePosition
    message: str

    def __str__(self) -> str:
        return f"{self.position}: {self.message}"


def split_files(data: Data, split: str) -> list[FilePosition]:
    """Start positions of the files of a split, as `data` names them: one, one per class, or none.

    Paths are relative to the working directory, which for a stage is the project root.

    Raises:
        DataError: lists the missing files.
    """
    names = getattr(data, split) or {}
    files = names if isinstance(names, dict) else {"": names}
    positions = [FilePosition(Path(data.folder, name), label) for label, name in files.items()]
    if missing := [_missing_file(position.path, split) for position in positions if not position.path.is_file()]:
        raise DataError(join_lines(missing))
    return positions


def _missing_file(path: Path, split: str) -> str:
    folder = path.parent
    names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    holds = f"holds {', '.join(names[:20])}{', ...' * (len(names) > 20)}" if names else "is empty or does not exist"
    known = [name for name in CATALOG if path.is_relative_to(EXTERNAL / name)]
    fetch = f" `bilstm-attention fetch {known[0]}` fetches it." if known else ""
    return (
        f"{path}: no such file{did_you_mean(path.name, names) or '.'} Its folder {holds};"
        f" change data.folder or data.{split} in params.yaml.{fetch}"
    )


def read(position: FilePosition, data: Data) -> Iterator[Row | Fault]:
    """Reads a file row by row, from a position to its end; a malformed row gives a `Fault` instead.

    Files are UTF-8, with or without a byte order mark, and lines end in LF, CRLF or CR. One row at a time is in memory.

    Args:
        position: the start of the file, or the position of any row read from it.

    Raises:
        DataError: an unknown file type with `data.format: delimited`; bytes that are not UTF-8, listed by line.
    """
    if data.format == "delimited" and (kind := position.path.suffix.lower()) not in (*SEPARATORS, ".jsonl"):
        raise DataError(f"{position.path}: ends in {kind!r}; data.format delimited reads .csv, .tsv and .jsonl.")
    with _open_lines(position) as lines:
        if data.format == "classes":
            yield from _classes(lines)
        elif data.format == "delimited":
            yield from _records(lines, data)
        else:
            yield from _blocks(lines, BLOCK[data.format])


def _classes(lines: Lines) -> Iterator[Row]:
    position = lines.start
    for line in lines:
        yield Row(f"{position.label}-{position.line}", line.strip(), position.label.strip(), position)
        position = lines.position()


def _blocks(lines: Lines, shape: tuple[str, ...]) -> Iterator[Row | Fault]:
    """Reads blocks of lines, separated by blank lines; `shape` describes the lines of a legal block."""
    # Lines beyond the shape are counted, not held: without blank lines a block is the whole file.
    position, block, size = lines.start, list[str](), 0
    for line in lines:
        if line.strip():
            size += 1
            if size <= len(shape):
                block.append(line.rstrip("\r\n"))
            continue
        if size:
            yield _block(position, block, size, shape)
            block, size = [], 0
        position = lines.position()
    if size:
        yield _block(position, block, size, shape)


def _block(position: FilePosition, lines: list[str], size: int, shape: tuple[str, ...]) -> Row | Fault:
    sentence = SENTENCE.fullmatch(lines[0])
    if not sentence:
        return Fault(position, f"a block begins with {_short(lines[0])}; legal is {shape[0]}.")
    name = sentence[1]
    if size != len(shape):
        legal = f"a block is {', '.join(shape)}, a blank line"
        return Fault(position, f"sentence {name} opens a block of {size} lines; {legal}.")
    if len(shape) == 3 and not lines[2].lstrip().startswith("Comment"):
        message = f"{_short(lines[2])} stands under sentence {name}; legal is {shape[2]}."
        return Fault(position._replace(line=position.line + 2), message)
    return Row(name, sentence[2].strip(), lines[1].strip(), position)


def _short(line: str) -> str:
    return repr(line if len(line) <= 60 else line[:57] + "...")


def _records(lines: Lines, data: Data) -> Iterator[Row | Fault]:
    kind = lines.path.suffix.lower()
    records = _json_records(lines) if kind == ".jsonl" else _csv_records(lines, data, SEPARATORS[kind])
    for number, (position, item) in enumerate(records, lines.start.number):
        if isinstance(item, str):
            yield Fault(position, item)
        elif message := _missing_columns(item, data):
            yield Fault(position, message)
        elif wrong := [name for name in (data.text, data.label, "id") if not _is_plain(item.get(name, ""))]:
            value = _short(json.dumps(item[wrong[0]]))
            yield Fault(position, f"{wrong[0]!r} is {value}; legal is a string of Unicode characters.")
        else:
            name, sentence, label = (str(item[key]) if key in item else "" for key in ("id", data.text, data.label))
            yield Row(name.strip() or str(number), sentence.strip(), label.strip(), position._replace(number=number))


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return not HALF_PAIR.search(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _missing_columns(columns: Iterable[str], data: Data) -> str:
    present = list(columns)
    missing = [
        f"no column {name!r}{did_you_mean(name, present) or '.'} Set data.{key} to one of {', '.join(present)}."
        for key, name in (("text", data.text), ("label", data.label))
        if name not in present
    ]
    return " ".join(missing)


# Where a record begins, and the record or an error message.
Record = tuple[FilePosition, dict[str, Any] | str]


def _csv_records(lines: Lines, data: Data, separator: str) -> Iterator[Record]:
    lines.seek(FilePosition(lines.path))  # the header, wherever reading resumes
    # strict: a stray quote is an error, where it would swallow the rows up to the next quote
    reader = csv.reader(lines, delimiter=separator, strict=True)
    position = lines.position()
    try:
        header = next(reader, [])
        if message := _missing_columns(header, data):
            yield position, message
            return
        if lines.start.line > 1:
            lines.seek(lines.start)
        position = lines.position()
        for cells in reader:
            if separator == "\t" and lines.line > position.line + 1:
                yield position, 'a quote opens here and closes on a later line; write " inside a field as "".'
            elif cells and len(cells) != len(header):
                yield position, f"{len(cells)} fields where the header names {len(header)}."
            elif cells:
                yield position, dict(zip(header, cells, strict=True))
            position = lines.position()
    except csv.Error as error:
        rule = 'a field that begins with " ends with ", and a " inside it is written ""'
        yield position, f"the record that begins here cannot be read ({error}); {rule}."


def _json_records(lines: Lines) -> Iterator[Record]:
    position = lines.start
    for line in lines:
        if line.strip():
            try:
                record = json.loads(line.rstrip("\r\n"))
            except ValueError as error:
                yield position, f"not JSON ({error}); each line is one object."
            else:
                yield position, record if isinstance(record, dict) else "not a JSON object: {...}."
        position = lines.position()


def content_faults(row: Row, relational: bool) -> Iterator[Fault]:
    """Faults in the content of a row: no label, no text, or in a relation corpus wrong entity markers."""
    if not row.label:
        yield Fault(row.position, f"sentence {row.id} has no label.")
    if not row.text:
        yield Fault(row.position, f"sentence {row.id} is empty.")
    elif relational and (message := marking_fault(row.text)):
        rule = "a relation sentence marks both entities as <e1>..</e1> and <e2>..</e2>"
        yield Fault(row.position, f"sentence {row.id} {message}; {rule}.")


def marking_fault(text: str) -> str:
    """Describes a fault in the entity markers of a sentence, or is empty; either entity may come first."""
    markers = MARKER.findall(text)
    if markers not in ORDERS:
        missing = [marker for marker in MARKERS if marker not in markers]
        repeated = [marker for marker in MARKERS if markers.count(marker) > 1]
        if missing:
            return f"has {' '.join(markers)} but no {' '.join(missing)}" if markers else "has no markers"
        if repeated:
            return f"has {' '.join(repeated)} more than once"
        return f"has its markers in the order {' '.join(markers)}"
    empty = [entity for entity in ("e1", "e2") if not text.split(f"<{entity}>")[1].split(f"</{entity}>")[0].strip()]
    return f"has nothing between <{empty[0]}> and </{empty[0]}>" if empty else ""
