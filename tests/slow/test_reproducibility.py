"""A rerun in another folder gives the same bytes; DVC experiments have runs of their own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from ruamel.yaml import YAML
from tests.project import Project

TRAINING = """
from bilstm_attention.config import Model
from tests.unit.training.test_fit import bits, dropout, fit, train
print(*bits(fit(train(batch_size=32), Model(lstm_units=40, dropout=dropout(0.3)), seed=5)))
"""


def test_processes_and_threads_change_no_bit() -> None:
    children = [
        subprocess.Popen(
            [sys.executable, "-c", TRAINING],
            cwd=Path(__file__).parents[2],
            env={**os.environ, "BILSTM_ATTENTION_THREADS": threads},
            stdout=subprocess.PIPE,
            text=True,
        )
        for threads in ("1", "1", "2")
    ]
    first, *others = [child.communicate()[0].strip() for child in children]
    assert first
    assert others == [first, first]


def test_forced_rerun_in_another_folder_writes_the_same_bytes(first_repro: Project) -> None:
    before = first_repro.outputs()
    assert len(before) > 20
    first_repro.run("dvc", "repro", "--force")
    outputs = first_repro.outputs()
    assert outputs.keys() == before.keys()
    assert [name for name, content in outputs.items() if before[name] != content] == []
    # dvc.lock is the same too
    assert first_repro.run("git", "status", "--porcelain") == ""


def test_seeds_trained_at_once_give_the_same_bytes(new_project: Callable[[], Project]) -> None:
    """By `make repro`, whose processes of DVC write `dvc.lock` at the same time."""
    one, other = new_project(), new_project()
    for project in (one, other):
        project.apply("train.seeds=[0,1,2]")
    one.run("dvc", "repro")
    venv = Path(sys.prefix)
    printed = other.run("make", "repro", "JOBS=3", f"VENV={venv}", f"--old-file={venv / '.installed'}")
    assert "Stage 'train@2' didn't change, skipping" in printed
    assert other.outputs() == one.outputs()
    # the order in `dvc.lock` is that in which the trainings ended
    assert YAML(typ="safe").load(other.read("dvc.lock")) == YAML(typ="safe").load(one.read("dvc.lock"))


def test_experiments_of_dvc_have_runs_of_their_own(first_repro: Project) -> None:
    from mlflow import MlflowClient

    project = first_repro
    for options, units in ((("--temp",), 5), ((), 6)):
        project.run("dvc", "exp", "run", *options, "--set-param", f"model.lstm_units={units}")
    client = MlflowClient(f"sqlite:///{project.root}/experiments/mlflow.db")
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    by_units = {run.data.params["model.lstm_units"]: run for run in runs}
    assert by_units.keys() == {"8", "5", "6"}
    for units in ("5", "6"):
        run = by_units[units]
        assert run.data.tags["dvc.experiment"] in run.info.run_name
        assert (run.info.status, "test/official_f1" in run.data.metrics) == ("FINISHED", True)
    assert "# U per direction" in project.read("params.yaml").decode()
    project.run("git", "checkout", "-q", "--", ".")
    project.run("dvc", "checkout", "--force")
