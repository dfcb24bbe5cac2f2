"""Reads tables record by record: csv, tsv and other delimited text, json, jsonl and parquet, compressed or not."""

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from charset_normalizer import from_bytes
from pyarrow import ArrowException
from pyarrow.parquet import ParquetFile

from bilstm_attention.config import Data
from bilstm_attention.errors import DataError, did_you_mean

DELIMITED, JSON, PARQUET = (".csv", ".tsv", ".txt", ".tab"), (".json", ".jsonl", ".ndjson"), (".parquet",)
KINDS = (*DELIMITED, *JSON, *PARQUET)
OPEN: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
# UTF-32 before UTF-16, whose mark its own begins with
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
SAMPLE = 1 << 17  # bytes from which an encoding is guessed
COMMON_ENCODINGS = (
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "koi8_r", "gb18030", "big5"),
    *("shift_jis", "euc_jp", "euc_kr", "cp874", "utf_16"),
)
BAD_CHARACTER = re.compile("[\0\udc80-\udcff]")  # NUL, or a byte that is not of the encoding
HALF_PAIR = re.compile("[\ud800-\udfff]")  # JSON can spell half of a surrogate pair, which is no character
QUOTED = re.compile(r'"(?:[^"]|"")*"')
DELIMITERS = ",;\t|"
NO_OBJECT = "not a JSON object: {...}."

# The number of a line, or of a row of a parquet file, from 1; and the record there, or what is wrong with it.
Record = tuple[int, dict[str, Any] | str]

T = TypeVar("T")

csv.field_size_limit(2**31 - 1)


class _Text(io.TextIOWrapper):
    def close(self) -> None:
        """Leaves the file open to whoever opened it."""


class Lines:
    """Lines of an open text file with their line ends: LF, CRLF or CR. A byte order mark overrides `encoding`.

    Attributes:
        number: of the line that was read last, from 1.
        faults: lines with bytes that are not of the encoding, or with NUL, and what is wrong.
    """

    # Not splitlines(): it also breaks at characters that a sentence may hold, such as U+0085.

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        start = file.read(4)
        file.seek(0)
        marked = [name for mark, name in BYTE_ORDER_MARKS.items() if start.startswith(mark)]
        self.file, self.encoding = file, marked[0] if marked else encoding
        self.number, self.faults = 0, list[tuple[int, str]]()
        self._text = _Text(file, self.encoding, errors="surrogateescape", newline="")

    def __iter__(self) -> "Lines":
        return self

    def __next__(self) -> str:
        self.number += 1
        try:
            line = next(self._text)
        except UnicodeError as error:
            raise DataError(f"line {self.number} or after it: {error}; data.encoding is {self.encoding}.") from None
        if bad := BAD_CHARACTER.search(line) if "\0" in line or not line.isascii() else None:
            byte = "NUL" if bad[0] == "\0" else f"0x{ord(bad[0]) - 0xDC00:02x}"
            place = f"character {bad.start() + 1} of the line is {byte}, which is not {self.encoding}"
            self.faults.append((self.number, f"{place}; {self._advice}"))
            line = BAD_CHARACTER.sub("\ufffd", line)
        return line

    def with_faults(self, records: Iterable[T]) -> Iterator[T | tuple[int, str]]:
        """Records made of the lines, and before each the faults up to its line."""
        for record in records:
            while self.faults:
                yield self.faults.pop(0)
            yield record
        yield from self.faults

    @cached_property
    def _advice(self) -> str:
        """What `data.encoding` may be."""
        position = self.file.tell()
        self.file.seek(0)
        likely = likely_encodings(self.file.read(SAMPLE))
        self.file.seek(position)
        return f"set data.encoding{', perhaps to ' + ' or '.join(likely) if likely else ''}."


def likely_encodings(sample: bytes) -> list[str]:
    """At most two encodings of a text that is not UTF-8, the likelier first."""
    matches = list(from_bytes(sample, cp_isolation=list(COMMON_ENCODINGS)))[:2]
    # of several that read the text alike, the first of the common ones
    likely = [
        [*filter(match.could_be_from_charset.__contains__, COMMON_ENCODINGS), match.encoding] for match in matches
    ]
    return list(dict.fromkeys(names[0] for names in likely))


