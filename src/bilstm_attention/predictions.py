"""The command that classifies: sentences, lines or whole tables in, answers out, in order and as they come."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

import pandas as pd

from bilstm_attention import paths
from bilstm_attention.errors import DataError
from bilstm_attention.params import load_params
from bilstm_attention.terminal import bar, closing, start_tensorflow

# Sentences at once: enough of like length for a batch, few enough to hold in memory and to see progress.
ROWS = 4096
KINDS = (".csv", ".parquet", ".jsonl")


def predict_lines(lines: Iterable[str], model: str | None, attention: bool, as_json: bool, to: TextIO) -> None:
    """Answers sentences, one a line: label, TAB, score, or with `as_json` all that is known of it.

    Args:
        lines: the sentences; from a terminal or a pipe each is answered as soon as it is there.
        model: see `classifier`.
        attention: adds tokens and weights; then lines are JSON.
        to: where answers are written.
    """
    answering, first = classifier(model), 0
    size, given = ROWS if isinstance(lines, Sequence) else 1, iter(lines)
    while texts := list(islice(given, size)):
        answers = answering.answer([text.rstrip("\n") for text in texts], attention, first)
        for answer in answers.to_dict("records"):
            whole = as_json or attention
            line = json.dumps(answer, ensure_ascii=False) if whole else f"{answer['label']}\t{answer['score']:.6f}"
            print(line, file=to, flush=True)
        first += len(texts)


def predict_file(source: Path, target: Path, column: str, model: str | None, attention: bool) -> None:
    """Answers a table, its columns kept and the answers' joined to them; the target appears whole or not at all.

    Args:
        source: csv, parquet or jsonl.
        target: of the same kinds; in a csv, what is more than a number or a text is JSON.
        column: of the sentences.
        model: see `classifier`.
        attention: adds `tokens` and `weights`.

    Raises:
        DataError: a table of another kind or without the column, a column that an answer's would hide, or sentences
            that cannot be answered, by row, counted from 0.
    """
    for path in (source, target):
        if path.suffix not in KINDS:
            raise DataError(f"{path}: tables are {', '.join(KINDS)}; lines of text are read from standard input.")
    if not source.is_file():
        raise DataError(f"{source}: no such file.")
    answering, done = classifier(model), 0
    with paths.written_whole(target) as temporary, _writing(temporary, target.suffix) as write:
        total, tables = _tables(source)
        with bar(f"predict {source.name}", total) as advance:
            for table, size in tables:
                if column not in table:
                    raise DataError(f"{source}: no column {column!r}. There are: {', '.join(map(str, table))}.")
                try:
                    answers = answering.answer(table[column].tolist(), attention, done)
                except DataError as error:
                    raise DataError("\n".join(f"{source}: {line}" for line in str(error).splitlines())) from None
                if hidden := ", ".join(sorted(set(answers) & set(table))):
                    raise DataError(f"{source}: has columns of the answers' names already, {hidden}; rename them.")
                write(pd.concat([table.reset_index(drop=True), answers], axis=1))
                done += len(table)
                advance(size)
    closing(f"predict {target}", {"sentences": done})


def classifier(model: str | None) -> Any:
    """The classifier asked for.

    Args:
        model: None: the best seed on dev of this checkout; else id of a run that logged one, or an address of MLflow,
            for instance `models:/sample@champion`.
    """
    if model is None:
        return _of_checkout()
    from bilstm_attention.experiment.registry import fetch_model
    from bilstm_attention.serving import load_folder

    with TemporaryDirectory() as folder:
        return load_folder(fetch_model(model, Path(folder)))


def _of_checkout() -> Any:
    from bilstm_attention.experiment.runs import best_trained
    from bilstm_attention.experiment.task import load_labels, load_vocabulary

    params = load_params(paths.PARAMS)
    seed = best_trained(params)
    start_tensorflow()
    from bilstm_attention.network.classifier import load_classifier
    from bilstm_attention.serving import TextClassifier

    model = load_classifier(paths.seed_folder(seed) / "model.keras")
    return TextClassifier(model, load_vocabulary(), load_labels(), params.data)


def _tables(source: Path) -> tuple[int, Iterator[tuple[pd.DataFrame, int]]]:
    """How much there is, and parts of the table, each with how much that was, in whatever unit is known beforehand."""
    if source.suffix == ".parquet":
        from pyarrow.parquet import ParquetFile

        file = ParquetFile(source)
        parts = (part.to_pandas() for part in file.iter_batches(ROWS))
        return file.metadata.num_rows, ((part, len(part)) for part in parts)
    return source.stat().st_size, _text_tables(source)


def _text_tables(source: Path) -> Iterator[tuple[pd.DataFrame, int]]:
    with source.open("rb") as file:
        at = 0
        try:
            parts: Iterable[pd.DataFrame]
            if source.suffix == ".csv":
                # texts stay what they are: NA is a word
                parts = pd.read_csv(file, chunksize=ROWS, dtype=str, keep_default_na=False)
            else:
                parts = pd.read_json(file, lines=True, chunksize=ROWS, dtype=False)
            for part in parts:
                yield part, file.tell() - at
                at = file.tell()
        except (ValueError, UnicodeDecodeError) as error:
            raise DataError(f"{source}: not a {source.suffix[1:]} file: {error}") from None


@contextmanager
def _writing(path: Path, kind: str) -> Iterator[Callable[[pd.DataFrame], None]]:
    """Gives what appends a part of a table to a file of a kind."""
    if kind == ".parquet":
        from pyarrow import Table
        from pyarrow.parquet import ParquetWriter

        writers: list[Any] = []

        def write_parquet(part: pd.DataFrame) -> None:
            table = Table.from_pandas(part, preserve_index=False, schema=writers[0].schema if writers else None)
            if not writers:
                writers.append(ParquetWriter(path, table.schema))
            writers[0].write_table(table)

        try:
            yield write_parquet
        finally:
            for writer in writers:
                writer.close()
        return
    with path.open("w", encoding="utf-8", newline="") as file:

        def write_text(part: pd.DataFrame) -> None:
            if kind == ".jsonl":
                part.to_json(file, orient="records", lines=True, force_ascii=False, double_precision=15)
                return
            nested = {name: part[name].map(_as_json) for name in ("probabilities", "tokens", "weights") if name in part}
            part.assign(**nested).to_csv(file, index=False, header=not file.tell())

        yield write_text


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
