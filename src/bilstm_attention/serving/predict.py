"""The command that classifies: sentences, lines or whole tables in, answers out, in order and as they come."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

import pyarrow as pa
from pyarrow.parquet import ParquetFile, ParquetWriter

from bilstm_attention import paths
from bilstm_attention.config import load_params
from bilstm_attention.console import bar, closing, start_tensorflow
from bilstm_attention.errors import DataError

# Sentences at once: enough of like length for a batch, few enough to hold in memory and to see progress.
ROWS = 4096
KINDS = (".csv", ".parquet", ".jsonl")
LONGEST_FIELD = 2**31 - 1  # characters of a csv's field: memory is the limit
# A part of a table, and how much of the whole it is, in whatever unit is known beforehand.
Part = tuple[pa.Table, int]


def predict_lines(lines: Iterable[str], model: str | None, attention: bool, as_json: bool, to: TextIO) -> None:
    """Answers sentences, one a line: label, TAB, score, or with `as_json` all that is known of it.

    Args:
        lines: the sentences; from a terminal or a pipe each is answered as soon as it is there.
        model: see `classifier`.
        attention: adds tokens and weights; then lines are JSON.
        to: where answers are written.

    Raises:
        DataError: a line that is no UTF-8, or cannot be answered, by its number, counted from 0.
    """
    answering, first = classifier(model), 0
    size, given = ROWS if isinstance(lines, Sequence) else 1, iter(lines)
    try:
        while texts := list(islice(given, size)):
            answers = answering.answer([text.rstrip("\n") for text in texts], attention, first)
            for answer in answers.to_dict("records"):
                whole = as_json or attention
                line = json.dumps(answer, ensure_ascii=False) if whole else f"{answer['label']}\t{answer['score']:.6f}"
                print(line, file=to, flush=True)
            first += len(texts)
    except UnicodeDecodeError as error:
        raise DataError(f"standard input, row {first} or after it: not UTF-8: {error}.") from None


def predict_file(source: Path, target: Path, column: str, model: str | None, attention: bool) -> None:
    """Answers a table, its columns kept and the answers' joined to them; the target appears whole or not at all.

    Args:
        source: csv, parquet or jsonl.
        target: of the same kinds; in a csv, what is more than a number or a text is JSON.
        column: of the sentences.
        model: see `classifier`.
        attention: adds `tokens` and `weights`.

    Raises:
        DataError: a table of another kind, damaged, or without the column; one that has a column of an answer's name;
            sentences that cannot be answered, by row, counted from 0.
    """
    for path in (source, target):
        if path.suffix not in KINDS:
            raise DataError(f"{path}: tables are {', '.join(KINDS)}; lines of text are read from standard input.")
    if not source.is_file():
        raise DataError(f"{source}: no such file.")
    answering, done = classifier(model), 0
    schema = _schema_of_answers(answering.labels, attention)
    with paths.atomic_write(target) as temporary, _writing(temporary, target.suffix) as write:
        total, parts = _parts(source)
        with bar(f"predict {source.name}", total) as advance:
            for part, size in parts:
                _check_columns(source, part.column_names, column, schema.names)
                try:
                    answers = answering.answer(part[column].to_pylist(), attention, done)
                except DataError as error:
                    raise DataError("\n".join(f"{source}: {line}" for line in str(error).splitlines())) from None
                for field in schema:
                    part = part.append_column(field, pa.array(answers[field.name].tolist(), field.type))
                try:
                    write(part)
                except (pa.ArrowException, ValueError) as error:
                    raise DataError(f"{source}: columns change their type from row {done} on: {error}.") from None
                done += len(part)
                advance(size)
    closing(f"predict {target}", {"sentences": done})


def classifier(model: str | None) -> Any:
    """The classifier asked for.

    Args:
        model: None: the best seed on dev of this checkout; else id of a run that logged one, or an address of MLflow,
            for instance `models:/sample@champion`.

    Raises:
        UserError: there is no such model.
    """
    if model is None:
        return _of_checkout()
    from bilstm_attention.serving.classifier import load_folder
    from bilstm_attention.tracking.registry import fetch_model

    with TemporaryDirectory() as folder:
        return load_folder(fetch_model(model, Path(folder)))


def _of_checkout() -> Any:
    from bilstm_attention.data.dataset import load_labels, load_vocabulary
    from bilstm_attention.tracking.environment import warn_if_stale

    params = load_params(paths.PARAMS)
    seeds = params.train.seeds
    start_tensorflow()
    from bilstm_attention.evaluation.results import best_seed, read_dev_scores, seed_file
    from bilstm_attention.model.classifier import load_classifier
    from bilstm_attention.serving.classifier import TextClassifier

    model = load_classifier(seed_file(best_seed(read_dev_scores(seeds), params.train.monitor), "model.keras"))
    warn_if_stale(seeds)
    return TextClassifier(model, load_vocabulary(), load_labels(), params.data)


def _schema_of_answers(labels: Sequence[str], attention: bool) -> pa.Schema:
    """Columns of `TextClassifier.answer`."""
    fields = [("label", pa.string()), ("score", pa.float64())]
    fields += [("probabilities", pa.struct([(label, pa.float64()) for label in labels]))]
    of_attention = [("tokens", pa.list_(pa.string())), ("weights", pa.list_(pa.float64()))]
    return pa.schema(fields + (of_attention if attention else []))


def _check_names(source: Path, names: Sequence[str]) -> None:
    if twice := ", ".join(sorted({name for name in names if names.count(name) > 1})):
        raise DataError(f"{source}: several columns are called {twice}; give each a name of its own.")


def _check_columns(source: Path, names: Sequence[str], column: str, of_answers: Sequence[str]) -> None:
    if column not in names:
        raise DataError(f"{source}: no column {column!r}. There are: {', '.join(names)}.")
    if hidden := ", ".join(sorted(set(of_answers) & set(names))):
        raise DataError(f"{source}: has columns of the answers' names already, {hidden}; rename them.")


def _parts(source: Path) -> tuple[int, Iterator[Part]]:
    """How much there is, and the parts of the table, at least one."""
    if source.suffix != ".parquet":
        return source.stat().st_size, _text_parts(source)
    try:
        file = ParquetFile(source)
    except pa.ArrowException as error:
        raise DataError(f"{source}: not a parquet file: {error}") from None

    def parts() -> Iterator[Part]:
        _check_names(source, file.schema_arrow.names)
        if not file.metadata.num_rows:
            yield file.schema_arrow.empty_table(), 0
        batches = file.iter_batches(ROWS)
        try:
            while (batch := next(batches, None)) is not None:
                yield pa.Table.from_batches([batch]), len(batch)
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"{source}: a damaged parquet file: {error}") from None

    return file.metadata.num_rows, parts()


def _text_parts(source: Path) -> Iterator[Part]:
    with source.open("rb") as raw, TextIOWrapper(raw, encoding="utf-8-sig", newline="") as file:
        at, first = 0, True
        try:
            names, rows = (_csv_rows if source.suffix == ".csv" else _json_rows)(source, file)
            _check_names(source, names)
            while (some := list(islice(rows, ROWS))) or first:
                columns = zip(*some, strict=True) if some else [[] for _ in names]
                yield _table(source, dict(zip(names, map(list, columns), strict=True))), raw.tell() - at
                at, first = raw.tell(), False
        except (UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{source}: not a {source.suffix[1:]} file: {error}") from None


def _table(source: Path, columns: dict[str, list[Any]]) -> pa.Table:
    try:
        return pa.table(columns)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError) as error:
        raise DataError(f"{source}: a column holds what no table can, or values of several types: {error}.") from None


def _csv_rows(source: Path, file: TextIO) -> tuple[list[str], Iterator[list[str]]]:
    """The columns, and the cells of each row, as texts: NA is a word."""
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(file, strict=True)
    names = next(reader, [])

    def rows() -> Iterator[list[str]]:
        empty = 0
        for row in reader:
            if not row:
                # at the end of the file there may be any number
                empty = empty or reader.line_num
                continue
            if empty:
                raise DataError(f'{source}:{empty}: an empty line; delete it, or write an empty field as "".')
            if len(row) != len(names):
                raise DataError(
                    f"{source}:{reader.line_num}: {len(row)} fields, {len(names)} in the header; a comma within a field"
                    ' needs quotes: "a, b".'
                )
            yield row

    return names, rows()


def _json_rows(source: Path, file: TextIO) -> tuple[list[str], Iterator[list[Any]]]:
    """The keys of the first line, and the values of each line in their order."""
    lines = enumerate(file, start=1)

    def parsed(number: int, line: str) -> dict[str, Any]:
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{source}:{number}: not a jsonl file: {error}.") from None
        if not isinstance(row, dict):
            raise DataError(f"{source}:{number}: a line is an object, {{...}}; received {type(row).__name__}.")
        return row

    first = next((parsed(*line) for line in lines), {})
    names = list(first)

    def rows() -> Iterator[list[Any]]:
        if first:
            yield list(first.values())
        for number, line in lines:
            row = parsed(number, line)
            if set(row) != set(names):
                raise DataError(f"{source}:{number}: keys {', '.join(row)}; the first line has {', '.join(names)}.")
            yield [row[name] for name in names]

    return names, rows()


@contextmanager
def _writing(path: Path, kind: str) -> Iterator[Callable[[pa.Table], None]]:
    """Gives what appends a part of a table to a file of a kind."""
    if kind == ".parquet":
        writers: list[ParquetWriter] = []

        def write_parquet(part: pa.Table) -> None:
            if not writers:
                writers.append(ParquetWriter(path, part.schema))
            writers[0].write_table(part)

        try:
            yield write_parquet
        finally:
            for writer in writers:
                writer.close()
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")

        def write_csv(part: pa.Table) -> None:
            if not file.tell():
                table.writerow(part.column_names)
            for row in part.to_pylist():
                table.writerow([_as_json(value) if isinstance(value, dict | list) else value for value in row.values()])

        def write_jsonl(part: pa.Table) -> None:
            file.writelines(f"{_as_json(row)}\n" for row in part.to_pylist())

        yield write_csv if kind == ".csv" else write_jsonl


def _as_json(value: Any) -> str:
    # dates and the like, which JSON has not, as text
    return json.dumps(value, ensure_ascii=False, default=str)
