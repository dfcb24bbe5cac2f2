"""Worker processes: each job comes back with its own result; what kills one costs its job alone."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from multiprocessing import active_children
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from bilstm_attention.search import workers
from bilstm_attention.search.workers import WorkerCrashed, orphaned, run_jobs


def square(job: Any) -> Any:
    """Squares a number; other jobs are what they say."""
    if job == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if job == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
        return "went on"
    if job == "leave":
        raise SystemExit(3)
    return job**2, os.getpid()


def stay(folder: Path, job: int) -> float:
    """Leaves a file while it works."""
    mark = folder / str(job)
    mark.touch()
    time.sleep(0.15)
    at_once = len(list(folder.iterdir()))
    mark.unlink()
    return at_once


def end_with_the_next(job: int) -> int:
    """Kills its own worker a moment after the result is out."""
    if os.fork() == 0:
        parent = os.getppid()
        time.sleep(0.1)
        os.kill(parent, signal.SIGKILL)
        os._exit(0)
    return job


def wait_for_the_parent(job: int) -> bool:
    return orphaned()


def handing_out(jobs: list[Any]) -> Any:
    left = iter(jobs)
    return lambda busy: next(left, None)


def test_every_job_comes_back_with_its_result_from_workers_that_are_kept() -> None:
    done = dict(run_jobs(handing_out([1, 2, 3, 4, 5]), square, 2))
    assert {job: result[0] for job, result in done.items()} == {1: 1, 2: 4, 3: 9, 4: 16, 5: 25}
    processes = {result[1] for result in done.values()}
    assert len(processes) <= 2
    assert os.getpid() not in processes
    assert active_children() == []


def test_no_more_jobs_run_at_once_than_there_are_workers(tmp_path: Path) -> None:
    given = 0

    def another(busy: int) -> int | None:
        nonlocal given
        assert busy < 2, "a job was handed out while both workers had one"
        given += 1
        return given if given <= 6 else None

    back, most = 0, 0.0
    for _, at_once in run_jobs(another, partial(stay, tmp_path), 2):
        assert given >= 2, "the second waited for the first"
        back += 1
        most = max(most, at_once)
    assert back == 6
    assert most <= 2


def test_a_worker_has_its_next_job_before_the_result_of_the_last_is_looked_at() -> None:
    """So that it works while the parent records that."""
    given: list[tuple[int, int]] = []

    def another(busy: int) -> int | None:
        given.append((len(given), busy))
        return len(given) if len(given) <= 3 else None

    results = run_jobs(another, square, 1)
    job, _ = next(results)
    assert (job, given) == (1, [(0, 0), (1, 0)])
    assert [job for job, _ in results] == [2, 3]


def test_who_hands_out_jobs_is_told_how_many_are_busy() -> None:
    told: list[int] = []

    def another(busy: int) -> int | None:
        told.append(busy)
        return len(told) if len(told) <= 3 else None

    assert sorted(job for job, _ in run_jobs(another, square, 3)) == [1, 2, 3]
    # three workers begin; then each that is free asks, and none is left at last
    assert told[:3] == [0, 1, 2]
    assert (set(told[3:]) <= {0, 1, 2}, told[-1]) == (True, 0)


def test_a_worker_that_is_killed_costs_its_own_job_alone() -> None:
    done = dict(run_jobs(handing_out([1, "die", 3, 4]), square, 2))
    died = done.pop("die")
    assert isinstance(died, WorkerCrashed)
    assert died.code == -signal.SIGKILL
    assert died.process not in {os.getpid(), *(result[1] for result in done.values())}
    assert {job: result[0] for job, result in done.items()} == {1: 1, 3: 9, 4: 16}
    assert active_children() == []


def test_a_worker_that_leaves_has_died_with_its_exit_code() -> None:
    [(job, died)] = run_jobs(handing_out(["leave"]), square, 1)
    assert (job, isinstance(died, WorkerCrashed), died.code) == ("leave", True, 3)


def test_what_is_found_to_do_only_after_a_death_is_done() -> None:
    waiting: list[Any] = ["die"]
    done = []
    for job, result in run_jobs(lambda busy: waiting.pop() if waiting else None, square, 1):
        done.append(job)
        if isinstance(result, WorkerCrashed):
            waiting.append(4)
    assert done == ["die", 4]


def test_a_job_for_a_worker_that_died_while_idle_has_died() -> None:
    """And is not the end of the program."""
    jobs, results, begun = iter([1, 2, 3]), [], list[bool]()

    def another(busy: int) -> int | None:
        # it is asked again as soon as the first result is in
        time.sleep(0 if busy or not begun else 0.5)
        begun.append(True)
        return next(jobs, None)

    for job, result in run_jobs(another, end_with_the_next, 1):
        results.append((job, isinstance(result, WorkerCrashed)))
    assert results == [(1, False), (2, True), (3, False)]


def test_ctrl_c_is_passed_over() -> None:
    assert list(run_jobs(handing_out(["interrupt"]), square, 1)) == [("interrupt", "went on")]


def test_workers_end_when_nobody_asks_for_more_results() -> None:
    jobs = run_jobs(handing_out([1, 2, 3]), square, 2)
    next(jobs)
    assert active_children()
    jobs.close()  # type: ignore[attr-defined]
    assert active_children() == []


def test_without_jobs_no_worker_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bilstm_attention.search.workers._start", lambda work: pytest.fail("started"))
    assert list(run_jobs(lambda busy: None, square, 2)) == []


def test_a_worker_is_no_orphan_while_its_parent_lives() -> None:
    assert list(run_jobs(handing_out([1]), wait_for_the_parent, 1)) == [(1, False)]


def test_an_orphan_is_a_worker_with_a_new_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_parent", 1234)
    for parent, orphan in ((1234, False), (1, True)):
        monkeypatch.setattr(os, "getppid", lambda parent=parent: parent)
        assert orphaned() == orphan


def test_a_worker_whose_parent_was_killed_ends_in_silence(tmp_path: Path) -> None:
    program = """
import os, signal, sys, time
from bilstm_attention.search.workers import run_jobs

def kill_the_parent(job):
    if job == 2:
        os.kill(os.getppid(), signal.SIGKILL)
    return job

if __name__ == "__main__":
    jobs = iter([1, 2])
    for done in run_jobs(lambda busy: next(jobs, None), kill_the_parent, 1):
        # job 2 is with the worker, and its result will not be read
        time.sleep(60)
"""
    (tmp_path / "program.py").write_text(program)
    done = subprocess.run([sys.executable, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (-signal.SIGKILL, "")


@pytest.mark.parametrize("how", [EOFError(), ConnectionResetError()])
def test_a_worker_ends_with_the_connection_however_that_ended(how: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = Mock(recv=Mock(side_effect=how))
    monkeypatch.setattr(workers, "_parent", None)
    monkeypatch.setattr(signal, "signal", Mock())
    workers._serve(connection, square)
    connection.send.assert_not_called()


def test_what_is_no_worker_is_no_orphan_whoever_started_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task on a cluster, say."""
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert not orphaned()
