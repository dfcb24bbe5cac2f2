"""Reads corpora row by row: SemEval-2010 Task 8, KBP37, tables, fastText's lines, and a file or folder per class."""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from bilstm_attention.config import Data
from bilstm_attention.data.download import CATALOG
from bilstm_attention.data.relations import MARKING, mark_entities, marking_fault
from bilstm_attention.data.tables import HALF_PAIR, KINDS, Lines, open_file, read_table
from bilstm_attention.errors import DataError, did_you_mean, join_lines
from bilstm_attention.paths import EXTERNAL

# Greedy, since a sentence may itself hold quotes; what follows the last quote belongs to the sentence.
SENTENCE = re.compile(r'\s*(\S+)\s*\t\s*["\u201c](.*)["\u201d]([^"\u201d]*)')
BLOCK = 'ID<TAB>"sentence", label, then a line `Comment: ...` or none'
ROWS_PER_STEP = 1 << 12  # between two steps of a progress bar
TABLES = {*KINDS} - {".txt"}
FASTTEXT = re.compile(r"__label__(\S+)\s+(.*)", re.DOTALL)


class Row(NamedTuple):
    """An example, and where it stands: the number of its line, or of its row in a parquet file, from 1."""

    id: str
    text: str
    label: str
    file: str
    line: int


class Fault(NamedTuple):
    """What is wrong on a line of a file; faults sort by file and line."""

    file: str
    line: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.message}"


class Source(NamedTuple):
    """A file of a split; `label` is that of all its rows, with `data.format: classes`."""

    path: Path
    label: str = ""
    whole: bool = False  # the file is one example, as in a folder of reviews


def split_sources(data: Data, split: str) -> list[Source]:
    """The files of a split, as `data` names them: one, those of the classes, or none; missing ones are a DataError."""
    names: dict[str, str] | str = getattr(data, split) or {}
    if data.format == "classes":
        sources = _class_sources(data, names, split)
    else:
        sources = [Source(Path(data.folder, names))] if isinstance(names, str) else []
    if missing := [_missing_file(source.path, split) for source in sources if not source.path.is_file()]:
        raise DataError(join_lines(missing))
    return sources


def _class_sources(data: Data, names: Mapping[str, str] | str, split: str) -> list[Source]:
    """A file of lines, a folder of files or a pattern for each class; or a folder of such folders."""
    if isinstance(names, str):
        top = Path(data.folder, names)
        folders = sorted(folder for folder in top.glob("[!.]*") if folder.is_dir())
        if not folders:
            raise DataError(f"{top}: no folders in it; data.{split} names a folder with one for each class.")
        names = {folder.name: str(folder.relative_to(data.folder)) for folder in folders}
    sources = list[Source]()
    for label, name in names.items():
        path = Path(data.folder, name)
        if path.is_dir() or any(mark in name for mark in "*?["):
            files = sorted(path.glob("[!.]*") if path.is_dir() else Path(data.folder).glob(name))
            sources += [Source(file, label, whole=True) for file in files if file.is_file()]
            if not any(source.label == label for source in sources):
                raise DataError(f"{path}: no files there; data.{split} names it for the class {label!r}.")
        else:
            sources.append(Source(path, label))
    if twice := [str(path) for path, count in Counter(source.path for source in sources).items() if count > 1]:
        raise DataError(f"{', '.join(twice)}: named for several classes in data.{split}; name a file for each.")
    tables = [source.path for source in sources if source.path.suffix.lower() in TABLES]
    if tables:
        raise DataError(f"{tables[0]}: a table, whose header would be a sentence; set data.format: table.")
    return sources


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


def read_rows(source: Source, data: Data, advance: Callable[[int], None] = lambda size: None) -> Iterator[Row | Fault]:
    """Reads a file row by row; a malformed row gives a `Fault` instead. One row at a time is in memory.

    `advance` is called now and then with the number of bytes read since.

    Raises:
        DataError: the file cannot be read at all.
    """
    path, position = source.path, 0
    with open_file(path) as file:
        try:
            for number, item in enumerate(_read(file, source, data)):
                yield item
                if number % ROWS_PER_STEP == 0:
                    advance(file.tell() - position)
                    position = file.tell()
            advance(file.tell() - position)
        except DataError as error:
            raise DataError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None


def _read(file: BinaryIO, source: Source, data: Data) -> Iterator[Row | Fault]:
    if data.format == "table":
        yield from _records(file, source.path, data)
        return
    lines, path = Lines(file, data.encoding), str(source.path)
    read = {"classes": _classes, "fasttext": _fasttext}.get(data.format, _blocks)
    for row in lines.with_faults(read(lines, source)):
        yield row if isinstance(row, Row | Fault) else Fault(path, *row)


