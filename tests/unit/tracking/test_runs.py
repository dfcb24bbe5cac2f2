"""Runs are followed live, written once, completed later, and cost no result when the store fails."""

import hashlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from tests.small import begin_project, commit_all, write

from bilstm_attention.config import Params, flatten
from bilstm_attention.errors import UserError
from bilstm_attention.tracking import environment, runs
from bilstm_attention.tracking.environment import check_up_to_date, environment_tags, input_digests, warn_if_stale
from bilstm_attention.tracking.runs import NOTE, PARENT, RunRecord, Tracker, complete_runs, fingerprints, log_runs
from bilstm_attention.tracking.store import artifact_uri, open_store, report_store_errors, shown_uri, store_uri

pytestmark = pytest.mark.usefixtures("inside")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = begin_project(tmp_path_factory.mktemp("tracked") / "project")
    outs = [{"path": "data/prepared/train.parquet", "md5": "0123"}]
    write(root / "dvc.lock", {"stages": {"prepare": {"outs": outs}, "train@0": {"outs": outs}}})
    for split in ("train", "dev"):
        write(root / f"data/{split}.parquet", split)
    return commit_all(root)


def record(identity: str = "a", **more: Any) -> RunRecord:
    return RunRecord(**{"name": "zhou seed=2", "identity": ("id", identity), "params": flatten(Params()), **more})


def test_run_reads_back_as_recorded(tracker, tmp_path):
    picture = write(tmp_path / "picture.png", b"png")
    folder = write(tmp_path / "answers/gold.txt", "1\tOther\n").parent
    history = [{"epoch": epoch, "loss": 1.0 / epoch} for epoch in range(1, 702)]
    run_id = tracker.write(
        record(
            started=1_700_000_000.5,
            metrics={"best_epoch": 53.0},
            history=history,
            tags={"seed": "2"},
            datasets=fingerprints({split: Path(f"data/{split}.parquet") for split in ("train", "dev")}),
            artifacts={"plots": [picture], "answers": [folder]},
            description="[page](artifact:attention/a b.html) ![picture](artifact:plots/picture.png)",
        )
    )
    run = tracker.client.get_run(run_id)
    assert (run.info.run_name, run.info.status, run.info.start_time) == ("zhou seed=2", "FINISHED", 1_700_000_000_500)
    assert run.data.params == {name: str(value) for name, value in flatten(Params()).items()}
    assert run.data.metrics["best_epoch"] == 53.0
    assert steps(tracker, run_id, "loss") == {row["epoch"]: row["loss"] for row in history}
    digests = {entry.dataset.name: entry.dataset.digest for entry in run.inputs.dataset_inputs}
    assert digests == {role: hashlib.sha256(role.encode()).hexdigest()[:36] for role in ("train", "dev")}
    for file in ("plots/picture.png", "answers/gold.txt"):
        assert [each.path for each in tracker.client.list_artifacts(run_id, file.partition("/")[0])] == [file]
    assert run.data.tags[NOTE] == (
        f"[page](#/experiments/{tracker.experiment}/runs/{run_id}/artifacts/attention/a%20b.html)"
        f" ![picture](get-artifact?path=plots%2Fpicture.png&run_uuid={run_id})"
    )


def test_second_record_completes_the_run(tracker):
    first = record(metrics={"dev": 1.0}, history=[{"epoch": 1, "loss": 2.0}], description="trained")
    run_id = tracker.write(first)
    tested = record(metrics={"dev": 1.0, "test": 3.0}, history=first.history, description="evaluated")
    assert tracker.write(tested) == run_id
    run = tracker.client.get_run(run_id)
    assert {"dev": 1.0, "test": 3.0}.items() <= run.data.metrics.items()
    assert run.data.tags[NOTE] == "evaluated"
    for name in ("dev", "test", "loss"):
        assert len(tracker.client.get_metric_history(run_id, name)) == 1


def steps(tracker: Tracker, run_id: str, metric: str) -> dict[int, float]:
    """The points of a metric, each once."""
    points = tracker.client.get_metric_history(run_id, metric)
    assert len({point.step for point in points}) == len(points)
    return {point.step: point.value for point in points}


