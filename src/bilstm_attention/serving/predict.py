"""The command `predict`: sentences, lines or a table in, answers out, in the same order."""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TextIO

import pandas as pd
import pyarrow as pa
from pyarrow.parquet import ParquetWriter, read_schema

from bilstm_attention import paths
from bilstm_attention.config import Data, load_params
from bilstm_attention.console import print_summary, progress_bar, start_tensorflow
from bilstm_attention.errors import DataError, join_lines

if TYPE_CHECKING:
    from bilstm_attention.data.tables import Record
    from bilstm_attention.serving.classifier import TextClassifier

# Sentences at once: enough of like length for a batch, few enough to hold in memory and to show progress.
CHUNK = 4096
TARGETS = (".csv", ".tsv", ".jsonl", ".parquet")


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
            for answer in classifier.answer(
                texts, attention, [f"row {first + place}" for place in range(len(texts))]
            ).to_dict("records"):
                short = f"{answer['label']}\t{answer['score']:.6f}"
                print(_to_json(answer) if as_json or attention else short, file=to, flush=True)
            first += len(texts)
    except UnicodeDecodeError as error:
        place = f"standard input, row {first} or after it"
        raise DataError(f"{place}: not UTF-8: {error}. A file of another encoding is --input.") from None


def predict_file(source: Path, target: Path, column: str | None, model: str | None, attention: bool) -> None:
    """Adds the columns of the answers to a table; the target appears whole or not at all.

    The source is read as the training data of the model was, by its `data.encoding`, `delimiter` and so on. Nested
    columns of a csv are JSON. A column of an answer's name stays; that of the answer is then `predicted_<name>`.

    Args:
        source: a table of any kind in `data.tables`.
        target: one of `TARGETS`.
        column: of the sentences; None: that of the training data.
        model: see `load_model`.
        attention: whether `tokens` and `weights` are added.

    Raises:
        DataError: a table of another kind, damaged or without the column; sentences that cannot be answered, by line.
    """
    from bilstm_attention.data.formats import sentence_columns
    from bilstm_attention.data.tables import open_file, parquet_errors, read_table, table_kind

    kind = table_kind(source)
    if target.suffix.lower() not in TARGETS:
        raise DataError(f"{target}: ends in {target.suffix!r}; legal are {', '.join(TARGETS)}.")
    if not source.is_file():
        raise DataError(f"{source}: no such file.")
    classifier = load_model(model)
    data = classifier.data.model_copy(update={"text": column} if column else {})
    with parquet_errors(source):
        # whose columns keep their types
        schema = read_schema(source) if kind == ".parquet" else None

    def answer() -> Iterator[pa.Table]:
        records, position = read_table(file, source, data, sentence_columns(data)), 0
        chunks = iter(lambda: list(islice(records, CHUNK)), [])
        # of a table without rows too, for its columns
        for chunk in chain([next(chunks, [])], chunks):
            yield _answer(classifier, source, data, chunk, schema, attention)
            advance(file.tell() - position)
            position = file.tell()

    with (
        paths.atomic_write(target) as temporary,
        open_file(source) as file,
        progress_bar(f"predict {source.name}", source.stat().st_size) as advance,
    ):
        sentences = _write_table(temporary, target, answer())
    print_summary(f"predict {target}", {"sentences": sentences})


def load_model(source: str | None) -> "TextClassifier":
    """Loads the classifier of a source of `registry.fetch_model`; without one, the best seed on dev of this checkout.

    Raises:
        UserError: there is no such model.
    """
    from bilstm_attention.evaluation.results import best_seed
    from bilstm_attention.serving.classifier import load_folder, load_seed
    from bilstm_attention.tracking.registry import fetch_model

    if source is None:
        params = load_params(paths.PARAMS)
        return load_seed(params, best_seed(params.train.seeds, params.train.monitor))
    with TemporaryDirectory() as folder:
        files = fetch_model(source, Path(folder))
        start_tensorflow()
        from bilstm_attention.training.fit import use_threads

        use_threads()
        return load_folder(files)


def _answer(
    classifier: "TextClassifier",
    source: Path,
    data: Data,
    chunk: Sequence["Record"],
    schema: pa.Schema | None,
    attention: bool,
) -> pa.Table:
    """Records with their answers; DataError lists those that cannot be read or answered, by line."""
    from bilstm_attention.data.formats import read_sentence

    texts, records, faults = list[str](), list[dict[str, Any]](), list[str]()
    for number, record in chunk:
        try:
            if isinstance(record, str):
                raise DataError(record)
            texts.append(read_sentence(record, data))
            records.append(record)
        except DataError as error:
            faults.append(f"{source}:{number}: {error}")
    if faults:
        raise DataError(join_lines(faults))
    answers = classifier.answer(texts, attention, [f"{source}:{number}" for number, _ in chunk])
    names = schema.names if schema else list(dict.fromkeys(chain(*records))) or [data.text]
    try:
        columns = {name: pa.array([record.get(name) for record in records]) for name in names}
        table = pa.Table.from_pylist(records, schema) if schema else pa.table(columns)
    except (pa.ArrowException, OverflowError, ValueError) as error:
        raise DataError(f"{source}: a column has values of several types: {error}.") from None
    for field in _answer_schema(classifier.labels, attention):
        name = f"predicted_{field.name}" if field.name in names else field.name
        table = table.append_column(name, pa.array(answers[field.name].tolist(), field.type))
    return table


def _answer_schema(labels: Sequence[str], attention: bool) -> pa.Schema:
    """Columns of `TextClassifier.answer`."""
    probabilities = pa.struct([(label, pa.float64()) for label in labels])
    fields = [("label", pa.string()), ("score", pa.float64()), ("probabilities", probabilities)]
    if attention:
        fields += [("tokens", pa.list_(pa.string())), ("weights", pa.list_(pa.float64()))]
    return pa.schema(fields)


def _write_table(path: Path, target: Path, tables: Iterator[pa.Table]) -> int:
    """Writes chunks, at least one, to `path`, in the format of the name of `target`; returns the number of rows."""
    first, kind, count = next(tables), target.suffix.lower(), 0
    is_parquet = kind == ".parquet"
    out: Any = ParquetWriter(path, first.schema) if is_parquet else path.open("w", encoding="utf-8", newline="")
    with out as file:
        for table in chain([first], tables):
            if is_parquet:
                try:
                    file.write_table(table)
                except ValueError as error:
                    raise DataError(f"{target}: columns of the input change their type: {error}") from None
            elif kind == ".jsonl":
                file.writelines(f"{_to_json(row)}\n" for row in table.to_pylist())
            elif table.column_names != first.column_names:
                raise DataError(f"{target}: later records have other columns than the first {CHUNK}; write .jsonl.")
            else:
                rows = [row.values() for row in table.to_pylist()]
                frame = pd.DataFrame(rows, columns=table.column_names, dtype=object)
                frame = frame.map(lambda cell: _to_json(cell) if isinstance(cell, dict | list) else cell)
                separator = "\t" if kind == ".tsv" else ","
                frame.to_csv(file, sep=separator, index=False, header=table is first, lineterminator="\n")
            count += table.num_rows
    return count


def _to_json(value: Any) -> str:
    # dates and the like, which JSON lacks, as text
    return json.dumps(value, ensure_ascii=False, default=str)
