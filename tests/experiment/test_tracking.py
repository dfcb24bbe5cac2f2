"""A run says all there is to know of it, in one store for every copy of the project; its model serves raw text."""

import hashlib
import json
import os
import re
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

from bilstm_attention.corpus.tokens import Vocabulary
from bilstm_attention.experiment import tracking
from bilstm_attention.experiment.environment import environment_tags
from bilstm_attention.experiment.tracking import Record, Tracker, artifact_uri, shown_uri, store_uri
from bilstm_attention.overrides import flatten
from bilstm_attention.params import Params

EXAMPLE = "The <e1>wheel</e1> of the <e2>car</e2> broke."
Logged = tuple[Tracker, str, str]
LABELS = ["Component-Whole(e1,e2)", "Component-Whole(e2,e1)", "Other"]


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project under git with an empty store, whose tables take seconds to make."""
    root = tmp_path_factory.mktemp("tracked") / "project"
    (root / "data").mkdir(parents=True)
    (root / "dvc.yaml").write_text("stages: {}\n")
    (root / "params.yaml").write_text("{}\n")
    outs = [{"path": "data/prepared/train.parquet", "md5": "0123"}]
    (root / "dvc.lock").write_text(json.dumps({"stages": {"prepare": {"outs": outs}, "train@0": {"outs": outs}}}))
    for split in ("train", "dev"):
        (root / "data" / f"{split}.parquet").write_text(split)
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "start"]):
        subprocess.run([*git, *words], cwd=root, check=True)
    return root


@pytest.fixture(autouse=True)
def _inside(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def tracker(request: pytest.FixtureRequest) -> Tracker:
    """An experiment of its own for each test."""
    return Tracker(request.node.name)


def record(**more: Any) -> Record:
    return Record(**{"name": "zhou u=100 seed=2", "started": 1_700_000_000.5, "params": Params(), **more})


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
            datasets={"train": Path("data/train.parquet"), "dev": Path("data/dev.parquet")},
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


def test_a_run_says_where_it_was_made(tracker: Tracker) -> None:
    tags = tracker.client.get_run(tracker.record(record(tags={"seed": "2"}))).data.tags
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()
    assert tags["mlflow.source.git.commit"] == commit
    assert (tags["seed"], tags["git.dirty"], tags["host"]) == ("2", "false", socket.gethostname())
    assert tags["dvc.lock/data/prepared/train.parquet"] == "0123"
    assert tags["python"] == ".".join(map(str, sys.version_info[:3]))
    assert tags["version.numpy"] == np.__version__
    assert {"version.tensorflow", "version.keras", "version.mlflow", "platform", "device"} <= set(tags)


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
    tracker.add(run_id, metrics={"test_accuracy": 49.0}, datasets={"test": Path("data/dev.parquet")})
    tracker.add(run_id, metrics={"test_accuracy": 49.0}, datasets={"test": Path("data/dev.parquet")})
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


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from bilstm_attention.network.classifier import build_classifier, save_classifier

    folder = tmp_path_factory.mktemp("tiny") / "classifier"
    folder.mkdir()
    vocabulary = Vocabulary(["the", "wheel", "of", "car", "broke", "."])
    vocabulary.save(folder / "vocabulary.txt")
    matrix = np.random.default_rng(0).normal(size=(len(vocabulary), 5)).astype(np.float32)
    matrix[0] = 0
    tiny = Params().model.model_copy(update={"lstm_units": 3})
    save_classifier(build_classifier(tiny, matrix, len(matrix), len(LABELS), seed=0), folder / "model.keras")
    (folder / "labels.json").write_text(json.dumps(LABELS))
    (folder / "params.yaml").write_text("{}\n")
    return folder


@pytest.fixture(scope="module")
def logged(project: Path, model_folder: Path) -> Logged:
    """A run with a model, and what logging it wrote to stderr; a process of its own has no warnings shown before."""
    code = f"""
from pathlib import Path
from bilstm_attention.experiment.tracking import Record, Tracker
from bilstm_attention.params import Params
tracker = Tracker("with a model")
run_id = tracker.record(Record("x", 0.0, Params()))
tracker.log_model(run_id, Path({str(model_folder)!r}), {EXAMPLE!r})
print(run_id)
"""
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=project, env=environment)
    assert done.returncode == 0, done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(project)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return Tracker("with a model"), done.stdout.splitlines()[-1], done.stderr


def only_model(logged: Logged) -> Any:
    tracker, run_id, _ = logged
    (output,) = tracker.client.get_run(run_id).outputs.model_outputs
    return tracker.client.get_logged_model(output.model_id)


def test_logging_a_model_warns_of_nothing(logged: Logged) -> None:
    shown = [line for line in logged[2].splitlines() if "warn" in line.lower() or "mlflow" in line.lower()]
    assert shown == []


SERVE = """
import ast, json, sys
from importlib.metadata import packages_distributions
from pathlib import Path
import mlflow
import pandas as pd

