"""A sweep that loses a worker, its parent or all at any moment loses no trial, doubles none, and meets its budget.

Each victim is killed at three moments of the sweep; `KILL_MOMENTS=7` in the environment tries seven.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
import pytest
from tests.servers import PostgresServer

from bilstm_attention.config import Params
from bilstm_attention.search.retries import finished_trials, first_attempt
from bilstm_attention.search.space import read_sweep
from bilstm_attention.search.study import SweepSpec, load_study

BUDGET = 12
MOMENTS = int(os.environ.get("KILL_MOMENTS", "3"))
HEARTBEAT = 3  # seconds; twice as long without one, and a trial counts as dead
SECONDS = 600  # until a process counts as hung, on a busy machine
# A sweep whose training is a pause, so that kills come at every moment of a trial; the rest is the real thing.
PROGRAM = """
import math, sys, time
from functools import partial
from pathlib import Path
from bilstm_attention.search.trial import TrialScores, run_trial

def train(spec, params, seed, on_epoch):
    for epoch in (1, 2, 3):
        time.sleep(0.04)
        on_epoch({"epoch": epoch, "dev_official_f1": params.model.lstm_units + epoch})
    return TrialScores({"official_f1": float(params.model.lstm_units)}, 3)

if __name__ == "__main__":
    from bilstm_attention.config import Params
    from bilstm_attention.errors import SweepError
    from bilstm_attention.search import sweep
    from bilstm_attention.search.space import read_sweep
    from bilstm_attention.search.study import SweepSpec
    sweep.POLL_SECONDS = 0.5
    content, space = read_sweep(Path("sweep.yaml"), Params(), {})
    spec = SweepSpec(content, space, Path("study"), sys.argv[1] or None, heartbeat=int(sys.argv[4]))
    print_line = partial(print, flush=True)
    on_trial = lambda study, trial: trial and print_line(f"trial {trial.number}")
    try:
        with sweep.lock_study(spec), sweep.StopRequest(print_line) as stop:
            work = partial(run_trial, train=train)
            sweep.search(spec, int(sys.argv[2]), int(sys.argv[3]), math.inf, stop, on_trial, work)
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


def make_folder(folder: Path, text: str = SWEEP) -> Path:
    """A folder to run the program in."""
    folder.mkdir()
    (folder / "program.py").write_text(PROGRAM)
    (folder / "sweep.yaml").write_text(text)
    for name in ("dvc.yaml", "params.yaml"):
        (folder / name).touch()
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "here")


def start(folder: Path, storage: str = "", budget: int = BUDGET, workers: int = 2) -> subprocess.Popen:
    command = [sys.executable, "program.py", storage, str(budget), str(workers), str(HEARTBEAT)]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def workers_of(process: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(process)], capture_output=True, text=True).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if "spawn_main" in line]


