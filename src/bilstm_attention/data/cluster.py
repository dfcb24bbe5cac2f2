"""Chunks of a corpus on a Dask cluster: the same functions, on whatever machines it has, results in order."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pandas as pd

from bilstm_attention.config import Data
from bilstm_attention.data.index import Chunk
from bilstm_attention.data.preparing import encode_chunk, no_rows
from bilstm_attention.errors import DataError
from bilstm_attention.search.dask import connected, lost

AHEAD = 2  # chunks for each thread: one at work, one waiting


def encode_on_cluster(address: str, chunks: Sequence[Chunk], data: Data) -> Iterator[pd.DataFrame]:
    """`preparing.encode_chunk` of every chunk, in their order; what is done and not yet asked for is bounded.

    Args:
        address: of the scheduler; its workers see the corpus under the same path as this process.

    Raises:
        DataError: a worker does not see the corpus, or another one.
        UserError: Dask is not installed, no scheduler is there, it has no workers or lost them, or these do not have
            this package.
    """
    with connected(address, f"dask worker {address}") as client:
        import dask.dataframe as dd
        from dask.distributed import KilledWorker

        frame = dd.from_map(encode_chunk, chunks, data=data, root=Path.cwd(), meta=no_rows(data))
        waiting = deque[Any]()
        try:
            for part in frame.to_delayed():
                waiting.append(client.compute(part))
                if len(waiting) >= AHEAD * sum(client.nthreads().values()):
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except FileNotFoundError as error:
            raise DataError(
                f"--dask {address}: a worker does not see {error.filename}; put the project where all machines see it"
                " under the same path."
            ) from None
        except (KilledWorker, CancelledError, OSError, RuntimeError) as error:
            raise lost(address, error, "Give it workers that last, or prepare without.") from None
