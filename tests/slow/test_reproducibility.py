"""A rerun in another folder gives the same bytes; DVC experiments have runs of their own."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML
from tests.project import Project

TRAINING = """
from bilstm_attention.config import Model
from tests.unit.training.small_task import bits, dropout, fit, train
print(*bits(fit(train(batch_size=32), Model(lstm_units=40, dropout=dropout(0.3)), seed=5)))
"""


def test_processes_and_threads_change_no_bit():
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


def test_rerun_in_another_folder_with_seeds_at_once_writes_the_same_bytes(first_repro, new_project, tmp_path):
    """By `make repro`, whose processes of DVC write `dvc.lock` at the same time."""
    one, other = Project(shutil.copytree(first_repro.root, tmp_path / "one")), new_project()
    for project in (one, other):
        project.apply("train.seeds=[0,1,2]")
    one.run("dvc", "repro")
    venv = Path(sys.prefix)
    printed = other.run("make", "repro", "JOBS=3", f"VENV={venv}", f"--old-file={venv / '.installed'}")
    assert "Stage 'train@2' didn't change, skipping" in printed
    assert len(one.outputs()) > 20
    assert other.outputs() == one.outputs()
    # the order in `dvc.lock` is that in which the trainings ended
    assert YAML(typ="safe").load(other.read("dvc.lock")) == YAML(typ="safe").load(one.read("dvc.lock"))


def test_experiment_of_dvc_has_a_run_of_its_own(first_repro):
    from mlflow import MlflowClient

    first_repro.run("dvc", "exp", "run", "--temp", "--set-param", "model.lstm_units=5")
    client = MlflowClient(f"sqlite:///{first_repro.root}/experiments/mlflow.db")
    runs = client.search_runs([each.experiment_id for each in client.search_experiments()])
    by_units = {run.data.params["model.lstm_units"]: run for run in runs}
    assert by_units.keys() == {"8", "5"}
    run = by_units["5"]
    assert run.data.tags["dvc.experiment"] in run.info.run_name
    assert (run.info.status, "test/official_f1" in run.data.metrics) == ("FINISHED", True)
