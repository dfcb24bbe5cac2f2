"""One sweep, many machines: a study in PostgreSQL, trained by a Dask cluster or by two commands, whatever is killed."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState
from tests.project import Project
from tests.servers import DaskCluster

from bilstm_attention.search.study import counted, running

TRIALS = 6
SWEEP = """
study: far
sampler: {kind: random, seed: 0}
pruner: {kind: none}
confirm: {top: 2, seeds: 2}
fixed: {train.epochs: 3}
space:
  model.lstm_units: {low: 4, high: 64}
  model.attention.kind: [zhou, max]
"""
COMMAND = ("bilstm-attention", "sweep", "experiments/sweeps/far.yaml", "--trials", str(TRIALS), "--heartbeat", "2")
NewProject = Callable[[], Project]


@pytest.fixture(scope="module")
def prepared(new_project: NewProject, tmp_path_factory: pytest.TempPathFactory) -> NewProject:
    """Makes projects whose data is prepared."""
    project = new_project()
    project.run("dvc", "repro", "embed")
    (project.root / "experiments/sweeps/far.yaml").write_text(SWEEP)
    return lambda: Project(shutil.copytree(project.root, tmp_path_factory.mktemp("copy") / "project"))


@contextmanager
def started(project: Project, *options: str) -> Iterator[subprocess.Popen]:
    """The sweep in a process group of its own; at the end it has ended."""
    command = [*COMMAND, *options]
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(command, cwd=project.root, env=project.environment(), start_new_session=True, **output)
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def opened(database: str) -> optuna.Study | None:
    try:
        return optuna.load_study(study_name="far", storage=optuna.storages.RDBStorage(database))
    except KeyError:
        return None


def wait_for(found: Callable[[], Any], process: subprocess.Popen) -> Any:
    """What is found once there is something."""
    end = time.monotonic() + 240
    while not (something := found()):
        assert process.poll() is None, f"it ended:\n{process.stdout.read() if process.stdout else ''}"
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)
    return something


def check(study: optuna.Study, died: int) -> None:
    """The budget is met exactly, and what died was tried again, by another."""
    ended = counted(study)
    assert [trial.state for trial in ended] == [TrialState.COMPLETE] * TRIALS
    assert study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING)) == []
    replaced = [trial for trial in ended if died in trial.user_attrs.get("replaces", ())]
    assert len(replaced) == 1
    assert replaced[0].params == study.trials[died].params
    assert study.trials[died].state == TrialState.FAIL
    assert len({trial.user_attrs["seed"] for trial in ended}) == TRIALS
    # two of the best, each on two fresh seeds
    assert sum(" with seed " in key for key in study.user_attrs) == 4


def in_training(study: optuna.Study, of: str) -> list[int]:
    """The trials of a worker that have ended an epoch, while another trial has ended."""
    mine = [trial for trial in running(study) if of in trial.user_attrs.get("worker", "") and trial.intermediate_values]
    return [trial.number for trial in mine] if counted(study) else []


def killed_in_training(study: optuna.Study, of: str, process: int, *, group: bool = False) -> list[int]:
    """The trials amid which a worker was killed; none, and it lives on, if what it was seen at has ended meanwhile."""
    send = os.killpg if group else os.kill
    if not in_training(study, of):
        return []
    send(process, signal.SIGSTOP)
    # what it had sent to the database still arrives
    time.sleep(0.3)
    amid = in_training(study, of)
    send(process, signal.SIGKILL if amid else signal.SIGCONT)
    return amid


def test_a_dask_cluster_that_loses_a_worker_ends_the_sweep(
    prepared: NewProject, database: str, dask: DaskCluster
) -> None:
    project, victim = prepared(), dask.workers[0]
    with started(project, "--storage", database, "--dask", dask.address) as sweep:
        study = wait_for(lambda: opened(database), sweep)
        [died] = wait_for(lambda: killed_in_training(study, f":{victim.pid}", victim.pid), sweep)
        printed, _ = sweep.communicate(timeout=400)
    assert sweep.returncode == 0, printed
    check(study, died)
    workers = {trial.user_attrs["worker"].rpartition(":")[2] for trial in counted(study)}
    assert workers <= {str(worker.pid) for worker in dask.workers}
    assert f"{TRIALS}/{TRIALS}" in printed
    password = database.partition("@")[0].rpartition(":")[2]
    assert password not in printed
    assert password not in (project.root / "experiments/studies/far/report.md").read_text()
    board = pd.read_csv(project.root / "experiments/studies/far/leaderboard.csv")
    assert board["confirmed_mean"].notna().sum() == 2
    assert not (project.root / "experiments/studies/far/journal.log").exists()
    listed = project.run("bilstm-attention", "sweeps", "--storage", database)
    assert "far" in listed
    assert f"{TRIALS} complete" in listed


def test_two_commands_share_a_study_and_one_goes_on_when_the_other_is_killed(
    prepared: NewProject, database: str
) -> None:
    first, second = prepared(), prepared()
    options = ("--storage", database, "--workers", "1")
    with started(first, *options) as victim, started(second, *options) as survivor:
        study = wait_for(lambda: opened(database), survivor)
        [died] = wait_for(lambda: killed_in_training(study, f":{victim.pid}:", victim.pid, group=True), survivor)
        printed, _ = survivor.communicate(timeout=400)
    assert survivor.returncode == 0, printed
    check(study, died)
    # the one that came first began the study, alone
    assert (
        sum("fixed_params" in trial.system_attrs for trial in study.trials if "replaces" not in trial.user_attrs) == 1
    )
    again = second.run(*COMMAND, *options)
    assert "  trial " not in again
    assert "trained again" not in again


def test_what_cannot_be_reached_is_said(prepared: NewProject) -> None:
    project = prepared()
    printed = project.run(*COMMAND, "--storage", "postgresql://me:hush@127.0.0.1:1/none", check=False)
    assert "error: --storage postgresql://me:***@127.0.0.1:1/none: the database does not answer" in printed
    assert "hush" not in printed
    alone = project.run(*COMMAND, "--dask", "tcp://127.0.0.1:1", check=False)
    assert "error: --dask: workers on other machines cannot reach a journal file; add --storage" in alone
