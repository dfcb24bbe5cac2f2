"""A sweep that loses its workers, its parent or all at any moment loses no trial, doubles none, and meets its budget.

Each victim is killed at three moments, one start after the other; `KILL_MOMENTS=7` in the environment tries seven.
"""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from tests.servers import PostgresServer

from bilstm_attention import cli
from bilstm_attention.config import Params
from bilstm_attention.search.space import read_sweep
from bilstm_attention.search.study import SweepSpec, finished_trials, first_attempt

BUDGET = 12
LONG = 24  # trials, which take some seconds
MOMENTS = int(os.environ.get("KILL_MOMENTS", "3"))
HEARTBEAT = 3  # seconds; twice as long without one, and a trial counts as dead
SECONDS = 600  # until a process counts as hung, on a busy machine
# A sweep whose training is a pause, so that kills come at every moment of a trial; the rest is the real thing.
PROGRAM = """
import math, sys, time
from functools import partial
from pathlib import Path
from bilstm_attention.search.sweep import TrialScores, run_trial

def train(job, params, root, on_epoch):
    for epoch in (1, 2, 3):
        time.sleep(0.04)
        on_epoch({"epoch": epoch, "dev_official_f1": params.model.lstm_units + epoch})
    return TrialScores({"official_f1": float(params.model.lstm_units)}, 3)

if __name__ == "__main__":
    from bilstm_attention.config import Params
    from bilstm_attention.errors import SweepError
    from bilstm_attention.search import study as studies
    from bilstm_attention.search import sweep
    from bilstm_attention.search.space import read_sweep
    from bilstm_attention.search.study import SweepSpec, begin_study, report_outages
    studies.POLL_SECONDS = 0.5
    content, space = read_sweep(Path("sweep.yaml"), Params(), {})
    spec = SweepSpec(content, space, Path("study"), sys.argv[1] or None, heartbeat=int(sys.argv[4]))
    print_line = partial(print, flush=True)
    on_trial = lambda trial: print_line(f"trial {trial.number}")
    try:
        with spec.lock(), report_outages(spec), sweep.StopRequest(print_line) as stop:
            study, work = begin_study(spec), partial(run_trial, train=train)
            sweep.Driver(spec, study, int(sys.argv[2]), int(sys.argv[3]), math.inf, stop, on_trial, work).run()
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
pruner: {kind: none}
space: {model.lstm_units: [10, 20, 30, 40, 50, 60], model.merge: [sum, concat]}
"""


@dataclass
class Machine:
    """A folder to run the program in; two may share a storage."""

    folder: Path
    storage: str = ""
    sweep: str = SWEEP

    def __post_init__(self) -> None:
        self.folder.mkdir()
        files = {"program.py": PROGRAM, "sweep.yaml": self.sweep, "dvc.yaml": "", "params.yaml": ""}
        for name, text in files.items():
            (self.folder / name).write_text(text)

    def start(self, budget: int = BUDGET, workers: int = 2) -> subprocess.Popen:
        command = [sys.executable, "program.py", self.storage, *map(str, (budget, workers, HEARTBEAT))]
        output: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=self.folder, **output)

    def start_and_finish_a_trial(self, budget: int = BUDGET) -> subprocess.Popen:
        process = self.start(budget)
        line = process.stdout.readline()
        if not line.startswith("trial "):
            process.kill()
            raise AssertionError(line + process.communicate()[0])
        return process

    @property
    def study(self) -> optuna.Study:
        sweep, space = read_sweep(self.folder / "sweep.yaml", Params(), {})
        spec = SweepSpec(sweep, space, self.folder / "study", self.storage or None, HEARTBEAT)
        return optuna.load_study(study_name=sweep.study, storage=spec.open())

    def results(self) -> dict[int, Any]:
        """Of complete trials, by number."""
        trials = [trial for trial in finished_trials(self.study) if trial.state.name == "COMPLETE"]
        return {trial.number: (trial.values, trial.params, trial.user_attrs) for trial in trials}

    def check(self, budget: int = BUDGET, before: dict[int, Any] | None = None) -> None:
        """The budget is spent, no trial is doubled, and those finished before are as they were."""
        trials = finished_trials(self.study)
        assert len(trials) == budget
        assert {trial.state.name for trial in trials} == {"COMPLETE"}
        assert {trial.state.name for trial in self.study.get_trials()} <= {"COMPLETE", "FAIL"}
        assert set(Counter(map(first_attempt, trials)).values()) == {1}
        assert all(trial.value == trial.params["model.lstm_units"] for trial in trials)
        assert len({trial.user_attrs["seed"] for trial in trials}) == budget
        assert self.results().items() >= (before or {}).items()