mlflow.set_tracking_uri({store!r})
model = mlflow.pyfunc.load_model({model!r})
table = model.predict(pd.DataFrame({{"text": {texts!r}}}))
asked = model.predict(pd.DataFrame({{"text": {texts!r}}}), params={{"attention": True}})
named = set()
for name, module in list(sys.modules.items()):
    if name.startswith("bilstm_attention"):
        for node in ast.parse(Path(module.__file__).read_text()).body:
            if isinstance(node, ast.Import):
                named |= {{alias.name for alias in node.names}}
            elif isinstance(node, ast.ImportFrom):
                named.add(node.module)
top = {{name.partition(".")[0] for name in named}} - set(sys.stdlib_module_names) - {{"bilstm_attention"}}
spread = {{**packages_distributions(), "ruamel": ["ruamel.yaml"]}}
print(json.dumps({{
    "inputs": model.metadata.signature.to_dict()["inputs"],
    "example": model.input_example["text"].tolist(),
    "label": table["label"].tolist(),
    "tokens": asked["tokens"].tolist(),
    "weights": asked["weights"].tolist(),
    "score": table["score"].tolist(),
    "probabilities": table["probabilities"].tolist(),
    "packages": sorted({{spread[name][0] for name in top}}),
}}))
"""
TEXTS = [EXAMPLE, "A <e1>dog</e1> unheard of <e2>barked</e2>"]


@pytest.fixture(scope="module")
def served(logged: Logged, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a fresh process, outside the project, gets from the logged model."""
    tracker, model = logged[0], only_model(logged)
    code = SERVE.format(store=tracker.client.tracking_uri, model=model.model_uri, texts=TEXTS)
    folder = tmp_path_factory.mktemp("outside")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_a_logged_model_serves_raw_text_in_a_fresh_process(served: dict[str, Any], model_folder: Path) -> None:
    from bilstm_attention.serving import load_folder

    direct = load_folder(model_folder).answer(TEXTS, attention=True)
    assert served["label"] == direct["label"].tolist()
    assert served["tokens"] == direct["tokens"].tolist()
    np.testing.assert_allclose(served["score"], direct["score"], atol=1e-6)
    for one, other in zip(served["probabilities"], direct["probabilities"], strict=True):
        assert one == pytest.approx(other, abs=1e-6)
    for one, other in zip(served["weights"], direct["weights"], strict=True):
        assert one == pytest.approx(other, abs=1e-6)
    assert json.loads(served["inputs"]) == [{"type": "string", "name": "text", "required": True}]
    assert served["example"] == [EXAMPLE]


def test_a_logged_model_requires_every_package_that_serving_imports(served: dict[str, Any]) -> None:
    assert "keras" in served["packages"]
    assert set(served["packages"]) <= set(tracking.SERVING_PACKAGES)


def test_a_logged_model_holds_no_pickle_and_all_that_serving_needs(logged: Logged) -> None:
    folder = Path(only_model(logged).artifact_location.removeprefix("file://"))
    names = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert not [name for name in names if re.search(r"\.(pkl|pickle|joblib|pyc|h5)$", name)]
    data = {f"data/classifier/{name}" for name in ("model.keras", "vocabulary.txt", "labels.json", "params.yaml")}
    assert data | {"code/bilstm_attention/serving.py", "MLmodel", "input_example.json"} <= names
    assert folder.is_relative_to(Path.cwd() / "experiments/mlartifacts")


def test_a_model_is_logged_once(logged: Logged, model_folder: Path) -> None:
    tracker, run_id, _ = logged
    before = only_model(logged).model_id
    tracker.log_model(run_id, model_folder, EXAMPLE)
    assert only_model(logged).model_id == before


def test_a_model_that_cannot_be_logged_leaves_its_run_finished(tracker: Tracker, tmp_path: Path) -> None:
    run_id = tracker.record(record())
    with pytest.raises(Exception, match="absent"):
        tracker.log_model(run_id, tmp_path / "absent", EXAMPLE)
    assert tracker.client.get_run(run_id).info.status == "FINISHED"


def test_a_model_that_could_not_be_logged_is_logged_the_next_time(
    tracker: Tracker, model_folder: Path, tmp_path: Path
) -> None:
    run_id = tracker.record(record())
    with pytest.raises(Exception, match="absent"):
        tracker.log_model(run_id, tmp_path / "absent", EXAMPLE)
    tracker.log_model(run_id, model_folder, EXAMPLE)
    models = [output.model_id for output in tracker.client.get_run(run_id).outputs.model_outputs]
    assert [str(tracker.client.get_logged_model(model).status) for model in models].count("READY") == 1


def test_a_password_in_the_address_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://reader:secret@db.local/runs")
    assert shown_uri() == "postgresql://reader:***@db.local/runs"
