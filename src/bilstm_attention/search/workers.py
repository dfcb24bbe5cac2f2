"""Runs jobs in worker processes; a process that dies costs its own job alone."""

import os
import signal
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Any, TypeVar

from bilstm_attention.console import THREADS
from bilstm_attention.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class WorkerCrashed:
    """The result of a job whose process died.

    Args:
        process: its id.
        exit_code: below 0, the number of the signal that killed it; None: unknown.
    """

    process: int
    exit_code: int | None

    def __str__(self) -> str:
        if self.exit_code is not None and self.exit_code < 0:
            return f"its worker was killed by {signal.Signals(-self.exit_code).name}"
        return f"its worker ended with exit code {self.exit_code}"


class _Worker:
    """An executor of a single process: when that dies, the executors of the others stay whole."""

    def __init__(self) -> None:
        # spawned, since TensorFlow does not survive a fork
        self.executor = ProcessPoolExecutor(1, get_context("spawn"), initializer=_prepare_worker)
        self.process: BaseProcess | None = None

    def submit(self, work: Callable[[Any], Result], job: Any) -> "Future[Result | UserError]":
        before = set(active_children())
        future = self.executor.submit(_run, work, job)
        # the executor starts its process at the first job, and does not tell which it is
        for process in set(active_children()) - before:
            self.process = process
        return future

    def crash(self) -> WorkerCrashed:
        assert self.process is not None
        self.process.join()
        self.executor.shutdown()
        return WorkerCrashed(self.process.pid or 0, self.process.exitcode)


def run_jobs(
    next_job: Callable[[], Job | None], work: Callable[[Job], Result], workers: int
) -> Iterator[tuple[Job, Result | UserError | WorkerCrashed]]:
    """Yields each job with its result as it ends; ends when nothing runs and there is no next job.

    Workers ignore Ctrl-C, which the parent answers, and end when the parent does. Closing the iterator, or an exception
    in the parent, ends the jobs that run.

    Args:
        next_job: called whenever a worker is free; None: there is no job now.
        work: called with a job in a worker. Both are pickled. A `UserError` that it raises is the job's result. A
            result has at most 16 kB pickled, which a pipe takes at once: half of one, of a worker that was killed while
            it wrote, would be waited for without end.
        workers: processes at once.

    Raises:
        RuntimeError: `work` raised anything but a `UserError`; the worker prints the traceback.
    """
    idle: list[_Worker] = []
    busy: dict[Future[Result | UserError], tuple[Job, _Worker]] = {}
    try:
        while True:
            while len(busy) < workers and (job := next_job()) is not None:
                worker = idle.pop() if idle else _Worker()
                try:
                    future = worker.submit(work, job)
                except BrokenProcessPool:
                    # it died idle
                    worker = _Worker()
                    future = worker.submit(work, job)
                busy[future] = (job, worker)
            if not busy:
                return
            for future in wait(busy, return_when=FIRST_COMPLETED).done:
                job, worker = busy.pop(future)
                error = future.exception()
                if isinstance(error, BrokenProcessPool):
                    yield job, worker.crash()
                    continue
                idle.append(worker)
                if error is not None:
                    raise error
                yield job, future.result()
    finally:
        for _, worker in busy.values():
            if worker.process is not None:
                worker.process.terminate()
        for worker in (*idle, *(worker for _, worker in busy.values())):
            worker.executor.shutdown(cancel_futures=True)


def _run(work: Callable[[Any], Result], job: Any) -> Result | UserError:
    try:
        return work(job)
    except UserError as error:
        return error.with_traceback(None)
    except Exception as error:
        # a traceback may be longer than a result may be
        traceback.print_exc()
        raise RuntimeError(f"{type(error).__name__}: {str(error)[:200]}; its traceback is above") from None


def _prepare_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # a second worker does more than a second thread
    os.environ.setdefault(THREADS, "1")
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # a killed parent cannot end its workers
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
