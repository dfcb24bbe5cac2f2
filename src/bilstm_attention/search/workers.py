"""Runs jobs in worker processes; a process that dies costs its own job alone."""

import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from threading import Thread
from typing import Any, TypeVar

from bilstm_attention.console import THREADS
from bilstm_attention.errors import TrainingError, UserError

Job = TypeVar("Job")
Result = TypeVar("Result")
# What a worker calls to tell the parent of its job while it works, and to have an answer.
Report = Callable[[Any], Any]


def run_jobs(
    next_job: Callable[[], Job | None],
    work: Callable[[Job, Report], Result],
    workers: int,
    answer: Callable[[Job, Any], Any] = lambda job, message: None,
) -> Iterator[tuple[Job, Result | UserError]]:
    """Yields each job as it ends with its result, or the error that ended it; ends when nothing runs or is next.

    Workers ignore Ctrl-C, which the parent answers, and end when the parent does. Closing the iterator, or an exception
    in the parent, ends the jobs that run.

    Args:
        next_job: called whenever a worker is free; None: there is no job now.
        work: called in a worker with a job and a function that sends a message to the parent and returns the answer;
            all that is sent is pickled. A `UserError` that it raises, or the death of its process, ends its job alone.
        workers: processes at once.
        answer: called with the job and each message of its worker.

    Raises:
        Exception: what `work` raised, unless it is a `UserError`.
    """
    # Each process has a pipe of its own: when it dies, the others go on. With `concurrent.futures`, whose workers share
    # one, the parent waits without end for the other half of what a worker was sending when it was killed.
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
                job, process = busy[connection]
                try:
                    ended, message = connection.recv()
                except (EOFError, OSError):
                    del busy[connection]
                    connection.close()
                    process.join()
                    yield job, _crash(process.exitcode or 0)
                    continue
                if not ended:
                    reply = answer(job, message)
                    with suppress(ConnectionError):
                        connection.send(reply)
                    continue
                idle[connection] = busy.pop(connection)[1]
                if isinstance(message, Exception) and not isinstance(message, UserError):
                    raise message
                yield job, message
    finally:
        for _, process in busy.values():
            process.terminate()
        for connection in idle:
            connection.close()
        for process in (*idle.values(), *(process for _, process in busy.values())):
            process.join()


def _crash(exit_code: int) -> TrainingError:
    # below 0 it is the number of a signal
    end = f"was killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"ended with exit code {exit_code}"
    hint = "run the same command to resume, with fewer --workers if memory was short."
    return TrainingError(f"its worker {end}; {hint}")


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

    def report(message: Any) -> Any:
        connection.send((False, message))
        return connection.recv()

    with suppress(EOFError):
        while True:
            work, job = connection.recv()
            try:
                result = work(job, report)
            except Exception as error:
                # pickled, an error loses its traceback
                error.add_note(traceback.format_exc())
                result = error
            connection.send((True, result))


def _end_with_parent() -> None:
    # a killed parent cannot end its workers
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
