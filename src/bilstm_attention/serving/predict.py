"""The command `predict`: sentences, lines or a table in, answers out, in the same order."""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO

import pandas as pd
import pyarrow as pa
from pyarrow import csv
from pyarrow.parquet import ParquetFile, ParquetWriter

from bilstm_attention import paths
from bilstm_attention.config import load_params
from bilstm_attention.console import print_summary, progress_bar, start_tensorflow
from bilstm_attention.errors import DataError

if TYPE_CHECKING:
    from bilstm_attention.serving.classifier import TextClassifier

# Sentences at once: enough of like length for a batch, few enough to hold in memory and to show progress.
CHUNK = 4096
KINDS = (".csv", ".parquet", ".jsonl")
# A part of a table, and how many bytes of the file it took.
Chunk = tuple[pa.Table, int]


def predict_lines(lines: Iterable[str], model: str | None, attention: bool, as_json: bool, to: TextIO) -> None:
    """Answers one sentence a line: label, TAB, score; with `as_json` or `attention` all columns as JSON.

    Each line of a stream is answered as soon as it is read. `model`: see `load_model`.

    Raises:
        DataError: a line that is not UTF-8, or cannot be answered, by its row, counted from 0.
    """
    classifier, first = load_model(model), 0
    size, stream = CHUNK if isinstance(lines, Sequence) else 1, iter(lines)
    try:
        while texts := [line.rstrip("\n") for line in islice(stream, size)]:
            for answer in classifier.answer(texts, attention, first).to_dict("records"):
                short = f"{answer['label']}\t{answer['score']:.6f}"
                print(_to_json(answer) if as_json or attention else short, file=to, flush=True)
            first += len(texts)
    except UnicodeDecodeError as error:
        raise DataError(f"standard input, row {first} or after it: not UTF-8: {error}.") from None


def predict_file(source: Path, target: Path, column: str, model: str | None, attention: bool) -> None:
    """Adds the columns of the answers to a table; the target appears whole or not at all.

    Both are csv, whose cells are text, NA too, and whose nested columns are JSON; or parquet, or jsonl. `column` has
    the sentences; `model`: see `load_model`; `attention` adds `tokens` and `weights`.

    Raises:
        DataError: a table of another kind, damaged, without the column or with a column of an answer's name; sentences
            that cannot be answered, by row, counted from 0.
    """
    for path in (source, target):
        if path.suffix not in KINDS:
            raise DataError(f"{path}: tables are {', '.join(KINDS)}; lines of text are read from standard input.")
    if not source.is_file():
        raise DataError(f"{source}: no such file.")
    classifier, count = load_model(model), 0
    schema = _answer_schema(classifier.labels, attention)

    def answer() -> Iterator[pa.Table]:
        nonlocal count
        for table, size in _read_table(source, file):
            _check_columns(source, table.column_names, column, schema.names)
            try:
                answers = classifier.answer(table[column].to_pylist(), attention, count)
            except DataError as error:
                raise DataError("\n".join(f"{source}: {line}" for line in str(error).splitlines())) from None
            for field in schema:
                table = table.append_column(field, pa.array(answers[field.name].tolist(), field.type))
            count += len(table)
            advance(size)
            yield table

    with (
        paths.atomic_write(target) as temporary,
        source.open("rb") as file,
        progress_bar(f"predict {source.name}", source.stat().st_size) as advance,
    ):
        _write_table(temporary, target, answer())
    print_summary(f"predict {target}", {"sentences": count})


def load_model(source: str | None) -> "TextClassifier":
    """Loads the classifier of a source of `registry.fetch_model`; without one, the best seed on dev of this checkout.

    Raises:
        UserError: there is no such model.
    """
    from bilstm_attention.data.dataset import load_labels, load_vocabulary
    from bilstm_attention.evaluation.results import best_seed, read_dev_scores, read_temperature, seed_file
    from bilstm_attention.tracking.environment import warn_if_stale
    from bilstm_attention.tracking.registry import fetch_model

    with TemporaryDirectory() as folder:
        if source is None:
            params = load_params(paths.PARAMS)
            seed = best_seed(read_dev_scores(params.train.seeds), params.train.monitor)
            file, temperature = seed_file(seed, "model.keras"), read_temperature(seed)
            warn_if_stale(params.train.seeds)
        else:
            files = fetch_model(source, Path(folder))
        start_tensorflow()
        from bilstm_attention.model.classifier import load_classifier
        from bilstm_attention.serving.classifier import TextClassifier, load_folder
        from bilstm_attention.training.fit import use_threads

        use_threads()
        if source is None:
            return TextClassifier(load_classifier(file), load_vocabulary(), load_labels(), params.data, temperature)
        return load_folder(files)


