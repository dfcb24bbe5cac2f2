"""A Dask cluster: reaching its scheduler, and saying in one line what is wrong with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from bilstm_attention.errors import UserError

SECONDS_TO_CONNECT = 20


@contextmanager
def connected(address: str, command: str) -> Iterator[Any]:
    """A client of the scheduler at `address`, which has a worker.

    Args:
        address: as `tcp://HOST:8786`.
        command: starts a worker of the kind that is wanted; told where there is none.

    Raises:
        UserError: Dask is not installed, no scheduler is there, or it has no workers.
    """
    try:
        from distributed import Client
    except ImportError:
        raise UserError("--dask needs the package distributed: pip install 'bilstm-attention[cluster]'.") from None

    try:
        client = Client(address, timeout=SECONDS_TO_CONNECT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UserError(f"--dask {address}: no Dask scheduler answers there ({type(error).__name__}).") from None
    with client:
        try:
            client.wait_for_workers(1, timeout=SECONDS_TO_CONNECT)
        except TimeoutError:
            raise UserError(f"--dask {address}: the scheduler has no workers; start some, `{command}`.") from None
        yield client


def lost(address: str, error: BaseException, advice: str) -> UserError:
    """What to tell of an `error` of the cluster itself; `advice` says what is kept and what to do."""
    if "deserialization" in str(error):
        told = "its scheduler or a worker has another bilstm-attention than this one, or none; install the same there."
    else:
        told = f"the cluster lost what it was given ({type(error).__name__}). {advice}"
    return UserError(f"--dask {address}: {told}")
