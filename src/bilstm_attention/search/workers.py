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
class WorkerCrashed:
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


def run_jobs(another: Callable[[int], Any], work: Work, workers: int) -> Iterator[tuple[Any, Any]]:
    """Does jobs in worker processes, and yields each with its result, or with `WorkerCrashed`, as it is done.

    A worker has its next job before the result of the last is looked at.

    Workers pass over Ctrl-C, which is for the parent to answer, and end with it.

    Args:
        another: asked for a job whenever a worker is free, with how many are busy; None: there is none now. All end
            when none is left running.
        work: done in the worker; what it raises is a fault of the program and ends the worker.
        workers: processes at once.
    """
    busy: list[_Worker] = []
    idle: list[_Worker] = []
    done: list[tuple[Any, Any]] = []
    try:
        while True:
            while len(busy) < workers and (job := another(len(busy))) is not None:
                worker = idle.pop() if idle else _start(work)
                worker.job = job
                # one that ended meanwhile is noticed below
                with suppress(ConnectionError):
                    worker.connection.send(job)
                busy.append(worker)
            if done:
                yield from done
                done.clear()
                # what was done may leave something else to do
                continue
            if not busy:
                return
            ready = wait([worker.connection for worker in busy])
            for worker in [worker for worker in busy if worker.connection in ready]:
                busy.remove(worker)
                try:
                    done.append((worker.job, worker.connection.recv()))
                    idle.append(worker)
                except (EOFError, ConnectionResetError):
                    worker.process.join()
                    done.append((worker.job, WorkerCrashed(worker.process.pid or 0, worker.process.exitcode)))
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
    global _parent
    # a core does more with a training of its own than as the second thread of another
    os.environ["BILSTM_ATTENTION_THREADS"] = "1"
    _parent = os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    while True:
        try:
            job = connection.recv()
        # a parent that was killed may leave results unread, and the connection is then reset
        except (EOFError, ConnectionResetError):
            return
        result = work(job)
        # of a parent that has gone the next look tells
        with suppress(ConnectionError):
            connection.send(result)


_parent: int | None = None


def orphaned() -> bool:
    """Whether this is such a worker, and the process that started it has ended."""
    return _parent is not None and os.getppid() != _parent


def end_orphan() -> None:
    """Ends this worker if nobody waits for what it does; whoever starts the work again finds it missing."""
    if orphaned():
        os._exit(1)
