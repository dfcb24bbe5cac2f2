"""Worker processes: each job comes back with its own result; what kills one costs its job alone."""

import os
import signal
import time
from functools import partial
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest

from bilstm_attention.experiment.workers import Died, orphaned, run_jobs


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
    return lambda: next(left, None)


def test_every_job_comes_back_with_its_result_from_workers_that_are_kept() -> None:
    done = dict(run_jobs(handing_out([1, 2, 3, 4, 5]), square, 2))
    assert {job: result[0] for job, result in done.items()} == {1: 1, 2: 4, 3: 9, 4: 16, 5: 25}
    processes = {result[1] for result in done.values()}
    assert len(processes) <= 2
    assert os.getpid() not in processes
    assert active_children() == []


def test_no_more_jobs_run_at_once_than_there_are_workers(tmp_path: Path) -> None:
    given = 0

    def another() -> int | None:
        nonlocal given
        given += 1
        assert given <= back + 2, "a job was handed out while both workers had one"
        return given if given <= 6 else None

    back, most = 0, 0.0
    for _, at_once in run_jobs(another, partial(stay, tmp_path), 2):
        assert given >= 2, "the second waited for the first"
        given = min(given, 6)
        back += 1
        most = max(most, at_once)
    assert back == 6
    assert most <= 2


def test_a_worker_that_is_killed_costs_its_own_job_alone() -> None:
    done = dict(run_jobs(handing_out([1, "die", 3, 4]), square, 2))
    died = done.pop("die")
    assert isinstance(died, Died)
    assert died.code == -signal.SIGKILL
    assert died.process not in {os.getpid(), *(result[1] for result in done.values())}
    assert {job: result[0] for job, result in done.items()} == {1: 1, 3: 9, 4: 16}
    assert active_children() == []


def test_a_worker_that_leaves_has_died_with_its_exit_code() -> None:
    [(job, died)] = run_jobs(handing_out(["leave"]), square, 1)
    assert (job, isinstance(died, Died), died.code) == ("leave", True, 3)


def test_what_is_found_to_do_only_after_a_death_is_done() -> None:
    waiting: list[Any] = ["die"]
    done = []
    for job, result in run_jobs(lambda: waiting.pop() if waiting else None, square, 1):
        done.append(job)
        if isinstance(result, Died):
            waiting.append(4)
    assert done == ["die", 4]


def test_a_job_for_a_worker_that_died_while_idle_has_died() -> None:
    """And is not the end of the program."""
    jobs, results = iter([1, 2, 3]), []

    def another() -> int | None:
        time.sleep(0.5 if results else 0)
        return next(jobs, None)

    for job, result in run_jobs(another, end_with_the_next, 1):
        results.append((job, isinstance(result, Died)))
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
    monkeypatch.setattr("bilstm_attention.experiment.workers._start", lambda work: pytest.fail("started"))
    assert list(run_jobs(lambda: None, square, 2)) == []


def test_a_worker_is_no_orphan_while_its_parent_lives() -> None:
    assert list(run_jobs(handing_out([1]), wait_for_the_parent, 1)) == [(1, False)]
    assert not orphaned()


def test_an_orphan_is_known_by_its_new_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert orphaned()
