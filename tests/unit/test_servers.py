"""The servers for tests are real; and what distributed sweeps expect of Optuna on PostgreSQL, and of Dask, holds."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import optuna
import psutil
import psycopg
import pytest
from distributed import Client
from optuna.trial import TrialState
from tests.servers import SECONDS, DaskCluster, PostgresServer, ended_with_us, postgres_server

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
ROOT = Path(__file__).parents[2]
GRACE = 3
OPEN = f"""
import os, sys, time, optuna
optuna.logging.set_verbosity(optuna.logging.ERROR)
say = lambda *words: print(*words, flush=True)
tell = lambda study, trial: say("called back", trial.number)
storage = optuna.storages.RDBStorage(
    os.environ["STORAGE"], heartbeat_interval=1, grace_period={GRACE}, heartbeat_stale_trial_callback=tell
)
study = optuna.load_study(study_name="study", storage=storage)
say("ready")
"""
TRAIN = "study.optimize(lambda trial: say('begun') or time.sleep(600), n_trials=1)"
CHECK = "sys.stdin.readline(); optuna.storages.fail_stale_trials(study)"
ASK = "sys.stdin.readline(); [say(trial.number) for trial in (study.ask() for _ in range(15))]"


def new_study(url: str) -> optuna.Study:
    storage = optuna.storages.RDBStorage(url, heartbeat_interval=1, grace_period=GRACE)
    return optuna.create_study(study_name="study", storage=storage)


def reopened(url: str) -> optuna.Study:
    return optuna.load_study(study_name="study", storage=optuna.storages.RDBStorage(url))


@contextmanager
def running(program: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    command = ended_with_us("KILL", [sys.executable, "-W", "ignore", "-c", program])
    with subprocess.Popen(
        command, cwd=ROOT, env=os.environ | environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def two_ready(act: str, url: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Two processes that have opened the study and do `act` at the next line."""
    with running(OPEN + act, STORAGE=url) as first, running(OPEN + act, STORAGE=url) as second:
        for process in (first, second):
            assert heard(process) == "ready"
        yield [first, second]


def heard(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def wait_until(happened: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not happened():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def said_at_once(processes: list[subprocess.Popen[str]], url: str) -> list[str]:
    """What processes say that all reach for the first trial before one of them gets it."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with psycopg.connect(url, autocommit=True) as watch:
        with psycopg.connect(url) as holder:
            holder.execute("SELECT * FROM trials WHERE number = 0 FOR UPDATE")
            for process in processes:
                assert process.stdin is not None
                process.stdin.write("go\n")
                process.stdin.flush()
            wait_until(lambda: watch.execute(waiting).fetchone() == (len(processes),))
        return [line for process in processes for line in process.communicate(timeout=SECONDS)[0].splitlines()]


@pytest.mark.slow
def test_a_trial_whose_process_was_killed_fails_after_the_grace_period_with_one_callback(database: str) -> None:
    study = new_study(database)
    with running(OPEN + TRAIN, STORAGE=database) as trainer:
        assert [heard(trainer), heard(trainer)] == ["ready", "begun"]
        begun = time.monotonic()
        with two_ready(CHECK, database) as checkers:
            time.sleep(max(0, begun + GRACE + 1 - time.monotonic()))
            optuna.storages.fail_stale_trials(study)
            assert study.trials[0].state == TrialState.RUNNING, "its process lives"
            trainer.kill()
            killed = time.monotonic()
            wait_until(lambda: study._storage._get_stale_trial_ids(study._study_id))
            assert time.monotonic() - killed > GRACE - 1.5, "counted from a heartbeat, one second or so before"
            assert study.trials[0].state == TrialState.RUNNING
            assert said_at_once(checkers, database) == ["called back 0"]
    assert study.trials[0].state == TrialState.FAIL


def test_processes_that_ask_at_once_never_get_the_same_trial(database: str) -> None:
    study = new_study(database)
    for number in range(20):
        study.enqueue_trial({"number": number})
    with two_ready(ASK, database) as processes:
        numbers = [int(line) for line in said_at_once(processes, database)]
    # those that waited, each once, then new ones
    assert sorted(numbers) == list(range(30))


def test_a_large_user_attribute_is_kept_whole(database: str) -> None:
    content = {"history": [{"epoch": epoch, "dev_official_f1": epoch / 7, "word": "naïve ☃"} for epoch in range(2000)]}
    assert len(json.dumps(content)) > 100_000
    new_study(database)
    reopened(database).ask().set_user_attr("found", content)
    assert reopened(database).trials[0].user_attrs["found"] == content


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_a_restart_keeps_what_was_told_and_an_open_storage_goes_on(
    how: signal.Signals, postgres: PostgresServer, database: str
) -> None:
    storage = optuna.storages.RDBStorage(database, engine_kwargs={"pool_pre_ping": True})
    study = optuna.create_study(study_name="study", storage=storage)
    study.tell(study.ask(), 1.0)
    postgres.stop(how)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(database)
    postgres.start()
    study.tell(study.ask(), 2.0)
    assert [trial.value for trial in reopened(database).trials] == [1.0, 2.0]


def test_servers_stand_side_by_side_and_want_their_own_password(postgres: PostgresServer) -> None:
    with postgres_server() as other:
        assert other.port != postgres.port
        with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
            psycopg.connect(other.url.replace(str(other.port), str(postgres.port)))
        folder = other.folder
        with psycopg.connect(other.url) as connection:
            assert connection.execute("SHOW data_directory").fetchone() == (str(folder / "data"),)
    assert other.process is not None
    assert other.process.poll() is not None
    assert not folder.exists()
    assert postgres.password not in repr(postgres)


def test_a_killed_dask_worker_stays_dead_and_another_does_its_task(dask: DaskCluster) -> None:
    with Client(dask.address) as client:
        workers = {process.pid: process for process in dask.workers}
        assert set(client.run(os.getpid).values()) == set(workers)
        begun = client.submit(stay_on_first, str(dask.log.parent), pure=False)
        wait_until(lambda: list(dask.log.parent.glob("*.pid")))
        first = int(next(dask.log.parent.glob("*.pid")).stem)
        workers.pop(first).kill()
        assert begun.result(SECONDS) == workers.popitem()[0]
        assert client.scheduler_info()["n_workers"] == 1


def stay_on_first(folder: str) -> int:
    """Returns the id of the second process that runs it."""
    if not list(Path(folder).glob("*.pid")):
        Path(folder, f"{os.getpid()}.pid").touch()
        time.sleep(600)
    return os.getpid()


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_servers_end_with_the_process_that_started_them(how: signal.Signals) -> None:
    if how == signal.SIGKILL and not shutil.which("setpriv"):
        pytest.skip("only setpriv, of Linux, ends what a killed process started")
    program = """
import signal, time
from tests.servers import dask_cluster, postgres_server
# whoever runs the tests in the background may have them pass over it
signal.signal(signal.SIGINT, signal.default_int_handler)
with postgres_server() as postgres, dask_cluster(workers=1) as dask:
    print(postgres.folder, dask.log.parent, postgres.process.pid, dask.scheduler.pid, dask.workers[0].pid, flush=True)
    time.sleep(600)
"""
    with running(program) as process:
        *folders, postgres, scheduler, worker = heard(process).split()
        process.send_signal(how)
        process.wait(SECONDS)
    wait_until(lambda: not any(lives(int(server)) for server in (postgres, scheduler, worker)))
    if how == signal.SIGKILL:
        for folder in folders:
            shutil.rmtree(folder)
    assert not any(Path(folder).exists() for folder in folders)


def lives(process: int) -> bool:
    try:
        return psutil.Process(process).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
