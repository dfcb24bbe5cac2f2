"""Readers: SemEval-2010 Task 8, KBP37, csv/tsv/jsonl and one file per class, all row by row, from any row on."""

import csv
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bilstm_attention.config import Data
from bilstm_attention.data.lines import FilePosition, Lines, opened
from bilstm_attention.data.tokens import MARKER, MARKERS
from bilstm_attention.errors import DataError, did_you_mean, join_lines
from bilstm_attention.paths import EXTERNAL

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


class Row(NamedTuple):
    """One example and where it stands."""

    id: str
    text: str
    label: str
    place: FilePosition


class Fault(NamedTuple):
    """What is wrong on a line of a file."""

    path: Path
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.message}"


def split_files(data: Data, split: str) -> list[FilePosition]:
    """Where the file, or the files of the classes, that `data` names for a split begin; none if it names none.

    Paths are relative to the working directory, which for a stage is the project root.

    Raises:
        DataError: lists the files that are not there.
    """
    named = getattr(data, split) or {}
    files = named if isinstance(named, dict) else {"": named}
    places = [FilePosition(Path(data.folder, name), label) for label, name in files.items()]
    if missing := [_not_there(place.path, split) for place in places if not place.path.is_file()]:
        raise DataError(join_lines(missing))
    return places


def _not_there(path: Path, split: str) -> str:
    folder = path.parent
    held = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
    holds = f"holds {', '.join(held[:20])}{', ...' * (len(held) > 20)}" if held else "is empty or not there"
    fetch = " `bilstm-attention fetch NAME` fetches a known corpus." * (EXTERNAL.as_posix() in path.as_posix())
    return (
        f"{path}: no such file{did_you_mean(path.name, held) or '.'} Its folder {holds};"
        f" change data.folder or data.{split} in params.yaml.{fetch}"
    )


def read(place: FilePosition, data: Data, root: Path = Path()) -> Iterator[Row | Fault]:
    """Reads a file row by row, from a place to its end; a row that cannot be read is a fault in its place.

    Files are UTF-8, with or without a byte order mark, and lines end in LF, CRLF or CR. Nothing but the row at hand is
    held in memory.

    Args:
        place: the beginning of the file, or the place of any row read from it.
        root: what the path is relative to.

    Raises:
        DataError: a file of data.format delimited whose name ends in something else; bytes that are not UTF-8, listed.
    """
    if data.format == "delimited" and (kind := place.path.suffix.lower()) not in (*SEPARATORS, ".jsonl"):
        raise DataError(f"{place.path}: ends in {kind!r}; data.format delimited reads .csv, .tsv and .jsonl.")
    with opened(place, root) as lines:
        if data.format == "classes":
            yield from _classes(lines)
        elif data.format == "delimited":
            yield from _records(lines, data)
        else:
            yield from _blocks(lines, BLOCK[data.format])


def _classes(lines: Lines) -> Iterator[Row]:
    place = lines.start
    for line in lines:
        yield Row(f"{place.label}-{place.line}", line.strip(), place.label.strip(), place)
        place = lines.place()


def _blocks(lines: Lines, shape: tuple[str, ...]) -> Iterator[Row | Fault]:
    """Reads runs of lines between blank ones, each of which should have the given shape."""
    place, block, size = lines.start, list[str](), 0
    for line in lines:
        if line.strip():
            size += 1
            if size <= len(shape):
                block.append(line.rstrip("\r\n"))
            continue
        if size:
            yield _block(place, block, size, shape)
            block, size = [], 0
        place = lines.place()
    if size:
        yield _block(place, block, size, shape)


def _block(place: FilePosition, lines: list[str], size: int, shape: tuple[str, ...]) -> Row | Fault:
    """Reads the first lines of a block of `size` lines."""
    sentence = SENTENCE.fullmatch(lines[0])
    if not sentence:
        return Fault(place.path, place.line, f"found {_short(lines[0])} where a block begins; legal is {shape[0]}.")
    name = sentence[1]
    if size != len(shape):
        wanted = f"a block is {', '.join(shape)}, a blank line"
        return Fault(place.path, place.line, f"sentence {name} opens a block of {size} lines; {wanted}.")
    if len(shape) == 3 and not lines[2].lstrip().startswith("Comment"):
        wrong = f"found {_short(lines[2])} under sentence {name}; legal is {shape[2]}."
        return Fault(place.path, place.line + 2, wrong)
    return Row(name, sentence[2].strip(), lines[1].strip(), place)


def _short(line: str) -> str:
    return repr(line if len(line) <= 60 else line[:57] + "...")


