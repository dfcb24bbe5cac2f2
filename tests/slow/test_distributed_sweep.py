"""One study in PostgreSQL, trained by the same command in two checkouts, of which one is killed."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from optuna.trial import TrialState
from tests.project import Project

from bilstm_attention.config import Params
from bilstm_attention.search.space import read_sweep
from bilstm_attention.search.study import SweepSpec, finished_trials, first_attempt, load_study

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


@contextmanager
def started(project: Project, *options: str) -> Iterator[subprocess.Popen]:
    """The sweep in a process group of its own; at the end it has ended."""
    output = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    process = subprocess.Popen(
        [*COMMAND, *options], cwd=project.root, env=project.environment(), start_new_session=True, **output
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def kill_in_training(spec: SweepSpec, victim: subprocess.Popen) -> int:
    """Kills a command in a trial, once another has finished; returns the number of its trial."""
    end = time.monotonic() + 600
    while time.monotonic() < end:
        try:
            study = load_study(spec)
        except KeyError:
            time.sleep(0.2)
            continue
        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            own = f":{victim.pid}:" in str(trial.user_attrs.get("job")) and "seed" in trial.user_attrs
            if own and finished_trials(study):
                os.killpg(victim.pid, signal.SIGKILL)
                return trial.number
        time.sleep(0.05)
    raise AssertionError("the trial did not begin in time")


def test_other_command_goes_on_when_one_is_killed(
    new_project: Callable[[], Project], tmp_path: Path, database: str
) -> None:
    first = new_project()
    first.run("dvc", "repro", "embed")
    (first.root / "experiments/sweeps/far.yaml").write_text(SWEEP)
    second = Project(shutil.copytree(first.root, tmp_path / "second"))
    sweep, space = read_sweep(first.root / "experiments/sweeps/far.yaml", Params(), {})
    spec = SweepSpec(sweep, space, first.root, database, 2)
    options = ("--storage", database, "--workers", "1")
    with started(first, *options) as victim, started(second, *options) as survivor:
        killed = kill_in_training(spec, victim)
        printed, _ = survivor.communicate(timeout=1200)
    assert survivor.returncode == 0, printed
    study = load_study(spec)
    finished = finished_trials(study)
    assert [trial.state for trial in finished] == [TrialState.COMPLETE] * TRIALS
    assert len({first_attempt(trial) for trial in finished}) == TRIALS
    assert study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING)) == []
    # it may have finished in the instant before the kill
    if study.trials[killed].state == TrialState.FAIL:
        (retried,) = (trial for trial in finished if first_attempt(trial) == killed)
        assert retried.params == study.trials[killed].params
    folder = second.root / "experiments/studies/far"
    assert pd.read_csv(folder / "leaderboard.csv")["confirmed_mean"].notna().sum() == 2
    assert not (folder / "study.db").exists()
    password = database.partition("@")[0].rpartition(":")[2]
    assert password not in printed + (folder / "report.md").read_text()
    assert f"{TRIALS} complete" in second.run("bilstm-attention", "sweeps", "--storage", database)
    assert "  trial " not in second.run(*COMMAND, *options)