def kill(*processes: int) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def wait_for_trial(process: subprocess.Popen) -> None:
    """Until one has finished."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line.startswith("trial "):
        process.kill()
        raise AssertionError(line + process.communicate()[0])


def output_of(process: subprocess.Popen) -> str:
    """What it prints until it ends by itself."""
    try:
        printed, _ = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert process.returncode == 0, printed
    return printed


def load(folder: Path, storage: str | None = None) -> optuna.Study:
    sweep, space = read_sweep(folder / "sweep.yaml", Params(), {})
    return load_study(SweepSpec(sweep, space, folder / "study", storage, HEARTBEAT))


def results(study: optuna.Study) -> dict[int, Any]:
    """What complete trials have stored, by number."""
    trials = [trial for trial in finished_trials(study) if trial.state.name == "COMPLETE"]
    return {trial.number: (trial.values, trial.params, trial.user_attrs) for trial in trials}


def check(study: optuna.Study, budget: int = BUDGET) -> None:
    trials = finished_trials(study)
    assert len(trials) == budget
    assert {trial.state.name for trial in trials} == {"COMPLETE"}
    assert {trial.state.name for trial in study.get_trials()} <= {"COMPLETE", "FAIL"}
    assert set(Counter(map(first_attempt, trials)).values()) == {1}
    assert all(trial.value == trial.params["model.lstm_units"] for trial in trials)
    assert len({trial.user_attrs["seed"] for trial in trials}) == budget


# --- one machine


@pytest.mark.parametrize("victim", ["worker", "parent", "all"])
@pytest.mark.parametrize("moment", range(MOMENTS))
def test_kill_loses_and_doubles_nothing(victim: str, moment: int, folder: Path) -> None:
    draw = random.Random(f"{victim} {moment}")
    process = start(folder)
    wait_for_trial(process)
    time.sleep(1.5 * (moment + draw.random()) / MOMENTS)
    workers = workers_of(process.pid)
    before = results(load(folder))
    if victim == "worker":
        kill(*workers[:1] if draw.random() < 0.5 else workers[-1:])
    else:
        kill(process.pid, *(workers if victim == "all" else ()))
    process.communicate(timeout=SECONDS)
    output_of(start(folder))
    study = load(folder)
    check(study)
    after = results(study)
    assert {number: after[number] for number in before} == before


def test_kill_after_kill_meets_the_budget(folder: Path) -> None:
    draw = random.Random(0)
    for _ in range(6):
        process = start(folder, workers=3)
        time.sleep(draw.uniform(1, 4))
        kill(process.pid, *(workers_of(process.pid) if draw.random() < 0.5 else ()))
        process.communicate(timeout=SECONDS)
    output_of(start(folder, workers=3))
    study = load(folder)
    trials = finished_trials(study)
    # one that was killed more often than it is retried has failed for good
    assert len(trials) == BUDGET
    assert set(Counter(map(first_attempt, trials)).values()) == {1}
    assert {trial.state.name for trial in study.get_trials()} <= {"COMPLETE", "FAIL"}


def test_eight_workers_share_one_sqlite_file(folder: Path) -> None:
    output_of(start(folder, budget=40, workers=8))
    check(load(folder), 40)


def test_ctrl_c_lets_running_trials_end(folder: Path) -> None:
    process = start(folder, budget=1000)
    wait_for_trial(process)
    process.send_signal(signal.SIGINT)
    assert "stopping when the running trials have ended" in output_of(process)
    study = load(folder)
    finished = len(finished_trials(study))
    assert finished < 1000
    assert {trial.state.name for trial in study.get_trials()} <= {"COMPLETE", "WAITING"}
    output_of(start(folder, budget=finished + 2))
    check(study, finished + 2)


# --- two machines, that is two folders, with a database between them


@dataclass
class TwoMachines:
    folders: list[Path]
    storage: str
    processes: list[subprocess.Popen] = field(default_factory=list)

    def start(self, machine: int) -> subprocess.Popen:
        self.processes.append(start(self.folders[machine], self.storage))
        return self.processes[-1]

    @property
    def study(self) -> optuna.Study:
        return load(self.folders[0], self.storage)


@pytest.fixture
def two(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[TwoMachines]:
    folders = [make_folder(tmp_path / name, getattr(request, "param", SWEEP)) for name in ("here", "there")]
    machines = TwoMachines(folders, f"sqlite:///{tmp_path}/studies.db")
    yield machines
    for process in machines.processes:
        process.kill()


def test_two_machines_spend_one_budget(two: TwoMachines) -> None:
    processes = [two.start(machine) for machine in (0, 1)]
    printed = [output_of(process).splitlines() for process in processes]
    numbers = sorted(int(line.removeprefix("trial ")) for lines in printed for line in lines)
    trials = finished_trials(two.study)
    assert numbers == [trial.number for trial in trials]
    # both may see the last trial free at the same moment
    assert len(trials) in (BUDGET, BUDGET + 1)
    check(two.study, len(trials))
    # one alone enqueued the first, which others may draw by chance
    assert trials[0].params == {"model.lstm_units": 100}
    enqueued = [trial for trial in trials if trial.system_attrs.get("fixed_params") == trials[0].params]
    assert len(enqueued) == 1


@pytest.mark.parametrize("moment", range(3))
def test_other_machine_spends_the_budget_of_a_dead_one(moment: int, two: TwoMachines) -> None:
    victim = two.start(0)
    wait_for_trial(victim)
    other = two.start(1)
    time.sleep(random.Random(moment).uniform(0, 0.4))
    before = results(two.study)
    kill(victim.pid, *workers_of(victim.pid))
    victim.communicate(timeout=SECONDS)
    output_of(other)
    trials, after = finished_trials(two.study), results(two.study)
    # both may have seen the last trial free; a trial that the dead one began then is nobody's to end
    assert len(trials) in (BUDGET, BUDGET + 1)
    assert {trial.state.name for trial in trials} == {"COMPLETE"}
    assert {number: after[number] for number in before} == before


@pytest.mark.parametrize("two", [GRID], indirect=True)
def test_two_machines_try_each_cell_of_a_grid_once(two: TwoMachines) -> None:
    for process in [two.start(machine) for machine in (0, 1)]:
        output_of(process)
    cells = [tuple(trial.params.values()) for trial in finished_trials(two.study)]
    assert set(cells) == {(units, merge) for units in range(10, 61, 10) for merge in ("sum", "concat")}
    # both may see the last trial free at the same moment; one of them then repeats a cell
    assert len(cells) in (BUDGET, BUDGET + 1)
    check(two.study, len(cells))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGQUIT])
def test_database_that_goes_away_ends_the_sweep_in_two_lines(
    how: signal.Signals, folder: Path, postgres: PostgresServer, database: str
) -> None:
    process = start(folder, database)
    wait_for_trial(process)
    time.sleep(0.2)
    postgres.stop(how)
    printed, _ = process.communicate(timeout=60)
    lines = [line for line in printed.splitlines() if not line.startswith("trial ")]
    assert process.returncode == 1
    assert len(lines) == 2, printed
    assert lines[0].startswith("error: --storage postgresql://sweeper:***@127.0.0.1:")
    assert postgres.password not in printed
    assert lines[1].endswith("the same command goes on.")
    postgres.start()
    before = results(load(folder, database))
    assert before
    output_of(start(folder, database))
    study = load(folder, database)
    check(study)
    after = results(study)
    assert {number: after[number] for number in before} == before
