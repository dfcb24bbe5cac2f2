"""A cluster that cannot do the work says why; what one does with work, `tests/pipeline/test_distributed_sweep.py`."""

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest
from tests.servers import DaskCluster

from bilstm_attention.errors import SweepError
from bilstm_attention.experiment.cluster import _check_threads, _lost, run_on_cluster


def client(threads: dict[str, int]) -> Any:
    def wait_for_workers(count: int, timeout: float) -> None:
        if len(threads) < count:
            raise TimeoutError("no worker came")

    return SimpleNamespace(wait_for_workers=wait_for_workers, nthreads=lambda: threads)


def test_a_scheduler_without_workers_is_told() -> None:
    with pytest.raises(SweepError, match=r"--dask tcp://a:1: the scheduler has no workers; .* `dask worker tcp://a:1 "):
        _check_threads(client({}), "tcp://a:1")


def test_workers_of_several_threads_are_refused_and_those_of_one_are_not() -> None:
    with pytest.raises(SweepError, match="--dask tcp://a:1: two run several tasks at once"):
        _check_threads(client({"one": 1, "two": 2}), "tcp://a:1")
    _check_threads(client({"one": 1, "other": 1}), "tcp://a:1")


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
    with pytest.raises(SweepError, match=f"--dask {dask.address}: the cluster lost .*; once it has workers again, the"):
        next(run_on_cluster(lambda busy: "job", rest, workers=2, address=dask.address, task=task))


def test_workers_without_this_package_are_told() -> None:
    assert "install the same there" in _lost(RuntimeError("Error during deserialization of the task graph"))
