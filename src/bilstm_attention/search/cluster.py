"""Workers on a Dask cluster: jobs as tasks of a scheduler, on whatever machines it has."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from functools import partial
from typing import TYPE_CHECKING, Any

from bilstm_attention.errors import UserError
from bilstm_attention.search.dask import connected, lost
from bilstm_attention.search.workers import WorkerCrashed

if TYPE_CHECKING:
    from bilstm_attention.data.dataset import Dataset


def dask_executor(address: str, workers: int | None, task: "Dataset") -> Any:
    """The workers of a Dask scheduler, as `sweep.search` wants them; the arguments are those of `run_on_cluster`."""
    return partial(run_on_cluster, workers=workers, address=address, task=task)


def run_on_cluster(
    another: Callable[[int], Any],
    work: Callable[[Any, Any], Any],
    *,
    workers: int | None,
    address: str,
    task: "Dataset",
) -> Iterator[tuple[Any, Any]]:
    """Does jobs on a cluster, and yields each with its result, or with `WorkerCrashed`, as it is done.

    A task whose worker died is begun anew on another, by the scheduler, or from here where the data died with it; the
    trial that it left is noticed by its heartbeat.

    Args:
        another: asked for a job whenever a worker is free, with how many are busy; None: there is none now.
        work: called on the cluster with a job and the task.
        workers: jobs at once; None: as many as the cluster has workers, which may come and go.
        address: of the scheduler.
        task: data and vectors, sent to each worker once.

    Raises:
        UserError: no scheduler there, or workers of several threads, on which trainings would share TensorFlow's; the
            cluster was lost, or does not have this package.
    """
    with connected(address, f"dask worker {address} --nthreads 1") as client:
        from distributed import KilledWorker, as_completed

        _check_threads(client.nthreads(), address)
        arrays = client.scatter(task, broadcast=True)
        busy, jobs = as_completed(loop=client.loop), dict[Any, Any]()

        def submit(job: Any) -> None:
            future = client.submit(work, job, arrays, pure=False)
            jobs[future.key] = job
            busy.add(future)

        def fill() -> None:
            while len(jobs) < (workers or _count(client)) and (job := another(len(jobs))) is not None:
                submit(job)

        fill()
        for future in busy:
            job = jobs.pop(future.key)
            try:
                if future.cancelled() and _count(client):
                    # Dask keeps data on one worker alone, however many they were sent to, and it has died
                    arrays = client.scatter(task, broadcast=True)
                    submit(job)
                    continue
                result = future.result()
            except KilledWorker:
                result = WorkerCrashed(0, None)
            except (CancelledError, OSError, RuntimeError) as error:
                kept = "Trials that have ended are kept; once it has workers again, the same command goes on."
                raise lost(address, error, kept) from None
            fill()
            yield job, result
            fill()


def _count(client: Any) -> int:
    return len(client.scheduler_info(n_workers=-1)["workers"])


def _check_threads(threads: Mapping[str, int], address: str) -> None:
    threaded = [worker for worker, count in threads.items() if count > 1]
    if threaded:
        raise UserError(
            f"--dask {address}: {', '.join(threaded[:3])} run several tasks at once; start workers of one thread each:"
            " `dask worker --nthreads 1`, and as many as there are cores."
        )