@contextmanager
def open_file(path: Path) -> Iterator[BinaryIO]:
    """Opens a file for reading bytes, unpacked if its name ends in .gz, .bz2 or .xz; a damaged one is a DataError."""
    try:
        with OPEN.get(path.suffix.lower(), open)(path, "rb") as file:
            yield file
    except (EOFError, gzip.BadGzipFile, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(f"{path}: damaged, or not what its name says: {error}.") from None


def table_kind(path: Path) -> str:
    """The ending of a table's name, in lower case and without that of its compression; others are a DataError."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    kind = ([""] + [suffix for suffix in suffixes if suffix not in OPEN])[-1]
    if kind not in KINDS:
        hint = " Save the sheet as csv (UTF-8)." if kind in (".xlsx", ".xls", ".ods") else ""
        legal = f"{', '.join(KINDS)}, and these with {', '.join(OPEN)}"
        raise DataError(f"{path}: ends in {kind!r}; tables are {legal}.{hint}")
    return kind


def read_table(file: BinaryIO, path: Path, data: Data, columns: Sequence[str]) -> Iterator[Record]:
    """Reads the records of a file of `open_file` in order; those of delimited text are strings.

    `columns` must be there: names match without case and outer blanks where that is unique, and records have these.

    Raises:
        DataError: the file is no table of the kind that `path` names.
    """
    kind = table_kind(path)
    if kind in PARQUET:
        yield from _rename(_parquet_records(file, path), columns)
        return
    lines = Lines(file, data.encoding)
    records = _rename(_json_records(lines), columns) if kind in JSON else _delimited(lines, data, columns)
    yield from lines.with_faults(records)


def _rename(records: Iterator[Record], columns: Sequence[str]) -> Iterator[Record]:
    """Gives records the names of `columns`; one without them becomes a fault."""
    known: tuple[str, ...] = ()
    names: dict[str, str] | str = {}
    for number, record in records:
        if not isinstance(record, str) and known != (known := tuple(record)):
            names = match_columns(known, columns)
        if isinstance(record, str) or isinstance(names, str):
            yield number, record if isinstance(record, str) else str(names)
        else:
            yield number, {names.get(key, key): value for key, value in record.items()}


def match_columns(present: Sequence[str], columns: Sequence[str]) -> dict[str, str] | str:
    """The name in `columns` of each present column that has one, or what is wrong."""
    twice = sorted({name for name in present if name.strip() and present.count(name) > 1})
    if twice:
        return f"several columns are called {', '.join(twice)}; give each a name of its own."
    matches, missing = dict[str, str](), list[str]()
    for column in columns:
        alike = [name for name in present if name.strip().casefold() == column.strip().casefold()]
        if column in present or len(alike) == 1:
            matches[column if column in present else alike[0]] = column
        else:
            missing.append(f"no column {column!r}{did_you_mean(column, present) or '.'}")
    if missing:
        # a header that is a row of data can be long
        shown = ", ".join(name if len(name) <= 40 else f"{name[:37]}..." for name in present)
        return f"{' '.join(missing)} There {'is' if len(present) == 1 else 'are'} {shown or 'none'}."
    return matches


def _delimited(lines: Lines, data: Data, columns: Sequence[str]) -> Iterator[Record]:
    first = next(lines, "")
    marked = re.fullmatch(r'"?sep=(.)"?\s*', first)
    if marked:
        first = next(lines, "")
    delimiter = data.delimiter or (marked[1] if marked else _find_delimiter(first, data, columns))
    cells = _split_lines(lines, first, delimiter, data)
    top, header = next(cells, (1, []))
    if isinstance(header, str):
        yield top, header
        return
    names = header if data.header else [str(place) for place in range(len(header))]
    matched = match_columns(names, columns)
    if isinstance(matched, str):
        settings = "data.text and data.label name them, data.delimiter what separates them"
        headless = "; a file without a header has data.header: false and columns by number, from 0"
        yield top, f"{matched} {settings}{headless if data.header else ''}."
        return
    names = [matched.get(name, name) for name in names]
    for number, row in cells if data.header else chain([(top, header)], cells):
        if isinstance(row, str):
            yield number, row
        elif len(row) != len(names):
            yield number, f"{len(row)} fields where the {'header' if data.header else 'first row'} has {len(names)}."
        else:
            yield number, dict(zip(names, row, strict=True))


def _find_delimiter(first: str, data: Data, columns: Sequence[str]) -> str:
    """The mark under which the header has most columns; or a tab, which text seldom holds; or that of most fields."""

    def fit(mark: str) -> tuple[int, bool, int]:
        names = [name.strip().strip('"').casefold() for name in first.split(mark)]
        matches = sum(column.strip().casefold() in names for column in columns) if data.header else 0
        return matches, mark == "\t" and len(names) > 1, len(names)

    return max(DELIMITERS, key=fit)


def _split_lines(lines: Lines, first: str, delimiter: str, data: Data) -> Iterator[tuple[int, list[str] | str]]:
    """The cells of each record that is not blank, or what is wrong with it."""
    quoting = data.quoting
    if quoting == "auto":
        quoting = "none" if delimiter == "\t" else "doubled"
    source, ahead = chain([first], lines), lines.number - 1
    if quoting == "none":
        width = -1
        for line in source:
            text = line.rstrip("\r\n")
            if text.strip():
                cells = text.split(delimiter, width)
                # the last column takes the rest, but of tables of tabs, which no text holds
                width = -1 if delimiter == "\t" else len(cells) - 1
                unquoted = data.quoting == "auto"
                yield lines.number, [_unquote(cell) for cell in cells] if unquoted else cells
        return
    escape = "\\" if quoting == "backslash" else None
    # strict: a stray quote is an error, where it would swallow the rows up to the next quote
    reader = csv.reader(source, delimiter=delimiter, escapechar=escape, strict=True)
    while True:
        number = ahead + reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            rule = 'a field that begins with " ends with ", and a " inside it is written ""'
            options = 'data.quoting: backslash reads \\" , none reads quotes as they are'
            yield number, f"the record that begins here cannot be read ({error}); {rule}. {options}."
            continue
        if cells:
            yield number, cells


def _unquote(cell: str) -> str:
    # what Excel and pandas quote; quotes elsewhere are text
    return cell[1:-1].replace('""', '"') if cell.startswith('"') and QUOTED.fullmatch(cell) else cell


def _json_records(lines: Lines) -> Iterator[Record]:
    first = next((line for line in lines if line.strip()), "")
    if first.lstrip().startswith("["):
        start = lines.number
        yield from _json_array("".join(chain([first], lines)), start)
        return
    for line in chain([first], lines):
        if line.strip():
            try:
                record = json.loads(line.rstrip("\r\n"))
            except ValueError as error:
                yield lines.number, f"not JSON ({error}); a file is an array of objects, or each line is one object."
            else:
                yield lines.number, record if isinstance(record, dict) else NO_OBJECT


def _json_array(text: str, line: int) -> Iterator[Record]:
    decoder, blank = json.JSONDecoder(), re.compile(r"[\s,]*")
    at, counted = text.index("[") + 1, 0
    while True:
        at = blank.match(text, at).end()  # type: ignore[union-attr]
        line, counted = line + text.count("\n", counted, at), at
        if text[at : at + 1] == "]":
            return
        try:
            record, at = decoder.raw_decode(text, at)
        except ValueError as error:
            yield line, f"not JSON ({error}); the file is an array of objects."
            return
        yield line, record if isinstance(record, dict) else NO_OBJECT


def _parquet_records(file: BinaryIO, path: Path) -> Iterator[Record]:
    with parquet_errors(path):
        batches = ParquetFile(file, pre_buffer=False).iter_batches(1 << 12)
        yield from enumerate((record for batch in batches for record in batch.to_pylist()), start=1)


@contextmanager
def parquet_errors(path: Path) -> Iterator[None]:
    """Turns what pyarrow raises on a damaged file into a DataError."""
    try:
        yield
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as parquet: {error}.") from None
