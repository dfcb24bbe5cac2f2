"""A sweep that loses a worker, its parent, or all at any moment: no trial is lost or doubled, the budget is met."""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from bilstm_attention.experiment.sweep import counted
from bilstm_attention.experiment.trials import Definition, open_study

pytestmark = pytest.mark.slow
BUDGET = 12
# A sweep whose training is a pause, so that kills come at any moment of a trial; the rest is the real thing.
PROGRAM = """
import json, math, sys, time
from pathlib import Path
from types import SimpleNamespace
import bilstm_attention.experiment.trials as trials

def fit(model, train, task, seed, on_epoch):
    for epoch in (1, 2, 3):
        time.sleep(0.04)
        on_epoch({"epoch": epoch, "dev_official_f1": model.lstm_units + epoch})
    return SimpleNamespace(dev={"official_f1": float(model.lstm_units)}, best_epoch=3)

def install():
    training = SimpleNamespace(fit=fit)
    sys.modules["bilstm_attention.experiment.training"] = training
    trials._task = lambda: None
    trials.start_tensorflow = lambda: None

install()

def do(definition, job):
    install()
    return trials.do(definition, job)

if __name__ == "__main__":
    from bilstm_attention.experiment import sweep
    from bilstm_attention.experiment.space import read_sweep
    from bilstm_attention.params import Params
    sweep.do = do
    read, space = read_sweep(Path("sweep.yaml"), Params(), {})
    definition = trials.Definition(read, space, Path("study"))
    with sweep.locked(definition), sweep.Stopping() as stopping:
        told = lambda study, trial, ended: print(trial.number, flush=True)
        sweep.search(definition, BUDGET, 2, math.inf, stopping, told)
""".replace("BUDGET", str(BUDGET))
SWEEP = """
study: killed
sampler: {kind: random, seed: 1}
pruner: {kind: none}
space:
  model.lstm_units: {low: 1, high: 1000}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "program.py").write_text(PROGRAM)
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).touch()
    return tmp_path


def start(folder: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "program.py"], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def children(process: int) -> list[int]:
    listed = subprocess.run(["ps", "-o", "pid=,args=", "--ppid", str(process)], capture_output=True, text=True).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if "spawn_main" in line]


def kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def finish(folder: Path) -> str:
    """Starts it until it ends by itself; a start may find the workers of the last one still there, and waits."""
    done = start(folder)
    printed, _ = done.communicate(timeout=120)
    assert done.returncode == 0, printed
    return printed


def finished_files(folder: Path) -> dict[str, dict]:
    return {file.name: json.loads(file.read_text()) for file in (folder / "study/trials").glob("[0-9]*.json")}


def check(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from bilstm_attention.experiment.space import read_sweep
    from bilstm_attention.params import Params

    monkeypatch.chdir(folder)
    read, space = read_sweep(Path("sweep.yaml"), Params(), {})
    study = open_study(Definition(read, space, Path("study")))
    ended = counted(study)
    assert len(ended) == BUDGET
    assert {trial.state.name for trial in ended} == {"COMPLETE"}
    assert not [trial for trial in study.get_trials() if trial.state.name == "RUNNING"]
    # each is its own, by the number of its first try, and has the score that its parameters give
    firsts = Counter(trial.user_attrs.get("retry_of", trial.number) for trial in ended)
    assert set(firsts.values()) == {1}
    assert all(trial.value == trial.params["model.lstm_units"] for trial in ended)
    assert len({trial.user_attrs["seed"] for trial in ended}) == BUDGET


@pytest.mark.parametrize("victim", ["worker", "parent", "all"])
@pytest.mark.parametrize("moment", range(7))
def test_nothing_is_lost_or_doubled(victim: str, moment: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(f"{victim} {moment}")
    process = start(folder)
    assert process.stdout is not None
    process.stdout.readline()  # the first trial has ended
    time.sleep(draw.uniform(0, 0.5))
    workers = children(process.pid)
    before = {name: found for name, found in finished_files(folder).items() if found["state"] == "COMPLETE"}
    if victim == "worker" and workers:
        kill(draw.choice(workers))
    else:
        for each in [process.pid, *workers] if victim == "all" else [process.pid]:
            kill(each)
    process.communicate(timeout=120)
    finish(folder)
    check(folder, monkeypatch)
    after = finished_files(folder)
    assert {name: after[name] for name in before} == before


def test_a_second_process_is_kept_from_the_study(folder: Path) -> None:
    process = start(folder)
    assert process.stdout is not None
    process.stdout.readline()
    second = start(folder)
    printed, _ = second.communicate(timeout=60)
    assert second.returncode != 0
    assert "the sweep runs already, in another process" in printed
    process.communicate(timeout=120)
    assert process.returncode == 0


def test_ctrl_c_ends_with_every_trial_ended_and_the_next_start_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = start(folder)
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0, printed
    assert "stopping when the running trials have ended" in printed
    assert len(finished_files(folder)) < BUDGET
    finish(folder)
    check(folder, monkeypatch)
