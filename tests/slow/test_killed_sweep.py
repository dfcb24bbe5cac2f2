"""A sweep that loses a worker, its parent, or all at any moment: no trial is lost or doubled, the budget is met."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from tests.servers import PostgresServer

from bilstm_attention.config import Params
from bilstm_attention.search.space import read_sweep
from bilstm_attention.search.study import REPLACES, SURPLUS, SweepSpec, counted, open_study
from bilstm_attention.search.trials import FOUND

BUDGET = 12
# A sweep whose training is a pause, so that kills come at any moment of a trial; the rest is the real thing.
PROGRAM = """
import math, sys, time
from pathlib import Path
from types import SimpleNamespace
import bilstm_attention.search.trials as trials

def fit(model, train, task, seed, on_epoch):
    for epoch in (1, 2, 3):
        time.sleep(0.04)
        on_epoch({"epoch": epoch, "dev_official_f1": model.lstm_units + epoch})
    return SimpleNamespace(model=None, dev={"official_f1": float(model.lstm_units)}, best_epoch=3)

# instead of what loads TensorFlow
sys.modules["bilstm_attention.training.fit"] = SimpleNamespace(fit=fit)
sys.modules["bilstm_attention.search.cost"] = SimpleNamespace(cost=None)
trials._task = lambda: None
trials.start_tensorflow = lambda: None

# a function of this file, so that workers load it and with it what stands above
def do(definition, job):
    return trials.do(definition, job)

if __name__ == "__main__":
    from bilstm_attention.errors import SweepError
    from bilstm_attention.experiment import sweep, sweep_runs
    from bilstm_attention.search.space import read_sweep
    from bilstm_attention.search.storage import report_outages
    from bilstm_attention.search.study import SweepSpec, counted
    from bilstm_attention.config import Params
    sweep.do = do
    sweep.SECONDS_BETWEEN_LOOKS = 0.5
    read, space = read_sweep(Path("sweep.yaml"), Params(), {})
    storage, budget = sys.argv[1] or None, int(sys.argv[2])
    definition = SweepSpec(read, space, Path("study"), storage, heartbeat=1)
    say = lambda line: print(line, flush=True)
    recorded = "recorded" in sys.argv

    def told(study, trial):
        if trial:
            say(f"trial {trial.number}")
            if recorded:
                sweep_runs.record_trials(definition, study, [trial])

    try:
        with report_outages(storage), sweep.locked(definition), sweep.Stopping(say) as stopping:
            study = sweep.search(definition, budget, sweep.local_executor(2), math.inf, stopping, told)
            if recorded:
                sweep_runs.record_trials(definition, study, counted(study))
    except SweepError as error:
        sys.exit(f"error: {error}")
"""
SWEEP = """
study: killed
sampler: {kind: random, seed: 1}
pruner: {kind: none}
space:
  model.lstm_units: {low: 1, high: 1000}
"""
GRID = """
study: grid
sampler: {kind: grid}
space: {model.lstm_units: [10, 20, 30, 40, 50, 60], model.merge: [sum, concat]}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return place(tmp_path / "here")


def place(folder: Path, text: str = SWEEP) -> Path:
    """A folder to run the program in."""
    folder.mkdir()
    (folder / "program.py").write_text(PROGRAM)
    (folder / "sweep.yaml").write_text(text)
    (folder / "data/prepared").mkdir(parents=True)
    for name in ("dvc.yaml", "params.yaml", "data/prepared/train.parquet", "data/prepared/dev.parquet"):
        (folder / name).touch()
    return folder


def start(folder: Path, storage: str = "", budget: int = BUDGET, *more: str) -> subprocess.Popen:
    command = [sys.executable, "program.py", storage, str(budget), *more]
    own = {key: value for key, value in os.environ.items() if key != "MLFLOW_TRACKING_URI"}
    return subprocess.Popen(command, cwd=folder, env=own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def children(process: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(process)], capture_output=True, text=True).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if "spawn_main" in line]


def kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def wait_for_a_trial(process: subprocess.Popen) -> None:
    """Until one has ended."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.startswith("trial "):
        process.kill()
        raise AssertionError(line + process.communicate()[0])


def ended(process: subprocess.Popen) -> str:
    """What it prints until it ends by itself; a start may find the workers of the last one still there, and waits."""
    try:
        printed, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 0, printed
    return printed


def opened(folder: Path, storage: str | None = None) -> optuna.Study:
    read, space = read_sweep(folder / "sweep.yaml", Params(), {})
    return open_study(SweepSpec(read, space, folder / "study", storage, heartbeat=1))


def found(study: optuna.Study) -> dict[int, Any]:
    """What trials that ended well have left."""
    return {trial.number: trial.user_attrs[FOUND] for trial in counted(study) if trial.state.name == "COMPLETE"}


def check(study: optuna.Study, budget: int = BUDGET) -> None:
    trials = counted(study)
    assert len(trials) == budget
    assert {trial.state.name for trial in trials} == {"COMPLETE"}
    assert {trial.state.name for trial in study.get_trials()} <= {"COMPLETE", "FAIL"}
    # each is its own, by the number of its first try, and has the score that its parameters give
    firsts = Counter(trial.user_attrs.get(REPLACES, [trial.number])[0] for trial in trials)
    assert set(firsts.values()) == {1}
    assert all(trial.value == trial.params["model.lstm_units"] for trial in trials)
    assert len({trial.user_attrs["seed"] for trial in trials}) == budget
    # what was one too many was not trained
    assert not any(FOUND in trial.user_attrs for trial in study.get_trials() if SURPLUS in trial.user_attrs)


def check_recorded(folder: Path, study: optuna.Study) -> None:
    """MLflow has every trial once, under one sweep, and nothing that still runs."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/experiments/mlflow.db")
    (experiment,) = (each for each in client.search_experiments() if each.name == "sample")
    runs = client.search_runs([experiment.experiment_id])
    # one that was being written when its process died is KILLED, and there again
    assert {run.info.status for run in runs} <= {"FINISHED", "KILLED"}
    written = [run.data.tags for run in runs if run.info.status == "FINISHED"]
    numbers = [tags["sweep.trial"].rpartition("/")[2] for tags in written if "sweep.trial" in tags]
    assert sorted(map(int, numbers)) == [trial.number for trial in counted(study)]
    assert len([tags for tags in written if "sweep.id" in tags]) == 1
    parents = {tags["mlflow.parentRunId"] for tags in written if "sweep.trial" in tags}
    assert parents == {run.info.run_id for run in runs if "sweep.id" in run.data.tags and run.info.status == "FINISHED"}


# --- one machine


@pytest.mark.parametrize("victim", ["worker", "parent", "all"])
@pytest.mark.parametrize("moment", range(7))
def test_nothing_is_lost_or_doubled(victim: str, moment: int, folder: Path) -> None:
    draw = random.Random(f"{victim} {moment}")
    process = start(folder, "", BUDGET, "recorded")
    wait_for_a_trial(process)
    time.sleep(draw.uniform(0, 3))
    workers = children(process.pid)
    before = found(opened(folder))
    if victim == "worker" and workers:
        kill(draw.choice(workers))
    else:
        for each in [process.pid, *workers] if victim == "all" else [process.pid]:
            kill(each)
    process.communicate(timeout=120)
    ended(start(folder, "", BUDGET, "recorded"))
    study = opened(folder)
    check(study)
    after = found(study)
    assert {number: after[number] for number in before} == before
    check_recorded(folder, study)


def test_a_budget_that_is_raised_is_met_and_one_that_is_lowered_asks_for_nothing(folder: Path) -> None:
    ended(start(folder, budget=3))
    assert ended(start(folder, budget=2)) == ""
    printed = ended(start(folder, budget=5))
    assert sorted(printed.splitlines()) == ["trial 3", "trial 4"]
    check(opened(folder), 5)


