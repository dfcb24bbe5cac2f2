"""A letter that the store did not take is kept whole, sent later as if it had been sent then, and never sent twice."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.small import begin_project, commit_all

from bilstm_attention import paths
from bilstm_attention.errors import UserError
from bilstm_attention.tracking import outbox
from bilstm_attention.tracking.outbox import Letter
from bilstm_attention.tracking.store import PARENT, RunRecord, Tracker
from bilstm_attention.tracking.sync import sync

PARAMS = {"train.epochs": 3, "train.seeds": [0, 1], "data.dev": None}
HISTORY = [{"epoch": epoch, "loss": np.float64(1.0 / epoch)} for epoch in (1, 2, 3)]

pytestmark = pytest.mark.usefixtures("inside")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return commit_all(begin_project(tmp_path_factory.mktemp("posted") / "project"))


def letter(experiment: str, folder: Path) -> Letter:
    """Two runs under a parent, with files, a dataset, scores that join one, and a test that is added once."""
    (folder / "answers").mkdir(parents=True)
    (folder / "answers/gold.txt").write_text("1\tOther\n")
    (folder / "page.html").write_text("<p>")
    written = Letter(experiment, f"what {experiment} is about")
    runs = [
        written.run(
            ("digest", f"of {name}"),
            RunRecord(
                name,
                1_700_000_000.5,
                PARAMS,
                metrics={"best": 50.0},
                history=HISTORY,
                tags={"seed": name},
                datasets={"train": ("data/train.parquet", "0" * 64)},
                artifacts={"plots": [folder / "page.html"], "answers": [folder / "answers"]},
            ),
        )
        for name in ("one", "two")
    ]
    parent = written.run(("whole", experiment), RunRecord("parent", 1_700_000_000.0, PARAMS))
    written.adopt(parent, runs)
    given: dict[str, Any] = {"metrics": {"test": np.float32(40.5)}, "artifacts": {"": [folder / "page.html"]}}
    written.add(runs[0], **given, once=("answers", "3"))
    written.add(parent, metrics={"test": 40.5})
    written.describe(parent, f"what {experiment} is about")
    return written


def content(experiment: str) -> dict[str, Any]:
    """All that the store says of the runs of an experiment, ids aside."""
    tracker = Tracker(experiment)
    runs = tracker.client.search_runs([tracker.experiment])
    names = {run.info.run_id: run.info.run_name for run in runs}

    def files(run: str, folder: str | None = None) -> list[str]:
        listed = tracker.client.list_artifacts(run, folder)
        return [path for file in listed for path in (files(run, file.path) if file.is_dir else [file.path])]

    def told(run: Any) -> dict[str, Any]:
        tags = {name: value for name, value in run.data.tags.items() if not name.startswith("mlflow.")}
        tags |= {"described": str("mlflow.note.content" in run.data.tags)}
        return {
            "status": run.info.status,
            "started": run.info.start_time,
            "params": run.data.params,
            "metrics": run.data.metrics,
            "loss": [(each.step, each.value) for each in tracker.client.get_metric_history(run.info.run_id, "loss")],
            "tags": tags,
            "parent": names.get(run.data.tags.get(PARENT, "")),
            "datasets": [(each.dataset.name, each.dataset.digest) for each in run.inputs.dataset_inputs],
            "files": sorted(files(run.info.run_id)),
        }

    assert len(names) == len(runs)
    return {run.info.run_name: told(run) for run in runs}


def test_a_letter_says_all_of_its_runs(tmp_path: Path) -> None:
    ids = letter("at once", tmp_path).post()
    assert len(set(ids.values())) == 3
    found = content("at once")
    assert found["one"]["params"] == {name: str(value) for name, value in PARAMS.items()}
    assert found["one"]["metrics"] == {"best": 50.0, "loss": pytest.approx(1 / 3), "test": 40.5}
    assert found["one"]["loss"] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert found["one"]["files"] == ["answers/gold.txt", "page.html", "plots/page.html"]
    assert found["two"]["datasets"] == [("train", "0" * 36)]
    assert (found["one"]["parent"], found["two"]["parent"], found["parent"]["parent"]) == ("parent", "parent", None)
    assert found["one"]["tags"]["answers"] == "3"
    assert found["one"]["tags"]["host"] == found["parent"]["tags"]["host"] == os.uname().nodename
    assert {run["status"] for run in found.values()} == {"FINISHED"}
    assert outbox.waiting() == []


def test_what_the_store_did_not_take_is_kept_and_sent_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    letter("undisturbed", tmp_path / "a").post()
    with monkeypatch.context() as outage:
        outage.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        assert letter("late", tmp_path / "b").post() == {}
        assert letter("later", tmp_path / "c").post() == {}
    (one, two) = capfd.readouterr().err.splitlines()
    assert "what late is about was not recorded" in one
    assert f"kept in {Path.cwd() / paths.OUTBOX}, and sent before the next record or by `bilstm-attention sync`" in two
    # its own copies: what it was written about may change
    (tmp_path / "b/page.html").write_text("changed")
    (tmp_path / "b/answers/gold.txt").unlink()
    server = "http://127.0.0.1:9"
    assert outbox.waiting() == [("what late is about", server), ("what later is about", server)]
    assert outbox.deliver() == []
    assert outbox.waiting() == []
    late, usual = content("late"), content("undisturbed")
    for runs, name in ((late, "late"), (usual, "undisturbed")):
        assert runs["parent"]["tags"].pop("whole") == name
    assert late == usual
    tracker = Tracker("late")
    page = tracker.client.download_artifacts(tracker.newest("digest", "of one"), "page.html", str(tmp_path))
    assert Path(page).read_text() == "<p>"


def test_the_next_record_takes_along_what_the_same_store_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as outage:
        outage.setattr(outbox, "Tracker", _refuses)
        letter("missed", tmp_path / "a").post()
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        letter("for another", tmp_path / "b").post()
    letter("met", tmp_path / "c").post()
    assert set(content("missed")) == set(content("met")) == {"one", "two", "parent"}
    # what another store missed waits for it, or for `sync`
    assert outbox.waiting() == [("what for another is about", "http://127.0.0.1:9")]
    assert outbox.deliver() == []
    assert outbox.waiting() == []


def test_sync_sends_what_another_store_missed_only_where_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        letter("of a server", tmp_path / "a").post()
    with monkeypatch.context() as outage:
        outage.setattr(outbox, "Tracker", _refuses)
        letter("of this store", tmp_path / "b").post()
    sync(everything=False)
    said = capsys.readouterr().out
    assert "1 of 1 kept records sent" in said
    assert "Missed by http://127.0.0.1:9: 1 more; set MLFLOW_TRACKING_URI to it, or say --all" in said
    assert set(content("of this store")) == {"one", "two", "parent"}
    assert len(outbox.waiting()) == 1
    sync(everything=True)
    assert "1 of 1 kept records sent" in capsys.readouterr().out
    assert set(content("of a server")) == {"one", "two", "parent"}
    assert outbox.waiting() == []


@pytest.mark.parametrize("content_of_it", ["", None])
def test_a_damaged_letter_is_named_and_holds_up_no_other(
    content_of_it: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    folder = paths.OUTBOX / "0-damaged"
    folder.mkdir(parents=True)
    if content_of_it is not None:
        (folder / "letter.json").write_text(content_of_it)
    with monkeypatch.context() as outage:
        outage.setattr(outbox, "Tracker", _refuses)
        letter(f"intact {content_of_it}", tmp_path / "a").post()
    try:
        (line,) = outbox.deliver()
        assert line.startswith(f"{Path.cwd() / folder} is damaged and cannot be sent: ")
        with pytest.raises(UserError, match="is damaged"):
            sync(everything=False)
    finally:
        shutil.rmtree(folder)
    assert set(content(f"intact {content_of_it}")) == {"one", "two", "parent"}
    assert outbox.waiting() == []


def _refuses(*_: object) -> None:
    raise ConnectionError("refused")


CALLS = ("create_run", "log_batch", "log_inputs", "log_artifact", "log_artifacts", "set_terminated", "set_tag")


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("moment", [0, 1])
def test_a_store_that_fails_in_the_middle_has_nothing_twice_afterwards(
    call: str, moment: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    letter(f"whole {call} {moment}", tmp_path / "a").post()
    left, real = [moment], getattr(MlflowClient, call)

    def fail(self: MlflowClient, *arguments: Any, **named: Any) -> Any:
        if left[0] == 0:
            raise ConnectionError("cut off")
        left[0] -= 1
        return real(self, *arguments, **named)

    name = f"cut {call} {moment}"
    with monkeypatch.context() as outage:
        outage.setattr(MlflowClient, call, fail)
        assert letter(name, tmp_path / "b").post() == {}
    assert outbox.deliver() == []
    assert outbox.waiting() == []
    cut, usual = content(name), content(f"whole {call} {moment}")
    for runs in (cut, usual):
        runs["parent"]["tags"].pop("whole")
    assert cut == usual


def test_a_letter_that_was_sent_is_not_sent_again(tmp_path: Path) -> None:
    first = letter("again", tmp_path / "a").post()
    again = letter("again", tmp_path / "b")
    # those of `once` are not added again, the others are
    again.steps[4]["metrics"] = {"test": 1.0}
    again.steps[5]["metrics"] = {"test": 2.0}
    assert again.post() == first
    found = content("again")
    assert (found["one"]["metrics"]["test"], found["parent"]["metrics"]["test"]) == (40.5, 2.0)


def test_two_processes_do_not_send_one_letter_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as outage:
        outage.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        letter("raced", tmp_path / "a").post()
    code = "from bilstm_attention.experiment import outbox; print(outbox.deliver())"
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [process.communicate()[0].strip() for process in both] == ["[]", "[]"]
    assert len(content("raced")) == 3


def test_a_letter_that_is_being_written_is_not_read(tmp_path: Path) -> None:
    unfinished = paths.OUTBOX / f".{time.time_ns()}-0"
    unfinished.mkdir(parents=True)
    (unfinished / "letter.json").write_text(json.dumps({"about": "half"})[:5])
    assert outbox.waiting() == []
    assert outbox.deliver() == []


def test_a_letter_that_the_store_refuses_stays_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    letter("deleted", tmp_path / "a").post()
    tracker = Tracker("deleted")
    tracker.client.delete_experiment(tracker.experiment)
    with monkeypatch.context() as outage:
        outage.setattr(outbox, "Tracker", _refuses)
        letter("deleted", tmp_path / "b").post()
        letter("waits behind it", tmp_path / "c").post()
    capfd.readouterr()
    letter("comes after it", tmp_path / "d").post()
    assert set(content("waits behind it")) == set(content("comes after it")) == {"one", "two", "parent"}
    (line,) = capfd.readouterr().err.splitlines()
    (folder,) = paths.OUTBOX.glob("[!.]*")
    assert line.startswith(f"warning: what deleted is about, kept in {Path.cwd() / folder}, is refused: ")
    tracker.client.restore_experiment(tracker.experiment)
    assert outbox.deliver() == []
    assert outbox.waiting() == []


def test_a_run_ends_when_it_was_written_not_when_it_was_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as outage:
        outage.setattr(outbox, "Tracker", _refuses)
        letter("slow", tmp_path / "a").post()
    written = 1000 * time.time()
    time.sleep(1.5)
    outbox.deliver()
    tracker = Tracker("slow")
    ends = [run.info.end_time for run in tracker.client.search_runs([tracker.experiment])]
    assert max(ends) <= written


def test_a_run_cut_off_with_other_parameters_does_not_go_on(tmp_path: Path) -> None:
    tracker = Tracker("other parameters")
    record = RunRecord("one", 0.0, {"train.epochs": 3}, tags={"digest": "1"})
    cut = tracker.client.create_run(tracker.experiment, tags={"digest": "1"}).info.run_id
    tracker.client.log_param(cut, "train.epochs", "5")
    assert tracker.record(record, "digest") != cut
    other = tracker.client.create_run(tracker.experiment, tags={"digest": "2"}).info.run_id
    tracker.client.log_param(other, "a", "1")
    assert tracker.record(RunRecord("two", 0.0, {"a": 1}, tags={"digest": "2"}), "digest") == other


def test_a_description_that_is_there_stays_where_only_the_first_counts() -> None:
    written = Letter("described", "x")
    run = written.run(("digest", "1"), RunRecord("one", 0.0, {}))
    written.describe(run, "at first", first=True)
    written.describe(run, "again", first=True)
    ids = written.post()
    client = Tracker("described").client
    assert client.get_run(ids[run]).data.tags["mlflow.note.content"] == "at first"
