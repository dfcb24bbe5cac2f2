"""Reads a corpus once: every row is checked and kept in a file; memory holds what the splits need, 200 bytes a row."""

from collections.abc import Iterable, Iterator
from hashlib import blake2b
from itertools import islice
from typing import BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow.parquet import ParquetFile, ParquetWriter

from bilstm_attention.config import Data
from bilstm_attention.console import progress_bar
from bilstm_attention.data.formats import Fault, Row, content_faults, read_rows, split_sources
from bilstm_attention.data.splits import SPLITS, sentence_key
from bilstm_attention.errors import OFFENDERS_SHOWN, DataError, join_lines

CHUNK_ROWS = 50_000
DIGEST = 16  # bytes; for 10^9 texts, the probability that two share a digest is 10^-21
TEXTS = pa.schema([(name, pa.string()) for name in ("id", "text", "label")])


def read_corpus(data: Data, file: BinaryIO, chunk_rows: int = CHUNK_ROWS) -> pd.DataFrame:
    """Reads the files that `data` names; no row is dropped.

    Args:
        data: names the files and their format.
        file: an empty file, to which ids, texts and labels are written; `read_chunks` reads it.
        chunk_rows: rows at a time in memory.

    Returns:
        a row per row of the corpus, in the order of its splits and their files: `key`, int32, equal for equal
        `sentence_key`; `label`, `split` (that names the file) and `file`, categories, labels sorted by name; `line`,
        int64.

    Raises:
        DataError: lists faults by file and line: a file that is missing or of another encoding, a malformed block or
            record, a missing column, an empty sentence or label, an id repeated in a split, and in a relation corpus a
            missing, repeated or misplaced marker.
    """
    sources = [(split, source) for split in SPLITS for source in split_sources(data, split)]
    tables, faults, total = list[pa.Table](), list[Fault](), 0
    size = sum(source.path.stat().st_size for _, source in sources)
    with progress_bar("reading", size) as advance, ParquetWriter(file, TEXTS, compression="zstd") as writer:
        for split in SPLITS:
            files = [source for name, source in sources if name == split]
            items, count = (item for source in files for item in read_rows(source, data, advance)), 0
            while chunk := list(islice(items, chunk_rows)):
                rows = [item for item in chunk if isinstance(item, Row)]
                chunk_faults = [item for item in chunk if isinstance(item, Fault)]
                chunk_faults += (fault for row in rows for fault in content_faults(row, data))
                total += len(chunk_faults)
                faults += sorted(chunk_faults)[:OFFENDERS_SHOWN]  # a broken file may have millions
                count += len(chunk)
                tables.append(_table(rows, split))
                writer.write_table(pa.table([[row[place] for row in rows] for place in range(3)], schema=TEXTS))
            if files and not count:
                paths = ", ".join(str(source.path) for source in files)
                raise DataError(f"{paths}: no sentence in it; data.{split} names it.")
    table = pa.concat_tables(tables).unify_dictionaries()
    if not faults and (data.id or data.format in ("semeval2010", "kbp37")):
        faults, total = _repeated_ids(table, file)
    if faults:
        tests = {str(source.path) for split, source in sources if split == "test"}
        unlabelled = any(f"no column {data.label!r}" in fault.message and fault.file in tests for fault in faults)
        hint = "\nA file without labels is for `predict --input`; leave data.test empty." if unlabelled else ""
        raise DataError(join_lines(map(str, sorted(faults)), more=total - len(faults)) + hint)
    index: pd.DataFrame = table.drop_columns(["id", "key"]).to_pandas()
    index["label"] = index["label"].cat.reorder_categories(sorted(index["label"].cat.categories))
    index.insert(0, "key", _codes(table["key"]))
    return index


def read_chunks(file: BinaryIO, rows: pd.DataFrame, chunk_rows: int = CHUNK_ROWS) -> Iterator[pd.DataFrame]:
    """The texts that `read_corpus` wrote, in parts: `id`, `text`, `label` and `source`, "file:line".

    `file` and `rows` are as `read_corpus` wrote and returned them.
    """
    start = 0
    with ParquetFile(file, pre_buffer=False) as table:
        for batch in table.iter_batches(chunk_rows):
            places = rows.iloc[start : start + len(batch)]
            start += len(batch)
            source = places["file"].astype(str) + ":" + places["line"].astype(str)
            yield batch.to_pandas().assign(source=source.to_numpy())


def _table(rows: list[Row], split: str) -> pa.Table:
    def hashes(texts: Iterable[str]) -> pa.Array:
        return pa.array([blake2b(text.encode(), digest_size=DIGEST).digest() for text in texts], pa.binary(DIGEST))

    columns = {
        "id": hashes(row.id for row in rows),
        "key": hashes(sentence_key(row.text) for row in rows),
        "label": pa.array([row.label for row in rows], pa.string()).dictionary_encode(),
        "split": pa.array([split] * len(rows), pa.string()).dictionary_encode(),
        "file": pa.array([row.file for row in rows], pa.string()).dictionary_encode(),
        "line": pa.array([row.line for row in rows], pa.int64()),
    }
    return pa.table(columns)


def _codes(digests: pa.ChunkedArray) -> NDArray[np.int32]:
    """Numbers digests from 0; equal digests get equal numbers."""
    # by sorting: a hash table would take three times the memory
    values = np.frombuffer(digests.combine_chunks().buffers()[1], f"S{DIGEST}", len(digests))
    return np.unique(values, return_inverse=True)[1].astype(np.int32)


def _repeated_ids(table: pa.Table, file: BinaryIO) -> tuple[list[Fault], int]:
    """The first faults of rows whose id an earlier row of their split has, and the number of all such rows."""
    ids = pd.DataFrame({"split": table["split"].to_pandas(), "id": _codes(table["id"])})
    later = np.flatnonzero(ids.duplicated())
    if not len(later):
        return [], 0
    names, faults = pd.read_parquet(file, columns=["id"])["id"], list[Fault]()
    places = table.select(["file", "line"]).to_pandas()
    for number in later[:OFFENDERS_SHOWN].tolist():
        first = int(np.argmax((ids == ids.iloc[number]).all(axis=1)))
        place = f"{places['file'].iloc[first]}:{places['line'].iloc[first]}"
        message = f"id {names.iloc[number]} is also the id at {place}; ids must differ."
        faults.append(Fault(str(places["file"].iloc[number]), int(places["line"].iloc[number]), message))
    return faults, len(later)
