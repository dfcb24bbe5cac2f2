"""Runs jobs in worker processes; a process that dies costs its own job alone."""

import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import TypeVar

from bilstm_attention.console import THREADS
from bilstm_attention.errors import UserError

Job = TypeVar("Job")
Result = TypeVar("Result")


@dataclass(frozen=True)
class WorkerCrashed:
    """The result of a job whose process died; an exit code below 0 is the number of the signal that killed it."""

    exit_code: int

    def __str__(self) -> str:
        if self.exit_code < 0:
            return f"its worker was killed by {signal.Signals(-self.exit_code).name}"
        return f"its worker ended with exit code {self.exit_code}"


def run_jobs(
    next_job: Callable[[], Job | None], work: Callable[[Job], Result], workers: int
) -> Iterator[tuple[Job, Result | UserError | WorkerCrashed]]:
    """Yields each job with its result as it ends; ends when nothing runs and there is no next job.

    Workers ignore Ctrl-C, which the parent answers, and end when the parent does. Closing the iterator, or an exception
    in the parent, ends the jobs that run.

    Args:
        next_job: called whenever a worker is free; None: there is no job now.
        work: called with a job in a worker; both are pickled. A `UserError` that it raises is the job's result.
        workers: processes at once.

    Raises:
        Exception: what `work` raised, unless it is a `UserError`.
    """
    # each process has a pipe of its own: when it dies, the others go on
    idle: dict[Connection, BaseProcess] = {}
    busy: dict[Connection, tuple[Job, BaseProcess]] = {}
    try:
        while True:
            while len(busy) < workers and (job := next_job()) is not None:
                connection, process = idle.popitem() if idle else _start_worker()
                busy[connection] = (job, process)
                # one that died idle is noticed below
                with suppress(ConnectionError):
                    connection.send((work, job))
            if not busy:
                return
            ready = wait(list(busy))
            for connection in [each for each in busy if each in ready]:
                job, process = busy.pop(connection)
                try:
                    result = connection.recv()
                except (EOFError, OSError):
                    connection.close()
                    process.join()
                    yield job, WorkerCrashed(process.exitcode or 0)
                    continue
                idle[connection] = process
                if isinstance(result, Exception) and not isinstance(result, UserError):
                    raise result
                yield job, result
    finally:
        for _, process in busy.values():
            process.terminate()
        for connection in idle:
            connection.close()
        for process in (*idle.values(), *(process for _, process in busy.values())):
            process.join()


def _start_worker() -> tuple[Connection, BaseProcess]:
    # spawned, since TensorFlow does not survive a fork
    context = get_context("spawn")
    connection, end = context.Pipe()
    process = context.Process(target=_serve, args=(end,))
    process.start()
    # else the pipe would stay open when the worker dies
    end.close()
    return connection, process


def _serve(connection: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # a second worker does more than a second thread
    os.environ.setdefault(THREADS, "1")
    Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError):
        while True:
            work, job = connection.recv()
            try:
                result = work(job)
            except Exception as error:
                # pickled, an error loses its traceback
                error.add_note(traceback.format_exc())
                result = error
            connection.send(result)


def _end_with_parent() -> None:
    # a killed parent cannot end its workers
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
