"""Indexes a corpus: checks every row and keeps about 200 bytes of it, enough to make splits and to read it again."""

from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from bilstm_attention.config import Data
from bilstm_attention.console import progress_bar
from bilstm_attention.data.formats import Fault, FilePosition, Row, content_faults, read, split_files
from bilstm_attention.data.splits import SPLITS, Split, sentence_key
from bilstm_attention.errors import OFFENDERS_SHOWN, DataError, join_lines

CHUNK_ROWS = 50_000
DIGEST = 16  # bytes; for 10^9 texts, the probability that two share a digest is 10^-21


@dataclass(frozen=True)
class Chunk:
    """Consecutive rows of a file, which can be read without the rows before them."""

    split: Split  # that names the file
    start: FilePosition
    rows: int
    digest: bytes  # checksum of ids, texts and labels


@dataclass(frozen=True)
class Index:
    """All rows of a corpus, in the order of its splits and their files.

    Args:
        rows: columns `key`, int32, equal for equal `sentence_key`; `label`, `split` (that names the file) and `file`,
            categories, labels sorted by name; `line`, int64.
        chunks: the same rows, to be read again.
    """

    rows: pd.DataFrame
    chunks: list[Chunk]


def index_corpus(data: Data, chunk_rows: int = CHUNK_ROWS) -> Index:
    """Reads the files that `data` names, `chunk_rows` rows at a time; no row is dropped.

    Raises:
        DataError: lists faults by file and line: a file that is missing or not UTF-8, a malformed block or record, a
            missing column, an empty sentence or label, an id repeated in a split, and in a relation corpus a missing,
            repeated or misplaced marker or an empty entity.
    """
    files = {split: starts for split in SPLITS if (starts := split_files(data, split))}
    chunks, tables = list[Chunk](), list[pa.Table]()
    size = sum(start.path.stat().st_size for starts in files.values() for start in starts)
    with progress_bar("reading", size) as advance:
        for split, starts in files.items():
            split_chunks, table = _index_split(split, starts, data, chunk_rows, advance)
            chunks += split_chunks
            tables.append(table)
    table = pa.concat_tables(tables)
    label = table["label"].to_pandas()
    sizes = [chunk.rows for chunk in chunks]
    rows = {
        "key": _codes(table["key"]),
        "label": label.cat.reorder_categories(sorted(label.cat.categories)),
        "split": _repeated([chunk.split for chunk in chunks], sizes),
        "file": _repeated([str(chunk.start.path) for chunk in chunks], sizes),
        "line": table["line"].to_numpy(),
    }
    return Index(pd.DataFrame(rows), chunks)


def read_chunk(chunk: Chunk, data: Data) -> list[Row]:
    """Reads the rows of a chunk again; a file changed since then is a `DataError`."""
    rows = list(islice((item for item in read(chunk.start, data) if isinstance(item, Row)), chunk.rows))
    if _digest(rows) != chunk.digest:
        raise DataError(f"{chunk.start}: reads differently a second time; leave the corpus alone while it is prepared.")
    return rows


def _index_split(
    split: Split, starts: list[FilePosition], data: Data, chunk_rows: int, advance: Callable[[int], None]
) -> tuple[list[Chunk], pa.Table]:
    """Reads and checks the files of one split; the table holds `key` (digests), `label` and `line`."""
    chunks, tables, faults, total = list[Chunk](), list[pa.Table](), list[Fault](), 0
    for start in starts:
        remaining = read(start, data)
        while items := list(islice(remaining, chunk_rows)):
            rows = [item for item in items if isinstance(item, Row)]
            batch_faults = [item for item in items if isinstance(item, Fault)]
            batch_faults += (fault for row in rows for fault in content_faults(row, data.relational))
            total += len(batch_faults)
            faults += sorted(batch_faults)[:OFFENDERS_SHOWN]  # a broken file may have millions
            if rows:
                chunks.append(Chunk(split, rows[0].position, len(rows), _digest(rows)))
                tables.append(_table(rows))
                advance(rows[-1].position.offset - rows[0].position.offset)
    if tables:
        repeated, count = _repeated_ids(pa.concat_tables(tables), chunks, data)
        faults += repeated
        total += count
    if faults:
        raise DataError(join_lines(map(str, sorted(faults)), more=total - len(faults)))
    if not tables:
        files = ", ".join(str(start.path) for start in starts)
        raise DataError(f"{files}: no sentence in it; data.{split} names it.")
    return chunks, pa.concat_tables(tables).drop_columns("id")


def _table(rows: list[Row]) -> pa.Table:
    columns = {
        "id": pa.array([_hash(row.id) for row in rows], pa.binary(DIGEST)),
        "key": pa.array([_hash(sentence_key(row.text)) for row in rows], pa.binary(DIGEST)),
        "label": pa.array([row.label for row in rows], pa.string()).dictionary_encode(),
        "line": pa.array([row.position.line for row in rows], pa.int64()),
    }
    return pa.table(columns)


def _hash(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=DIGEST).digest()


def _digest(rows: list[Row]) -> bytes:
    return _hash("\n".join(part for row in rows for part in row[:3]))


def _codes(digests: pa.ChunkedArray) -> NDArray[np.int32]:
    """Numbers digests from 0; equal digests get equal numbers."""
    # Sorted as pairs of integers: a hash table would take three times the memory.
    pairs = np.frombuffer(
        b"".join(chunk.buffers()[1][: len(chunk) * DIGEST] for chunk in digests.chunks), np.uint64
    ).reshape(-1, 2)
    order = np.lexsort(pairs.T)
    differs = (pairs[order[1:]] != pairs[order[:-1]]).any(axis=1)
    codes = np.empty(len(order), np.int32)
    codes[order] = np.concatenate([[0], np.cumsum(differs, dtype=np.int32)])
    return codes


def _repeated(names: list[str], sizes: list[int]) -> Any:
    categories = pd.Index(dict.fromkeys(names))
    return pd.Categorical.from_codes(np.repeat(categories.get_indexer(pd.Index(names)), sizes), categories)


def _repeated_ids(table: pa.Table, chunks: list[Chunk], data: Data) -> tuple[list[Fault], int]:
    """The first faults of rows whose id an earlier row has, and the number of all such rows."""
    codes = _codes(table["id"])
    if codes.max() + 1 == len(codes):
        return [], 0
    later = np.flatnonzero(pd.Series(codes).duplicated())
    starts = np.cumsum([0, *(chunk.rows for chunk in chunks)])

    def read_row(number: int) -> Row:
        chunk = int(np.searchsorted(starts, number, side="right")) - 1
        return read_chunk(chunks[chunk], data)[number - int(starts[chunk])]

    faults = []
    for number in later[:OFFENDERS_SHOWN].tolist():
        row, first = read_row(number), read_row(int(np.argmax(codes == codes[number])))
        faults.append(Fault(row.position, f"id {row.id} is also the id at {first.position}; ids must differ."))
    return faults, len(later)
