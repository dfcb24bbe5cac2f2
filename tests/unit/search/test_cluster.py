"""A cluster that cannot do the work says why; what one does with work, `tests/pipeline/test_distributed_sweep.py`."""

import os
import signal
import threading
import time
from typing import Any

import pytest
from distributed import Client
from tests.servers import DaskCluster, dask_cluster

from bilstm_attention.errors import UserError
from bilstm_attention.search import dask as cluster
from bilstm_attention.search.cluster import _check_threads, run_on_cluster


def test_a_scheduler_without_workers_is_told_how_to_start_one_of_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "SECONDS_TO_CONNECT", 1)
    task: Any = []
    with dask_cluster(workers=1) as dying:
        dying.workers[0].kill()
        dying.workers[0].wait()
        told = f"--dask {dying.address}: the scheduler has no workers; .* `dask worker {dying.address} --nthreads 1`"
        with pytest.raises(UserError, match=told):
            next(run_on_cluster(lambda busy: "job", rest, workers=1, address=dying.address, task=task))


def test_workers_of_several_threads_are_refused_and_those_of_one_are_not() -> None:
    with pytest.raises(UserError, match="--dask tcp://a:1: two run several tasks at once"):
        _check_threads({"one": 1, "two": 2}, "tcp://a:1")
    _check_threads({"one": 1, "other": 1}, "tcp://a:1")


def rest(job: Any, task: Any) -> Any:
    """A job that takes long."""
    time.sleep(60)
    return job


def test_a_cluster_that_loses_all_its_workers_ends_the_sweep_and_says_how_to_go_on(dask: DaskCluster) -> None:
    def kill() -> None:
        for worker in dask.workers:
            worker.kill()

    threading.Timer(2, kill).start()
    task: Any = list(range(100))
    with pytest.raises(UserError, match=f"--dask {dask.address}: the cluster lost .*; once it has workers again, the"):
        next(run_on_cluster(lambda busy: "job", rest, workers=2, address=dask.address, task=task))


def work_on(job: Any, task: Any) -> Any:
    """A job that takes longer than Dask needs to drop spare copies of the data."""
    time.sleep(8)
    return job, len(task)


def test_a_job_whose_data_died_with_a_worker_is_begun_anew_on_another(dask: DaskCluster) -> None:
    task: Any = list(range(100))
    killed: list[int] = []

    def kill_the_only_holder() -> None:
        end = time.monotonic() + 60
        with Client(dask.address) as client:
            processes = client.run(os.getpid)
            while not killed and time.monotonic() < end:
                time.sleep(0.1)
                holders = {worker for workers in client.who_has().values() for worker in workers}
                if len(holders) == 1 and any(client.processing().values()):
                    killed.append(processes[holders.pop()])
                    os.kill(killed[0], signal.SIGKILL)

    killing = threading.Thread(target=kill_the_only_holder)
    killing.start()
    jobs = iter(["job"])
    done = list(run_on_cluster(lambda busy: next(jobs, None), work_on, workers=1, address=dask.address, task=task))
    killing.join()
    assert killed
    assert done == [("job", ("job", 100))]