def test_a_second_process_is_kept_from_the_study(folder: Path) -> None:
    process = start(folder)
    wait_for_a_trial(process)
    # it would end before the second has begun
    process.send_signal(signal.SIGSTOP)
    second = start(folder)
    printed, _ = second.communicate(timeout=60)
    process.send_signal(signal.SIGCONT)
    assert second.returncode != 0
    assert "the sweep runs already, in another process" in printed
    ended(process)


def test_ctrl_c_ends_with_every_trial_ended_and_the_next_start_goes_on(folder: Path) -> None:
    process = start(folder)
    wait_for_a_trial(process)
    process.send_signal(signal.SIGINT)
    assert "stopping when the running trials have ended" in ended(process)
    study = opened(folder)
    assert len(counted(study)) < BUDGET
    assert {trial.state.name for trial in study.get_trials()} <= {"COMPLETE", "WAITING"}
    ended(start(folder))
    check(study)


# --- two machines, that is two folders, with a database between them


class Two:
    """Two machines with their commands, begun at once."""

    def __init__(self, folder: Path, text: str = SWEEP) -> None:
        # a machine that is busy is slow to write
        self.storage = f"sqlite:///{folder}/studies.db?timeout=60"
        self.places = [place(folder / name, text) for name in ("here", "there")]
        self.processes = [start(each, self.storage) for each in self.places]

    @property
    def study(self) -> optuna.Study:
        return opened(self.places[0], self.storage)


@pytest.fixture
def two(tmp_path: Path) -> Iterator[Two]:
    machines = Two(tmp_path)
    yield machines
    for process in machines.processes:
        process.kill()


def test_two_machines_spend_one_budget_between_them(two: Two) -> None:
    printed = [ended(process).splitlines() for process in two.processes]
    check(two.study)
    # each told of its own
    numbers = [int(line.removeprefix("trial ")) for lines in printed for line in lines]
    assert sorted(numbers) == [trial.number for trial in counted(two.study)]
    # one alone put down what is tried first
    assert [trial.number for trial in two.study.trials if trial.system_attrs.get("fixed_params")] == [0]
    assert two.study.trials[0].params == {"model.lstm_units": 100}


@pytest.mark.parametrize("moment", range(3))
def test_when_a_machine_goes_down_the_other_spends_the_budget(moment: int, two: Two) -> None:
    victim, other = two.processes
    wait_for_a_trial(victim)
    time.sleep(random.Random(moment).uniform(0, 0.4))
    before = found(two.study)
    for each in [victim.pid, *children(victim.pid)]:
        kill(each)
    victim.communicate(timeout=60)
    ended(other)
    check(two.study)
    after = found(two.study)
    assert {number: after[number] for number in before} == before


def test_two_machines_try_a_grid_whole_each_once(tmp_path: Path) -> None:
    machines = Two(tmp_path, GRID)
    for process in machines.processes:
        ended(process)
    tried = [tuple(trial.params.values()) for trial in counted(machines.study)]
    assert sorted(tried) == sorted((units, merge) for units in range(10, 61, 10) for merge in ("sum", "concat"))
    check(machines.study)


# --- a database that goes away


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_when_the_database_goes_away_the_sweep_says_so_without_a_traceback_and_the_next_start_goes_on(
    how: signal.Signals, folder: Path, postgres: PostgresServer, database: str
) -> None:
    process = start(folder, database)
    wait_for_a_trial(process)
    time.sleep(0.2)
    postgres.stop(how)
    printed, _ = process.communicate(timeout=60)
    lines = [line for line in printed.splitlines() if not line.startswith(("trial ", "a worker ends: --storage "))]
    assert process.returncode == 1
    assert len(lines) == 2, printed
    assert lines[0].startswith("error: --storage postgresql://sweeper:***@127.0.0.1:")
    assert postgres.password not in printed
    assert lines[1].endswith("the same command goes on.")
    postgres.start()
    before = found(opened(folder, database))
    assert before
    ended(start(folder, database))
    study = opened(folder, database)
    check(study)
    after = found(study)
    assert {number: after[number] for number in before} == before
