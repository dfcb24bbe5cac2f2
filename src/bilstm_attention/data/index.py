"""What the splits and the summary need to know of every row of a corpus, checked and held in some 200 bytes a row."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from bilstm_attention.config import Data
from bilstm_attention.console import bar
from bilstm_attention.data.formats import Fault, Row, content_faults, read, split_files
from bilstm_attention.data.lines import FilePosition
from bilstm_attention.data.splits import SPLITS, Split, sentence_key
from bilstm_attention.errors import OFFENDERS_SHOWN, DataError, join_lines

CHUNK_ROWS = 50_000
DIGEST = 16  # bytes: that two of 10^9 texts share one has a probability of 10^-21


@dataclass(frozen=True)
class Chunk:
    """Rows that follow each other in a file, and that can be read without those before them.

    Args:
        split: in whose file they stand.
        start: where the first of them begins.
        rows: how many they are.
        digest: of what they say.
    """

    split: Split
    start: FilePosition
    rows: int
    digest: bytes


@dataclass(frozen=True)
class Index:
    """All rows of a corpus, in the order of its splits and their files.

    Args:
        rows: `key`, int32, the same for the same `sentence_key`; `label`, `split` and `file`, categories, labels in the
            order of their names: `split` is the one in whose file the row stands; `line`, int64.
        chunks: these rows, as they are read again.
    """

    rows: pd.DataFrame
    chunks: list[Chunk]


def index_corpus(data: Data, chunk_rows: int = CHUNK_ROWS) -> Index:
    """Reads the files that `data` names, `chunk_rows` rows at a time; no row is dropped.

    Raises:
        DataError: lists what is wrong by file and line: a file that is not there or not UTF-8, a malformed block or
            record, a missing column, an empty sentence or label, an id that a split has twice, and in a relation corpus
            a missing, repeated or misplaced marker or an empty entity.
    """
    named = {split: places for split in SPLITS if (places := split_files(data, split))}
    chunks, tables = list[Chunk](), list[pa.Table]()
    with bar("reading", sum(place.path.stat().st_size for places in named.values() for place in places)) as advance:
        for split, places in named.items():
            of_split, table = _index_split(split, places, data, chunk_rows, advance)
            chunks += of_split
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


def read_chunk(chunk: Chunk, data: Data, root: Path = Path()) -> list[Row]:
    """Reads the rows of a chunk again.

    Args:
        root: what the path of its file is relative to.

    Raises:
        DataError: they are not what they were.
    """
    found = (item for item in read(chunk.start, data, root) if isinstance(item, Row))
    rows = list(islice(found, chunk.rows))
    if _digest(rows) != chunk.digest:
        raise DataError(f"{chunk.start}: reads differently a second time; leave the corpus alone while it is prepared.")
    return rows


def _index_split(
    split: Split, places: list[FilePosition], data: Data, chunk_rows: int, advance: Callable[[int], None]
) -> tuple[list[Chunk], pa.Table]:
    """Reads and checks the files of one split; columns `id` and `key`, digests, `label` and `line`."""
    chunks, tables, faults, more = list[Chunk](), list[pa.Table](), list[Fault](), 0

    def note(found: list[Fault], count: int) -> None:
        nonlocal faults, more
        faults += found
        more += count - len(found)

    for place in places:
        for items in _batches(read(place, data), chunk_rows):
            rows = [item for item in items if isinstance(item, Row)]
            found = [item for item in items if isinstance(item, Fault)]
            found += (fault for row in rows for fault in content_faults(row, data.relational))
            note(sorted(found)[:OFFENDERS_SHOWN], len(found))
            if rows:
                chunks.append(Chunk(split, rows[0].place, len(rows), _digest(rows)))
                tables.append(_table(rows))
                advance(rows[-1].place.offset - rows[0].place.offset)
    if tables:
        note(*_repeated_ids(pa.concat_tables(tables), chunks, data))
    if faults:
        raise DataError(join_lines(map(str, sorted(faults)), more=more))
    if not tables:
        files = ", ".join(str(place.path) for place in places)
        raise DataError(f"{files}: no sentence in it; data.{split} names it.")
    return chunks, pa.concat_tables(tables).drop_columns("id")


def _batches(items: Iterable[Row | Fault], size: int) -> Iterator[list[Row | Fault]]:
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def _table(rows: list[Row]) -> pa.Table:
    columns = {
        "id": pa.array([_hash(row.id) for row in rows], pa.binary(DIGEST)),
        "key": pa.array([_hash(sentence_key(row.text)) for row in rows], pa.binary(DIGEST)),
        "label": pa.array([row.label for row in rows], pa.string()).dictionary_encode(),
        "line": pa.array([row.place.line for row in rows], pa.int64()),
    }
    return pa.table(columns)


def _hash(text: str) -> bytes:
    return blake2b(text.encode(), digest_size=DIGEST).digest()


def _digest(rows: list[Row]) -> bytes:
    return _hash("\n".join(part for row in rows for part in row[:3]))


def _codes(digests: pa.ChunkedArray) -> NDArray[np.int32]:
    """Numbers from 0 that are equal where the digests are."""
    # sorted as pairs of integers: a table of hashes would take three times the memory
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
    """The first faults of rows whose id an earlier one has, and how many there are in all."""
    codes = _codes(table["id"])
    if codes.max() + 1 == len(codes):
        return [], 0
    later = np.flatnonzero(pd.Series(codes).duplicated())
    starts = np.cumsum([0, *(chunk.rows for chunk in chunks)])

    def row(position: int) -> Row:
        number = int(np.searchsorted(starts, position, side="right")) - 1
        return read_chunk(chunks[number], data)[position - int(starts[number])]

    faults = []
    for position in later[:OFFENDERS_SHOWN].tolist():
        again, first = row(position), row(int(np.argmax(codes == codes[position])))
        message = f"id {again.id} stands already at {first.place}; ids differ."
        faults.append(Fault(again.place.path, again.place.line, message))
    return faults, len(later)