def _answer_schema(labels: Sequence[str], attention: bool) -> pa.Schema:
    """Columns of `TextClassifier.answer`."""
    probabilities = pa.struct([(label, pa.float64()) for label in labels])
    fields = [("label", pa.string()), ("score", pa.float64()), ("probabilities", probabilities)]
    if attention:
        fields += [("tokens", pa.list_(pa.string())), ("weights", pa.list_(pa.float64()))]
    return pa.schema(fields)


def _check_columns(source: Path, names: Sequence[str], column: str, answers: Sequence[str]) -> None:
    if twice := ", ".join(sorted({name for name in names if names.count(name) > 1})):
        raise DataError(f"{source}: several columns are called {twice}; give each a name of its own.")
    if column not in names:
        raise DataError(f"{source}: no column {column!r}. There are: {', '.join(names)}.")
    if hidden := ", ".join(sorted(set(answers) & set(names))):
        raise DataError(f"{source}: already has columns of the answers' names, {hidden}; rename them.")


def _read_table(source: Path, file: BinaryIO) -> Iterator[Chunk]:
    """The chunks of a table, at least one; DataError if the file is not what its name says."""
    read = {".csv": _read_csv, ".jsonl": _read_jsonl, ".parquet": _read_parquet}[source.suffix]
    try:
        yield from read(source, file)
    except (OSError, ValueError, OverflowError, pa.ArrowException) as error:
        raise DataError(f"{source}: cannot be read as {source.suffix[1:]}: {error}.") from None


def _read_csv(source: Path, file: BinaryIO) -> Iterator[Chunk]:
    # an empty line is an empty cell, which is no sentence: no row is dropped
    parsing = csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False)
    # one thread: its errors name the row
    reading, position = csv.ReadOptions(use_threads=False), 0
    with csv.open_csv(source, reading, parsing) as header:
        names = header.schema.names
    texts = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()))
    with csv.open_csv(file, reading, parsing, texts) as batches:
        yield batches.schema.empty_table(), 0
        for batch in batches:
            for start in range(0, len(batch), CHUNK):
                yield pa.Table.from_batches([batch.slice(start, CHUNK)]), file.tell() - position
                position = file.tell()


def _read_jsonl(source: Path, file: BinaryIO) -> Iterator[Chunk]:
    names: list[str] = []
    lines = enumerate(file, start=1)
    while chunk := list(islice(lines, CHUNK)):
        rows = []
        for number, line in chunk:
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{source}:{number}: not JSON: {error}.") from None
            if not isinstance(row, dict):
                raise DataError(f"{source}:{number}: a line is an object, {{...}}; received {type(row).__name__}.")
            names = names or list(row)
            if set(row) != set(names):
                raise DataError(f"{source}:{number}: keys {', '.join(row)}; the first line has {', '.join(names)}.")
            rows.append(row)
        yield pa.table({name: [row[name] for row in rows] for name in names}), sum(len(line) for _, line in chunk)
    if not names:
        yield pa.table({}), 0


def _read_parquet(source: Path, file: BinaryIO) -> Iterator[Chunk]:
    table, size = ParquetFile(file), source.stat().st_size
    yield table.schema_arrow.empty_table(), 0
    for batch in table.iter_batches(CHUNK):
        yield pa.Table.from_batches([batch]), size * len(batch) // table.metadata.num_rows


def _write_table(path: Path, target: Path, tables: Iterator[pa.Table]) -> None:
    """Writes chunks, at least one, to `path`, in the format of the name of `target`."""
    first = next(tables)
    if target.suffix == ".parquet":
        with ParquetWriter(path, first.schema) as writer:
            for table in chain([first], tables):
                try:
                    writer.write_table(table)
                except ValueError as error:
                    raise DataError(f"{target}: columns of the input change their type: {error}") from None
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        if target.suffix == ".csv":
            pd.DataFrame(columns=first.column_names).to_csv(file, index=False, lineterminator="\n")
        for table in chain([first], tables):
            rows = table.to_pylist()
            if target.suffix == ".jsonl":
                file.writelines(f"{_to_json(row)}\n" for row in rows)
                continue
            frame = pd.DataFrame([row.values() for row in rows], dtype=object)
            frame = frame.map(lambda cell: _to_json(cell) if isinstance(cell, dict | list) else cell)
            frame.to_csv(file, index=False, header=False, lineterminator="\n")


def _to_json(value: Any) -> str:
    # dates and the like, which JSON lacks, as text
    return json.dumps(value, ensure_ascii=False, default=str)
