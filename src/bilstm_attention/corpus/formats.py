"""Readers: SemEval-2010 Task 8, KBP37, csv/tsv/jsonl and one file per class, all to one table of examples."""

import codecs
import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd

from bilstm_attention.corpus.tokens import MARKER, MARKERS
from bilstm_attention.errors import DataError, listing, nearest
from bilstm_attention.params import Data
from bilstm_attention.paths import EXTERNAL

BLOCK = {
    "semeval2010": ('ID<TAB>"sentence"', "label", "Comment: ..."),
    "kbp37": ('ID<TAB>"sentence"', "label"),
}
# Greedy, since a sentence may itself hold quotes.
SENTENCE = re.compile(r'\s*(\S+)\s*\t\s*"(.*)"\s*')
# JSON can spell half of a surrogate pair, which no UTF-8 file can hold.
HALF_PAIR = re.compile("[\ud800-\udfff]")
SEPARATORS = {".csv": ",", ".tsv": "\t"}


class Row(NamedTuple):
    """One example and where it stands."""

    id: str
    text: str
    label: str
    path: Path
    line: int


class Fault(NamedTuple):
    """What is wrong on a line of a file."""

    path: Path
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


def read_split(data: Data, split: Literal["train", "dev", "test"]) -> pd.DataFrame:
    """Reads the file, or the files of the classes, that `data` names for a split; no row is dropped.

    Paths are relative to the working directory, which for a stage is the project root. Files are UTF-8, with or without
    a byte order mark, and lines end in LF, CRLF or CR.

    Returns:
        one row per example in the order of the file, all columns strings: `id`; `text`, the sentence with its entity
        markers; `label`; `source`, "file:line" for error messages.

    Raises:
        DataError: lists what is wrong by file and line: a file that is not there or not UTF-8, a malformed block or
            record, a missing column, an empty sentence or label, a repeated id, and in a relation corpus a missing,
            repeated or misplaced marker or an empty entity.
        ValueError: `data` names no file for the split.
    """
    named = getattr(data, split)
    if named is None:
        raise ValueError(f"data.{split} names no file; `make_splits` makes this split from train.")
    files = [
        (label, Path(data.folder, name)) for label, name in (named if isinstance(named, dict) else {"": named}).items()
    ]
    if missing := [_not_there(path, split) for _, path in files if not path.is_file()]:
        raise DataError(listing(missing))

    found = [item for label, path in files for item in _read(path, label, data)]
    rows = [item for item in found if isinstance(item, Row)]
    faults = [item for item in found if isinstance(item, Fault)] + list(_content_faults(rows, data.relational))
    if faults:
        raise DataError(listing(map(str, sorted(faults))))
    if not rows:
        raise DataError(f"{', '.join(str(path) for _, path in files)}: no sentence in it; data.{split} names it.")
    return pd.DataFrame(
        [(row.id, row.text, row.label, f"{row.path}:{row.line}") for row in rows],
        columns=["id", "text", "label", "source"],
    )


def _not_there(path: Path, split: str) -> str:
    folder = path.parent
    held = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    holds = f"holds {', '.join(held[:20])}{', ...' * (len(held) > 20)}" if held else "is empty or not there"
    fetch = " `bilstm-attention fetch NAME` fetches a known corpus." * (EXTERNAL.as_posix() in path.as_posix())
    return (
        f"{path}: no such file{nearest(path.name, held) or '.'} Its folder {holds};"
        f" change data.folder or data.{split} in params.yaml.{fetch}"
    )


def _read(path: Path, label: str, data: Data) -> Iterable[Row | Fault]:
    text = _decoded(path)
    if data.format == "classes":
        lines = enumerate(_lines(text), 1)
        return [Row(f"{label}-{number}", line.strip(), label.strip(), path, number) for number, line in lines]
    if data.format == "delimited":
        return _records(path, text, data)
    return _blocks(path, text, BLOCK[data.format])


def _decoded(path: Path) -> str:
    content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise DataError(listing(_undecodable(path, content))) from None


