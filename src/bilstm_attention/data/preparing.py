"""Tokens of a corpus, chunk by chunk, to one parquet file for each split: a few chunks at a time in memory."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from bilstm_attention.config import Data
from bilstm_attention.console import bar
from bilstm_attention.data.index import Chunk, read_chunk
from bilstm_attention.data.splits import SPLITS, Split
from bilstm_attention.data.summary import SplitStats
from bilstm_attention.data.tokens import SPANS, encode_or_fault
from bilstm_attention.errors import OFFENDERS_SHOWN, DataError, join_lines

ROW_GROUP = 50_000  # rows that a reader of the file holds at a time


def encode_chunk(chunk: Chunk, data: Data, root: Path = Path()) -> pd.DataFrame:
    """The rows of a chunk as `tokens.encode_or_fault` makes them, the columns Arrow's: quick to send, and to write.

    Args:
        root: what the path of its file is relative to.

    Raises:
        DataError: the file has changed since it was indexed.
    """
    rows = read_chunk(chunk, data, root)
    columns = {name: [getattr(row, name) for row in rows] for name in ("id", "text", "label")}
    examples = pd.DataFrame({**columns, "source": [str(row.place) for row in rows]})
    return _arrow_backed(pa.Table.from_pandas(encode_or_fault(examples, data), _with_faults(data)))


def no_rows(data: Data) -> pd.DataFrame:
    """What `encode_chunk` returns of no rows."""
    return _arrow_backed(_with_faults(data).empty_table())


def _arrow_backed(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas(types_mapper=pd.ArrowDtype)
    return frame


def write_splits(
    encoded: Iterable[pd.DataFrame], splits: NDArray[np.int8], files: Mapping[Split, Path], data: Data
) -> dict[Split, SplitStats]:
    """Writes every split to its file, in the order of the rows, and counts its words and lengths.

    What is written depends on the rows alone, not on how they are cut into chunks.

    Args:
        encoded: all chunks of an index, in its order, as `encode_chunk` returns them.
        splits: of every row, as `splits.make_splits` returns them.
        files: by split.

    Raises:
        DataError: lists by file and line the rows that `tokens.encode_examples` refuses.
    """
    faults, more, start = list[str](), 0, 0
    with ExitStack() as stack:
        writers = {name: stack.enter_context(_SplitWriter(files[name], _schema(data))) for name in SPLITS}
        advance = stack.enter_context(bar("tokenising", len(splits)))
        for frame in encoded:
            table = pa.Table.from_pandas(frame, _with_faults(data))
            found = pc.list_flatten(table["faults"]).to_pylist()
            faults += found[:OFFENDERS_SHOWN]
            more += len(found[OFFENDERS_SHOWN:])
            side = splits[start : start + len(frame)]
            start += len(frame)
            for number, writer in enumerate(writers.values()):
                writer.add(table.drop_columns("faults").filter(pa.array(side == number)))
            advance(len(frame))
    if faults:
        raise DataError(join_lines(faults, more=more))
    return {name: writer.tally for name, writer in writers.items()}


class _SplitWriter:
    """Writes tables in row groups of `ROW_GROUP` rows, and counts what is in them."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.schema, self.file, self.tally = schema, pq.ParquetWriter(path, schema), SplitStats()
        self.waiting = schema.empty_table()

    def add(self, table: pa.Table) -> None:
        counts = pc.value_counts(pc.list_flatten(table["tokens"].combine_chunks()))
        self.tally.words.update(dict(zip(counts.field(0).to_pylist(), counts.field(1).to_pylist(), strict=True)))
        self.tally.lengths.append(table["length"].to_numpy().astype("int32"))
        self.tally.truncated += pc.sum(pc.greater(table["length"], pc.list_value_length(table["tokens"]))).as_py() or 0
        self.waiting = pa.concat_tables([self.waiting, table.cast(self.schema)])
        while len(self.waiting) >= ROW_GROUP:
            self._write(self.waiting[:ROW_GROUP])
            self.waiting = self.waiting[ROW_GROUP:]

    def _write(self, table: pa.Table) -> None:
        # in one piece, since pages may end where pieces do
        self.file.write_table(table.combine_chunks())

    def __enter__(self) -> "_SplitWriter":
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if kind is None and len(self.waiting):
            self._write(self.waiting)
        self.file.close()


def _schema(data: Data) -> pa.Schema:
    """That of the table which pandas makes of rows, so that pandas reads it as it was."""
    spans = dict.fromkeys(SPANS, 0) if data.relational else {}
    row = pd.DataFrame([{"id": "1", "tokens": ["word"], "label": "1", **spans, "length": 0}])
    return pa.Schema.from_pandas(row, preserve_index=False)


def _with_faults(data: Data) -> pa.Schema:
    return _schema(data).append(pa.field("faults", pa.list_(pa.string()))).remove_metadata()
