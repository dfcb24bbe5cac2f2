"""Reading a prepared split part by part, so that its size does not matter to memory."""

import mmap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow.parquet import ParquetFile

from bilstm_attention.data.batches import Rows
from bilstm_attention.data.tokens import SPECIALS, UNK, Vocabulary
from bilstm_attention.errors import DataError

UNKNOWN = SPECIALS.index(UNK)
ROWS_READ, BYTES_READ = 1 << 16, 1 << 20


@dataclass(frozen=True)
class Sentences:
    """Token lists of a prepared split, read from its file part by part each time that they are gone through.

    Args:
        path: the split, see `tokens.encode_examples`.

    Raises:
        OSError, ValueError: not there, or no table with a column `tokens`.
    """

    path: Path

    def __post_init__(self) -> None:
        with ParquetFile(self.path) as table:
            if "tokens" not in table.schema_arrow.names:
                raise ValueError(f"no column `tokens` among {table.schema_arrow.names}")

    def __len__(self) -> int:
        with ParquetFile(self.path) as table:
            return int(table.metadata.num_rows)

    def __iter__(self) -> Iterator[list[str]]:
        for part in _parts(self.path, "tokens"):
            # one string for each word of the part, however often it shows
            shown = part["tokens"].flatten().dictionary_encode()
            words = np.array(shown.dictionary.to_pylist(), object)[shown.indices].tolist()
            ends = np.cumsum(part["tokens"].value_lengths()).tolist()
            yield from (words[start:end] for start, end in pairwise((0, *ends)))


def _parts(path: Path, *columns: str) -> Iterator[Any]:
    # pre-buffered, the whole file would be held
    with ParquetFile(path, buffer_size=BYTES_READ, pre_buffer=False) as table:
        yield from table.iter_batches(ROWS_READ, columns=list(columns))


def read_rows(path: Path, vocabulary: Vocabulary, labels: Sequence[str]) -> Rows:
    """Numbers a prepared split as `encode` does, part by part.

    Memory holds 12 bytes a sentence; the tokens are mapped from a temporary file that has no name and goes with the
    process.

    Raises:
        DataError: a label is not one of `labels`.
    """
    lengths, numbers = [np.zeros(1, np.int64)], []
    with TemporaryFile() as file:
        for part in _parts(path, "tokens", "label"):
            file.write(_numbered(part["tokens"].flatten(), vocabulary.words).fill_null(UNKNOWN).to_numpy())
            lengths.append(part["tokens"].value_lengths().to_numpy())
            found = _numbered(part["label"], labels)
            if found.null_count:
                strange = part["label"].filter(found.is_null()).unique().to_pylist()
                raise DataError(f"{path}: labels.json lists no {', '.join(strange)}; `dvc repro` makes both anew.")
            numbers.append(found.to_numpy())
        starts = np.cumsum(np.concatenate(lengths), dtype=np.int64)
        file.flush()
        tokens = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if starts[-1] else b""
    return Rows(np.frombuffer(tokens, np.int32), starts, np.concatenate([np.zeros(0, np.int32), *numbers]))


def _numbered(strings: Any, numbered: Sequence[str]) -> Any:
    """The place of each string among `numbered`, int32; null: it is none of them."""
    return pc.index_in(strings, pa.array(numbered, strings.type))
