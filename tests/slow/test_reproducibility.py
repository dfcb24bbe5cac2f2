"""Another clone, a forced rerun and DVC experiments give the same bytes and runs of their own."""

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


def test_forced_rerun_and_another_clone_write_the_same_bytes(
    first_repro: tuple[Project, str], new_project: Callable[[], Project]
) -> None:
    project, _ = first_repro
    before = project.outputs()
    assert len(before) > 20
    other = new_project()
    other.run("dvc", "repro")
    project.run("dvc", "repro", "--force")
    for again in (project, other):
        outputs = again.outputs()
        assert outputs.keys() == before.keys()
        assert [name for name, content in outputs.items() if before[name] != content] == []
    assert project.run("git", "status", "--porcelain") == ""
    assert other.read("dvc.lock") == project.read("dvc.lock")


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


def test_experiments_of_dvc_have_runs_of_their_own(first_repro: tuple[Project, str]) -> None:
    from mlflow import MlflowClient

    project, _ = first_repro
    for options, units in ((("--temp",), 5), ((), 6)):
        project.run("dvc", "exp", "run", *options, "--set-param", f"model.lstm_units={units}")
    client = MlflowClient(f"sqlite:///{project.root}/experiments/mlflow.db")
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    names = {run.info.run_name: run for run in runs}
    assert names.keys() >= {"zhou u=8 seed=0", "zhou u=5 seed=0", "zhou u=6 seed=0"}
    assert "test_official_f1" in names["zhou u=5 seed=0"].data.metrics
    assert "# U per direction" in project.read("params.yaml").decode()
    project.run("git", "checkout", "-q", "--", ".")
    project.run("dvc", "checkout", "--force")