def _classes(lines: Lines, source: Source) -> Iterator[Row]:
    path, label = str(source.path), source.label.strip()
    if source.whole:
        yield Row(f"{label}-{source.path.stem}", " ".join(map(str.strip, lines)).strip(), label, path, 1)
        return
    for line in lines:
        # blank lines part paragraphs, or end a file
        if line.strip():
            yield Row(f"{label}-{lines.number}", line.strip(), label, path, lines.number)


def _fasttext(lines: Lines, source: Source) -> Iterator[Row | Fault]:
    path = str(source.path)
    for line in lines:
        match = FASTTEXT.match(line)
        if match and not match[2].startswith("__label__"):
            yield Row(str(lines.number), match[2].strip(), match[1], path, lines.number)
        elif line.strip():
            yield Fault(path, lines.number, f"{_short(line.strip())} is not `__label__NAME text` with one label.")


def _blocks(lines: Lines, source: Source) -> Iterator[Row | Fault]:
    """Blocks of lines that begin with a sentence; blank lines between them are optional."""
    path, block = str(source.path), list[tuple[int, str]]()
    for line in lines:
        text, blank = line.rstrip("\r\n"), not line.strip()
        # without a tab the pattern would try every end of the first word
        if block and (blank or ("\t" in text and SENTENCE.fullmatch(text))):
            yield _block(path, block)
            block = []
        # a comment may have many lines; without blank lines and sentences a block is the whole file
        if not blank and len(block) < 4:
            block.append((lines.number, text))
    if block:
        yield _block(path, block)


def _block(path: str, block: Sequence[tuple[int, str]]) -> Row | Fault:
    (number, first), *others = block
    sentence = SENTENCE.fullmatch(first)
    if not sentence:
        return Fault(path, number, f"a block begins with {_short(first)}; legal is {BLOCK}.")
    if not others or others[0][1].lstrip().startswith("Comment:"):
        return Fault(path, number, f"sentence {sentence[1]} has no label under it; legal is {BLOCK}.")
    if len(others) > 1 and not others[1][1].lstrip().startswith("Comment"):
        message = f"{_short(others[1][1])} stands under the label of sentence {sentence[1]}; legal is {BLOCK}."
        return Fault(path, others[1][0], message)
    return Row(sentence[1], f"{sentence[2]}{sentence[3]}".strip(), others[0][1].strip(), path, number)


def _short(line: str) -> str:
    return repr(line if len(line) <= 60 else line[:57] + "...")


def sentence_columns(data: Data) -> list[str]:
    """The columns of a table that hold a sentence and its entities."""
    return [data.text, *(data.entities if data.relations in ("spans", "words") else [])]


def read_sentence(record: Mapping[str, Any], data: Data) -> str:
    """The sentence of a record, its entities marked; a DataError without the place if it has none."""
    text = record[data.text]
    if data.relations and text:
        text = mark_entities(text, [record[name] for name in sentence_columns(data)[1:]], data)
    return to_text(text).strip()


def _records(file: BinaryIO, path: Path, data: Data) -> Iterator[Row | Fault]:
    names, count = [*sentence_columns(data), data.label, *([data.id] if data.id else [])], 0
    for number, record in read_table(file, path, data, names):
        count += not isinstance(record, str)
        try:
            if isinstance(record, str):
                raise DataError(record)
            name, label = (to_text(record[column]) if column else str(count) for column in (data.id, data.label))
            yield Row(name.strip(), read_sentence(record, data), label.strip(), str(path), number)
        except DataError as error:
            yield Fault(str(path), number, str(error))


def to_text(value: Any) -> str:
    """A cell as text: 0.0 as `0`, true as `true`, null as nothing, tokens joined by blanks; else a DataError."""
    if value is None or value != value:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, bool | int | float):
        return json.dumps(value)
    if isinstance(value, list) and all(isinstance(token, str) for token in value):
        value = " ".join(value)
    if not isinstance(value, str) or HALF_PAIR.search(value):
        raise DataError(f"holds {_short(json.dumps(value, default=str))}; legal is text, a number, true or false.")
    return value


def content_faults(row: Row, data: Data) -> Iterator[Fault]:
    """No label, no text, or in a relation corpus wrong entity markers."""
    if not row.label:
        yield Fault(row.file, row.line, f"sentence {row.id} has no label.")
    if not row.text:
        yield Fault(row.file, row.line, f"sentence {row.id} is empty.")
    elif data.relational and (message := marking_fault(row.text)):
        yield Fault(row.file, row.line, f"sentence {row.id} {message}; {MARKING}.")