def workers_of(process: subprocess.Popen) -> list[int]:
    # whole lines: cut at 80 columns they would name no worker
    command = ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(process.pid)]
    listed = subprocess.run(command, capture_output=True, text=True).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if "spawn_main" in line]


def kill(*processes: int) -> None:
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def output_of(process: subprocess.Popen) -> str:
    """What it prints until it ends by itself."""
    try:
        printed, _ = process.communicate(timeout=SECONDS)
    finally:
        process.kill()
    assert process.returncode == 0, printed
    return printed


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path / "here")


@pytest.mark.parametrize("victim", ["workers", "parent", "all"])
def test_kills_lose_and_double_nothing(victim: str, machine: Machine) -> None:
    draw = random.Random(victim)
    before: dict[int, Any] = {}
    for moment in range(MOMENTS):
        # each start has more trials to go than it can finish before the kill
        process = machine.start_and_finish_a_trial(LONG * (moment + 1))
        time.sleep(1.5 * (moment + draw.random()) / MOMENTS)
        workers = workers_of(process)
        before |= machine.results()
        assert len(before) < LONG * (moment + 1)
        assert len(workers) == 2
        # both, since one alone may not have begun a trial
        kill(*{"workers": workers, "parent": [process.pid], "all": [process.pid, *workers]}[victim])
        process.communicate(timeout=SECONDS)
    output_of(machine.start(LONG * MOMENTS))
    machine.check(LONG * MOMENTS, before)
    # kills that hit no trial would prove nothing
    assert machine.study.get_trials(states=(TrialState.FAIL,))


def test_ctrl_c_lets_running_trials_end(machine: Machine) -> None:
    process = machine.start_and_finish_a_trial(budget=1000)
    process.send_signal(signal.SIGINT)
    assert "stopping when the running trials have ended" in output_of(process)
    finished = len(finished_trials(machine.study))
    assert finished < 1000
    assert {trial.state.name for trial in machine.study.get_trials()} <= {"COMPLETE", "WAITING"}
    output_of(machine.start(budget=finished + 2))
    machine.check(finished + 2)


# Two machines are two folders with a database between them. Both may see the last trial free at the same moment, so
# that one more than the budget is spent.


def test_other_machine_spends_the_budget_of_a_dead_one(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    here, there = (Machine(tmp_path / name, database) for name in ("here", "there"))
    victim = here.start_and_finish_a_trial(LONG)
    other, before = there.start(LONG), here.results()
    kill(victim.pid, *workers_of(victim))
    victim.communicate(timeout=SECONDS)
    lost = {trial.number for trial in here.study.get_trials(states=(TrialState.RUNNING,))}
    assert lost
    output_of(other)
    trials = finished_trials(here.study)
    # a trial that the dead one began as one too many is nobody's to end
    assert len(trials) in (LONG, LONG + 1)
    assert {trial.state.name for trial in trials} == {"COMPLETE"}
    assert lost <= set(map(first_attempt, trials))
    assert here.results().items() >= before.items()
    assert not list(tmp_path.rglob("study.db"))
    monkeypatch.chdir(there.folder)
    cli.sweeps(storage=database)
    assert f"{len(trials)} complete" in capsys.readouterr().out


def test_two_machines_try_each_cell_of_a_grid_once(tmp_path: Path) -> None:
    machines = [Machine(tmp_path / name, f"sqlite:///{tmp_path}/studies.db", GRID) for name in ("here", "there")]
    printed = [output_of(process).splitlines() for process in [machine.start() for machine in machines]]
    trials = finished_trials(machines[0].study)
    cells = {tuple(trial.params.values()) for trial in trials}
    assert cells == set(product(range(10, 61, 10), ("sum", "concat")))
    # where there is one more, it repeats a cell
    assert len(trials) in (BUDGET, BUDGET + 1)
    machines[0].check(len(trials))
    numbers = [int(line.removeprefix("trial ")) for lines in printed for line in lines]
    assert sorted(numbers) == [trial.number for trial in trials]


def test_database_that_goes_away_ends_the_sweep_in_two_lines(
    tmp_path: Path, postgres: PostgresServer, database: str
) -> None:
    machine = Machine(tmp_path / "here", database)
    process = machine.start_and_finish_a_trial(budget=1000)
    time.sleep(0.2)
    postgres.stop()
    printed, _ = process.communicate(timeout=SECONDS)
    lines = [line for line in printed.splitlines() if not line.startswith("trial ")]
    assert process.returncode == 1
    assert len(lines) == 2, printed
    assert lines[0].startswith("error: --storage postgresql://sweeper:***@127.0.0.1:")
    assert postgres.password not in printed
    assert lines[1].endswith("the same command goes on.")
    postgres.start()
    before = machine.results()
    assert before
    budget = len(before) + BUDGET
    output_of(machine.start(budget))
    machine.check(budget, before)
