"""Worker processes: a job each at a time; one that dies costs its own job alone."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

Work = Callable[[Any], Any]


@dataclass(frozen=True)
class Died:
    """A worker ended before its job did.

    Args:
        process: its id.
        code: its exit code; below 0, the signal that killed it.
    """

    process: int
    code: int | None


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    job: Any = None


def run_jobs(another: Callable[[], Any], work: Work, workers: int) -> Iterator[tuple[Any, Any]]:
    """Does jobs in worker processes, and yields each with its result, or with `Died`, as it is done.

    Workers pass over Ctrl-C, which is for the parent to answer, and end with it.

    Args:
        another: asked for a job whenever a worker is free; None: there is none now. All end when none is left running.
        work: done in the worker; what it raises is a fault of the program and ends the worker.
        workers: processes at once.
    """
    busy: list[_Worker] = []
    idle: list[_Worker] = []
    try:
        while True:
            while len(busy) < workers and (job := another()) is not None:
                worker = idle.pop() if idle else _start(work)
                worker.job = job
                # one that ended meanwhile is noticed below
                with suppress(ConnectionError):
                    worker.connection.send(job)
                busy.append(worker)
            if not busy:
                return
            ready = wait([worker.connection for worker in busy])
            for worker in [worker for worker in busy if worker.connection in ready]:
                busy.remove(worker)
                try:
                    result = worker.connection.recv()
                    idle.append(worker)
                except (EOFError, ConnectionResetError):
                    worker.process.join()
                    result = Died(worker.process.pid or 0, worker.process.exitcode)
                yield worker.job, result
    finally:
        for worker in (*busy, *idle):
            worker.connection.close()
        for worker in busy:
            worker.process.terminate()
        for worker in (*busy, *idle):
            worker.process.join()


def _start(work: Work) -> _Worker:
    # spawned, since TensorFlow does not survive a fork
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_serve, args=(there, work), daemon=True)
    process.start()
    # or the end of the process would not be seen
    there.close()
    return _Worker(process, here)


def _serve(connection: Connection, work: Work) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        connection.send(work(job))


_PARENT = os.getppid()


def orphaned() -> bool:
    """Whether the process that started this one has ended."""
    return os.getppid() != _PARENT