def _undecodable(path: Path, content: bytes) -> Iterator[str]:
    for number, line in enumerate(content.split(b"\n"), 1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError as error:
            yield (
                f"{path}:{number}: byte {error.start + 1} of the line is 0x{line[error.start]:02x}, which is not UTF-8;"
                " save the file as UTF-8 (for one in Windows-1252: iconv -f cp1252 -t utf-8)."
            )


def _lines(text: str) -> list[str]:
    # Not splitlines(): a sentence may hold the other characters that it breaks at, such as U+0085.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def _blocks(path: Path, text: str, shape: tuple[str, ...]) -> Iterator[Row | Fault]:
    """Reads runs of lines between blank ones, each of which should have the given shape."""
    numbered = enumerate(_lines(text), 1)
    for filled, run in groupby(numbered, key=lambda item: bool(item[1].strip())):
        if filled:
            numbers, lines = zip(*run, strict=True)
            yield _block(path, numbers[0], lines, shape)


def _block(path: Path, first: int, lines: tuple[str, ...], shape: tuple[str, ...]) -> Row | Fault:
    sentence = SENTENCE.fullmatch(lines[0])
    if not sentence:
        return Fault(path, first, f"found {_short(lines[0])} where a block begins; legal is {shape[0]}.")
    name = sentence[1]
    if len(lines) != len(shape):
        wanted = f"a block is {', '.join(shape)}, a blank line"
        return Fault(path, first, f"sentence {name} opens a block of {len(lines)} lines; {wanted}.")
    if len(shape) == 3 and not lines[2].lstrip().startswith("Comment"):
        return Fault(path, first + 2, f"found {_short(lines[2])} under sentence {name}; legal is {shape[2]}.")
    return Row(name, sentence[2].strip(), lines[1].strip(), path, first)


def _short(line: str) -> str:
    return repr(line if len(line) <= 60 else line[:57] + "...")


def _records(path: Path, text: str, data: Data) -> Iterator[Row | Fault]:
    kind = path.suffix.lower()
    if kind not in (*SEPARATORS, ".jsonl"):
        raise DataError(f"{path}: ends in {kind!r}; data.format delimited reads .csv, .tsv and .jsonl.")
    found = _json_records(path, text) if kind == ".jsonl" else _csv_records(path, text, data, SEPARATORS[kind])
    for number, item in enumerate(found, 1):
        if isinstance(item, Fault):
            yield item
            continue
        line, record = item
        if lacking := _lacking(record, data):
            yield Fault(path, line, lacking)
        elif wrong := [name for name in (data.text, data.label, "id") if not _is_plain(record.get(name, ""))]:
            yield Fault(
                path,
                line,
                f"{wrong[0]!r} is {_short(json.dumps(record[wrong[0]]))}; legal is a string of Unicode characters.",
            )
        else:
            name, sentence, label = (str(record[key]) if key in record else "" for key in ("id", data.text, data.label))
            yield Row(name.strip() or str(number), sentence.strip(), label.strip(), path, line)


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return not HALF_PAIR.search(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _lacking(columns: Iterable[str], data: Data) -> str:
    """Says which of the columns that `data` names are not there, or nothing."""
    there = list(columns)
    absent = [
        f"no column {name!r}{nearest(name, there) or '.'} Set data.{key} to one of {', '.join(there)}."
        for key, name in (("text", data.text), ("label", data.label))
        if name not in there
    ]
    return " ".join(absent)


def _csv_records(path: Path, text: str, data: Data, separator: str) -> Iterator[tuple[int, dict[str, Any]] | Fault]:
    # strict: a stray quote is an error here, and does not swallow the rows up to the next one
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    line = 1
    try:
        header = next(reader, [])
        if lacking := _lacking(header, data):
            yield Fault(path, 1, lacking)
            return
        line = reader.line_num + 1
        for cells in reader:
            if separator == "\t" and reader.line_num > line:
                yield Fault(path, line, 'a quote opens here and closes on a later line; write " inside a field as "".')
            elif cells and len(cells) != len(header):
                yield Fault(path, line, f"{len(cells)} fields where the header names {len(header)}.")
            elif cells:
                yield line, dict(zip(header, cells, strict=True))
            line = reader.line_num + 1
    except csv.Error as error:
        rule = 'a field that begins with " ends with ", and a " inside it is written ""'
        yield Fault(path, line, f"the record that begins here cannot be read ({error}); {rule}.")


def _json_records(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]] | Fault]:
    for number, line in enumerate(_lines(text), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            yield Fault(path, number, f"not JSON ({error}); each line is one object.")
            continue
        yield (number, record) if isinstance(record, dict) else Fault(path, number, "not a JSON object: {...}.")


def _content_faults(rows: Iterable[Row], relational: bool) -> Iterator[Fault]:
    seen: dict[str, Row] = {}
    for row in rows:
        first = seen.setdefault(row.id, row)
        if first is not row:
            yield Fault(row.path, row.line, f"id {row.id} stands already at {first.path}:{first.line}; ids differ.")
        if not row.label:
            yield Fault(row.path, row.line, f"sentence {row.id} has no label.")
        if not row.text:
            yield Fault(row.path, row.line, f"sentence {row.id} is empty.")
        elif relational and (wrong := marking_fault(row.text)):
            rule = "a relation sentence marks both entities as <e1>..</e1> and <e2>..</e2>"
            yield Fault(row.path, row.line, f"sentence {row.id} {wrong}; {rule}.")


def marking_fault(text: str) -> str:
    """Says what is wrong with the markers of a sentence, or nothing; either entity may come first."""
    found = MARKER.findall(text)
    missing = [marker for marker in MARKERS if marker not in found]
    doubled = [marker for marker in MARKERS if found.count(marker) > 1]
    if missing:
        return f"has {' '.join(found)} but no {' '.join(missing)}" if found else "has no markers"
    if doubled:
        return f"has {' '.join(doubled)} more than once"
    if found not in ([*MARKERS], [*MARKERS[2:], *MARKERS[:2]]):
        return f"has its markers in the order {' '.join(found)}"
    empty = [entity for entity in ("e1", "e2") if not text.split(f"<{entity}>")[1].split(f"</{entity}>")[0].strip()]
    return f"has nothing between <{empty[0]}> and </{empty[0]}>" if empty else ""
