"""Finds out how a corpus of one's own is written, for `init`: its files, their format, and the columns of a table.

`new_config.py` counts what they hold. Both read as `prepare` does, but at most `SEEN` rows of a file.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from os.path import commonpath
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

from bilstm_attention.config import Data
from bilstm_attention.data import tables
from bilstm_attention.data.formats import FASTTEXT, ROWS_PER_STEP, SENTENCE, TABLES, Row, Source, read_rows, to_text
from bilstm_attention.data.relations import mark_entities, marking_fault
from bilstm_attention.data.splits import SPLITS
from bilstm_attention.data.tokens import MARKERS
from bilstm_attention.errors import DataError, did_you_mean

SEEN = 5 * ROWS_PER_STEP  # rows of a file that are looked at
TRIED = 500  # rows by which a delimiter is judged, and files by which an encoding is
SPLIT_NAMES = {"training": "train", "valid": "dev", "validation": "dev", "val": "dev"} | {name: name for name in SPLITS}
NO_DATA = re.compile("readme|licen[cs]e", re.IGNORECASE)
NUMBER = re.compile(r"[-+]?[\d.,]+(e[-+]?\d+)?")
TEXT_NAMES = ("text", "sentence", "token", "tokens")
LABEL_NAMES = ("label", "relation", "class", "category", "sentiment", "target")
OTHER_MARKERS = ["[E1]", "[/E1]", "[E2]", "[/E2]"]  # as tokens of BERT

Ask = Callable[[str, Sequence[str]], str]  # a question and its answers to one of these


class Column(NamedTuple):
    """A column of a table: its values that are not empty, as text."""

    name: str
    values: list[str]

    @property
    def different(self) -> int:
        """Number of different values."""
        return len(set(self.values))


def find_files(files: Sequence[Path]) -> dict[str, Any]:
    """The folder of a corpus and the files of its splits, as the block `data` names them.

    Args:
        files: a folder, a file, a file for each split, or a plain text file or a folder for each class.

    Raises:
        DataError: they are none of these.
    """
    for path in files:
        if not path.exists():
            near = did_you_mean(path.name, [each.name for each in path.parent.glob("*")])
            raise DataError(f"{path}: no such file or folder{near or '.'}")
    if len(files) == 1 and files[0].is_dir():
        return _find_in_folder(files[0])
    folder = commonpath([path.parent for path in files])
    names, splits = [str(path.relative_to(folder)) for path in files], [_split_of(path) for path in files]
    found: dict[str, Any] = {"folder": folder, "test": None}
    if len(files) == 1:
        return found | {"train": names[0]}
    if "train" in splits and "" not in splits and len({*splits}) == len(files) and all(map(Path.is_file, files)):
        return found | dict(zip(splits, names, strict=True))
    if not any(splits) and not any(suffix.lower() in TABLES for path in files for suffix in path.suffixes):
        return found | {"format": "classes", "train": dict(zip(_class_names(files), names, strict=True))}
    listed = ", ".join(f"{name} ({split or 'neither'})" for name, split in zip(names, splits, strict=True))
    legal = "one file named train, and at most one each named dev or valid, and test; or a plain text file per class"
    raise DataError(f"{folder}: holds {listed}; legal are {legal}. Name files, not their folder, to choose some.")


def _split_of(path: Path) -> str:
    """The split that the name of a file or folder tells, or nothing."""
    return next((SPLIT_NAMES[word] for word in re.split("[^a-z]+", path.name.lower()) if word in SPLIT_NAMES), "")


def _class_names(files: Sequence[Path]) -> list[str]:
    """What tells the names of files apart: the part before the first dot, the last ending, or all."""
    choices = ([path.name.partition(".")[0] for path in files], [path.suffix[1:] for path in files])
    return next((names for names in choices if len({*names}) == len(files)), [path.name for path in files])


def _find_in_folder(folder: Path) -> dict[str, Any]:
    entries = sorted(path for path in folder.glob("[!.]*") if not NO_DATA.search(path.name))
    files, parts = ([path for path in entries if is_kind(path)] for is_kind in (Path.is_file, Path.is_dir))
    named = {path: split for path in files if (split := _split_of(path))}
    if "train" in named.values() or not parts:
        if not files:
            raise DataError(f"{folder}: holds no files.")
        return find_files([*named] if "train" in named.values() else files)
    splits = {split: path for path in parts if (split := _split_of(path))}
    if "train" not in splits:
        return {"folder": str(folder), "test": None, "format": "classes", "train": "."}
    names: dict[str, Any] = {split: path.name for split, path in splits.items()}
    classes = {split: {path.name for path in part.glob("*/")} for split, part in splits.items()}
    # a class that test lacks, for instance IMDB's reviews without a label
    if classes["train"] > classes.get("test", classes["train"]):
        names["train"] = {name: f"{names['train']}/{name}" for name in sorted(classes["test"])}
    return {"folder": str(folder), "test": None, "format": "classes"} | names


def inspect_file(
    path: Path, text: str | None, label: str | None, ask: Ask | None
) -> tuple[dict[str, Any], list[Column]]:
    """How a file is written, as the block `data` says it; and its columns, if it is a table.

    Args:
        path: a file of train.
        text, label: columns of a table; by default they are guessed.
        ask: answers what cannot be guessed; without it that is an error.

    Raises:
        DataError: it has no known format, or no column of a table fits.
    """
    suffixes = {suffix.lower() for suffix in path.suffixes}
    settings = {} if suffixes & {*tables.PARQUET} else find_encoding([path])
    with tables.open_file(path) as file:
        lines = () if suffixes & TABLES else tables.Lines(file, settings.get("encoding", "utf-8"))
        first = next((line.rstrip("\r\n") for line in lines if line.strip()), "")
    if FASTTEXT.match(first):
        return settings | {"format": "fasttext"}, []
    if SENTENCE.fullmatch(first):
        rows = list(islice(read_rows(Source(path), Data(format="semeval2010", **settings)), TRIED))
        if sum(isinstance(row, Row) for row in rows) > len(rows) / 2:
            return settings | {"format": "semeval2010"}, []
    settings |= {"format": "table"}
    if tables.table_kind(path) in tables.DELIMITED:
        settings |= _dialect(path, settings)
    records = _records(path, settings)
    columns = _columns(records)
    if not columns:
        faults = [record for record in records if isinstance(record, str)]
        raise DataError(f"{path}: {[*faults, 'no row with a column of text or numbers.'][0]}")
    return settings | _column_settings(path, columns, text, label, ask), columns


def find_encoding(paths: Sequence[Path]) -> dict[str, Any]:
    """`encoding` of files, unless it is UTF-8 or a byte order mark tells it."""
    chosen, parts = paths[:: len(paths) // TRIED + 1], list[bytes]()
    for path in chosen:
        with tables.open_file(path) as file:
            parts.append(file.read(16 * tables.SAMPLE // len(chosen)))
    text = b"\n".join(parts)
    if any(map(text.startswith, tables.BYTE_ORDER_MARKS)):
        return {}
    if text[: tables.SAMPLE].count(0) > len(text[: tables.SAMPLE]) / 4:
        # every other byte of a Latin letter is zero
        return {"encoding": "utf-16-le" if text[1::2].count(0) > text[::2].count(0) else "utf-16-be"}
    foreign = [line for line in text.split(b"\n") if not line.isascii()]
    # a damaged line, or one that is cut, does not make another encoding
    if sum("\ufffd" in line.decode(errors="replace") for line in foreign) <= len(foreign) / 2:
        return {}
    return {"encoding": (tables.likely_encodings(b"\n".join(foreign)[: tables.SAMPLE]) or ["cp1252"])[0]}


def _records(path: Path, settings: Mapping[str, Any], rows: int = SEEN) -> list[Any]:
    """Records of a table, as dicts, and as text what is wrong with one."""
    with tables.open_file(path) as file:
        return [record for _, record in islice(tables.read_table(file, path, Data(**settings), ()), rows)]


def _dialect(path: Path, settings: Mapping[str, Any]) -> dict[str, Any]:
    """`delimiter`, `quoting` and `header` of delimited text, as far as they are not found anyway."""
    tried, kind = list[tuple[float, int, dict[str, Any]]](), tables.table_kind(path)
    for mark in tables.DELIMITERS:
        for quoting in ("auto", "doubled", "backslash", "none"):
            options = {"delimiter": mark, "quoting": quoting, "header": False}
            records = _records(path, {**settings, **options}, TRIED)
            width = max((len(record) for record in records if isinstance(record, dict)), default=0)
            faulty = round(sum(isinstance(record, str) for record in records) / max(len(records), 1), 2)
            # `none` reads nearly anything
            tried += [(faulty + 0.1 * (quoting == "none"), -width, options)] if width > 1 else []
    best = min(tried, key=lambda each: each[:2], default=(1.0, 0, {}))
    if best[0] > 0.5:
        found = "no mark parts its lines into columns, and it has neither SemEval's blocks nor fastText's lines"
        raise DataError(f"{path}: {found}. A file per class is given with the others: init NAME.txt OTHER.txt.")
    options = best[2]
    top, *rest = [record for record in _records(path, {**settings, **options}) if isinstance(record, dict)]
    # the first row is one of data if its label is a label of others
    few = [column for column in _columns(rest) if _is_label(column)]
    header = not any(top[column.name] in column.values for column in few)
    usual = header and (kind, options["delimiter"]) in ((".csv", ","), (".tsv", "\t"), (".tab", "\t"))
    default = {"quoting": "auto", "header": True} | ({"delimiter": options["delimiter"]} if usual else {})
    return {key: value for key, value in (options | {"header": header}).items() if default.get(key) != value}


def _columns(records: Sequence[Any]) -> list[Column]:
    """The columns that hold text, numbers, true or false, or lists of tokens."""
    rows, columns = [record for record in records if isinstance(record, dict)], list[Column]()
    for name in dict.fromkeys(name for row in rows for name in row):
        try:
            columns.append(Column(name, [value for row in rows if (value := to_text(row.get(name)).strip())]))
        except DataError:
            continue
    return columns


def _is_label(column: Column) -> bool:
    """Few values, repeated: no id, and no number with many values."""
    most = min(len(column.values) / 2, 20 if all(map(NUMBER.fullmatch, column.values)) else 1000)
    return 2 <= column.different <= max(most, 2)


def _text_score(column: Column) -> float:
    """Long and mostly different values; an id, a path or a date is no text."""
    values = column.values[:TRIED]
    if not values or mean(any(map(str.isalpha, value)) for value in values) < 0.5:
        return 0.0
    has_words = any(" " in value or not value.isascii() for value in values)
    return mean(map(len, values)) * len(set(values)) / len(values) * (1 if has_words else 0.01)


def _column_settings(
    path: Path, columns: Sequence[Column], text: str | None, label: str | None, ask: Ask | None
) -> dict[str, Any]:
    """`text`, `label`, and how a table marks entities."""
    scores = {column.name: _text_score(column) for column in columns}
    likely = [name for name, score in scores.items() if score and score >= max(scores.values()) / 2]
    text = _choose(path, "text", text, likely, TEXT_NAMES, [*scores], ask)
    relations = _relations(columns, text)
    taken = (text, *(Data().entities if relations.get("relations") == "spans" else ()))
    likely = [column.name for column in columns if column.name not in taken and _is_label(column)]
    others = [name for name in scores if name not in taken]
    return {"text": text, "label": _choose(path, "label", label, likely, LABEL_NAMES, others, ask)} | relations


def _choose(
    path: Path, what: str, given: str | None, likely: list[str], known: Sequence[str], names: list[str], ask: Ask | None
) -> str:
    """A column: the one that is given, or the only likely one, or the only one with a known name, or as answered."""
    if given is not None:
        matches = tables.match_columns(names, [given])
        if isinstance(matches, str):
            raise DataError(f"{path}: --{what}: {matches}")
        return next(iter(matches))
    likely = [name for name in likely if name.strip().casefold() in known] or likely
    if len(likely) == 1:
        return likely[0]
    found = (
        f"the {what} may be any of the columns {', '.join(likely)}" if likely else f"no column looks like the {what}"
    )
    if ask:
        return ask(f"{path.name}: {found}; which is it?", likely or names)
    raise DataError(f"{path}: {found}; name it with --{what} COLUMN. Columns: {', '.join(names)}.")


def _relations(columns: Sequence[Column], text: str) -> dict[str, Any]:
    """`relations`, and `markers` if they have another spelling: TACRED's columns, or markers in most sentences."""
    if {column.name for column in columns}.issuperset(Data().entities):
        return {"relations": "spans"}
    texts = next((column.values[:TRIED] for column in columns if column.name == text), [])
    for own in ([*MARKERS], OTHER_MARKERS):
        data = Data(format="table", relations="markers", markers=own)
        if texts and mean(not marking_fault(mark_entities(each, [], data)) for each in texts) > 0.5:
            return {"relations": "markers"} | ({"markers": own} if own is OTHER_MARKERS else {})
    return {}
