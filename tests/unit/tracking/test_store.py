"""A run says all there is to know of it, in one store for every copy of the project."""

import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.small import begin_project, commit_all

from bilstm_attention.config import Params, flatten
from bilstm_attention.tracking.environment import environment_tags, input_digests
from bilstm_attention.tracking.store import RunRecord, Tracker, artifact_uri, fingerprints, shown_uri, store_uri

EXAMPLE = "The <e1>wheel</e1> of the <e2>car</e2> broke."
Logged = tuple[Tracker, str, str]
LABELS = ["Component-Whole(e1,e2)", "Component-Whole(e2,e1)", "Other"]

pytestmark = pytest.mark.usefixtures("inside")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project under git with an empty store, whose tables take seconds to make."""
    root = begin_project(tmp_path_factory.mktemp("tracked") / "project")
    (root / "data").mkdir()
    outs = [{"path": "data/prepared/train.parquet", "md5": "0123"}]
    (root / "dvc.lock").write_text(json.dumps({"stages": {"prepare": {"outs": outs}, "train@0": {"outs": outs}}}))
    for split in ("train", "dev"):
        (root / "data" / f"{split}.parquet").write_text(split)
    return commit_all(root)


def record(**more: Any) -> RunRecord:
    return RunRecord(**{"name": "zhou u=100 seed=2", "started": 1_700_000_000.5, "params": flatten(Params()), **more})


def statuses(tracker: Tracker) -> dict[str, str]:
    return {run.info.run_name: run.info.status for run in tracker.client.search_runs([tracker.experiment])}


def test_a_run_reads_back_as_it_was_recorded(tracker: Tracker, project: Path, tmp_path: Path) -> None:
    picture, folder = tmp_path / "picture.png", tmp_path / "answers"
    picture.write_bytes(b"png")
    folder.mkdir()
    (folder / "gold.txt").write_text("1\tOther\n")
    history = [{"epoch": epoch, "loss": 1.0 / epoch, "dev_accuracy": 50.0 + epoch} for epoch in (1, 2, 3)]
    run_id = tracker.record(
        record(
            metrics={"best_dev_accuracy": 53.0},
            history=history,
            tags={"seed": "2"},
            datasets=fingerprints({split: Path(f"data/{split}.parquet") for split in ("train", "dev")}),
            artifacts={"plots": [picture], "answers": [folder]},
        )
    )
    run = tracker.client.get_run(run_id)
    assert (run.info.run_name, run.info.status) == ("zhou u=100 seed=2", "FINISHED")
    assert run.info.start_time == 1_700_000_000_500
    assert run.info.end_time > time.time() * 1000 - 600_000
    assert run.data.params == {name: str(value) for name, value in flatten(Params()).items()}
    assert run.data.metrics["best_dev_accuracy"] == 53.0
    for name in ("loss", "dev_accuracy"):
        steps = {metric.step: metric.value for metric in tracker.client.get_metric_history(run_id, name)}
        assert steps == {row["epoch"]: row[name] for row in history}
    assert "epoch" not in run.data.metrics
    given = {entry.dataset.name: entry.dataset for entry in run.inputs.dataset_inputs}
    assert {role: dataset.digest for role, dataset in given.items()} == {
        role: hashlib.sha256(role.encode()).hexdigest()[:36] for role in ("train", "dev")
    }
    assert json.loads(given["dev"].source) == {"uri": "data/dev.parquet"}
    assert [file.path for file in tracker.client.list_artifacts(run_id, "plots")] == ["plots/picture.png"]
    assert [file.path for file in tracker.client.list_artifacts(run_id, "answers")] == ["answers/gold.txt"]


def test_a_run_says_where_it_was_made() -> None:
    tags = environment_tags()
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()
    assert tags["mlflow.source.git.commit"] == commit
    assert (tags["git.dirty"], tags["host"]) == ("false", socket.gethostname())
    assert tags["python"] == ".".join(map(str, sys.version_info[:3]))
    assert tags["version.numpy"] == np.__version__
    assert {"version.tensorflow", "version.keras", "version.mlflow", "platform", "device"} <= set(tags)
    assert input_digests() == {"dvc.lock/data/prepared/train.parquet": "0123"}


def test_uncommitted_changes_are_told(project: Path) -> None:
    before = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text("{} # changed\n")
    try:
        assert environment_tags()["git.dirty"] == "true"
    finally:
        (project / "params.yaml").write_text(before)


def test_without_git_a_run_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    tags = environment_tags()
    assert "host" in tags
    assert not {"mlflow.source.git.commit", "git.dirty"} & set(tags)


def test_a_long_history_is_recorded_whole(tracker: Tracker) -> None:
    run_id = tracker.record(record(history=[{"epoch": epoch, "a": 1.0, "b": 2.0} for epoch in range(1, 702)]))
    assert [len(tracker.client.get_metric_history(run_id, name)) for name in "ab"] == [701, 701]


def make_copy(project: Path, place: str) -> Path:
    copy = project / place
    copy.mkdir(parents=True)
    for name in ("dvc.yaml", "params.yaml"):
        (copy / name).touch()
    return copy


@pytest.fixture
def copy(project: Path) -> Iterator[Path]:
    yield make_copy(project, ".dvc/tmp/exps/standalone/tmpabc")
    shutil.rmtree(project / ".dvc")


def test_store_and_artifacts_lie_in_the_main_checkout_by_absolute_address(
    project: Path, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (project, project / "data", copy):
        monkeypatch.chdir(folder)
        assert store_uri() == f"sqlite:///{project}/experiments/mlflow.db"
        assert artifact_uri() == f"file://{project}/experiments/mlartifacts"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert store_uri() == "http://127.0.0.1:5000"


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if ".git" not in path.parts}


def test_a_run_of_a_temporary_copy_lands_in_the_main_checkout_and_leaves_nothing_behind(
    project: Path, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(copy)
    before = files(project)
    (tmp_path / "picture.png").touch()
    tracker = Tracker("of a copy")
    run_id = tracker.record(record(artifacts={"plots": [tmp_path / "picture.png"]}))
    new = files(project) - before
    assert new
    assert not [path for path in new if not path.is_relative_to(project / "experiments/mlartifacts")]
    monkeypatch.chdir(project)
    assert Tracker("of a copy").client.get_run(run_id).info.artifact_uri.startswith(artifact_uri())


@pytest.mark.usefixtures("tracker")  # which makes the tables
def test_another_database_keeps_its_runs_and_the_project_its_artifacts(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(project / "experiments/mlflow.db", tmp_path / "other.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other.db")
    before = files(project)
    tracker = Tracker("elsewhere")
    run = tracker.client.get_run(tracker.record(record()))
    assert run.info.artifact_uri.startswith(artifact_uri())
    assert not [path for path in files(project) - before if "mlruns" in path.parts]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert Tracker("here").client.get_experiment_by_name("elsewhere") is None


def test_the_newest_finished_run_with_a_tag_is_found(tracker: Tracker) -> None:
    assert tracker.newest("model.sha256", "aa") is None
    ids = [
        tracker.record(record(started=1_700_000_000 + hours, tags={"model.sha256": digest}))
        for hours, digest in ((2, "aa"), (3, "aa"), (1, "aa"), (4, "bb"))
    ]
    assert tracker.newest("model.sha256", "aa") == ids[1]
    tracker.client.set_terminated(ids[1], "KILLED")
    assert tracker.newest("model.sha256", "aa") == ids[0]
    assert tracker.newest("model.sha256", "cc") is None
    assert Tracker("another corpus").newest("model.sha256", "aa") is None


def test_numbers_join_a_run_that_has_ended(tracker: Tracker) -> None:
    run_id = tracker.record(record(metrics={"best_dev_accuracy": 50.0}))
    tracker.add(run_id, metrics={"test_accuracy": 49.0}, datasets=fingerprints({"test": Path("data/dev.parquet")}))
    tracker.add(run_id, metrics={"test_accuracy": 49.0}, datasets=fingerprints({"test": Path("data/dev.parquet")}))
    run = tracker.client.get_run(run_id)
    assert run.data.metrics == {"best_dev_accuracy": 50.0, "test_accuracy": 49.0}
    assert [entry.dataset.name for entry in run.inputs.dataset_inputs] == ["test"]
    assert run.info.status == "FINISHED"


def test_adopted_runs_are_the_children_of_their_parent(tracker: Tracker) -> None:
    parent, *children = [tracker.record(record(name=name)) for name in ("parent", "one", "two", "alone")]
    tracker.adopt(parent, children[:2])
    query = f"tags.mlflow.parentRunId = '{parent}'"
    assert {run.info.run_id for run in tracker.client.search_runs([tracker.experiment], query)} == set(children[:2])


def test_runs_of_dead_processes_of_this_machine_are_ended_and_no_others(tracker: Tracker) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here = socket.gethostname()
    for name, host, process in (
        ("dead here", here, str(dead.pid)),
        ("alive here", here, str(os.getpid())),
        ("dead elsewhere", "another-machine", str(dead.pid)),
    ):
        tags = {"host": host, "process": process}
        tracker.client.create_run(tracker.experiment, int(time.time() * 1000), tags, name)
    tracker.client.create_run(tracker.experiment, run_name="not ours")
    again = Tracker(tracker.client.get_experiment(tracker.experiment).name)
    assert statuses(again) == {
        "dead here": "KILLED",
        "alive here": "RUNNING",
        "dead elsewhere": "RUNNING",
        "not ours": "RUNNING",
    }


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://reader:secret@db.local/runs", "postgresql://reader:***@db.local/runs"),
        ("postgresql://reader:sec/r@et@db.local/runs", "postgresql://reader:***@db.local/runs"),
        ("postgresql:///runs?user=reader&password=secret&x=1", "postgresql:///runs?user=reader&password=***&x=1"),
        ("https://secret@host/path?a=b@c", "https://***@host/path?a=b@c"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("sqlite:////home/a@b/runs.db", "sqlite:////home/a@b/runs.db"),
    ],
)
def test_a_password_in_the_address_is_not_shown(address: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert shown_uri() == shown
