"""The command `ui`: the view of the runs that it opens, and the server that it starts and ends."""

import json
import signal
import socket
from typing import Any

import pytest
from tests import servers
from tests.small import begin_project

from bilstm_attention.errors import UserError
from bilstm_attention.tracking import ui
from bilstm_attention.tracking.runs import RunRecord, Tracker
from bilstm_attention.tracking.ui import open_ui, save_view

pytestmark = pytest.mark.usefixtures("inside")


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    return begin_project(tmp_path_factory.mktemp("seen") / "project")


class FakeServer:
    """What `subprocess.Popen` returns, of a server that answers until Ctrl-C, or does not start."""

    starts = True
    started: list[Any]

    def __init__(self, command: list[str], env: dict[str, str], stdout: Any, stderr: Any):
        FakeServer.started, self.terminated = [self, command, env], False
        stdout.write("loading\nno such table\n")
        self.socket = socket.create_server(("127.0.0.1", int(command[command.index("--port") + 1])))

    def poll(self) -> int | None:
        return None if self.starts else 1

    def wait(self) -> None:
        self.socket.close()
        if not self.terminated:
            raise KeyboardInterrupt

    def terminate(self) -> None:
        self.terminated = True


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(ui.subprocess, "Popen", FakeServer)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    return FakeServer


def test_view_has_scores_and_the_parameters_that_vary(tracker, request):
    for number, units in enumerate((8, 16)):
        params = {"model.attention.hops": units, "model.attention.kind": f"kind {units}", "train.epochs": 3}
        tracker.write(RunRecord("run", ("id", f"view {number}"), params))
    for monitor in ("loss", "accuracy"):
        address = save_view(tracker.client, request.node.name, monitor)
    page = f"#/experiments/{tracker.experiment}/runs?workflowType=machine_learning&viewStateShareKey="
    assert address.startswith(page)
    tags = tracker.client.get_experiment(tracker.experiment).tags
    view = json.loads(tags[f"mlflow.sharedViewState.{address.removeprefix(page)}"])
    assert json.loads(view["state"]) == {
        "orderByKey": "metrics.`dev/accuracy`",
        "orderByAsc": False,
        "selectedColumns": [
            *("metrics.`dev/accuracy`", "metrics.`test/accuracy`", "metrics.`best_epoch`"),
            # in the order of params.yaml
            *("params.`model.attention.kind`", "params.`model.attention.hops`"),
        ],
    }


def test_server_is_of_the_projects_store_and_ends_with_ctrl_c(inside, server, capsys):
    port = servers.free_port()
    open_ui("127.0.0.1", port, "nothing logged", "accuracy", browser=False)
    assert f"http://127.0.0.1:{port}/#/experiments?workflowType=machine_learning" in capsys.readouterr().out
    process, command, env = server.started
    assert process.terminated
    words = " ".join(command)
    assert env["MLFLOW_BACKEND_STORE_URI"] == f"sqlite:///{inside}/experiments/mlflow.db"
    assert "sqlite" not in words
    assert f"--host 127.0.0.1 --port {port}" in words
    assert f"--default-artifact-root file://{inside}/experiments/mlartifacts" in words


def test_server_that_does_not_start_is_an_error(server, monkeypatch):
    monkeypatch.setattr(server, "starts", False)
    with pytest.raises(UserError, match="MLflow ended: no such table"):
        open_ui("127.0.0.1", servers.free_port(), "nothing logged", "accuracy", browser=False)


def test_busy_port_is_refused():
    with socket.socket() as busy:
        busy.bind(("127.0.0.1", 0))
        busy.listen()
        with pytest.raises(UserError, match="--port"):
            open_ui("127.0.0.1", busy.getsockname()[1], "nothing logged", "accuracy", browser=False)


def test_page_of_a_server_is_shown_without_its_password(capsys, monkeypatch):
    client, opened = Tracker("sample").client, list[str]()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:secret@tracking.local")
    monkeypatch.setattr(ui, "open_store", lambda: client)
    monkeypatch.setattr(ui, "_has_screen", lambda: True)
    monkeypatch.setattr(ui.webbrowser, "open", opened.append)
    open_ui("127.0.0.1", 5000, "sample", "accuracy", browser=True)
    assert capsys.readouterr().out.split() == opened
    assert opened[0].startswith("https://tracking.local/#/experiments/")