def _records(lines: Lines, data: Data) -> Iterator[Row | Fault]:
    kind = lines.path.suffix.lower()
    found = _json_records(lines) if kind == ".jsonl" else _csv_records(lines, data, SEPARATORS[kind])
    for number, (place, item) in enumerate(found, lines.start.number):
        if isinstance(item, str):
            yield Fault(place.path, place.line, item)
        elif lacking := _lacking(item, data):
            yield Fault(place.path, place.line, lacking)
        elif wrong := [name for name in (data.text, data.label, "id") if not _is_plain(item.get(name, ""))]:
            value = _short(json.dumps(item[wrong[0]]))
            yield Fault(place.path, place.line, f"{wrong[0]!r} is {value}; legal is a string of Unicode characters.")
        else:
            name, sentence, label = (str(item[key]) if key in item else "" for key in ("id", data.text, data.label))
            yield Row(name.strip() or str(number), sentence.strip(), label.strip(), place._replace(number=number))


def _is_plain(value: Any) -> bool:
    if isinstance(value, str):
        return not HALF_PAIR.search(value)
    return isinstance(value, int) and not isinstance(value, bool)


def _lacking(columns: Iterable[str], data: Data) -> str:
    """Says which of the columns that `data` names are not there, or nothing."""
    there = list(columns)
    absent = [
        f"no column {name!r}{did_you_mean(name, there) or '.'} Set data.{key} to one of {', '.join(there)}."
        for key, name in (("text", data.text), ("label", data.label))
        if name not in there
    ]
    return " ".join(absent)


# A record and where it begins, or what is wrong with it.
RunRecord = tuple[FilePosition, dict[str, Any] | str]


def _csv_records(lines: Lines, data: Data, separator: str) -> Iterator[RunRecord]:
    lines.go(FilePosition(lines.path))  # the header, whatever place comes after it
    # strict: a stray quote is an error here, and does not swallow the rows up to the next one
    reader = csv.reader(lines, delimiter=separator, strict=True)
    place = lines.place()
    try:
        header = next(reader, [])
        if lacking := _lacking(header, data):
            yield place, lacking
            return
        if lines.start.line > 1:
            lines.go(lines.start)
        place = lines.place()
        for cells in reader:
            if separator == "\t" and lines.line > place.line + 1:
                yield place, 'a quote opens here and closes on a later line; write " inside a field as "".'
            elif cells and len(cells) != len(header):
                yield place, f"{len(cells)} fields where the header names {len(header)}."
            elif cells:
                yield place, dict(zip(header, cells, strict=True))
            place = lines.place()
    except csv.Error as error:
        rule = 'a field that begins with " ends with ", and a " inside it is written ""'
        yield place, f"the record that begins here cannot be read ({error}); {rule}."


def _json_records(lines: Lines) -> Iterator[RunRecord]:
    place = lines.start
    for line in lines:
        if line.strip():
            try:
                record = json.loads(line.rstrip("\r\n"))
            except ValueError as error:
                yield place, f"not JSON ({error}); each line is one object."
            else:
                yield place, record if isinstance(record, dict) else "not a JSON object: {...}."
        place = lines.place()


def content_faults(row: Row, relational: bool) -> Iterator[Fault]:
    """What is wrong with a row that could be read: no label, no text, and in a relation corpus wrong markers."""
    if not row.label:
        yield Fault(row.place.path, row.place.line, f"sentence {row.id} has no label.")
    if not row.text:
        yield Fault(row.place.path, row.place.line, f"sentence {row.id} is empty.")
    elif relational and (wrong := marking_fault(row.text)):
        rule = "a relation sentence marks both entities as <e1>..</e1> and <e2>..</e2>"
        yield Fault(row.place.path, row.place.line, f"sentence {row.id} {wrong}; {rule}.")


def marking_fault(text: str) -> str:
    """Says what is wrong with the markers of a sentence, or nothing; either entity may come first."""
    found = MARKER.findall(text)
    if found not in ORDERS:
        missing = [marker for marker in MARKERS if marker not in found]
        doubled = [marker for marker in MARKERS if found.count(marker) > 1]
        if missing:
            return f"has {' '.join(found)} but no {' '.join(missing)}" if found else "has no markers"
        if doubled:
            return f"has {' '.join(doubled)} more than once"
        return f"has its markers in the order {' '.join(found)}"
    empty = [entity for entity in ("e1", "e2") if not text.split(f"<{entity}>")[1].split(f"</{entity}>")[0].strip()]
    return f"has nothing between <{empty[0]}> and </{empty[0]}>" if empty else ""