def test_kept_epoch_is_the_last_step():
    rows = ((1, 1.0, 9.0), (2, 0.5, 8.0))
    history = [{"epoch": e, "learning_rate": 0.1, "loss": loss, "dev_accuracy": dev} for e, loss, dev in rows]
    logged = runs.training_metrics(history, {"accuracy": 9.0}, best_epoch=1)
    assert logged["history"][2] == {"epoch": 3, "loss": 1.0, "dev/accuracy": 9.0}
    assert logged["metrics"] == {"loss": 1.0, "dev/accuracy": 9.0, "best_epoch": 1}


@contextmanager
def live(tracker: Tracker) -> Iterator[Callable[[Any], None]]:
    """A run that begins with one epoch and ends with two."""
    name = tracker.client.get_experiment(tracker.experiment).name

    def running() -> RunRecord:
        return record(history=[{"epoch": 1, "loss": 2.0}], status="RUNNING")

    def finished() -> list[RunRecord]:
        return [record(history=[{"epoch": epoch, "loss": 2.0 / epoch} for epoch in (1, 2)])]

    with runs.live_runs(name, "the training", running, finished) as submit:
        submit(lambda tracker: tracker.write(running()))
        yield submit


def wait_for(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_run_is_there_while_work_goes_on(tracker):
    with live(tracker) as submit:
        wait_for(lambda: (run := tracker.find(("id", "a"))) and run.data.metrics == {"loss": 2.0})
        run = tracker.find(("id", "a"))
        assert run
        assert (run.info.status, run.data.params["model.lstm_units"]) == ("RUNNING", "100")
        submit(lambda tracker: tracker.log_epoch(("id", "a"), {"epoch": 2, "loss": 1.5}))
        wait_for(lambda: tracker.client.get_run(run.info.run_id).data.metrics == {"loss": 1.5})
    assert tracker.client.get_run(run.info.run_id).info.status == "FINISHED"
    assert steps(tracker, run.info.run_id, "loss") == {1: 2.0, 2: 1.5}


@pytest.mark.parametrize(("error", "status"), [(KeyboardInterrupt, "KILLED"), (ZeroDivisionError, "FAILED")])
def test_broken_off_run_resumes_and_a_finished_one_does_not(error, status, tracker):
    with pytest.raises(error), live(tracker):
        raise error
    run = tracker.find(("id", "a"))
    assert run
    assert run.info.status == status
    with live(tracker):
        wait_for(lambda: tracker.client.get_run(run.info.run_id).info.status == "RUNNING")
    assert steps(tracker, run.info.run_id, "loss") == {1: 2.0, 2: 1.0}
    assert len(tracker.client.search_runs([tracker.experiment])) == 1
    # the same work from its beginning
    assert tracker.write(record(status="RUNNING")) != run.info.run_id


def test_store_that_hangs_costs_one_warning(tracker, monkeypatch, capsys):
    hanging = threading.Event()
    monkeypatch.setattr(runs, "open_store", hanging.wait)
    monkeypatch.setattr(runs, "WAIT_SECONDS", 0.01)
    with live(tracker) as submit:
        submit(lambda tracker: None)
    hanging.set()
    wait_for(lambda: all(thread.name != "mlflow" for thread in threading.enumerate()))
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: the training was not logged to MLflow (")
    assert "no answer for 0.01 s" in warning


def test_store_that_fails_drops_the_rest(tracker, monkeypatch, capsys):
    built, begun = list[str](), threading.Event()

    def fail(*arguments, **options):
        begun.set()
        raise ConnectionError("cut off")

    monkeypatch.setattr(MlflowClient, "log_batch", fail)
    with live(tracker) as submit:
        assert begun.wait(120)
        submit(lambda tracker: built.append("later"))
    assert built == []
    (warning,) = capsys.readouterr().err.splitlines()
    assert "ConnectionError: cut off" in warning


def test_run_with_other_params_is_replaced(tracker):
    first = tracker.write(record(params={"kind": "zhou"}, metrics={"dev": 1.0}, replaces=True))
    child = tracker.write(record("child", parent=("id", "a")))
    assert tracker.write(record(params={"kind": "zhou"}, metrics={"dev": 1.0}, replaces=True)) == first
    second = tracker.write(record(params={"kind": "max"}, metrics={"dev": 2.0}, replaces=True))
    tracker.write(record("child", parent=("id", "a")))
    assert tracker.client.get_run(child).data.tags[PARENT] == second
    kinds = [(run.info.run_id, run.data.params.get("kind")) for run in tracker.client.search_runs([tracker.experiment])]
    assert {*kinds} == {(second, "max"), (child, None)}


def test_parent_has_its_children(inside, request):
    parent = record("parent", metrics={"mean": 2.0})
    children = [record(f"child {number}", parent=parent.identity) for number in (0, 1)]
    ids = log_runs(request.node.name, [parent, *children], "all")
    tracker = Tracker(request.node.name)
    parents = [tracker.client.get_run(ids[child.identity]).data.tags[PARENT] for child in children]
    assert parents == [ids[parent.identity]] * 2
    later = record("later", parent=parent.identity)
    run_id = log_runs(request.node.name, [later], "one")[later.identity]
    assert tracker.client.get_run(run_id).data.tags[PARENT] == ids[parent.identity]


@pytest.mark.parametrize("call", ["create_run", "log_batch", "log_inputs", "log_artifact", "set_terminated"])
def test_run_cut_off_at_any_call_is_completed(call, tracker, tmp_path, monkeypatch, request):
    whole = record(
        metrics={"dev": 1.0},
        history=[{"epoch": epoch, "loss": 2.0, "dev/loss": 3.0} for epoch in (1, 2)],
        datasets=fingerprints({"train": Path("data/train.parquet")}),
        artifacts={"": [write(tmp_path / "page.html", "")]},
        description="trained",
    )
    real, calls = getattr(MlflowClient, call), list[str]()

    def fail_at_second(*arguments, **named):
        calls.append(call)
        # of most calls there is one alone
        if len(calls) == (2 if call == "log_batch" else 1):
            raise ConnectionError("cut off")
        return real(*arguments, **named)

    name = request.node.name
    with monkeypatch.context() as outage:
        outage.setattr(MlflowClient, call, fail_at_second)
        assert log_runs(name, [whole], "the training") == {}
    assert complete_runs(name, [whole]) == 1
    assert complete_runs(name, [whole]) == 0
    (run,) = tracker.client.search_runs([tracker.experiment])
    assert run.info.status == "FINISHED"
    assert run.data.params["model.lstm_units"] == "100"
    for metric, points in {"dev": 1, "loss": 2, "dev/loss": 2}.items():
        assert len(tracker.client.get_metric_history(run.info.run_id, metric)) == points
    assert [file.path for file in tracker.client.list_artifacts(run.info.run_id)] == ["page.html"]
    assert [entry.dataset.name for entry in run.inputs.dataset_inputs] == ["train"]
    assert run.data.tags[NOTE] == "trained"


def test_run_without_its_scores_is_missing(inside, request):
    name, tested = request.node.name, record(metrics={"dev": 1.0, "test": 3.0})
    log_runs(name, [record(metrics={"dev": 1.0})], "the training")
    assert complete_runs(name, [tested, record("b")]) == 2
    assert complete_runs(name, [tested, record("b")]) == 0


def test_run_of_a_dead_process_is_closed(tracker, request):
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    tags = {"host": socket.gethostname(), "process": str(process.pid)}
    dead = tracker.client.create_run(tracker.experiment, 0, tags, "dead").info.run_id
    own = tracker.client.create_run(tracker.experiment, 0, environment_tags(), "own").info.run_id
    Tracker(request.node.name)
    assert tracker.client.get_run(dead).info.status == "KILLED"
    assert tracker.client.get_run(own).info.status == "RUNNING"


# a file that is no database, and a server that is not there
@pytest.mark.parametrize("address", ["sqlite:///{}/broken.db", "http://user:secret@127.0.0.1:9"])
def test_failing_store_costs_a_warning(address, tmp_path, monkeypatch, capsys):
    (tmp_path / "broken.db").write_text("no database " * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address.format(tmp_path))
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    assert log_runs("corpus", [record()], "the training of seed 0") == {}
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: the training of seed 0 was not logged to MLflow (")
    assert "`bilstm-attention sync` logs them" in warning
    assert "secret" not in warning
    with pytest.raises(UserError, match=r"^(sqlite|http)"), report_store_errors():
        Tracker("corpus")
    assert (tmp_path / "broken.db").read_text() == "no database " * 100


def test_database_appears_only_with_all_its_tables(tmp_path, monkeypatch):
    """MLflow fails on a file that a process left when it was killed while it made the tables."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/new.db")

    def die(client, **options):
        assert Path(client.tracking_uri.removeprefix("sqlite:///")).parent != tmp_path
        raise KeyboardInterrupt

    monkeypatch.setattr(MlflowClient, "search_experiments", die)
    with pytest.raises(KeyboardInterrupt):
        open_store()
    assert list(tmp_path.iterdir()) == []


def test_store_lies_in_the_main_checkout(project, monkeypatch):
    copy = begin_project(project / ".dvc/tmp/exps/standalone/tmpabc")
    for folder in (project, project / "data", copy):
        monkeypatch.chdir(folder)
        assert store_uri() == f"sqlite:///{project}/experiments/mlflow.db"
        assert artifact_uri() == f"file://{project}/experiments/mlartifacts"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert store_uri() == "http://127.0.0.1:5000"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("postgresql://me:secret@host/runs", "postgresql://me:***@host/runs"),
        ("https://token@host/a?x=1", "https://***@host/a?x=1"),
        ("https://host/a?api_key=secret&x=1", "https://host/a?api_key=***&x=1"),
    ],
)
def test_shown_address_hides_secrets(address, shown, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    assert shown_uri() == shown


def test_run_can_be_made_while_tensorflow_is_imported(monkeypatch):
    """By another thread, when the module is there and has nothing yet."""
    monkeypatch.setitem(sys.modules, "tensorflow", ModuleType("tensorflow"))
    assert environment_tags()["device"] == "cpu"


def test_tags_say_where_a_run_was_made(project):
    tags = environment_tags()
    commit = subprocess.check_output(["git", "rev-parse", "HEAD"], text=True).strip()
    assert tags["mlflow.source.git.commit"] == commit
    assert (tags["git.dirty"], tags["host"]) == ("false", socket.gethostname())
    assert tags["version.numpy"] == np.__version__
    assert input_digests() == {"dvc.lock/data/prepared/train.parquet": "0123"}
    before = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text("{} # changed\n")
    assert environment_tags()["git.dirty"] == "true"
    (project / "params.yaml").write_text(before)


def test_without_git_a_run_has_no_commit(tmp_path, monkeypatch):
    monkeypatch.chdir(begin_project(tmp_path))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert not {"mlflow.source.git.commit", "git.dirty"} & set(environment_tags())


STATUS = {
    "embed": [{"changed deps": {"params.yaml": {"embeddings.window": "modified"}}}],
    "train@0": [{"changed deps": {"src/bilstm_attention/model": "modified", "params.yaml": {"model": "new"}}}],
    "train@1": ["always changed", {"changed deps": {"params.yaml": "modified"}}],
    "train@2": [
        {"changed deps": {"params.yaml": {"model": "modified"}}},
        {"changed outs": {"experiments/current/models/seed-2": "modified"}},
    ],
}


def test_stale_stages_are_a_warning_or_an_error(monkeypatch, capsys):
    done = subprocess.CompletedProcess([], 0, stdout=json.dumps(STATUS), stderr="")
    monkeypatch.setattr(environment.subprocess, "run", lambda *arguments, **options: done)
    assert environment.stages_of_other_params("train@0") == {"embed"}
    warn_if_stale([0, 1])
    warning = "warning: embed, train@0, train@1, train@2: changed since the last training"
    assert capsys.readouterr().err.startswith(warning)
    with pytest.raises(UserError, match=r"embed, .*: changed since it was prepared; `dvc repro embed` first"):
        check_up_to_date("it was prepared", "embed")
    done.returncode, done.stderr = 255, "ERROR: Unable to acquire lock\nmore"
    warn_if_stale([0])
    assert capsys.readouterr().err.rstrip().endswith("not known: dvc status: Unable to acquire lock")
    with pytest.raises(UserError, match=r"^dvc status: Unable to acquire lock$"):
        check_up_to_date("it was prepared")
