"""A tracking store that fails costs its own record alone: results stay, one line warns, the stage ends soon."""

import json
import shutil
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pandas as pd
import pytest

from bilstm_attention import paths, stages
from bilstm_attention.errors import DataError
from bilstm_attention.tracking import outbox
from bilstm_attention.tracking.outbox import Letter
from bilstm_attention.tracking.store import RunRecord

SECONDS = 60.0
PARTS = {"wheel": "car", "door": "house", "page": "book", "leaf": "tree"}
BLOCKS = {
    "Component-Whole(e1,e2)": "The <e1>{part}</e1> of the <e2>{whole}</e2> broke",
    "Component-Whole(e2,e1)": "The <e1>{whole}</e1> has a <e2>{part}</e2>",
    "Other": "A <e1>{part}</e1> saw the <e2>{whole}</e2>",
}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("dvc.yaml", "params.yaml"):
        (tmp_path / name).write_text("{}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    return tmp_path


def use(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)


def record_something() -> None:
    letter = Letter("corpus", "the training")
    letter.run(("model", "1"), RunRecord("name", time.time(), {"train.epochs": 3}, metrics={"accuracy": 50.0}))
    letter.post()


def warning(capfd: pytest.CaptureFixture[str], act: Callable[[], object] = record_something) -> str:
    """The one line that `act` may write to stderr."""
    started = time.monotonic()
    act()
    assert time.monotonic() - started < SECONDS
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith("warning: the training")
    assert lines[0].endswith("The results on disk are complete.")
    return lines[0]


@pytest.fixture
def corpus(project: Path) -> None:
    settings = """
data: {folder: corpus, dev_fraction: 0.3}
embeddings: {source: random, dimension: 4}
model: {lstm_units: 3}
train: {epochs: 1, seeds: [0]}
evaluate: {bootstrap: 100}
"""
    (project / "params.yaml").write_text(settings)
    (project / "corpus").mkdir()
    for split, ending in {"train": ".", "test": "!"}.items():
        rows = [
            (sentence.format(part=part, whole=whole) + ending, label)
            for label, sentence in BLOCKS.items()
            for part, whole in PARTS.items()
        ]
        blocks = [f'{number}\t"{text}"\n{label}\nComment:\n\n' for number, (text, label) in enumerate(rows, start=1)]
        (project / "corpus" / f"{split}.txt").write_text("".join(blocks))


@pytest.mark.usefixtures("corpus")
def test_stages_end_whole_without_a_server(project: Path, capfd: pytest.CaptureFixture[str]) -> None:
    stages.prepare()
    stages.embed()
    capfd.readouterr()
    message = warning(capfd, lambda: stages.train(0))
    assert "the training of seed 0 was not recorded in MLflow (http://127.0.0.1:9): MlflowException" in message
    folder = paths.seed_folder(0)
    assert {file.name for file in folder.iterdir()} == {"model.keras", "history.csv", "dev.json"}
    assert json.loads((folder / "dev.json").read_text())["epochs"] == 1

    started = time.monotonic()
    stages.evaluate()
    assert time.monotonic() - started < SECONDS
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("warning: the evaluation was not recorded in MLflow")
    assert json.loads((paths.CURRENT / "metrics.json").read_text())["test"]["accuracy"]["by_seed"].keys() == {"0"}
    assert len(pd.read_csv(paths.CURRENT / "predictions.csv")) == len(PARTS) * len(BLOCKS)
    assert not [path for path in project.rglob("*") if "mlruns" in path.parts or path.name.startswith(".0")]


@pytest.mark.usefixtures("corpus")
def test_a_training_stopped_while_it_is_recorded_is_not_done_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from bilstm_attention.tracking import runs

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    stages.prepare()
    stages.embed()
    monkeypatch.setattr(runs, "record_training", stop)
    with pytest.raises(KeyboardInterrupt):
        stages.train(0)
    trained = (paths.seed_folder(0) / "model.keras").read_bytes()
    # DVC deletes the outputs of a stage before it runs it again
    shutil.rmtree(paths.seed_folder(0))
    assert "epoch 1/1" in capsys.readouterr().out
    monkeypatch.setattr(runs, "record_training", lambda *_: None)
    stages.train(0)
    assert "epoch 1/1" not in capsys.readouterr().out
    assert (paths.seed_folder(0) / "model.keras").read_bytes() == trained
    assert list(paths.CHECKPOINTS.iterdir()) == []


def test_a_store_that_is_no_database_is_left_as_it_is(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    path = project / "notes.txt"
    path.write_text("not a database, and longer than the header of one: " + "x" * 200)
    before = path.read_bytes()
    use(f"sqlite:///{path}", monkeypatch)
    assert "file is not a database" in warning(capfd)
    assert path.read_bytes() == before


@pytest.mark.parametrize("place", ["{}/params.yaml/store.db", "{}"], ids=["below a file", "a folder"])
def test_a_store_that_cannot_be_opened_is_not_waited_for(
    place: str, project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    use(f"sqlite:///{place.format(project)}", monkeypatch)
    started = time.monotonic()
    assert "Error" in warning(capfd)
    assert time.monotonic() - started < 15


def test_an_address_of_no_known_kind_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    use("carrier-pigeon://roof", monkeypatch)
    assert "carrier-pigeon" in warning(capfd)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ThreadingHTTPServer, list[str]]]:
    """A tracking server on loopback that opens an experiment and a run, and fails at everything after."""
    asked: list[str] = []
    experiment = {
        "experiment_id": "1",
        "name": "corpus",
        "artifact_location": "mlflow-artifacts:/1",
        "lifecycle_stage": "active",
    }
    run = {"info": {"run_id": "ab", "run_uuid": "ab", "experiment_id": "1", "status": "RUNNING"}, "data": {}}
    answers: dict[str, dict[str, Any]] = {
        "experiments/get-by-name": {"experiment": experiment},
        "runs/search": {"runs": []},
        "runs/create": {"run": run},
    }

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            self.rfile.read(length)
            path = self.path.partition("?")[0].rpartition("/mlflow/")[2]
            asked.append(path)
            content = json.dumps(answers.get(path, {"error_code": "INTERNAL_ERROR", "message": "broken"})).encode()
            self.send_response(200 if path in answers else 500)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    use(f"http://127.0.0.1:{server.server_port}", monkeypatch)
    yield server, asked
    server.shutdown()
    server.server_close()


def test_a_server_that_fails_mid_run_is_a_warning(
    server: tuple[ThreadingHTTPServer, list[str]], capfd: pytest.CaptureFixture[str]
) -> None:
    assert "500" in warning(capfd)
    assert "runs/create" in server[1]
    assert server[1][-1] == "runs/log-batch"


@pytest.mark.parametrize("stop", [DataError("no such file"), KeyboardInterrupt()])
def test_a_fault_the_user_can_mend_and_an_interrupt_still_end_the_stage(
    stop: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise stop

    monkeypatch.setattr(outbox, "Tracker", fail)
    with pytest.raises(type(stop)):
        record_something()
    assert outbox.waiting() == []


def test_a_failure_without_a_reason_is_told_by_its_kind(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(outbox, "Tracker", fail)
    assert "RuntimeError: no reason given." in warning(capfd)
