"""Worker processes: what kills one costs its job alone, and none outlives the parent."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from multiprocessing import active_children
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from bilstm_attention.errors import SweepError, TrainingError
from bilstm_attention.search.workers import Report, run_jobs

KILLED = "its worker was killed by SIGKILL; run the same command to resume, with fewer --workers if memory was short."


class LastWords:
    """Is pickled after what stands before it in a result, and kills the worker while it sends all that."""

    def __reduce__(self) -> Any:
        Thread(target=lambda: (time.sleep(0.005), os.kill(os.getpid(), signal.SIGKILL))).start()
        return int, ()


def work(job: Any, report: Report) -> Any:
    """Squares a number; a word is done to the worker."""
    match job:
        case "ask":
            return report(3) + report(4)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "exit":
            os._exit(3)
        case "half":
            return bytes(200_000_000), LastWords()
        case "interrupt":
            os.kill(os.getpid(), signal.SIGINT)
            return "survived"
        case "user error":
            raise SweepError("the database does not answer")
        case "fault":
            raise ZeroDivisionError("a fault of the program" + 100_000 * "!")
        case "kill later":
            # the worker dies idle, a moment after its result
            if os.fork() == 0:
                worker = os.getppid()
                time.sleep(0.2)
                os.kill(worker, signal.SIGKILL)
                os._exit(0)
            return job
    return job**2


def sleep_and_return_process(seconds: float, report: Report) -> int:
    time.sleep(seconds)
    return os.getpid()


def from_list(jobs: list[Any]) -> Callable[[], Any]:
    remaining = iter(jobs)
    return lambda: next(remaining, None)


def shown(results: Iterable[tuple[Any, Any]]) -> list[tuple[Any, str]]:
    return [(job, str(result)) for job, result in results]


def test_as_many_processes_as_workers_and_no_more() -> None:
    processes = [process for _, process in run_jobs(from_list([0.3] * 6), sleep_and_return_process, 2)]
    assert len(processes) == 6
    assert len(set(processes)) == 2
    assert active_children() == []


def test_dead_worker_costs_its_own_job_alone() -> None:
    results = dict(run_jobs(from_list([2, "kill", 3, "exit", 4, 5]), work, 2))
    killed, ended = results.pop("kill"), results.pop("exit")
    assert results == {2: 4, 3: 9, 4: 16, 5: 25}
    assert isinstance(killed, TrainingError)
    assert str(killed) == KILLED
    assert str(ended).startswith("its worker ended with exit code 3; run the same command to resume")


def test_worker_is_answered_and_killed_meanwhile_costs_its_job() -> None:
    assert list(run_jobs(from_list(["ask"]), work, 1, lambda job, message: 2 * message)) == [("ask", 14)]
    results = list(run_jobs(from_list(["ask", 3]), work, 1, lambda job, message: active_children()[0].kill()))
    assert shown(results) == [("ask", KILLED), (3, "9")]


def test_worker_killed_while_it_answers_costs_its_job_alone() -> None:
    assert shown(run_jobs(from_list(["half", 3]), work, 1)) == [("half", KILLED), (3, "9")]


def test_executor_of_python_waits_for_the_other_half(tmp_path: Path) -> None:
    """The reason for a pool of our own: its parent has the sending end of the pipe open too."""
    program = (
        "from concurrent.futures import ProcessPoolExecutor, wait\n"
        "from multiprocessing import get_context\n"
        "from tests.unit.search.test_workers import *\n"
        "if __name__ == '__main__':\n"
        "    future = ProcessPoolExecutor(1, get_context('spawn')).submit(work, 'half', None)\n"
        "    while active_children():\n"
        "        time.sleep(0.1)\n"
        "    print(len(wait([future], timeout=3).done), flush=True)\n"
        "    os._exit(0)\n"
    )
    assert run_program(program, tmp_path).communicate()[0] == "0\n"


def run_program(program: str, folder: Path) -> subprocess.Popen[str]:
    (folder / "parent.py").write_text(program, encoding="utf-8")
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root / 'src'}"}
    command = [sys.executable, folder / "parent.py"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)


def test_worker_that_died_idle_costs_one_job() -> None:
    results = []
    for _, result in run_jobs(from_list(["kill later", 3, 4]), work, 1):
        results.append(result)
        time.sleep(1)
    assert list(map(str, results)) == ["kill later", KILLED, "16"]


def test_user_error_is_a_result_and_any_other_is_raised() -> None:
    ((_, error),) = run_jobs(from_list(["user error"]), work, 1)
    assert isinstance(error, SweepError)
    with pytest.raises(ZeroDivisionError, match="fault of the program") as raised:
        list(run_jobs(from_list(["fault"]), work, 1))
    assert "in work" in raised.value.__notes__[0]
    assert active_children() == []


def test_next_job_is_called_again_after_a_result() -> None:
    jobs = [1]
    for job, _ in run_jobs(lambda: jobs.pop() if jobs else None, work, 2):
        if job == 1:
            jobs.append(2)
    assert not jobs


def test_workers_ignore_ctrl_c() -> None:
    assert dict(run_jobs(from_list(["interrupt"]), work, 1)) == {"interrupt": "survived"}


def test_closing_the_iterator_ends_running_jobs() -> None:
    results = run_jobs(from_list([0.1, 600]), sleep_and_return_process, 2)
    next(results)
    results.close()  # type: ignore[attr-defined]
    assert active_children() == []


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    program = (
        "from tests.unit.search.test_workers import *\n"
        "if __name__ == '__main__':\n"
        "    for _, process in run_jobs(from_list([0.1, 0.1, 600, 600]), sleep_and_return_process, 2):\n"
        "        print(process, flush=True)\n"
    )
    with run_program(program, tmp_path) as parent:
        assert parent.stdout is not None
        assert int(parent.stdout.readline()) != int(parent.stdout.readline())
        parent.kill()
        # the pipe is closed when its last writer, a worker, has ended
        assert parent.stdout.read() == ""
