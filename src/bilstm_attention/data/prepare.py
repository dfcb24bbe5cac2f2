"""Writes the prepared splits: tokens of a corpus, chunk by chunk, to one parquet file per split, and a summary of them.

One chunk at a time is in memory.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bilstm_attention.config import Data
from bilstm_attention.console import progress_bar
from bilstm_attention.data.splits import SPLITS, Split
from bilstm_attention.data.text import count_uncleaned
from bilstm_attention.data.tokens import SPANS, SPECIALS, encode_with_faults, length_advice
from bilstm_attention.errors import OFFENDERS_SHOWN, DataError, join_lines

ROW_GROUP = 50_000  # rows that a reader of the file holds at a time


@dataclass
class SplitStats:
    """Counts of a split, taken while it is written."""

    words: Counter[str] = field(default_factory=Counter)  # tokens after cutting, markers included
    lengths: list[NDArray[np.int32]] = field(default_factory=list)  # tokens of each row before cutting, in parts
    truncated: int = 0  # rows cut
    empty_entities: int = 0  # that are read as an unknown word


def encode_chunk(examples: pd.DataFrame, data: Data, uncleaned: Counter[str]) -> pa.Table:
    """A part of `corpus.read_chunks` as `tokens.encode_with_faults` makes it.

    `uncleaned` counts the rows that hold what `data.tokens.clean` could replace.
    """
    uncleaned.update(count_uncleaned(examples["text"].tolist(), data.tokens.clean))
    more = [("fault", pa.string()), ("empty_entities", pa.int64()), ("required_length", pa.int64())]
    schema = pa.schema([*_schema(data), *(pa.field(*each) for each in more)])
    return pa.Table.from_pandas(encode_with_faults(examples, data), schema)


def write_splits(
    tables: Iterable[pa.Table], splits: NDArray[np.int8], files: Mapping[Split, Path], data: Data
) -> dict[Split, SplitStats]:
    """Writes every split to its file, rows in corpus order, and counts its words and lengths.

    The bytes depend on the rows alone, not on how they are cut into chunks.

    Args:
        tables: the whole corpus in order, as `encode_chunk` returns it.
        splits: of `splits.make_splits`.

    Raises:
        DataError: lists by file and line the rows that `tokens.encode_examples` refuses.
    """
    faults, more, start, required = list[str](), 0, 0, 0
    with ExitStack() as stack:
        writers = {
            name: _SplitWriter(stack.enter_context(pq.ParquetWriter(files[name], _schema(data)))) for name in SPLITS
        }
        advance = stack.enter_context(progress_bar("tokenising", len(splits)))
        for table in tables:
            messages = [*filter(None, table["fault"].to_pylist())]
            faults += messages[:OFFENDERS_SHOWN]
            more += len(messages[OFFENDERS_SHOWN:])
            required = max(required, pc.max(table["required_length"]).as_py() or 0)
            chunk_splits = splits[start : start + len(table)]
            start += len(table)
            for number, writer in enumerate(writers.values()):
                writer.add(table.drop_columns(["fault", "required_length"]).filter(pa.array(chunk_splits == number)))
            advance(len(table))
        for writer in writers.values():
            if len(writer.buffer):
                writer.write(ROW_GROUP)
    if faults:
        raise DataError(join_lines(faults, more=more) + length_advice(required, data.tokens))
    return {name: writer.stats for name, writer in writers.items()}


class _SplitWriter:
    """Writes tables in row groups of `ROW_GROUP` rows, and counts their words and lengths."""

    def __init__(self, file: pq.ParquetWriter) -> None:
        self.file, self.stats, self.buffer = file, SplitStats(), file.schema.empty_table()

    def add(self, table: pa.Table) -> None:
        counts = pc.value_counts(pc.list_flatten(table["tokens"].combine_chunks()))
        self.stats.words.update(dict(zip(counts.field(0).to_pylist(), counts.field(1).to_pylist(), strict=True)))
        self.stats.lengths.append(table["length"].to_numpy().astype("int32"))
        self.stats.truncated += pc.sum(pc.greater(table["length"], pc.list_value_length(table["tokens"]))).as_py() or 0
        self.stats.empty_entities += pc.sum(table["empty_entities"]).as_py() or 0
        self.buffer = pa.concat_tables([self.buffer, table.drop_columns("empty_entities").cast(self.file.schema)])
        while len(self.buffer) >= ROW_GROUP:
            self.write(ROW_GROUP)

    def write(self, rows: int) -> None:
        # in one piece: pages of the file may end where the pieces of a table do
        self.file.write_table(self.buffer[:rows].combine_chunks())
        self.buffer = self.buffer[rows:]


def _schema(data: Data) -> pa.Schema:
    """The schema of a table that pandas makes of encoded rows, so that pandas reads the same types back."""
    spans = dict.fromkeys(SPANS, 0) if data.relational else {}
    row = pd.DataFrame([{"id": "1", "tokens": ["word"], "label": "1", **spans, "length": 0}])
    return pa.Schema.from_pandas(row, preserve_index=False)


def summarize(rows: pd.DataFrame, splits: NDArray[np.int8], stats: Mapping[Split, SplitStats]) -> dict[str, Any]:
    """Counts of the splits, ready for JSON: integers and strings alone.

    Args:
        rows: of `corpus.read_corpus`.
        splits: of `splits.make_splits`.
        stats: of `write_splits`.

    Returns:
        `splits`: for each split `rows`; `labels`, rows by label; `length`, tokens of a row before cutting, markers
        included (`min`, `p50`, `p95`, `max`); `truncated`, rows cut; `tokens` and `types`, running and different words
        after cutting, without markers. `duplicates`: `a-a` counts rows of a whose sentence an earlier row of a has,
        `a-b` rows of b whose sentence a has too.
    """
    parts = {name: rows[splits == SPLITS.index(name)] for name in stats}
    within = {f"{name}-{name}": int(part["key"].duplicated().sum()) for name, part in parts.items()}
    across = {f"{a}-{b}": int(parts[b]["key"].isin(parts[a]["key"]).sum()) for a, b in combinations(parts, 2)}
    summaries = {}
    for name, part in parts.items():
        words = [count for word, count in stats[name].words.items() if word not in SPECIALS]
        # "lower": a quantile is the length of some row
        quantiles = pd.Series(np.concatenate(stats[name].lengths)).quantile([0, 0.5, 0.95, 1], interpolation="lower")
        summaries[name] = {
            "rows": len(part),
            "labels": {str(label): int(n) for label, n in part["label"].value_counts().sort_index().items() if n},
            "length": dict(zip(("min", "p50", "p95", "max"), map(int, quantiles), strict=True)),
            "truncated": stats[name].truncated,
            "tokens": sum(words),
            "types": len(words),
        }
    return {"splits": summaries, "duplicates": within | across}
