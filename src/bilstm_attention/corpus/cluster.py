"""Chunks of a corpus on a Dask cluster: the same functions, on whatever machines it has, results in order."""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import pandas as pd

from bilstm_attention.corpus.index import Chunk
from bilstm_attention.corpus.preparing import encode_chunk, no_rows
from bilstm_attention.errors import DataError, UserError
from bilstm_attention.params import Data

SECONDS_TO_CONNECT = 20
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
    try:
        import dask.dataframe as dd
        from dask.distributed import Client, KilledWorker
    except ImportError:
        raise UserError("--dask needs the package dask: pip install 'bilstm-attention[cluster]'.") from None

    try:
        client = Client(address, timeout=SECONDS_TO_CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UserError(f"--dask {address}: no Dask scheduler answers there ({type(error).__name__}).") from None
    with client:
        _check_workers(client, address)
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
            raise UserError(f"--dask {address}: {_lost(error)}") from None


def _lost(error: BaseException) -> str:
    if "deserialization" in str(error):
        return "its scheduler or a worker has another bilstm-attention than this one, or none; install the same there."
    return (
        f"the cluster lost what it was given ({type(error).__name__}); give it workers that last, or prepare without."
    )


def _check_workers(client: Any, address: str) -> None:
    try:
        client.wait_for_workers(1, timeout=SECONDS_TO_CONNECT)
    except TimeoutError:
        raise UserError(
            f"--dask {address}: the scheduler has no workers; start some, `dask worker {address}`."
        ) from None
